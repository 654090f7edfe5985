"""The parts that every dialect shares."""

import json
import math

import pytest

from proxy.wire.dialects.base import (
    clamped,
    error_identifier,
    openai_error_body,
    parse_json,
    plain_name,
    plain_word,
    whole_number,
)


def test_an_error_is_openais_envelope():
    """All four keys are there, as SDKs read them."""
    body = openai_error_body("invalid_request_error", "unknown_route", 'no "route"')
    assert json.loads(body) == {
        "error": {"message": 'no "route"', "type": "invalid_request_error", "param": None, "code": "unknown_route"}
    }


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":1}', {"a": 1}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'"\\ud800"', "\ud800"),
        (b"1e400", math.inf),
        (b"-Infinity", -math.inf),
        (b"\n\n 5", 5),
    ],
)
def test_json_is_read_as_leniently_as_any_upstream_might(body, value):
    """What one of both parsers takes is read."""
    assert parse_json(body) == value


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":1}{"a":2}', b"9" * 5000])
def test_what_no_parser_takes_is_a_value_error(body):
    """One kind of error for everything, deep nesting included."""
    with pytest.raises(ValueError):  # noqa: PT011 -- the message is the parser's own
        parse_json(body)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5),
        (0, 0),
        (-1, -1),
        (1024.0, 1024),
        (1e26, int(1e26)),
        (0.5, None),
        (True, None),
        ("5", None),
        (None, None),
        (math.inf, None),
        (math.nan, None),
        ([5], None),
    ],
)
def test_a_whole_number_has_no_fraction(value, number):
    """Booleans and texts are none."""
    assert whole_number(value) == number


def test_a_text_is_cut_to_what_records_keep():
    """128 characters; nothing for what is no text."""
    assert [clamped(value) for value in ("a" * 200, "é", "\ud800", "", None, 5)] == [
        "a" * 128,
        "é",
        "?",
        None,
        None,
        None,
    ]


def test_a_text_has_nothing_that_a_terminal_or_a_line_protocol_would_obey():
    """Control characters, line separators and marks of direction are left out."""
    assert [clamped(value) for value in ("a\x1b[31m\r\n b", "a\u2028\u202eb", "\x00", "gpt-4o \u00e9\u4e2d")] == [
        "a[31m b",
        "ab",
        None,
        "gpt-4o é中",
    ]


@pytest.mark.parametrize(
    ("value", "as_word", "as_name"),
    [
        ("stop", "stop", "stop"),
        ("MY SECRET PROMPT is", "other", None),
        ("a" * 65, "other", "a" * 65),
        ("a" * 129, "other", None),
        ("org/model:free@v1", "other", "org/model:free@v1"),
        ("length\n", "other", None),
        ("é", "other", None),
        ("", None, None),
        (None, None, None),
        (5, None, None),
        (["stop"], None, None),
    ],
)
def test_what_a_provider_says_about_an_answer_cannot_quote_it(value: object, as_word: str | None, as_name: str | None):
    """A word is one of some vocabulary, else `other`; a name has no spaces, else it is none."""
    assert (plain_word(value), plain_name(value)) == (as_word, as_name)


@pytest.mark.parametrize(
    ("candidates", "identifier"),
    [
        (("server_error",), "server_error"),
        ((None, "rate-limit.x_1"), "rate-limit.x_1"),
        (("a b", 5, "x" * 65), "stream_error"),
        (("a\n",), "stream_error"),
        ((), "stream_error"),
    ],
)
def test_an_error_identifier_cannot_quote_content(candidates, identifier):
    """Short, without spaces; else the general word."""
    assert error_identifier(*candidates) == identifier
