"""Where the workers' records arrive: JSON lines over a local socket, acknowledged in batches.

Layer: recorder. A batch is whatever lines one read brought; it is processed before the next read, so a worker that is
faster than the recorder feels the socket fill, counts what does not fit, and never waits. Where a record comes with texts
whose tokens are to be counted, a thread counts them, and only this worker's link waits; then the texts are gone. A line
that is no record costs itself only, and is never logged: it could hold anything.

Source: ARCHITECTURE.md 3.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.record import ExchangeRecord, from_line
from proxy.recorder.tokens import Texts, TokenCounter
from proxy.recorder.workers import Worker, Workers

__all__ = ["Intake", "IntakeCounts"]

_LONGEST_LINE_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class IntakeCounts:
    """What arrived."""

    records: int = 0
    malformed_lines: int = 0


class Intake:
    """The listening side: every connection is one worker's."""

    def __init__(
        self, process: Callable[[Sequence[ExchangeRecord]], None], workers: Workers, counter: TokenCounter
    ) -> None:
        """`process` is given each batch and must not raise; when it returns, the batch is acknowledged."""
        self.process = process
        self.workers = workers
        self.counter = counter
        self.counts = IntakeCounts()
        self.greet: Callable[[list[str]], bytes] = lambda _: b""
        """Given the rules that a new worker holds for disarmed; the line that it is told first."""
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    async def serve(self, listening: socket.socket) -> None:
        """Accept workers on a listening socket that somebody else bound and keeps."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Link(self), sock=listening)

    def tell(self, line: bytes) -> None:
        """Tell every worker; one that does not read misses it, the next line says as much."""
        for link in self._links:
            link.tell(line)

    async def drain(self, within_s: float | None) -> None:
        """Accept nobody new, and wait until every worker has closed its link or the time is up; None waits forever."""
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), within_s)
        for link in list(self._links):
            link.close()

    def _joined(self, link: "_Link") -> None:
        self._links.add(link)
        self._empty.clear()

    def _left(self, link: "_Link") -> None:
        self._links.discard(link)
        if not self._links:
            self._empty.set()


class _Link(asyncio.Protocol):
    """One worker's connection."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._transport: asyncio.Transport | None = None
        self._acks: socket.socket | None = None
        self._worker: Worker | None = None
        self._rest = b""
        self._skipping = False
        self._untold = b""
        """End of a line that the worker's socket had no room for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # A transport whose peer has gone discards what is unread when it writes, so acknowledgements go another way:
        # the last records of a worker that ended are still read.
        self._acks = transport.get_extra_info("socket").dup()
        self._acks.setblocking(False)
        self._intake._joined(self)  # noqa: SLF001 -- the two are one unit

    def connection_lost(self, exc: Exception | None) -> None:
        if self._worker is not None:
            self._intake.workers.gone(self._worker)
            self._worker = None
        if self._acks is not None:
            self._acks.close()
        self._intake._left(self)  # noqa: SLF001 -- the two are one unit

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if self._skipping and lines:
            self._skipping = False
            lines.pop(0)
        if len(self._rest) > _LONGEST_LINE_BYTES or self._skipping:
            if not self._skipping:
                self._intake.counts.malformed_lines += 1
            self._rest, self._skipping = b"", True
        if lines:
            self._batch(lines)

    def _batch(self, lines: list[bytes]) -> None:
        records: list[tuple[ExchangeRecord, Texts | None]] = []
        last: int | None = None
        for line in lines:
            try:
                message = orjson.loads(line)
                if "record" in message:
                    last = _number(message["seq"])
                    records.append((from_line(message["record"]), _texts(message.get("texts"))))
                else:
                    self._control(message)
            except (AttributeError, LookupError, TypeError, ValueError):
                self._intake.counts.malformed_lines += 1
        self._intake.counts.records += len(records)
        if any(texts is not None for _, texts in records):
            assert self._transport is not None
            self._transport.pause_reading()
            counting = self._intake.counter.estimated(records)
            counting.add_done_callback(lambda counted: self._counted(counted, last))
        else:
            self._finish([record for record, _ in records], last)

    def _counted(self, counting: asyncio.Future[list[ExchangeRecord]], last: int | None) -> None:
        if counting.cancelled():  # this process leaves: what it did not acknowledge the worker counts as dropped
            return
        self._finish(counting.result(), last)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _finish(self, records: list[ExchangeRecord], last: int | None) -> None:
        if records:
            self._intake.process(records)
        if last is not None:
            self.tell(b'{"ack":%d}\n' % last)

    def tell(self, line: bytes) -> None:
        """Send a line; one that does not fit is lost, and made up for by the next: numbers are cumulative, state is whole."""
        if self._acks is None:
            return
        with contextlib.suppress(OSError):
            if self._untold:
                self._untold = self._untold[self._acks.send(self._untold) :]
            if not self._untold and line:
                self._untold = line[self._acks.send(line) :]

    def _control(self, message: dict[str, Any]) -> None:
        if "hello" in message:
            hello = message["hello"]
            index, pid = _number(hello["worker"]), _number(hello["pid"])
            if self._worker is not None:
                raise TypeError("a worker says hello once")
            disarmed = [name for name in hello.get("disarmed", ()) if type(name) is str]
            self._worker = self._intake.workers.hello(index, pid)
            self.tell(self._intake.greet(disarmed))
        elif "totals" in message:
            if self._worker is None:
                raise TypeError("totals of nobody")
            self._intake.workers.report(self._worker, message["totals"])
        else:
            raise TypeError("unknown message")


def _texts(value: object) -> Texts | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(text) is str for text in value):
        raise TypeError("not texts")
    return value


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError("not a number")
    return value
