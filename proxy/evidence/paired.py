"""What a probe measured: answers to one input under several limits, and each limit against the largest.

Layer: evidence (pure, numpy). A block holds one answer under every limit, taken one after the other in random order, so
that a pair of one block has met the same load; a comparison is of pairs. The largest limit is the reference.

Source: ARCHITECTURE.md 1, 7 "Times and tokens".
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any, Final, Literal

import numpy as np

from proxy.evidence.verdict import Outcome, Verdict, judged, margin_s, trimmed

__all__ = ["Comparison", "LimitArm", "Sample", "as_json", "comparisons", "limit_arms"]

_MOSTLY: Final = 0.5
_OUTCOMES: Final[tuple[Outcome, ...]] = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Sample:
    """One whole answer; None where the provider's answer does not say."""

    block: int
    max_tokens: int
    output_tokens: int | None
    decoded_tokens: int | None
    cut: bool | None
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None

    def time_s(self, outcome: Outcome) -> float | None:
        """The time that an outcome names."""
        return {"ttft": self.ttft_s, "tpot": self.tpot_s, "e2e": self.e2e_s}[outcome]


@dataclass(frozen=True, slots=True)
class LimitArm:
    """What one limit got; None where nothing is known."""

    max_tokens: int
    n: int
    """Whole answers."""
    cut_share: float | None
    """Of answers with a finish reason: how many the limit ended."""
    case: Literal["A", "B"] | None
    """A: the limit cuts most answers. B: most end by themselves."""
    output_tokens_mean: float | None
    ttft_p50_s: float | None
    tpot_s: float | None
    """All time between first and last tokens by all tokens after the first."""
    e2e_p50_s: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A limit against the largest one, over the blocks in which both were answered."""

    arm: int
    reference: int
    outcome: Outcome
    difference_s: float
    """Arm minus reference, a trimmed mean: below 0 the arm is faster."""
    ci95: tuple[float, float] | None
    """None with a single pair."""
    verdict: Verdict
    margin_s: float


def limit_arms(samples: Sequence[Sample], limits: Sequence[int]) -> tuple[LimitArm, ...]:
    """Every limit's arm, by limit; those without an answer too."""
    return tuple(_limit_arm(limit, [each for each in samples if each.max_tokens == limit]) for limit in sorted(limits))


def _limit_arm(limit: int, samples: Sequence[Sample]) -> LimitArm:
    cut = [each.cut for each in samples if each.cut is not None]
    tokens = [each.output_tokens for each in samples if each.output_tokens is not None]
    paced = [
        (each.tpot_s, each.decoded_tokens - 1) for each in samples if each.tpot_s is not None and each.decoded_tokens
    ]
    cut_share = fmean(cut) if cut else None
    return LimitArm(
        max_tokens=limit,
        n=len(samples),
        cut_share=cut_share,
        case=None if cut_share is None else "A" if cut_share > _MOSTLY else "B",
        output_tokens_mean=fmean(tokens) if tokens else None,
        ttft_p50_s=_median(samples, "ttft"),
        tpot_s=sum(tpot_s * steps for tpot_s, steps in paced) / sum(steps for _, steps in paced) if paced else None,
        e2e_p50_s=_median(samples, "e2e"),
    )


def _median(samples: Sequence[Sample], outcome: Outcome) -> float | None:
    known = [time_s for each in samples if (time_s := each.time_s(outcome)) is not None]
    return median(known) if known else None


def comparisons(samples: Sequence[Sample]) -> tuple[Comparison, ...]:
    """Every limit that has pairs, by outcome and limit."""
    reference = max((each.max_tokens for each in samples), default=0)
    limits = sorted({each.max_tokens for each in samples} - {reference})
    found = (_compared(samples, limit, reference, outcome) for outcome in _OUTCOMES for limit in limits)
    return tuple(each for each in found if each is not None)


def _compared(samples: Sequence[Sample], limit: int, reference: int, outcome: Outcome) -> Comparison | None:
    sides = [
        {
            each.block: time_s
            for each in samples
            if each.max_tokens == side and (time_s := each.time_s(outcome)) is not None
        }
        for side in (limit, reference)
    ]
    blocks = sorted(sides[0].keys() & sides[1].keys())
    if not blocks:
        return None
    estimate = trimmed(np.array([sides[0][block] - sides[1][block] for block in blocks]))
    margin = margin_s(outcome, median(sides[1].values()))
    verdict = judged(estimate.ci95, margin)
    return Comparison(limit, reference, outcome, estimate.difference, estimate.ci95, verdict, margin)


def as_json(arms: Sequence[LimitArm], compared: Sequence[Comparison]) -> dict[str, Any]:
    """The figures of a probe, keys as the fields above."""
    return {
        "schema": 1,
        "arms": [asdict(arm) for arm in arms],
        "comparisons": [asdict(comparison) for comparison in compared],
    }
