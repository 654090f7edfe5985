"""A run as one picture: what candidates cost beside nginx, and the targets. Pure: an SVG's text, readable on light and on dark."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from math import ceil, floor, log10

from tests.bench.figures import Spread, Spreads, short
from tests.bench.targets import TARGETS, Verdict

ROWS = (
    ("CPU of a request", "plain", "cpu_us"),
    ("CPU of a chunk, burst", "burst", "cpu_us"),
    ("CPU of a chunk, 4 streams", "light", "cpu_us"),
    ("CPU of a chunk, 20 streams", "paced20", "cpu_us"),
    ("CPU of a chunk, 100 streams", "paced100", "cpu_us"),
    ("chunk delay p50, 4 streams", "light", "delay_p50_us"),
    ("chunk delay p50, 20 streams", "paced20", "delay_p50_us"),
    ("chunk delay p99, 20 streams", "paced20", "delay_p99_us"),
    ("chunk delay p50, 100 streams", "paced100", "delay_p50_us"),
    ("chunk delay p99, 100 streams", "paced100", "delay_p99_us"),
)
"""What is shown beside nginx: its name, the trial, the figure."""
COLOURS = {
    "lengthwise": "#0d9488",
    "lengthwise-bare": "#5b9bd5",
    "aiohttp": "#d97706",
    "litellm": "#c2557a",
    "portkey": "#8b6fc9",
}
"""Of the candidates that are shown; readable on white and on black."""
WIDTH, LEFT, RIGHT, LANE, GAP, TOP = 880, 250, 130, 13, 12, 78
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #768390 } .strong { font-size: 13px; font-weight: 650 } .small { font-size: 10.5px }
.grid { stroke: #768390; stroke-opacity: .25 } .one { stroke: #768390; stroke-width: 1.5 } .bound { stroke: #e5534b; stroke-width: 2 }
"""


def svg(measured: Mapping[str, Spreads], verdicts: Sequence[Verdict], caption: str) -> str:
    """The picture: above the ratios to nginx on a logarithmic axis, below each target's share that was used."""
    ratios = [
        (says, found, _bound(trial, figure))
        for says, trial, figure in ROWS
        if (found := _beside_nginx(measured.get(trial, {}), figure))
    ]
    shares = [(verdict, verdict.share) for verdict in verdicts if verdict.share is not None]
    parts = [
        '<text class="strong" x="16" y="26">Beside nginx, in the same rounds</text>',
        f'<text class="small" x="16" y="43">{escape(caption)}; median and quartiles of the rounds; less is better</text>',
        *_legend([name for name in COLOURS if any(name in found for _, found, _ in ratios)]),
    ]
    y = float(TOP)
    most = max((spread.q3 for _, found, _ in ratios for spread in found.values()), default=1.0)
    least = min((spread.q1 for _, found, _ in ratios for spread in found.values()), default=1.0)
    across, ticks = _axis(min(least, 0.5), max(most, 2.0))
    bottom = y + sum(len(found) * LANE + GAP for _, found, _ in ratios)
    parts += _grid(across, ticks, y - 4, bottom, lambda value: f"{value:g}x")
    for says, found, bound in ratios:
        parts.append(_label(says, y + len(found) * LANE / 2 + 4))
        if bound is not None:
            parts.append(_line("bound", across(bound), y - 2, y + LANE + 1))
        for name, spread in found.items():
            parts += _interval(across, spread, y + LANE / 2, COLOURS[name])
            y += LANE
        y += GAP
    if shares:
        y += 40
        parts.append(
            f'<text class="strong" x="16" y="{y:.0f}">Targets: how much of each is used; what is left, or over</text>'
        )
        y += 22
        used = [share for _, share in shares]
        across, ticks = _axis(min(*used, 0.5), max(*used, 2.0))
        parts += _grid(across, ticks, y - 4, y + len(shares) * 20, lambda value: f"{value:g}x")
        for verdict, share in shares:
            parts += _bar(across, verdict, share, y)
            y += 20
        parts.append(_line("bound", across(1), y - len(shares) * 20 - 4, y))
    height = y + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" role="img">'
        f"<title>Lengthwise beside nginx and others</title><style>{STYLE}</style>" + "".join(parts) + "</svg>\n"
    )


def _beside_nginx(spreads: Spreads, figure: str) -> dict[str, Spread]:
    return {name: spreads[name][f"{figure}/nginx"] for name in COLOURS if f"{figure}/nginx" in spreads.get(name, {})}


def _bound(trial: str, figure: str) -> float | None:
    return next((each.bound for each in TARGETS if (each.trial, each.figure) == (trial, f"{figure}/nginx")), None)


def _axis(least: float, most: float) -> tuple[Callable[[float], float], list[float]]:
    """A logarithmic axis: where a value is, and the values 1, 2, 5 of each decade that are marked."""
    low, high = log10(least), log10(most)

    def across(value: float) -> float:
        return LEFT + (log10(max(value, least)) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    marks = [step * 10.0**power for power in range(floor(low), ceil(high) + 1) for step in (1, 2, 5)]
    return across, [mark for mark in marks if least <= mark <= most]


def _grid(
    across: Callable[[float], float], ticks: Sequence[float], top: float, bottom: float, says: Callable[[float], str]
) -> Iterator[str]:
    for tick in ticks:
        yield _line("one" if tick == 1 else "grid", across(tick), top, bottom)
        yield f'<text class="small" text-anchor="middle" x="{across(tick):.1f}" y="{bottom + 13:.1f}">{says(tick)}</text>'


def _line(kind: str, x: float, top: float, bottom: float) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'


def _label(says: str, y: float) -> str:
    return f'<text text-anchor="end" x="{LEFT - 12}" y="{y:.1f}">{escape(says)}</text>'


def _interval(across: Callable[[float], float], spread: Spread, y: float, colour: str) -> Iterator[str]:
    left, middle, right = across(spread.q1), across(spread.median), across(spread.q3)
    yield f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="3" stroke-opacity=".5"/>'
    yield f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    yield f'<text class="small" x="{max(right, middle + 4) + 5:.1f}" y="{y + 3.5:.1f}">{short(spread.median)}</text>'


def _bar(across: Callable[[float], float], verdict: Verdict, share: float, y: float) -> Iterator[str]:
    assert verdict.measured is not None
    colour = "#0d9488" if verdict.met else "#e5534b"
    left, right = sorted((across(share), across(1)))
    yield _label(verdict.target.says, y + 12)
    yield f'<rect x="{left:.1f}" y="{y + 2:.1f}" width="{right - left:.1f}" height="12" rx="2" fill="{colour}" fill-opacity=".8"/>'
    says = f"{short(verdict.measured.median)} of {short(verdict.target.bound)} {verdict.target.unit}"
    yield f'<text class="small" x="{right + 6:.1f}" y="{y + 12:.1f}">{escape(says)}</text>'


def _legend(names: Sequence[str]) -> Iterator[str]:
    x = float(LEFT)
    for name in names:
        yield f'<circle cx="{x:.0f}" cy="60" r="4" fill="{COLOURS[name]}"/><text x="{x + 9:.0f}" y="64">{name}</text>'
        x += 30 + 6.6 * len(name)
    yield _line("bound", x + 2, 54, 66) + f'<text x="{x + 10:.0f}" y="64">target</text>'
