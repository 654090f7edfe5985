"""A recorder's end of the socket to a worker, in the test's own event loop: acknowledges, dies, hangs or is away."""

import asyncio
from pathlib import Path
from typing import Any

import orjson

from proxy.record import ExchangeRecord, from_line
from tests.support.provider import PATIENCE_S

__all__ = ["Intake"]


class Intake:
    """The recorder's end of one worker's socket: keeps every line; acknowledges when the test says so, or each at once."""

    def __init__(self, path: Path, *, acknowledging: bool = False) -> None:
        self.path = path
        self.acknowledging = acknowledging
        self.lines: list[dict[str, Any]] = []
        self.connections = 0
        self._changed = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None
        self.reading = asyncio.Event()
        self.reading.set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """Die: the connection and the socket's file are gone."""
        self._server.close()
        if self._writer is not None:
            self._writer.transport.abort()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.connections += 1
        self._changed.set()
        try:
            while await self.reading.wait() and (line := await reader.readline()):
                self.lines.append(orjson.loads(line))
                if self.acknowledging and "seq" in self.lines[-1]:
                    self.say({"ack": self.lines[-1]["seq"]})
                self._changed.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        writer.close()

    def say(self, message: dict[str, Any]) -> None:
        """One line to the worker."""
        assert self._writer is not None
        self._writer.write(orjson.dumps(message) + b"\n")

    async def until(self, holds: Any) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    @property
    def numbers(self) -> list[int]:
        """Numbers of the records that came."""
        return [line["seq"] for line in self.lines if "seq" in line]

    @property
    def records(self) -> list[ExchangeRecord]:
        """The records that came."""
        return [from_line(line["record"]) for line in self.lines if "seq" in line]
