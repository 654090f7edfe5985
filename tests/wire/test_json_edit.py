"""Members are found where a parser finds them, and edits change nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.json_edit import Found, find_values, insert_member, replace

KEYS = ("a", "max_tokens", "é", 'q"', "b\\", "{", "")
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text('ab"\\{}[]:,é\n')),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)),
    max_leaves=12,
)  # fmt: skip
MEMBERS = st.lists(
    st.tuples(st.sampled_from(KEYS), VALUES, st.booleans(), st.sampled_from(["", " ", "\n\t"])), max_size=6
)


def spelled(members):
    """The object as text, with duplicates, escapes and white space as drawn."""
    parts = []
    for key, value, escaped, space in members:
        name = (
            '"' + "".join(f"\\u{ord(char):04x}" for char in key) + '"'
            if escaped
            else json.dumps(key, ensure_ascii=False)
        )
        parts.append(f"{space}{name}{space}:{space}{json.dumps(value, ensure_ascii=escaped)}{space}")
    return ("{" + ",".join(parts) + "}").encode()


def read(body, keys):
    """(key, parsed value) of everything found."""
    return [(found.key, json.loads(body[found.start : found.end])) for found in find_values(body, keys)]


@given(MEMBERS)
def test_every_top_level_member_is_found_as_often_as_it_is_there(members):
    """Duplicates and escaped spellings included, nested ones not."""
    body = spelled(members)
    assert read(body, set(KEYS)) == [(key, value) for key, value, _, _ in members]
    assert read(body, {"max_tokens"}) == [(key, value) for key, value, _, _ in members if key == "max_tokens"]


@given(MEMBERS)
def test_a_replaced_value_is_the_only_change(members):
    """Putting other values in and the old ones back gives the same bytes."""
    body = spelled(members)
    found = find_values(body, {"max_tokens"})
    changed = replace(body, [(item.start, item.end, b"7") for item in reversed(found)])
    assert json.loads(changed, object_pairs_hook=list) == [
        (key, 7 if key == "max_tokens" else json.loads(json.dumps(value), object_pairs_hook=list)) for key, value, _, _ in members
    ]  # fmt: skip
    old = [body[item.start : item.end] for item in found]
    back = find_values(changed, {"max_tokens"})
    assert replace(changed, [(item.start, item.end, text) for item, text in zip(back, old, strict=True)]) == body


@given(MEMBERS, st.sampled_from([b"", b" ", b"\r\n", b"\xef\xbb\xbf"]))
def test_an_inserted_member_is_the_first(members, lead):
    """Everything else stays where it is."""
    body = lead + spelled(members)
    pairs = json.loads(insert_member(body, b'"new":[1]').decode("utf-8-sig"), object_pairs_hook=list)
    old = json.loads(body.decode("utf-8-sig"), object_pairs_hook=list)
    assert pairs == [("new", [1]), *old]


@given(st.one_of(st.binary(max_size=80), st.text('{}[]",:\\ a1', max_size=60).map(str.encode)))
def test_no_bytes_make_it_raise(body):
    """What is no JSON gives nothing or something, in order, inside the body."""
    spans = [edge for found in find_values(body, {"a", "1", ""}) for edge in (found.start, found.end)]
    assert spans == sorted(spans)
    assert all(0 <= edge <= len(body) for edge in spans)
    insert_member(body, b'"x":1')


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b'"a"', b'["a",{"a":1}]', b'x{"a":1}'])
def test_nothing_is_found_in_what_is_no_object(body):
    """And nothing is inserted."""
    assert find_values(body, {"a"}) == []
    assert insert_member(body, b'"x":1') is body


def test_spans_are_those_of_the_values():
    """Start and end are byte offsets, containers included."""
    body = '{"é":"é","a" : {"b":[{}]} ,"a":[],"a":1}'.encode()
    assert find_values(body, {"a"}) == [Found("a", 17, 27), Found("a", 33, 35), Found("a", 40, 41)]
    assert [body[item.start : item.end] for item in find_values(body, {"a"})] == [b'{"b":[{}]}', b"[]", b"1"]


def test_no_edit_gives_the_same_object():
    """A body that is not changed is not copied."""
    body = b'{"a":1}'
    assert replace(body, []) is body


@pytest.mark.parametrize(
    "body",
    [
        b'{"a' * 100_000,
        b"[" * 1_000_000,
        b'{"x":' * 200_000,
        b'{"' + b"\\" * 1_000_000,
        b'{"x":[' + b'"\\"",' * 200_000,
    ],
    ids=["keys", "brackets", "nested", "backslashes", "strings"],
)
def test_hostile_bodies_are_read_to_the_end(body):
    """A megabyte of the worst bytes is read without recursion; a quadratic reader would not come back."""
    assert find_values(body, {"max_tokens"}) == []
