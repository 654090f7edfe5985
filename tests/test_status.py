"""`lengthwise status`: against a running service, and every finding by itself."""

import http.server
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main
from proxy.settings import Address
from proxy.status import AskError, State, ask, findings, lines
from tests.support.otlp import free_port, wait_until
from tests.support.serve import Served, serving

NOWHERE = {"upstreams": [{"name": "nowhere", "url": "http://127.0.0.1:1"}]}
READY = {"status": "ok", "workers_ready": 2, "workers": 2}
STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "supervisor_pid": 41,
    "settings": {"digest": "abc"},
    "policy": {
        "digest": "def",
        "loaded_at": 0.0,
        "error": None,
        "rules": [{"name": "cap", "mode": "enforce", "armed": True}, {"name": "watch", "mode": "shadow"}],
    },
    "workers": [
        {"index": 0, "pid": 42, "alive": True, "exchanges": 7, "active": 1, "dropped": 0},
        {"index": 1, "pid": 43, "alive": False, "exchanges": 3, "active": 0, "dropped": 0},
        {"index": 0, "pid": 40, "alive": False, "exchanges": 2, "active": 0, "dropped": 0},
    ],
    "exchanges": 12,
    "records": 11,
    "drops": {"records": 0, "malformed_lines": 0, "failed_records": 0, "connections_malformed": 9},
    "export": {
        "traces": {
            "protocol": "grpc",
            "exported": 22,
            "failed": 0,
            "dropped": 0,
            "failing": False,
            "last_failure": "timeout",
        }
    },
    "ledger": {"path": "a.sqlite", "written": 11, "failed": 0, "error": None},
}


def changed(section: str, **changes: Any) -> State:
    """The healthy state with changes in one section."""
    return State(READY, STATUS | {section: STATUS[section] | changes})


def test_a_healthy_service_has_no_findings() -> None:
    """What a client sent as garbage is none of its faults, nor is a failure that is over."""
    assert findings(State(READY, STATUS)) == []


def test_it_says_what_one_asks_first() -> None:
    """A subject on each line."""
    said = list(lines(State(READY, STATUS)))
    policy = said.pop(4)
    assert policy.startswith("policy     def of 19")
    assert policy.endswith(": 2 rules, 1 enforcing")
    assert said == [
        "ready      yes, 2 of 2 workers",
        "version    1.2.3, settings abc, process 41",
        "worker 0   process 42: 7 exchanges, 1 active, 0 records dropped",
        "gone       2 earlier workers: 5 exchanges, 0 records dropped",
        "exchanges  12, 1 active",
        "records    11 taken, 0 dropped",
        "traces     over grpc: 22 exported, 0 failed, 0 dropped",
        "ledger     a.sqlite: 11 rows written, 0 lost",
    ]
    assert list(lines(State(READY, STATUS | {"ledger": None, "export": {}})))[-2:] == [
        "export     none",
        "ledger     none",
    ]


@pytest.mark.parametrize(
    ("state", "finding"),
    [
        (State({"status": "unavailable", "workers_ready": 0, "workers": 2, "reason": "draining"}, STATUS), "not ready: draining"),
        (State(READY | {"workers_ready": 1}, STATUS), "1 of 2 workers are not ready"),
        (State(READY, None), "the recorder is away: records wait, and are dropped when it stays away"),
        (changed("policy", error="line 3"), "the rules on disk are broken, the last good ones are in force: line 3"),
        (
            changed("policy", rules=[{"name": "cap", "mode": "enforce", "armed": False, "cut": 9, "answers": 200}]),
            "rule cap is disarmed: 9 of 200 answers were cut",
        ),
        (changed("drops", records=3), "3 records were dropped: their exchanges are in no span, metric or row"),
        (changed("drops", failed_records=1, malformed_lines=1), "2 records could not be read"),
        (
            changed("export", traces=STATUS["export"]["traces"] | {"dropped": 4, "failed": 2}),
            "6 traces were lost on the way to the collector",
        ),
        (
            changed("export", traces=STATUS["export"]["traces"] | {"failing": True}),
            "the export of traces fails: timeout",
        ),
        (changed("ledger", error="disk is full"), "the ledger takes no rows: disk is full"),
        (changed("ledger", failed=5), "5 rows of the ledger were lost"),
    ],
)  # fmt: skip
def test_each_fault_is_a_finding(state: State, finding: str) -> None:
    """One sentence, and no other."""
    assert findings(state) == [finding]


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `status`."""
    code = main(["status", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def port_of(served: Served) -> str:
    """HOST:PORT of the admin port."""
    return served.admin_url.removeprefix("http://")


def test_a_running_service_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Healthy: exit 0, for readers and as JSON; a broken policies file: exit 1 and the reason."""
    with serving(NOWHERE | {"policies": "policies.yaml"}, policies={"version": 1, "rules": []}) as served:
        wait_until(lambda: '"alive": true' in served.get("/status")[1])
        code, out, err = called(capsys, "--admin", port_of(served))
        assert (code, err) == (0, "")
        assert out.startswith("ready      yes, 1 of 1 workers\nversion    ")
        code, out, _ = called(capsys, "--json", "--admin", port_of(served))
        document = json.loads(out)
        assert (code, document["findings"], document["ready"]["status"]) == (0, [], "ok")
        assert document["status"]["supervisor_pid"] == served.process.pid

        (served.folder / "policies.yaml").write_text("rules: none")
        served.process.send_signal(signal.SIGHUP)
        wait_until(lambda: json.loads(served.get("/status")[1])["policy"]["error"] is not None)
        code, out, _ = called(capsys, "--admin", port_of(served))
        assert code == 1
        assert out.splitlines()[-1].startswith(
            "! the rules on disk are broken, the last good ones are in force: policies.yaml"
        )


def test_the_settings_name_the_port_whatever_the_policies_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `serve` was started; the file of the rules may be broken just then."""
    for name in [name for name in os.environ if name.startswith(("OTEL_", "LENGTHWISE_"))]:
        monkeypatch.delenv(name)
    with serving(NOWHERE | {"admin": f"127.0.0.1:{free_port()}"}, policies={"version": 1, "rules": []}) as served:
        (served.folder / "policies.yaml").write_text("version: 7")
        wait_until(lambda: json.loads(served.get("/status")[1])["policy"]["error"] is not None)
        code, out, err = called(capsys, "--config", str(served.folder / "lengthwise.yaml"))
        assert (code, err) == (1, "")
        assert "! the rules on disk are broken" in out


def test_who_cannot_be_asked_is_said_with_exit_code_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nobody there, no address, a port that the system chose, settings that are none."""
    port = free_port()
    code, out, err = called(capsys, "--admin", f"127.0.0.1:{port}")
    assert (code, out) == (2, "")
    assert err.startswith(f"lengthwise: nothing answers on 127.0.0.1:{port} (")
    settings = tmp_path / "lengthwise.yaml"
    settings.write_text("admin: 127.0.0.1:0")
    for arguments in (["--admin", "nonsense"], ["--config", str(settings)], ["--config", str(tmp_path / "missing")]):
        code, out, err = called(capsys, *arguments)
        assert (code, out, err.splitlines()[-1]) == (2, "", "lengthwise: 1 mistake in the configuration")


@contextmanager
def answering(body: bytes) -> Iterator[Address]:
    """A server that is something else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing to the test's output."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Address("0.0.0.0", server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("body", [b"{}", b"[]", b"no JSON", b'{"workers_ready": 1}'])
def test_something_else_on_the_port_is_no_lengthwise(body: bytes) -> None:
    """Whatever it answers."""
    with answering(body) as address, pytest.raises(AskError, match=r"no Lengthwise|nothing answers"):
        ask(address)
