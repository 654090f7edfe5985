"""Day blocks: intervals for figures whose exchanges share their hours, and the few quantiles that evidence needs.

Layer: evidence. Exchanges of one day share load, model version and users; treated as independent they would give
intervals several times too narrow. So a day (UTC) is the unit: its sums vary, and Student's t with one degree less than
there are days says by how much. Below four days no interval is given: the figure is of this sample only.

Totals are exact (`exact_sum`): a report's figure is the sum of its rows to the last digit, however it is added up.

Source: Cochran, Sampling Techniques 6 (ratio estimator); Abramowitz and Stegun 26.7.3-4 (Student's t); Wilson 1927.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from proxy.evidence.sources.exchanges import Floats

__all__ = [
    "DAY_S",
    "LEAST_BLOCKS",
    "Interval",
    "blocks_of",
    "exact_sum",
    "quantile",
    "ratio_interval",
    "share_upper",
    "t_quantile",
    "total_interval",
]

DAY_S: Final = 86_400
LEAST_BLOCKS: Final = 4
_Z95: Final = 1.959963984540054


class Interval(NamedTuple):
    """A 95% interval."""

    low: float
    high: float


def blocks_of(started_at: Floats, length_s: int = DAY_S) -> NDArray[np.int64]:
    """The day (UTC), or the block of another length, of each exchange; those that occur, numbered from 0."""
    return np.unique(np.floor(started_at / length_s), return_inverse=True)[1].astype(np.int64)


def exact_sum(values: Floats) -> float:
    """The sum, rounded once."""
    return math.fsum(values.tolist())


def quantile(values: Floats, share: float) -> float | None:
    """The quantile of the known values, linear between neighbours; None when none is known."""
    known = values[~np.isnan(values)]
    return float(np.quantile(known, share)) if known.size else None


def ratio_interval(numerators: Floats, denominators: Floats, blocks: NDArray[np.int64]) -> Interval | None:
    """Interval of sum(numerators) / sum(denominators); None with fewer than four blocks."""
    count = _count(blocks)
    whole = exact_sum(denominators)
    if count < LEAST_BLOCKS or not whole:
        return None
    ratio = exact_sum(numerators) / whole
    residuals = _sums(numerators, blocks) - ratio * _sums(denominators, blocks)
    error = math.sqrt(count / (count - 1) * exact_sum(residuals**2)) / whole
    return _around(ratio, t_quantile(count - 1) * error)


def total_interval(values: Floats, blocks: NDArray[np.int64]) -> Interval | None:
    """Interval of the sum over as many days like these; None with fewer than four blocks."""
    count = _count(blocks)
    if count < LEAST_BLOCKS:
        return None
    sums = _sums(values, blocks)
    mean = exact_sum(sums) / count
    error = math.sqrt(count * exact_sum((sums - mean) ** 2) / (count - 1))
    return _around(exact_sum(values), t_quantile(count - 1) * error)


def share_upper(hits: int, trials: int) -> float:
    """Upper end of Wilson's 95% interval of a share; 1 without a trial."""
    if not trials:
        return 1.0
    share, z2 = hits / trials, _Z95**2
    spread = _Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return min(1.0, (share + z2 / (2 * trials) + spread) / (1 + z2 / trials))


def t_quantile(degrees: int) -> float:
    """The 97.5% quantile of Student's t with this many degrees of freedom (at least 1)."""
    low, high = 1.9, 12.8
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_central(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def _t_central(t: float, degrees: int) -> float:
    """P(|T| < t)."""
    angle = math.atan(t / math.sqrt(degrees))
    cos2 = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    terms = [term] if degrees > 1 else []
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cos2 * (k - 1) / k
        terms.append(term)
    series = math.sin(angle) * math.fsum(terms)
    return 2 / math.pi * (angle + series) if odd else series


def _count(blocks: NDArray[np.int64]) -> int:
    return int(blocks.max()) + 1 if blocks.size else 0


def _sums(values: Floats, blocks: NDArray[np.int64]) -> Floats:
    return np.bincount(blocks, values).astype(np.float64)


def _around(value: float, reach: float) -> Interval:
    """No figure here can be negative, and no interval says that it could."""
    return Interval(max(value - reach, 0.0), value + reach)
