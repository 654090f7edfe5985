"""ARCHITECTURE.md 5.8: telemetry costs traffic nothing when the backend hangs or the recorder is dead."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from proxy.lab.simulator import SimulatorOptions, make_app
from proxy.lab.simulator import serving as simulating
from tests.integration.test_first_light import FAST, client, settings, streamed
from tests.support.otlp import HttpCollector, wait_until
from tests.support.serve import Served, serving_async


def recorder_pid(served: Served) -> int:
    """The recorder among the supervisor's children."""
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text(encoding="ascii")
    for pid in children.split():
        if b"proxy.recorder" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return int(pid)
    raise AssertionError("no recorder")


def status(served: Served) -> dict[str, Any]:
    """The `/status` document, as soon as the recorder answers and the worker has found it."""
    while True:
        code, text = served.get("/status")
        if code == 200 and (found := json.loads(text))["workers"]:
            return found


async def test_a_killed_recorder_loses_no_request_and_every_lost_record_is_counted() -> None:
    """Killed twice under load: every stream is whole, health stays green, rows and drops account for every exchange."""
    async with (
        simulating(make_app(SimulatorOptions(ttft_s=0.02, tpot_s=0.002))) as url,
        serving_async(settings(url)) as served,
        client(served.base_url) as through,
    ):
        finished = 0

        async def load() -> None:
            nonlocal finished
            for _ in range(8):
                chunks = await streamed(through, max_tokens=30)
                assert chunks[-1]["choices"][0]["finish_reason"] == "length"
                finished += 1

        streams = [asyncio.create_task(load()) for _ in range(10)]
        for _ in range(2):
            await asyncio.to_thread(status, served)
            os.kill(recorder_pid(served), signal.SIGKILL)
            assert (await asyncio.to_thread(served.get, "/healthz"))[0] == 200
            assert (await asyncio.to_thread(served.get, "/readyz"))[0] == 200
        await asyncio.gather(*streams)
        assert finished == 80

        # Settled: everything is either written or counted; a row may be both, when its acknowledgement was lost.
        while True:
            state = await asyncio.to_thread(status, served)
            written = len(await asyncio.to_thread(served.rows, 0))
            if state["exchanges"] == 80 and written + state["drops"]["records"] >= 80:
                break
        assert written <= 80


EXCHANGES = 30


@pytest.mark.parametrize("mode", ["hang", "500", "garbage", "refuse"])
async def test_a_bad_collector_is_not_noticed_by_traffic_and_every_lost_span_is_counted(mode: str) -> None:
    """Every request succeeds, every row is written, exit code 0; `/status` and `/metrics` agree on what was lost."""
    with HttpCollector(mode) as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_BSP_MAX_QUEUE_SIZE": "8",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60" if mode == "hang" else "1",
        }
        async with simulating(make_app(FAST)) as url, serving_async(settings(url), env=environment) as served:
            async with client(served.base_url) as through:
                await streamed(through, max_tokens=5)
                if mode == "hang":  # the first two spans are on their way, for as long as the test lasts
                    await asyncio.to_thread(collector.wait_for_requests, 1)
                await asyncio.gather(*(streamed(through, max_tokens=5) for _ in range(EXCHANGES)))
            rows = await asyncio.to_thread(served.rows, EXCHANGES + 1)
            assert [row["end"] for row in rows] == ["complete"] * (EXCHANGES + 1)

            def lost() -> tuple[int, int]:
                traces = json.loads(served.get("/status")[1])["export"]["traces"]
                assert traces["exported"] == 0
                return traces["failed"], traces["dropped"]

            spans = 2 * (EXCHANGES + 1)
            if mode == "hang":
                assert await asyncio.to_thread(lost) == (0, spans - 2 - 8)
            else:
                await asyncio.to_thread(wait_until, lambda: sum(lost()) == spans)
            failed, dropped = await asyncio.to_thread(lost)
            _, metrics = await asyncio.to_thread(served.get, "/metrics")
            for outcome, count in (("failed", failed), ("dropped", dropped), ("exported", 0)):
                assert f'lengthwise_export_items_total{{outcome="{outcome}",signal="traces"}} {count:.1f}\n' in metrics
            assert (await asyncio.to_thread(served.get, "/readyz"))[0] == 200
            served.process.terminate()
            assert await asyncio.to_thread(served.process.wait, 30) == 0
