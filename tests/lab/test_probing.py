"""A probe as it is carried out: what is asked in which order, what it may cost, and what it finds."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from proxy.evidence.paired import comparisons, limit_arms
from proxy.evidence.verdict import Verdict
from proxy.lab.asking import AskError, Provider
from proxy.lab.budget import Budget
from proxy.lab.probing import Outcome, Plan, probe
from proxy.lab.simulator import SimulatorOptions, make_app, serving
from tests.support.odd_provider import answering, refusal, stream

PLAN = Plan(limits=(8, 64), prompt="Say something. [tokens=20]", cache="bust", blocks=6, concurrency=3)
QUICK = SimulatorOptions(ttft_s=0.0, tpot_s=0.0)


def usage(tokens: int, input_tokens: int = 10) -> dict[str, Any]:
    """As OpenAI counts."""
    return {"prompt_tokens": input_tokens, "completion_tokens": tokens, "total_tokens": input_tokens + tokens}


def ample(plan: Plan) -> Budget:
    """More than enough."""
    return Budget(requests=plan.requests + 2, tokens=10 * plan.tokens, input_tokens=plan.input_tokens)


async def carried_out(base_url: str, plan: Plan = PLAN, budget: Budget | None = None) -> tuple[Outcome, Budget, int]:
    """What came of it, what it cost, and how often it told of progress."""
    outcome, budget, told = Outcome(), budget or ample(plan), list[None]()
    provider = Provider(base_url, "sim-small", "NO_SUCH_VARIABLE", "max_tokens", field_is_settled=False)
    await probe(plan, provider, budget, outcome, lambda: told.append(None))
    return outcome, budget, len(told)


async def test_every_limit_is_asked_once_in_every_block() -> None:
    """Six blocks of two: each block has both; three warm-up requests are in no block; all of it is told and paid for."""
    async with answering(lambda body: stream(min(body["max_tokens"], 20), usage=usage(5))) as (base_url, requests):
        outcome, budget, told = await carried_out(base_url)
    assert Counter((each.block, each.max_tokens) for each in outcome.samples) == {
        (block, limit): 1 for block in range(6) for limit in (8, 64)
    }
    assert len(requests) == told == budget.spent_requests == 3 + 12
    assert budget.spent_tokens == 15 * (10 + 5)
    assert (budget.held_requests, budget.held_tokens, outcome.failures, outcome.stopped) == (0, 0, [], None)


async def test_the_order_within_blocks_is_drawn() -> None:
    """One at a time, 40 blocks: either limit comes first in some."""
    plan = replace(PLAN, blocks=40, concurrency=1)
    async with answering(lambda _: stream(1, usage=usage(1))) as (base_url, requests):
        await carried_out(base_url, plan)
    limits = [asked.body["max_tokens"] for asked in requests[plan.warm_ups :]]
    firsts = Counter(limits[::2])
    assert set(firsts) == {8, 64}
    assert all(set(limits[at : at + 2]) == {8, 64} for at in range(0, len(limits), 2))


async def test_as_many_run_at_a_time_as_was_said() -> None:
    """Three and never more: answers to blocks wait until three are asked for."""
    asked = running = most = 0
    three = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        nonlocal asked, running, most
        await request.read()
        asked += 1
        running += 1
        most = max(most, running)
        if running == 3:
            three.set()
        if asked > PLAN.warm_ups:
            await three.wait()
        running -= 1
        return stream(1, usage=usage(1))

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    async with serving(app) as origin:
        await carried_out(f"{origin}/v1")
    assert most == 3


@pytest.mark.parametrize(("cache", "distinct"), [("bust", 15), ("warm", 1)])
async def test_a_cache_is_never_met_or_always(cache: Any, distinct: int) -> None:
    """Every input begins with another nonce, or all are the same bytes."""
    async with answering(lambda _: stream(1, usage=usage(1))) as (base_url, requests):
        await carried_out(base_url, replace(PLAN, cache=cache))
    inputs = [asked.body["messages"][0]["content"] for asked in requests]
    assert len({text[:18] for text in inputs}) == distinct
    assert {text.endswith(PLAN.prompt) for text in inputs} == {True}


async def test_a_budget_of_requests_is_never_exceeded() -> None:
    """Ten requests: three of warm-up, three blocks of two, and no half block after them."""
    async with answering(lambda _: stream(1, usage=usage(1))) as (base_url, requests):
        budget = Budget(requests=10, tokens=100_000, input_tokens=PLAN.input_tokens)
        outcome, _, _ = await carried_out(base_url, PLAN, budget)
    assert len(requests) == 9
    assert (len(outcome.samples), outcome.stopped) == (6, "the budget is spent")


@pytest.mark.parametrize("tokens", [400, 500, 733])
async def test_a_budget_of_tokens_is_never_exceeded(tokens: int) -> None:
    """Whatever the answers cost, what was spent is within it; and what answers left over is used for more."""
    async with serving(make_app(QUICK)) as origin:
        budget = Budget(requests=1000, tokens=tokens, input_tokens=PLAN.input_tokens)
        outcome, _, _ = await carried_out(f"{origin}/v1", replace(PLAN, blocks=100), budget)
    assert budget.spent_tokens <= tokens
    assert outcome.stopped == "the budget is spent"
    assert outcome.samples
    # A block costs 8 + 20 tokens and its input; the budget holds no other one at its worst.
    assert budget.spent_tokens + 8 + 64 + 2 * budget.input_tokens > tokens


async def test_the_provider_is_asked_as_it_wants_to_be() -> None:
    """One that knows neither max_tokens nor stream_options refuses twice, and is asked its way from then on."""

    def answer(body: dict[str, Any]) -> web.Response:
        if "max_tokens" in body:
            return refusal(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "stream_options" in body:
            return refusal(400, "Unknown parameter: stream_options")
        return stream(3)

    async with answering(answer) as (base_url, requests):
        outcome, budget, _ = await carried_out(base_url)
    assert [
        sorted({"max_tokens", "max_completion_tokens", "stream_options"} & set(asked.body)) for asked in requests[:3]
    ] == [
        ["max_tokens", "stream_options"],
        ["max_completion_tokens", "stream_options"],
        ["max_completion_tokens"],
    ]
    assert len(outcome.samples) == outcome.uncounted_answers == 12
    assert budget.spent_requests == 3 + 12 + 2


async def test_a_provider_that_ignores_the_limit_ends_the_probe() -> None:
    """Neither its comparison nor a budget would mean anything."""
    async with answering(lambda _: stream(20, usage=usage(20))) as (base_url, requests):
        with pytest.raises(AskError, match="does not keep its limit: 20 tokens with max_tokens 8"):
            await carried_out(base_url)
    assert len(requests) == 1


async def test_a_first_refusal_ends_the_probe() -> None:
    """A model that is not there costs one request."""
    async with answering(lambda _: refusal(404, "no such model")) as (base_url, requests):
        with pytest.raises(AskError, match="status 404"):
            await carried_out(base_url)
    assert len(requests) == 1


async def test_a_later_refusal_costs_its_answer_alone() -> None:
    """One of twelve is refused; the others are there."""
    answers = iter([None] * 5 + ["refused"] + [None] * 100)
    slow_down = {"retry-after": "0"}
    async with answering(
        lambda _: stream(1, usage=usage(1)) if next(answers) is None else refusal(429, "slow down", **slow_down)
    ) as (base_url, _):
        outcome, _, _ = await carried_out(base_url)
    assert (len(outcome.samples), len(outcome.failures), outcome.stopped) == (11, 1, None)


async def test_nothing_but_failures_stops_the_probe() -> None:
    """Five in a row are enough to know; what was answered before stays."""
    answers = iter([None] * 7 + ["refused"] * 100)
    async with answering(lambda _: stream(1, usage=usage(1)) if next(answers) is None else refusal(500, "broken")) as (
        base_url,
        _,
    ):
        outcome, budget, _ = await carried_out(base_url)
    assert len(outcome.samples) == 4
    assert outcome.stopped == "5 requests in a row failed"
    assert (budget.held_requests, budget.held_tokens) == (0, 0)


async def test_what_was_answered_before_an_interruption_stays() -> None:
    """Cancelled in the middle, the samples until then are there."""
    outcome, enough = Outcome(), asyncio.Event()

    def advance() -> None:
        if len(outcome.samples) >= 4:
            enough.set()

    async with serving(make_app(QUICK)) as origin:
        provider = Provider(f"{origin}/v1", "sim-small", "NO_SUCH_VARIABLE", "max_tokens", field_is_settled=True)
        plan = replace(PLAN, blocks=100_000)
        running = asyncio.create_task(probe(plan, provider, ample(plan), outcome, advance))
        await enough.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert len(outcome.samples) >= 4
    assert limit_arms(outcome.samples, plan.limits)[0].n >= 1


async def test_cached_input_is_counted() -> None:
    """Answers that the provider read from its cache are told beside the figures."""
    cached = usage(1) | {"prompt_tokens_details": {"cached_tokens": 8}}
    async with answering(lambda _: stream(1, usage=cached)) as (base_url, _):
        outcome, _, _ = await carried_out(base_url)
    assert outcome.cached_answers == 12


async def test_thirty_milliseconds_of_reservation_are_found_and_no_others() -> None:
    """The simulator takes 15 ms to set 1,000 tokens aside: 2,000 more cost 30 ms, and 64 against 1,000 cut. Without that, nothing."""
    plan = Plan(
        limits=(64, 1000, 3000),
        prompt="At length. [tokens=120] [ttft_ms=40] [tpot_ms=0.5]",
        cache="bust",
        blocks=24,
        concurrency=2,
    )
    found = {}
    for planted_s in (0.0, 0.015):
        async with serving(make_app(SimulatorOptions(reserving_s_per_1000_tokens=planted_s))) as origin:
            outcome, _, _ = await carried_out(f"{origin}/v1", plan)
        assert [
            (arm.case, arm.cut_share, arm.output_tokens_mean) for arm in limit_arms(outcome.samples, plan.limits)
        ] == [
            ("A", 1.0, 64.0),
            ("B", 0.0, 120.0),
            ("B", 0.0, 120.0),
        ]
        found[planted_s] = next(
            each for each in comparisons(outcome.samples) if (each.arm, each.outcome) == (1000, "ttft")
        )
    assert found[0.015].verdict is Verdict.DIFFERENT
    assert -0.045 < found[0.015].difference_s < -0.015
    assert (
        -0.015 < found[0.0].difference_s < 0.015
    )  # one in twenty calls nothing different, so the verdict is not asserted
