"""From measurements to figures: which rounds count, comparisons inside a round, quartiles, and the table. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

DRIFT = 0.30
"""A round in which direct or the yardstick is further from its own median than this share says more about the machine."""

Sample = Mapping[str, float]
"""Figures of one measurement by name; one that could not be measured is absent."""
Round = Mapping[str, Sample]
"""Samples of one trial in one round, by candidate."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Quartiles and ends of a figure over the rounds that count."""

    low: float
    q1: float
    median: float
    q3: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Linear interpolation between neighbours; `values` must not be empty."""
        ordered = sorted(values)

        def at(share: float) -> float:
            place = share * (len(ordered) - 1)
            below = int(place)
            above = min(below + 1, len(ordered) - 1)
            return ordered[below] + (ordered[above] - ordered[below]) * (place - below)

        return cls(ordered[0], at(0.25), at(0.5), at(0.75), ordered[-1])


Spreads = Mapping[str, Mapping[str, Spread]]
"""Of every figure of every candidate."""


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values are below, as the load generator takes it; `values` must not be empty."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def steady(rounds: Sequence[Round], guards: Iterable[tuple[str, str]]) -> list[Round]:
    """The rounds in which each guard (candidate, figure) stays within DRIFT of its median over all rounds; all of fewer than three."""
    kept = list(rounds)
    if len(rounds) < 3:  # which of two is the odd one?
        return kept
    for candidate, figure in guards:
        measured = [r[candidate][figure] for r in rounds if figure in r.get(candidate, {})]
        if not measured:
            continue
        middle = median(measured)
        kept = [r for r in kept if candidate in r and abs(r[candidate].get(figure, middle) - middle) <= DRIFT * middle]
    return kept


def compared(rounds: Iterable[Round], yardsticks: Iterable[str]) -> list[Round]:
    """The rounds, with `FIGURE/YARDSTICK` and `FIGURE-YARDSTICK` of the same round for each figure that both have.

    A ratio or a difference inside a round is one of two measurements that a slow minute of the machine hits alike.
    """
    found = []
    for r in rounds:
        more: dict[str, Sample] = {}
        for name, sample in r.items():
            figures = dict(sample)
            for yardstick in yardsticks:
                for figure, there in r.get(yardstick, {}).items():
                    if name != yardstick and figure in sample:
                        figures[f"{figure}-{yardstick}"] = sample[figure] - there
                        if there:
                            figures[f"{figure}/{yardstick}"] = sample[figure] / there
            more[name] = figures
        found.append(more)
    return found


def spreads(rounds: Iterable[Round]) -> Spreads:
    """Spread of every figure of every candidate, over the rounds that have it."""
    values: dict[str, dict[str, list[float]]] = {}
    for r in rounds:
        for name, sample in r.items():
            for figure, value in sample.items():
                values.setdefault(name, {}).setdefault(figure, []).append(value)
    return {name: {figure: Spread.of(found) for figure, found in figures.items()} for name, figures in values.items()}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of every trial that has its figures."""

    head: str
    figures: tuple[str, ...]
    """`{}` stands for the trial's yardstick."""
    parts: tuple[str, ...] = ("median",)
    """Of each figure's spread."""


def rows(found: Spreads, columns: Iterable[Column], yardstick: str) -> list[list[str]]:
    """The head and a row for each candidate; a column that would be empty is left out."""
    shown = [
        (column, [figure.format(yardstick) for figure in column.figures])
        for column in columns
        if any(figure.format(yardstick) in spread for spread in found.values() for figure in column.figures)
    ]
    head = ["", *(column.head.format(yardstick) for column, _ in shown)]
    return [head] + [
        [name]
        + [
            "/".join(short(getattr(spread[figure], part)) for figure in figures for part in column.parts)
            if all(figure in spread for figure in figures)
            else "-"
            for column, figures in shown
        ]
        for name, spread in found.items()
    ]


def short(value: float) -> str:
    """Three digits that say something; whole numbers from a hundred on, and zero, without a fraction."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 or not value else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def table(lines: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    align: list[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    return "\n".join(
        "  ".join(put(cell, width) for put, cell, width in zip(align, line, widths, strict=True)).rstrip()
        for line in lines
    )
