"""Which cap to try: the smallest one that saves something and is unlikely to cut more than the risk allows.

Layer: evidence. The risk is judged by the upper end of its interval, so that few exchanges advise nothing. An answer that its limit cut
already counts as cut when the cap would cut it shorter: how long it would have been nobody knows, and it loses more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from proxy.evidence.blocks import share_upper
from proxy.evidence.sources.exchanges import Floats
from proxy.evidence.what_if import CapOutcome

__all__ = ["LARGEST_RISK", "Advice", "advise", "candidates"]

LARGEST_RISK: Final = 0.02
"""Share of whole answers that a cap may cut, newly or shorter."""
_LEAST_SAVING: Final = 0.001
"""Of the output tokens: a cap that saves less is not worth a rule."""
_TAILS: Final = (0.03, 0.02, 0.015, 0.01, 0.005, 0.002)
"""Shares of answers that a cap worth trying leaves beyond it."""


@dataclass(frozen=True, slots=True)
class Advice:
    """A cap to try in shadow, or why there is none."""

    cap_tokens: int | None
    risk: float | None
    """Share of the whole answers that it would have cut, newly or shorter; None without a cap."""
    reason: str


def candidates(lengths_tokens: Floats) -> list[int]:
    """Caps near the end of these lengths, in round numbers: a grid alone may hold none that is worth trying."""
    if not len(lengths_tokens):
        return []
    found = np.quantile(lengths_tokens, [1 - tail for tail in _TAILS])
    return sorted({math.ceil(max(tokens, 1) / _step(tokens)) * _step(tokens) for tokens in found})


def _step(tokens: float) -> int:
    """A sixteenth to an eighth of the number, a power of two and at least 8."""
    return int(max(8, 2 ** math.floor(math.log2(max(tokens, 1)) - 3)))


def advise(
    outcomes: Sequence[CapOutcome], known: int, output_tokens: int, reserved_unused_tokens: int, reasoning: int
) -> Advice:
    """The advice for one group.

    Args:
        outcomes: What each cap would have done.
        known: Complete answers whose length is known.
        output_tokens: Their tokens together.
        reserved_unused_tokens: What their limits allowed beyond.
        reasoning: How many of them have reasoning tokens.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.cap_tokens)
    advice = _advise(ordered, known, output_tokens, reserved_unused_tokens)
    if not reasoning or advice.cap_tokens is None:
        return advice
    warning = (
        f". Case C: {reasoning:,} of these answers hold reasoning, and a limit can change how a model reasons, "
        "not only where its answer ends; compare answers before enforcing"
    )
    return Advice(advice.cap_tokens, advice.risk, advice.reason + warning)


def _advise(outcomes: Sequence[CapOutcome], known: int, output_tokens: int, reserved_unused_tokens: int) -> Advice:
    if share_upper(0, known) > LARGEST_RISK:
        return _none(
            f"{known:,} whole answers of known length are too few to bound the risk of a cap at {LARGEST_RISK:.0%}"
        )
    saving = [outcome for outcome in outcomes if outcome.tokens_saved]
    if not saving:
        unused = f"; where a provider reserves, {reserved_unused_tokens:,} tokens were reserved for nothing"
        return _none(
            "no cap that was judged would have shortened an answer: these end by themselves, and a limit that is never "
            f"reached changes next to nothing{unused if reserved_unused_tokens > 0 else ''}"
        )
    safe = [outcome for outcome in saving if share_upper(outcome.longer, known) <= LARGEST_RISK]
    if not safe:
        least = saving[-1]
        return _none(
            f"every cap that saves anything cuts too much: {least.cap_tokens:,} would have cut {least.longer:,} of "
            f"{known:,} answers, {least.newly_cut:,} of them newly: of those to come it may be up to {share_upper(least.longer, known):.1%}, "
            f"and {LARGEST_RISK:.0%} is allowed"
        )
    best = safe[0]
    if best.tokens_saved < _LEAST_SAVING * output_tokens:
        return _none(
            f"nothing is worth it: {best.cap_tokens:,}, the smallest cap within the risk, would have saved {best.tokens_saved:,} of "
            f"{output_tokens:,} tokens"
        )
    return Advice(
        best.cap_tokens,
        best.longer / best.complete,
        f"would have saved {best.tokens_saved:,} of {output_tokens:,} tokens ({best.tokens_saved / output_tokens:.1%}) and "
        f"cut {best.longer:,} of {known:,} answers, {best.newly_cut:,} of them newly",
    )


def _none(reason: str) -> Advice:
    return Advice(None, None, reason)
