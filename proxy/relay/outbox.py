"""Records on their way to the recorder: numbered, bounded, acknowledged; traffic never waits for them.

Layer: relay. Owned by the worker; `put` is the exchange's last act, after its last byte has left.

What a dead recorder had not acknowledged, and what does not fit while it is away or slow, is counted as dropped
(ARCHITECTURE.md 3). Nothing is sent twice: a record may be committed and still be counted, never the other way round.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import orjson

from proxy.record import ExchangeRecord, to_line

__all__ = ["Outbox"]

_HELD_RECORDS = 8192
"""Records that may be unacknowledged at once: four seconds of a worker at 2,000 exchanges a second, some 15 MB."""
_BEHIND_BYTES = 65536
"""With more than this unsent, totals wait: a recorder that hangs for a day must not cost a day of them. Texts go unsent."""
_HELD_TEXT = 4 * 1024 * 1024
"""Characters of text that may wait to be sent; a record beyond them goes without its text, and is estimated without it."""
_FLUSH_S = 0.02
"""Records gather this long, so that a busy worker pays one system call for many."""


class Outbox(asyncio.Protocol):
    """One worker's end of the socket to the recorder."""

    def __init__(self, path: str, hello: Callable[[], dict[str, Any]], totals: Callable[[], dict[str, Any]]) -> None:
        """Make an outbox that is not connected yet.

        Args:
            path: The recorder's unix socket.
            hello: Makes what is sent first on each connection.
            totals: Counters of the worker since its start; `records_dropped` is added here.
        """
        self.records_dropped = 0
        self.on_message: Callable[[dict[str, Any]], None] | None = None
        self._path = path
        self._hello = hello
        self._totals = totals
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._connecting = False
        self._closed = False
        self._waiting: list[tuple[ExchangeRecord, Sequence[str] | None]] = []
        self._waiting_text = 0
        self._number = 0
        self._acknowledged = 0
        self._flush_due = False
        self._received = b""
        self._settled: asyncio.Event | None = None
        self._moving = False
        """True from `move` until the connection to the next recorder stands."""
        self._moved = asyncio.Event()

    @property
    def unacknowledged(self) -> int:
        """Records sent to this recorder and not acknowledged."""
        return self._number - self._acknowledged

    def put(self, record: ExchangeRecord, texts: Sequence[str] | None = None) -> None:
        """Hand over a finished record, or count it as dropped; its texts are for counting, None when nothing is to be counted."""
        if len(self._waiting) + self._number - self._acknowledged >= _HELD_RECORDS:
            self.records_dropped += 1
            return
        if texts:
            size = sum(map(len, texts))
            if self._waiting_text + size > _HELD_TEXT:
                texts = ()
            else:
                self._waiting_text += size
        self._waiting.append((record, texts))
        if not self._flush_due and self._transport is not None:
            self._flush_due = True
            self._loop.call_later(_FLUSH_S, self._flush)

    def move(self, path: str) -> None:
        """Hand what comes from now on to another recorder, as soon as this one has acknowledged what it was sent."""
        self._path = path
        self._moving = True
        self._moved.clear()
        if self._transport is not None:
            self._settle()
        else:  # what waited for this one goes to the next
            self._begin_to_connect()

    def tick(self) -> None:
        """Once a second: totals out, or another attempt to connect."""
        if self._transport is not None:
            if self._transport.get_write_buffer_size() > _BEHIND_BYTES:
                return  # it does not read; the next totals say as much as these
            totals = self._totals() | {"records_dropped": self.records_dropped}
            self._transport.write(orjson.dumps({"totals": totals}) + b"\n")
        elif not self._closed:
            self._begin_to_connect()

    async def close(self, timeout_s: float) -> None:
        """Send what is left, wait for its acknowledgement at most `timeout_s`, count the rest as dropped."""
        if self._moving:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), timeout_s)
            self._moving = False
        self._closed = True
        if self._transport is not None:
            self._flush()
            self._settled = asyncio.Event()
            self._settle()
            try:
                await asyncio.wait_for(self._settled.wait(), timeout_s)
            except TimeoutError:
                self.records_dropped += self.unacknowledged
                self._acknowledged = self._number  # counted here, so not again when the connection ends
            self.tick()
        if self._transport is not None:
            self._transport.close()
        self.records_dropped += len(self._waiting)
        self._waiting.clear()

    def _begin_to_connect(self) -> None:
        if not self._connecting:
            self._connecting = True
            self._connection = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await self._loop.create_unix_connection(lambda: self, self._path)
        except OSError:
            pass  # the recorder is away; the next tick tries again
        finally:
            self._connecting = False

    def _flush(self) -> None:
        self._flush_due = False
        if self._transport is None or not self._waiting or self._moving:
            return
        lines = []
        behind = self._transport.get_write_buffer_size() > _BEHIND_BYTES
        for record, texts in self._waiting:
            try:
                line = to_line(record)
                counted = b"" if texts is None else b',"texts":%b' % orjson.dumps(() if behind else texts)
            except (TypeError, ValueError):  # the one costs itself; unsent, it would cost all that come after it
                self.records_dropped += 1
                continue
            self._number += 1
            lines.append(b'{"seq":%d,"record":%b%b}\n' % (self._number, line, counted))
        self._waiting.clear()
        self._waiting_text = 0
        self._transport.write(b"".join(lines))

    def _settle(self) -> None:
        if self.unacknowledged:
            return
        if self._settled is not None:
            self._settled.set()
        if self._moving and self._transport is not None:
            self._transport.close()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The recorder is there: greet it and send what waited."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by class
        self._moving = False
        self._moved.set()
        self._received = b""
        self._transport.write(orjson.dumps({"hello": self._hello()}) + b"\n")
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Acknowledgements and live state, one JSON line each."""
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            message = orjson.loads(line)
            if "ack" in message:
                self._acknowledged = max(self._acknowledged, int(message["ack"]))
                self._settle()
            elif self.on_message is not None:
                self.on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """The recorder died: what it had not acknowledged is lost."""
        self._transport = None
        self.records_dropped += self.unacknowledged
        self._acknowledged = self._number
        self._settle()
        if self._moving and not self._closed:
            self._begin_to_connect()
