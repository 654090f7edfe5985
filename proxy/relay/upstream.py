"""One connection to an upstream: writes a request, reads its response, says how it ended.

Layer: relay. Made by a pool, lent to one exchange at a time.

llhttp does not know the request, so this module ends HEAD answers itself; it would read on into bytes that nobody asked
for, so those make the connection unfit for another request (response smuggling, RFC 9112 11.2).
"""

import asyncio
from time import monotonic_ns
from typing import TYPE_CHECKING, cast

import httptools

from proxy.errors import RefusalError
from proxy.relay.guard import guarded
from proxy.wire.http1 import Headers, ResponseHead, read_response_head

if TYPE_CHECKING:
    from proxy.relay.exchange import Exchange
    from proxy.relay.pool import Pool

__all__ = ["Upstream"]


def _names_websocket(headers: Headers) -> bool:
    return [value.strip().lower() for name, value in headers if name.lower() == b"upgrade"] == [b"websocket"]


class Upstream(asyncio.Protocol):
    """The upstream's end of an exchange."""

    __slots__ = (
        "_complete",
        "_head",
        "_head_bytes",
        "_headers",
        "_parser",
        "_parts",
        "_pool",
        "_reason",
        "_refusal",
        "_to_head",
        "_unclean",
        "answered",
        "exchange",
        "expires_ns",
        "response",
        "reused",
        "transport",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # connection_made comes before any use
        self.exchange: Exchange | None = None
        self.reused = False
        self.expires_ns = 0
        """Monotonic moment after which an idle connection is not used any more."""
        self._renew()

    def _renew(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._ready()

    def _ready(self) -> None:
        self.response: ResponseHead | None = None
        self.answered = False
        self._head: ResponseHead | None = None
        self._head_bytes = 0
        self._headers: Headers = []
        self._reason = b""
        self._complete = False
        self._unclean = False
        self._refusal: RefusalError | None = None
        self._to_head = False

    # -- used by the exchange -----------------------------------------------------------------------------------------

    def lend(self, exchange: "Exchange", *, to_head: bool) -> None:
        """Begin an exchange on this connection; `to_head` when its method is HEAD."""
        self.exchange = exchange
        self._to_head = to_head

    def pause_reading(self) -> None:
        """Leave the response in the socket: the client takes no more."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def abort(self) -> None:
        """Close at once, whatever is under way: the upstream sees that nobody waits any more."""
        self.exchange = None
        self.transport.abort()

    def give_back(self, *, request_sent: bool) -> None:
        """End the exchange: into the pool when the connection is fit for another one, else closed."""
        self.exchange = None
        response = self.response
        fit = (
            request_sent
            and response is not None
            and response.keep_alive
            and self._complete
            and not self._unclean
            and not self.transport.is_closing()
            and not self.transport.get_write_buffer_size()  # answered early: the rest would precede the next request
        )
        if not fit or response is None:
            self.transport.abort()
            return
        if self._to_head:
            self._renew()  # llhttp still waits for the body that the head described
        else:
            self._ready()
        self.reused = True
        self._pool.put_back(self, response.keep_alive_timeout_s)

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, TLS included."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by class

    def data_received(self, data: bytes) -> None:
        """Stamp, parse, hand on; the exchange writes before it observes."""
        at_ns = monotonic_ns()
        exchange = self.exchange
        if exchange is None:
            self.transport.abort()  # nothing was asked, so whatever this is belongs to nobody
            return
        tunnel = exchange.tunnel
        if tunnel is not None and tunnel.is_open:
            tunnel.from_upstream(data)
            return
        self.answered = True
        switched_at = -1
        failure: RefusalError | None = None
        if self.response is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            switched_at = upgrade.args[0]
        except httptools.HttpParserError as error:
            failure = self._refusal or RefusalError("upstream_reset", "The upstream's answer is not valid HTTP.")
            if self._refusal is None and error.__context__ is not None:
                raise error.__context__ from None  # not the upstream's mistake but one of our callbacks
            if self._complete:
                self._unclean, failure = True, None  # it came after the response, whole by its own framing
        if self._head is not None:
            head, self._head = self._head, None
            self.response = head
            if head.status == 101:  # one behind a whole answer is a second answer, and nobody's
                exchange.switched(head, data[switched_at:])
                return
            exchange.response_head(head, at_ns)
        elif self.response is None and failure is None and self._head_bytes > self._pool.header_bytes:
            failure = RefusalError("upstream_reset", "The upstream's response head is too large.")
        if self.response is not None:
            parts = self._parts
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            if failure is None:
                exchange.response_data(body, self._complete, at_ns)
            elif body:
                exchange.response_data(body, False, at_ns)
        if failure is not None and self.exchange is exchange:
            exchange.upstream_failed(failure, at_ns)

    def eof_received(self) -> None:
        """FIN from the upstream; asyncio closes the connection and connection_lost tells the exchange."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End of the connection: the end of a close-delimited body, or a broken exchange."""
        self._pool.forget(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            guarded(exchange, self._end, exchange, exc)
        del self._parser  # it holds our methods: each would keep the other, and the transport, until a collection

    def _end(self, exchange: "Exchange", exc: Exception | None) -> None:
        at_ns = monotonic_ns()
        if exc is not None and not isinstance(exc, OSError):  # a callback of ours raised, and asyncio closed
            exchange.abort("internal")
        elif exchange.tunnel is not None and exchange.tunnel.is_open:
            exchange.tunnel_closed()
        elif self.response is not None and self.response.close_delimited and exc is None:
            self._complete = True
            exchange.response_data(b"", True, at_ns)
        else:
            exchange.upstream_lost(at_ns)

    def pause_writing(self) -> None:
        """The upstream takes no more of the request: stop reading the client."""
        if self.exchange is not None:
            self.exchange.upstream_blocked(True)

    def resume_writing(self) -> None:
        """The upstream takes bytes again."""
        if self.exchange is not None:
            self.exchange.upstream_blocked(False)

    # -- httptools ----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A response begins; a second one was not asked for."""
        if self._complete:
            self._unclean = True

    def on_status(self, reason: bytes) -> None:
        """A piece of the reason phrase."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line; after the head it is a trailer, which is dropped (RFC 9110 6.5.1)."""
        if self.response is None and self._head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The blank line: a final head, or an interim one."""
        if self._complete or self.exchange is None:
            return
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        limit = self._pool.header_bytes
        if self._head_bytes > limit and sum(len(name) + len(value) + 4 for name, value in headers) > limit:
            self._refusal = RefusalError("upstream_reset", "The upstream's response head is too large.")
            raise self._refusal  # whole in one read or not, its size is the same
        reason, self._reason = self._reason, b""
        if status < 100:
            self._refusal = RefusalError("upstream_reset", "The upstream's answer has no valid status.")
            raise self._refusal
        if 100 <= status < 200 and status != 101:
            self.exchange.interim(status, reason, headers)
            return
        try:
            head = read_response_head(status, self._parser.get_http_version(), reason, headers, to_head=self._to_head)
        except RefusalError as error:
            self._refusal = error
            raise
        if status == 101 and not (self._parser.should_upgrade() and _names_websocket(headers)):
            self._refusal = RefusalError("upstream_reset", "The upstream switched to a protocol that nobody asked for.")
            raise self._refusal
        self._head = head
        if self._to_head:
            self._complete = True

    def on_body(self, data: bytes) -> None:
        """Decoded body bytes."""
        if self._complete:
            self._unclean = True
        else:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        """The response is whole by its own framing. An interim head completes too, without being one."""
        if self.response is not None or self._head is not None:
            self._complete = True
