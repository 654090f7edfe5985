"""How long answers would be by themselves: Kaplan-Meier over lengths that limits and breaks cut short.

Layer: evidence. An answer that the model ended is an event at its length; one that the limit, the client or an error ended
is censored there: it would have been at least that long. Where the largest limit of a stratum ends, so does what its data
can say; a quantile beyond is not identified, and no distribution is fitted to guess it. Lengths and limits must be
independent within a stratum, so exchanges of several apps with limits of their own should be grouped by app.

Source: Kaplan and Meier 1958.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from proxy.evidence.cases import cases_of, is_single
from proxy.evidence.sources.exchanges import Exchanges, Floats, Mask

__all__ = ["Curve", "Lengths", "kaplan_meier", "lengths_of"]

_ROUNDING: Final = 1e-12
"""A product of some thousand factors is right to about this."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A survival curve: after `tokens[i]` the share `survival[i]` of answers goes on."""

    tokens: Floats
    """The lengths at which anything happened, rising."""
    survival: Floats

    def quantile(self, share: float) -> float | None:
        """The least length that this share of answers does not exceed; None when it is not identified."""
        reached = np.flatnonzero(self.survival <= 1 - share + _ROUNDING)
        return float(self.tokens[reached[0]]) if reached.size else None


@dataclass(frozen=True, slots=True)
class Lengths:
    """The natural lengths of a group's answers."""

    n: int
    """Exchanges with one choice and a known length."""
    censored: int
    """Of these, the ones that did not end by themselves."""
    curve: Curve
    identified_up_to: int | None
    """Tokens beyond which the data say nothing; None without data."""

    def quantile(self, share: float) -> float | None:
        """A quantile of the natural length in tokens; None when it is not identified."""
        return self.curve.quantile(share)


def kaplan_meier(lengths: Floats, ended: Mask) -> Curve:
    """The curve of lengths, each the answer's own (`ended`) or cut short there.

    At equal lengths an end comes before a cut: the answer that was cut is known to have been as long.
    """
    tokens = np.unique(lengths)
    at_risk = len(lengths) - np.searchsorted(np.sort(lengths), tokens)
    events = np.bincount(np.searchsorted(tokens, lengths), weights=ended.astype(np.float64), minlength=len(tokens))
    return Curve(tokens, np.cumprod(1 - events / at_risk, dtype=np.float64))


def lengths_of(exchanges: Exchanges) -> Lengths:
    """The lengths of these exchanges, as one stratum."""
    known = is_single(exchanges) & ~np.isnan(exchanges.output_tokens)
    tokens = exchanges.output_tokens[known]
    ended = cases_of(exchanges).ended_by_model[known]
    curve = kaplan_meier(tokens, ended)
    return Lengths(
        n=len(tokens),
        censored=int((~ended).sum()),
        curve=curve,
        identified_up_to=_identified_up_to(curve, exchanges.forwarded_max_tokens[known]),
    )


def _identified_up_to(curve: Curve, limits: Floats) -> int | None:
    """The longest observation while the curve is above nought; then the largest limit, for nothing was cut below it."""
    if not curve.tokens.size:
        return None
    longest = curve.tokens[-1]
    if curve.survival[-1] <= _ROUNDING and not np.isnan(limits).any():
        longest = max(longest, limits.max())
    return int(longest)
