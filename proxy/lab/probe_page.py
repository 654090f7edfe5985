"""A probe's picture: the answers under each limit, and the differences with their intervals.

Layer: lab.
"""

from collections.abc import Sequence
from typing import Any, Final

from proxy.evidence import page as pages
from proxy.evidence import wording
from proxy.evidence.paired import Comparison, LimitArm, Sample
from proxy.lab.probe_text import sentences

__all__ = ["page"]

_COLOURS: Final = ("#2a78d6", "#c2410c", "#2f9e77", "#b04a8a", "#7a6fd0", "#9a8420")
"""Readable on light and on dark, and told apart by people who see fewer colours; they return after the last."""
_MARGIN_COLOUR: Final = "rgba(47,158,119,0.16)"

Arms = Sequence[LimitArm]
Samples = Sequence[Sample]


def page(arms: Arms, compared: Sequence[Comparison], samples: Samples, model: str) -> str:
    """The page, whole in itself."""
    count = sum(arm.n for arm in arms)
    quiet = f"{count:,} answers of {wording.name(model)}, in blocks of one under each limit, in random order."
    parts: list[str | pages.Chart | pages.Table] = [
        "<h1>Same input, different max_tokens</h1>",
        pages.paragraph(quiet, "quiet"),
        *(pages.paragraph(sentence, "advice") for sentence in sentences(arms, compared)),
        _on_tokens(arms, samples),
        _by_limit(arms, samples),
        _first_tokens(arms, samples),
        _differences(compared),
        pages.Table(
            ("max_tokens", "answers", "cut", "tokens mean", "TTFT p50", "TPOT", "E2E p50"),
            [
                (
                    f"{arm.max_tokens:,}",
                    f"{arm.n:,}",
                    wording.percent(arm.cut_share),
                    wording.tokens(arm.output_tokens_mean),
                    wording.seconds(arm.ttft_p50_s),
                    wording.milliseconds(arm.tpot_s),
                    wording.seconds(arm.e2e_p50_s),
                )
                for arm in arms
            ],
        ),
    ]
    return pages.document("Lengthwise probe", parts)


def _own(arm: LimitArm, samples: Samples) -> list[Sample]:
    return [each for each in samples if each.max_tokens == arm.max_tokens]


def _on_tokens(arms: Arms, samples: Samples) -> pages.Chart:
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"max_tokens {arm.max_tokens:,}",
            "x": [each.output_tokens for each in _own(arm, samples)],
            "y": [each.e2e_s for each in _own(arm, samples)],
            "marker": {"color": _COLOURS[number % len(_COLOURS)], "size": 7, "opacity": 0.7},
            "hovertemplate": "%{x:,} tokens, %{y:.2f} s<extra></extra>",
        }
        for number, arm in enumerate(arms)
    ]
    axes = {
        "xaxis": {"title": "output tokens", "rangemode": "tozero"},
        "yaxis": {"title": "E2E, s", "rangemode": "tozero"},
    }
    return pages.Chart("Time follows the tokens that were generated", "One point for each answer.", traces, axes)


def _by_limit(arms: Arms, samples: Samples) -> pages.Chart:
    values = [[each.e2e_s for each in _own(arm, samples)] for arm in arms]
    return _boxes(arms, values, "E2E, s", "… not the tokens that were allowed", "The same answers, by their limit.")


def _first_tokens(arms: Arms, samples: Samples) -> pages.Chart:
    values = [[each.ttft_s for each in _own(arm, samples)] for arm in arms]
    note = "A provider that reserves for the limit, or queues by it, shows it here."
    return _boxes(arms, values, "TTFT, s", "Time to first token, by limit", note)


def _boxes(arms: Arms, values: Sequence[Sequence[float | None]], axis: str, title: str, note: str) -> pages.Chart:
    traces: list[dict[str, Any]] = [
        {
            "type": "box",
            "name": f"{arm.max_tokens:,}",
            "y": list(own),
            "boxpoints": "all",
            "jitter": 0.5,
            "pointpos": 0,
            "marker": {"color": _COLOURS[number % len(_COLOURS)], "size": 4, "opacity": 0.6},
            "line": {"width": 1.5},
            "fillcolor": "rgba(128,128,128,0.10)",
            "hoverinfo": "y",
        }
        for number, (arm, own) in enumerate(zip(arms, values, strict=True))
    ]
    axes = {
        "xaxis": {"title": "max_tokens", "type": "category"},
        "yaxis": {"title": axis, "rangemode": "tozero"},
        "showlegend": False,
    }
    return pages.Chart(title, note, traces, axes)


def _differences(compared: Sequence[Comparison]) -> pages.Chart:
    shown = [(each, each.ci95) for each in compared if each.outcome == "ttft" and each.ci95 is not None]
    margin_ms = max((each.margin_s * 1e3 for each, _ in shown), default=0.0)
    trace = {
        "type": "scatter",
        "mode": "markers",
        "y": [f"{each.arm:,}" for each, _ in shown],
        "x": [each.difference_s * 1e3 for each, _ in shown],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [(high - each.difference_s) * 1e3 for each, (_, high) in shown],
            "arrayminus": [(each.difference_s - low) * 1e3 for each, (low, _) in shown],
            "color": "$ink",
            "thickness": 2,
        },
        "marker": {"color": "$accent", "size": 11},
        "hovertemplate": "%{x:.1f} ms<extra></extra>",
    }
    reach_ms = 1.2 * max([margin_ms, *(abs(end) * 1e3 for _, ci95 in shown for end in ci95)])
    band = {"type": "rect", "x0": -margin_ms, "x1": margin_ms, "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    axes = {
        "xaxis": {
            "title": "TTFT minus that of the largest limit, ms",
            "zeroline": True,
            "zerolinecolor": "$quiet",
            "range": [-reach_ms, reach_ms],
        },
        "yaxis": {"title": "max_tokens", "type": "category", "range": [-0.5, max(len(shown) - 0.5, 0.5)]},
        "shapes": [band | {"line": {"width": 0}, "fillcolor": _MARGIN_COLOUR}],
    }
    note = f"95% intervals. Within the band ({margin_ms:.0f} ms) nobody would notice."
    return pages.Chart("What the limit alone does to the first token", note, [trace], axes)
