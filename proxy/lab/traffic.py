"""The demo's traffic: applications with limits of their own, a client that sends what they send, and what the ledger says of each.

Layer: lab. The client measures nothing; every number comes from the ledger that Lengthwise wrote.
"""

import asyncio
import contextlib
import math
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import orjson

__all__ = ["BATCHES", "CLASSES", "Summary", "TrafficClass", "interleaved", "rows_of", "send_all", "sent", "summarise"]

_CONCURRENCY = 16
_LEDGER_S = 10.0
_TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


@dataclass(frozen=True, slots=True)
class TrafficClass:
    """One kind of request; its name is sent as the calling application, so that the ledger tells the kinds apart."""

    name: str
    count: int
    prompt: str
    """`{}` stands for the request's number; without it every request has the same prompt."""
    median_tokens: float
    """Of natural lengths."""
    sigma: float = 0.5
    """Standard deviation of their logarithm."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    model: str = "sim-small"
    stream: bool = True

    def bodies(self) -> Iterator[bytes]:
        """The requests' bodies, the same in every run."""
        source = random.Random(self.name)  # noqa: S311 -- a simulation
        for number in range(self.count):
            tokens = max(round(source.lognormvariate(math.log(self.median_tokens), self.sigma)), 3)
            content = f"{self.prompt.format(number)} [tokens={tokens}]"
            messages = [{"role": "user", "content": content}]
            yield orjson.dumps({"model": self.model, "messages": messages, "stream": self.stream, **self.fields})


CLASSES = (
    TrafficClass("search", 60, "In a sentence, {}?", 45, fields={"max_tokens": 4096}),
    TrafficClass("chat", 70, "Tell me about {}.", 170, fields={"max_tokens": 1024}),
    TrafficClass("summary", 40, "Sum up document {}.", 260, fields={"max_tokens": 128}),
    TrafficClass("letters", 30, "Write letter {}.", 330, 0.3, fields={"max_tokens": 4096}),
    TrafficClass("extract", 40, "Extract {}.", 30, fields={"max_tokens": 2048}, stream=False),
    TrafficClass("agent", 12, "Look {} up. [tool]", 24, fields={"max_tokens": 512, "tools": [_TOOL]}),
    TrafficClass("analyst", 8, "Think about {}.", 60, fields={"max_completion_tokens": 4096}, model="sim-reasoning"),
    TrafficClass("assistant", 16, "Explain {}.", 300, fields={"max_tokens": 2000}, model="sim-large"),
)
"""The demo's traffic that comes at the same time, in the order of the table."""

_BATCH = TrafficClass("", 8, "Classify the lot.", 120, 0.0, model="sim-reserving")
BATCHES = tuple(
    replace(_BATCH, name=f"batch-{limit}", fields={"max_tokens": limit}) for _ in range(2) for limit in (512, 8192)
)
"""The same requests with two limits, to a provider that reserves the limit; in blocks that take turns, each sent at once."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What the ledger says about one class; times are medians, None where no row has them."""

    name: str
    model: str
    requests: int
    complete: int
    """Requests that ended well: answered 200, relayed whole."""
    requested_max_tokens: int | None
    forwarded_max_tokens: int | None
    generated_tokens: float | None
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    cut: int
    """Answers that were ended by the limit."""
    rule: str | None


def summarise(rows: Iterable[Mapping[str, Any]]) -> list[Summary]:
    """Summarise ledger rows by class, in the order of `CLASSES` and `BATCHES`; rows of no class are left out."""
    kinds = {kind.name: kind for kind in (*CLASSES, *BATCHES)}
    by_class: dict[str, list[Mapping[str, Any]]] = {name: [] for name in kinds}
    for row in rows:
        by_class.get(row["app"], []).append(row)
    return [_summary(kind, by_class[kind.name]) for kind in kinds.values()]


def _summary(kind: TrafficClass, rows: Sequence[Mapping[str, Any]]) -> Summary:
    def middle(column: str) -> float | None:
        values = [row[column] for row in rows if row[column] is not None]
        return median(values) if values else None

    first: Mapping[str, Any] = rows[0] if rows else {}
    return Summary(
        name=kind.name,
        model=kind.model,
        requests=len(rows),
        complete=sum(row["end"] == "complete" and row["status"] == 200 for row in rows),
        requested_max_tokens=first.get("requested_max_tokens"),
        forwarded_max_tokens=first.get("forwarded_max_tokens"),
        generated_tokens=middle("output_tokens"),
        ttft_s=middle("ttft_s"),
        tpot_s=middle("tpot_s"),
        e2e_s=middle("e2e_s"),
        cut=sum(bool(row["cut"]) for row in rows),
        rule=first.get("rule"),
    )


def interleaved() -> list[tuple[TrafficClass, bytes]]:
    """Every request, the kinds spread evenly, so that all of them meet the same load."""
    placed = [(number / kind.count, kind, body) for kind in CLASSES for number, body in enumerate(kind.bodies())]
    return [(kind, body) for _, kind, body in sorted(placed, key=lambda item: item[0])]


def sent() -> int:
    """Requests of `send_all`."""
    return sum(kind.count for kind in (*CLASSES, *BATCHES))


async def send_all(base_url: str, advance: Callable[[], None]) -> list[str]:
    """Send every request and call `advance` after each; returns what failed, a line each."""
    waiting = interleaved()
    failures: list[str] = []
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=60), connector=aiohttp.TCPConnector(limit=0)
    ) as session:

        async def send(kind: TrafficClass, body: bytes) -> None:
            failures.extend(await _send(session, base_url, kind, body))
            advance()

        async def send_until_none_waits() -> None:
            while waiting:
                await send(*waiting.pop(0))

        async def send_batches() -> None:
            for kind in BATCHES:
                await asyncio.gather(*(send(kind, body) for body in kind.bodies()))

        async with asyncio.TaskGroup() as senders:
            senders.create_task(send_batches())
            for _ in range(_CONCURRENCY):
                senders.create_task(send_until_none_waits())
    return failures


async def _send(session: aiohttp.ClientSession, base_url: str, kind: TrafficClass, body: bytes) -> list[str]:
    headers = {"content-type": "application/json", "x-lengthwise-app": kind.name}
    try:
        async with session.post(f"{base_url}/chat/completions", data=body, headers=headers) as response:
            answer = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return [f"{kind.name}: {type(error).__name__}"]
    if response.status != 200:
        return [f"{kind.name}: status {response.status}"]
    whole = answer.endswith(b"data: [DONE]\n\n") if kind.stream else b'"usage"' in answer
    return [] if whole else [f"{kind.name}: incomplete answer"]


async def rows_of(ledger: Path, wanted: int) -> list[dict[str, Any]]:
    """Ledger rows as soon as `wanted` are there, or what is there in the end."""
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LEDGER_S):
            while len(rows) < wanted:
                await asyncio.sleep(0.05)
                rows = _read(ledger)
    return rows


def _read(ledger: Path) -> list[dict[str, Any]]:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM exchange")]
    except sqlite3.OperationalError:  # there is no table before the first commit
        return []
