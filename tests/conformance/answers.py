"""What an upstream may answer, as bytes, and what the client gets of it: the same answer, a 502, or one that breaks off.

Every case is followed by another request of the same client. Its answer is never a byte of the first one, whatever the upstream
put behind it: that would be a smuggled response.
Source: RFC 9110 15, RFC 9112 6, 7 and 11.2.
"""

from typing import NamedTuple

__all__ = ["ANSWERS", "Answer", "Broken", "Whole"]


class Whole(NamedTuple):
    """An answer that the client gets to its end."""

    status: int
    headers: tuple[bytes, ...]
    """End-to-end header lines in their order, without the framing and ours."""
    body: bytes
    interim: tuple[int, ...]
    """Status of each interim answer before it."""


class Broken(NamedTuple):
    """An answer that visibly breaks off behind these bytes of its body."""

    body: bytes


class Answer(NamedTuple):
    """One thing that an upstream may answer."""

    kind: str
    name: str
    sent: bytes
    gets: Whole | Broken | int
    """An int is the status of our own answer."""
    kept: bool
    """True when the upstream's connection carries the next request."""
    method: bytes
    ends: bool
    """True when the upstream ends its connection behind it."""


def whole(body: bytes = b"hello", *headers: bytes, status: int = 200, interim: tuple[int, ...] = ()) -> Whole:
    """A whole answer."""
    return Whole(status, headers, body, interim)


def _answers(
    kind: str, *cases: tuple[str, bytes, Whole | Broken | int, bool], method: bytes = b"GET", ends: bool = False
):
    return tuple(Answer(kind, name, sent, gets, kept, method, ends) for name, sent, gets, kept in cases)


def _ok(*lines: bytes, body: bytes = b"", status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A head of these lines, then the body as it is."""
    return b"\r\n".join((status, *lines)) + b"\r\n\r\n" + body


_FIVE = b"Content-Length: 5"
_HELLO = _ok(_FIVE, body=b"hello")
_CHUNKED = b"Transfer-Encoding: chunked"


def _chunks(body: bytes) -> bytes:
    return _ok(_CHUNKED, body=body)


ANSWERS: tuple[Answer, ...] = (
    *_answers(
        "framing",
        ("a length", _HELLO, whole(), True),
        ("a length of zero", _ok(b"Content-Length: 0"), whole(b""), True),
        ("leading zeros", _ok(b"Content-Length: 005", body=b"hello"), whole(), True),
        ("chunks", _chunks(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), whole(), True),
        ("no chunk but the last", _chunks(b"0\r\n\r\n"), whole(b""), True),
        ("an extension", _chunks(b"5;a=b\r\nhello\r\n0\r\n\r\n"), whole(), True),
        ("trailers go", _chunks(b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"), whole(), True),
        ("a length among the trailers", _chunks(b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n"), Broken(b"hello"), False),
        ("two lengths that differ", _ok(_FIVE, b"Content-Length: 6", body=b"hello"), 502, False),
        ("the same length twice", _ok(_FIVE, _FIVE, body=b"hello"), 502, False),
        ("a list of lengths", _ok(b"Content-Length: 5, 5", body=b"hello"), 502, False),
        ("a signed length", _ok(b"Content-Length: +5", body=b"hello"), 502, False),
        ("a negative length", _ok(b"Content-Length: -5", body=b"hello"), 502, False),
        ("a length in letters", _ok(b"Content-Length: five", body=b"hello"), 502, False),
        ("an empty length", _ok(b"Content-Length:", body=b"hello"), 502, False),
        ("a length beyond 64 bits", _ok(b"Content-Length: 18446744073709551616", body=b"hello"), 502, False),
        ("a length and chunks", _ok(_FIVE, _CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"), 502, False),
        ("chunks and a length", _ok(_CHUNKED, _FIVE, body=b"5\r\nhello\r\n0\r\n\r\n"), 502, False),
        ("another coding first", _ok(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 502, False),
        ("another coding last", _ok(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), 502, False),
        ("chunked twice", _ok(_CHUNKED, _CHUNKED, body=b"0\r\n\r\n"), 502, False),
        ("identity", _ok(b"Transfer-Encoding: identity", _FIVE, body=b"hello"), 502, False),
        ("an unknown coding", _ok(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 502, False),
        ("a vertical tab before the coding", _ok(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 502, False),
        ("letters for a size", _chunks(b"5\r\nhello\r\nxyz\r\n"), Broken(b"hello"), False),
        ("a prefixed size", _chunks(b"5\r\nhello\r\n0x5\r\nworld\r\n0\r\n\r\n"), Broken(b"hello"), False),
        ("bare LF behind a size", _chunks(b"5\r\nhello\r\n5\nworld\r\n0\r\n\r\n"), Broken(b"hello"), False),
        ("content longer than its size", _chunks(b"5\r\nhello\r\n4\r\nworld\r\n0\r\n\r\n"), Broken(b"helloworl"), False),
    ),
    *_answers(
        "the end of the connection",
        ("behind a length", _HELLO, whole(), False),
        ("as the body's end", _ok(body=b"hello"), whole(), False),
        ("as the end of an empty body", _ok(), whole(b""), False),
        ("short of a length", _ok(b"Content-Length: 9", body=b"hello"), Broken(b"hello"), False),
        ("before the last chunk", _chunks(b"5\r\nhello\r\n"), Broken(b"hello"), False),
        ("inside a chunk", _chunks(b"9\r\nhello"), Broken(b"hello"), False),
        ("inside a head", b"HTTP/1.1 200 OK\r\nContent-Le", 502, False),
        ("before an answer", b"", 502, False),
        ("behind an interim answer", _ok(b"Link: </a>", status=b"HTTP/1.1 103 Early Hints"), 502, False),
        ends=True,
    ),
    *_answers(
        "bytes behind it",
        ("a letter", _HELLO + b"x", whole(), False),
        ("a line end", _HELLO + b"\r\n", whole(), True),
        ("another answer", _HELLO + _ok(_FIVE, body=b"EVIL!"), whole(), False),
        ("another protocol", _HELLO + _ok(b"Connection: upgrade", b"Upgrade: websocket",
                                          status=b"HTTP/1.1 101 Switching Protocols"), whole(), False),
        ("another answer behind chunks", _chunks(b"5\r\nhello\r\n0\r\n\r\n") + _ok(_FIVE, body=b"EVIL!"), whole(), False),
        ("a body of 204", _ok(status=b"HTTP/1.1 204 No Content", body=b"EVIL!"), whole(b"", status=204), False),
        ("a body of 304", _ok(status=b"HTTP/1.1 304 Not Modified", body=b"EVIL!"), whole(b"", status=304), False),
    ),
    *_answers(
        "an answer to HEAD",
        ("a length", _ok(_FIVE), whole(b""), True),
        ("chunks", _ok(_CHUNKED), whole(b""), True),
        ("neither", _ok(), whole(b""), True),
        ("a body all the same", _HELLO, whole(b""), False),
        ("204", _ok(status=b"HTTP/1.1 204 No Content"), whole(b"", status=204), True),
        method=b"HEAD",
    ),
    *_answers(
        "status",
        ("204", _ok(status=b"HTTP/1.1 204 No Content"), whole(b"", status=204), True),
        ("304 with a length", _ok(_FIVE, status=b"HTTP/1.1 304 Not Modified"), whole(b"", status=304), True),
        ("204 with a length", _ok(_FIVE, status=b"HTTP/1.1 204 No Content"), whole(b"", status=204), True),
        ("no reason", _ok(_FIVE, status=b"HTTP/1.1 200 ", body=b"hello"), whole(), True),
        ("no space behind it", _ok(_FIVE, status=b"HTTP/1.1 200", body=b"hello"), whole(), True),
        ("one that nobody knows", _ok(_FIVE, status=b"HTTP/1.1 799 Odd", body=b"hello"), whole(status=799), True),
        ("429", _ok(b"Retry-After: 7", _FIVE, status=b"HTTP/1.1 429 Slow", body=b"hello"),
         whole(b"hello", b"Retry-After: 7", status=429), True),
        ("529", _ok(_FIVE, status=b"HTTP/1.1 529 Overloaded", body=b"hello"), whole(status=529), True),
        ("two digits", _ok(_FIVE, status=b"HTTP/1.1 99 Odd", body=b"hello"), 502, False),
        ("four digits", _ok(_FIVE, status=b"HTTP/1.1 2000 OK", body=b"hello"), 502, False),
        ("zero", _ok(_FIVE, status=b"HTTP/1.1 000 Odd", body=b"hello"), 502, False),
        ("letters", _ok(_FIVE, status=b"HTTP/1.1 abc OK", body=b"hello"), 502, False),
        ("no status", _ok(_FIVE, status=b"HTTP/1.1", body=b"hello"), 502, False),
        ("no status line", b"hello", 502, False),
        ("HTTP/2.0", _ok(_FIVE, status=b"HTTP/2.0 200 OK", body=b"hello"), 502, False),
        ("another protocol", _ok(_FIVE, status=b"ICY 200 OK", body=b"hello"), 502, False),
        ("HTTP/1.0", _ok(_FIVE, status=b"HTTP/1.0 200 OK", body=b"hello"), whole(), False),
        ("HTTP/1.0 with keep-alive", _ok(b"Connection: keep-alive", _FIVE, status=b"HTTP/1.0 200 OK", body=b"hello"),
         whole(), True),
        ("HTTP/1.0 with chunks", _ok(_CHUNKED, status=b"HTTP/1.0 200 OK", body=b"5\r\nhello\r\n0\r\n\r\n"), whole(), False),
        ("HTTP/1.0 with chunks and keep-alive", _ok(b"Connection: keep-alive", _CHUNKED, status=b"HTTP/1.0 200 OK",
                                                    body=b"5\r\nhello\r\n0\r\n\r\n"), whole(), False),
    ),
    *_answers(
        "headers",
        ("order, case and repetition stay", _ok(b"x-B: 1", b"X-a: 2", b"x-B: 3", _FIVE, body=b"hello"),
         whole(b"hello", b"x-B: 1", b"X-a: 2", b"x-B: 3"), True),
        ("cookies stay apart", _ok(b"Set-Cookie: a=1", b"Set-Cookie: b=2", _FIVE, body=b"hello"),
         whole(b"hello", b"Set-Cookie: a=1", b"Set-Cookie: b=2"), True),
        ("hop by hop ones go", _ok(b"Connection: X-a", b"X-A: 1", b"Keep-Alive: timeout=9", b"Proxy-Authenticate: Basic",
                                   b"Trailer: X", b"Upgrade: h2c", b"Proxy-Connection: x", _FIVE, body=b"hello"),
         whole(), True),
        ("close costs the connection where proxies look for it", _ok(b"Proxy-Connection: close", _FIVE, body=b"hello"),
         whole(), False),
        ("close costs the connection", _ok(b"Connection: close", _FIVE, body=b"hello"), whole(), False),
        ("a redirect is the client's", _ok(b"Location: http://evil.example/", _FIVE, status=b"HTTP/1.1 302 Found",
                                           body=b"hello"), whole(b"hello", b"Location: http://evil.example/", status=302),
         True),
        ("a folded value", _ok(b"X: a", b" b", _FIVE, body=b"hello"), 502, False),
        ("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", 502, False),
        ("bare CR in a value", _ok(b"X: a\rb", _FIVE, body=b"hello"), 502, False),
        ("NUL in a value", _ok(b"X: a\0b", _FIVE, body=b"hello"), 502, False),
        ("a space before the colon", _ok(b"Content-Length : 5", body=b"hello"), 502, False),
        ("no colon", _ok(b"X", _FIVE, body=b"hello"), 502, False),
        ("no name", _ok(b": x", _FIVE, body=b"hello"), 502, False),
        ("64 KiB of them", _ok(*[b"X: " + b"y" * 4000] * 17, _FIVE, body=b"hello"), 502, False),
    ),
    *_answers(
        "interim answers",
        ("100 is ours", _ok(status=b"HTTP/1.1 100 Continue") + _HELLO, whole(), True),
        ("103 passes", _ok(b"Link: </a>", status=b"HTTP/1.1 103 Early Hints") + _HELLO, whole(interim=(103,)), True),
        ("several pass", _ok(status=b"HTTP/1.1 102 Processing") * 3 + _HELLO, whole(interim=(102,) * 3), True),
        ("one with a length", _ok(_FIVE, status=b"HTTP/1.1 103 Early Hints") + _HELLO, whole(interim=(103,)), True),
        ("101 that nobody asked for", _ok(b"Connection: upgrade", b"Upgrade: websocket",
                                          status=b"HTTP/1.1 101 Switching Protocols") + _HELLO, 502, False),
        ("101 without a protocol", _ok(status=b"HTTP/1.1 101 Switching Protocols") + _HELLO, 502, False),
    ),
)  # fmt: skip
