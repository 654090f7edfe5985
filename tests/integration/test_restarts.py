"""ARCHITECTURE.md 5.11: workers and the whole service are replaced under running streams, and nobody notices."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.lab.simulator import SimulatorOptions, make_app
from proxy.lab.simulator import serving as simulating
from tests.support.otlp import wait_until
from tests.support.serve import Served, serving_async

STREAMS, TOKENS = 200, 30
PACED = SimulatorOptions(ttft_s=0.05, tpot_s=0.03)
BODY = {
    "model": "sim-small",
    "stream": True,
    "max_tokens": TOKENS,
    "messages": [{"role": "user", "content": f"Go on. [tokens={TOKENS}]"}],
}


class Load:
    """Streams that follow each other, each over a connection of its own."""

    def __init__(self, base_url: str) -> None:
        self.url = f"{base_url}/chat/completions"
        self.whole = 0
        self.failed: list[str] = []
        self.enough = asyncio.Event()

    async def run(self, session: aiohttp.ClientSession) -> None:
        """One stream after the other."""
        while not self.enough.is_set():
            try:
                async with session.post(self.url, json=BODY) as answer:
                    text = await answer.content.read()
                whole = answer.status == 200 and text.endswith(b"data: [DONE]\n\n") and text.count(b"content") >= TOKENS
                outcome = None if whole else f"{answer.status}: {text[-80:]!r}"
            except aiohttp.ClientError as error:
                outcome = repr(error)
            if outcome is None:
                self.whole += 1
            else:
                self.failed.append(outcome)

    async def next(self) -> None:
        """Wait until as many streams as run at a time have ended: whatever ran before has."""
        target = self.whole + len(self.failed) + STREAMS
        while self.whole + len(self.failed) < target:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def loaded(base_url: str) -> AsyncIterator[Load]:
    """The load; at the end of the block each stream is let to its own end."""
    load = Load(base_url)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        running = [asyncio.create_task(load.run(session)) for _ in range(STREAMS)]
        await load.next()
        yield load
        load.enough.set()
        await asyncio.gather(*running)


def status(served: Served) -> dict[str, Any]:
    """The `/status` document, as soon as a recorder answers."""
    answers: list[str] = []

    def answered() -> bool:
        code, text = served.get("/status")
        if code == 200:
            answers.append(text)
        return code == 200

    wait_until(answered)
    found: dict[str, Any] = json.loads(answers[-1])
    return found


def alive(served: Served) -> set[int]:
    """The pids of the workers that hand over records."""
    return {worker["pid"] for worker in status(served)["workers"] if worker["alive"]}


def is_gone(pid: int) -> bool:
    """True when no process of that id runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def recorder_of(supervisor: int) -> int:
    """The recorder among a supervisor's children."""
    for child in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text(encoding="ascii").split():
        if b"proxy.recorder" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("no recorder")


@pytest.mark.timeout(300)
async def test_workers_service_and_recorder_are_replaced_under_two_hundred_streams() -> None:
    """None truncated, none refused; every exchange has its row and none was dropped, whichever recorder it met."""
    async with simulating(make_app(PACED)) as url:
        settings = {"upstreams": [{"name": "sim", "url": url}], "workers": 2, "timeouts": {"drain_s": 60}}
        async with serving_async(settings) as served:
            async with loaded(served.base_url) as load:
                before = await asyncio.to_thread(alive, served)
                assert len(before) == 2

                served.process.send_signal(signal.SIGUSR1)
                await asyncio.to_thread(wait_until, lambda: all(map(is_gone, before)))
                await load.next()
                assert (await asyncio.to_thread(served.get, "/readyz"))[0] == 200

                served.process.send_signal(signal.SIGUSR2)
                assert await asyncio.to_thread(served.process.wait, 120) == 0
                await load.next()
                assert (await asyncio.to_thread(served.get, "/readyz"))[0] == 200
            restarted = load.whole
            assert load.failed == []
            rows = await asyncio.to_thread(served.rows, restarted)
            assert [row["end"] for row in rows] == ["complete"] * restarted
            state = await asyncio.to_thread(status, served)
            assert state["supervisor_pid"] != served.process.pid
            assert state["drops"]["records"] == 0

            async with loaded(served.base_url) as load:
                for _ in range(2):
                    await asyncio.to_thread(status, served)
                    os.kill(recorder_of(state["supervisor_pid"]), signal.SIGKILL)
                    await load.next()
            assert load.failed == []

            os.kill(state["supervisor_pid"], signal.SIGTERM)
            await asyncio.to_thread(wait_until, lambda: is_gone(state["supervisor_pid"]))
            assert "Traceback" not in served.log, served.log
            assert "did not leave in time" not in served.log, served.log
