"""The report in a terminal, as wide as it is; readable without colour and through a pipe.

Layer: evidence. Draws with rich; every text is data to it, never markup.
"""

import sys
from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from proxy.evidence import wording
from proxy.evidence.report import Group, Report
from proxy.evidence.what_if import CapOutcome

__all__ = ["show"]

_ACCENT = "bold cyan"
_QUIET = "dim"
_WIDEST = 112
_WIDE = 106
"""Columns of a terminal from which the interval has room."""
_TOO_MUCH = 0.5
"""A cap that newly cuts more than this is nobody's choice."""


def show(report: Report, console: Console | None = None) -> None:
    """Print the report."""
    if console is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a sign shows the rest
        console = Console(highlight=False)
        console.width = min(console.width, _WIDEST)
    console.print(
        Text.assemble(
            ("Lengthwise report", "bold"),
            f"  {report.exchanges:,} exchanges, {wording.moment(report.since_unix_s)} to "
            f"{wording.moment(report.until_unix_s)} UTC",
        )
    )
    for group in report.groups:
        _show_group(console, group, by_app=report.by_app)
    console.print()
    console.print(Text(wording.questions(report), style=_QUIET))


def _show_group(console: Console, group: Group, *, by_app: bool) -> None:
    console.print()
    console.print(
        Rule(Text(wording.title(group, by_app=by_app), style=_ACCENT), align="left", characters="─", style=_QUIET)
    )
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True, style="bold")
    facts.add_column()
    for label, lines in _facts(group):
        facts.add_row(label, Text("\n").join(lines))
    console.print(Padding(facts, (0, 0, 0, 2)))
    outcomes = _telling(group)
    if outcomes:
        console.print()
        console.print(Padding(_cap_table(outcomes, console.width), (0, 0, 0, 2)))
        console.print()
    advice = group.advice
    lead = f"Try {advice.cap_tokens:,} in shadow: it " if advice.cap_tokens else "No cap: "
    console.print(Padding(Text.assemble((lead, "bold"), advice.reason, "."), (0, 0, 0, 2)))
    for note in wording.notes(group):
        console.print(Padding(Text(note, style=_QUIET), (0, 0, 0, 2)))


def _facts(group: Group) -> Iterable[tuple[str, list[Text]]]:
    cases, law, slack, lengths = group.cases, group.law, group.slack, group.lengths
    ends = ", ".join(f"{wording.name(end)} {number:,}" for end, number in group.ends.items())
    yield (
        "exchanges",
        [_line(f"{len(group.rows):,}", f"{group.complete:,} whole 2xx answers, {group.streamed:,} streamed", ends)],
    )
    total = len(group.rows)
    parts = [
        (
            "cut by the limit",
            cases.cut,
            f"(client's {group.cut - group.cut_by_policy:,}, policy's {group.cut_by_policy:,})",
        ),
        ("ended below a limit", cases.natural, ""),
        ("ended without a limit", cases.unlimited, ""),
        ("unknown", cases.unknown, "(errors, breaks, other ends)"),
    ]
    yield (
        "cases",
        [
            Text("  ").join(
                Text(part)
                for part in (f"{int(mask.sum()):>7,}", f"{wording.percent(mask.sum() / total):>6}", words, more)
                if part
            )
            for words, mask, more in parts
            if mask.any()
        ],
    )
    if law.tpot_s is None:
        yield "law", [Text(wording.law_sentence(group))]
    else:
        pace = f"TPOT 95%: {wording.span(law.tpot_ci95, wording.milliseconds)}, {wording.days(law.blocks)}, n {law.n:,}"
        first = f"TTFT p50 {wording.seconds(law.ttft_p50_s)}, p95 {wording.seconds(law.ttft_p95_s)}"
        yield "law", [Text(wording.law_sentence(group), style=_ACCENT), Text(f"{first}; {pace}")]
    explained = [
        f"R² {fit.r2:.3f} on {what} (n {fit.n:,})"
        for what, fit in (("output tokens", law.on_output_tokens), ("max_tokens", law.on_max_tokens))
        if fit
    ]
    if explained:
        lines = [Text(" · ".join(explained))]
        yield "E2E", [*lines, Text(wording.why_naive(group), style=_QUIET)] if law.on_max_tokens else lines
    if slack.n:
        used = f"p50 {wording.percent(slack.utilization_p50)}, p95 {wording.percent(slack.utilization_p95)} of the limit used"
        yield "slack", [_line(used, f"{slack.reserved_unused_tokens:,} reserved tokens unused", f"n {slack.n:,}")]
    if lengths.n:
        points = ", ".join(f"p{share} {_length(group, share)}" for share in (50, 90, 95, 99))
        known = f"n {lengths.n:,}, {lengths.censored:,} cut short; identified up to {wording.tokens(lengths.identified_up_to)} tokens"
        yield "lengths", [_line(points, known)]


def _length(group: Group, share: int) -> str:
    found = group.lengths.quantile(share / 100)
    return "not identified" if found is None else f"{found:,.0f}"


def _line(*parts: str) -> Text:
    return Text("; ".join(part for part in parts if part))


def _telling(group: Group) -> list[CapOutcome]:
    """The caps that would have shortened anything without cutting most answers; all that shorten, if there is none."""
    shortening = [outcome for outcome in group.what_if if outcome.longer]
    return [each for each in shortening if (each.newly_cut_share or 0) <= _TOO_MUCH] or shortening


def _cap_table(outcomes: list[CapOutcome], width: int) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    wide = width >= _WIDE
    headings = ["a cap of", "governs", "cuts newly", "share", "saves tokens", "saves time"]
    before = wording.seconds(outcomes[0].e2e_p95_before_s)
    for heading in [*headings, *(["95% by days"] if wide else []), f"p95 of {before}"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        cells = [
            f"{outcome.cap_tokens:,}",
            f"{outcome.governed:,}",
            f"{outcome.newly_cut:,}",
            wording.percent(outcome.newly_cut_share),
            f"{outcome.tokens_saved:,}",
            wording.seconds(outcome.latency_saved_s),
        ]
        interval = [wording.span(outcome.latency_saved_ci95)] if wide else []
        table.add_row(*cells, *interval, wording.seconds(outcome.e2e_p95_after_s))
    return table
