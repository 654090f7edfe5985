"""The parts that every dialect shares."""

import json
import math

import pytest

from proxy.wire.dialects.base import clamped, error_identifier, openai_error_body, parse_json, whole_number


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
