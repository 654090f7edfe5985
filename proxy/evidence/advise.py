"""A policy from a report: one rule in shadow for each model and app that has a cap to try, its evidence as comments.

Layer: evidence. Written as text, for comments are half of it. Names come from clients: in comments they are made
printable, in patterns their signs mean themselves, and one that no pattern can hold gets no rule.

Source: ARCHITECTURE.md 7 "Policies".
"""

from collections.abc import Iterator

import numpy as np

from proxy.evidence import wording
from proxy.evidence.report import Group, Report
from proxy.evidence.rule_text import can_be_named, comment, pattern, rule_name

__all__ = ["policy"]


def policy(report: Report) -> str:
    """The text of a policies file; without anything to advise it has no rule and says why, group by group."""
    rules: list[str] = []
    silent: list[str] = []
    names: set[str] = set()
    # A rule without an app matches every app, so it comes after those that name one.
    for group in sorted(report.groups, key=lambda group: group.app is None):
        title = wording.title(group, by_app=True)
        if group.advice.cap_tokens is None or not _can_be_named(group):
            reason = group.advice.reason if group.advice.cap_tokens is None else "no pattern can hold this name"
            silent += comment(f"{title}: no rule. {reason[:1].upper()}{reason[1:]}.")
        else:
            words = f"advised-{group.model}-{group.app}" if group.app else f"advised-{group.model}"
            rules += _rule(group, title, rule_name(words, names))
    head = comment(
        f"What lengthwise advises to try, from {report.exchanges:,} exchanges, "
        f"{wording.moment(report.since_unix_s)} to {wording.moment(report.until_unix_s)} UTC. Rules in shadow change nothing; "
        "they record what they would have done. Look at that for some days before you write mode: enforce."
    )
    return "\n".join([*head, "version: 1", f"rules:{'' if rules else ' []'}", *rules, *silent, ""])


def _rule(group: Group, title: str, name: str) -> Iterator[str]:
    assert group.model is not None
    advice = group.advice
    outcome = next(each for each in group.what_if if each.cap_tokens == advice.cap_tokens)
    evidence = [
        f"{title}: {group.complete:,} whole answers (n) over {wording.days(group.law.blocks)} of streamed ones.",
        f"Risk: {outcome.longer:,} of {outcome.complete:,} answers cut ({wording.percent(advice.risk)}), {outcome.newly_cut:,} of them newly.",
        (
            f"Saving: {outcome.tokens_saved:,} tokens; {wording.seconds(outcome.latency_saved_s)} of waiting in all, known for "
            f"{outcome.timed:,} of {outcome.longer:,} longer answers (95% interval: {wording.span(outcome.latency_saved_ci95)})."
        ),
        f"E2E p95: {wording.seconds(outcome.e2e_p95_before_s)} before, {wording.seconds(outcome.e2e_p95_after_s)} after.",
    ]
    if group.reasoning:
        evidence.append(
            f"Case C: {group.reasoning:,} answers hold reasoning. A limit can change how such a model reasons, not only where its "
            "answer ends. Compare answers before you enforce this."
        )
    if group.app is None:
        evidence.append(
            "These exchanges named no app; the rule matches every app of this model that no rule above names."
        )
    for line in evidence:
        yield from ("  " + each for each in comment(line))
    match = f"model: [{pattern(group.model)}]" + (f", app: [{pattern(group.app)}]" if group.app is not None else "")
    yield f"  - name: {name}"
    yield f"    match: {{{match}}}"
    yield "    do: cap"
    yield f"    max_tokens: {advice.cap_tokens}"
    if np.isnan(group.rows.forwarded_max_tokens[group.rows.complete]).any():
        yield "    when_absent: insert  # some of these exchanges had no limit, and the figures count them"
    yield "    mode: shadow"


def _can_be_named(group: Group) -> bool:
    return can_be_named(group.model) and (group.app is None or can_be_named(group.app))
