"""The parts of reading and splicing a request that every dialect shares."""

import pytest

from proxy.record import Action, Decision
from proxy.wire.dialects.request_body import count, output_type, parsed_request, request_facts, unreadable, with_limit

FIELDS = ("first", "second")


def facts(body):
    """Facts by the two fields."""
    return request_facts("d", FIELDS, body, parsed_request(body))


@pytest.mark.parametrize(
    ("body", "parsed"),
    [
        (b'{"a":1}', {"a": 1}),
        (b'\xef\xbb\xbf {"a":1}', {"a": 1}),
        (b"[]", "not_object"),
        (b'"a"', "not_object"),
        (b'{"a":1', "invalid_json"),
        (b"", "invalid_json"),
        (b'{"a":"\xff"}', "not_utf8"),
        ("{}".encode("utf-16-le"), "not_utf8"),
    ],
)
def test_a_request_is_an_object_or_a_reason(body, parsed):
    """Why it cannot be read is a word of a small vocabulary."""
    assert parsed_request(body) == parsed
    assert unreadable("d", "not_utf8").choices is None


@pytest.mark.parametrize(
    ("body", "limits", "degraded"),
    [
        (b'{"second":5,"first":7}', (("first", 7), ("second", 5)), None),
        (b'{"second":5,"second":9,"first":1}', (("first", 1), ("second", 9)), "limit_twice"),
        (b'{"f\\u0069rst":5}', (("first", 5),), None),
        (b'{"first":"5","second":6}', (("second", 6),), "limit_type"),
        (b'{"first":null}', (), None),
        (b'{"x":{"first":5}}', (), None),
    ],
)
def test_limits_are_in_the_order_in_which_the_provider_reads_them(body, limits, degraded):
    """Of duplicates the largest counts; null is absent."""
    read = facts(body)
    assert (read.limits, read.degraded) == (limits, degraded)


@pytest.mark.parametrize(
    ("body", "decision", "insert_field", "expected"),
    [
        (b'{"first": 99}', Decision(Action.CAPPED, "r", 9, "first"), "", b'{"first": 9}'),
        (b'{"first":99,"second":9}', Decision(Action.CAPPED, "r", 9, "first"), "", b'{"first":9,"second":9}'),
        (b'{"first":99}', Decision(Action.CAPPED, "r", 9, "second"), "", b'{"second":9,"first":9}'),
        (b"{}", Decision(Action.INSERTED, "r", 9, None), "second", b'{"second":9}'),
        (b"{}", Decision(Action.INSERTED, "r", 9, None), "unknown", b"{}"),
        (b'{"second":null}', Decision(Action.INSERTED, "r", 9, None), "second", b'{"second":9}'),
        (b'{"first":99}', Decision(Action.NONE, "r", 9, "first"), "first", b'{"first":99}'),
        (b'{"first":99}', Decision(Action.CAPPED, "r", None, "first"), "", b'{"first":99}'),
    ],
)
def test_a_limit_is_spliced(body, decision, insert_field, expected):
    """Only digits change, or one member comes."""
    assert with_limit(FIELDS, body, facts(body), decision, insert_field) == expected


def test_counts_and_formats_are_read_leniently():
    """Unknown is None, absent is one."""
    assert [count(value) for value in (None, 1, 3.0, 0, -1, "2", True)] == [1, 1, 3, None, None, None, None]
    formats = (
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema"},
        {"type": "x"},
        {"type": 5},
        "text",
        None,
    )
    assert [output_type(value) for value in formats] == ["text", "json", "json", None, None, None, None]
