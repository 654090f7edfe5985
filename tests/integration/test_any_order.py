"""Requests, faults, departures, reloads, a recorder that comes and goes, clocks that jump: whatever the order, the counts agree.

A state machine of the real worker between real sockets. After every step: each exchange is running or has exactly one record; its
end is the one that the step asked for; what the outbox sent, holds and dropped is all there is. At the end it drains.
`STATES=2000 pytest tests/integration/test_any_order.py -n 0` tries more orders. Source: ARCHITECTURE.md 5.2, 5.3, 5.5, 5.8, 5.11, 5.12.
"""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from typing import Any

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.errors import SettingsError
from proxy.policy import rules as policies
from proxy.record import End, ExchangeRecord
from proxy.relay import exchange as exchange_module
from proxy.relay.outbox import Outbox
from tests.support.fault_proxy import CLEAN, Fault, FaultProxy
from tests.support.intake import Intake
from tests.support.provider import EVENT_STREAM, PATIENCE_S, Link, Provider, Wire, chunked, ok, read_message, sse
from tests.support.relay import Collecting, Served, relay

MOST = 4
"""`limits.in_flight`: one more is shed."""
DELTA = sse(b'{"choices":[{"index":0,"delta":{"content":"hi"}}]}')[0]
STREAM = chunked([DELTA, *sse(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}', b"[DONE]")], EVENT_STREAM)
DOCUMENT = ok(b'{"choices":[{"index":0,"finish_reason":"stop"}]}' + b" " * 200)
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + b"x" * 300
"""Ends with its connection."""
KINDS = {"stream": STREAM, "document": DOCUMENT, "file": DOCUMENT, "closing": CLOSING}
"""What is asked for to what the upstream answers."""
RULES = {
    "none": [],
    "cap": [{"name": "cap", "do": "cap", "max_tokens": 10}],
    "no": [{"name": "no", "match": {"model": ["forbidden"]}, "do": "reject"}],
}
BAD_RULES: list[Any] = [
    [{"name": "x", "do": "explode"}],
    [{"do": "cap"}],
    "rules",
    [{"name": "a", "do": "cap", "max_tokens": 0}],
]


class Kept(Collecting):
    """A real outbox, whose records the test sees too."""

    def __init__(self, path: Path) -> None:
        Outbox.__init__(self, str(path), dict, dict)
        self.records: list[ExchangeRecord] = []
        self.texts: list[Sequence[str] | None] = []
        self.changed = asyncio.Event()

    def put(self, record: ExchangeRecord, texts: Sequence[str] | None = None) -> None:
        """Keep it, and send it."""
        super().put(record, texts)
        Outbox.put(self, record, texts)

    def tick(self) -> None:
        """As the worker does."""
        Outbox.tick(self)

    async def close(self, timeout_s: float) -> None:
        """As the worker does."""
        await Outbox.close(self, timeout_s)

    @property
    def waiting(self) -> int:
        """Records that are neither sent nor dropped."""
        return len(self._waiting)


@dataclass(slots=True)
class Running:
    """An exchange that has no record yet."""

    number: int
    kind: str
    client: Wire
    link: Link
    sent: int = 0
    """Bytes of the answer that left the upstream."""

    @property
    def answer(self) -> bytes:
        """What the upstream answers; it names the request that it answers."""
        return KINDS[self.kind].replace(b"\r\n", b"\r\nX-Number: %d\r\n" % self.number, 1)

    @property
    def head_bytes(self) -> int:
        """Length of the answer's head."""
        return self.answer.index(b"\r\n\r\n") + 4


class AnyOrder(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="order-"))
        self.stack = AsyncExitStack()
        self.running: list[Running] = []
        self.idle: list[Wire] = []
        self.ended: dict[int, set[End]] = {}
        """Number of an exchange that is over to the ends that are lawful for it."""
        self.arrivals: dict[int, list[Link]] = {}
        self.begun = 0
        self.malformed = 0
        self.jump_ns = 0
        self.rules = "none"
        self.intake: Intake | None = None
        self.received = 0
        """Records that recorders which are gone had received to acknowledge."""
        exchange_module.time_ns = lambda: time.time_ns() + self.jump_ns
        exchange_module.time = lambda: time.time() + self.jump_ns / 1e9

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """A step."""
        self.loop.run_until_complete(work)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let everything run until something holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await asyncio.sleep(0)

    async def script(self, link: Link) -> None:
        """The upstream: takes requests, and answers by the test's hand."""
        while True:
            try:
                request = await link.request()
            except TimeoutError:
                continue  # an idle connection; whoever misses a request notices it himself
            self.arrivals.setdefault(int(request.values(b"x-number")[0]), []).append(link)

    # -- the parts ----------------------------------------------------------------------------------------------------

    @initialize(fault=st.sampled_from([CLEAN, CLEAN, Fault(slice_bytes=40), Fault(latency_s=0.0005)]))
    def begin(self, fault: Fault) -> None:
        """A worker between its clients and an upstream behind a network of some quality."""
        self.run(self._begin(fault))

    async def _begin(self, fault: Fault) -> None:
        self.provider = await self.stack.enter_async_context(Provider(self.script))
        between = await self.stack.enter_async_context(FaultProxy(self.provider.port, to_client=fault))
        self.outbox = Kept(self.folder / "intake")
        self.served: Served = await self.stack.enter_async_context(
            relay(between.url, outbox=self.outbox, limits={"in_flight": MOST})
        )
        self.worker = self.served.worker

    # -- clients ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.running) <= MOST)
    @rule(kind=st.sampled_from(list(KINDS)), model=st.sampled_from(["m", "forbidden"]), again=st.booleans())
    def request(self, kind: str, model: str, again: bool) -> None:
        """A request on a new connection or a kept one."""
        self.run(self._request(kind, model, again=again))

    async def _request(self, kind: str, model: str, *, again: bool) -> None:
        number, self.begun = self.begun, self.begun + 1
        client = self.idle.pop() if again and self.idle else await self.served.connect()
        marks = b"Host: a\r\nx-number: %d\r\nx-lengthwise-app: %d\r\n" % (number, number)
        if kind in {"stream", "document"}:
            body = orjson.dumps({"model": model, "stream": kind == "stream", "max_tokens": 50, "messages": []})
            line = b"POST /v1/chat/completions HTTP/1.1\r\n"
            await client.send(line + marks + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        elif kind == "file":
            line = b"POST /v1/files HTTP/1.1\r\n"
            await client.send(line + marks + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        else:
            await client.send(b"GET /v1/models HTTP/1.1\r\n" + marks + b"\r\n")
        is_read = kind in {"stream", "document"}
        lawful = None
        if len(self.running) == MOST:
            lawful = End.SHED
        elif self.rules == "no" and model == "forbidden" and is_read:
            lawful = End.REJECTED
        if lawful is not None:
            answer = await client.message()
            assert answer.value(b"retry-after") == (b"1" if lawful is End.SHED else None)
            await self._over(number, lawful)
            if b"close" in answer.values(b"connection"):
                await client.end()
                await client.close()
            else:
                self.idle.append(client)
            return
        await self.until(lambda: number in self.arrivals)
        self.running.append(Running(number, kind, client, self.arrivals[number][-1]))

    @precondition(lambda self: len(self.running) < MOST)
    @rule(kinds=st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=4))
    def whole_exchanges(self, kinds: list[str]) -> None:
        """Requests one after the other that are answered at once, on whatever connections are kept."""
        for kind in kinds:
            self.run(self._request(kind, "m", again=True))
            self.run(self._upstream_finishes(self.running[-1]))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["fin", "reset"]))
    def client_leaves(self, data: st.DataObject, how: str) -> None:
        """Before, inside or between: the upstream sees an end, and the record says who left."""
        self.run(self._client_leaves(self._one(data), how))

    async def _client_leaves(self, one: Running, how: str) -> None:
        await (one.client.close() if how == "fin" else one.client.reset())
        await one.link.end()
        await one.link.close()
        had_all = one.kind == "stream" and one.sent > one.answer.index(b'"stop"')  # the choice's end is the answer's
        await self._over(one.number, *([End.CLIENT_DISCONNECT, End.COMPLETE] if had_all else [End.CLIENT_DISCONNECT]))

    @rule(text=st.sampled_from([b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HT"]))
    def what_is_no_request(self, text: bytes) -> None:
        """Bytes without a head are counted, and are no exchange."""
        self.run(self._what_is_no_request(text))

    async def _what_is_no_request(self, text: bytes) -> None:
        client = await self.served.connect()
        await client.send(text)
        if text.endswith(b"\r\n\r\n"):
            assert (await client.message()).status == 400
        else:
            await self.until(lambda: any(inner._raw_head == text for inner in self.worker.clients))
        await client.close()
        self.malformed += 1
        await self.until(lambda: self.worker.connections_malformed >= self.malformed)

    @precondition(lambda self: self.idle)
    @rule()
    def an_idle_client_leaves(self) -> None:
        """Nothing ends but its connection."""
        self.run(self.idle.pop().close())

    # -- the upstream -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.running)
    @rule(data=st.data(), share=st.floats(0, 1))
    def upstream_sends(self, data: st.DataObject, share: float) -> None:
        """Some more of the answer, short of its end."""
        self.run(self._upstream_sends(self._one(data), share))

    async def _upstream_sends(self, one: Running, share: float) -> None:
        answer = one.answer
        upto = one.sent + int((len(answer) - 8 - one.sent) * share)
        await one.link.send(answer[one.sent : upto])
        one.sent = max(upto, one.sent)
        # Body bytes carry the head with them, so that a client without a byte of body has nothing yet.
        if one.sent > one.head_bytes + 8:
            body = answer[one.head_bytes : one.sent]
            # Usage is asked for, so an event is passed on when it is whole.
            expected = body.count(DELTA) if one.kind == "stream" else 1
            await one.client.until(
                lambda: (
                    (one.client.received[one.client.taken :].count(b"hi") >= expected)
                    if one.kind == "stream"
                    else b"\r\n\r\n" in one.client.received[one.client.taken :]
                )
            )

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def upstream_finishes(self, data: st.DataObject) -> None:
        """The answer is whole at the client, and both connections are fit for more where HTTP says so."""
        self.run(self._upstream_finishes(self._one(data)))

    async def _upstream_finishes(self, one: Running) -> None:
        await one.link.send(one.answer[one.sent :])
        if one.kind == "closing":
            await one.link.fin()
        answer = await one.client.message()
        assert (answer.status, answer.values(b"x-number")) == (200, [b"%d" % one.number])  # its own, and nobody else's
        assert len(answer.body) >= 200 or one.kind == "stream"
        await self._over(one.number, End.COMPLETE)
        if one.kind == "closing":
            await one.link.end()
            await one.link.close()
        self.idle.append(one.client)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["fin", "reset"]))
    def upstream_breaks(self, data: st.DataObject, how: str) -> None:
        """Short of the answer's end: never a clean end at the client, and a repetition only of what may be repeated."""
        self.run(self._upstream_breaks(self._one(data), how))

    async def _upstream_breaks(self, one: Running, how: str) -> None:
        attempts = len(self.arrivals[one.number])
        await (one.link.close() if how == "fin" else one.link.reset())
        record_count = len(self.outbox.records)
        await self.until(lambda: len(self.outbox.records) > record_count or len(self.arrivals[one.number]) > attempts)
        if len(self.arrivals[one.number]) > attempts:
            assert (one.kind, one.sent, attempts) == ("closing", 0, 1)  # a GET, unanswered, on a kept connection
            one.link = self.arrivals[one.number][-1]
            return
        clean = one.kind == "closing" and how == "fin"  # ends as it would directly
        await self._over(one.number, End.BROKEN, End.UPSTREAM_ERROR, *([End.COMPLETE] if clean else []))
        record = self.outbox.records[-1]
        if record.end is End.UPSTREAM_ERROR:
            assert (await one.client.message()).status == 502
            self.idle.append(one.client)
        elif record.end is End.BROKEN:
            ended = await one.client.end()
            whole = read_message(one.client.received[one.client.taken :], ended=ended == "fin")
            assert whole is None
            await one.client.close()
        else:
            await one.client.message()
            self.idle.append(one.client)

    @rule()
    def idle_connections_end(self) -> None:
        """The upstream closes every connection that carries nothing."""
        self.run(self._idle_connections_end())

    async def _idle_connections_end(self) -> None:
        busy = {one.link.number for one in self.running}
        for link in self.provider.links:
            if link.number not in busy and not link.closed.is_set() and link.sock.fileno() >= 0:
                await link.close()
        await self.until(lambda: not self.worker.pools[0]._idle)

    # -- time ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def time_is_up(self, data: st.DataObject) -> None:
        """The timeout of whatever the exchange waits for has passed."""
        self.run(self._time_is_up(self._one(data)))

    async def _time_is_up(self, one: Running) -> None:
        (inner,) = (
            client
            for client in self.worker.clients
            if client._exchange is not None and client._exchange._route.app == str(one.number)
        )
        inner.deadline(monotonic_ns())
        await self._over(one.number, End.TIMEOUT)
        await one.link.end()
        await one.link.close()
        record = self.outbox.records[-1]
        if record.status == 504:
            assert (await one.client.message()).status == 504
            self.idle.append(one.client)
        else:
            await one.client.end()
            await one.client.close()

    @rule(seconds=st.sampled_from([-86_400, -1, 1, 3_600, 10**8]))
    def clock_jumps(self, seconds: int) -> None:
        """Wall time moves; durations do not."""
        self.jump_ns += seconds * 1_000_000_000

    # -- what it is told, and whom it tells ---------------------------------------------------------------------------

    @rule(name=st.sampled_from(list(RULES)))
    def reload(self, name: str) -> None:
        """Another set of rules, for requests to come."""
        self.worker.policies = policies.parse({"version": 1, "rules": RULES[name]})
        self.rules = name

    @rule(document=st.sampled_from(BAD_RULES))
    def reload_what_is_broken(self, document: Any) -> None:
        """Nothing changes."""
        before = self.worker.policies
        try:
            self.worker.policies = policies.parse({"version": 1, "rules": document})
        except SettingsError:
            pass
        else:
            raise AssertionError("a broken document was taken")
        assert self.worker.policies is before

    @precondition(lambda self: self.intake is None)
    @rule(acknowledging=st.booleans())
    def recorder_comes(self, acknowledging: bool) -> None:
        """One that commits, or one that hangs."""
        self.run(self._recorder_comes(acknowledging))

    async def _recorder_comes(self, acknowledging: bool) -> None:
        self.intake = Intake(self.folder / "intake", acknowledging=acknowledging)
        await self.intake.start()
        self.outbox.tick()
        intake = self.intake
        await self.until(lambda: bool(intake.connections))
        await self.until(lambda: self.outbox._transport is not None)

    @precondition(lambda self: self.intake is not None)
    @rule()
    def recorder_goes(self) -> None:
        """It dies with what it has not acknowledged."""
        self.run(self._recorder_goes())

    async def _recorder_goes(self) -> None:
        assert self.intake is not None
        await self.intake.stop()
        await self.until(lambda: self.outbox._transport is None)
        self.received += len(self.intake.records) if self.intake.acknowledging else 0
        self.intake = None

    # -- what always holds --------------------------------------------------------------------------------------------

    def _one(self, data: st.DataObject) -> Running:
        return self.running[data.draw(st.integers(0, len(self.running) - 1))]

    async def _over(self, number: int, *lawful: End) -> None:
        """Wait for the record of an exchange."""
        self.running = [one for one in self.running if one.number != number]
        self.ended[number] = set(lawful)
        await self.until(lambda: len(self.outbox.records) >= len(self.ended))

    @invariant()
    def every_exchange_runs_or_has_one_record(self) -> None:
        """And the end that was asked for."""
        if not hasattr(self, "worker"):
            return
        found = [int(record.app or -1) for record in self.outbox.records]
        assert sorted(found) == sorted(self.ended)
        assert all(record.end in self.ended[int(record.app or -1)] for record in self.outbox.records)
        assert self.worker.exchanges_active == len(self.running)
        assert self.worker.exchanges == self.begun
        assert self.worker.connections_malformed == self.malformed

    @invariant()
    def durations_know_no_wall_clock(self) -> None:
        """Monotonic stamps in their order, whatever the clock on the wall did."""
        if not hasattr(self, "worker"):
            return
        for record in self.outbox.records[-1:]:
            stamps = [record.accepted_ns, record.request_sent_ns, record.headers_ns, record.ended_ns]
            known = [stamp for stamp in stamps if stamp is not None]
            assert known == sorted(known)
            assert record.ended_ns - record.accepted_ns < PATIENCE_S * 1e9

    @invariant()
    def every_record_is_sent_held_or_dropped(self) -> None:
        """Nothing is lost without being counted."""
        if not hasattr(self, "worker"):
            return
        outbox, intake = self.outbox, self.intake
        committed = len(outbox.records) - outbox.records_dropped - outbox.unacknowledged - outbox.waiting
        received = self.received + (len(intake.records) if intake is not None and intake.acknowledging else 0)
        assert 0 <= committed <= received
        if intake is None:
            assert outbox.unacknowledged == 0

    @invariant()
    def no_connection_is_lost(self) -> None:
        """Each one to the upstream carries an exchange or may carry the next."""
        if not hasattr(self, "worker"):
            return
        (pool,) = self.worker.pools
        busy = [connection for connection in pool._connections if connection.exchange is not None]
        assert len(busy) <= len(self.running)
        assert all(connection in pool._idle for connection in pool._connections if connection.exchange is None)

    def teardown(self) -> None:
        """Drain: what runs is aborted and recorded, and everything is let go."""
        try:
            if hasattr(self, "worker"):
                self.run(self._leave())
        finally:
            self.run(self.stack.aclose())
            self.loop.close()
            shutil.rmtree(self.folder)
            exchange_module.time_ns, exchange_module.time = time.time_ns, time.time

    async def _leave(self) -> None:
        if self.intake is not None and not self.intake.acknowledging:
            await self._recorder_goes()  # else a second is waited for it, which is tests/relay/test_outbox's
        await self.worker.drain(0)
        for one in self.running:
            self.ended[one.number] = {End.ABORTED}
        records = self.outbox.records
        assert sorted(int(record.app or -1) for record in records) == list(range(self.begun))
        assert all(record.end in self.ended[int(record.app or -1)] for record in records)
        assert self.worker.exchanges_active == 0
        assert len({record.id for record in records}) == len(records)
        assert self.outbox.waiting == 0
        assert self.outbox.unacknowledged == 0
        await self.until(lambda: not any(pool._connections for pool in self.worker.pools))
        for one in self.running:
            await one.client.end()
            await one.client.close()
        for client in self.idle:
            await client.close()
        await self.until(lambda: not self.worker.clients)
        if self.intake is not None:
            await self.intake.stop()


AnyOrder.TestCase.settings = settings(
    max_examples=int(os.environ.get("STATES", "60")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
test_any_order = AnyOrder.TestCase
