"""What workers learn while they run and a decision may depend on: the laws by which deadlines become limits, and disarmed rules.

Layer: policy. Pure data, replaced as a whole. The recorder makes it from finished exchanges; it crosses as JSON.

Source: ARCHITECTURE.md 7 "Policies".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Law", "Live", "quantile"]


class Law(NamedTuple):
    """How long answers of one model at one upstream take: ttft + tpot x (tokens - 1), each at one quantile."""

    ttft_s: float
    tpot_s: float

    def tokens_within(self, deadline_s: float) -> int:
        """Most tokens that are expected to have come by the deadline; 0 when not even the first is."""
        left_s = deadline_s - self.ttft_s
        if left_s < 0:
            return 0
        # A hair above a whole number is rounding: 1.0 s at 0.1 s a token is 10 steps, not 9.
        return 1 + math.floor(left_s / self.tpot_s + 1e-9) if self.tpot_s > 0 else 2**53


@dataclass(frozen=True, slots=True)
class Live:
    """Live state as the recorder last sent it."""

    laws: Mapping[tuple[str, str | None, float], Law] = field(default_factory=dict)
    """By (upstream, model as requested, quantile)."""
    disarmed: frozenset[str] = frozenset()
    """Names of the enforcing rules that act as shadow for now."""

    def to_json(self) -> dict[str, Any]:
        """The form in which it crosses to workers."""
        return {"laws": [[*key, *law] for key, law in self.laws.items()], "disarmed": sorted(self.disarmed)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Live":
        """Read what `to_json` made.

        Raises:
            LookupError, TypeError, ValueError: it is something else.
        """
        laws = {
            (upstream, model, float(quantile)): Law(float(ttft_s), float(tpot_s))
            for upstream, model, quantile, ttft_s, tpot_s in document["laws"]
        }
        return cls(laws, frozenset(document["disarmed"]))


def quantile(ascending: Sequence[float], share: float) -> float:
    """Linear between the two nearest of at least one sorted value, as numpy's default is."""
    at = share * (len(ascending) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (ascending[above] - ascending[below]) * (at - below)
