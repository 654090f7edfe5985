"""The parts of reading and splicing a request that every dialect shares."""

from collections.abc import Container

import pytest

from proxy.record import Action, Decision
from proxy.wire import json_edit
from proxy.wire.dialects import request_body
from proxy.wire.dialects.request_body import count, output_type, parsed_request, request_facts, unreadable, with_limit

OWN = ("first", "second")
FIELDS = ("second", "third", "inner.limit", "a.b.c")


def facts(body):
    """Facts by these fields."""
    request, degraded = parsed_request(body)
    assert request is not None
    return request_facts("d", OWN, body, request, fields=FIELDS, degraded=degraded)


@pytest.mark.parametrize(
    ("body", "parsed"),
    [
        (b'{"a":1}', ({"a": 1}, None)),
        (b'{"a":"\\ud83d","b":1e400}', ({"a": "\ud83d", "b": float("inf")}, None)),
        (b'\xef\xbb\xbf {"a":1}', ({"a": 1}, "lenient_json")),
        (b'{"a":Infinity}', ({"a": float("inf")}, "lenient_json")),
        (b"[]", (None, "not_object")),
        (b"[NaN]", (None, "not_object")),
        (b'"a"', (None, "not_object")),
        (b'{"a":1', (None, "invalid_json")),
        (b'{"a":1}{"a":2}', (None, "invalid_json")),
        (b'{"a":1}\n{"a":2}\n', (None, "invalid_json")),
        (b'{"a":1,}', (None, "invalid_json")),
        (b'{"a":1/**/}', (None, "invalid_json")),
        (b"{'a':1}", (None, "invalid_json")),
        (b'{"a":01}', (None, "invalid_json")),
        (b'{"a":+1}', (None, "invalid_json")),
        (b'{"a":0x1}', (None, "invalid_json")),
        (b'{"a":"\t"}', (None, "invalid_json")),
        (b'{"a":' + b"[" * 100_000, (None, "invalid_json")),
        (b"", (None, "invalid_json")),
        (b'{"a":"\xff"}', (None, "not_utf8")),
        (b'{"a\xc1\xa1":1}', (None, "not_utf8")),
        ("{}".encode("utf-16-le"), (None, "not_utf8")),
        ("{}".encode("utf-32-be"), (None, "not_utf8")),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else None,
)
def test_a_request_is_an_object_or_a_reason(body, parsed):
    """Why it cannot be read is a word of a small vocabulary; lone surrogates and 1e400 are valid, NaN and a byte order mark are not."""
    assert parsed_request(body) == parsed
    assert unreadable("d", "not_utf8").choices is None


@pytest.mark.parametrize(
    ("body", "limits", "fault"),
    [
        (b'{"second":5,"first":7}', (("first", 7), ("second", 5)), (None, None)),
        (b'{"third":1,"second":5}', (("second", 5), ("third", 1)), (None, None)),
        (b'{"second":5,"second":9,"first":1}', (("first", 1), ("second", 9)), ("limit_twice", "second")),
        (b'{"second":9,"second":null}', (("second", 9),), ("limit_twice", "second")),
        (b'{"f\\u0069rst":5}', (("first", 5),), (None, None)),
        (b'{"first":"5","second":6}', (("second", 6),), ("limit_type", "first")),
        (b'{"first":-5}', (), ("limit_type", "first")),
        (b'{"first":null}', (), (None, None)),
        (b'{"x":{"first":5}}', (), (None, None)),
        (b'{"inner":{"limit":5},"limit":6}', (("inner.limit", 5),), (None, None)),
        (b'{"inner":{"limit":5,"limit":6}}', (("inner.limit", 6),), ("limit_twice", "inner.limit")),
        (b'{"inner":{"limit":6},"inner":{}}', (("inner.limit", 6),), ("ambiguous_key", "inner")),
        (b'{"a":{"b":{"c":6},"b":{}}}', (("a.b.c", 6),), ("ambiguous_key", "a.b")),
        (b'{"a":{"b":{"c":6},"b":[]}}', (("a.b.c", 6),), ("ambiguous_key", "a.b")),
        (b'{"a":{"b":{"c":6,"c":null}}}', (("a.b.c", 6),), ("limit_twice", "a.b.c")),
        (b'{"a":{"b":{"\\u0063":6}}}', (("a.b.c", 6),), (None, None)),
        (b'{"A":{"b":{"c":6}}}', (), ("ambiguous_key", "a")),
        (b'{"a":{"B":{"c":6}}}', (), ("ambiguous_key", "a.b")),
        (b'{"a":{"b":{"C":6}}}', (), ("ambiguous_key", "a.b.c")),
        (b'{"a":{"c":6},"b":{"c":6},"a.b.c":6}', (), (None, None)),
        (b'{"inner":{"limit":{"limit":5}}}', (), ("limit_type", "inner.limit")),
        (b'{"inner":[{"limit":5}]}', (), (None, None)),
        (b'{"a":{"b":{"c":7},"c":8},"c":9}', (("a.b.c", 7),), (None, None)),
        (b'{"a":{"b":5}}', (), (None, None)),
        (b'{"first":0}', (("first", 0),), ("limit_zero", "first")),
        (b'{"n":1,"n":2}', (), ("ambiguous_key", "n")),
    ],
)
def test_limits_are_in_the_order_in_which_the_provider_reads_them(body, limits, fault):
    """Its own before those of other servers; of duplicates the largest counts; null is absent."""
    read = facts(body)
    assert (read.limits, (read.degraded, read.degraded_field)) == (limits, fault)


@pytest.mark.parametrize(
    ("body", "decision", "expected"),
    [
        (b'{"first": 99}', Decision(Action.CAPPED, "r", 9, "first", cap_tokens=9), b'{"first": 9}'),
        (b'{"first":99,"second":9}', Decision(Action.CAPPED, "r", 9, "first", cap_tokens=9), b'{"first":9,"second":9}'),
        (b'{"first":5,"second":99}', Decision(Action.CAPPED, "r", 5, "first", cap_tokens=9), b'{"first":5,"second":9}'),
        (b'{"first":99}', Decision(Action.CAPPED, "r", 9, "second", cap_tokens=9), b'{"second":9,"first":9}'),
        (b'{"first":7}', Decision(Action.INSERTED, "r", 7, "second", cap_tokens=9), b'{"second":7,"first":7}'),
        (b"{}", Decision(Action.INSERTED, "r", 9, "second", cap_tokens=9), b'{"second":9}'),
        (b'{"second":null}', Decision(Action.INSERTED, "r", 9, "second", cap_tokens=9), b'{"second":9}'),
        (b'{"first":99}', Decision(Action.NONE, "r", 99, "first"), b'{"first":99}'),
        (b'{"first":99}', Decision(Action.CAPPED, "r", None, "first"), b'{"first":99}'),
        (b'{"inner": {"limit":\t99 }}', Decision(Action.CAPPED, "r", 9, "inner.limit", cap_tokens=9), b'{"inner": {"limit":\t9 }}'),
        (b'{"first":99,"min_tokens":50}', Decision(Action.CAPPED, "r", 9, "first", cap_tokens=9), b'{"first":9,"min_tokens":9}'),
        (b'{"first":4,"second":99,"min_tokens":8}', Decision(Action.CAPPED, "r", 4, "first", cap_tokens=9), b'{"first":4,"second":9,"min_tokens":4}'),
        (b'{"min_tokens":8}', Decision(Action.INSERTED, "r", 4, "first", cap_tokens=4), b'{"first":4,"min_tokens":4}'),
        (b'{"first":99,"x":"first","y":"\\"first\\":99"}', Decision(Action.CAPPED, "r", 9, "first", cap_tokens=9), b'{"first":9,"x":"first","y":"\\"first\\":99"}'),
    ],
)  # fmt: skip
def test_a_limit_is_spliced(body, decision, expected):
    """Only digits change, or one member comes; a least length goes down with the limit."""
    assert with_limit(body, facts(body), decision) == expected


def test_every_object_is_looked_through_once(monkeypatch: pytest.MonkeyPatch):
    """However many limits it holds: a long body with many would take its time many times."""
    looked_through: list[bytes] = []

    def counted(body: bytes, keys: Container[str]) -> list[json_edit.Found]:
        looked_through.append(body)
        return json_edit.find_values(body, keys)

    monkeypatch.setattr(request_body, "find_values", counted)
    b, inner = b'{"c":30}', b'{"limit":20}'
    a = b'{"b":' + b + b"}"
    body = b'{"inner":' + inner + b',"a":' + a + b',"first":10}'
    read = facts(body)
    assert (read.limits, read.degraded) == ((("first", 10), ("inner.limit", 20), ("a.b.c", 30)), None)
    assert sorted(looked_through) == sorted((body, inner, a, b))

    looked_through.clear()
    decision = Decision(Action.CAPPED, "r", 5, "first", cap_tokens=5)
    assert with_limit(body, read, decision) == b'{"inner":{"limit":5},"a":{"b":{"c":5}},"first":5}'
    assert sorted(looked_through) == sorted((body, inner, a, b))


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
