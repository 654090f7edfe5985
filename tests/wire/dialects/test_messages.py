"""Messages requests are read, each event of their streams starts the right clocks, and split usage is put together."""

import json

import pytest

from proxy.record import FINISH_WORDS, RequestFacts, Usage
from proxy.wire.dialects import match
from proxy.wire.dialects.base import Reading

MESSAGES = match(b"/v1/messages")
NOTHING, ANSWER, REASONING = (False, False, False), (True, False, True), (True, True, False)


def events(*chunks):
    """The reading after these events."""
    reading = Reading()
    for chunk in chunks:
        MESSAGES.read_event((chunk["type"].encode(), json.dumps(chunk).encode()), reading)
    return reading


def read(chunk):
    """What one event says: (carries tokens, of reasoning, of the answer)."""
    reading = Reading()
    return MESSAGES.read_event((None, json.dumps(chunk).encode()), reading), reading.reasoned, reading.answered


def test_a_request_is_read():
    """One answer, one limit field, and no word of usage."""
    body = b'{"model":"claude","max_tokens":99,"stream":true,"temperature":1,"top_p":0.5,"service_tier":"auto","messages":[]}'
    assert MESSAGES.read_request(body) == RequestFacts(
        "messages",
        model="claude",
        stream=True,
        limits=(("max_tokens", 99),),
        temperature=1.0,
        top_p=0.5,
        service_tier="auto",
    )
    assert MESSAGES.read_request(b'{"max_completion_tokens":9,"n":4}') == RequestFacts(
        "messages", limits=(("max_completion_tokens", 9),)
    )


@pytest.mark.parametrize(
    ("thinking", "tokens"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, 2048),
        ({"type": "adaptive", "budget_tokens": 1e4}, 10000),
        ({"type": "disabled", "budget_tokens": 2048}, None),
        ({"type": "enabled"}, None),
        ({"type": "enabled", "budget_tokens": 0}, None),
        ({"type": "enabled", "budget_tokens": "9"}, None),
        (True, None),
    ],
)
def test_a_budget_of_thinking_is_read(thinking, tokens):
    """The limit has to stay above it."""
    body = json.dumps({"max_tokens": 9, "thinking": thinking}).encode()
    assert MESSAGES.read_request(body) == RequestFacts(
        "messages", limits=(("max_tokens", 9),), thinking_budget_tokens=tokens
    )


def test_a_limit_of_zero_fills_the_cache():
    """Anthropic reads the prompt and generates nothing: a request like others."""
    assert MESSAGES.read_request(b'{"max_tokens":0}') == RequestFacts("messages", limits=(("max_tokens", 0),))


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"type": "text_delta", "text": "a"}, ANSWER),
        ({"type": "text_delta", "text": ""}, NOTHING),
        ({"type": "input_json_delta", "partial_json": "{"}, ANSWER),
        ({"type": "input_json_delta", "partial_json": ""}, NOTHING),
        ({"type": "thinking_delta", "thinking": "a"}, REASONING),
        ({"type": "thinking_delta", "thinking": ""}, NOTHING),
        ({"type": "signature_delta", "signature": "a"}, NOTHING),
        ({"type": "citations_delta", "citation": {"cited_text": "a"}}, NOTHING),
        ({"type": ["text_delta"], "text": "a"}, NOTHING),
        ("a", NOTHING),
    ],
)
def test_each_kind_of_delta_starts_the_right_clocks(delta, expected):
    """Thinking is no answer; a signature is no token."""
    assert read({"type": "content_block_delta", "index": 0, "delta": delta}) == expected


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "text", "text": ""}, NOTHING),
        ({"type": "text", "text": "a"}, ANSWER),
        ({"type": "thinking", "thinking": "", "signature": ""}, NOTHING),
        ({"type": "thinking", "thinking": "a"}, REASONING),
        ({"type": "redacted_thinking", "data": "AAAA"}, REASONING),
        ({"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}, ANSWER),
        ({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}, ANSWER),
        ({"type": "web_search_tool_result", "content": [{"title": "a"}]}, NOTHING),
        ({"type": "tool_use", "name": ""}, NOTHING),
        ({"type": 5, "text": "a"}, NOTHING),
        (None, NOTHING),
    ],
)
def test_a_block_begins_with_a_token_only_when_it_says_something(block, expected):
    """A tool's name and encrypted thinking are generated; what a tool found is not."""
    assert read({"type": "content_block_start", "index": 0, "content_block": block}) == expected


@pytest.mark.parametrize("kind", ["ping", "message_stop", "content_block_stop", "something_new"])
def test_frames_are_no_tokens(kind):
    """Nothing of them was generated."""
    assert (
        read(
            {"type": kind, "delta": {"type": "text_delta", "text": "a"}, "content_block": {"type": "text", "text": "a"}}
        )
        == NOTHING
    )


def start(**usage):
    """The first event of a stream."""
    return {"type": "message_start", "message": {"usage": usage}}


def delta(**usage):
    """An event that tells how it stands."""
    return {"type": "message_delta", "delta": {}, "usage": usage}


@pytest.mark.parametrize(
    ("chunks", "usage"),
    [
        ([start(input_tokens=5, output_tokens=1)], Usage(5)),
        ([start(input_tokens=5, output_tokens=1), delta(output_tokens=9)], Usage(5, output_tokens=9)),
        ([start(input_tokens=5, output_tokens=7), delta(output_tokens=3)], Usage(5, output_tokens=3)),
        ([start(input_tokens=5), delta(output_tokens=9), delta(output_tokens=12)], Usage(5, output_tokens=12)),
        (
            [
                start(input_tokens=5, cache_read_input_tokens=100, cache_creation_input_tokens=20),
                delta(output_tokens=9, input_tokens=5, cache_read_input_tokens=100, cache_creation_input_tokens=20),
            ],
            Usage(125, 100, 20, 9),
        ),
        ([start(input_tokens=5), delta(output_tokens=9, input_tokens=50, cache_read_input_tokens=7)], Usage(57, 7, None, 9)),
        ([start(input_tokens=5), delta(output_tokens=9, input_tokens=0)], Usage(5, output_tokens=9)),
        ([start(input_tokens=0, output_tokens=0), delta(output_tokens=9)], Usage(output_tokens=9)),
        ([start(input_tokens=0, output_tokens=0)], None),
        ([start(input_tokens=5), delta(output_tokens=9, output_tokens_details={"thinking_tokens": 4})], Usage(5, None, None, 9, 4)),
        ([start(input_tokens="5", cache_read_input_tokens=-1), delta(output_tokens=2.5)], None),
        ([delta(output_tokens=9)], Usage(output_tokens=9)),
    ],
)  # fmt: skip
def test_split_usage_is_put_together(chunks, usage):
    """Counts are cumulative, all input counts, and the first count of the output is no result."""
    assert events(*chunks).usage == usage


@pytest.mark.parametrize(
    ("own", "word"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "other"),
        ("model_context_window_exceeded", "other"),
    ],
)
def test_why_a_message_ended_is_said_in_its_own_word(own, word):
    """The ledger's word follows from it."""
    streamed = events(start(), {"type": "message_delta", "delta": {"stop_reason": own}})
    whole = Reading()
    MESSAGES.read_body(json.dumps({"type": "message", "stop_reason": own}).encode(), whole)
    for reading in (streamed, whole):
        assert (reading.finish_reasons, reading.terminal_seen) == ({0: own}, True)
    assert FINISH_WORDS.get(own, "other") == word


def test_a_stream_is_over_with_its_reason_or_its_stop():
    """Before that it broke."""
    assert not events(start(input_tokens=5)).terminal_seen
    assert events(start(input_tokens=5), {"type": "message_stop"}).terminal_seen


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (431, "invalid_request_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_an_error_of_ours_is_anthropics_envelope(status, kind):
    """Its clients read type and message; the type is one of Anthropic's."""
    body = MESSAGES.error_body(status, "server_error", "overloaded", 'too "many"')
    assert json.loads(body) == {"type": "error", "error": {"type": kind, "message": 'too "many"'}}
