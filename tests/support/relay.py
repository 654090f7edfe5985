r"""The real relay worker in the test's own event loop, on a real listening socket; its records are collected.

async with relay(provider.url) as served:
    client = await served.connect()
    await client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = await client.message()
    (record,) = await served.records(1)
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from proxy.policy import rules
from proxy.record import ExchangeRecord
from proxy.relay.outbox import Outbox
from proxy.relay.worker import Worker
from proxy.settings import from_json
from tests.support.provider import PATIENCE_S, Message, Wire


class Collecting(Outbox):
    """Keeps records where a recorder would be."""

    def __init__(self) -> None:
        super().__init__("/nowhere", dict, dict)
        self.records: list[ExchangeRecord] = []
        self.texts: list[Sequence[str] | None] = []
        """What came with each record for counting."""
        self.changed = asyncio.Event()

    def put(self, record: ExchangeRecord, texts: Sequence[str] | None = None) -> None:
        """Keep it."""
        self.records.append(record)
        self.texts.append(texts)
        self.changed.set()

    def tick(self) -> None:
        """Nobody to connect to."""

    async def close(self, timeout_s: float) -> None:
        """Nothing to wait for."""


class Served:
    """A running worker."""

    def __init__(self, worker: Worker, outbox: Collecting, address: tuple[str, int]) -> None:
        self.worker = worker
        self.address = address
        self._outbox = outbox
        self._clients: list[Wire] = []

    async def connect(self, *, receive_buffer_bytes: int | None = None) -> Wire:
        """A client's connection."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.address)
        except OSError:
            sock.close()
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Wire(sock)
        client.read()
        self._clients.append(client)
        return client

    async def ask(self, request: bytes, *, bodyless: bool = False) -> Message:
        """The answer to one request on a connection of its own."""
        client = await self.connect()
        await client.send(request)
        answer = await client.message(bodyless=bodyless)
        await client.close()
        return answer

    async def records(self, count: int) -> list[ExchangeRecord]:
        """All records so far, once there are so many; fails when there are more."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self._outbox.records) < count:
                self._outbox.changed.clear()
                await self._outbox.changed.wait()
        assert len(self._outbox.records) == count, [(record.end, record.error_type) for record in self._outbox.records]
        return self._outbox.records

    async def texts(self) -> Sequence[str] | None:
        """What came with the only record for counting."""
        await self.records(1)
        return self._outbox.texts[0]

    async def record(self) -> ExchangeRecord:
        """The only record."""
        return (await self.records(1))[0]

    async def settled(self) -> None:
        """Wait until no exchange is active and no client is connected."""
        async with asyncio.timeout(PATIENCE_S):
            while self.worker.exchanges_active or self.worker.clients:
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Leave: clients first, then the worker."""
        for client in self._clients:
            await client.close()
        await self.worker.drain(0)
        for client in tuple(self.worker.clients):
            client._transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            while self.worker.clients or any(pool._connections for pool in self.worker.pools):
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def relay(
    *upstreams: str | dict[str, Any],
    policy: Sequence[dict[str, Any]] = (),
    tls: dict[str, Any] | None = None,
    outbox: Collecting | None = None,
    **changes: Any,
) -> AsyncIterator[Served]:
    """A worker in front of these upstreams (URLs, or entries of the settings); `changes` are sections of the settings."""
    entries = [
        {"name": f"u{number}", "url": entry} if isinstance(entry, str) else {"name": f"u{number}"} | entry
        for number, entry in enumerate(upstreams)
    ]
    settings = from_json(orjson.dumps({"upstreams": entries, "policies": None, "listen_tls": tls} | changes))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    address = listener.getsockname()
    outbox = outbox or Collecting()
    worker = Worker(settings, rules.parse({"version": 1, "rules": list(policy)}), outbox)
    await worker.listen(listener)
    served = Served(worker, outbox, address)
    try:
        yield served
    finally:
        await served.close()
