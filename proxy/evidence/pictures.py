"""The plots of one group: what happened, what the law says of it, and what a cap would have done.

Layer: evidence. Clouds are thinned to some thousand points by a fixed draw, so that a page stays small and is the same
each time; lines, quantiles and counts are of all exchanges.
"""

import math
from typing import Any, Final

import numpy as np

from proxy.evidence import wording
from proxy.evidence.blocks import DAY_S, blocks_of
from proxy.evidence.cases import is_single, stays_in_laws
from proxy.evidence.law import law_rows
from proxy.evidence.page import Chart
from proxy.evidence.report import Group, iso
from proxy.evidence.sources.exchanges import Floats, Mask

__all__ = ["LIMIT_CLASSES", "charts"]

_POINTS: Final = 1200
_BINS: Final = 40
LIMIT_CLASSES: Final = (
    ("none", math.nan),
    ("up to 256", 256.0),
    ("up to 1k", 1024.0),
    ("up to 4k", 4096.0),
    ("up to 16k", 16_384.0),
    ("above 16k", math.inf),
)
"""Classes of forwarded limits, as on the metrics; the first is no limit."""


def charts(group: Group) -> list[Chart]:
    """Every plot that a group has data for."""
    found = (
        _on_tokens(group),
        _on_limits(group),
        _lengths(group),
        _caps(group),
        _over_time(group),
        _by_limit(group),
        _slack(group),
    )
    return [chart for chart in found if chart is not None]


def _on_tokens(group: Group) -> Chart | None:
    rows, law = group.rows, group.law
    shown = rows.complete & is_single(rows) & stays_in_laws(rows) & ~np.isnan(rows.output_tokens + rows.e2e_s)
    if not shown.any():
        return None
    traces = _clouds(group, shown, rows.output_tokens)
    longest, outside = _frame(rows.output_tokens[shown])
    if law.tpot_s is not None and law.ttft_p50_s is not None:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "law",
                "x": [1, longest],
                "y": _rounded([law.ttft_p50_s, law.ttft_p50_s + law.tpot_s * (longest - 1)]),
                "line": {"color": "$ink", "width": 2},
                "hoverinfo": "skip",
            }
        )
    fit = law.on_output_tokens
    r2 = f"R² {fit.r2:.3f}, " if fit else ""
    return Chart(
        "Time against tokens that were generated",
        f"{r2}{int(shown.sum()):,} whole answers. {wording.law_sentence(group)}.{outside}",
        traces,
        {
            "xaxis": {"title": "output tokens", "range": [0, longest]},
            "yaxis": {"title": "E2E, s", "range": [0, _frame(rows.e2e_s[shown])[0]]},
        },
    )


def _on_limits(group: Group) -> Chart | None:
    rows, fit = group.rows, group.law.on_max_tokens
    shown = rows.complete & is_single(rows) & stays_in_laws(rows) & ~np.isnan(rows.forwarded_max_tokens + rows.e2e_s)
    if not shown.any():
        return None
    traces = _clouds(group, shown, rows.forwarded_max_tokens)
    note = f"{int(shown.sum()):,} whole answers with a limit."
    if fit:
        least, most = float(rows.forwarded_max_tokens[shown].min()), float(rows.forwarded_max_tokens[shown].max())
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "naive slope, no effect",
                "x": [least, most],
                "y": _rounded([fit.intercept + fit.slope * least, fit.intercept + fit.slope * most]),
                "line": {"color": "$quiet", "width": 2, "dash": "dot"},
                "hoverinfo": "skip",
            }
        )
        note = f"R² {fit.r2:.3f}, {note} The slope shows who chose which limit, not what a limit does."
    return Chart(
        "Time against tokens that were allowed",
        note,
        traces,
        {
            "xaxis": {"title": "max_tokens forwarded", "rangemode": "tozero"},
            "yaxis": {"title": "E2E, s", "rangemode": "tozero"},
        },
    )


def _clouds(group: Group, shown: Mask, x: Floats) -> list[dict[str, Any]]:
    """Answers that the limit cut stand out from those that ended otherwise."""
    traces: list[dict[str, Any]] = []
    for name, rows, color, opacity in (
        ("ended by the model", shown & ~group.cases.cut, "$quiet", 0.35),
        ("cut by the limit", shown & group.cases.cut, "$accent", 0.7),
    ):
        chosen = _thinned(np.flatnonzero(rows))
        if chosen.size:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": _rounded(x[chosen]),
                    "y": _rounded(group.rows.e2e_s[chosen]),
                    "marker": {"color": color, "size": 5, "opacity": opacity},
                    "hovertemplate": "%{x:,} tokens, %{y:.2f} s<extra></extra>",
                }
            )
    return traces


def _lengths(group: Group) -> Chart | None:
    rows, lengths = group.rows, group.lengths
    if not lengths.n:
        return None
    known = is_single(rows) & ~np.isnan(rows.output_tokens)
    ended = group.cases.ended_by_model
    longest, outside = _frame(rows.output_tokens[known])
    framed = known & (rows.output_tokens <= longest)
    step = math.ceil(longest / _BINS)  # whole tokens in each bar, so that none is favoured
    edges = np.arange(0, longest + step, step) - 0.5
    middle, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": name,
            "x": _rounded(middle),
            "y": np.histogram(rows.output_tokens[framed & chosen], edges)[0].tolist(),
            "width": float(width) * 0.94,
            "marker": {"color": color, "opacity": opacity},
            "hovertemplate": "about %{x:,.0f} tokens: %{y:,}<extra></extra>",
        }
        for name, chosen, color, opacity in (
            ("ended by the model", ended, "$quiet", 0.5),
            ("cut short", ~ended, "$accent", 0.85),
        )
        if (known & chosen).any()
    ]
    tokens, survival = _steps(lengths.curve.tokens, lengths.curve.survival)
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "go on (Kaplan-Meier)",
            "x": tokens,
            "y": survival,
            "yaxis": "y2",
            "line": {"color": "$ink", "width": 2, "shape": "hv"},
            "hovertemplate": "%{y:.1%} are longer than %{x:,} tokens<extra></extra>",
        }
    )
    missing = [f"p{share}" for share in (50, 90, 95, 99) if lengths.quantile(share / 100) is None]
    beyond = f" Not identified: {', '.join(missing)}." if missing else ""
    return Chart(
        "How long answers are",
        f"{lengths.n:,} answers, {lengths.censored:,} cut short. Identified up to {wording.tokens(lengths.identified_up_to)} "
        f"tokens.{beyond}{outside}",
        traces,
        {
            "barmode": "stack",
            "xaxis": {"title": "output tokens", "range": [0, longest]},
            "yaxis": {"title": "answers"},
            "yaxis2": {
                "overlaying": "y",
                "side": "right",
                "range": [0, 1],
                "dtick": 0.25,
                "tickformat": ".0%",
                "showgrid": False,
            },
            "margin": {"l": 50, "r": 46, "t": 8, "b": 42},
        },
    )


def _caps(group: Group) -> Chart | None:
    outcomes = group.what_if
    rows = group.rows
    known = rows.complete & is_single(rows)
    tokens, waited_s = float(np.nansum(rows.output_tokens[known])), float(np.nansum(rows.e2e_s[known]))
    if not outcomes or not tokens or not waited_s:
        return None
    caps = [outcome.cap_tokens for outcome in outcomes]
    time: dict[str, Any] = {
        **_curve("time saved", caps, [_share(outcome.latency_saved_s, waited_s) for outcome in outcomes]),
        "line": {"color": "$ink", "width": 2},
    }
    if all(outcome.latency_saved_ci95 for outcome in outcomes):
        time["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [
                _share((each.latency_saved_ci95 or (0, 0))[1] - (each.latency_saved_s or 0), waited_s)
                for each in outcomes
            ],
            "arrayminus": [
                _share((each.latency_saved_s or 0) - (each.latency_saved_ci95 or (0, 0))[0], waited_s)
                for each in outcomes
            ],
            "color": "$quiet",
            "thickness": 1,
            "width": 3,
        }
    layout: dict[str, Any] = {
        "xaxis": {"title": "cap, tokens", "type": "log", "tickvals": [64 * 2**k for k in range(9)]},
        "yaxis": {"tickformat": ".2~p", "rangemode": "tozero"},
    }
    if group.advice.cap_tokens:
        x = math.log10(group.advice.cap_tokens)
        layout["shapes"] = [
            {
                "type": "line",
                "x0": group.advice.cap_tokens,
                "x1": group.advice.cap_tokens,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
            }
            | {"line": {"color": "$accent", "width": 1, "dash": "dot"}}
        ]
        layout["annotations"] = [
            {
                "x": x,
                "y": 1,
                "yref": "paper",
                "text": f"try {group.advice.cap_tokens:,}",
                "showarrow": False,
                "xanchor": "left",
            }
            | {"yanchor": "top", "font": {"color": "$accent", "size": 11.5}}
        ]
    return Chart(
        "What a cap would have saved and cut",
        f"Shares of the {group.complete:,} whole answers' tokens, time and number. "
        f"Bars: 95% by days{'' if group.law.blocks and 'error_y' in time else '; this sample only'}.",
        [
            {
                **_curve("tokens saved", caps, [outcome.tokens_saved / tokens for outcome in outcomes]),
                "line": {"color": "$quiet", "width": 2},
            },
            time,
            {
                **_curve("newly cut", caps, [outcome.newly_cut_share for outcome in outcomes]),
                "line": {"color": "$accent", "width": 2},
            },
        ],
        layout,
    )


def _curve(name: str, caps: list[int], shares: list[float | None]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": caps,
        "y": shares,
        "marker": {"size": 5},
        "hovertemplate": f"cap %{{x:,}}: {name} %{{y:.2%}}<extra></extra>",
    }


_UNITS = (("day", DAY_S), ("hour", 3600), ("10 minutes", 600), ("minute", 60), ("10 seconds", 10), ("second", 1))
_LEAST_POINTS = 12
"""A line over time has at least so many, unless it is shorter than seconds."""


def _over_time(group: Group) -> Chart | None:
    rows = group.rows
    streamed = law_rows(rows)
    ttft_s, started = rows.ttft_s[streamed], rows.started_at[streamed]
    if not len(ttft_s):
        return None
    span_s = float(np.ptp(started))
    unit, unit_s = next((each for each in _UNITS if span_s >= _LEAST_POINTS * each[1]), _UNITS[-1])
    blocks = blocks_of(started, unit_s)
    groups = [ttft_s[blocks == block] for block in range(int(blocks.max()) + 1)]
    at = [iso(float(np.floor(started[blocks == block][0] / unit_s) * unit_s)) for block in range(len(groups))]
    numbers = [len(part) for part in groups]
    return Chart(
        "Time to first token over time",
        f"{len(ttft_s):,} streamed answers, by {unit} (UTC).",
        [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": at,
                "y": _rounded([float(np.quantile(part, share)) for part in groups]),
                "customdata": numbers,
                "line": {"color": color, "width": 2},
                "marker": {"size": 5},
                "hovertemplate": f"{name} %{{y:.3f}} s, n %{{customdata:,}}<extra></extra>",
            }
            for name, share, color in (("p50", 0.5, "$ink"), ("p95", 0.95, "$quiet"))
        ],
        {"xaxis": {}, "yaxis": {"title": "TTFT, s", "rangemode": "tozero"}},
    )


def _by_limit(group: Group) -> Chart | None:
    rows = group.rows
    streamed = law_rows(rows)
    ttft_s, limits = rows.ttft_s[streamed], rows.forwarded_max_tokens[streamed]
    if not len(ttft_s):
        return None
    boxes: dict[str, list[float]] = {"lowerfence": [], "q1": [], "median": [], "q3": [], "upperfence": []}
    names = []
    least = -math.inf
    for name, most in LIMIT_CLASSES:
        chosen = np.isnan(limits) if math.isnan(most) else (limits > least) & (limits <= most)
        least = least if math.isnan(most) else most
        if chosen.any():
            names.append(f"{name}<br>n {int(chosen.sum()):,}")
            for part, share in zip(boxes, (0.05, 0.25, 0.5, 0.75, 0.95), strict=True):
                boxes[part].append(float(np.quantile(ttft_s[chosen], share)))
    return Chart(
        "Time to first token by limit",
        f"{len(ttft_s):,} streamed answers; boxes p25 to p75, whiskers p5 to p95. Not randomised: the classes differ in more than "
        "their limit.",
        [
            {
                "type": "box",
                "x": names,
                **{part: _rounded(values) for part, values in boxes.items()},
                "line": {"color": "$ink", "width": 1.5},
                "fillcolor": "rgba(128,128,128,0.15)",
                "hoverinfo": "y",
            }
        ],
        {"xaxis": {"type": "category"}, "yaxis": {"title": "TTFT, s", "rangemode": "tozero"}},
    )


def _slack(group: Group) -> Chart | None:
    rows, slack = group.rows, group.slack
    if not slack.n:
        return None
    limited = rows.complete & is_single(rows) & (rows.forwarded_max_tokens > 0) & ~np.isnan(rows.output_tokens)
    used = np.minimum(rows.output_tokens[limited] / rows.forwarded_max_tokens[limited], 1.0)
    counts, edges = np.histogram(used, 20, (0.0, 1.0))
    return Chart(
        "How much of the limit answers use",
        f"{slack.n:,} whole answers with a limit; {slack.reserved_unused_tokens:,} tokens were reserved and not used.",
        [
            {
                "type": "bar",
                "x": _rounded((edges[:-1] + edges[1:]) / 2),
                "y": counts.tolist(),
                "width": 0.047,
                "marker": {"color": "$quiet", "opacity": 0.6},
                "hovertemplate": "about %{x:.0%} of the limit: %{y:,}<extra></extra>",
            }
        ],
        {
            "xaxis": {"title": "output / max_tokens", "tickformat": ".0%", "range": [0, 1]},
            "yaxis": {"title": "answers"},
        },
        wide=True,
    )


def _frame(values: Floats) -> tuple[float, str]:
    """Where an axis ends so that a few far values do not squeeze all others, and what it says of those."""
    most, usual = float(values.max()), float(np.quantile(values, 0.995)) * 1.3
    if most <= usual:
        return most * 1.04 or 1.0, ""
    return usual, f" {int((values > usual).sum()):,} longer ones are outside the frame."


def _thinned(rows: Any) -> Any:
    if len(rows) <= _POINTS:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, _POINTS, replace=False))


def _steps(tokens: Floats, survival: Floats) -> tuple[list[float], list[float]]:
    """A step curve from (0, 1), thinned where steps are many."""
    at = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), _POINTS)).astype(int))
    return [0.0, *_rounded(tokens[at])], [1.0, *_rounded(survival[at])]


def _rounded(values: Any) -> list[float]:
    """Four digits are more than a plot shows."""
    return [float(f"{value:.4g}") if abs(value) < 10_000 else float(round(value)) for value in values]


def _share(value: float | None, whole: float) -> float | None:
    return None if value is None else max(value / whole, 0.0)
