"""A TCP proxy that misbehaves as it is told, in the test's own event loop: between client and relay, or relay and upstream.

    async with FaultProxy(provider.port, to_client=Fault(cut_at=100, end="reset")) as between:
        async with relay(between.url) as served: ...

What a new connection suffers is read when it is accepted, so a test may change `to_client` and `to_server` between two.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Literal, Self

__all__ = ["CLEAN", "Fault", "FaultProxy"]

End = Literal["fin", "half", "reset", "stall"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the bytes of one direction of a connection."""

    latency_s: float = 0.0
    """Each read waits so long before it goes on."""
    slice_bytes: int | None = None
    """Largest piece that is sent at once; None for what was read."""
    pause_s: float = 0.0
    """Between two pieces of one read; the loop runs in any case."""
    cut_at: int | None = None
    """Bytes of this direction after which `end` happens; None for never."""
    end: End = "fin"
    """`fin`: both sides are closed cleanly. `half`: this direction ends, the other goes on. `reset`: both sides are reset.
    `stall`: nothing passes any more, and both sides stay open."""


CLEAN = Fault()


class FaultProxy:
    """Listens, connects each client to `port`, and passes bytes both ways as the faults say."""

    def __init__(self, port: int, *, to_client: Fault = CLEAN, to_server: Fault = CLEAN) -> None:
        self.to_client = to_client
        self.to_server = to_server
        self.connections = 0
        """Accepted so far."""
        self._target = ("127.0.0.1", port)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._socket.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[socket.socket] = set()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._socket.getsockname()
        return host, port

    @property
    def url(self) -> str:
        """As in `upstreams[].url`."""
        return f"http://127.0.0.1:{self.address[1]}"

    async def __aenter__(self) -> Self:
        self._begin(self._accept())
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()
        for sock in tuple(self._open):
            self._close(sock)

    def _begin(self, work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._socket)
            self.connections += 1
            self._begin(self._serve(client, self.to_client, self.to_server))

    async def _serve(self, client: socket.socket, to_client: Fault, to_server: Fault) -> None:
        server = socket.socket()
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(sock)
        try:
            await asyncio.get_running_loop().sock_connect(server, self._target)
        except OSError:
            self._reset(client, server)
            return
        ways = (self._pass(client, server, to_server), self._pass(server, client, to_client))
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if "half" in [task.result() for task in done]:
                await asyncio.wait(tasks)
            ends = [task.result() for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if "reset" in ends:
            self._reset(client, server)
        self._close(client)
        self._close(server)

    async def _pass(self, source: socket.socket, sink: socket.socket, fault: Fault) -> End:
        """Pass bytes until this direction ends; how it did. A stall has no end."""
        loop = asyncio.get_running_loop()
        left = fault.cut_at
        try:
            while left is None or left > 0:
                data = await loop.sock_recv(source, 65536)
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return "half"
                if fault.latency_s:
                    await asyncio.sleep(fault.latency_s)
                if left is not None:
                    data = data[:left]
                    left -= len(data)
                step = fault.slice_bytes or len(data)
                for at in range(0, len(data), step):
                    await loop.sock_sendall(sink, data[at : at + step])
                    if fault.slice_bytes:
                        await asyncio.sleep(fault.pause_s)
        except OSError:
            return "reset"
        if fault.end == "stall":
            await loop.create_future()
        if fault.end == "half":
            sink.shutdown(socket.SHUT_WR)
        return fault.end

    def _reset(self, *socks: socket.socket) -> None:
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        self._open.discard(sock)
        sock.close()
