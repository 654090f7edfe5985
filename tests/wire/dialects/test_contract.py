"""What holds in every dialect of the tuple: the way to it, its fixtures, its rewriting, and that no bytes hurt it."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.rules import DIALECT_NAMES
from proxy.record import Action, Decision
from proxy.wire.dialects import DIALECTS, match
from proxy.wire.dialects.base import Reading
from proxy.wire.dialects.limit_fields import LIMIT_FIELDS
from proxy.wire.paths import canonical
from proxy.wire.sse import UsageCutter
from tests.support.answers import FIXTURES, golden
from tests.support.sse import blocks, one_by_one

BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
STREAMS = [(dialect, answer) for dialect in DIALECTS for answer in golden(dialect.name, "sse")]
each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def test_each_dialect_has_its_own_name_route_and_fixtures():
    """A name, a suffix and a route belong to one dialect; rules know the names, and no folder of fixtures is left over."""
    assert [match(dialect.route.encode()) for dialect in DIALECTS] == list(DIALECTS)
    assert len({dialect.route for dialect in DIALECTS}) == len(BY_NAME) == len(DIALECTS)
    assert set(BY_NAME) == set(DIALECT_NAMES) == {folder.name for folder in FIXTURES.iterdir()}
    assert all(golden(name, "sse") and golden(name, "json") for name in BY_NAME)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (b"/v1/chat/completions", "chat_completions"),
        (b"/chat/completions", "chat_completions"),
        (b"/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", "chat_completions"),
        (b"/v1/completions", "completions"),
        (b"/completions", "completions"),
        (b"/openai/deployments/instruct/completions?api-version=2024-10-21", "completions"),
        (b"/v1//Completions/", "completions"),
        (b"/v1/responses", "responses"),
        (b"/openai/v1/responses?beta=true", "responses"),
        (b"/v1/messages?beta=true", "messages"),
        (b"/anthropic/v1/messages", "messages"),
        (b"/v1/messages/count_tokens", None),
        (b"/v1/messages/batches", None),
        (b"/v1/threads/thread_1/messages", None),
        (b"/v1/threads/thread_1/messages/", None),
        (b"/v1/threads/runs", None),
        (b"/v1/responses/resp_1/cancel", None),
        (b"/v1/responses/input_tokens", None),
        (b"/v1/chat/completions/chatcmpl-1", None),
        (b"/v1/embeddings", None),
        (b"/completion", None),
        (b"/xcompletions", None),
        (b"/", None),
    ],
)
def test_a_path_names_its_dialect_under_any_prefix(target, name):
    """By its end alone; what stores, counts or cancels is opaque."""
    found = match(canonical(target))
    assert (found and found.name) == name


@each_dialect
def test_a_limit_is_inserted_in_a_field_that_the_dialect_has(dialect):
    """Whatever the upstream prefers in chat completions."""
    for preferred in ("max_tokens", "max_completion_tokens"):
        assert dialect.insert_field(preferred) in dialect.limit_fields


@each_dialect
def test_every_limit_field_is_read_capped_and_inserted(dialect):
    """Its own and those of every other server; only digits change; without a decision the body is the same object."""
    for field in dict.fromkeys((*dialect.limit_fields, *(field for field in LIMIT_FIELDS if "." not in field))):
        body = b'{"x":1E5,"%b": 99, "y":{"%b":99}}' % (field.encode(), field.encode())
        facts = dialect.read_request(body)
        assert (facts.dialect, facts.limits, facts.degraded) == (dialect.name, ((field, 99),), None)
        capped = Decision(Action.CAPPED, "rule", 64, field, cap_tokens=64)
        for decision, expected in ((capped, body.replace(b" 99", b" 64")), (Decision(), body)):
            rewritten = dialect.rewrite(body, facts, decision, ask_usage=False)
            assert rewritten == expected
            assert decision is capped or rewritten is body
    field = dialect.insert_field("max_tokens")
    inserted = dialect.rewrite(
        b"{}",
        dialect.read_request(b"{}"),
        Decision(Action.INSERTED, "rule", 64, field, cap_tokens=64),
        ask_usage=True,
    )
    assert inserted == b'{"%b":64}' % field.encode()


@each_dialect
@pytest.mark.parametrize("name", ["model", "stream", "n", "best_of", "N"])
def test_what_extra_body_would_replace_is_ambiguous(dialect, name):
    """Some gateways merge it as it is on the wire; what else is in it is nobody's business."""
    facts = dialect.read_request(b'{"model":"m","extra_body":{"x":1,"%b":2}}' % name.encode())
    assert (facts.degraded, facts.degraded_field) == ("ambiguous_key", name.lower())
    assert dialect.read_request(b'{"model":"m","extra_body":{"x":1,"top_k":2}}').degraded is None


@each_dialect
def test_usage_is_asked_for_in_readable_streams_of_choices_only(dialect):
    """Responses and messages have no such parameter; elsewhere the client's word stands."""
    asked = {
        body: dialect.may_ask_usage(dialect.read_request(body))
        for body in (
            b'{"stream":true}',
            b'{"stream":true,"stream_options":{}}',
            b'{"stream":false}',
            b"{}",
            b'{"stream":true,"stream_options":{"include_usage":false}}',
            b'{"stream":true,"stream_options":{"include_usage":true}}',
            b'{"stream":true,"data_sources":[{}]}',
            b'{"stream":true',
        )
    }
    of_choices = dialect.name in {"chat_completions", "completions"}
    assert list(asked.values()) == [of_choices, of_choices, *[False] * 6]
    body = b'{"stream":true}'
    rewritten = dialect.rewrite(body, dialect.read_request(body), Decision(), ask_usage=True)
    assert (rewritten is body) is not of_choices


@each_dialect
def test_an_unreadable_body_is_degraded_and_never_changed(dialect):
    """Nothing is known of it."""
    for body, degraded in (
        (b"[]", "not_object"),
        (b"{", "invalid_json"),
        (b'{"a":"\xff"}', "not_utf8"),
        ("{}".encode("utf-16"), "not_utf8"),
    ):
        facts = dialect.read_request(body)
        assert (facts.dialect, facts.degraded, facts.choices) == (dialect.name, degraded, None)
        assert dialect.rewrite(body, facts, Decision(), ask_usage=True) is body


@each_dialect
def test_an_error_of_ours_is_read_back_as_one(dialect):
    """In the envelope that its own clients, and its own reading, know."""
    reading = Reading()
    dialect.read_body(dialect.error_body(503, "server_error", "overloaded", "Too many."), reading)
    assert reading.error_type in {"overloaded", "overloaded_error"}


@pytest.mark.parametrize(
    ("dialect", "answer"), STREAMS, ids=[f"{dialect.name}-{answer.name}" for dialect, answer in STREAMS]
)
@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_exactly_the_extra_events_are_cut_from_a_golden_stream(dialect, answer, line_end):
    """At every split point and byte by byte, in every line end."""
    stream = answer.body.replace(b"\n", line_end)
    kept = [block for block in blocks(stream) if not (block.event and dialect.is_extra_usage(block.event[1]))]
    assert len(blocks(stream)) - len(kept) == answer.extra_events
    expected = b"".join(block.raw for block in kept)
    splits = range(0, len(stream), max(len(stream) // 2000, 1))
    for reads in ([stream], one_by_one(stream), *([stream[:at], stream[at:]] for at in splits)):
        cutter = UsageCutter(dialect.is_extra_usage, 1 << 20)
        assert b"".join([cutter.feed(read) for read in reads] + [cutter.finish()]) == expected


KINDS = st.sampled_from(
    [
        "message_start",
        "message_delta",
        "content_block_start",
        "content_block_delta",
        "text_delta",
        "input_json_delta",
        "thinking_delta",
        "tool_use",
        "error",
        "response.output_text.delta",
        "response.output_item.added",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "incomplete",
        "completed",
        "function_call",
    ]
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), KINDS),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "delta", "index", "content", "usage", "error", "code", "type", "finish_reason", "tool_calls", "function", "name",
             "audio", "data", "logprobs", "token_ids", "text", "x_groq", "prompt_tokens", "completion_tokens_details", "id", "model",
             "reasoning", "reasoning_details", "function_call", "refusal", "thinking", "message", "response", "status", "output", "item",
             "incomplete_details", "reason", "input_tokens", "output_tokens", "output_tokens_details", "content_block", "stop_reason",
             "cache_read_input_tokens", "prompt", "n", "best_of", "background", "logprobs", "format", "partial_json"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


def reads_everything(dialect, body):
    """Every entry of a dialect on the same bytes; what was read can be written down."""
    reading = Reading()
    dialect.read_event((None, body), reading)
    dialect.read_event((b"error", body), reading)
    dialect.read_body(body, reading)
    assert sum(map(len, (reading.finish_reasons, reading.open_choices))) <= 2048
    dialect.is_extra_usage(body)
    facts = dialect.read_request(body)
    orjson.dumps(
        (tuple(facts), reading.usage, reading.response_id, reading.error_type, list(reading.finish_reasons.values())),
        default=tuple,
    )
    for action in (Action.CAPPED, Action.INSERTED):
        decision = Decision(action, "rule", 3, dialect.insert_field("max_tokens"), cap_tokens=3)
        dialect.rewrite(body, facts, decision, ask_usage=True)


@given(st.sampled_from(DIALECTS), JSON, KINDS)
def test_no_json_makes_the_reading_raise(dialect, value, kind):
    """Whatever has whatever type, it is read or passed over."""
    body = json.dumps(value).encode()
    reads_everything(dialect, body)
    reads_everything(dialect, b'{"choices":[%b]}' % body)
    named = b'{"type":"%b",' % kind.encode()
    members = b'"choices":[{"delta":%b}],"usage":%b,"error":%b,"response":%b,"message":%b,"delta":%b,"content_block":%b,"item":%b,"prompt":%b}'
    reads_everything(dialect, named + members % ((body,) * 9))


@given(st.sampled_from(DIALECTS), st.binary(max_size=60))
def test_no_bytes_make_the_reading_raise(dialect, body):
    """Bodies and events are whatever a peer sends."""
    reads_everything(dialect, body)


CANARY = "MY SECRET PROMPT"
FINISHED = {
    "chat_completions": {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": CANARY}]},
    "completions": {"choices": [{"index": 0, "text": "a", "finish_reason": CANARY}]},
    "messages": {"type": "message", "stop_reason": CANARY, "usage": {"service_tier": CANARY}},
    "responses": {
        "object": "response",
        "status": "incomplete",
        "incomplete_details": {"reason": CANARY},
        "service_tier": CANARY,
    },
}


@each_dialect
def test_a_finish_reason_that_is_no_word_is_other(dialect):
    """A provider's free text is kept out of every sink, and the answer counts as finished."""
    reading = Reading()
    dialect.read_body(json.dumps(FINISHED[dialect.name]).encode(), reading)
    assert (reading.finish_reasons, reading.service_tier in {None, "other"}, reading.terminal_seen) == (
        {0: "other"},
        True,
        True,
    )
