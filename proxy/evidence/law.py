"""The law of a group: TTFT + TPOT x (tokens - 1), and what the limits explain beside it.

Layer: evidence. TPOT is the ratio of sums over streamed complete exchanges with at least two decoded tokens: it weighs each
token alike and so gives total time exactly, which a mean of per-request paces or a regression does not. TTFT is that of the
same exchanges. The regressions are of all complete exchanges, streamed or not, and are there to be compared: the slope on
max_tokens is no effect, for those who chose the limits chose them for a reason.

Source: ARCHITECTURE.md 7 "Times and tokens".
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from proxy.evidence.blocks import LEAST_BLOCKS, Interval, blocks_of, exact_sum, quantile, ratio_interval
from proxy.evidence.cases import is_single, stays_in_laws
from proxy.evidence.sources.exchanges import Exchanges, Floats, Mask

__all__ = ["Law", "Line", "law_of", "law_rows", "line"]


class Line(NamedTuple):
    """A least-squares line."""

    n: int
    slope: float
    intercept: float
    r2: float


@dataclass(frozen=True, slots=True)
class Law:
    """What one group's exchanges say about time; None where nothing says it."""

    n: int
    """Exchanges behind TTFT and TPOT."""
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    tpot_s: float | None
    tpot_ci95: Interval | None
    """None with fewer than four day blocks."""
    tpot_ci_method: str
    blocks: int
    """Days with such exchanges."""
    on_output_tokens: Line | None
    """E2E on output tokens."""
    on_max_tokens: Line | None
    """E2E on the forwarded limit: an association, not an effect."""


def law_rows(exchanges: Exchanges) -> Mask:
    """Streamed complete exchanges with decoded_tokens >= 2, known times and a client that did not block."""
    timed: Mask = ~np.isnan(exchanges.last_token_s - exchanges.ttft_s)
    streamed: Mask = (exchanges.stream == 1) & (exchanges.decoded_tokens >= 2)
    return streamed & timed & exchanges.complete & stays_in_laws(exchanges)


def law_of(exchanges: Exchanges) -> Law:
    """The law of these exchanges."""
    rows = law_rows(exchanges)
    decoding_s = (exchanges.last_token_s - exchanges.ttft_s)[rows]
    steps = exchanges.decoded_tokens[rows] - 1
    blocks = blocks_of(exchanges.started_at[rows])
    count = len(np.unique(blocks))
    interval = ratio_interval(decoding_s, steps, blocks)
    timed = exchanges.complete & is_single(exchanges) & stays_in_laws(exchanges)
    return Law(
        n=len(steps),
        ttft_p50_s=quantile(exchanges.ttft_s[rows], 0.5),
        ttft_p95_s=quantile(exchanges.ttft_s[rows], 0.95),
        tpot_s=exact_sum(decoding_s) / exact_sum(steps) if len(steps) else None,
        tpot_ci95=interval,
        tpot_ci_method=(
            "ratio of sums over day blocks, Student's t"
            if interval
            else f"this sample only ({count} day blocks, an interval needs {LEAST_BLOCKS})"
        ),
        blocks=count,
        on_output_tokens=line(exchanges.output_tokens[timed], exchanges.e2e_s[timed]),
        on_max_tokens=line(exchanges.forwarded_max_tokens[timed], exchanges.e2e_s[timed]),
    )


def line(x: Floats, y: Floats) -> Line | None:
    """The least-squares line through the points of which both are known; None when there is no telling one.

    That is: fewer than three points, or all of one x or of one y.
    """
    known = ~np.isnan(x + y)
    x, y = x[known], y[known]
    n = len(x)
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    mean_x, mean_y = float(x.mean()), float(y.mean())
    dx, dy = x - mean_x, y - mean_y
    xx, xy, yy = float((dx * dx).sum()), float((dx * dy).sum()), float((dy * dy).sum())
    slope = xy / xx
    return Line(n, slope, mean_y - slope * mean_x, xy * xy / (xx * yy))
