"""A policy from a report: one rule in shadow for each model and app that has a cap to try, its evidence as comments.

Layer: evidence. Written as text, for comments are half of it. Names come from clients: in comments they are made
printable, in patterns their signs mean themselves, and one that no pattern can hold gets no rule.

Source: ARCHITECTURE.md 7 "Policies".
"""

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Final

import numpy as np

from proxy.evidence import wording
from proxy.evidence.report import Group, Report

__all__ = ["policy"]

_WIDTH: Final = 100
_LONGEST_RULE: Final = 56
"""A rule's name may have 64 characters; some are left for a number."""


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
            silent += _comment(f"{title}: no rule. {reason[:1].upper()}{reason[1:]}.")
        else:
            rules += _rule(group, title, _rule_name(group, names))
    head = _comment(
        f"What lengthwise advises to try, from {report.exchanges:,} exchanges, "
        f"{wording.moment(report.since_unix_s)} to {wording.moment(report.until_unix_s)} UTC. Rules in shadow change nothing; "
        "they record what they would have done. Look at that for some days before you write mode: enforce."
    )
    return "\n".join([*head, "version: 1", f"rules:{'' if rules else ' []'}", *rules, *silent, ""])


def _rule(group: Group, title: str, rule_name: str) -> Iterator[str]:
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
        yield from ("  " + each for each in _comment(line))
    match = f"model: [{_pattern(group.model)}]" + (f", app: [{_pattern(group.app)}]" if group.app is not None else "")
    yield f"  - name: {rule_name}"
    yield f"    match: {{{match}}}"
    yield "    do: cap"
    yield f"    max_tokens: {advice.cap_tokens}"
    if np.isnan(group.rows.forwarded_max_tokens[group.rows.complete]).any():
        yield "    when_absent: insert  # some of these exchanges had no limit, and the figures count them"
    yield "    mode: shadow"


def _can_be_named(group: Group) -> bool:
    """A pattern needs text of at least one printable character."""
    return bool(group.model and group.model.isprintable() and group.app != "" and (group.app or "-").isprintable())


def _pattern(text: str) -> str:
    """A quoted glob that matches this text alone."""
    return json.dumps(re.sub(r"[*?[]", r"[\g<0>]", text), ensure_ascii=False)


def _rule_name(group: Group, taken: set[str]) -> str:
    words = f"{group.model}-{group.app}" if group.app else f"{group.model}"
    stem = f"advised-{re.sub('[^A-Za-z0-9_.-]+', '-', words).strip('-')}"[:_LONGEST_RULE].rstrip("-")
    found, number = stem, 2
    while found in taken:
        found, number = f"{stem}-{number}", number + 1
    taken.add(found)
    return found


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)
