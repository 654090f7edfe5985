"""Records for tests: a realistic one, and what a test changes in it.

    make_record()                                         a streamed chat completion: limit 512, 128 tokens, natural end
    make_record(end=End.BROKEN, response={"usage": None}) parts are changed by a dict of their fields, or replaced

The stamps are a story in milliseconds after the first request byte: complete at 1, sent at 3 on a connection that took
1.5, head at 200, first body byte (role only) at 210, first token at 290, last token at 1560, last byte at 1570.
"""

from typing import Any

from proxy.record import Decision, End, ExchangeRecord, RequestFacts, ResponseFacts, Usage

START_NS = 5_000_000_000_000
"""`accepted_ns` of the default record."""
STARTED_UNIX_NS = 1_790_000_000_000_000_000
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_SPAN_ID = "00f067aa0ba902b7"
SERVER_SPAN_ID = "1111111111111111"
CLIENT_SPAN_ID = "2222222222222222"


def at(ms: float) -> int:
    """Stamp of a moment in milliseconds after the default record's first byte."""
    return START_NS + round(ms * 1_000_000)


def make_record(**changes: Any) -> ExchangeRecord:
    """The default record with changes; `request`, `decision` and `response` take an object or a dict of changes."""
    for name in ("request", "decision", "response"):
        if isinstance(changes.get(name), dict):
            changes[name] = getattr(_DEFAULT, name)._replace(**changes[name])
    return _DEFAULT._replace(**changes)


_DEFAULT = ExchangeRecord(
    id="lw_0123456789abcdef",
    started_unix_ns=STARTED_UNIX_NS,
    accepted_ns=START_NS,
    end=End.COMPLETE,
    ended_ns=at(1571),
    trace_id=TRACE_ID,
    parent_span_id=PARENT_SPAN_ID,
    server_span_id=SERVER_SPAN_ID,
    client_span_id=CLIENT_SPAN_ID,
    sampled=True,
    trace_state=None,
    method="POST",
    route="/v1/chat/completions",
    scheme="http",
    upstream="openai",
    provider="openai",
    server_address="api.openai.com",
    server_port=443,
    app="search",
    key_name="team-a",
    request=RequestFacts(
        dialect="chat_completions",
        model="gpt-4o",
        stream=True,
        limits=(("max_tokens", 512),),
        temperature=0.5,
    ),
    decision=Decision(forwarded_max_tokens=512, limit_field="max_tokens"),
    response=ResponseFacts(
        response_id="chatcmpl-1",
        response_model="gpt-4o-2024-08-06",
        service_tier="default",
        system_fingerprint="fp_1",
        finish_reasons=("stop",),
        usage=Usage(
            input_tokens=100,
            cached_input_tokens=64,
            cache_creation_input_tokens=None,
            output_tokens=128,
            reasoning_tokens=0,
        ),
        terminal_seen=True,
        events=131,
        generated_events=128,
        first_chunk_ns=at(210),
        first_token_ns=at(290),
        first_answer_ns=at(290),
        last_token_ns=at(1560),
        end_ns=at(1570),
        max_gap_ns=80_000_000,
        checkpoints=((64, at(920)), (128, at(1560))),
    ),
    streamed=True,
    status=200,
    error_type=None,
    upstream_tried=True,
    resend_count=0,
    sdk_retry_count=0,
    request_bytes=420,
    response_bytes=24_000,
    usage_source="provider",
    degraded=None,
    request_complete_ns=at(1),
    connect_started_ns=at(1.25),
    connected_ns=at(2.75),
    request_sent_ns=at(3),
    headers_ns=at(200),
    first_write_ns=at(210.25),
    client_blocked_ns=0,
)
