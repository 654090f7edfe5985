"""Blocks of time as units of an experiment: when a block has settled, and when blocks are too short for the queue.

Layer: evidence (pure, numpy).

At the start of a block the queue is still that of the block before, so its first minute is not measured; where waits are longer,
more is left out, at most half a block. A queue that outlasts that carries one arm's waits into the other's blocks, and the
difference between arms comes out too small.
"""

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from proxy.evidence.sources.exchanges import Exchanges, Mask, Words

__all__ = ["block_numbers", "runs", "settled"]

_BLOCK: Final = re.compile(r"block:(\d{1,15})")
_CARRY_OVER_S: Final = 60.0
_BACKLOG_SHARE: Final = 0.05
"""Of a block: a backlog that is longer is not gone when the next block is measured."""
_LEAST_CHANGES: Final = 50
"""With fewer expected, chance alone makes runs."""


def block_numbers(words: Words) -> NDArray[np.int64]:
    """The number of each row's block; -1 where its unit is no block."""
    matches = (_BLOCK.fullmatch(word) for word in words.known)
    numbers = [int(match.group(1)) if match else -1 for match in matches]
    return np.array([*numbers, -1], dtype=np.int64)[words.codes]


def runs(arms: Words) -> Words | None:
    """Each run of one arm as a block, where arms plainly came in runs; None where they change as if drawn one by one.

    Plainly: they change less than half as often as draws would, which of even draws has a chance below one in a million.

    Args:
        arms: Every row's arm, in the order of their start.
    """
    if not len(arms.codes):
        return None
    shares = np.unique(arms.codes, return_counts=True)[1] / len(arms.codes)
    changed = np.diff(arms.codes) != 0
    expected = len(changed) * (1 - float((shares**2).sum()))
    if expected < _LEAST_CHANGES or changed.sum() >= expected / 2:
        return None
    numbers = np.concatenate(([0], np.cumsum(changed))).astype(np.int32)
    return Words(numbers, tuple(f"block:{number}" for number in range(numbers[-1] + 1)))


def settled(exchanges: Exchanges) -> tuple[Mask, str | None]:
    """Exchanges that started when the block before was over and done with; and what is to be said if blocks are too short.

    Args:
        exchanges: All of them belong to blocks; of every arm, so that no arm's waits decide for it alone.
    """
    distinct, first, block = np.unique(
        block_numbers(exchanges.arm_unit), return_index=True, return_inverse=True
    )  # rows are in the order of their start
    starts = exchanges.started_at[first]
    everything = np.ones(len(exchanges), bool)
    if len(distinct) < 2:
        return everything, None
    block_s = float((starts[-1] - starts[0]) / (distinct[-1] - distinct[0]))
    waits_s = exchanges.ttft_s[~np.isnan(exchanges.ttft_s)]
    backlog_s = float(np.quantile(waits_s, 0.99)) if waits_s.size else 0.0
    carry_over_s = min(max(_CARRY_OVER_S, backlog_s), block_s / 2)
    said = None
    if backlog_s > _BACKLOG_SHARE * block_s:
        said = (
            f"overload, or blocks too short: one exchange in a hundred waits more than {backlog_s:.1f} s of a block's "
            f"{block_s:.0f} s, so waits of one arm reach into the other's blocks and the policy's effect is larger than shown"
        )
    return exchanges.started_at - starts[block.reshape(-1)] >= carry_over_s, said
