"""HTTP/1.x heads, checked and filtered; the framing that llhttp leaves to its caller.

Layer: wire, sans-io. The relay owns the sockets, httptools (llhttp) tokenises; this module decides what a head *means*
and refuses what two implementations could read differently. Bodies are never forwarded verbatim: they are decoded and
framed again, so the functions that frame stand here too.

Invariants: ARCHITECTURE.md 5.1 (the complete list of header differences), 5.9 (an absolute-form authority is ignored).
Source: RFC 9110 7.6 (hop-by-hop), RFC 9112 2-7 (message format, request target, framing).
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

import httptools

from proxy.errors import RefusalError

__all__ = [
    "LAST_CHUNK",
    "ChunkedReader",
    "HeadParser",
    "Headers",
    "KnownHead",
    "RequestHead",
    "ResponseHead",
    "chunk",
    "read_request_head",
    "read_response_head",
    "serialise",
    "without",
]

Headers = list[tuple[bytes, bytes]]

LAST_CHUNK = b"0\r\n\r\n"
"""Terminator of a chunked body; sent only when the body really ended (ARCHITECTURE.md 5.2)."""

_VERSIONS = frozenset(("1.1", "1.0"))
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
# Proxy-Authenticate and Proxy-Authorization are between a client and the proxy that asked for them, which is us.
_PROXY_ONLY = frozenset((b"proxy-authenticate", b"proxy-authorization"))

_REQUEST_SPECIAL = _HOP_BY_HOP | _PROXY_ONLY | {b"host", b"content-length", b"expect", b"http2-settings"}
_RESPONSE_SPECIAL = _HOP_BY_HOP | _PROXY_ONLY | {b"content-length", b"content-type", b"content-encoding"}
_LISTS = frozenset((b"content-encoding", b"content-type", b"tracestate"))
# Names that some servers read as a framing header although it is spelled with an underscore.
_LOOKALIKES = frozenset((b"transfer_encoding", b"content_length", b"content-length_", b"transfer-encoding_"))

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)(?=\r\n)", re.IGNORECASE)
_LENGTH_DIGITS = 16
_TRACEPARENTS = re.compile(rb"\r\ntraceparent:", re.IGNORECASE)
_TRACEPARENT = re.compile(rb"\r\ntraceparent:[ \t]*([0-9a-f-]{55})(?=\r\n)", re.IGNORECASE)
_TRACE_VALUE = re.compile(rb"[0-9a-f-]{55}")
_TRACE_BYTES = 55  # version 00; others are read in full
_NOTHING, _LENGTH, _TRACE = range(3)
# RFC 9112 7.1, without the white space that a recipient may take and two may take differently.
_CHUNK_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:;[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    rb"(?:=(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+|\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\"))?)*\r\n"
)
_WHOLE_CHUNK = re.compile(rb"([1-9A-Fa-f][0-9A-Fa-f]{0,15})\r\n")
_CHUNK_END = re.compile(rb"\r\n")
_TRAILER = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*)?\r\n")  # or the line that ends them
_HOST_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_~:[]%")


class RequestHead(NamedTuple):
    """A request head that passed every check."""

    method: bytes
    target: bytes
    """Origin-form: raw path and query, always starting with `/` (`*` for a server-wide OPTIONS)."""
    http10: bool
    headers: Headers
    """End-to-end headers as they came: names, values, order, duplicates. Without Host and Content-Length."""
    named: dict[bytes, bytes]
    """Lower-case names of headers that the caller asked for, last value wins."""
    content_length: int | None
    """None when absent or chunked."""
    chunked: bool
    keep_alive: bool
    expect_continue: bool
    upgrade: bytes | None
    """Lower-case protocol of an upgrade that the client asks for; None when it does not."""


class ResponseHead(NamedTuple):
    """An upstream's response head that passed every check."""

    status: int
    reason: bytes
    headers: Headers
    """End-to-end headers as they came, without Content-Length."""
    content_length: int | None
    chunked: bool
    bodyless: bool
    """True when no body follows whatever the headers say: HEAD, 204, 304."""
    keep_alive: bool
    """True when the connection can carry another request afterwards."""
    keep_alive_timeout_s: float | None
    """The upstream's own `Keep-Alive: timeout=`."""
    event_stream: bool
    content_encoding: str
    """Lower-case; empty for none."""

    @property
    def close_delimited(self) -> bool:
        """True when only the end of the connection ends the body."""
        return not (self.bodyless or self.chunked) and self.content_length is None


class HeadParser:
    """Collects what httptools calls back while it reads one request head.

    Feed it bytes up to and including the blank line, never further: the body's framing is the caller's, because
    llhttp would go on into a pipelined request (RFC 9112 9.3.2) and stops at any `Upgrade`, honoured or not.
    """

    __slots__ = ("_parser", "complete", "headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: Headers = []
        self.complete = False
        self._parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        """httptools: a piece of the request target."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: one header line."""
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """httptools: the blank line."""
        self.complete = True

    def feed(self, data: bytes) -> None:
        """Read bytes of the head.

        Raises:
            RefusalError: `malformed_request`, or `http_version` for the HTTP/2 preface.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            if self.target == b"*" and "PRI" in str(error):
                raise RefusalError("http_version", "HTTP/2 is not spoken here; use HTTP/1.1.") from None
            raise RefusalError("malformed_request", f"Malformed HTTP request: {error}.") from None

    def head(self, raw: bytes, interesting: Collection[bytes]) -> RequestHead:
        """Check and filter a complete head; the last thing that is asked of a parser.

        Args:
            raw: The head's bytes, for what llhttp reads leniently.
            interesting: Lower-case names to collect in `named`.

        Raises:
            RefusalError: `malformed_request` or `http_version`.
        """
        method: bytes = self._parser.get_method()
        version: str = self._parser.get_http_version()
        del self._parser  # it holds our methods: each would keep the other until a collection
        # llhttp takes several spaces between the parts of a request line; RFC 9112 3 has one. Empty lines may come first.
        if not raw.lstrip(b"\r\n").startswith(b"%b %b HTTP/" % (method, self.target)):
            raise _malformed("request line")
        return read_request_head(method, self.target, version, self.headers, interesting)


class KnownHead:
    """A checked head, to recognise the next one when it differs in its Content-Length and traceparent alone.

    A client sends the same head with each request of a connection, unless it puts an id of its own into it; comparing costs
    a twentieth of parsing and checking. What is the same but for the digits of a length that was checked to be a number,
    and for one value that is read on its own, means the same.
    """

    __slots__ = ("_pieces",)

    def __init__(self, pieces: "tuple[tuple[bytes, int], ...]") -> None:
        self._pieces = pieces
        """(bytes that must stand there, what follows them): `_NOTHING`, `_LENGTH` or `_TRACE`."""

    @classmethod
    def of(cls, raw: bytes, content_length: int | None, *, traced: bool) -> "KnownHead | None":
        """A checked head and the length that was read in it; None when it has a part that is spelled in a way not known here.

        Args:
            raw: The whole head.
            content_length: None for a head without one.
            traced: True when the traceparent is not forwarded as it is, so that it may differ.
        """
        marks: list[tuple[int, int, int]] = []
        if content_length is not None:
            found = _CONTENT_LENGTH.search(raw)
            if found is None:
                return None
            marks.append((*found.span(1), _LENGTH))
        parents = _TRACEPARENTS.findall(raw) if traced else []
        if len(parents) == 1 and (parent := _TRACEPARENT.search(raw)) is not None:
            marks.append((*parent.span(1), _TRACE))
        pieces, at = [], 0
        for start, end, kind in sorted(marks):
            pieces.append((raw[at:start], kind))
            at = end
        return cls((*pieces, (raw[at:], _NOTHING)))

    def matches(self, data: bytes) -> tuple[int, int | None, bytes | None] | None:
        """(bytes of the head, its Content-Length, its traceparent) when `data` begins with the known head, else None.

        The traceparent is None when the head has none or was known with the very one.
        """
        at, length, trace = 0, None, None
        for piece, kind in self._pieces:
            if not data.startswith(piece, at):
                return None
            at += len(piece)
            if kind == _LENGTH:
                end = data.find(b"\r", at, at + _LENGTH_DIGITS)
                digits = data[at:end]
                if end < 0 or not digits.isdigit():
                    return None
                length, at = int(digits), end
            elif kind == _TRACE:
                trace = data[at : at + _TRACE_BYTES]
                if _TRACE_VALUE.fullmatch(trace) is None:
                    return None
                at += _TRACE_BYTES
        return at, length, trace


def _malformed(what: str) -> RefusalError:
    return RefusalError("malformed_request", f"Malformed HTTP request: {what}.")


def read_request_head(
    method: bytes, target: bytes, version: str, headers: Headers, interesting: Collection[bytes]
) -> RequestHead:
    """Check what llhttp lets through, and split end-to-end headers from those of this connection.

    llhttp refuses on its own: bare LF, obs-fold, CL with TE, repeated or odd Content-Length, control bytes, space
    before a colon. It accepts and we refuse: no Host or several (RFC 9112 3.2), Host that is no authority, targets of
    other forms, fragments, Transfer-Encoding other than one `chunked`, TE in HTTP/1.0 (6.1), framing lookalikes.

    Raises:
        RefusalError: `malformed_request` or `http_version`.
    """
    if version not in _VERSIONS:
        raise RefusalError("http_version", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    http10 = version == "1.0"
    forward: Headers = []
    named: dict[bytes, bytes] = {}
    hosts = 0
    content_length: int | None = None
    chunked = expect_continue = False
    upgrade: bytes | None = None
    connection: set[bytes] | None = None
    for pair in headers:
        name = pair[0].lower()
        if name not in _REQUEST_SPECIAL:
            if name in interesting:
                # Of a list header every line counts (RFC 9110 5.3), or what is judged is not what is read.
                before = named.get(name) if name in _LISTS else None
                named[name] = pair[1] if before is None else before + b", " + pair[1]
            if name in _LOOKALIKES:
                raise _malformed("a header that looks like a framing header")
            forward.append(pair)
        elif name == b"host":
            hosts += 1
            if not _HOST_BYTES.issuperset(pair[1].strip()):
                raise _malformed("Host is not an authority")
        elif name == b"content-length":
            content_length = int(pair[1])
        elif name == b"transfer-encoding":
            if chunked or http10 or pair[1].strip(b" \t").lower() != b"chunked":
                raise _malformed("Transfer-Encoding other than a single chunked")
            chunked = True
        elif name == b"connection":
            connection = (connection or set()) | _tokens(pair[1])
        elif name == b"expect":
            if pair[1].strip().lower() != b"100-continue":
                raise _malformed("Expect other than 100-continue")
            expect_continue = not http10
        elif name == b"upgrade":
            upgrade = pair[1].strip().lower()
    if hosts > 1 or not (hosts or http10):
        raise _malformed("exactly one Host is needed")
    keep_alive = not http10
    if connection is not None:
        keep_alive = b"close" not in connection and (keep_alive or b"keep-alive" in connection)
        if http10 or b"upgrade" not in connection:  # RFC 9110 7.8: HTTP/1.0 has no upgrades
            upgrade = None
        connection -= {b"close", b"keep-alive", b"upgrade"}
        if connection:
            forward = [pair for pair in forward if pair[0].lower() not in connection]
            # What is not forwarded must not be judged either: the upstream would read another body than the policy.
            named = {name: value for name, value in named.items() if name not in connection}
    else:
        upgrade = None
    return RequestHead(
        method=method,
        target=_origin_form(method, target),
        http10=http10,
        headers=forward,
        named=named,
        content_length=content_length,
        chunked=chunked,
        keep_alive=keep_alive,
        expect_continue=expect_continue,
        upgrade=upgrade,
    )


def _origin_form(method: bytes, target: bytes) -> bytes:
    """The path and query that count; the authority of an absolute-form target never chooses a host (RFC 9112 3.2.2)."""
    if method in {b"CONNECT", b"TRACE"}:
        raise _malformed("method is not served by a reverse proxy")
    if b"#" in target:
        raise _malformed("request target has a fragment")
    if target[:1] == b"/":
        return target
    if target == b"*" and method == b"OPTIONS":
        return target
    if target[:7].lower() == b"http://" or target[:8].lower() == b"https://":
        rest = target.split(b"//", 1)[1]
        cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        path = rest[cut:]
        return path if path[:1] == b"/" else b"/" + path
    raise _malformed("request target is neither a path nor a URL")


def read_response_head(status: int, version: str, reason: bytes, headers: Headers, *, to_head: bool) -> ResponseHead:
    """Check and filter an upstream's response head.

    Raises:
        RefusalError: `upstream_reset`, when its framing cannot be kept (a transfer coding other than chunked, another
            version of HTTP).
    """
    if version not in _VERSIONS:
        raise RefusalError("upstream_reset", "The upstream's answer is in another version of HTTP.")
    forward: Headers = []
    content_length: int | None = None
    chunked = event_stream = proxy_close = False
    content_encoding = ""
    connection: set[bytes] | None = None
    timeout_s: float | None = None
    for pair in headers:
        name = pair[0].lower()
        if name not in _RESPONSE_SPECIAL:
            forward.append(pair)
        elif name == b"content-type":
            forward.append(pair)
            event_stream = pair[1].lstrip()[:17].lower() == b"text/event-stream"
        elif name == b"content-encoding":
            forward.append(pair)
            content_encoding = pair[1].strip().lower().decode("latin-1")
        elif name == b"content-length":
            content_length = int(pair[1])
        elif name == b"transfer-encoding":
            if chunked or pair[1].strip(b" \t").lower() != b"chunked":
                raise RefusalError("upstream_reset", "The upstream's answer has a transfer coding other than chunked.")
            chunked = True
        elif name == b"connection":
            connection = (connection or set()) | _tokens(pair[1])
        elif name == b"keep-alive":
            timeout_s = _keep_alive_timeout_s(pair[1])
        elif name == b"proxy-connection":  # means nothing (RFC 9112 C.2.2), but llhttp reads no further behind a close
            proxy_close = b"close" in _tokens(pair[1])
    keep_alive = version == "1.1"
    if connection is not None:
        keep_alive = b"close" not in connection and (keep_alive or b"keep-alive" in connection)
        connection -= {b"close", b"keep-alive"}
        if connection:
            forward = [pair for pair in forward if pair[0].lower() not in connection]
    bodyless = to_head or status in {204, 304}
    return ResponseHead(
        status=status,
        reason=reason,
        headers=forward,
        content_length=content_length,
        chunked=chunked,
        bodyless=bodyless,
        # HTTP/1.0 has no chunks: a server that sends some is read, and its connection not trusted (RFC 9112 6.1).
        keep_alive=keep_alive
        and not (proxy_close or (chunked and version == "1.0"))
        and (bodyless or chunked or content_length is not None),
        keep_alive_timeout_s=timeout_s,
        event_stream=event_stream,
        content_encoding="" if content_encoding == "identity" else content_encoding,
    )


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip().lower() for token in value.split(b",")} - {b""}


def _keep_alive_timeout_s(value: bytes) -> float | None:
    for parameter in value.split(b","):
        name, _, seconds = parameter.strip().partition(b"=")
        if name.lower() == b"timeout" and seconds.isdigit():
            return float(seconds)
    return None


def without(headers: Headers, names: Collection[bytes]) -> Headers:
    """`headers` less those with one of these lower-case names."""
    return [pair for pair in headers if pair[0].lower() not in names]


def serialise(start_line: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A head's bytes, with its blank line; `start_line` without line end."""
    parts = [start_line]
    for name, value in headers:
        parts += (b"\r\n", name, b": ", value)
    parts.append(b"\r\n\r\n")
    return b"".join(parts)


def chunk(data: bytes) -> bytes:
    """One chunk; `data` must not be empty, for an empty chunk ends a body (RFC 9112 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class ChunkedReader:
    """Decodes one chunked request body and knows where it ends; what follows stays the caller's.

    To the letter of RFC 9112 7.1, and in time that is linear in the bytes, whatever they are: contents are sliced by their
    length, and only framing is searched for line ends. Overhead (sizes, extensions, trailers) is bounded: a body of one-byte
    chunks with long extensions is refused. Trailers are dropped (RFC 9110 6.5.1).
    """

    __slots__ = ("_expected", "_left_bytes", "_line", "_overhead_bytes", "_overhead_limit", "complete")

    def __init__(self, overhead_bytes: int) -> None:
        self.complete = False
        self._expected = _CHUNK_SIZE
        """What the next line is, when no content is left."""
        self._left_bytes = 0
        """Content that the present chunk still has."""
        self._line = bytearray()
        """Beginning of a line that is not complete."""
        self._overhead_bytes = 0
        self._overhead_limit = overhead_bytes

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Decode `data`: (body bytes, what follows the body).

        Raises:
            RefusalError: `malformed_request`.
        """
        body: list[bytes] = []
        position, taken, size = 0, 0, len(data)
        # A client may choose one chunk for each write; 16 bytes a read and an eighth of the body are generous for sizes.
        most = self._overhead_limit - self._overhead_bytes + size // 8 + 16
        while position < size and not self.complete:
            if self._left_bytes:
                piece = data[position : position + self._left_bytes]
                self._left_bytes -= len(piece)
            elif self._expected is _CHUNK_SIZE and (found := _WHOLE_CHUNK.match(data, position)) and not self._line:
                # The usual case at a third of the cost: size and content in one read. A last chunk is none of these.
                position = found.end()
                piece = data[position : position + int(found[1], 16)]
                self._left_bytes = int(found[1], 16) - len(piece)
                self._expected = _CHUNK_END
            else:
                end = data.find(b"\n", position) + 1 or size
                self._line += data[position:end]
                position, piece = end, b""
                if self._line.endswith(b"\n"):
                    self._read_line()
                elif len(self._line) > self._overhead_limit:
                    raise _malformed("chunked body: an endless line")
            if piece:
                body.append(piece)
                taken += len(piece)
                position += len(piece)
                if not self._left_bytes and data.startswith(b"\r\n", position):
                    position += 2
                    self._expected = _CHUNK_SIZE
            if position - taken > most:  # whatever is still to come of this read
                raise _malformed("chunked body: more framing than content")
        self._overhead_bytes += max(position - taken - taken // 8 - 16, 0)
        if self._overhead_bytes > self._overhead_limit:
            raise _malformed("chunked body: more framing than content")
        return b"".join(body), data[position:]

    def _read_line(self) -> None:
        """Take the complete line for what is expected."""
        found = self._expected.fullmatch(self._line)
        if found is None:
            raise _malformed("chunked body")
        if self._expected is _CHUNK_SIZE:
            self._left_bytes = int(found[1], 16)
            self._expected = _CHUNK_END if self._left_bytes else _TRAILER
        elif self._expected is _CHUNK_END:
            self._expected = _CHUNK_SIZE
        elif self._line == b"\r\n":
            self.complete = True
        self._line.clear()
