"""A probe's figures in a terminal, and the sentences that answer its question.

Layer: lab.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from proxy.evidence import wording
from proxy.evidence.effect_text import STYLES, signed, terminal
from proxy.evidence.paired import Comparison, LimitArm
from proxy.evidence.verdict import Verdict
from proxy.lab.budget import Budget
from proxy.lab.probing import Outcome

__all__ = ["sentences", "show"]


def show(arms: Sequence[LimitArm], compared: Sequence[Comparison], outcome: Outcome, budget: Budget) -> None:
    """Print what was measured, what it means, and what was spent."""
    console = terminal()
    console.print()
    console.print(_arms(arms))
    if compared:
        console.print()
        console.print(_comparisons(compared))
    console.print()
    for sentence in sentences(arms, compared):
        console.print(Text(sentence, style="bold"))
    for note in _notes(outcome):
        console.print(Text(note, style="yellow"))
    console.print(Text(f"Spent: {budget.spent_requests:,} requests, {budget.spent_tokens:,} tokens.", style="dim"))


def sentences(arms: Sequence[LimitArm], compared: Sequence[Comparison]) -> Iterator[str]:
    """What each limit did, against the largest."""
    by_limit = {arm.max_tokens: arm for arm in arms}
    for each in compared:
        arm, reference = by_limit[each.arm], by_limit[each.reference]
        e2e = next((other for other in compared if other.arm == each.arm and other.outcome == "e2e"), None)
        if each.outcome != "ttft" or e2e is None:
            continue
        if arm.cut_share:
            case = "case A" if arm.case == "A" else "a mixture: most end by themselves"
            yield (
                f"max_tokens {each.arm:,} cuts {wording.percent(arm.cut_share)} of the answers ({case}): "
                f"{wording.tokens(arm.output_tokens_mean)} tokens instead of {wording.tokens(reference.output_tokens_mean)}; "
                f"against {each.reference:,} the whole answer comes {_change(e2e)}."
            )
        else:
            yield (
                f"max_tokens {each.arm:,} cuts nothing (case B): against {each.reference:,} the first token comes "
                f"{_change(each)}, the whole answer {_change(e2e)}."
            )


def _change(each: Comparison) -> str:
    """How a time changed, with its interval."""
    interval = "" if each.ci95 is None else f" (95%: {signed(each.ci95[0])} to {signed(each.ci95[1])})"
    if each.verdict is Verdict.EQUIVALENT:
        return f"equally soon, within {each.margin_s * 1e3:.0f} ms{interval}"
    changed = f"{wording.seconds(abs(each.difference_s))} {'sooner' if each.difference_s < 0 else 'later'}"
    return f"{changed}{interval}" if each.verdict is Verdict.DIFFERENT else f"{changed} or not, undecided{interval}"


def _arms(arms: Sequence[LimitArm]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in ("max_tokens", "answers", "cut", "case", "tokens", "TTFT p50", "TPOT", "E2E p50"):
        table.add_column(name, justify="left" if name == "case" else "right", no_wrap=True)
    for arm in arms:
        table.add_row(
            f"{arm.max_tokens:,}",
            f"{arm.n:,}",
            wording.percent(arm.cut_share),
            {"A": "A, cut", "B": "B, natural", None: wording.UNKNOWN}[arm.case],
            wording.tokens(arm.output_tokens_mean),
            wording.seconds(arm.ttft_p50_s),
            wording.milliseconds(arm.tpot_s),
            wording.seconds(arm.e2e_p50_s),
        )
    return table


def _comparisons(compared: Sequence[Comparison]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in ("", "max_tokens", "difference", "95% interval", "margin"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    table.add_column(f"against {compared[0].reference:,}", no_wrap=True)
    for each in compared:
        table.add_row(
            each.outcome.upper(),
            f"{each.arm:,}",
            signed(each.difference_s),
            "-" if each.ci95 is None else f"{signed(each.ci95[0])} to {signed(each.ci95[1])}",
            f"{each.margin_s * 1e3:.3g} ms",
            Text(each.verdict.value, style=STYLES[each.verdict]),
        )
    return table


def _notes(outcome: Outcome) -> Iterator[str]:
    if outcome.stopped is not None:
        yield f"Ended before its plan did: {outcome.stopped}."
    for reason, count in Counter(outcome.failures).most_common(3):
        yield f"{count} requests failed: {reason}"
    if outcome.cached_answers:
        yield f"{outcome.cached_answers} answers read input from the provider's cache: TTFT is that of a cached input."
    if outcome.uncounted_answers:
        yield f"{outcome.uncounted_answers} answers came without usage: their tokens are the events that carried any."
