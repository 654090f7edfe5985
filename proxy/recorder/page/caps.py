"""What each of some caps would have done to the exchanges of the window: the report's figures, for a slider.

Layer: recorder. Pure, and a value: outcomes of parts add up to those of the whole. The definitions are those of
`proxy/evidence/what_if.py`, without numpy, which a server need not have; tests hold the two against each other.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import add
from typing import Final

import orjson

from proxy.recorder.page.columns import Columns, Kind

__all__ = ["CAPS_TOKENS", "Outcomes", "outcomes_of", "total"]

CAPS_TOKENS: Final = tuple(tokens for power in range(4, 16) for tokens in (2**power, 3 * 2 ** (power - 1)))
"""Two caps in each doubling from 16, as the report has them: near enough to each other that the best one of any is near."""
_NOUGHTS: Final = (0,) * len(CAPS_TOKENS)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What the caps would have done; each list has a figure for each of `CAPS_TOKENS`."""

    complete: int = 0
    """Complete exchanges: what the shares are of."""
    unlimited: int = 0
    """Those without a limit."""
    output_tokens: int = 0
    """Tokens of the complete exchanges of one choice."""
    e2e_s: float = 0.0
    """Their time."""
    governed: Sequence[int] = _NOUGHTS
    """Those without a limit, or with a larger one, of endpoints on which a cap can act."""
    longer: Sequence[int] = _NOUGHTS
    """Those that were longer than the cap."""
    timed: Sequence[int] = _NOUGHTS
    """Of the longer ones, those whose saving is known."""
    newly_cut: Sequence[int] = _NOUGHTS
    """Of the longer ones, those that the model had ended."""
    tokens_saved: Sequence[int] = _NOUGHTS
    latency_saved_s: Sequence[float] = _NOUGHTS
    """Over the `timed` ones."""


def total(parts: Iterable[Outcomes]) -> Outcomes:
    """The outcomes of all exchanges of these."""
    found = Outcomes()
    for part in parts:
        found = Outcomes(
            found.complete + part.complete,
            found.unlimited + part.unlimited,
            found.output_tokens + part.output_tokens,
            found.e2e_s + part.e2e_s,
            *(
                list(map(add, getattr(found, name), getattr(part, name)))
                for name in ("governed", "longer", "timed", "newly_cut", "tokens_saved", "latency_saved_s")
            ),
        )
    return found


def outcomes_of(columns: Columns, known: Sequence[Kind]) -> Outcomes:
    """The outcomes for these exchanges; `known` are the kinds by their numbers."""
    places = len(CAPS_TOKENS)
    complete = unlimited = all_tokens = 0
    all_s = 0.0
    # Under how many of the caps, the smallest first, something holds: the counts of each cap are sums from behind.
    governed, longer, newly_cut, timed = ([0] * (places + 1) for _ in range(4))
    tokens, saved_s = [0] * (places + 1), [0.0] * places
    for number, output, decoded, limit, first_s, last_s, e2e_s, tpot_s, points in zip(
        columns.kinds,
        columns["output_tokens"],
        columns["decoded_tokens"],
        columns["forwarded_max_tokens"],
        columns["ttft_s"],
        columns["last_token_s"],
        columns["e2e_s"],
        columns["tpot_s"],
        columns.checkpoints,
        strict=True,
    ):
        kind = known[number]
        if not kind.complete:
            continue
        complete += 1
        if limit != limit:  # noqa: PLR0124 -- NaN is not itself
            unlimited += 1
            limit = math.inf  # noqa: PLW2901 -- what none means
        if kind.judged:
            governed[bisect_left(CAPS_TOKENS, limit)] += 1
        if not kind.single:
            continue
        if e2e_s >= 0:
            all_s += e2e_s
        if not output >= 0:
            continue
        all_tokens += int(output)
        below = bisect_left(CAPS_TOKENS, output)
        longer[below] += 1
        tokens[below] += int(output)
        if kind.case == "ended":
            newly_cut[below] += 1
        if decoded >= 2 and last_s == last_s and first_s == first_s:  # noqa: PLR0124 -- likewise
            timed[below] += 1
            hidden = output - decoded
            at, elapsed_s = _timeline(decoded, first_s, last_s, points)
            for place in range(below):
                position = min(max(CAPS_TOKENS[place] - hidden, 1.0), decoded)
                saved_s[place] += last_s - _reached_s(position, at, elapsed_s)
        elif tpot_s == tpot_s:  # noqa: PLR0124 -- likewise
            timed[below] += 1
            for place in range(below):
                saved_s[place] += tpot_s * (output - CAPS_TOKENS[place])
    longer_than = _from_behind(longer)
    return Outcomes(
        complete,
        unlimited,
        all_tokens,
        all_s,
        _from_behind(governed),
        longer_than,
        _from_behind(timed),
        _from_behind(newly_cut),
        [whole - cap * count for whole, cap, count in zip(_from_behind(tokens), CAPS_TOKENS, longer_than, strict=True)],
        saved_s,
    )


def _from_behind(counts: Sequence[int]) -> list[int]:
    """For each cap, how many have it below them."""
    found, passed = [], 0
    for count in reversed(counts[1:]):
        passed += count
        found.append(passed)
    return found[::-1]


def _timeline(decoded: float, first_s: float, last_s: float, points: str | None) -> tuple[list[float], list[float]]:
    """Tokens and when they were there: the first, the checkpoints, the last. Checkpoints that do not rise are none."""
    if points is None:
        return [1.0, decoded], [first_s, last_s]
    try:
        at, elapsed_s = (list(map(float, values)) for values in zip(*orjson.loads(points), strict=True))
        if at == sorted(at) and elapsed_s == sorted(elapsed_s):
            inside = slice(bisect_right(at, 1), bisect_left(at, decoded))
            return [1.0, *at[inside], decoded], [first_s, *elapsed_s[inside], last_s]
    except (TypeError, ValueError):
        pass  # nothing, or not pairs of numbers
    return [1.0, decoded], [first_s, last_s]


def _reached_s(position: float, at: Sequence[float], elapsed_s: Sequence[float]) -> float:
    """When this token was there, linear between two that are known."""
    right = bisect_right(at, position)
    if right == len(at):
        return elapsed_s[-1]
    left = right - 1
    return elapsed_s[left] + (elapsed_s[right] - elapsed_s[left]) * (position - at[left]) / (at[right] - at[left])
