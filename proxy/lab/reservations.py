"""A token budget that a provider gives out at admission and takes back at the end.

Layer: lab. So do providers that set `max_tokens` aside when a request comes in: a request waits until its limit fits, however
few tokens it will generate.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Reservations"]


class Reservations:
    """A token budget, given out strictly in the order of asking: a small request never overtakes a large one."""

    def __init__(self, budget_tokens: int) -> None:
        self._budget_tokens = budget_tokens
        self._free_tokens = budget_tokens
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return sum(not admitted.done() for _, admitted in self._queue)

    @asynccontextmanager
    async def hold(self, tokens: int) -> AsyncIterator[None]:
        """Wait for `tokens` and hold them; more than the whole budget waits for the whole budget."""
        needed = min(tokens, self._budget_tokens)
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((needed, admitted))
        self._admit()
        try:
            await admitted
            yield
        finally:
            if admitted.done() and not admitted.cancelled():
                self._free_tokens += needed
            admitted.cancel()
            self._admit()

    def _admit(self) -> None:
        while self._queue:
            needed, admitted = self._queue[0]
            if not admitted.done():
                if needed > self._free_tokens:
                    return
                self._free_tokens -= needed
                admitted.set_result(None)
            self._queue.popleft()
