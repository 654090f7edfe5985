"""One client connection: reads requests one at a time and writes their answers in order.

Layer: relay. Made by the listening socket. It goes on reading while an answer is due, because only reading shows that a
client has left (ARCHITECTURE.md 5.3); what a pipelining client sends meanwhile is held up to `header_bytes`, then left
in the socket.
"""

import asyncio
import os
import socket
import struct
from time import monotonic_ns
from typing import TYPE_CHECKING, cast

from proxy.errors import RefusalError
from proxy.relay.exchange import Exchange
from proxy.relay.guard import guarded
from proxy.relay.route import Route
from proxy.wire.dialects.base import openai_error_body
from proxy.wire.http1 import ChunkedReader, HeadParser, KnownHead, serialise

if TYPE_CHECKING:
    from proxy.relay.worker import Worker

__all__ = ["Client"]

_LINGER_NS = 2_000_000_000
"""After an answer to a request that was not read whole: time in which the client may read it before a reset could
destroy it (RFC 9112 9.6)."""
_KNOWN_HEADS = 4
"""Heads that a worker knows from other connections: those of one application are alike, and share what is kept of them."""


class Client(asyncio.Protocol):
    """See the module."""

    __slots__ = (
        "_accepted_ns",
        "_blocked",
        "_body_left_bytes",
        "_chunked",
        "_closing",
        "_exchange",
        "_head_parser",
        "_held",
        "_held_bytes",
        "_in_body",
        "_known",
        "_raw_head",
        "_reading",
        "_transport",
        "_worker",
        "body_is_here",
        "deadline_ns",
        "keep_alive",
        "reset",
    )

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # connection_made comes before any use
        self._exchange: Exchange | None = None
        self._head_parser: HeadParser | None = None
        self._known: tuple[KnownHead, Route] | None = None
        """The last head and its way."""
        self._raw_head = b""
        self._accepted_ns = 0
        self._in_body = False
        self._body_left_bytes = 0
        self._chunked: ChunkedReader | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._reading = True
        self._closing = False
        self._blocked = False
        self.body_is_here = False
        """The request's whole body came with the end of its head: who is refused at the head keeps the connection."""
        self.keep_alive = True
        """Set by the exchange: whether this connection carries another request."""
        self.reset = False
        """Set by the exchange: end with a reset, because a FIN would look like a whole answer."""
        self.deadline_ns = 0
        """Monotonic moment at which the worker calls `deadline`; 0 for none."""

    # -- used by the exchange and the worker --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write to the client; nothing happens when it is gone."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def set_deadline(self, duration_ns: int, at_ns: int) -> None:
        """Call `deadline` when `duration_ns` have passed since `at_ns`."""
        self.deadline_ns = at_ns + duration_ns

    def clear_deadline(self) -> None:
        """No timeout until the next `set_deadline`."""
        self.deadline_ns = 0

    def pause_reading(self) -> None:
        """Leave further bytes in the socket."""
        if self._reading and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again, unless more is held than may be."""
        held_too_much = self._held_bytes > self._worker.settings.limits.header_bytes
        if not (self._reading or held_too_much or self._transport.is_closing()):
            self._reading = True
            self._transport.resume_reading()

    def take_held(self) -> bytes:
        """What was read beyond the present request."""
        data = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        self.resume_reading()
        return data

    def exchange_over(self, at_ns: int) -> None:
        """The exchange ended: the next request, or the end of the connection."""
        self._exchange = None
        if self._transport.is_closing():
            return
        if self.reset:
            self._reset()
        elif not self.keep_alive or (self._worker.draining and not self._held):
            self._close(at_ns)
        else:
            self.set_deadline(self._worker.keepalive_ns, at_ns)
            if self._held:
                asyncio.get_running_loop().call_soon(guarded, self, self._read_held)
            else:
                self.resume_reading()

    def deadline(self, now_ns: int) -> None:
        """The timeout passed."""
        guarded(self, self._time_out, now_ns)

    def _time_out(self, now_ns: int) -> None:
        self.deadline_ns = 0
        if self._closing:
            self._transport.abort()
        elif self._exchange is not None:
            self._exchange.deadline(now_ns)
        elif self._raw_head:
            self._refuse(RefusalError("client_timeout", "The request's head did not arrive in time."), now_ns)
        else:
            self._close(now_ns)

    @property
    def is_leaving(self) -> bool:
        """True from the decision to close until the last byte is flushed."""
        return self._closing or self._transport.is_closing()

    def drain(self, linger_ns: int) -> None:
        """No further request: idle connections close now, busy ones after their answer.

        With `linger_ns`, an idle one may still bring a request for so long: it may be under way, or the connection just made.
        """
        if self._exchange is None and not self._raw_head and (self._blocked or not self._held):
            if linger_ns and not self._blocked:
                self.set_deadline(linger_ns, monotonic_ns())
            else:
                self._close(monotonic_ns())  # a client that has not taken its answer yet may go on taking it

    def abort(self, error_type: str) -> None:
        """End now, answer or not; `error_type` as in `Exchange.abort`."""
        if self._exchange is not None:
            self._exchange.abort(error_type)
        else:
            self._transport.abort()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted, TLS included."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by class
        self._worker.clients.add(self)
        self.set_deadline(self._worker.linger_ns or self._worker.keepalive_ns, monotonic_ns())

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, of a tunnel, or of a request that has to wait."""
        if self._closing:
            return
        exchange = self._exchange
        if self._in_body:
            self._read(data)
        elif exchange is None:
            if self._held:  # that came first
                self._hold(data)
            else:
                self._read(data)
        elif exchange.tunnel is not None and exchange.tunnel.is_open:
            exchange.tunnel.from_client(data)
        else:
            self._hold(data)

    def eof_received(self) -> None:
        """FIN: leaving when an answer is due (half-closing clients are documented as leaving)."""
        if self._exchange is not None:
            self._exchange.client_left()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._worker.client_gone(self)
        self.deadline_ns = 0
        if self._exchange is not None:
            if exc is not None and not isinstance(exc, OSError):  # a callback of ours raised, and asyncio closed
                self._exchange.abort("internal")
            else:
                guarded(self, self._exchange.client_left)
        elif self._raw_head and not self._closing:
            self._worker.connections_malformed += 1  # half a head, then gone

    def pause_writing(self) -> None:
        """The client takes no more: stop reading the upstream."""
        self._blocked = True
        if self._exchange is not None:
            self._exchange.client_blocked(True)

    def resume_writing(self) -> None:
        """The client takes bytes again."""
        self._blocked = False
        if self._exchange is not None:
            self._exchange.client_blocked(False)
        elif self._held:
            asyncio.get_running_loop().call_soon(guarded, self, self._read_held)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > self._worker.settings.limits.header_bytes:
            self.pause_reading()

    def _read_held(self) -> None:
        if self._exchange is None and not (self._blocked or self._closing or self._transport.is_closing()):
            data = self.take_held()
            if data:
                self._read(data)

    def _read(self, data: bytes) -> None:
        at_ns = monotonic_ns()
        try:
            while data and not self._closing:
                if self._in_body:
                    data = self._read_body(data, at_ns)
                elif self._exchange is None and not self._blocked:  # who takes no answer gets no further one to take
                    data = self._read_head(data, at_ns)
                else:
                    self._hold(data)
                    return
        except RefusalError as error:
            exchange = self._exchange
            self._in_body = True  # what follows cannot be read as a request any more
            if exchange is not None:
                exchange.refuse(error)
            else:
                self._refuse(error, at_ns)

    def _read_head(self, data: bytes, at_ns: int) -> bytes:
        worker = self._worker
        parser = self._head_parser
        if parser is None and (found := self._recall(data)) is not None:
            route, (head_bytes, content_length, traceparent) = found
            self._accepted_ns = at_ns
            rest = data[head_bytes:]
            self._begin(route, content_length, traceparent or route.traceparent, rest, at_ns)
            return rest
        if parser is None:
            parser = self._head_parser = HeadParser()
            self.set_deadline(self._worker.client_body_ns, at_ns)  # once: empty lines before a head do not renew it
        before = len(self._raw_head)
        if not before:
            self._accepted_ns = at_ns
        raw = self._raw_head + data if before else data
        end = raw.find(b"\r\n\r\n", max(before - 3, 0)) + 4
        limit = worker.settings.limits.header_bytes
        if (end if end >= 4 else len(raw)) > limit:
            self._raw_head = raw[:limit]
            raise RefusalError("header_too_large", f"The request's head is larger than {limit} bytes.")
        if end < 4:
            self._raw_head = raw
            parser.feed(data)
            return b""
        self._raw_head = b""
        rest = raw[end:]
        parser.feed(data[: end - before])
        if (
            not parser.complete
        ):  # empty lines before a request (RFC 9112 2.2): all at once, each would copy what follows it
            return rest.lstrip(b"\r\n")
        self._head_parser = None
        raw = raw[:end]
        head = parser.head(raw, worker.interesting)
        route = Route(worker, head)
        known = None if head.chunked else KnownHead.of(raw, head.content_length, traced=worker.propagate)
        if known is not None:
            self._known = known, route
            worker.known_heads.insert(0, self._known)
            del worker.known_heads[_KNOWN_HEADS:]
        self._begin(route, head.content_length, route.traceparent, rest, at_ns)
        return rest

    def _recall(self, data: bytes) -> tuple[Route, tuple[int, int | None, bytes | None]] | None:
        """The way of a head that was read before, here or on another connection, and what `KnownHead.matches` says of it."""
        if self._known is not None:
            known, route = self._known
            same = known.matches(data)
            if same is not None:
                return route, same
        for pair in self._worker.known_heads:
            same = pair[0].matches(data)
            if same is not None:
                self._known = pair
                return pair[1], same
        return None

    def _begin(
        self, route: Route, content_length: int | None, traceparent: bytes | None, rest: bytes, at_ns: int
    ) -> None:
        self._body_left_bytes = content_length or 0
        self.body_is_here = not route.head.chunked and len(rest) >= self._body_left_bytes
        self._chunked = ChunkedReader(self._worker.settings.limits.header_bytes) if route.head.chunked else None
        self._in_body = bool(content_length) or route.head.chunked
        self.keep_alive = True
        exchange = self._exchange = Exchange(self._worker, self, route, content_length, traceparent, self._accepted_ns)
        self._worker.exchange_begun()
        exchange.begin(at_ns)

    def _read_body(self, data: bytes, at_ns: int) -> bytes:
        exchange = self._exchange
        if self._chunked is not None:
            body, rest = self._chunked.feed(data)
            complete = self._chunked.complete
        else:
            body = data if len(data) <= self._body_left_bytes else data[: self._body_left_bytes]
            rest = data[len(body) :]
            self._body_left_bytes -= len(body)
            complete = not self._body_left_bytes
        if exchange is None:  # it was refused at the head, and keeps the connection
            self._in_body = not complete
            return rest
        if body:
            exchange.request_data(body, at_ns)
        if complete and self._exchange is exchange:
            self._in_body = False
            self._chunked = None
            exchange.request_end(at_ns)
        return rest

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _refuse(self, error: RefusalError, at_ns: int) -> None:
        """Answer bytes that are no request; they are a counter, not an exchange."""
        self._worker.connections_malformed += 1
        refusal = error.refusal
        body = openai_error_body(refusal.envelope_type, error.error_type, error.message)
        headers = [
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
            (b"x-lengthwise-error", error.error_type.encode()),
            (b"Connection", b"close"),
        ]
        if refusal.final:
            headers.insert(3, (b"x-should-retry", b"false"))
        self.write(serialise(b"HTTP/1.1 %d %b" % (refusal.status, refusal.reason), headers) + body)
        self._in_body = True
        self._close(at_ns)

    def _close(self, at_ns: int) -> None:
        """Flush and close; wait a little for a client that is still sending, so that it can read its answer."""
        self._closing = True
        self._held.clear()
        self._held_bytes = 0
        self.set_deadline(_LINGER_NS if self._in_body else self._worker.keepalive_ns, at_ns)
        if self._in_body and self._transport.can_write_eof():
            self.resume_reading()
            self._transport.write_eof()
        else:
            self._transport.close()

    def _reset(self) -> None:
        """Close so that the client sees an error: RST after what the kernel still sends."""
        self._closing = True
        try:
            with socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno())) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # already gone
        self._transport.close()
        self.set_deadline(self._worker.keepalive_ns, monotonic_ns())
