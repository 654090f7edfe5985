"""What a client may send, as bytes, and what comes of it: the requests that the upstream sees, or a refusal.

Every case is followed by `AFTER` on the same connection. Where the case is understood as it should be, the upstream sees that
request next; where it is refused, or its connection ends, nothing of it may reach anybody: that would be a smuggled request.
Source: RFC 9110, RFC 9112, and the places at which servers are known to differ.
"""

from typing import NamedTuple

__all__ = ["AFTER", "CASES", "Case", "Seen"]

AFTER = b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n"


class Seen(NamedTuple):
    """A request as the upstream reads it."""

    line: bytes
    """Method and target."""
    headers: tuple[bytes, ...]
    """End-to-end header lines in their order, without Host and the framing."""
    body: bytes


class Case(NamedTuple):
    """One thing that a client may send."""

    kind: str
    name: str
    sent: bytes
    expected: tuple["Seen | int", ...]
    """What becomes of each request in it, in order: what the upstream sees, or the status of our refusal, which is the last."""
    closes: bool
    """True when the connection ends behind it without a refusal, so that nothing further is read."""
    nginx: str | None
    """Why it is right to relay this where nginx refuses it; None where nginx relays it too, or where we refuse."""


def seen(line: bytes, *headers: bytes, body: bytes = b"") -> Seen:
    """A request at the upstream."""
    return Seen(line, headers, body)


def _case(
    kind: str,
    name: str,
    sent: bytes,
    *expected: Seen | int,
    closes: bool = False,
    nginx: str | None = None,
) -> Case:
    return Case(kind, name, sent, expected, closes, nginx)


def _get(line: bytes, *headers: bytes) -> bytes:
    """A request with this request line, and Host."""
    return b"\r\n".join((line, b"Host: a", *headers)) + b"\r\n\r\n"


def _with(*headers: bytes) -> bytes:
    """`GET /` with these header lines behind Host."""
    return _get(b"GET / HTTP/1.1", *headers)


def _post(*headers: bytes, body: bytes = b"") -> bytes:
    """`POST /p` with these header lines, then the body as it is."""
    return _get(b"POST /p HTTP/1.1", *headers) + body


def _chunked(body: bytes) -> bytes:
    """`POST /p` whose chunked body is these bytes."""
    return _post(b"Transfer-Encoding: chunked", body=body)


ROOT = seen(b"GET /")
HELLO = seen(b"POST /p", body=b"hello")
EMPTY = seen(b"POST /p")
_TAB = "white space around a value may be a tab (RFC 9110 5.6.3); what we send the upstream is framed anew"

_REQUEST_LINES = [
    _case("request line", name, sent, *expected)
    for name, sent, *expected in (
        ("a plain GET", _get(b"GET / HTTP/1.1"), ROOT),
        ("an empty line before it", b"\r\n" + _with(), ROOT),
        ("several empty lines before it", b"\r\n\r\n\r\n" + _with(), ROOT),
        ("two spaces behind the method", _get(b"GET  / HTTP/1.1"), 400),
        ("two spaces before the version", _get(b"GET /  HTTP/1.1"), 400),
        ("a tab for a space", _get(b"GET\t/ HTTP/1.1"), 400),
        ("a space before the method", _get(b" GET / HTTP/1.1"), 400),
        ("a space behind the version", _get(b"GET / HTTP/1.1 "), 400),
        ("a word behind the version", _get(b"GET / HTTP/1.1 x"), 400),
        ("no target", _get(b"GET HTTP/1.1"), 400),
        ("no version", _get(b"GET /"), 400),
        ("HTTP/0.9 as it was spoken", b"GET /\r\n\r\n", 400),
        ("a version without digits", _get(b"GET / HTTP/"), 400),
        ("a version without a minor part", _get(b"GET / HTTP/1"), 400),
        ("a version of three parts", _get(b"GET / HTTP/1.1.1"), 400),
        ("a version of two digits", _get(b"GET / HTTP/1.10"), 400),
        ("another minor version", _get(b"GET / HTTP/1.2"), 400),
        ("version 0.9", _get(b"GET / HTTP/0.9"), 505),
        ("version 2.0", _get(b"GET / HTTP/2.0"), 505),
        ("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505),
        ("a version in lower case", _get(b"GET / http/1.1"), 400),
        ("another protocol", _get(b"GET / RTSP/1.0"), 400),
        ("ICY", _get(b"SOURCE / ICE/1.0"), 400),
        ("a method in lower case", _get(b"get / HTTP/1.1"), 400),
        ("a method nobody knows", _get(b"FROB / HTTP/1.1"), 400),
        ("a digit in the method", _get(b"G3T / HTTP/1.1"), 400),
        ("a method with a colon", _get(b"GET: / HTTP/1.1"), 400),
        ("no method", _get(b"/ HTTP/1.1"), 400),
        ("bare LF behind the line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
        ("bare LF throughout", b"GET / HTTP/1.1\nHost: a\n\n", 400),
        ("bare CR behind the line", b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
        ("CR CR LF", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
        ("a TLS hello", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", 400),
        ("a line of SSH", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
        ("a PROXY protocol line", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + _with(), 400),
        ("NUL before the method", b"\0" + _with(), 400),
        ("a byte order mark", b"\xef\xbb\xbf" + _with(), 400),
        ("OPTIONS", _get(b"OPTIONS / HTTP/1.1"), seen(b"OPTIONS /")),
        ("DELETE", _get(b"DELETE /x HTTP/1.1"), seen(b"DELETE /x")),
        ("PATCH without a body", _get(b"PATCH /x HTTP/1.1"), seen(b"PATCH /x")),
        ("TRACE", _get(b"TRACE / HTTP/1.1"), 400),
        ("CONNECT to an authority", _get(b"CONNECT b:443 HTTP/1.1"), 400),
        ("CONNECT to a path", _get(b"CONNECT / HTTP/1.1"), 400),
    )
]

_TARGETS = [
    _case("target", name, _get(b"GET %b HTTP/1.1" % target), *expected, nginx=nginx)
    for name, target, nginx, *expected in (
        ("query", b"/a?b=c&d", None, seen(b"GET /a?b=c&d")),
        ("an empty query", b"/a?", None, seen(b"GET /a?")),
        ("percent codes stay as they are", b"/%41%2f%2e%2E?x=%41", None, seen(b"GET /%41%2f%2e%2E?x=%41")),
        ("dots stay as they are", b"/a/./b/../c", None, seen(b"GET /a/./b/../c")),
        (
            "dots above the root stay as they are",
            b"/../../x",
            "nginx normalises; we forward the raw path, which is matched in its canonical form",
            seen(b"GET /../../x"),
        ),
        ("doubled slashes stay as they are", b"//a//b", None, seen(b"GET //a//b")),
        ("health is the upstream's here", b"/healthz", None, seen(b"GET /healthz")),
        ("metrics are the upstream's here", b"/metrics", None, seen(b"GET /metrics")),
        ("status is the upstream's here", b"/status", None, seen(b"GET /status")),
        ("a colon", b"/a:b", None, seen(b"GET /a:b")),
        ("an at sign", b"/@b", None, seen(b"GET /@b")),
        ("a semicolon", b"/a;v=1", None, seen(b"GET /a;v=1")),
        ("a percent sign alone", b"/100%", "a malformed code is the upstream's to judge", seen(b"GET /100%")),
        ("an escaped NUL", b"/a%00b", "a path that we do not decode cannot be cut short", seen(b"GET /a%00b")),
        ("a backslash", b"/a\\b", None, seen(b"GET /a\\b")),
        ("an address that looks like one of another host", b"//b/x", None, seen(b"GET //b/x")),
        ("a URL", b"http://a/x?y", None, seen(b"GET /x?y")),
        ("a URL of another host", b"http://evil.example/x", None, seen(b"GET /x")),
        ("a URL without a path", b"http://evil.example", None, seen(b"GET /")),
        (
            "a URL with a query and no path",
            b"http://evil.example?x",
            None,
            seen(b"GET /?x"),
        ),
        ("a URL with user information", b"http://u:p@a/x", "only the path of a URL counts here", seen(b"GET /x")),
        ("a URL in capitals", b"HTTP://A/x", None, seen(b"GET /x")),
        ("a https URL", b"https://a/x", None, seen(b"GET /x")),
        ("a URL of another scheme", b"ftp://a/x", None, 400),
        ("a fragment", b"/a#b", None, 400),
        ("a fragment in a query", b"/a?b#c", None, 400),
        ("a relative path", b"a", None, 400),
        ("a query alone", b"?a", None, 400),
        ("an authority", b"a:80", None, 400),
        ("an asterisk for GET", b"*", None, 400),
        ("NUL", b"/\0", None, 400),
        ("a control byte", b"/\x01", None, 400),
        ("DEL", b"/\x7f", None, 400),
        ("a byte beyond ASCII", b"/\xc3\xa9", None, 400),
    )
] + [
    _case(
        "target",
        "an asterisk for OPTIONS",
        _get(b"OPTIONS * HTTP/1.1"),
        seen(b"OPTIONS *"),
        nginx="RFC 9112 3.2.4 has it, and a reverse proxy passes it on",
    ),
]

_HOSTS = [
    _case("Host", name, b"GET / HTTP/1.1\r\n" + lines + b"\r\n", *expected, nginx=nginx)
    for name, lines, nginx, *expected in (
        ("a name and a port", b"Host: a.example:8080\r\n", None, ROOT),
        ("an IPv6 address", b"Host: [::1]:80\r\n", None, ROOT),
        ("an empty one", b"Host:\r\n", "RFC 9112 3.2 asks for it where a target has no authority", ROOT),
        ("one that is not ours", b"Host: evil.example\r\n", None, ROOT),
        ("none", b"X: y\r\n", None, 400),
        ("two", b"Host: a\r\nHost: b\r\n", None, 400),
        ("the same twice", b"Host: a\r\nHost: a\r\n", None, 400),
        ("a list", b"Host: a, b\r\n", None, 400),
        ("a space inside", b"Host: a b\r\n", None, 400),
        ("a path", b"Host: a/b\r\n", None, 400),
        ("a query", b"Host: a?b\r\n", None, 400),
        ("a fragment", b"Host: a#b\r\n", None, 400),
        ("user information", b"Host: u@a\r\n", None, 400),
        ("a backslash", b"Host: a\\b\r\n", None, 400),
        ("a quote", b'Host: "a"\r\n', None, 400),
        ("a space before the colon", b"Host : a\r\n", None, 400),
        ("a fold before it", b" Host: a\r\n", None, 400),
    )
]

_HEADERS = [
    _case("headers", name, _with(*lines), *expected, nginx=nginx)
    for name, lines, nginx, *expected in (
        ("order and case stay", (b"x-B: 1", b"X-a: 2"), None, seen(b"GET /", b"x-B: 1", b"X-a: 2")),
        ("repeated lines stay apart", (b"X: 1", b"X: 2"), None, seen(b"GET /", b"X: 1", b"X: 2")),
        ("white space before a value goes", (b"X: \t y",), None, seen(b"GET /", b"X: y")),
        ("white space behind a value stays", (b"X: y \t",), None, seen(b"GET /", b"X: y \t")),
        ("no space behind the colon", (b"X:y",), None, seen(b"GET /", b"X: y")),
        ("an empty value", (b"X:",), None, seen(b"GET /", b"X: ")),
        ("colons in a value", (b"X: a:b:c",), None, seen(b"GET /", b"X: a:b:c")),
        ("bytes beyond ASCII in a value", (b"X: \xe9",), None, seen(b"GET /", b"X: \xe9")),
        ("a tab inside a value", (b"X: a\tb",), None, seen(b"GET /", b"X: a\tb")),
        ("every character of a token", (b"!#$%&'*+-.^_`|~09Az: 1",), None, seen(b"GET /", b"!#$%&'*+-.^_`|~09Az: 1")),
        ("an underscore", (b"X_Y: 1",), None, seen(b"GET /", b"X_Y: 1")),
        ("no colon", (b"X",), None, 400),
        ("no name", (b": x",), None, 400),
        ("a space in a name", (b"X Y: 1",), None, 400),
        ("a space before the colon", (b"X : 1",), None, 400),
        ("a tab before the colon", (b"X\t: 1",), None, 400),
        ("NUL in a name", (b"X\0: 1",), None, 400),
        ("NUL in a value", (b"X: a\0b",), None, 400),
        ("a control byte in a value", (b"X: a\x01b",), None, 400),
        ("DEL in a value", (b"X: a\x7fb",), None, 400),
        ("a bare CR in a value", (b"X: a\rb",), None, 400),
        ("a bare LF in a value", (b"X: a\nY: b",), None, 400),
        ("a folded value", (b"X: a", b" b"), None, 400),
        ("a value folded by a tab", (b"X: a", b"\tb"), None, 400),
        ("a byte beyond ASCII in a name", (b"X\xe9: 1",), None, 400),
        ("parentheses in a name", (b"X(y): 1",), None, 400),
        ("a quote in a name", (b'"X": 1',), None, 400),
        ("100 headers", tuple(b"X-%d: y" % at for at in range(100)), None,
         seen(b"GET /", *(b"X-%d: y" % at for at in range(100)))),
        ("64 KiB of headers", tuple(b"X-%d: %b" % (at, b"y" * 4000) for at in range(17)), None, 431),
        ("one header of 64 KiB", (b"X: " + b"y" * 65536,), None, 431),
    )
]  # fmt: skip

_HOP_BY_HOP = [
    _case("hop by hop", name, _with(*lines), *expected, closes=closes)
    for name, lines, closes, *expected in (
        ("Connection: close ends it", (b"Connection: close",), True, ROOT),
        ("close among others ends it", (b"Connection: x, close", b"X: y"), True, ROOT),
        ("close on a line of its own", (b"Connection: keep-alive", b"Connection: close"), True, ROOT),
        ("Close in capitals", (b"Connection: CLOSE",), True, ROOT),
        ("keep-alive", (b"Connection: keep-alive", b"Keep-Alive: timeout=5"), False, ROOT),
        ("nominated headers go", (b"Connection: X-a, x-B", b"X-A: 1", b"X-b: 2", b"X-c: 3"), False,
         seen(b"GET /", b"X-c: 3")),
        ("nominated before and behind", (b"X-A: 1", b"Connection: x-a", b"x-a: 2"), False, ROOT),
        ("a nominated Host stays the upstream's", (b"Connection: host",), False, ROOT),
        ("a nominated credential goes", (b"Connection: authorization", b"Authorization: Bearer k"), False, ROOT),
        ("empty elements of the list", (b"Connection: , ,x-a,", b"X-a: 1"), False, ROOT),
        ("Proxy-Connection goes", (b"Proxy-Connection: close",), False, ROOT),
        ("TE goes", (b"TE: trailers", b"Connection: TE"), False, ROOT),
        ("TE goes without being named", (b"TE: trailers",), False, ROOT),
        ("Trailer goes", (b"Trailer: X",), False, ROOT),
        ("Proxy-Authorization goes", (b"Proxy-Authorization: Basic eDp5",), False, ROOT),
        ("HTTP2-Settings goes", (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAM"), False,
         ROOT),
        ("an Upgrade that is not served goes", (b"Connection: upgrade", b"Upgrade: TLS/1.3"), False, ROOT),
        ("an Upgrade that Connection does not name goes", (b"Upgrade: websocket",), False, ROOT),
        ("a websocket with a list", (b"Connection: upgrade", b"Upgrade: h2c, websocket"), False, ROOT),
    )
]  # fmt: skip

_LENGTHS = [
    _case("Content-Length", name, sent, *expected, nginx=nginx)
    for name, sent, nginx, *expected in (
        ("a body", _post(b"Content-Length: 5", body=b"hello"), None, HELLO),
        ("zero", _post(b"Content-Length: 0"), None, EMPTY),
        ("leading zeros", _post(b"Content-Length: 005", body=b"hello"), None, HELLO),
        ("white space around it", _post(b"Content-Length: \t5 ", body=b"hello"), _TAB, HELLO),
        ("none for a POST", _post(), None, EMPTY),
        ("a body that looks like a request", _post(b"Content-Length: %d" % len(AFTER), body=AFTER), None,
         seen(b"POST /p", body=AFTER)),
        ("a body of GET", _with(b"Content-Length: 5") + b"hello", None, seen(b"GET /", body=b"hello")),
        ("a body of DELETE", _get(b"DELETE /x HTTP/1.1", b"Content-Length: 5") + b"hello", None,
         seen(b"DELETE /x", body=b"hello")),
        ("in capitals", _post(b"CONTENT-LENGTH: 5", body=b"hello"), None, HELLO),
        ("two that differ", _post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), None, 400),
        ("the same twice", _post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), None, 400),
        ("a list", _post(b"Content-Length: 5, 5", body=b"hello"), None, 400),
        ("a plus sign", _post(b"Content-Length: +5", body=b"hello"), None, 400),
        ("a minus sign", _post(b"Content-Length: -5", body=b"hello"), None, 400),
        ("hexadecimal", _post(b"Content-Length: 0x5", body=b"hello"), None, 400),
        ("an underscore", _post(b"Content-Length: 1_0", body=b"hello"), None, 400),
        ("a fraction", _post(b"Content-Length: 5.0", body=b"hello"), None, 400),
        ("an exponent", _post(b"Content-Length: 5e0", body=b"hello"), None, 400),
        ("a quote", _post(b'Content-Length: "5"', body=b"hello"), None, 400),
        ("a semicolon", _post(b"Content-Length: 5;", body=b"hello"), None, 400),
        ("a space inside", _post(b"Content-Length: 5 5", body=b"hello"), None, 400),
        ("empty", _post(b"Content-Length:", body=b"hello"), None, 400),
        ("letters", _post(b"Content-Length: five", body=b"hello"), None, 400),
        ("digits that are not ASCII", _post(b"Content-Length: \xd9\xa5", body=b"hello"), None, 400),
        ("more than 64 bits", _post(b"Content-Length: 18446744073709551616", body=b"hello"), None, 400),
        ("a space before the colon", _post(b"Content-Length : 5", body=b"hello"), None, 400),
        ("folded", _post(b"Content-Length:", b" 5", body=b"hello"), None, 400),
        ("nominated by Connection", _post(b"Connection: content-length", b"Content-Length: 5", body=b"hello"), None, HELLO),
        ("spelled with an underscore", _post(b"Content_Length: 5", body=b""), None, 400),
    )
]  # fmt: skip

_CODINGS = [
    _case("Transfer-Encoding", name, sent, *expected, nginx=nginx)
    for name, sent, nginx, *expected in (
        ("chunked", _chunked(b"5\r\nhello\r\n0\r\n\r\n"), None, HELLO),
        ("in capitals", _post(b"TRANSFER-ENCODING: CHUNKED", body=b"5\r\nhello\r\n0\r\n\r\n"), None, HELLO),
        ("white space around it", _post(b"Transfer-Encoding: \tchunked ", body=b"0\r\n\r\n"), _TAB, EMPTY),
        ("beside a length", _post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), None, 400),
        ("before a length", _post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"), None, 400),
        ("beside a length of zero", _post(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), None,
         400),
        ("another coding first", _post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), None, 400),
        ("another coding last", _post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), None, 400),
        ("chunked twice in a list", _post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), None, 400),
        ("chunked on two lines", _post(*[b"Transfer-Encoding: chunked"] * 2, body=b"0\r\n\r\n"), None, 400),
        ("another coding on a line before", _post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked",
                                                  body=b"0\r\n\r\n"), None, 400),
        ("identity", _post(b"Transfer-Encoding: identity", body=b"hello"), None, 400),
        ("identity, chunked", _post(b"Transfer-Encoding: identity, chunked", body=b"0\r\n\r\n"), None, 400),
        ("unknown", _post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), None, 400),
        ("a letter behind", _post(b"Transfer-Encoding: chunkedx", body=b"0\r\n\r\n"), None, 400),
        ("a parameter", _post(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"), None, 400),
        ("a comma behind", _post(b"Transfer-Encoding: chunked,", body=b"0\r\n\r\n"), None, 400),
        ("a comma before", _post(b"Transfer-Encoding: ,chunked", body=b"0\r\n\r\n"), None, 400),
        ("quoted", _post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), None, 400),
        ("empty", _post(b"Transfer-Encoding:", body=b"0\r\n\r\n"), None, 400),
        ("a vertical tab before", _post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), None, 400),
        ("NUL behind", _post(b"Transfer-Encoding: chunked\0", body=b"0\r\n\r\n"), None, 400),
        ("a letter that folds to k", _post("Transfer-Encoding: chun\u212aed".encode(), body=b"0\r\n\r\n"), None, 400),
        ("folded", _post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"), None, 400),
        ("a space before the colon", _post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), None, 400),
        ("spelled with an underscore", _post(b"Transfer_Encoding: chunked", body=b""), None, 400),
        ("nominated by Connection", _post(b"Connection: transfer-encoding", b"Transfer-Encoding: chunked",
                                          body=b"5\r\nhello\r\n0\r\n\r\n"), None, HELLO),
        ("of a GET", _with(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", None,
         seen(b"GET /", body=b"hello")),
    )
]  # fmt: skip

_CHUNKS = [
    _case("chunks", name, _chunked(body), *expected, nginx=nginx)
    for name, body, nginx, *expected in (
        ("none but the last", b"0\r\n\r\n", None, EMPTY),
        ("several", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", None, HELLO),
        ("one of each byte", b"1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n", None, HELLO),
        ("sizes in either case", b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", None,
         seen(b"POST /p", body=b"0123456789" * 2)),
        ("leading zeros", b"0005\r\nhello\r\n0000\r\n\r\n", None, HELLO),
        ("an extension", b"5;a=b\r\nhello\r\n0;c\r\n\r\n", None, HELLO),
        ("a quoted extension", b'5;a="b;c"\r\nhello\r\n0\r\n\r\n', None, HELLO),
        ("a trailer", b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", None, HELLO),
        ("trailers that look like framing", b"5\r\nhello\r\n0\r\nContent-Length: 9\r\nHost: b\r\n\r\n", None, HELLO),
        ("content that looks like an end", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", None, seen(b"POST /p", body=b"0\r\n\r\n")),
        ("a size in 16 digits", b"0000000000000005\r\nhello\r\n0\r\n\r\n", None, HELLO),
        ("a size in 17 digits", b"00000000000000005\r\nhello\r\n0\r\n\r\n", None, 400),
        ("a size beyond 64 bits", b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n", None, 400),
        ("no size", b"\r\nhello\r\n0\r\n\r\n", None, 400),
        ("letters for a size", b"xyz\r\nhello\r\n0\r\n\r\n", None, 400),
        ("a signed size", b"+5\r\nhello\r\n0\r\n\r\n", None, 400),
        ("a negative size", b"-5\r\nhello\r\n0\r\n\r\n", None, 400),
        ("a prefixed size", b"0x5\r\nhello\r\n0\r\n\r\n", None, 400),
        ("an underscore in a size", b"0_5\r\nhello\r\n0\r\n\r\n", None, 400),
        ("a space before a size", b" 5\r\nhello\r\n0\r\n\r\n", None, 400),
        ("a space behind a size", b"5 \r\nhello\r\n0\r\n\r\n", None, 400),
        ("a tab before an extension", b"5\t;a\r\nhello\r\n0\r\n\r\n", None, 400),
        ("bare LF behind a size", b"5\nhello\r\n0\r\n\r\n", None, 400),
        ("bare CR behind a size", b"5\rhello\r\n0\r\n\r\n", None, 400),
        ("CR CR LF behind a size", b"5\r\r\nhello\r\n0\r\n\r\n", None, 400),
        ("bare LF behind content", b"5\r\nhello\n0\r\n\r\n", None, 400),
        ("two bytes that are no line end", b"5\r\nhelloXY0\r\n\r\n", None, 400),
        ("content longer than its size", b"4\r\nhello\r\n0\r\n\r\n", None, 400),
        ("bare LF in an extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n", None, 400),
        ("bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n", None, 400),
        ("NUL in an extension", b"5;a\0\r\nhello\r\n0\r\n\r\n", None, 400),
        ("a quote that does not end", b'5;a="b\r\nhello\r\n0\r\n\r\n', None, 400),
        ("an extension without a name", b"5;\r\nhello\r\n0\r\n\r\n", None, 400),
        ("an endless extension", b"5;" + b"a" * 70_000 + b"\r\nhello\r\n0\r\n\r\n", None, 400),
        ("a trailer without a colon", b"0\r\nX\r\n\r\n", None, 400),
        ("a folded trailer", b"0\r\nX: y\r\n z\r\n\r\n", None, 400),
        ("bare LF behind a trailer", b"0\r\nX: y\n\r\n", None, 400),
        ("bare LF at the end", b"0\r\n\n", None, 400),
        ("endless trailers", b"0\r\n" + b"X: yyyyyyyyyyyyyyyy\r\n" * 4000 + b"\r\n", None, 400),
    )
]  # fmt: skip

_EXPECT = [
    _case("Expect", name, sent, *expected, closes=closes)
    for name, sent, closes, *expected in (
        ("100-continue", _post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"), False, HELLO),
        ("in capitals", _post(b"Expect: 100-CONTINUE", b"Content-Length: 5", body=b"hello"), False, HELLO),
        ("with a chunked body", _post(b"Expect: 100-continue", b"Transfer-Encoding: chunked",
                                      body=b"5\r\nhello\r\n0\r\n\r\n"), False, HELLO),
        ("without a body", _with(b"Expect: 100-continue"), False, ROOT),
        ("something else", _post(b"Expect: 200-ok", b"Content-Length: 5", body=b"hello"), False, 400),
        ("a list", _post(b"Expect: 100-continue, x", b"Content-Length: 5", body=b"hello"), False, 400),
        ("empty", _post(b"Expect:", b"Content-Length: 5", body=b"hello"), False, 400),
        ("of HTTP/1.0", b"POST /p HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", True, HELLO),
    )
]  # fmt: skip

_HTTP10 = [
    _case("HTTP/1.0", name, sent, *expected, closes=closes)
    for name, sent, closes, *expected in (
        ("without Host", b"GET / HTTP/1.0\r\n\r\n", True, ROOT),
        ("with Host", b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", True, ROOT),
        ("two Hosts", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", False, 400),
        ("keep-alive", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False, ROOT),
        ("a body", b"POST /p HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", True, HELLO),
        ("a POST without a length", b"POST /p HTTP/1.0\r\n\r\n", True, EMPTY),
        ("chunked", b"POST /p HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False, 400),
        ("an Upgrade", b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", True, ROOT),
        ("TRACE", b"TRACE / HTTP/1.0\r\n\r\n", False, 400),
    )
]

_PIPELINES = [
    _case("pipelining", name, sent, *expected, closes=closes)
    for name, sent, closes, *expected in (
        ("two requests", _with() * 2, False, ROOT, ROOT),
        ("a body between", _post(b"Content-Length: 5", body=b"hello") + _with(), False, HELLO, ROOT),
        ("a chunked body between", _chunked(b"5\r\nhello\r\n0\r\nX: y\r\n\r\n") + _with(), False, HELLO, ROOT),
        ("line ends between", _with() + b"\r\n\r\n" + _with(), False, ROOT, ROOT),
        ("a bad one behind a good one", _with() + _get(b"GET  / HTTP/1.1"), False, ROOT, 400),
        ("a good one behind a bad one", _get(b"GET  / HTTP/1.1") + _with(), False, 400),
        ("one behind close", _with(b"Connection: close") + _with(), True, ROOT),
        ("bytes behind a length", _post(b"Content-Length: 5", body=b"hellox") + _with(), False, HELLO, 400),
        ("bytes behind a last chunk", _chunked(b"0\r\n\r\nx") + _with(), False, EMPTY, 400),
        ("a bad chunk behind a good request", _with() + _chunked(b"g\r\n"), False, ROOT, 400),
        ("ten", _with() * 10, False, *[ROOT] * 10),
        ("HEAD and GET", _get(b"HEAD / HTTP/1.1") + _with(), False, seen(b"HEAD /"), ROOT),
    )
]

CASES: tuple[Case, ...] = (
    *_REQUEST_LINES,
    *_TARGETS,
    *_HOSTS,
    *_HEADERS,
    *_HOP_BY_HOP,
    *_LENGTHS,
    *_CODINGS,
    *_CHUNKS,
    *_EXPECT,
    *_HTTP10,
    *_PIPELINES,
)
