"""The report as a page: the same figures and words as in the terminal, with plots.

Layer: evidence.
"""

from typing import Final

from proxy.evidence import page as pages
from proxy.evidence import wording
from proxy.evidence.pictures import charts
from proxy.evidence.report import Group, Report

__all__ = ["page"]

_DRAWN_GROUPS: Final = 12
"""The largest groups have plots; of the others a page shows figures, so that it stays small enough to be sent."""


def page(report: Report) -> str:
    """The page of a report, whole in itself."""
    since, until = wording.moment(report.since_unix_s), wording.moment(report.until_unix_s)
    parts: list[str | pages.Chart | pages.Table] = [
        "<h1>What max_tokens did to latency</h1>",
        pages.paragraph(f"{report.exchanges:,} exchanges, {since} to {until} UTC.", "quiet"),
        pages.paragraph(wording.questions(report), "quiet"),
    ]
    for at, group in enumerate(report.groups):
        parts += _section(group, by_app=report.by_app, drawn=at < _DRAWN_GROUPS)
    return pages.document("Lengthwise report", parts)


def _section(group: Group, *, by_app: bool, drawn: bool) -> list[str | pages.Chart | pages.Table]:
    ends = ", ".join(f"{wording.name(end)} {number:,}" for end, number in group.ends.items())
    parts: list[str | pages.Chart | pages.Table] = [
        pages.heading(wording.title(group, by_app=by_app), f"{len(group.rows):,} exchanges: {ends}"),
    ]
    if group.complete:
        parts += [pages.paragraph(wording.law_sentence(group), "lead"), pages.stats(_stats(group))]
    advice = group.advice
    lead = f"Try {advice.cap_tokens:,} in shadow: it " if advice.cap_tokens else "No cap to try: "
    parts.append(pages.paragraph(f"{lead}{advice.reason}.", "advice"))
    if drawn:
        parts += charts(group)
    naive = wording.why_naive(group)
    parts += [pages.paragraph(naive)] if naive else []
    parts += [_caps(group)] if any(outcome.longer for outcome in group.what_if) else []
    return parts + [pages.paragraph(note, "quiet") for note in wording.notes(group)]


def _stats(group: Group) -> list[str]:
    cases, law, slack, lengths = group.cases, group.law, group.slack, group.lengths
    total = len(group.rows)
    parts = [
        pages.stat(
            "cut by the limit",
            wording.percent(group.cut / total),
            f"{group.cut:,} of {total:,}; client's limit {group.cut - group.cut_by_policy:,}, policy's {group.cut_by_policy:,}",
        ),
        pages.stat(
            "ended by the model",
            wording.percent(cases.ended_by_model.sum() / total),
            f"{int(cases.natural.sum()):,} below a limit, {int(cases.unlimited.sum()):,} without one, unknown {int(cases.unknown.sum()):,}",
        ),
    ]
    if law.tpot_s is not None:
        interval = wording.span(law.tpot_ci95, wording.milliseconds)
        parts += [
            pages.stat(
                "time per output token",
                wording.milliseconds(law.tpot_s),
                f"95% by {wording.days(law.blocks)}: {interval}; n {law.n:,}",
            ),
            pages.stat(
                "time to first token, p50",
                wording.seconds(law.ttft_p50_s),
                f"p95 {wording.seconds(law.ttft_p95_s)}; n {law.n:,}",
            ),
        ]
    if lengths.n:
        found = lengths.quantile(0.95)
        parts.append(
            pages.stat(
                "natural length, p95",
                "not identified" if found is None else f"{wording.tokens(found)} tokens",
                f"n {lengths.n:,}, {lengths.censored:,} cut short",
            )
        )
    if slack.n:
        parts.append(
            pages.stat(
                "limit used, p50",
                wording.percent(slack.utilization_p50),
                f"p95 {wording.percent(slack.utilization_p95)}; {slack.reserved_unused_tokens:,} tokens unused; n {slack.n:,}",
            )
        )
    return parts


def _caps(group: Group) -> pages.Table:
    outcomes = [outcome for outcome in group.what_if if outcome.longer]
    return pages.Table(
        (
            "cap",
            "governs",
            "newly cuts",
            "share",
            "saves tokens",
            "saves time",
            "95% by days",
            "of answers",
            "E2E p95 before",
            "after",
        ),
        [
            (
                f"{outcome.cap_tokens:,}",
                f"{outcome.governed:,}",
                f"{outcome.newly_cut:,}",
                wording.percent(outcome.newly_cut_share),
                f"{outcome.tokens_saved:,}",
                wording.seconds(outcome.latency_saved_s),
                wording.span(outcome.latency_saved_ci95),
                f"{outcome.timed:,}",
                wording.seconds(outcome.e2e_p95_before_s),
                wording.seconds(outcome.e2e_p95_after_s),
            )
            for outcome in outcomes
        ],
        next((at for at, each in enumerate(outcomes) if each.cap_tokens == group.advice.cap_tokens), None),
    )
