"""What the demo says of its run: the table of its applications, and three sentences that answer the product's question.

Layer: lab; pure but for printing. Every figure is measured in this run; where the run does not show something, the sentence says that.
"""

import io
import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from proxy.evidence import wording
from proxy.evidence.effect_text import signed
from proxy.evidence.paired import Comparison, LimitArm
from proxy.evidence.report import Group
from proxy.evidence.verdict import Verdict
from proxy.lab.traffic import Summary

__all__ = ["answers", "cells", "picture", "show_answers", "show_traffic"]

_QUEUED = 1.5
"""Times as long a wait is no accident of a few requests."""
_PICTURE_COLUMNS = 100
_TYPEFACES = "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace"


def show_traffic(console: Console, summaries: Sequence[Summary]) -> None:
    """Print what the ledger has of each application."""
    console.print("What the ledger has of each application (times are p50):", style="bold")
    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in ("app", "model"):
        shown.add_column(name, no_wrap=True)
    for name in ("sent", "max_tokens", "tokens", "TTFT", "E2E", "cut"):
        shown.add_column(name, justify="right", no_wrap=True)
    for summary in summaries:
        shown.add_row(*cells(summary))
    console.print(shown)


def show_answers(console: Console, answers: Sequence[tuple[str, str]]) -> None:
    """Print the question and its answer."""
    question = Text("Same input, different max_tokens: what happens to latency?", style="bold cyan")
    console.print(Rule(question, align="left", style="dim"))
    for number, (word, figures) in enumerate(answers, 1):
        console.print(Text.assemble((f"{number}. {word} ", "bold"), figures))


def picture(summaries: Sequence[Summary], answers: Sequence[tuple[str, str]]) -> str:
    """Both as an SVG image, which asks nobody for a typeface."""
    console = Console(record=True, width=_PICTURE_COLUMNS, file=io.StringIO(), highlight=False)
    show_traffic(console, summaries)
    console.print()
    show_answers(console, answers)
    image = console.export_svg(title="make demo", unique_id="demo")
    return re.sub(r"@font-face \{.*?\}\s*", "", image, flags=re.DOTALL).replace("Fira Code, monospace", _TYPEFACES)


def cells(summary: Summary) -> tuple[str, ...]:
    """One application's row; medians."""
    requested, forwarded = summary.requested_max_tokens, summary.forwarded_max_tokens
    allowed = "no limit" if requested is None else f"{requested:,}"
    if forwarded != requested:
        allowed += f" > {wording.count(forwarded)}"
    return (
        summary.name,
        summary.model,
        str(summary.requests),
        allowed,
        wording.tokens(summary.generated_tokens),
        wording.seconds(summary.ttft_s),
        wording.seconds(summary.e2e_s),
        f"{summary.cut} (rule)" if summary.cut and summary.rule else str(summary.cut),
    )


def answers(
    group: Group, arms: Sequence[LimitArm], compared: Sequence[Comparison], small: Summary, large: Summary
) -> list[tuple[str, str]]:
    """The three parts of the answer: each in a word, and with its figures.

    Args:
        group: The report on the model that was probed.
        arms: The probe's limits, rising: one that cuts, and two that do not.
        compared: Each of the probe's limits against the largest.
        small: The requests to the reserving provider with their small limit.
        large: The same requests with their large limit.
    """
    return [_when_it_cuts(group, arms, compared), _when_it_does_not(group, arms, compared), _what_remains(small, large)]


def _when_it_cuts(group: Group, arms: Sequence[LimitArm], compared: Sequence[Comparison]) -> tuple[str, str]:
    cutting, largest = arms[0], arms[-1]
    e2e = _of(compared, cutting.max_tokens, "e2e")
    fit = group.law.on_output_tokens
    explained = f", which explains R² {fit.r2:.3f} of the time" if fit else ""
    faster = e2e is not None and e2e.verdict is Verdict.DIFFERENT and e2e.difference_s < 0
    return (
        f"The limit cuts (case A): {'time falls with the tokens' if faster else 'this run does not tell what that saves'}.",
        (
            f"With max_tokens {cutting.max_tokens:,} instead of {largest.max_tokens:,}, "
            f"{'all' if cutting.cut_share == 1 else wording.percent(cutting.cut_share)} of the answers were cut: {wording.tokens(cutting.output_tokens_mean)} tokens instead of {wording.tokens(largest.output_tokens_mean)}, and the "
            f"answer was there {_changed(e2e)}. All traffic has one law{explained}: {wording.law_sentence(group)}."
        ),
    )


def _when_it_does_not(group: Group, arms: Sequence[LimitArm], compared: Sequence[Comparison]) -> tuple[str, str]:
    between, largest = arms[-2], arms[-1]
    ttft, e2e = (_of(compared, between.max_tokens, outcome) for outcome in ("ttft", "e2e"))
    fit = group.law.on_max_tokens
    explained = f" In all traffic max_tokens explains R² {fit.r2:.3f} of the time." if fit else ""
    verdicts = [None if each is None else each.verdict for each in (ttft, e2e)]
    if Verdict.DIFFERENT in verdicts:
        said = "it changes something here"
    elif verdicts == [Verdict.EQUIVALENT, Verdict.EQUIVALENT]:
        said = "it changes nothing"
    else:
        said = (
            "the first token does not notice it"
            if verdicts[0] is Verdict.EQUIVALENT
            else "what it changes is undecided"
        )
    return (
        f"The limit is not reached (case B): {said}.",
        (
            f"With max_tokens {between.max_tokens:,} instead of {largest.max_tokens:,}, "
            f"{wording.percent(between.cut_share) if between.cut_share else 'none'} of the answers were cut: the first token came {_changed(ttft)}, the answer {_changed(e2e)}.{explained}"
        ),
    )


def _what_remains(small: Summary, large: Summary) -> tuple[str, str]:
    waited = small.ttft_s is not None and large.ttft_s is not None and large.ttft_s > _QUEUED * small.ttft_s
    return (
        f"What remains is a queue{'' if waited else ', of which this run shows nothing'}.",
        (
            f"On a provider that reserves the limit, with max_tokens {wording.count(large.requested_max_tokens)} instead of "
            f"{wording.count(small.requested_max_tokens)} for the same {wording.tokens(large.generated_tokens)} tokens, the first one came after "
            f"{wording.seconds(large.ttft_s)} instead of {wording.seconds(small.ttft_s)} (p50 of {large.requests} and {small.requests}, in turns)"
            f"{': each request waited until its whole limit was free' if waited else ''}."
        ),
    )


def _of(compared: Sequence[Comparison], arm: int, outcome: str) -> Comparison | None:
    return next((each for each in compared if (each.arm, each.outcome) == (arm, outcome)), None)


def _changed(each: Comparison | None) -> str:
    if each is None or each.ci95 is None:
        return "at a time that this run does not tell"
    interval = f"95%: {signed(each.ci95[0])} to {signed(each.ci95[1])}"
    if each.verdict is Verdict.EQUIVALENT:
        return f"equally soon ({interval}, within {each.margin_s * 1e3:.0f} ms)"
    changed = f"{wording.seconds(abs(each.difference_s))} {'sooner' if each.difference_s < 0 else 'later'}"
    return f"{changed} ({interval}{', undecided' if each.verdict is Verdict.UNDECIDED else ''})"
