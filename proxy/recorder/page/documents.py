"""What the endpoints answer: figures as JSON, in units that their names bear, None where nothing is known.

Layer: recorder. Pure. The shapes are those of `endpoints`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from proxy.recorder.page.caps import CAPS_TOKENS, Outcomes
from proxy.recorder.page.cell import Figures
from proxy.recorder.page.columns import Columns, Decided, Group, Kind
from proxy.recorder.page.sketch import RELATIVE_ERROR, Sketch
from proxy.recorder.page.tally import Fit, Tally
from proxy.recorder.page.view import Window

__all__ = ["caps_document", "figures_document", "points_document"]

_LENGTHS_TOKENS: Final = tuple(range(1, 8)) + tuple(
    quarter << power for power in range(1, 16) for quarter in (4, 5, 6, 7)
)
"""Upper bounds of the bars of lengths, four in each doubling."""
_UTILIZATIONS: Final = tuple(step / 20 for step in range(1, 21))
_MOST_POINTS: Final = 1200


def figures_document(
    steps: Sequence[Figures], window: Window, now_s: float, known_since_s: float, groups: Iterable[Group]
) -> dict[str, Any]:
    """The figures of a window.

    Args:
        steps: Those of each of its steps.
        window: The window.
        now_s: Unix time, within its last step.
        known_since_s: Since when exchanges are known at all; rates are by the time since then.
        groups: Whose exchanges there are, before any filter.
    """
    since_s = window.since_s(now_s)
    known_since_s = max(since_s, known_since_s)
    whole = Figures.total(steps)
    found, tallies = whole.tally, [step.tally for step in steps]
    return {
        "window_s": window.length_s,
        "step_s": window.step_s,
        "since_s": since_s,
        "known_since_s": known_since_s,
        "names": _names(groups),
        "exchanges": found.exchanges,
        "per_s": found.exchanges / max(now_s - known_since_s, window.step_s),
        "streamed": found.streamed,
        "complete": found.complete,
        "ends": dict(found.ends),
        "faults": {fault: found.faults[fault] for fault in ("client", "proxy", "upstream")},
        "cases": {case: found.cases[case] for case in ("cut", "ended", "unknown")},
        "truncations": {by: found.truncations[by] for by in ("client", "policy")},
        "reserved_unused_tokens": found.reserved_unused_tokens,
        "ttft_s": _spread(found.ttft_s),
        "tpot_s": _spread(found.tpot_s),
        "e2e_s": _spread(found.e2e_s),
        "overhead_s": _spread(found.overhead_s),
        "output_tokens": _spread(Sketch.total((found.ended_tokens, found.other_tokens))),
        "utilization": _spread(found.utilization)
        | {"up_to": _UTILIZATIONS, "count": _bars(found.utilization, _UTILIZATIONS)},
        "law": _law(found),
        "lengths": {
            "up_to_tokens": _LENGTHS_TOKENS,
            "ended": _bars(found.ended_tokens, _LENGTHS_TOKENS),
            "other": _bars(found.other_tokens, _LENGTHS_TOKENS),
            "limits": _bars(found.limits_tokens, _LENGTHS_TOKENS),
        },
        "steps": {
            "exchanges": [each.exchanges for each in tallies],
            "faults": [each.faults.total() for each in tallies],
            **{
                f"{name}_p{percent}_s": [getattr(each, f"{name}_s").quantile(percent / 100) for each in tallies]
                for name in ("ttft", "tpot")
                for percent in (50, 95)
            },
        },
        "decisions": _decisions(whole.decided),
    }


def caps_document(outcomes: Outcomes) -> dict[str, Any]:
    """What each cap would have done, as the report says it."""
    figures = zip(
        CAPS_TOKENS,
        outcomes.governed,
        outcomes.longer,
        outcomes.timed,
        outcomes.newly_cut,
        outcomes.tokens_saved,
        outcomes.latency_saved_s,
        strict=True,
    )
    complete = outcomes.complete
    return {
        "complete": complete,
        "output_tokens": outcomes.output_tokens,
        "e2e_s": outcomes.e2e_s,
        "caps": [
            {
                "cap": cap,
                "governed": governed,
                "longer": longer,
                "newly_cut": newly_cut,
                "newly_cut_share": newly_cut / complete if complete else None,
                "tokens_saved": tokens_saved,
                "latency_saved_s": saved_s if timed or not longer else None,
            }
            for cap, governed, longer, timed, newly_cut, tokens_saved, saved_s in figures
        ],
    }


def points_document(columns: Iterable[Columns], known: Sequence[Kind]) -> dict[str, Any]:
    """Some whole answers, each of which stays among them until there are twice as many; in the order in which they ended."""
    held = list(columns)
    exchanges = sum(map(len, held))
    every = 1
    while exchanges > every * _MOST_POINTS:
        every *= 2
    points: dict[str, list[float | int | None]] = {name: [] for name in ("output_tokens", "max_tokens", "e2e_s", "cut")}
    for part in held:
        for order, number, tokens, limit, e2e_s in zip(
            part.order,
            part.kinds,
            part["output_tokens"],
            part["forwarded_max_tokens"],
            part["e2e_s"],
            strict=True,
        ):
            if order % every:
                continue
            kind = known[number]
            if kind.complete and kind.single and tokens >= 0 and e2e_s >= 0:
                points["output_tokens"].append(int(tokens))
                points["max_tokens"].append(int(limit) if limit >= 0 else None)
                points["e2e_s"].append(round(e2e_s, 4))
                points["cut"].append(int(kind.case == "cut"))
    return {"held": exchanges, "one_in": every, **points}


def _names(groups: Iterable[Group]) -> dict[str, list[str]]:
    """What may be chosen; the empty text is for those that have no name."""
    known = list(groups)
    return {
        f"{name}s": sorted({getattr(group, name) or "" for group in known}) for name in ("model", "app", "upstream")
    }


def _spread(sketch: Sketch) -> dict[str, Any]:
    return {"n": sketch.count, "p50": sketch.quantile(0.5), "p95": sketch.quantile(0.95), "p99": sketch.quantile(0.99)}


def _bars(sketch: Sketch, up_to: Sequence[float]) -> list[int]:
    """How many numbers there are up to each bound and above the one before; the last bar has what is above all as well."""
    # Lengths and limits are often a bound to the token, and a sketch may have them a little above it.
    above = sketch.above([bound * (1 + RELATIVE_ERROR) for bound in up_to])
    bars = [before - after for before, after in zip([sketch.count, *above], above, strict=False)]
    return [*bars[:-1], bars[-1] + above[-1]]


def _law(found: Tally) -> dict[str, Any]:
    on_output, on_limit = found.on_output.fit(), found.on_limit.fit()
    return {
        "n": found.law_n,
        "ttft_p50_s": found.ttft_s.quantile(0.5),
        "tpot_s": found.tpot_law_s,
        "on_output_tokens": _line(on_output),
        "on_max_tokens": _line(on_limit),
    }


def _line(fit: Fit | None) -> dict[str, Any] | None:
    return None if fit is None else fit._asdict()


def _decisions(decided: Mapping[Decided, int]) -> list[dict[str, Any]]:
    return [{**known._asdict(), "count": count} for known, count in sorted(decided.items())]
