"""What a difference between two limits amounts to: intervals, margins, and the three verdicts.

Layer: evidence (pure, numpy).

Two intervals, for two ways of looking. An experiment in traffic never ends and is looked at daily, so its interval is an
asymptotic confidence sequence: it holds at every look at once, at the price of being about half as wide again. A probe has as many
blocks as were settled before it began and shows nothing while it runs, so Student's t is right; its differences are
trimmed, because one answer in a hundred takes seconds for reasons of its own.

Sources: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences" (2024), equations 9 and 20 of the two-sided sequence and its tuning; Yuen, "The two-sample trimmed t for unequal
population variances" (1974), in its form for one sample.
"""

import math
from enum import StrEnum
from typing import Final, Literal, NamedTuple

import numpy as np

from proxy.evidence.blocks import t_quantile
from proxy.evidence.sources.exchanges import Floats

__all__ = [
    "ERROR_RATE",
    "Estimate",
    "Outcome",
    "Verdict",
    "judged",
    "margin_s",
    "sequence",
    "trimmed",
    "units_needed",
]

Outcome = Literal["ttft", "tpot", "e2e"]

ERROR_RATE: Final = 0.05
"""Chance that an interval of either kind misses, over all looks together."""
_LEAST_UNITS: Final = 20
"""Fewest units of which an asymptotic statement is made."""
_RESOLUTION: Final = 1e-9
"""A nanosecond, which is what clocks tell apart: no interval reaches less far, and no rounding error is a difference."""
_FLOOR_S: Final = 0.010
_MARGIN_SHARE: Final = 0.02
_TRIMMED_SHARE: Final = 0.1


class Verdict(StrEnum):
    """What an interval says about a difference."""

    DIFFERENT = "different"
    """It excludes zero."""
    EQUIVALENT = "equivalent"
    """It lies within the margin: no difference that anybody would notice."""
    UNDECIDED = "undecided"


class Estimate(NamedTuple):
    """A difference, arm minus reference."""

    difference: float
    ci95: tuple[float, float] | None
    """None when there are too few units for any."""


def margin_s(outcome: Outcome, median_s: float) -> float:
    """Largest difference that counts as none: 2% of the reference's median; of whole waits (ttft, e2e) at least 10 ms.

    tpot has no such floor: it is a time per token, and 10 ms of it are seconds of an answer.
    """
    share_s = _MARGIN_SHARE * median_s
    return share_s if outcome == "tpot" else max(_FLOOR_S, share_s)


def judged(ci95: tuple[float, float] | None, margin: float) -> Verdict:
    """The verdict on an interval; one that excludes zero is different even where it lies within the margin."""
    if ci95 is None:
        return Verdict.UNDECIDED
    low, high = ci95
    if low > 0 or high < 0:
        return Verdict.DIFFERENT
    return Verdict.EQUIVALENT if -margin <= low and high <= margin else Verdict.UNDECIDED


# -- experiments: valid at every look ------------------------------------------------------------------------------------


def sequence(values: Floats, *, best_at: int, degrees_lost: int = 0) -> Estimate:
    """Mean of values of independent units, with an interval that holds at every number of units at once.

    Args:
        values: One for each unit; their mean is the difference.
        best_at: Number of units at which the interval is to be narrowest; fixed before any data are seen.
        degrees_lost: Parameters that were fitted to get the values.
    """
    units = len(values)
    mean = float(values.mean())
    free = units - 1 - degrees_lost
    if units < _LEAST_UNITS or free < 1:
        return Estimate(mean, None)
    sd = math.sqrt(float(((values - mean) ** 2).sum()) / free)
    half = max(sd * _half_width(units, best_at), _RESOLUTION)
    return Estimate(mean, (mean - half, mean + half))


def units_needed(values: Floats, *, best_at: int, margin: float, limit: int = 1_000_000_000) -> int:
    """Units, those at hand included, at which the interval would decide if mean and spread stayed what they are.

    It decides when it excludes zero (half width below the difference) or lies within the margin; whichever is sooner.
    """
    mean = abs(float(values.mean()))
    sd = float(values.std(ddof=1)) if len(values) > 1 else math.inf
    wanted = max(mean, margin - mean)
    low, high = max(len(values), _LEAST_UNITS), limit
    while low < high:
        middle = (low + high) // 2
        if sd * _half_width(middle, best_at) <= wanted:
            high = middle
        else:
            low = middle + 1
    return low


def _half_width(units: int, best_at: int) -> float:
    """Half width in standard deviations; falls with the number of units."""
    narrow = (-2 * math.log(ERROR_RATE) + math.log(1 - 2 * math.log(ERROR_RATE))) / best_at
    scaled = units * narrow + 1
    return math.sqrt(2 * scaled / (units * units * narrow) * math.log(math.sqrt(scaled) / ERROR_RATE))


# -- probes: one look, settled before ------------------------------------------------------------------------------------


def trimmed(differences: Floats) -> Estimate:
    """Mean of paired differences without the tenth at either end, with Yuen's interval; none from a single pair.

    The interval is as wide as the winsorised differences are spread, on as many degrees of freedom as pairs were kept.
    """
    count = len(differences)
    ordered = np.sort(differences)
    cut = int(_TRIMMED_SHARE * count)
    kept = ordered[cut : count - cut]
    mean = float(kept.mean())
    if count < 2:
        return Estimate(mean, None)
    winsorised = np.clip(ordered, kept[0], kept[-1])
    squares = float(((winsorised - winsorised.mean()) ** 2).sum())
    half = max(t_quantile(len(kept) - 1) * math.sqrt(squares / (len(kept) * (len(kept) - 1))), _RESOLUTION)
    return Estimate(mean, (mean - half, mean + half))
