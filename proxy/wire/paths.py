"""Request targets: one canonical form for matching, and the removal of an upstream's prefix.

Layer: wire (sans-io). The canonical form is never forwarded; the raw target is. It reads a path the way the most lenient upstream might,
so that no spelling of a dialect's path escapes matching: it may match too much, which costs an observation, but not too little, which
would cost a cap.

Source: RFC 3986 5.2.4 and 6.2, WHATWG URL 4.4 (backslash, removed tab and newline), Jakarta Servlet 3.5 (path parameters).
"""

import re
from urllib.parse import unquote_to_bytes

__all__ = ["canonical", "is_plain", "strip_prefix"]

_DECODE_ROUNDS = 3
_PLAIN = re.compile(rb"(?:/[a-z0-9_-]+)+")
_UNAMBIGUOUS = re.compile(rb"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,=:@-]+)+")
_REMOVED = re.compile(rb"[\x00-\x1f\x7f]+")


def canonical(target: bytes) -> bytes:
    r"""Path of a request target in the one form that is matched; begins with `/` and ends without one (root: `/`).

    Percent-decoded up to three times, `\` read as `/`, parameters and empty segments dropped, `.` and `..` resolved, control characters
    removed, ASCII lower-cased. Never raises. O(n).
    """
    path = target.partition(b"?")[0]
    if _PLAIN.fullmatch(path):
        return path
    path = path.partition(b"#")[0]
    for _ in range(_DECODE_ROUNDS):
        if b"%" not in path:
            break
        path = unquote_to_bytes(path)
    path = _REMOVED.sub(b"", path.replace(b"\\", b"/"))
    kept: list[bytes] = []
    for raw_segment in path.split(b"/"):
        segment = raw_segment.partition(b";")[0].strip(b" ")
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment not in {b"", b"."}:
            kept.append(segment)
    # An upstream that decodes before it splits sees a query or a fragment here; one that does not has no such route anyway.
    joined = re.split(rb"[?#]", b"/".join(kept), maxsplit=1)[0].rstrip(b"/")
    return b"/" + joined.lower()


def is_plain(target: bytes, suffix: bytes) -> bool:
    """True when every server reads the same path in a request target, and it ends with `suffix` as it is written."""
    path = target.partition(b"?")[0]
    return path.endswith(suffix) and _UNAMBIGUOUS.fullmatch(path) is not None


def strip_prefix(target: bytes, prefix: bytes) -> bytes | None:
    """Raw target without `prefix`, or None when its path does not begin with these whole segments.

    The comparison is byte for byte: a prefix selects an upstream, and no other spelling of it may. The result always begins with `/`.
    """
    prefix = prefix.rstrip(b"/")
    if not target.startswith(prefix):
        return None
    rest = target[len(prefix) :]
    if rest.startswith(b"/"):
        return rest
    if prefix and rest and not rest.startswith(b"?"):
        return None
    return b"/" + rest
