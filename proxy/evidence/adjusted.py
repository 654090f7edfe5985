"""The effect of one arm against another in traffic that was assigned to them by chance: one value for each unit, whose mean is the effect.

Layer: evidence (pure, numpy).

Each arm has a regression of its own on what was known before the answer began; both predict every exchange, and what an
exchange was off by is weighed by how rare its arm is (Lin's estimator). It cannot be biased by a wrong regression, only less
precise. Outcomes are winsorised first, at 1% of both arms together: a mean of raw waits is decided by the worst
hundredth.

Sources: Lin, "Agnostic notes on regression adjustments to experimental data" (2013); for units of several exchanges, Liang and
Zeger, "Longitudinal data analysis using generalized linear models" (1986).
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from proxy.evidence.sources.exchanges import Floats, Mask

__all__ = ["Adjusted", "adjusted", "lagged_mean", "winsorised"]

Indices = NDArray[np.intp]

_TAIL_SHARE: Final = 0.01
_UNITS_PER_PARAMETER: Final = 10
"""Units of the smaller arm for each parameter of its regression; with fewer nothing is adjusted."""
_LAG: Final = 20


class Adjusted(NamedTuple):
    """The effect of an arm as a mean of values of independent units."""

    values: Floats
    """One for each unit, in no order; their mean is the effect, their spread its uncertainty."""
    degrees_lost: int
    """Parameters fitted, beyond the mean."""


def winsorised(values: Floats) -> Floats:
    """Floats beyond the outer hundredths, set to where those begin."""
    low, high = np.quantile(values, (_TAIL_SHARE, 1 - _TAIL_SHARE))
    return np.clip(values, low, high)


def lagged_mean(values: Floats) -> Floats:
    """Mean of the 20 values before each one, in the order given; the overall mean where there is none before.

    Of waits in the order of their start it says how loaded the provider was, and no exchange has a part in its own.
    """
    totals = np.concatenate(([0.0], np.cumsum(values)))
    ends = np.arange(len(values))
    starts = np.maximum(ends - _LAG, 0)
    means = np.full(len(values), values.mean())
    means[1:] = (totals[ends] - totals[starts])[1:] / (ends - starts)[1:]
    return means


def adjusted(outcome: Floats, in_arm: Mask, covariates: Floats, unit: Indices) -> Adjusted:
    """The effect on the mean of `outcome` of being in the arm, against all others.

    Args:
        outcome: One value for each exchange, winsorised where that is wanted.
        in_arm: True for exchanges of the arm; neither side is empty.
        covariates: One row for each exchange, known before its answer began.
        unit: Number of the unit that was assigned to an arm as one, 0 to units - 1, none without an exchange.
    """
    units = int(unit.max()) + 1
    smaller = min(len(np.unique(unit[in_arm])), len(np.unique(unit[~in_arm])))
    centred = covariates - covariates.mean(axis=0)
    spread = centred.std(axis=0)
    told = spread > 1e-12
    design = np.column_stack([np.ones(len(outcome)), centred[:, told] / spread[told]])
    if smaller < _UNITS_PER_PARAMETER * design.shape[1]:
        design = design[:, :1]
    share = float(in_arm.mean())
    with_arm, without = _predicted(outcome, design, in_arm), _predicted(outcome, design, ~in_arm)
    off = np.where(in_arm, (outcome - with_arm) / share, -(outcome - without) / (1 - share))
    each = with_arm - without + off
    effect = float(each.mean())
    total = np.bincount(unit, weights=each - effect, minlength=units)
    return Adjusted(effect + total * units / len(outcome), 2 * design.shape[1] - 1)


def _predicted(outcome: Floats, design: Floats, chosen: Mask) -> Floats:
    """What the regression of the chosen exchanges says of all."""
    coefficients = np.linalg.lstsq(design[chosen], outcome[chosen], rcond=None)[0]
    return np.asarray(design @ coefficients, dtype=np.float64)
