"""The parts of reading an answer that every dialect shares."""

import pytest

from proxy.record import Usage
from proxy.wire.dialects.base import Reading
from proxy.wire.dialects.response_body import (
    is_text,
    openai_usage,
    parsed_body,
    parsed_event,
    read_error,
    read_head,
    token_count,
)


@pytest.mark.parametrize(
    ("event", "chunk", "done", "degraded", "error_type"),
    [
        ((None, b'{"a":1}'), {"a": 1}, False, None, None),
        ((None, b"[DONE]"), None, True, None, None),
        ((None, b" [DONE] "), None, True, None, None),
        ((None, b""), None, False, None, None),
        ((None, b'{"a":NaN}'), {"a": pytest.approx(float("nan"), nan_ok=True)}, False, None, None),
        ((None, b"{"), None, False, "invalid_event", None),
        ((None, b"[]"), None, False, None, None),
        ((b"error", b"oops"), None, False, "invalid_event", "stream_error"),
        ((b"error", b'{"a":1}'), {"a": 1}, False, None, None),
    ],
)
def test_an_event_is_an_object_or_nothing(event, chunk, done, degraded, error_type):
    """What is no object ends the stream, is trouble, or an error."""
    reading = Reading()
    assert parsed_event(event, reading) == chunk
    assert (reading.done, reading.degraded, reading.error_type) == (done, degraded, error_type)


@pytest.mark.parametrize(
    ("body", "answer", "degraded"),
    [(b'\n {"a":1}', {"a": 1}, None), (b"[]", None, "not_object"), (b"{", None, "invalid_json")],
)
def test_a_whole_answer_is_an_object_or_trouble(body, answer, degraded):
    """Blank lines before it are none of its."""
    reading = Reading()
    assert (parsed_body(body, reading), reading.degraded) == (answer, degraded)


def test_who_answered_is_noted_once():
    """A later event adds what was not known."""
    reading = Reading()
    read_head({"id": "a", "model": ""}, reading)
    read_head({"id": "b", "model": "m", "service_tier": "flex", "system_fingerprint": "fp"}, reading)
    head = (reading.response_id, reading.response_model, reading.service_tier, reading.system_fingerprint)
    assert head == ("a", "m", "flex", "fp")


@pytest.mark.parametrize(
    ("chunk", "error_type"),
    [
        ({"error": {"code": "c", "type": "t"}}, "c"),
        ({"error": {"code": None, "type": "t"}}, "t"),
        ({"error": {"code": 529}}, "529"),
        ({"error": "a sentence with spaces"}, "stream_error"),
        ({"type": "error", "code": "c"}, "c"),
        ({"type": "error", "error": {"type": "overloaded_error"}}, "overloaded_error"),
        ({"type": "error"}, "stream_error"),
    ],
)
def test_an_error_is_named_by_its_code_or_type(chunk, error_type):
    """Never by its message; the first one stays."""
    reading = Reading()
    read_error(chunk, reading)
    read_error({"error": {"code": "later"}}, reading)
    assert reading.error_type == error_type


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, None),
        ([], None),
        ({}, None),
        ({"in": 0, "out": 0}, None),
        ({"in": 5, "out": 0}, Usage(5, output_tokens=0)),
        ({"in": 5, "out": 7, "in_details": {"cached_tokens": 3, "cache_write_tokens": 1}, "out_details": {"reasoning_tokens": 2}}, Usage(5, 3, 1, 7, 2)),
        ({"in": 5, "out": 7, "in_details": None, "out_details": [], "prompt_cache_hit_tokens": 4, "reasoning_tokens": 6}, Usage(5, 4, None, 7, 6)),
        ({"in": "5", "out": 7}, Usage(output_tokens=7)),
    ],
)  # fmt: skip
def test_usage_is_read_by_the_names_of_its_sides(usage, expected):
    """Zeros on both sides are a placeholder."""
    assert openai_usage(usage, "in", "out") == expected


def test_a_count_is_a_whole_number_that_a_double_holds():
    """Anything else is unknown; an empty text says nothing."""
    assert [token_count(value) for value in (0, 5, 5.0, -1, 1 << 53, True, "5", None)] == [0, 5, 5, *[None] * 5]
    assert [is_text(value) for value in ("a", "", None, 5, ["a"])] == [True, False, False, False, False]


def test_a_head_keeps_no_content():
    """A provider that answers with content in the place of a name is kept out of every sink."""
    reading = Reading()
    read_head(dict.fromkeys(("id", "model", "service_tier", "system_fingerprint"), "MY SECRET PROMPT"), reading)
    head = (reading.response_id, reading.response_model, reading.service_tier, reading.system_fingerprint)
    assert head == (None, None, "other", None)
