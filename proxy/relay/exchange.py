"""One request and its response: judged, sent, relayed, observed, and recorded exactly once.

Layer: relay. Between one client connection and one upstream connection; every callback of either ends up here. Nothing
awaits: each method does what its bytes allow and returns.

Order on the way back: stamp, write, observe; only whether an event is the usual one is told, by its bytes, before it is written, because
then nothing can have to be cut from it. Whatever ends an exchange goes through `_over`, which takes the state out
of the way first, so that the second end finds nothing to do (ARCHITECTURE.md 5.5).
"""

import asyncio
import random
from collections.abc import Sequence
from enum import Enum, auto
from functools import partial
from time import monotonic_ns, time, time_ns
from typing import TYPE_CHECKING

from proxy.errors import RefusalError
from proxy.observe.observer import Observer
from proxy.policy.decide import may_enforce
from proxy.policy.refusal import refusal_of
from proxy.record import (
    Decision,
    End,
    ExchangeRecord,
    ResponseFacts,
    end_of_refusal,
)
from proxy.relay.guard import guarded, report
from proxy.relay.judge import judge, origin_of
from proxy.relay.route import Route
from proxy.relay.tunnel import Tunnel
from proxy.relay.upstream import Upstream
from proxy.wire.dialects.base import openai_error_body
from proxy.wire.http1 import LAST_CHUNK, Headers, ResponseHead, chunk, serialise, without
from proxy.wire.sse import UsageCutter
from proxy.wire.trace_context import continue_trace

if TYPE_CHECKING:
    from proxy.relay.client import Client
    from proxy.relay.worker import Worker

__all__ = ["Exchange"]

_ID_MASK = (1 << 96) - 1
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_UNSENT_BYTES = 65536
"""Request bytes held for an upstream that is still connecting; more stays in the client's socket."""
_NO_DECISION = Decision()
_REFUSING_STATUS = frozenset((400, 422))
_USAGE_FIELD = b"stream_options"
_DOUBTFUL_BYTES = 65536
"""An error that names a field is short; a longer one is passed on."""
_REFUSED_PATHS = 1024
"""Paths that are remembered for an upstream; beyond them each request asks anew."""


class Phase(Enum):
    """What the exchange waits for; decides which timeout applies."""

    REQUEST = auto()
    CONNECT = auto()
    SEND = auto()
    FIRST_BYTE = auto()
    BODY = auto()
    OVER = auto()


# Bound once: reading a member through its class costs as much as the rest of the comparison.
_REQUEST, _CONNECT, _SEND, _FIRST_BYTE, _BODY, _OVER = Phase
_WHOLE = (End.COMPLETE, End.UPSTREAM_ERROR)


class Exchange:
    """See the module; made by a client connection when a request head is complete."""

    __slots__ = (
        "_accepted_ns",
        "_asked_again",
        "_blocked_since_ns",
        "_body",
        "_chunked_to_client",
        "_client",
        "_client_blocked_ns",
        "_connect_started_ns",
        "_connected_ns",
        "_connecting",
        "_content_length",
        "_cutter",
        "_decision",
        "_decoded",
        "_degraded",
        "_dialect",
        "_doubtful",
        "_facts",
        "_first_write_ns",
        "_head",
        "_headers_ns",
        "_observer",
        "_pending_head",
        "_pool",
        "_repeated_ns",
        "_request_bytes",
        "_request_complete",
        "_request_complete_ns",
        "_request_sent_ns",
        "_resend_count",
        "_response",
        "_response_bytes",
        "_route",
        "_started_unix_ns",
        "_status",
        "_trace",
        "_unasked",
        "_unsent",
        "_unsent_bytes",
        "_upstream",
        "_upstream_blocked",
        "_usage_asked",
        "_worker",
        "_wrote_request",
        "id",
        "phase",
        "tunnel",
    )

    def __init__(  # noqa: PLR0917 -- made in one place, for each exchange; names would cost
        self,
        worker: "Worker",
        client: "Client",
        route: Route,
        content_length: int | None,
        traceparent: bytes | None,
        accepted_ns: int,
    ) -> None:
        self._worker = worker
        self._client = client
        self._route = route
        self._head = route.head
        self._pool = route.pool
        self._dialect = route.dialect
        self._facts = route.facts
        self._content_length = content_length
        self._accepted_ns = accepted_ns
        self._started_unix_ns = time_ns() - (monotonic_ns() - accepted_ns)
        bits = random.getrandbits(352)
        self.id = f"{bits & _ID_MASK:024x}"
        self._trace = continue_trace(traceparent, route.tracestate, bits >> 96, worker.sample_ratio)
        self.phase = _REQUEST
        self.tunnel: Tunnel | None = None
        self._decision = _NO_DECISION
        self._body: list[bytes] | None = None
        """The body as far as it came, while it is to be read before it is sent; then what is to be sent."""
        self._decoded = False
        self._request_bytes = 0
        self._request_complete = False
        self._request_complete_ns: int | None = None
        self._unsent: list[bytes] | None = None
        """Body bytes that wait for a connection."""
        self._unsent_bytes = 0
        self._wrote_request = False
        self._usage_asked = False
        self._unasked: bytes | None = None
        """The client's body while an upstream may still refuse what we added to it."""
        self._doubtful: bytearray | None = None
        """Body of an answer that may refuse what we added, until it is known."""
        self._asked_again = False
        """True when the client's own body was sent after an answer that seemed to refuse what we added."""
        self._upstream: Upstream | None = None
        self._upstream_blocked = False
        self._connecting: asyncio.Task[None] | None = None
        self._connect_started_ns: int | None = None
        self._connected_ns: int | None = None
        self._request_sent_ns: int | None = None
        self._headers_ns: int | None = None
        self._first_write_ns: int | None = None
        self._resend_count = 0
        self._repeated_ns: int | None = None
        self._response: ResponseHead | None = None
        self._status: int | None = None
        self._pending_head = b""
        self._chunked_to_client = False
        self._observer: Observer | None = None
        self._cutter: UsageCutter | None = None
        self._degraded: str | None = None
        self._response_bytes = 0
        self._client_blocked_ns = 0
        self._blocked_since_ns = 0

    # -- the request, from the client ---------------------------------------------------------------------------------

    def begin(self, at_ns: int) -> None:
        """The head is here: choose the upstream, and whether the body is read or streamed."""
        worker, route = self._worker, self._route
        limits = worker.settings.limits
        if limits.in_flight and worker.exchanges_active > limits.in_flight:
            self.refuse(RefusalError("overloaded", "Lengthwise has as many requests in flight as it may have."))
            return
        if route.refusal is not None:
            self.refuse(route.refusal)
            return
        for doubted, doubt in route.doubts:
            if self._may_enforce(doubted):
                self.refuse(doubt)
                return
        if route.websocket:
            self.tunnel = Tunnel(self._client)
        has_body = self._head.chunked or bool(self._content_length)
        if self._dialect is not None:
            if (self._content_length or 0) > limits.observed_body_bytes:
                try:
                    self._too_large_to_read()
                except RefusalError as error:
                    self.refuse(error)
                    return
            else:
                self._body = []
        if has_body and self._head.expect_continue:
            self._client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._body is None:
            self._take_connection()
        if not has_body:
            self.request_end(at_ns)
        elif self.phase is _REQUEST:
            self._client.set_deadline(worker.client_body_ns, at_ns)

    def _may_enforce(self, dialect: str) -> bool:
        worker = self._worker
        return may_enforce(dialect, origin_of(self._route, self.id), worker.policies, worker.live, time())

    def _too_large_to_read(self) -> None:
        """A body over `observed_body_bytes` streams unobserved, unless a rule would have to read it."""
        dialect = self._dialect
        assert dialect is not None
        if self._may_enforce(dialect.name):
            raise RefusalError("body_too_large", "The body is larger than a policy on this route can read.")
        self._facts = self._facts._replace(degraded="body_too_large")

    def request_data(self, data: bytes, at_ns: int) -> None:
        """Body bytes, decoded from the client's framing."""
        self._request_bytes += len(data)
        body = self._body
        if body is not None:
            body.append(data)
            if self._request_bytes > self._worker.settings.limits.observed_body_bytes:
                try:
                    self._too_large_to_read()
                except RefusalError as error:
                    self.refuse(error)
                    return
                self._body = None
                self._unsent, self._unsent_bytes = body, self._request_bytes
                self._take_connection()
            else:
                self._client.set_deadline(self._worker.client_body_ns, at_ns)
            return
        if self._upstream is not None and self._wrote_request:
            self._upstream.transport.write(chunk(data) if self._head.chunked else data)
        else:
            if self._unsent is None:
                self._unsent = []
            self._unsent.append(data)
            self._unsent_bytes += len(data)
            if self._unsent_bytes > _UNSENT_BYTES:
                self._client.pause_reading()
        if self.phase is _SEND and not self._upstream_blocked:
            self._client.set_deadline(self._worker.client_body_ns, at_ns)

    def request_end(self, at_ns: int) -> None:
        """The request is whole."""
        self._request_complete = True
        self._request_complete_ns = at_ns
        if self._body is not None:
            try:
                self._judge(b"".join(self._body) if len(self._body) != 1 else self._body[0])
            except RefusalError as error:
                self.refuse(error)
                return
            self._take_connection()
        elif self._upstream is not None and self._wrote_request:
            if self._head.chunked:
                self._upstream.transport.write(LAST_CHUNK)
            self._request_is_sent(at_ns)

    def _judge(self, body: bytes) -> None:
        """Read the body, decide, and leave in `_body` what the upstream gets."""
        worker, route = self._worker, self._route
        judged = judge(body, route, worker, self.id, time())
        self._facts, self._decision, sent, self._usage_asked, self._decoded = judged
        refusal = refusal_of(judged.decision, judged.facts, worker.policies)
        if refusal is not None:
            raise refusal
        if self._usage_asked:
            self._unasked = body
        self._body = [sent]

    # -- to the upstream ----------------------------------------------------------------------------------------------

    def _take_connection(self) -> None:
        pool = self._pool
        assert pool is not None
        connection = pool.take() if self.tunnel is None else None
        if connection is not None:
            self._send(connection)
            return
        self._connect(monotonic_ns())

    def _connect(self, at_ns: int) -> None:
        assert self._pool is not None
        self.phase = _CONNECT
        self._connect_started_ns = at_ns
        self._client.set_deadline(self._worker.connect_ns, at_ns)
        self._connecting = self._pool.connect(
            partial(guarded, self, self._connected), partial(guarded, self, self._connect_failed)
        )

    def _connected(self, connection: Upstream) -> None:
        self._connecting = None
        if self.phase is not _CONNECT:
            connection.transport.abort()
            return
        self._connected_ns = monotonic_ns()
        self._send(connection)

    def _connect_failed(self, reason: str) -> None:
        self._connecting = None
        assert self._pool is not None
        self.refuse(
            RefusalError("upstream_connect", f"The upstream {self._pool.upstream.name} cannot be reached: {reason}.")
        )

    def _send(self, connection: Upstream) -> None:
        """Write the request head and what there is of the body."""
        head = self._head
        self._upstream = connection
        connection.lend(self, to_head=head.method == b"HEAD")
        self.phase = _SEND
        self._wrote_request = True
        data = self._request_head()
        if self._body is not None:
            at_ns = monotonic_ns()  # before the write: it wakes the upstream, which may get this processor at once
            connection.transport.writelines((data, self._body[0]))
            self._body = None
            self._request_is_sent(at_ns)
            return
        pieces = [data]
        unsent = self._unsent or ()
        pieces += [chunk(piece) for piece in unsent if piece] if head.chunked else unsent
        if self._request_complete and head.chunked:
            pieces.append(LAST_CHUNK)
        self._unsent, self._unsent_bytes = None, 0
        self._client.resume_reading()  # before the write, which may find the upstream full and pause it again
        at_ns = monotonic_ns()
        connection.transport.write(b"".join(pieces))
        if self._request_complete:
            self._request_is_sent(at_ns)
        elif not self._upstream_blocked:
            self._client.set_deadline(self._worker.client_body_ns, monotonic_ns())

    def _request_is_sent(self, now_ns: int) -> None:
        if self.phase is not _SEND:
            return  # the response began before: no start that a duration could be measured from
        self._request_sent_ns = now_ns
        self.phase = _FIRST_BYTE
        self._client.set_deadline(self._worker.first_byte_ns, now_ns)

    def _request_head(self) -> bytes:
        made = self._route.upstream_head(usage_asked=self._usage_asked, decoded=self._decoded)
        trace = b""
        if self._worker.propagate:
            trace = b"traceparent: %b\r\n" % self._trace.traceparent
            if self._trace.trace_state:
                trace += b"tracestate: %b\r\n" % self._trace.trace_state.encode("latin-1")
        if self._body is not None:
            framing = b"Content-Length: %d\r\n" % len(self._body[0])
        elif self._head.chunked:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif self._content_length is not None:
            framing = b"Content-Length: %d\r\n" % self._content_length
        else:
            framing = b""
        return b"%b%b%b\r\n" % (made, trace, framing)

    # -- the response, from the upstream ------------------------------------------------------------------------------

    def interim(self, status: int, reason: bytes, headers: Headers) -> None:
        """A 1xx head: passed on, except 100, which was answered here, and to HTTP/1.0 (RFC 9110 15.2)."""
        if status != 100 and not self._head.http10:
            kept = without(headers, (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"content-length"))
            self._client.write(serialise(b"HTTP/1.1 %d %b" % (status, reason), kept))

    def response_head(self, head: ResponseHead, at_ns: int) -> None:
        """The final head; its bytes leave together with the first of the body."""
        if self.tunnel is not None:
            self.tunnel = None  # refused: an ordinary answer
        self._response = head
        self._headers_ns = at_ns
        self._status = head.status
        self.phase = _BODY
        if self._usage_asked and head.status in _REFUSING_STATUS and not head.content_encoding:
            self._doubtful = bytearray()
        else:
            if self._asked_again and head.status < 400:
                self._remember_refusal()
            self._unasked = None
            self._answer(head)

    def _answer(self, head: ResponseHead) -> None:
        """Make what the client gets of a head, and the readers of its body."""
        worker, upstream = self._worker, self._pool
        assert upstream is not None
        limits = worker.settings.limits
        self._observer = Observer(
            self._dialect,
            event_stream=head.event_stream,
            content_encoding=head.content_encoding,
            event_bytes=limits.event_bytes,
            body_bytes=limits.observed_body_bytes,
            choices=self._facts.choices,
        )
        if self._usage_asked and upstream.upstream.usage == "inject" and head.event_stream and head.status == 200:
            if head.content_encoding:
                self._degraded = "identity_refused"  # asked as identity, so what comes cannot be cut, only passed
            elif self._dialect is not None:
                self._cutter = UsageCutter(self._dialect.is_extra_usage, limits.event_bytes)
        headers = [*head.headers, (b"x-lengthwise-id", self.id.encode())]
        if self._decision.rule is not None:
            headers.append((b"x-lengthwise-policy", self._policy_header()))
        keep_alive = self._client_keeps()
        if head.bodyless:
            if head.content_length is not None and head.status != 204:
                headers.append((b"Content-Length", b"%d" % head.content_length))
        elif head.content_length is not None and self._cutter is None:
            headers.append((b"Content-Length", b"%d" % head.content_length))
        elif self._head.http10:
            keep_alive = False
        else:
            headers.append((b"Transfer-Encoding", b"chunked"))
            self._chunked_to_client = True
        self._pending_head = self._client_head(head.status, head.reason, headers, keep_alive)
        head.headers.clear()  # of what a stream holds while it is open they would be the most

    def _client_keeps(self) -> bool:
        """True when the client's connection can carry another request after this one, as far as is known now."""
        whole = self._request_complete or self._client.body_is_here
        return self._head.keep_alive and whole and not self._worker.draining

    def _client_head(self, status: int, reason: bytes, headers: Headers, keep_alive: bool) -> bytes:
        self._client.keep_alive = keep_alive
        if not keep_alive:
            headers.append((b"Connection", b"close"))
        elif self._head.http10:
            headers.append((b"Connection", b"keep-alive"))
        return serialise(b"HTTP/1.1 %d %b" % (status, reason), headers)

    def _policy_header(self) -> bytes:
        decision, requested = self._decision, self._facts.requested_max_tokens
        forwarded = decision.forwarded_max_tokens
        return (
            f"rule={decision.rule}; action={decision.action}; "
            f"requested={'none' if requested is None else requested}; "
            f"forwarded={'none' if forwarded is None else forwarded}"
        ).encode("ascii", "replace")

    def response_data(self, body: bytes, complete: bool, at_ns: int) -> None:
        """Body bytes as they arrived, and whether they were the last."""
        if self._doubtful is not None:
            self._doubtful += body
            is_short = len(self._doubtful) <= _DOUBTFUL_BYTES  # whether or not it came in one read
            if is_short and not complete:
                self._client.set_deadline(self._worker.idle_ns, at_ns)
                return
            if is_short and _USAGE_FIELD in self._doubtful:
                self._ask_without_usage(at_ns)
                return
            body = self._no_doubt()
        observer, cutter = self._observer, self._cutter
        if observer is None:
            return
        usual = observer.usual
        if (
            usual is not None
            and not (complete or self._pending_head)
            and (cutter is None or cutter.idle)
            and (text := usual.text_of(body)) is not None
        ):
            # One more token: nothing is to be cut of it, held, or read. A call that is spared here is spared for each.
            size = len(body)
            self._response_bytes += size
            self._client.write(b"%x\r\n%b\r\n" % (size, body) if self._chunked_to_client else body)
            observer.take(text, size, at_ns)
            if not self._blocked_since_ns:
                self._client.deadline_ns = at_ns + self._worker.idle_ns
            return
        if cutter is None:
            forward = body
        else:
            forward = cutter.feed(body)
            if complete:
                forward += cutter.finish()
        out = self._pending_head
        if forward:
            self._response_bytes += len(forward)
            framed = chunk(forward) if self._chunked_to_client else forward
            out = out + framed if out else framed
        if complete and self._chunked_to_client:
            out += LAST_CHUNK
        if out:
            self._pending_head = b""
            self._client.write(out)
            if self._first_write_ns is None and forward:
                self._first_write_ns = monotonic_ns()
        if body:
            observer.feed(body, at_ns)
        if complete:
            self._complete(at_ns)
        elif not self._blocked_since_ns:
            self._client.set_deadline(self._worker.idle_ns, at_ns)

    def _no_doubt(self) -> bytes:
        """An error that is not about what we added: the client's, from its head on."""
        body, self._doubtful, self._unasked = bytes(self._doubtful or b""), None, None
        assert self._response is not None
        self._answer(self._response)
        return body

    def _ask_without_usage(self, at_ns: int) -> None:
        """The upstream seems to know no `stream_options`: it gets the client's own body.

        Old Azure api-versions answer 400 "Unknown parameter: 'stream_options'", Mistral 422 "extra_forbidden". FastAPI
        echoes whatever it refuses, so that only the answer to this request tells what was wrong.
        """
        pool, dialect, upstream = self._pool, self._dialect, self._upstream
        assert pool is not None
        assert dialect is not None
        self._asked_again = True
        body, self._unasked, self._doubtful = self._unasked or b"", None, None
        self._usage_asked = False
        self._body = [dialect.rewrite(body, self._facts, self._decision, ask_usage=False)]
        self._response = self._headers_ns = self._status = None
        self._repeat(at_ns)
        if upstream is not None:
            self._upstream = None
            upstream.give_back(request_sent=True)
        self._take_connection()

    def _repeat(self, at_ns: int) -> None:
        """Another attempt is due; the stamps are those of the final one."""
        self._resend_count += 1
        self._repeated_ns = at_ns
        self._connect_started_ns = self._connected_ns = self._request_sent_ns = None

    def _remember_refusal(self) -> None:
        """Without `stream_options` the same request is good: this upstream is not asked again on this path."""
        pool = self._pool
        assert pool is not None
        if len(pool.usage_refused) < _REFUSED_PATHS:
            pool.usage_refused.add(self._route.usage_key)

    def _complete(self, at_ns: int) -> None:
        response, observer = self._response, self._observer
        assert response is not None
        assert observer is not None
        facts = observer.finish(at_ns)
        end = End.COMPLETE
        if facts.error_type is not None and response.status == 200:
            end = End.UPSTREAM_ERROR
        elif response.close_delimited and response.event_stream and not facts.terminal_seen and self._dialect:
            end = End.BROKEN  # the client sees the same clean FIN that it would see directly; the record knows better
        if end is End.BROKEN:
            error_type: str | None = "upstream_reset"
        else:
            error_type = str(response.status) if response.status >= 400 else facts.error_type
        self._over(end, at_ns, error_type)

    def switched(self, head: ResponseHead, following: bytes) -> None:
        """101: from here on both directions are bytes."""
        if self.tunnel is None or self._upstream is None:
            self.upstream_failed(
                RefusalError("upstream_reset", "The upstream switched protocols without being asked."), monotonic_ns()
            )
            return
        self._response = head
        self._headers_ns = monotonic_ns()
        self._status = head.status
        self.phase = _BODY
        self._client.clear_deadline()
        headers = [*head.headers, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        headers.append((b"x-lengthwise-id", self.id.encode()))
        self._client.write(serialise(b"HTTP/1.1 101 %b" % head.reason, headers))
        self.tunnel.open(self._upstream)
        if following:
            self.tunnel.from_upstream(following)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def upstream_failed(self, error: RefusalError, at_ns: int) -> None:
        """The upstream sent what cannot be understood."""
        if self._response is None:
            self.refuse(error)
        else:
            self._break(End.BROKEN, at_ns, error.error_type)

    def upstream_lost(self, at_ns: int) -> None:
        """The connection ended before the response was whole."""
        upstream, self._upstream = self._upstream, None
        if self._response is not None:
            self._break(End.BROKEN, at_ns, "upstream_reset")
        elif (
            upstream is not None
            and upstream.reused
            and not upstream.answered
            and not self._resend_count
            and self._head.method in _IDEMPOTENT
            and not self._head.chunked
            and not self._content_length
        ):
            self._repeat(at_ns)
            self._connect(at_ns)  # a new one: another kept connection may be as stale
        else:
            self.refuse(RefusalError("upstream_reset", "The upstream closed the connection without an answer."))

    def upstream_blocked(self, blocked: bool) -> None:
        """The upstream's transport is full, or takes bytes again."""
        self._upstream_blocked = blocked
        tunnelled = self.tunnel is not None and self.tunnel.is_open
        if blocked and (tunnelled or not self._request_complete):
            self._client.pause_reading()
        else:
            self._client.resume_reading()
        if self.phase is _SEND:  # while we do not read, a slow client is not the client's fault
            self._client.set_deadline(self._worker.idle_ns if blocked else self._worker.client_body_ns, monotonic_ns())

    def client_blocked(self, blocked: bool) -> None:
        """The client's transport is full, or takes bytes again."""
        now_ns = monotonic_ns()
        if blocked:
            self._blocked_since_ns = now_ns
            if self._upstream is not None:
                self._upstream.pause_reading()
        elif self._blocked_since_ns:
            self._client_blocked_ns += now_ns - self._blocked_since_ns
            self._blocked_since_ns = 0
            if self._upstream is not None:
                self._upstream.resume_reading()
        if self.tunnel is None:
            self._client.set_deadline(self._worker.idle_ns, now_ns)

    def client_left(self) -> None:
        """FIN or reset from the client while its answer is due: the upstream is cancelled at once."""
        if self.tunnel is not None and self.tunnel.is_open:
            self._over(End.COMPLETE, monotonic_ns(), None)
            return
        at_ns = monotonic_ns()
        observer, response = self._observer, self._response
        streamed = observer is not None and response is not None and response.event_stream
        if streamed and observer is not None and observer.finish(at_ns).terminal_seen:
            self._complete(
                at_ns
            )  # it has the whole answer: the official client closes at [DONE], before the body's end
        else:
            self._over(End.CLIENT_DISCONNECT, at_ns, None)

    def tunnel_closed(self) -> None:
        """The upstream's side of a tunnel ended."""
        self._upstream = None
        self._client.keep_alive = False
        self._over(End.COMPLETE, monotonic_ns(), None)

    def deadline(self, now_ns: int) -> None:
        """The timeout of the present phase passed."""
        if self.phase is _SEND and self._upstream_blocked:
            self.refuse(RefusalError("upstream_first_byte_timeout", "The upstream did not take the request in time."))
        elif self.phase is _REQUEST or self.phase is _SEND:
            self.refuse(RefusalError("client_timeout", "The request's body did not arrive in time."))
        elif self.phase is _CONNECT:
            self.refuse(RefusalError("upstream_connect_timeout", "The upstream could not be connected in time."))
        elif self.phase is _FIRST_BYTE:
            self.refuse(RefusalError("upstream_first_byte_timeout", "The upstream did not answer in time."))
        else:
            blocked = bool(self._blocked_since_ns)
            self._break(End.TIMEOUT, now_ns, "client_idle_timeout" if blocked else "upstream_idle_timeout")

    def abort(self, error_type: str) -> None:
        """End by us, without a terminator, so that it looks like what it is.

        Args:
            error_type: `drain` when that ran out of time, `internal` for a mistake of ours.
        """
        self._break(End.ABORTED, monotonic_ns(), error_type)

    def refuse(self, error: RefusalError) -> None:
        """Answer instead of the upstream, in the dialect's error envelope."""
        if self.phase is _OVER:
            return
        if self._response is not None:  # too late for an answer of ours
            self._break(End.ABORTED, monotonic_ns(), error.error_type)
            return
        refusal = error.refusal
        self._status = refusal.status
        if self._dialect is None:
            body = openai_error_body(refusal.envelope_type, error.error_type, error.message)
        else:
            body = self._dialect.error_body(refusal.status, refusal.envelope_type, error.error_type, error.message)
        headers: Headers = [
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
            (b"x-lengthwise-id", self.id.encode()),
            (b"x-lengthwise-error", error.error_type.encode()),
        ]
        if refusal.final:
            headers.append((b"x-should-retry", b"false"))
        if error.error_type == "overloaded":
            headers.append((b"Retry-After", b"1"))
        if self._decision.rule is not None:
            headers.append((b"x-lengthwise-policy", self._policy_header()))
        head = self._client_head(refusal.status, refusal.reason, headers, self._client_keeps())
        self._client.write(head if self._head.method == b"HEAD" else head + body)
        self._over(end_of_refusal(refusal.status), monotonic_ns(), error.error_type)

    def _break(self, end: End, at_ns: int, error_type: str) -> None:
        """End a response that is not whole: flush what arrived, then close short of its end (ARCHITECTURE.md 5.2)."""
        if self.phase is _OVER:
            return
        if self._doubtful is not None:
            body = self._no_doubt()
            if body and self._observer is not None:
                self._observer.feed(body, at_ns)
                self._pending_head += chunk(body) if self._chunked_to_client else body
        if self._pending_head:
            self._client.write(self._pending_head)
        if self._cutter is not None:
            rest = self._cutter.finish()
            if rest:
                self._response_bytes += len(rest)
                self._client.write(chunk(rest) if self._chunked_to_client else rest)
        self._client.keep_alive = False
        # Without chunks or a length a FIN would look like a whole answer, so such a client gets a reset.
        response = self._response
        self._client.reset = response is None or not (
            self._chunked_to_client or (response.content_length is not None and self._cutter is None)
        )
        self._over(end, at_ns, error_type)

    def _over(self, end: End, at_ns: int, error_type: str | None) -> None:
        """The one way out: let go of both sides, and make the record."""
        if self.phase is _OVER:
            return
        answered = self.phase is not _REQUEST
        self.phase = _OVER
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        upstream, self._upstream = self._upstream, None
        record: ExchangeRecord | None = None
        texts: Sequence[str] | None = None
        try:
            self._let_go(upstream, end, at_ns)
            response = ResponseFacts() if self._observer is None else self._observer.finish(at_ns)
            if self._degraded is None and self._cutter is not None and self._cutter.degraded:
                self._degraded = "event_too_large"
            if self._observer is not None and self._status is not None and 200 <= self._status < 300:
                texts = self._observer.texts()
            record = self._record(end, at_ns, error_type, response, answered)
        except Exception as error:  # noqa: BLE001 -- a mistake of ours costs a record, which is counted, never a connection
            report(error)
            if upstream is not None:
                upstream.abort()
        try:
            self._worker.exchange_over(record, texts)
        finally:
            self._client.exchange_over(at_ns)

    def _let_go(self, upstream: Upstream | None, end: End, at_ns: int) -> None:
        """Give the upstream's connection back, or end it."""
        if self._blocked_since_ns:
            self._client_blocked_ns += at_ns - self._blocked_since_ns
            self._blocked_since_ns = 0
            if upstream is not None:  # the next exchange on this connection is another client's
                upstream.resume_reading()
        if upstream is not None:
            if end in _WHOLE and self._response is not None and self.tunnel is None:
                upstream.give_back(request_sent=self._request_complete)
            elif self.tunnel is not None and self.tunnel.is_open:
                upstream.exchange = None
                upstream.transport.close()
            else:
                upstream.abort()

    def _record(
        self, end: End, at_ns: int, error_type: str | None, response: ResponseFacts, tried: bool
    ) -> ExchangeRecord:
        pool, trace, dialect = self._pool, self._trace, self._dialect
        upstream = None if pool is None else pool.upstream
        usage = response.usage
        decision = self._decision
        if decision is _NO_DECISION and self._facts.requested_max_tokens is not None:
            decision = Decision(
                forwarded_max_tokens=self._facts.requested_max_tokens, limit_field=self._facts.limit_field
            )
        return ExchangeRecord(
            id=self.id,
            started_unix_ns=self._started_unix_ns,
            accepted_ns=self._accepted_ns,
            end=end,
            ended_ns=max(at_ns, self._accepted_ns),
            trace_id=trace.trace_id,
            parent_span_id=trace.parent_span_id,
            server_span_id=trace.server_span_id,
            client_span_id=trace.client_span_id,
            sampled=trace.sampled,
            trace_state=trace.trace_state,
            method=self._route.method,
            route=None if dialect is None else dialect.route,
            scheme=self._worker.scheme,
            upstream=None if upstream is None else upstream.name,
            provider=None if upstream is None else upstream.provider,
            server_address=None if pool is None else pool.host,
            server_port=None if pool is None else pool.port,
            app=self._route.app,
            key_name=self._route.key_name,
            request=self._facts,
            decision=decision,
            response=response,
            streamed=self._response is not None and self._response.event_stream,
            status=self._status,
            error_type=error_type,
            upstream_tried=tried and (self._connect_started_ns is not None or self._wrote_request),
            resend_count=self._resend_count,
            sdk_retry_count=self._route.sdk_retry_count,
            request_bytes=self._request_bytes,
            response_bytes=self._response_bytes,
            usage_source="provider" if usage is not None and usage.output_tokens is not None else "none",
            degraded=self._degraded or response.degraded or self._facts.degraded,
            request_complete_ns=self._request_complete_ns,
            connected_ns=self._connected_ns,
            connect_started_ns=self._connect_started_ns,
            request_sent_ns=self._request_sent_ns,
            headers_ns=self._headers_ns,
            first_write_ns=self._first_write_ns,
            client_blocked_ns=self._client_blocked_ns,
            repeated_ns=self._repeated_ns,
        )
