"""Policies that learn from traffic, against the simulated provider: rules disarm, deadlines become limits, arms are drawn."""

import asyncio
import math
import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.lab.simulator import SimulatorOptions, make_app
from proxy.lab.simulator import serving as simulating
from tests.integration.test_recorder_away import recorder_pid
from tests.support.serve import Served, serving_async

TTFT_S, TPOT_S = 0.05, 0.002
FAST = SimulatorOptions(ttft_s=TTFT_S, tpot_s=TPOT_S)
PATIENCE_S = 30.0


def settings(url: str, **changes: Any) -> dict[str, Any]:
    """One upstream, two workers."""
    return {"upstreams": [{"name": "sim", "url": url}], "workers": 2} | changes


async def asked(client: aiohttp.ClientSession, tokens: int, **changes: Any) -> str | None:
    """The policy header of a streamed answer of so many tokens, read whole."""
    headers = changes.pop("headers", {})
    body = {"model": "sim-small", "messages": [{"role": "user", "content": f"[tokens={tokens}]"}], "stream": True}
    async with client.post("chat/completions", json=body | changes, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
        return answer.headers.get("x-lengthwise-policy")


def policy_header(action: str, requested: int, forwarded: int, rule: str = "rule") -> str:
    """The header of a decision."""
    return f"rule={rule}; action={action}; requested={requested}; forwarded={forwarded}"


async def status_until(served: Served, holds: Callable[[Any], bool]) -> Any:
    """`/status` once it shows that."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            code, text = await asyncio.to_thread(served.get, "/status")
            if code == 200 and holds(status := orjson.loads(text)):
                return status
            await asyncio.sleep(0.05)


def armed(status: Any) -> bool:
    """Whether the only rule is armed, as the recorder has it."""
    return bool(status["policy"]["rules"][0]["armed"])


@pytest.mark.parametrize("ledger", ["lengthwise.sqlite", None])
async def test_a_rule_that_cuts_too_much_stops_by_itself_and_begins_again(ledger: str | None) -> None:
    """Five cuts of a budget of four in the last 40; disarmed on both workers, after the recorder's and a worker's end too."""
    rule = {"name": "rule", "do": "cap", "max_tokens": 10, "disarm": {"truncated_share": 0.1, "of_last": 40}}
    async with (
        simulating(make_app(FAST)) as url,
        serving_async(settings(url, ledger={"path": ledger}), policies={"version": 1, "rules": [rule]}) as served,
        aiohttp.ClientSession(served.base_url + "/") as client,
    ):
        for _ in range(4):
            assert await asked(client, 30, max_tokens=20) == policy_header("capped", 20, 10)
        status = await status_until(served, lambda status: status["policy"]["rules"][0]["cut"] == 4)
        assert armed(status)
        assert await asked(client, 30, max_tokens=20) == policy_header("capped", 20, 10)
        await status_until(served, lambda status: not armed(status))
        # Until each worker has heard of it, which each second repeats.
        async with asyncio.timeout(PATIENCE_S):
            while await asked(client, 5, max_tokens=20) is not None:
                pass
        assert "rule rule is disarmed and acts as shadow" in served.log
        _, metrics = await asyncio.to_thread(served.get, "/metrics")
        assert 'lengthwise_policy_rule_armed{rule="rule"} 0.0' in metrics

        os.kill(recorder_pid(served), signal.SIGKILL)
        await status_until(served, lambda status: not armed(status))
        assert [await asked(client, 5, max_tokens=20) for _ in range(4)] == [None] * 4

        # Answers that the cap would not have cut fill the window, until half the budget is left.
        await asyncio.gather(*(asked(client, 5, max_tokens=20) for _ in range(40)))
        await status_until(served, armed)
        async with asyncio.timeout(PATIENCE_S):
            while await asked(client, 5, max_tokens=20) != policy_header("capped", 20, 10):
                pass


async def test_a_deadline_becomes_the_tokens_that_the_live_law_expects() -> None:
    """Undecided until 50 streams were seen; then within what the simulator's own times allow."""
    rule = {"name": "rule", "do": "cap", "deadline_s": 0.25, "quantile": 0.5, "floor": 5, "deadline_header": True}
    async with (
        simulating(make_app(FAST)) as url,
        serving_async(settings(url, workers=1), policies={"version": 1, "rules": [rule]}) as served,
        aiohttp.ClientSession(served.base_url + "/") as client,
    ):
        assert await asked(client, 20, max_tokens=500) == policy_header("undecided", 500, 500)
        for _ in range(10):
            await asyncio.gather(*(asked(client, 20, max_tokens=500) for _ in range(5)))
        status = await status_until(served, lambda status: status["laws"])
        law = status["laws"][0]
        assert (law["upstream"], law["model"], law["exchanges"] >= 50) == ("sim", "sim-small", True)
        assert law["ttft_p50_s"] >= TTFT_S
        header = None
        async with asyncio.timeout(PATIENCE_S):
            while header is None or "capped" not in header:
                header = await asked(client, 20, max_tokens=500)
        forwarded = int(header.rpartition("=")[2])
        # The law seen is near to the law planted: a first token that comes late, and the rest in time, looks a little faster.
        assert 5 < forwarded <= 1.2 * (1 + math.floor((0.25 - TTFT_S) / TPOT_S))
        expected = 1 + math.floor((0.25 - law["ttft_p50_s"]) / law["tpot_p50_s"])
        assert forwarded == pytest.approx(expected, rel=0.2)

        shorter = await asked(client, 20, max_tokens=500, headers={"x-lengthwise-deadline-ms": "51"})
        assert shorter == policy_header("capped", 500, 5)
        longer = await asked(client, 20, max_tokens=500, headers={"x-lengthwise-deadline-ms": "90000"})
        assert longer is not None
        assert int(longer.rpartition("=")[2]) < 200
        soon = {"x-lengthwise-deadline-ms": "soon"}
        async with client.post("chat/completions", json={"model": "m", "messages": []}, headers=soon) as refused:
            assert (refused.status, refused.headers["x-lengthwise-error"]) == (400, "malformed_request")


async def test_arms_are_drawn_alike_by_all_workers_and_recorded() -> None:
    """Per request within binomial bounds; sticky by header on both workers; none is no arm limit."""
    policies = {
        "version": 1,
        "rules": [
            {
                "name": "sticky",
                "match": {"header": {"x-user": "*"}},
                "do": "cap",
                "experiment": {"arms": [4, 8], "unit": "header:X-User"},
            },
            {"name": "rule", "do": "cap", "max_tokens": 12, "experiment": {"arms": [4, 8, "none"]}},
        ],
    }
    count = 240
    async with (
        simulating(make_app(SimulatorOptions(ttft_s=0.001, tpot_s=0.0001))) as url,
        serving_async(settings(url), policies=policies) as served,
        aiohttp.ClientSession(served.base_url + "/") as client,
    ):
        for _ in range(count // 20):
            await asyncio.gather(*(asked(client, 3, max_tokens=100) for _ in range(20)))
        users = [f"user-{number}" for number in range(20)]
        for _ in range(3):
            await asyncio.gather(*(asked(client, 3, max_tokens=100, headers={"x-user": user}) for user in users))
        rows = await asyncio.to_thread(served.rows, count + 60)
    drawn = [row for row in rows if row["rule"] == "rule"]
    shares = Counter(row["arm"] for row in drawn)
    # 1 in 10**6 draws of a fair arm lies outside: 4.9 standard deviations.
    bound = 4.9 * math.sqrt(count * 1 / 3 * 2 / 3)
    assert set(shares) == {"4", "8", "none"}
    assert all(abs(share - count / 3) < bound for share in shares.values()), shares
    assert {(row["arm"], row["forwarded_max_tokens"], row["arm_unit"]) for row in drawn} == {
        ("4", 4, None),
        ("8", 8, None),
        ("none", 12, None),
    }
    sticky = {(row["arm_unit"], row["arm"]) for row in rows if row["rule"] == "sticky"}
    assert len(sticky) == len(dict(sticky)) == 20
    assert {arm for _, arm in sticky} == {"4", "8"}
