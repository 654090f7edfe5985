"""Byte splices in a JSON object: find members of the top level, replace their values, add one member.

Layer: wire (sans-io). Nothing is parsed and dumped again, so key order, number text, white space and unknown fields survive. Every function
is O(n) on any bytes and never raises; on bytes that are no JSON object nothing is found.

Source: RFC 8259 4 (duplicate names are legal and read differently by different parsers), 7 (a name may be spelled with escapes).
"""

import json
import re
from collections.abc import Container
from typing import NamedTuple

__all__ = ["Found", "find_values", "insert_member", "replace"]

# A string, a container that holds no container, or one bracket of a container that does.
_FLAT = rb'[^"\[\]{}]*+(?:"[^"]*+"[^"\[\]{}]*+)*+'
_TOKEN = re.compile(rb'"[^"]*+"|\{' + _FLAT + rb"\}|\[" + _FLAT + rb"\]|[\[\]{}]")
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_SCALAR = re.compile(rb'"[^"]*"|[^ \t\r\n,"\[\]{}]*')
_FIRST_BRACE = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\{[ \t\r\n]*")


class Found(NamedTuple):
    """One member of the top-level object."""

    key: str
    start: int
    """First byte of the value."""
    end: int
    """One past its last byte."""


def find_values(body: bytes, keys: Container[str]) -> list[Found]:
    """Every top-level member whose name is one of `keys`, in order, duplicates and escaped spellings included."""
    head = _FIRST_BRACE.match(body)
    if head is None:
        return []
    # With escapes masked (same length), a quote is always a delimiter and one flat pattern finds all strings and brackets.
    mask = body.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in body else body
    found: list[Found] = []
    depth = 1
    pending: tuple[str, int] | None = None  # a container whose end is to come
    for token in _TOKEN.finditer(mask, head.end()):
        start, end = token.span()
        char = mask[start]
        if char == _QUOTE:
            if depth != 1 or (colon := _COLON.match(mask, end)) is None:
                continue
            key = _name(body[start:end])
            if key not in keys:
                continue
            value_start = colon.end()
            if mask.startswith((b"{", b"["), value_start):
                pending = (key, value_start)
            else:
                scalar = _SCALAR.match(mask, value_start)
                found.append(Found(key, value_start, scalar.end() if scalar else value_start))
            continue
        if char not in _OPENING:
            depth -= 1
            if depth == 0:
                break
        elif end - start == 1:
            depth += 1
        if depth == 1 and pending is not None:
            found.append(Found(*pending, end))
            pending = None
    return found


def replace(body: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Body with each byte span (start, end) replaced; spans do not overlap, their order is free. No edits: the same object."""
    if not edits:
        return body
    parts: list[bytes] = []
    at = 0
    for start, end, new in sorted(edits):
        parts += (body[at:start], new)
        at = end
    parts.append(body[at:])
    return b"".join(parts)


def insert_member(body: bytes, member: bytes) -> bytes:
    """Body with `member` (`"name":value`) as the first member of its object; the same object when there is none."""
    head = _FIRST_BRACE.match(body)
    if head is None:
        return body
    after = body.index(b"{") + 1
    comma = b"" if body[head.end() : head.end() + 1] == b"}" else b","
    return body[:after] + member + comma + body[after:]


_QUOTE = ord('"')
_OPENING = frozenset(b"[{")


def _name(token: bytes) -> str:
    if b"\\" not in token:
        return token[1:-1].decode("utf-8", "replace")
    try:
        return str(json.loads(token))
    except ValueError:
        return ""
