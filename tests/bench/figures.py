"""From measurements to figures: which rounds count, quartiles, ratios inside a round, and the table. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

DRIFT = 0.30
"""A round in which direct or nginx is further from its own median than this share says more about the machine."""

Sample = Mapping[str, float]
"""Figures of one measurement by name."""
Round = Mapping[str, Sample]
"""Samples of one scenario in one round, by candidate."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Quartiles and minimum of a figure over the rounds that count."""

    low: float
    q1: float
    median: float
    q3: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Linear interpolation between neighbours; `values` must not be empty."""
        ordered = sorted(values)

        def at(share: float) -> float:
            place = share * (len(ordered) - 1)
            below = int(place)
            above = min(below + 1, len(ordered) - 1)
            return ordered[below] + (ordered[above] - ordered[below]) * (place - below)

        return cls(ordered[0], at(0.25), at(0.5), at(0.75))


def steady(rounds: Sequence[Round], guards: Iterable[tuple[str, str]]) -> list[Round]:
    """The rounds in which each guard (candidate, figure) stays within DRIFT of its median over all rounds."""
    kept = list(rounds)
    for candidate, figure in guards:
        measured = [r[candidate][figure] for r in rounds if candidate in r]
        if not measured:
            continue
        middle = median(measured)
        kept = [r for r in kept if candidate in r and abs(r[candidate][figure] - middle) <= DRIFT * middle]
    return kept


def spreads(rounds: Sequence[Round]) -> dict[str, dict[str, Spread]]:
    """Spread of every figure of every candidate."""
    names = {candidate: set(sample) for r in rounds for candidate, sample in r.items()}
    return {
        candidate: {figure: Spread.of(r[candidate][figure] for r in rounds) for figure in sorted(figures)}
        for candidate, figures in names.items()
    }


def ratios(rounds: Sequence[Round], figure: str, yardstick: str) -> dict[str, Spread]:
    """Each candidate's `figure` over the yardstick's of the same round."""
    return {
        candidate: Spread.of(r[candidate][figure] / r[yardstick][figure] for r in rounds)
        for candidate in (rounds[0] if rounds else {})
        if all(figure in r[candidate] and r.get(yardstick, {}).get(figure) for r in rounds)
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    align: list[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(head) - 1)]
    return "\n".join(
        "  ".join(put(cell, width) for put, cell, width in zip(align, line, widths, strict=True)).rstrip()
        for line in lines
    )
