r"""An upstream on a real socket that does exactly what its script says, byte for byte.

    async def script(link):
        request = await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await link.closed.wait()

    async with Provider(script) as provider:
        ... provider.url ... provider.links[0].received ... provider.log ...

A script runs once for each connection, as a coroutine; when it returns the connection stays as it is. Everything that
arrives is kept whether or not the script asks for it, unless it stops reading. `log` has what happened in its order,
without times.
"""

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Self

PATIENCE_S = 20.0
"""A wait that never ends is a failed test; no test asserts that something is faster than this."""

Script = Callable[["Link"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Message:
    """One HTTP message as it was on the wire, its body decoded."""

    start: bytes
    """Request line or status line."""
    headers: list[tuple[bytes, bytes]]
    body: bytes
    chunks: tuple[bytes, ...] = ()
    """The chunks of a chunked body."""

    def values(self, name: bytes) -> list[bytes]:
        """All values of one header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def value(self, name: bytes) -> bytes | None:
        """The only value of one header; None when it is absent."""
        values = self.values(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    @property
    def status(self) -> int:
        """Status of a response."""
        return int(self.start.split(b" ")[1])


def split_head(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes] | None:
    """(start line, headers, the rest) of a message; None while its head is not whole."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    start, *lines = head.split(b"\r\n")
    headers = []
    for line in lines:
        name, _, value = line.partition(b":")
        assert value[:1] == b" ", line
        headers.append((name, value[1:]))
    return start, headers, rest


def read_message(
    data: bytes | bytearray, *, bodyless: bool = False, ended: bool = False
) -> tuple[Message, bytes] | None:
    """(message, the rest) when it is whole by its own framing; None while it is not.

    Args:
        data: What arrived.
        bodyless: True for an answer to HEAD.
        ended: True when the connection ended cleanly, which ends a close-delimited response.
    """
    split = split_head(bytes(data))
    if split is None:
        return None
    start, headers, rest = split
    message = Message(start, headers, b"")
    is_response = start.startswith(b"HTTP/")
    length, coding = message.value(b"content-length"), message.value(b"transfer-encoding")
    assert length is None or coding is None
    if bodyless or (is_response and (message.status in {204, 304} or message.status < 200)):
        return message, rest
    if coding is not None:
        assert coding == b"chunked"
        chunks = []
        while True:
            size_line, end, rest = rest.partition(b"\r\n")
            if not end:
                return None
            size = int(size_line.split(b";")[0], 16)
            if len(rest) < size + 2:
                return None
            assert rest[size : size + 2] == b"\r\n"
            if not size:
                return Message(start, headers, b"".join(chunks), tuple(chunks)), rest[2:]
            chunks.append(rest[:size])
            rest = rest[size + 2 :]
    if length is not None:
        if len(rest) < int(length):
            return None
        return Message(start, headers, rest[: int(length)]), rest[int(length) :]
    if is_response:
        return (Message(start, headers, rest), b"") if ended else None
    return message, rest


class Wire:
    """One end of a connection: sends bytes, keeps what arrives, knows how it ended."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.taken = 0
        """Bytes of `received` that `message` has handed out."""
        self.ended: str | None = None
        """`fin` or `reset` once the other side ended; None before."""
        self.closed = asyncio.Event()
        """Set when the other side ended."""
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    def read(self) -> None:
        """Read from now on."""
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def stop_reading(self) -> None:
        """Leave what comes in the socket."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
            self._reader = None

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self.sock, 1 << 18)
            except ConnectionError:
                data = None
            if data:
                self.received += data
                self.arrived(data)
            else:
                self.ended = "reset" if data is None else "fin"
                self.over()
                self.closed.set()
            self._changed.set()
            if not data:
                return

    def arrived(self, data: bytes) -> None:
        """Bytes came."""

    def over(self) -> None:
        """The other side ended."""

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of what arrived; fails when the connection ends without it."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                assert not self.closed.is_set(), (self.ended, bytes(self.received[-2000:]))
                self._changed.clear()
                await self._changed.wait()

    async def has(self, data: bytes) -> None:
        """Wait until these bytes arrived."""
        await self.until(lambda: data in self.received)

    async def message(self, *, bodyless: bool = False) -> Message:
        """The next whole message."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = read_message(self.received[self.taken :], bodyless=bodyless, ended=self.ended == "fin")
                if found is not None:
                    message, rest = found
                    self.taken = len(self.received) - len(rest)
                    return message
                assert not self.closed.is_set(), (self.ended, bytes(self.received[-2000:]))
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> str:
        """Wait for the other side's end: `fin` or `reset`."""
        async with asyncio.timeout(PATIENCE_S):
            await self.closed.wait()
        assert self.ended is not None
        return self.ended

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def fin(self) -> None:
        """End cleanly: no more bytes from this side; still reading."""
        self.sock.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """Close both directions."""
        await self.stop_reading()
        self.sock.close()

    async def reset(self) -> None:
        """End with a reset, now."""
        await self.stop_reading()
        if self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Link(Wire):
    """One connection that a provider accepted."""

    def __init__(self, sock: socket.socket, number: int, log: list[tuple[int, str, bytes]]) -> None:
        super().__init__(sock)
        self.number = number
        self._log = log

    def arrived(self, data: bytes) -> None:
        """Into the log."""
        self._log.append((self.number, "received", data))

    def over(self) -> None:
        """Into the log."""
        self._log.append((self.number, f"saw {self.ended}", b""))

    async def request(self) -> Message:
        """The next whole request."""
        return await self.message()

    async def head(self) -> None:
        """Wait for the head of the first request only."""
        await self.has(b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        """Send bytes, and log them first."""
        self._log.append((self.number, "sent", data))
        await super().send(data)


class Provider:
    """A listening socket whose connections follow a script; `tls` makes it speak TLS by asyncio's streams."""

    def __init__(self, script: Script, *, backlog: int = 64) -> None:
        self.links: list[Link] = []
        self.log: list[tuple[int, str, bytes]] = []
        """(number of the connection, `received` | `sent` | `saw fin` | `saw reset`, bytes), in the order of events."""
        self._script = script
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self._socket.setblocking(False)
        self._tasks: list[asyncio.Task[None]] = []
        self._accepted = asyncio.Event()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """As in `upstreams[].url`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def received(self) -> list[bytes]:
        """What each connection received."""
        return [bytes(link.received) for link in self.links]

    async def link(self, number: int) -> Link:
        """The connection with this number, once it was accepted."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.links) <= number:
                self._accepted.clear()
                await self._accepted.wait()
        return self.links[number]

    async def __aenter__(self) -> Self:
        self._tasks.append(asyncio.get_running_loop().create_task(self._accept()))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()
        for link in self.links:
            await link.close()
        for result in results:
            if isinstance(result, Exception) and not exc[0]:
                raise result

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._socket)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(sock, len(self.links), self.log)
            self.links.append(link)
            link.read()
            self._tasks.append(loop.create_task(self._run(link)))
            self._accepted.set()

    async def _run(self, link: Link) -> None:
        try:
            await self._script(link)
        except (AssertionError, ConnectionError):
            if not link.closed.is_set():
                raise  # else the script waited for what a closed connection cannot bring


def answering(*answers: bytes) -> Script:
    """Each request gets the next of these answers, over all connections in order; the last one is repeated."""
    left = list(answers)

    async def script(link: Link) -> None:
        while True:
            await link.request()
            await link.send(left.pop(0) if len(left) > 1 else left[0])

    return script


async def silent(link: Link) -> None:
    """Takes the connection and what comes, and says nothing."""
    del link


def ok(body: bytes = b"ok", *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A response with Content-Length."""
    lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(pieces: Iterable[bytes], *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A chunked response, one chunk for each piece."""
    lines = [b"HTTP/1.1 " + status, *headers, b"Transfer-Encoding: chunked"]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body + b"0\r\n\r\n"


def sse(*documents: bytes) -> list[bytes]:
    """Events with this data."""
    return [b"data: " + document + b"\n\n" for document in documents]


EVENT_STREAM = b"Content-Type: text/event-stream"


class TlsProvider:
    """Answers each request with the same bytes, over TLS."""

    def __init__(self, context: ssl.SSLContext, answer: bytes) -> None:
        self.requests: list[bytes] = []
        self._context = context
        self._answer = answer
        self.port = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        async with asyncio.timeout(PATIENCE_S):
            while self._serving:  # whoever asked has gone, so each connection ends by itself
                await asyncio.sleep(0)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self._answer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            writer.transport.abort()
            await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])


ID = re.compile(rb"x-lengthwise-id: ([0-9a-f]{24})")
