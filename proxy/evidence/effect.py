"""What an experiment of a rule shows: each arm against the reference, by intention to treat.

Layer: evidence (pure, numpy).

An exchange counts for the arm that it was assigned to, whatever was forwarded and however its answer ended: comparing only
the answers that ended naturally would compare the short ones of a low limit with all of a high one. Outcomes are of whole
answers (2xx, complete); the share of others is shown for each arm, and told where the arms differ in it.

What was assigned as one is one unit: an exchange, a bucket of a header's values, or a block of time (switchback). Arms that
were drawn per exchange or header show what a limit does to its own exchange; only blocks show what it does to all who wait in
the same queue.

TTFT and TPOT of exchanges are winsorised. E2E is not, nor is anything in blocks: there the effect itself lies in the
tail, in the answers that a limit cuts and in the waits of a queue.

As JSON:

    {"schema": 1, "exchanges": N, "since": iso, "until": iso,                of everything that was read
     "groups": [{"by": {"rule": str, "model": str | null, "upstream": str | null},
                 "unit": "request" | "header" | "switchback", "estimand": "own" | "policy",
                 "arms": [{"arm": "512" | "none", "n": k, "units": k, "cut_share": x | null, "lost_share": x,
                           "output_tokens_mean": x | null, "ttft_p50_s": x | null, "tpot_s": x | null, "e2e_p50_s": x | null}],
                 "comparisons": [{"arm": "512", "reference": "none", "outcome": "ttft" | "tpot" | "e2e",
                                  "difference_s": x, "ci95": [low, high] | null,
                                  "verdict": "different" | "equivalent" | "undecided", "margin_s": x,
                                  "n": k, "units": k, "units_needed": k | null}],
                 "warnings": [str]}]}

Source: ARCHITECTURE.md 7 "Times and tokens".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final

import numpy as np

from proxy.evidence.adjusted import adjusted, lagged_mean, winsorised
from proxy.evidence.blocks import DAY_S, quantile
from proxy.evidence.cases import stays_in_laws
from proxy.evidence.law import law_of
from proxy.evidence.report import iso
from proxy.evidence.sources.exchanges import Exchanges, Floats, Mask
from proxy.evidence.switchback import block_numbers, runs, settled
from proxy.evidence.verdict import Estimate, Outcome, Verdict, judged, margin_s, sequence, units_needed

__all__ = ["OUTCOMES", "Arm", "Comparison", "Experiment", "Unit", "as_json", "experiments"]

OUTCOMES: Final[tuple[Outcome, ...]] = ("ttft", "tpot", "e2e")
"""The first is the primary one: it is known before any limit can cut."""

_LEAST_UNITS: Final = 10
"""Fewest units of an arm that is judged."""
_CUT_SHARE: Final = 0.005
_APPS: Final = 8
_NEAR_S: Final = 600.0
"""Nearer to each other, two exchanges are of one time."""


class Unit(StrEnum):
    """What was assigned to an arm as one."""

    REQUEST = "request"
    HEADER = "header"
    SWITCHBACK = "switchback"

    @property
    def estimand(self) -> str:
        """`own`: what a limit does to its own exchange. `policy`: what it does to all who wait in the same queue."""
        return "policy" if self is Unit.SWITCHBACK else "own"


_BEST_AT: Final = {Unit.REQUEST: 4000, Unit.HEADER: 400, Unit.SWITCHBACK: 100}
"""Units at which the intervals are narrowest."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What one arm got; None where nothing is known."""

    arm: str
    n: int
    """Exchanges that were assigned to it."""
    units: int
    cut_share: float | None
    """Of whole answers with a finish reason: how many the limit ended."""
    lost_share: float
    """Of all: those without a whole answer (refused, broken off, left)."""
    output_tokens_mean: float | None
    ttft_p50_s: float | None
    tpot_s: float | None
    """The law's."""
    e2e_p50_s: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm against the reference."""

    arm: str
    reference: str
    outcome: Outcome
    difference_s: float
    """Arm minus reference: below 0 the arm is faster."""
    ci95: tuple[float, float] | None
    """Valid however often it is looked at; None with too few units."""
    verdict: Verdict
    margin_s: float
    n: int
    """Exchanges that were compared."""
    units: int
    units_needed: int | None
    """Units more, should mean and spread stay what they are, until it is decided; None when it is."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One rule's experiment on one model of one upstream."""

    rule: str
    model: str | None
    upstream: str | None
    unit: Unit
    arms: tuple[Arm, ...]
    """The reference last: `none`, or the largest limit."""
    comparisons: tuple[Comparison, ...]
    """Empty with a single arm."""
    warnings: tuple[str, ...]


def experiments(exchanges: Exchanges) -> tuple[Experiment, ...]:
    """Every experiment in the exchanges, by rule, model and upstream; those without an arm are left out."""
    assigned = exchanges.take((exchanges.arm.codes >= 0) & (exchanges.rule.codes >= 0))
    if not len(assigned):
        return ()
    blocks = block_numbers(assigned.arm_unit) >= 0
    kinds = np.where(blocks, 2, assigned.arm_unit.codes >= 0)  # index into Unit
    keys = np.column_stack([assigned.rule.codes, assigned.model.codes, assigned.upstream.codes, kinds])
    distinct, group = np.unique(keys, axis=0, return_inverse=True)
    found = [
        _experiment(assigned.take(group.reshape(-1) == number), tuple(Unit)[key[3]])
        for number, key in enumerate(distinct)
    ]
    return tuple(sorted(found, key=lambda each: (each.rule, each.model or "", each.upstream or "", each.unit)))


def _experiment(exchanges: Exchanges, unit: Unit) -> Experiment:
    arms = sorted({word for word in exchanges.arm.texts() if word is not None}, key=_size)
    warnings: list[str] = []
    if unit is Unit.REQUEST and (assumed := runs(exchanges.arm)) is not None:
        unit, exchanges = Unit.SWITCHBACK, replace(exchanges, arm_unit=assumed)
        warnings.append(
            "arms came in runs, and the ledger does not say what was assigned as one: each run is taken for a block of time"
        )
    shown = tuple(_arm(exchanges.take(exchanges.arm.among(arm)), arm, unit) for arm in arms)
    reference = shown[-1]
    measured = exchanges
    if unit is Unit.SWITCHBACK:
        kept, backlog = settled(exchanges)
        measured = exchanges.take(kept)
        warnings += [backlog] if backlog else []
    comparisons = []
    for arm in shown[:-1]:
        pair = measured.take(_both_running(measured, arm.arm, reference.arm))
        comparisons += list(_compared(pair, arm.arm, reference.arm, unit))
        warnings += _differences_of_answers(pair, arm, reference, unit)
    warnings += [
        f"arm {arm.arm} cuts {arm.cut_share:.1%} of its answers: its tpot and e2e are those of shorter answers; ttft is not touched by that"
        for arm in shown
        if arm.cut_share is not None and arm.cut_share > _CUT_SHARE
    ]
    rule, model, upstream = (words.texts()[0] for words in (exchanges.rule, exchanges.model, exchanges.upstream))
    return Experiment(rule or "", model, upstream, unit, shown, tuple(comparisons), tuple(warnings))


def as_json(exchanges: Exchanges, found: Sequence[Experiment]) -> dict[str, Any]:
    """Experiments in the public form, which is documented above."""
    return {
        "schema": 1,
        "exchanges": len(exchanges),
        "since": iso(float(exchanges.started_at.min())),
        "until": iso(float(exchanges.started_at.max())),
        "groups": [
            {
                "by": {"rule": each.rule, "model": each.model, "upstream": each.upstream},
                "unit": each.unit.value,
                "estimand": each.unit.estimand,
                "arms": [asdict(arm) for arm in each.arms],
                "comparisons": [asdict(comparison) for comparison in each.comparisons],
                "warnings": list(each.warnings),
            }
            for each in found
        ],
    }


def _size(arm: str) -> float:
    """By which arms are ordered: no limit is the largest."""
    if arm == "none":
        return np.inf
    return float(arm) if arm.isascii() and arm.isdigit() else -1.0


def _arm(exchanges: Exchanges, arm: str, unit: Unit) -> Arm:
    whole = exchanges.take(exchanges.complete)
    units = len(exchanges) if unit is Unit.REQUEST else len(np.unique(exchanges.arm_unit.codes))
    return Arm(
        arm=arm,
        n=len(exchanges),
        units=units,
        cut_share=_mean(whole.cut),
        lost_share=1 - len(whole) / len(exchanges),
        output_tokens_mean=_mean(whole.output_tokens),
        ttft_p50_s=quantile(whole.ttft_s, 0.5),
        tpot_s=law_of(whole).tpot_s,
        e2e_p50_s=quantile(whole.e2e_s, 0.5),
    )


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _both_running(exchanges: Exchanges, arm: str, reference: str) -> Mask:
    """Exchanges of the two arms from the time in which both were assigned: arms that a rule had one after the other differ by their days."""
    sides = [exchanges.arm.among(each) for each in (arm, reference)]
    starts = [exchanges.started_at[side] for side in sides]
    if not all(side.size for side in starts):
        return np.zeros(len(exchanges), bool)
    first = max(float(side.min()) for side in starts) - _NEAR_S
    last = min(float(side.max()) for side in starts) + _NEAR_S
    return (sides[0] | sides[1]) & (exchanges.started_at >= first) & (exchanges.started_at <= last)


def _outcomes(exchanges: Exchanges) -> Mapping[Outcome, Floats]:
    whole = exchanges.complete
    return {
        "ttft": np.where(whole, exchanges.ttft_s, np.nan),
        "tpot": np.where(whole & stays_in_laws(exchanges), exchanges.tpot_s, np.nan),
        "e2e": np.where(whole, exchanges.e2e_s, np.nan),
    }


def _compared(pair: Exchanges, arm: str, reference: str, unit: Unit) -> Iterator[Comparison]:
    for outcome, values in _outcomes(pair).items():
        effect = _effect(values, pair, arm, unit, clip=unit is not Unit.SWITCHBACK and outcome != "e2e")
        if effect is None:
            continue
        estimate, of_units = effect
        margin = margin_s(outcome, float(np.nanmedian(values[pair.arm.among(reference)])))
        verdict = judged(estimate.ci95, margin)
        needed = max(units_needed(of_units, best_at=_BEST_AT[unit], margin=margin), 2 * _LEAST_UNITS)
        yield Comparison(
            arm=arm,
            reference=reference,
            outcome=outcome,
            difference_s=estimate.difference,
            ci95=estimate.ci95,
            verdict=verdict,
            margin_s=margin,
            n=int((~np.isnan(values)).sum()),
            units=len(of_units),
            units_needed=max(needed - len(of_units), 1) if verdict is Verdict.UNDECIDED else None,
        )


def _effect(
    values: Floats, pair: Exchanges, arm: str, unit: Unit, *, clip: bool = False, adjust: bool = True
) -> tuple[Estimate, Floats] | None:
    """Difference in the mean of what is known of the values, and its value for each unit; None where an arm has none.

    Args:
        values: Of each exchange of the pair; NaN is unknown.
        pair: Exchanges of two arms.
        arm: The one that is compared with the other.
        unit: What was assigned as one.
        clip: True winsorises the values.
        adjust: False takes the plain difference of means.
    """
    known = ~np.isnan(values)
    values, exchanges = values[known], pair.take(known)
    in_arm = exchanges.arm.among(arm)
    if not in_arm.any() or in_arm.all():
        return None
    if clip:
        values = winsorised(values)
    columns = _known_before(exchanges) if adjust else []
    if unit is Unit.REQUEST:
        numbers = np.arange(len(values))
        columns += [lagged_mean(values)] if adjust else []
    else:
        numbers = np.unique(exchanges.arm_unit.codes, return_inverse=True)[1].reshape(-1)
    found = adjusted(values, in_arm, np.column_stack([np.empty((len(values), 0)), *columns]), numbers)
    smaller = min(len(np.unique(numbers[in_arm])), len(np.unique(numbers[~in_arm])))
    if smaller < _LEAST_UNITS:
        return Estimate(float(found.values.mean()), None), found.values
    return sequence(found.values, best_at=_BEST_AT[unit], degrees_lost=found.degrees_lost), found.values


def _known_before(exchanges: Exchanges) -> list[Floats]:
    """What was known before the answer began, a column each: input, cache, stream, hour of the day, application."""
    angle = exchanges.started_at % DAY_S / DAY_S * 2 * np.pi
    columns = [np.nan_to_num(exchanges.stream), np.sin(angle), np.cos(angle)]
    for values in (exchanges.input_tokens, exchanges.cached_input_tokens):
        unknown = np.isnan(values)
        columns += [np.where(unknown, 0.0 if unknown.all() else np.nanmean(values), values), unknown.astype(np.float64)]
    counts = np.bincount(exchanges.app.codes + 1, minlength=len(exchanges.app.known) + 1)
    columns += [(exchanges.app.codes == code - 1).astype(np.float64) for code in np.argsort(-counts)[1 : _APPS + 1]]
    return columns


def _differences_of_answers(pair: Exchanges, arm: Arm, reference: Arm, unit: Unit) -> Iterator[str]:
    """What is to be said when the arms differ in more than their limit."""
    # Of a refused answer neither stream nor input is known: adjusting for them would explain the loss away.
    lost = _effect((~pair.complete).astype(np.float64), pair, arm.arm, unit, adjust=False)
    if lost is not None and judged(lost[0].ci95, 0.0) is Verdict.DIFFERENT:
        yield (
            f"arm {arm.arm} lost {arm.lost_share:.1%} of its answers (refused, broken off, left), {reference.arm} "
            f"{reference.lost_share:.1%}: what is compared is what was left of either"
        )
    if any(each.cut_share is None or each.cut_share > _CUT_SHARE for each in (arm, reference)):
        return
    tokens = _effect(np.where(pair.complete, pair.output_tokens, np.nan), pair, arm.arm, unit)
    if tokens is not None and judged(tokens[0].ci95, 0.0) is Verdict.DIFFERENT:
        yield (
            f"arm {arm.arm} changes how long answers are ({arm.output_tokens_mean:.0f} tokens, {reference.arm} "
            f"{reference.output_tokens_mean:.0f}) though it cuts none: the limit changes what the model does (case C)"
        )
