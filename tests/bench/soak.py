"""Hours of mixed outcomes in minutes: does the service keep anything? `python -m tests.bench.soak --minutes 30`.

The service as a user starts it, full observation, ledger on; clients of which 40% leave before their answer is whole, an upstream
that breaks, fails and refuses. Resident memory is fitted over the exchanges behind a warm-up, for worker, recorder and supervisor;
at the end descriptors are those of before, nothing is active, and rows and drops account for every exchange. Exit 1 when not.
"""

import argparse
import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench import processes
from tests.bench.figures import table
from tests.support.serve import Served, serving_async

PARTS = {"worker": "proxy.relay", "recorder": "proxy.recorder"}
OUTCOMES = {
    "leave before the answer": 15,
    "leave in the middle": 25,
    "stream": 25,
    "document": 15,
    "broken stream": 8,
    "refused by a rule": 4,
    "failed by the upstream": 4,
    "no answer": 4,
}
"""What becomes of a request, and in how many of a hundred."""
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"token "}}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DOCUMENT = b'{"choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}'
WARM_UP = 0.2
"""Share of the exchanges that is not fitted: pools, caches and allocators fill."""
SLOPE_MIB = 1.0
"""Largest growth in 10,000 exchanges."""
SETTLE_S = 30.0


@dataclass(slots=True)
class Sample:
    """Resident memory at some moment."""

    exchanges: int
    rss_kib: dict[str, int]


@dataclass(slots=True)
class Result:
    """What a soak found."""

    outcomes: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    descriptors_left: dict[str, int] = field(default_factory=dict)
    """Open files and sockets more than before, by part."""
    active: int = 0
    unaccounted: int = 0
    """Exchanges without a row and without a counted drop."""
    drops: int = 0

    def slope_mib(self, part: str) -> float:
        """Growth of a part's memory in 10,000 exchanges, least squares behind the warm-up."""
        last = self.samples[-1].exchanges
        points = [(each.exchanges, each.rss_kib[part]) for each in self.samples if each.exchanges >= WARM_UP * last]
        mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread * 10_000 / 1024 if spread else 0.0

    def growth_mib(self, part: str) -> float:
        """Memory at the end, less that behind the warm-up."""
        last = self.samples[-1].exchanges
        warm = next(each for each in self.samples if each.exchanges >= WARM_UP * last)
        return (self.samples[-1].rss_kib[part] - warm.rss_kib[part]) / 1024


async def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of the upstream: each request says by its model what it gets."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            wanted = json.loads(body)["model"]
            if wanted in {"leave before the answer", "no answer"}:
                if wanted == "no answer":
                    break
                await reader.read(1)  # until the relay gives up
                break
            if wanted == "failed by the upstream":
                writer.write(b"HTTP/1.1 500 Sorry\r\nContent-Length: 2\r\n\r\n{}")
            elif wanted == "document":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DOCUMENT) + DOCUMENT)
            else:
                writer.write(STREAM_HEAD)
                for _ in range(5):
                    await _chunk(writer, EVENT)
                if wanted == "leave in the middle":
                    await reader.read(1)
                    break
                if wanted == "broken stream":
                    break
                await _chunk(writer, LAST)
                writer.write(b"0\r\n\r\n")
            await writer.drain()
    writer.transport.abort()


@contextlib.asynccontextmanager
async def _upstream() -> AsyncIterator[str]:
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        task.add_done_callback(serving.discard)
        await _answer(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for task in tuple(serving):
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


async def _ask(served: Served, wanted: str, chance: random.Random) -> None:
    """One request, and its client's part in what becomes of it."""
    host, port = served.url.removeprefix("http://").rsplit(":", 1)
    body = json.dumps({"model": wanted, "stream": "stream" in wanted or "middle" in wanted, "messages": []}).encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    writer.write(body)
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        if wanted == "leave before the answer":
            await writer.drain()
            await asyncio.sleep(chance.random() * 0.02)
        elif wanted == "leave in the middle":
            await reader.readuntil(b"token")
        else:
            await reader.read()
    if chance.random() < 0.5:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _status(served: Served) -> dict[str, Any]:
    code, text = served.get("/status")
    return json.loads(text) if code == 200 else {}


async def soak(*, seconds: float | None, exchanges: int | None, concurrency: int, seed: int = 0) -> Result:
    """Put the service under mixed load until `seconds` have passed or so many exchanges were made."""
    result, chance = Result(), random.Random(seed)
    names, weights = list(OUTCOMES), list(OUTCOMES.values())
    rules = [
        {"name": "no", "match": {"model": ["refused*"]}, "do": "reject"},
        {"name": "cap", "do": "cap", "max_tokens": 9},
    ]
    policies = {"version": 1, "rules": rules}
    async with _upstream() as url:
        settings = {"upstreams": [{"name": "fake", "url": url}], "policies": "policies.yaml"}
        async with serving_async(settings, policies=policies) as served:
            pids = {"supervisor": served.process.pid}
            for part, words in PARTS.items():
                pid = processes.named(served.process.pid, words)
                assert pid is not None
                pids[part] = pid
            while not (await asyncio.to_thread(_status, served)).get("workers"):
                await asyncio.sleep(0.05)
            until_s = None if seconds is None else time.monotonic() + seconds
            before: dict[str, int] | None = None

            def sample() -> None:
                rss = {part: processes.rss_kib(pid) for part, pid in pids.items()}
                result.samples.append(Sample(result.outcomes.total(), rss))

            async def client() -> None:
                while result.outcomes.total() < (exchanges or sys.maxsize) and (
                    until_s is None or time.monotonic() < until_s
                ):
                    (wanted,) = chance.choices(names, weights)
                    result.outcomes[wanted] += 1
                    await _ask(served, wanted, chance)

            async def sampling() -> None:
                while True:
                    sample()
                    await asyncio.sleep(0.25)

            async def settled() -> dict[str, Any]:
                """The status once nothing runs and all is accounted for, or as it is after a while."""
                late_s = time.monotonic() + SETTLE_S
                while True:
                    status = await asyncio.to_thread(_status, served)
                    known = status["ledger"]["written"] + status["drops"]["records"] if status else -1
                    quiet = status and not any(worker["active"] for worker in status["workers"])
                    if status and ((quiet and known >= result.outcomes.total()) or time.monotonic() > late_s):
                        return status
                    assert time.monotonic() < late_s, served.get("/status")[1] + served.log
                    await asyncio.sleep(0.1)

            # One exchange of each kind first, so that what is opened once and for all is open.
            for wanted in names:
                result.outcomes[wanted] += 1
                await _ask(served, wanted, chance)
            await settled()
            await _without_idle(pids["worker"])
            before = {part: len(processes.descriptors(pid)) for part, pid in pids.items()}
            sampler = asyncio.create_task(sampling())
            await asyncio.gather(*(client() for _ in range(concurrency)))
            sampler.cancel()
            status = await settled()
            await _without_idle(pids["worker"])
            sample()
            result.active = sum(worker["active"] for worker in status["workers"])
            result.drops = status["drops"]["records"]
            result.unaccounted = result.outcomes.total() - status["ledger"]["written"] - result.drops
            result.descriptors_left = {
                part: len(processes.descriptors(pid)) - before[part] for part, pid in pids.items()
            }
    return result


async def _without_idle(pid: int) -> None:
    """Wait until idle connections to the upstream have expired, which they do after four seconds: until nothing closes any more."""
    steady_since_s, count = time.monotonic(), len(processes.descriptors(pid))
    while time.monotonic() - steady_since_s < 5:
        await asyncio.sleep(0.1)
        now = len(processes.descriptors(pid))
        if now != count:
            steady_since_s, count = time.monotonic(), now


def kept(result: Result) -> list[str]:
    """What the service kept, but for memory: empty when nothing."""
    found = [
        f"{part} has {count} descriptors more than before"
        for part, count in result.descriptors_left.items()
        if count > 0
    ]
    if result.active:
        found.append(f"{result.active} exchanges are still active")
    if result.unaccounted > 0:
        found.append(f"{result.unaccounted} exchanges have neither a row nor a counted drop")
    return found


def report(result: Result) -> str:
    """For the reader."""
    parts = list(result.samples[-1].rss_kib)
    rows = [
        (
            part,
            f"{result.samples[0].rss_kib[part] / 1024:.1f}",
            f"{result.samples[-1].rss_kib[part] / 1024:.1f}",
            f"{result.slope_mib(part):+.3f}",
            f"{result.descriptors_left[part]:+d}",
        )
        for part in parts
    ]
    outcomes = ", ".join(f"{name} {count}" for name, count in sorted(result.outcomes.items()))
    head = ("", "RSS first MiB", "RSS last MiB", "MiB/10,000", "descriptors")
    return f"{result.outcomes.total()} exchanges: {outcomes}; {result.drops} records dropped\n{table([head, *rows])}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, report, and return 1 when something was kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    result = asyncio.run(
        soak(seconds=given.minutes * 60, exchanges=None, concurrency=given.concurrency, seed=given.seed)
    )
    print(report(result))
    found = kept(result)
    found += [
        f"{part} grows by {result.slope_mib(part):.2f} MiB in 10,000 exchanges"
        for part in result.samples[-1].rss_kib
        if result.slope_mib(part) > SLOPE_MIB
    ]
    print("\n".join(found) or "nothing was kept")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
