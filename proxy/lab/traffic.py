"""The demo's traffic: kinds of requests, a client that sends them, and what the ledger says about each kind.

Layer: lab. The client measures nothing; every number comes from the ledger that Lengthwise wrote.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import orjson

__all__ = ["CLASSES", "Summary", "TrafficClass", "interleaved", "rows_of", "send_all", "summarise"]

_CONCURRENCY = 10
_LEDGER_S = 10.0
_TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


@dataclass(frozen=True, slots=True)
class TrafficClass:
    """One kind of request; its name is sent as the calling application, so that the ledger tells the kinds apart."""

    name: str
    title: str
    count: int
    prompt: str
    """`{}` stands for the request's number; without it every request has the same prompt."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    model: str = "sim-small"
    stream: bool = True

    def bodies(self) -> Iterator[bytes]:
        """The requests' bodies."""
        for number in range(self.count):
            messages = [{"role": "user", "content": self.prompt.format(number)}]
            yield orjson.dumps({"model": self.model, "messages": messages, "stream": self.stream, **self.fields})


_SAME = "Does the limit change the wait?"

CLASSES = (
    TrafficClass("short-answer", "short, big limit", 10, "In a word, {}? [tokens=30]", {"max_tokens": 4096}),
    TrafficClass("long-answer", "long, low limit", 10, "At length, {}. [tokens=600]", {"max_tokens": 150}),
    TrafficClass("same-64", "same prompt 64", 6, _SAME, {"max_tokens": 64}),
    TrafficClass("same-1024", "same prompt 1024", 6, _SAME, {"max_tokens": 1024}),
    TrafficClass("same-8192", "same prompt 8192", 6, _SAME, {"max_tokens": 8192}),
    TrafficClass("reasoning", "reasoning", 6, "Think, {}.", {"max_completion_tokens": 4096}, model="sim-reasoning"),
    TrafficClass("tool-call", "tool call", 6, "Look {} up. [tool] [tokens=24]", {"max_tokens": 512, "tools": [_TOOL]}),
    TrafficClass("not-streamed", "not streamed", 6, "Briefly, {}. [tokens=60]", stream=False),
    TrafficClass("capped", "capped by policy", 8, "Explain {}. [tokens=400]", {"max_tokens": 2000}, model="sim-large"),
)
"""All traffic of the demo, in the order of the table."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What the ledger says about one class; times are medians, None where no row has them."""

    title: str
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
    """Summarise ledger rows by class, in the order of `CLASSES`; rows of no class are left out."""
    by_class: dict[str, list[Mapping[str, Any]]] = {kind.name: [] for kind in CLASSES}
    for row in rows:
        by_class.get(row["app"], []).append(row)
    return [_summary(kind.title, by_class[kind.name]) for kind in CLASSES]


def _summary(title: str, rows: Sequence[Mapping[str, Any]]) -> Summary:
    def middle(column: str) -> float | None:
        values = [row[column] for row in rows if row[column] is not None]
        return median(values) if values else None

    first: Mapping[str, Any] = rows[0] if rows else {}
    return Summary(
        title=title,
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


async def send_all(base_url: str, advance: Callable[[], None]) -> list[str]:
    """Send every request, a few at a time, and call `advance` after each; returns what failed, a line each."""
    waiting = interleaved()
    failures: list[str] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def send_until_none_waits() -> None:
            while waiting:
                failures.extend(await _send(session, base_url, *waiting.pop(0)))
                advance()

        async with asyncio.TaskGroup() as senders:
            for _ in range(_CONCURRENCY):
                senders.create_task(send_until_none_waits())
    return failures


async def _send(session: aiohttp.ClientSession, base_url: str, kind: TrafficClass, body: bytes) -> list[str]:
    headers = {"content-type": "application/json", "x-lengthwise-app": kind.name}
    try:
        async with session.post(f"{base_url}/chat/completions", data=body, headers=headers) as response:
            answer = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return [f"{kind.title}: {type(error).__name__}"]
    if response.status != 200:
        return [f"{kind.title}: status {response.status}"]
    whole = answer.endswith(b"data: [DONE]\n\n") if kind.stream else b'"usage"' in answer
    return [] if whole else [f"{kind.title}: incomplete answer"]


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
