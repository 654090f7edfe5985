"""Carries a probe out: warm-up, then blocks of one request under every limit, in random order, at a fixed concurrency.

Layer: lab. A worker takes a block and asks its limits one after the other, so that a pair of one block meets the same load; as
many workers run as the concurrency says. The warm-up is discarded: it opens the connections, fills the cache, and shows
whether the provider answers at all, with one request first. A block is begun only when the budget holds all of it.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from proxy.evidence.paired import Sample
from proxy.lab.asking import Asker, AskError, LimitError, Provider, StatusError, session
from proxy.lab.budget import Budget
from proxy.record import ExchangeRecord

__all__ = ["Cache", "Outcome", "Plan", "probe"]

Cache = Literal["bust", "warm"]

_FAILURES_IN_A_ROW: Final = 5
_LONGEST_PAUSE_S: Final = 60.0
_FRAME_TOKENS: Final = 100
"""More than a nonce and a chat template cost."""
_NONCE_TOKENS: Final = 16
"""More than two nonces differ by."""
_SPENT: Final = "the budget is spent"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be asked."""

    limits: tuple[int, ...]
    prompt: str
    cache: Cache
    blocks: int
    concurrency: int

    @property
    def warm_ups(self) -> int:
        """Requests that are discarded: at least one under every limit and one on every connection."""
        return max(len(self.limits), self.concurrency)

    @property
    def warm_up_limits(self) -> tuple[int, ...]:
        """Their limits; the smallest first, which is the cheapest way to learn that nobody answers."""
        return tuple(self.limits[number % len(self.limits)] for number in range(self.warm_ups))

    @property
    def requests(self) -> int:
        """Every request of the probe."""
        return self.warm_ups + self.blocks * len(self.limits)

    @property
    def input_tokens(self) -> int:
        """Bound on the tokens of the input, before an answer tells: no tokenizer makes more of a text than it has bytes."""
        return len(self.prompt.encode()) + _FRAME_TOKENS

    @property
    def tokens(self) -> int:
        """Bound on the tokens of the whole probe."""
        output = sum(self.warm_up_limits) + self.blocks * sum(self.limits)
        return output + self.requests * self.input_tokens

    def text(self) -> str:
        """The input of one request; with a fresh beginning where no cache may know it."""
        return f"[{secrets.token_hex(8)}] {self.prompt}" if self.cache == "bust" else self.prompt


@dataclass(slots=True)
class Outcome:
    """What came of a probe so far."""

    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Why requests of blocks failed, one for each."""
    stopped: str | None = None
    """Why it ended before its plan did; None when it did not."""
    cached_answers: int = 0
    """Answers whose input was read from the provider's cache, at least in part."""
    uncounted_answers: int = 0
    """Answers without usage, whose tokens are the events that carried any."""


async def probe(plan: Plan, provider: Provider, budget: Budget, outcome: Outcome, advance: Callable[[], None]) -> None:
    """Fill `outcome`, calling `advance` after every request; what is there when it is cancelled stays there.

    Raises:
        AskError: the first request failed, or the provider does not keep its limits.
    """
    async with session(plan.concurrency) as http:
        run = _Run(plan, budget, outcome, Asker(http, provider), advance)
        await run.warm_up()
        await run.blocks()


class _Run:
    """One probe under way."""

    def __init__(self, plan: Plan, budget: Budget, outcome: Outcome, asker: Asker, advance: Callable[[], None]) -> None:
        self._plan = plan
        self._budget = budget
        self._outcome = outcome
        self._asker = asker
        self._advance = advance
        self._next_block = 0
        self._given_back = asyncio.Condition()
        self._failed_in_a_row = 0

    async def warm_up(self) -> None:
        """Ask once alone, then on every connection and under every limit; nothing of it is kept."""
        first, *others = self._plan.warm_up_limits
        input_tokens = await self._ask_somehow(first)
        if input_tokens is not None:
            self._budget.input_tokens = min(self._budget.input_tokens, input_tokens + _NONCE_TOKENS)
        gate = asyncio.Semaphore(self._plan.concurrency)

        async def one(max_tokens: int) -> None:
            async with gate:
                if self._budget.hold((max_tokens,)):
                    await self._ask(max_tokens)

        try:
            async with asyncio.TaskGroup() as group:
                for max_tokens in others:
                    group.create_task(one(max_tokens))
        except* AskError as errors:
            raise _first(errors) from None

    async def blocks(self) -> None:
        """Take blocks until there is none left, or no budget, or nothing but failures."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._plan.concurrency):
                    group.create_task(self._work())
        except* AskError as errors:
            raise _first(errors) from None

    async def _work(self) -> None:
        while self._next_block < self._plan.blocks and self._outcome.stopped is None:
            if not await self._hold_block():
                self._stop(_SPENT)
                return
            if self._next_block >= self._plan.blocks:  # taken by another while this one waited
                await self._give_back(self._plan.limits)
                return
            block, self._next_block = self._next_block, self._next_block + 1
            order = random.sample(self._plan.limits, len(self._plan.limits))
            while order and self._outcome.stopped is None:
                await self._measure(block, order.pop())
            await self._give_back(order)

    async def _hold_block(self) -> bool:
        """Set a block's cost aside; waits while others may still give some of theirs back."""
        async with self._given_back:
            while not self._budget.hold(self._plan.limits):
                if not self._budget.held_requests:
                    return False
                await self._given_back.wait()
            return True

    async def _give_back(self, limits: Sequence[int]) -> None:
        async with self._given_back:
            for max_tokens in limits:
                self._budget.give_back(self._budget.cost_tokens(max_tokens))
            self._given_back.notify_all()

    async def _measure(self, block: int, max_tokens: int) -> None:
        outcome = self._outcome
        try:
            record = await self._ask(max_tokens)
        except LimitError:
            raise
        except AskError as error:
            outcome.failures.append(str(error))
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= _FAILURES_IN_A_ROW:
                self._stop(f"{self._failed_in_a_row} requests in a row failed")
            elif isinstance(error, StatusError) and error.retry_after_s is not None:
                await asyncio.sleep(min(error.retry_after_s, _LONGEST_PAUSE_S))
            return
        self._failed_in_a_row = 0
        usage = record.response.usage
        outcome.cached_answers += bool(usage and usage.cached_input_tokens)
        outcome.uncounted_answers += record.usage_source == "estimated"
        outcome.samples.append(
            Sample(
                block=block,
                max_tokens=max_tokens,
                output_tokens=record.output_tokens,
                decoded_tokens=record.decoded_tokens,
                cut=record.cut,
                ttft_s=record.ttft_s,
                tpot_s=record.tpot_s,
                e2e_s=record.e2e_s,
            )
        )

    async def _ask_somehow(self, max_tokens: int) -> int | None:
        """Ask, and where the provider wants to be asked in another way, in that; the tokens of the input, if it says."""
        while self._budget.hold((max_tokens,)):
            try:
                record = await self._ask(max_tokens)
            except StatusError as refused:
                other = self._asker.provider.other_way(refused)
                if other is None:
                    raise
                self._asker = replace(self._asker, provider=other)
            else:
                return record.response.usage.input_tokens if record.response.usage else None
        self._stop(_SPENT)
        return None

    def _stop(self, reason: str) -> None:
        if self._outcome.stopped is None:
            self._outcome.stopped = reason

    async def _ask(self, max_tokens: int) -> ExchangeRecord:
        """Ask within the budget, of which this request was set aside."""
        held = self._budget.cost_tokens(max_tokens)
        tokens: int | None = None
        try:
            record = await self._asker.ask(self._plan.text(), max_tokens)
            output, usage = record.output_tokens or 0, record.response.usage
            if usage is not None and usage.input_tokens is not None:
                tokens = usage.input_tokens + output
        except StatusError as refused:
            tokens = 0 if refused.status < 500 else None
            raise
        finally:
            async with self._given_back:
                self._budget.spend(held, tokens)
                self._given_back.notify_all()
            self._advance()
        if output > max_tokens:
            raise LimitError(
                f"the provider does not keep its limit: {output} tokens with {self._asker.provider.field} {max_tokens}"
            )
        return record


def _first(errors: BaseExceptionGroup[AskError]) -> AskError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, AskError)
    return error
