"""The view on spans in ClickHouse: its rows are the ledger's, for the same records, but for what no span carries."""

import json
import subprocess
from decimal import Decimal
from typing import Any

import pytest

from proxy.record import OPAQUE, Action, Decision, End, ExchangeRecord, RequestFacts, ResponseFacts, ShadowDecision
from proxy.recorder import semconv
from proxy.recorder.ledger import COLUMNS, row
from proxy.recorder.spans import Span, SpanForm, Value, spans_of
from tests.engines.install import command, folder
from tests.engines.parts import ROOT
from tests.support.records import at, make_record

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

TABLES = ROOT / "deploy" / "clickhouse" / "tables"
ENGINE = """
import json, sys
from chdb.session import Session
tables, file = sys.argv[1:]
session = Session()
for name in ("1_otel_traces.sql", "2_lengthwise_exchange.sql"):
    session.query(open(f"{tables}/{name}", encoding="utf-8").read())
session.query(f"INSERT INTO otel_traces FROM INFILE '{file}' FORMAT JSONEachRow")
settings = "output_format_json_quote_64bit_integers = 0"
print(session.query(f"SELECT * FROM lengthwise_exchange ORDER BY id SETTINGS {settings}", "JSONEachRow"))
"""
NO_ANSWER = ResponseFacts(end_ns=at(40))

RECORDS = {
    "an ordinary stream": make_record(),
    "capped and cut, with a shadow rule": make_record(
        decision=Decision(
            Action.CAPPED, "cap", 128, limit_field="max_tokens", shadow=(ShadowDecision("trial", Action.CAPPED, 64),)
        ),
        response={"finish_reasons": ("length",)},
    ),
    "inserted, with an arm": make_record(
        request={"limits": ()},
        decision=Decision(Action.INSERTED, "cap", 256, limit_field="max_completion_tokens", arm="256", unit="request"),
    ),
    "on a pooled connection": make_record(connect_started_ns=None, connected_ns=None),
    "not streamed": make_record(
        request={"stream": False},
        streamed=False,
        response={"first_token_ns": None, "first_answer_ns": None, "last_token_ns": None, "checkpoints": ()},
    ),
    "two choices that end differently": make_record(
        request={"choices": 2}, response={"finish_reasons": ("end_turn", "max_tokens")}
    ),
    "reasoning": make_record(response={"usage": make_record().response.usage._replace(reasoning_tokens=100)}),
    "estimated": make_record(response={"usage": None}, usage_source="estimated", estimated_output_tokens=131),
    "uncounted, of another dialect": make_record(
        request={"dialect": "responses", "model": None},
        route="/v1/responses",
        response={"usage": None, "response_model": None, "finish_reasons": ("something new",)},
        usage_source="none",
        app=None,
        key_name=None,
    ),
    "broken": make_record(
        end=End.BROKEN,
        error_type="upstream_reset",
        response={"usage": None, "finish_reasons": ()},
        usage_source="estimated",
        estimated_output_tokens=31,
        degraded="event_too_long",
    ),
    "an error inside a 200": make_record(
        end=End.UPSTREAM_ERROR,
        error_type="server_error",
        response={"error_type": "server_error", "usage": None, "finish_reasons": ()},
        usage_source="none",
    ),
    "the client left": make_record(
        end=End.CLIENT_DISCONNECT,
        response={"usage": None, "finish_reasons": (), "terminal_seen": False},
        usage_source="none",
        client_blocked_ns=1_234_567,
    ),
    "the upstream's refusal": make_record(
        status=429,
        error_type="429",
        streamed=False,
        response=NO_ANSWER._replace(first_chunk_ns=at(39)),
        usage_source="none",
    ),
    "the upstream is away": make_record(
        status=502,
        end=End.UPSTREAM_ERROR,
        error_type="upstream_connect",
        streamed=False,
        response=ResponseFacts(),
        usage_source="none",
        connected_ns=None,
        request_sent_ns=None,
        headers_ns=None,
        first_write_ns=None,
    ),
    "rejected before any upstream": make_record(
        status=400,
        end=End.REJECTED,
        error_type="policy_rejected",
        decision=Decision(Action.REJECTED, "limit", None),
        streamed=False,
        response=ResponseFacts(),
        usage_source="none",
        upstream_tried=False,
        connect_started_ns=None,
        connected_ns=None,
        request_sent_ns=None,
        headers_ns=None,
        first_write_ns=None,
    ),
    "opaque": make_record(
        request=RequestFacts(OPAQUE),
        decision=Decision(),
        route=None,
        method="GET",
        streamed=False,
        response=NO_ANSWER._replace(first_chunk_ns=at(39)),
        usage_source="none",
    ),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What ClickHouse answers, by id.

    Every span came twice, as from a Collector that repeats a batch; and one came whose SERVER span is still on its way.
    """
    python = command("clickhouse", "python")
    if python is None:
        pytest.skip(f"clickhouse is not installed in {folder()}: python tests/engines/install.py clickhouse")
    home = tmp_path_factory.mktemp("clickhouse")
    spans = [_stored(span) for name in RECORDS for span in spans_of(_record(name), SpanForm())]
    early, _ = spans_of(make_record(id="lw_early", trace_id="f" * 32), SpanForm())
    stored = [*spans, *spans, _stored(early)]
    (home / "spans.json").write_text("\n".join(map(json.dumps, stored)), encoding="utf-8")
    arguments = [python, "-c", ENGINE, TABLES, home / "spans.json"]
    answer = subprocess.run(arguments, cwd=home, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    found = [json.loads(line) for line in answer.stdout.splitlines() if line]
    assert len(found) == len(RECORDS)
    return {each["id"]: each for each in found}


@pytest.mark.parametrize("name", RECORDS)
def test_a_row_of_the_view_is_the_ledgers(rows: dict[str, dict[str, Any]], name: str) -> None:
    """The same columns in the same order, with the same values; what differs is what the view's file says."""
    record = _record(name)
    found = rows[record.id]
    assert list(found) == list(COLUMNS)
    assert found == dict(zip(COLUMNS, row(record), strict=True)) | _not_on_spans(record)


def _record(name: str) -> ExchangeRecord:
    """A record with ids of its own."""
    number = list(RECORDS).index(name) + 1
    return RECORDS[name]._replace(
        id=f"lw_{number:016x}",
        trace_id=f"{number:032x}",
        server_span_id=f"{number:016x}",
        client_span_id=f"{number + 4096:016x}",
        started_unix_ns=RECORDS[name].started_unix_ns + number * 1_234_567,
    )


def _not_on_spans(record: ExchangeRecord) -> dict[str, Any]:
    began_ns = record.request_sent_ns if record.connected_ns is None else record.connected_ns
    answered = record.headers_ns is not None and began_ns is not None
    return {
        "upstream": None,
        "checkpoints": None,
        "arm_unit": None,
        "provider": None if record.request.dialect == OPAQUE or not record.upstream_tried else record.provider,
        "model": record.request.model if record.upstream_tried else None,
        "response_model": record.response.response_model,
        "ttfc_s": record.ttfc_s if record.streamed else None,
        "last_token_s": None if record.tpot_s is None else record.last_token_s,
        "e2e_s": (record.ended_ns - began_ns) / 1e9 if answered else None,
    }


def _stored(span: Span) -> dict[str, Any]:
    """A span as the Collector's exporter stores it: attributes are text."""
    return {
        "Timestamp": _seconds(span.start_unix_ns),
        "TraceId": span.trace_id,
        "SpanId": span.span_id,
        "ParentSpanId": span.parent_span_id or "",
        "SpanName": span.name,
        "SpanKind": span.kind.name.capitalize(),
        "ServiceName": "lengthwise",
        "ScopeName": semconv.SCOPE,
        "SpanAttributes": {name: _text(value) for name, value in span.attributes.items()},
        "Duration": span.end_unix_ns - span.start_unix_ns,
        "StatusCode": "Error" if span.failed else "Unset",
        "Events.Timestamp": [_seconds(at_unix_ns) for _, at_unix_ns in span.events],
        "Events.Name": [name for name, _ in span.events],
        "Events.Attributes": [{} for _ in span.events],
    }


def _seconds(unix_ns: int) -> str:
    """As ClickHouse reads a time: to the nanosecond."""
    return f"{unix_ns // 10**9}.{unix_ns % 10**9:09d}"


def _text(value: Value) -> str:
    """A value as the Collector writes it: JSON for lists, the shortest digits for numbers, an exponent below 1e-6."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f") if value == 0 or abs(value) >= 1e-6 else repr(value)
    return json.dumps(value, separators=(",", ":"))
