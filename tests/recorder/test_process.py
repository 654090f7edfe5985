"""The real process, with the sockets, the collectors and the ends that it meets in production."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.record import Action, End, RequestFacts, ResponseFacts
from proxy.recorder import semconv
from tests.support.otlp import GrpcCollector, HttpCollector, wait_until
from tests.support.recorder import EXIT_S, ROOT, VERSION, RecorderHost, policy_message
from tests.support.records import TRACE_ID, make_record

Start = Callable[..., RecorderHost]
MANY = 700
"""Records whose spans a bad collector could hold up for longer than the SDK's own 30 s."""
CANARY = "CANARY-sk-7f3a"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts recorders, and ends what is left of them."""
    hosts = []

    def start(**options: Any) -> RecorderHost:
        folder = tmp_path / str(len(hosts))
        folder.mkdir()
        host = RecorderHost(folder, **options)
        hosts.append(host)
        host.start()
        return host

    yield start
    for host in hosts:
        host.__exit__()


def _ids(host: RecorderHost) -> list[str]:
    with closing(sqlite3.connect(host.ledger_path)) as connection:
        return [found for (found,) in connection.execute("SELECT id FROM exchange ORDER BY rowid")]


def test_a_record_becomes_spans_metrics_and_a_row(start: Start) -> None:
    """One exchange in every sink, by the time that it is acknowledged or exported."""
    with HttpCollector() as collector:
        host = start(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_RESOURCE_ATTRIBUTES": "a=b"})
        worker = host.worker()
        assert worker.send([make_record()]) == 1
        assert _ids(host) == ["lw_0123456789abcdef"]
        labels = '{gen_ai_provider_name="openai",gen_ai_request_model="gpt-4o",limit="le_1k",stream="true"}'
        assert host.metrics()[f"lengthwise_time_to_first_token_seconds_sum{labels}"] == 0.287
        spans = collector.wait_for_spans(2)
        resource = spans[0]["resource"]
        assert (resource["service.name"], resource["service.version"], resource["a"]) == ("lengthwise", VERSION, "b")
        assert resource["service.instance.id"]
        assert [span["name"] for span in spans] == ["chat gpt-4o", "POST /v1/chat/completions"]
        worker.close()
        assert host.stop() == 0
        assert collector.wait_for_metric(semconv.LENGTHWISE_TIME_TO_FIRST_TOKEN)["points"][0]["sum"] == 0.287
    assert host.log() == ""


def test_grpc_is_spoken_where_the_variable_says_so(start: Start) -> None:
    """OTEL_EXPORTER_OTLP_PROTOCOL=grpc, both signals."""
    with GrpcCollector() as collector:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        host = start(environ=environ)
        worker = host.worker()
        worker.send([make_record()])
        assert len(collector.wait_for_spans(2)) == 2
        worker.close()
        assert host.stop() == 0
        collector.wait_for_metric(semconv.GEN_AI_CLIENT_OPERATION_DURATION)


def test_every_metric_of_the_contract_is_scraped(start: Start) -> None:
    """The Prometheus names, from the process's own text."""
    host = start()
    worker = host.worker()
    cut = make_record(
        id="lw_2",
        response={"finish_reasons": ("length",), "usage": None},
        decision={"rule": "cap", "action": Action.CAPPED},
    )
    worker.say({"totals": {"records_dropped": 4, "connections_malformed": 3, "exchanges_active": 2}})
    worker.send([make_record(), cut])
    samples = host.metrics()
    names = {sample.partition("{")[0] for sample in samples}
    assert {name for name in names if not name.endswith(("_bucket", "_count"))} == {
        "target_info",
        "gen_ai_client_operation_duration_seconds_sum",
        "gen_ai_client_operation_time_to_first_chunk_seconds_sum",
        "gen_ai_client_token_usage_sum",
        "lengthwise_time_to_first_token_seconds_sum",
        "lengthwise_time_per_output_token_seconds_sum",
        "lengthwise_max_tokens_requested_sum",
        "lengthwise_max_tokens_utilization_sum",
        "lengthwise_overhead_duration_seconds_sum",
        "lengthwise_policy_decisions_total",
        "lengthwise_truncations_total",
        "lengthwise_reserved_unused_tokens_total",
        "lengthwise_usage_missing_total",
        "lengthwise_stream_ends_total",
        "lengthwise_records_dropped_total",
        "lengthwise_connections_malformed_total",
        "lengthwise_exchanges_active",
        "lengthwise_ledger_rows_total",
        "lengthwise_workers_ready",
        "lengthwise_policy_error",
    }
    assert samples["lengthwise_records_dropped_total"] == 4
    assert samples["lengthwise_exchanges_active"] == 2
    assert samples['lengthwise_ledger_rows_total{outcome="written"}'] == 2
    assert samples["lengthwise_workers_ready"] == 1
    assert samples["lengthwise_policy_error"] == 0


def test_status_says_everything(start: Start) -> None:
    """The whole document; a policy that the supervisor reloads shows at once."""
    policy = {"digest": "abc", "loaded_at": 1.5, "error": None}
    rule = {"name": "cap", "do": "cap", "max_tokens": 8}
    shown = {"name": "cap", "do": "cap", "mode": "enforce", "since": 0.0, "armed": True}
    host = start(
        policy=policy, rules=[rule], environ={"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}
    )
    worker = host.worker(3, pid=77)
    totals = {"exchanges": 9, "exchanges_active": 1, "records_dropped": 2, "connections_malformed": 5}
    worker.say({"totals": totals | {"policy_digest": "abc"}})
    worker.raw(b"nonsense\n")
    worker.send([make_record(sampled=False), make_record(id="lw_2", trace_id="none")])
    expected = {
        "version": VERSION,
        "supervisor_pid": os.getpid(),
        "listen": "http://127.0.0.1:8080",
        "settings": {"digest": host.status()["settings"]["digest"]},
        "policy": policy | {"rules": [shown]},
        "workers": [
            {
                "index": 3,
                "pid": 77,
                "alive": True,
                "exchanges": 9,
                "active": 1,
                "dropped": 2,
                "malformed": 5,
                "policy_digest": "abc",
            }
        ],
        "exchanges": 9,
        "records": 2,
        "drops": {"records": 2, "malformed_lines": 1, "failed_records": 1, "connections_malformed": 5},
        "laws": [],
        "encodings": [],
        "export": {
            "traces": {
                "protocol": "http/protobuf",
                "exported": 0,
                "failed": 0,
                "dropped": 0,
                "failing": False,
                "last_failure": None,
            }
        },
        "ledger": {"path": str(host.ledger_path), "written": 2, "failed": 0, "error": None},
    }
    assert host.status() == expected
    assert len(expected["settings"]["digest"]) == 12
    reloaded = policy | {"digest": "def", "error": "line 3"}
    host.tell(policy_message(reloaded, []))
    host.control.sendall(b"nonsense\n[]\n")  # type: ignore[union-attr]
    assert host.until(lambda status: status["policy"] == reloaded | {"rules": []})


@pytest.mark.parametrize("ending", ["control", "sigterm"])
@pytest.mark.parametrize("mode", ["hang", "500", "garbage", "refuse"])
def test_a_bad_collector_holds_up_neither_records_nor_the_end(start: Start, mode: str, ending: str) -> None:
    """Acknowledgements flow, rows are kept, failures are counted, and the exit is clean."""
    with HttpCollector(mode) as collector:
        host = start(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint})
        worker = host.worker()
        worker.send([make_record(id=f"lw_{number}") for number in range(MANY)])
        if mode == "500":
            host.until(lambda status: status["export"]["traces"]["failed"] == 2 * MANY)
        elif mode != "refuse":
            collector.wait_for_requests(1)
        assert worker.send([make_record(id="lw_last")]) == MANY + 1
        assert len(_ids(host)) == MANY + 1
        worker.close()
        if ending == "control":
            assert host.abandon() == 0
        else:
            assert host.process is not None
            host.process.send_signal(signal.SIGTERM)
            assert host.process.wait(EXIT_S) == 0
    assert len(host.log().splitlines()) <= 4


def test_a_hanging_grpc_collector_does_not_hold_up_the_end(start: Start) -> None:
    """GRPC's threads are left behind."""
    with GrpcCollector("hang") as collector:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        host = start(environ=environ)
        worker = host.worker()
        worker.send([make_record()] * MANY)
        collector.wait_for_requests(1)
        worker.close()
        assert host.stop() == 0


def test_the_terminals_signals_are_left_to_the_supervisor(start: Start) -> None:
    """SIGINT and SIGHUP change nothing: the process still takes records."""
    host = start()
    assert host.process is not None
    host.process.send_signal(signal.SIGINT)
    host.process.send_signal(signal.SIGHUP)
    worker = host.worker()
    assert worker.send([make_record()]) == 1
    worker.close()
    assert host.stop() == 0


def test_a_killed_recorder_is_replaced_on_the_same_sockets(start: Start) -> None:
    """What was acknowledged is in the ledger; a worker that connects meanwhile is served by the next one."""
    host = start()
    first = host.worker()
    assert first.send([make_record(id="lw_1")]) == 1
    host.kill()
    assert first.lines.readline() == b""
    waiting = host.worker(pid=1000)
    waiting.post([make_record(id="lw_2")])
    host.start()
    assert waiting.acknowledged(1) == 1
    assert _ids(host) == ["lw_1", "lw_2"]
    assert host.status()["records"] == 1
    assert [worker["alive"] for worker in host.status()["workers"]] == [True]


def test_the_live_page_remembers_what_a_killed_recorder_knew(start: Start) -> None:
    """The last day is read again from the ledger; without a ledger the page begins anew."""
    now_ns = time.time_ns()
    for ledger, expected in (({}, 4), ({"path": None}, 1)):
        host = start(ledger=ledger)
        first = host.worker()
        old = make_record(id="lw_old", started_unix_ns=now_ns - 2 * 86_400 * 10**9)
        first.send([make_record(id=f"lw_{n}", started_unix_ns=now_ns - n * 10**11) for n in range(3)] + [old])
        host.kill()
        host.start()
        host.worker(pid=1000).send([make_record(id="lw_3", started_unix_ns=now_ns)])
        wait_until(
            lambda host=host, expected=expected: orjson.loads(host.request("/api/state")[2])["restored"] == expected - 1
        )
        assert orjson.loads(host.request("/api/figures?window=86400")[2])["exchanges"] == expected
        listed = orjson.loads(host.request("/api/exchanges")[2])["exchanges"]
        assert [each["id"] for each in listed] == ["lw_3", "lw_0", "lw_1", "lw_2"][:expected]


def test_the_live_page_is_kept_with_a_token_where_the_environment_has_one(start: Start) -> None:
    """Its data only: whoever scrapes goes on."""
    host = start(environ={"LW_PAGE_TOKEN": "s3cret"})
    statuses = {path: host.request(path)[0] for path in ("/api/state", "/", "/metrics", "/status")}
    assert statuses == {"/api/state": 401, "/": 200, "/metrics": 200, "/status": 200}


def test_what_workers_hand_over_while_it_leaves_is_kept(start: Start) -> None:
    """Records that are in the socket when the end comes are committed before it."""
    host = start()
    worker = host.worker()
    worker.send([make_record(id="lw_0")])
    worker.post([make_record(id=f"lw_{number}") for number in range(1, 201)])
    worker.close()
    assert host.stop() == 0
    assert len(_ids(host)) == 201


def test_a_recorder_whose_supervisor_was_killed_stays_for_the_workers_that_drain(start: Start) -> None:
    """It takes what they still hand over, and leaves when the last of them has closed its link."""
    host = start()
    worker = host.worker()
    worker.send([make_record(id="lw_0")])
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(host.abandon)
        wait_until(lambda: "the supervisor is gone" in host.log())
        assert worker.send([make_record(id="lw_1")]) == 2
        worker.close()
        assert leaving.result() == 0
    assert _ids(host) == ["lw_0", "lw_1"]


@pytest.mark.parametrize("file", ["other_version", "not_a_database"])
def test_an_unusable_ledger_is_said_and_the_rest_goes_on(start: Start, tmp_path: Path, file: str) -> None:
    """Acknowledgements flow without a ledger; /status and the log say why, and the file is not touched."""
    path = tmp_path / "theirs.sqlite"
    if file == "other_version":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 7")
    else:
        path.write_bytes(b"x" * 4096)
    before = path.read_bytes()
    host = start(ledger={"path": str(path)})
    assert host.worker().send([make_record()]) == 1
    ledger = host.status()["ledger"]
    reason = "schema is version 7" if file == "other_version" else "file is not a database"
    assert (reason in ledger["error"], ledger["written"]) == (True, 0)
    wait_until(lambda: reason in host.log())
    assert path.read_bytes() == before


def test_without_ledger_and_endpoint_records_are_still_acknowledged(start: Start) -> None:
    """Everything off: one line says that nothing is exported."""
    host = start(ledger={"path": None}, telemetry={"prometheus": False})
    assert host.worker().send([make_record()]) == 1
    assert host.request("/metrics")[0] == 404
    assert host.status()["ledger"] is None
    wait_until(lambda: host.log().endswith("\n"))
    (line,) = host.log().splitlines()
    assert "no OTLP endpoint is configured" in line


def test_old_rows_are_forgotten_at_the_start(start: Start, tmp_path: Path) -> None:
    """ledger.keep_days counts from now."""
    path = tmp_path / "kept.sqlite"
    host = start(ledger={"path": str(path)})
    old = make_record(id="lw_old", started_unix_ns=10**9)
    young = make_record(id="lw_young", started_unix_ns=4 * 10**18)
    host.worker().send([old, young])
    host.stop()
    host = start(ledger={"path": str(path), "keep_days": 1})
    host.until(lambda _: _ids(host) == ["lw_young"])


def test_nothing_but_named_facts_leaves_the_process(start: Start) -> None:
    """Keys and texts that reach it by mistake, in any line, are in no span, metric, row, page or log."""
    with HttpCollector() as collector:
        host = start(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint})
        worker = host.worker()
        worker.raw(f'{CANARY}\n{{"record":{{"{CANARY}":"{CANARY}"}},"seq":1}}\n{{"{CANARY}":1}}\n'.encode())
        worker.say({"seq": 1, "record": {"end": CANARY, "body": CANARY}})
        worker.say({"seq": 1, "record": [*make_record(), CANARY]})
        worker.say({"totals": {"exchanges": CANARY}})
        records = [
            make_record(id="lw_ok"),
            make_record(id="lw_left", end=End.CLIENT_DISCONNECT),
            make_record(id="lw_error", end=End.UPSTREAM_ERROR, status=502, error_type="upstream_reset"),
            make_record(id="lw_no", end=End.REJECTED, status=400, upstream_tried=False, response=ResponseFacts()),
            make_record(id="lw_opaque", route=None, request=RequestFacts("opaque")),
            make_record(id="lw_bad", trace_id=CANARY, sampled=True),
        ]
        lines = [{"seq": number, "record": record} for number, record in enumerate(records, 2)]
        for line in lines:
            worker.say(line)
        assert worker.acknowledged(7) == 7
        collector.wait_for_spans(9)
        asked = ("/metrics", "/status", "/" + CANARY, "/", "/api/figures", "/api/state", "/api/exchanges/lw_ok")
        pages = [host.request(path)[2].decode() for path in asked]
        worker.close()
        assert host.stop() == 0
        collector.wait_for_metric(semconv.LENGTHWISE_STREAM_ENDS)
        with closing(sqlite3.connect(host.ledger_path)) as connection:
            rows = connection.execute("SELECT * FROM exchange WHERE id <> 'lw_bad'").fetchall()
    assert len(rows) == 5
    sinks = {"spans": collector.spans, "metrics": collector.metrics, "pages": pages, "rows": rows, "log": host.log()}
    assert [name for name, sink in sinks.items() if CANARY in repr(sink)] == []


def test_an_exchange_is_a_line_where_the_settings_want_it(start: Start) -> None:
    """What the row says, as JSON; nothing that was absent."""
    host = start(logs={"format": "json", "exchanges": True}, telemetry={"traces": "none", "metrics": "none"})
    host.worker().send([make_record(app=None)])
    wait_until(lambda: host.log().endswith("\n"))
    (line,) = map(json.loads, host.log().splitlines())
    assert line | {"time": ""} == {
        "time": "",
        "level": "info",
        "process": "recorder",
        "logger": "proxy.recorder.process",
        "message": "exchange",
        "id": "lw_0123456789abcdef",
        "upstream": "openai",
        "dialect": "chat_completions",
        "model": "gpt-4o",
        "stream": True,
        "status": 200,
        "end": "complete",
        "action": "none",
        "requested_max_tokens": 512,
        "forwarded_max_tokens": 512,
        "output_tokens": 128,
        "ttft_s": 0.287,
        "e2e_s": 1.567,
        "trace_id": TRACE_ID,
    }


def test_a_control_channel_without_settings_ends_it() -> None:
    """Exit 2 and one line that repeats nothing of what came."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(f'{{"init":{{"settings":"{CANARY}"}}}}\n'.encode())
        ran = subprocess.run(
            [sys.executable, "-m", "proxy.recorder", "--control", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (2, "", 1)
    assert "the control channel gave no settings" in ran.stderr
    assert CANARY not in ran.stderr
