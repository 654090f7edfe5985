"""Figures of the promises that a test can only say yes or no to: `python -m tests.bench.promises [--only 3]`.

The service as a user starts it, ledger on. Numbers are those of the table in tests/README.md. A shared machine adds to every time.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from tests.bench import processes
from tests.support.otlp import HttpCollector
from tests.support.serve import Served, serving_async

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"token "}}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Upstream:
    """Answers by the model's name: `stall` (an event, then nothing), `silent`, `flood` (without end), `slow`, else a whole stream."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.closed: dict[str, float] = {}
        """Path to the monotonic second at which the connection of its request ended."""
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                model = json.loads(await reader.readexactly(length))["model"] if length else "whole"
                marked = head.partition(b"x-mark: ")[2].partition(b"\r\n")[0].decode()
                self.requests.append(marked)
                await self._answer(model, marked, reader, writer)
        writer.transport.abort()

    async def _answer(
        self, model: str, marked: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if model != "silent":
            writer.write(HEAD + _chunk(EVENT))
        if model in {"stall", "silent"}:
            await reader.read(1)
            self.closed[marked] = time.monotonic()
            raise asyncio.IncompleteReadError(b"", 1)
        while model == "flood":
            writer.write(_chunk(EVENT * 1000))
            await writer.drain()
        if model == "slow":
            for _ in range(20):
                await asyncio.sleep(0.05)
                writer.write(_chunk(EVENT))
        if model == "reset":
            writer.transport.abort()
            raise ConnectionError
        writer.write(_chunk(LAST) + b"0\r\n\r\n")
        await writer.drain()

    async def stop(self) -> None:
        """End what is served."""
        for task in tuple(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@contextlib.asynccontextmanager
async def running(env: Mapping[str, str] | None = None, **changes: Any) -> AsyncIterator[tuple[Served, Upstream]]:
    """The service in front of an upstream."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, backlog=1024)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with serving_async({"upstreams": [{"name": "fake", "url": url}]} | changes, env=env) as served:
        yield served, upstream
    server.close()
    await upstream.stop()


async def ask(served: Served, model: str, mark: str = "", *, receive_bytes: int | None = None) -> asyncio.StreamWriter:
    """A client that has asked for a stream; its reader is the transport's protocol's."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    host, port = served.url.removeprefix("http://").rsplit(":", 1)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    body = json.dumps({"model": model, "stream": True, "messages": []}).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nx-mark: %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (mark.encode(), len(body), body)
    )
    writer.reader = reader  # type: ignore[attr-defined]
    return writer


async def read_all(writer: Any) -> bytes:
    """Everything that comes until the end; what came when it was reset."""
    got = b""
    with contextlib.suppress(OSError):
        while data := await writer.reader.read(65536):
            got += data
    writer.transport.abort()
    return got


def _percentiles(values: Sequence[float]) -> str:
    cuts = statistics.quantiles(values, n=100)
    return (
        f"p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms, max {max(values) * 1000:.1f} ms (n {len(values)})"
    )


async def leaving() -> str:
    """3: from a client's departure to the upstream's end, before and behind the first token."""
    async with running() as (served, upstream):
        took: dict[str, list[float]] = {"silent": [], "stall": []}
        for number in range(1000):
            model = "silent" if number % 2 else "stall"
            mark = f"{number}"
            writer: Any = await ask(served, model, mark)
            if model == "stall":
                await writer.reader.readuntil(b"token")
            else:
                while mark not in upstream.requests:
                    await asyncio.sleep(0.0005)
            left_s = time.monotonic()
            writer.transport.abort()
            async with asyncio.timeout(10):
                while mark not in upstream.closed:
                    await asyncio.sleep(0.0002)
            took[model].append(upstream.closed[mark] - left_s)
        return f"first byte pending: {_percentiles(took['silent'])}; mid-stream: {_percentiles(took['stall'])}"


async def collectors() -> str:
    """6: the time of whole streams with a collector that answers, hangs and is away, in turns."""
    found = {}
    for mode in ("ok", "hang", "500", "refuse"):
        with HttpCollector(mode) as collector:
            async with running({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}) as (served, _):
                took = []
                for _ in range(400):
                    began_s = time.monotonic()
                    answer = await read_all(await ask(served, "whole"))
                    took.append(time.monotonic() - began_s)
                    assert answer.endswith(b"0\r\n\r\n")
                found[mode] = took[100:]
    return "; ".join(f"{mode}: {_percentiles(took)}" for mode, took in found.items())


async def stalled_readers() -> str:
    """11: what 20 clients that do not read cost, of an answer without end."""
    async with running() as (served, _):
        pid = processes.named(served.process.pid, "proxy.relay")
        assert pid is not None
        await read_all(await ask(served, "whole"))
        before = processes.rss_kib(pid)
        writers: list[Any] = [await ask(served, "flood", receive_bytes=65536) for _ in range(20)]
        for writer in writers:
            writer.transport.pause_reading()
        most = 0
        for _ in range(30):
            await asyncio.sleep(0.1)
            most = max(most, processes.rss_kib(pid))
        for writer in writers:
            writer.transport.abort()
        return f"{(most - before) / 20:.0f} KiB resident for each of 20"


async def draining() -> str:
    """12: SIGTERM under 200 streams of a second."""
    async with running() as (served, _):
        streams = [asyncio.create_task(read_all(await ask(served, "slow"))) for _ in range(200)]
        await asyncio.sleep(0.5)
        began_s = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*streams)
        whole = sum(answer.endswith(b"0\r\n\r\n") for answer in answers)
        code = await asyncio.to_thread(served.process.wait, 60)
        return f"{200 - whole} of 200 truncated, exit code {code} after {time.monotonic() - began_s:.1f} s"


async def waiting() -> str:
    """14: the time to a connection with 500 streams at once, as the ledger's ttfc less the upstream's own 0."""
    async with running() as (served, _):
        await asyncio.gather(*[read_all(await ask(served, "slow")) for _ in range(500)])
        rows = await asyncio.to_thread(served.rows, 500)
        return "own time before the upstream's: " + _percentiles(
            [row["overhead_s"] for row in rows if row["overhead_s"]]
        )


async def idle_attackers() -> str:
    """15: good traffic beside 2,000 idle connections and 200 heads that drip."""
    async with running(timeouts={"client_body_s": 2, "keepalive_s": 3}) as (served, _):

        async def traffic() -> list[float]:
            took = []
            for _ in range(200):
                began_s = time.monotonic()
                await read_all(await ask(served, "whole"))
                took.append(time.monotonic() - began_s)
            return took

        alone = await traffic()
        host, port = served.url.removeprefix("http://").rsplit(":", 1)
        opened_s = time.monotonic()
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(2000)]
        drips = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
        for _, writer in drips:
            writer.write(b"GET / HT")
        beside = await traffic()
        ends = await asyncio.gather(*(reader.read() for reader, _ in (*idle, *drips)))
        took_s = time.monotonic() - opened_s
        for _, writer in (*idle, *drips):
            writer.transport.abort()
        refused = sum(end.startswith(b"HTTP/1.1 408") for end in ends[2000:])
        return f"alone {_percentiles(alone)}; beside {_percentiles(beside)}; all closed {took_s:.1f} s after the first, {refused} of 200 by 408"


async def repetitions() -> str:
    """18: no request reaches the upstream twice, of 3,000 POSTs of which a third is reset."""
    async with running() as (served, upstream):
        chance = random.Random(0)
        for number in range(3000):
            await read_all(await ask(served, chance.choice(["reset", "whole", "whole"]), str(number)))
        twice = len(upstream.requests) - len(set(upstream.requests))
        return f"{twice} of {len(upstream.requests)} sent twice"


async def killed_worker() -> str:
    """26: from kill -9 of one worker of two to two ready ones; the sibling's answers meanwhile."""
    async with running(workers=2) as (served, _):
        pid = processes.named(served.process.pid, "proxy.relay")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        began_s = time.monotonic()
        bad = 0
        while True:
            answer = await read_all(await ask(served, "whole"))
            bad += not answer.endswith(b"0\r\n\r\n")
            state = json.loads((await asyncio.to_thread(served.get, "/readyz"))[1])
            if state.get("workers_ready") == 2 and processes.named(served.process.pid, "proxy.relay") != pid:
                break
        return f"two ready again after {time.monotonic() - began_s:.2f} s, {bad} failed requests meanwhile"


RUNS: dict[str, Callable[[], Awaitable[str]]] = {
    "3": leaving,
    "6": collectors,
    "11": stalled_readers,
    "12": draining,
    "14": waiting,
    "15": idle_attackers,
    "18": repetitions,
    "26": killed_worker,
}
"""Row of the table to its run."""


def main() -> None:
    """Measure all rows, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(RUNS))
    given = parser.parse_args()
    for row, measure in RUNS.items():
        if given.only in {None, row}:
            text = (measure.__doc__ or "").partition(": ")[2]
            print(f"{row:>2}  {text}\n    {asyncio.run(measure())}", flush=True)


if __name__ == "__main__":
    main()
