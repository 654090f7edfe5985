"""The report: every figure of every group, and its form as JSON.

Layer: evidence. A group is the exchanges of one model, or of one model and app. Those whose model is unknown (bodies that
are not read, requests that could not be) are a group as well, so that the groups add up to the exchanges.

Source: ARCHITECTURE.md 7 "Evidence".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from proxy.evidence.advice import Advice, advise, candidates
from proxy.evidence.blocks import quantile
from proxy.evidence.cases import Cases, cases_of, is_single
from proxy.evidence.law import Law, law_of
from proxy.evidence.sources.exchanges import Exchanges, Words
from proxy.evidence.sources.query import Window
from proxy.evidence.survival import Lengths, lengths_of
from proxy.evidence.what_if import CapOutcome, what_if
from proxy.record import OPAQUE

__all__ = ["CAPS_TOKENS", "Group", "Report", "Slack", "as_json", "build", "iso"]

CAPS_TOKENS: Final = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Two caps in each doubling: near enough to each other that the best one of any is near."""


@dataclass(frozen=True, slots=True)
class Slack:
    """How much of their limits complete answers used."""

    n: int
    """Complete exchanges of one choice with a limit and a known length."""
    utilization_p50: float | None
    utilization_p95: float | None
    reserved_unused_tokens: int


@dataclass(frozen=True, slots=True)
class Group:
    """One group's figures, and the exchanges behind them."""

    model: str | None
    app: str | None
    """None as well where exchanges are not grouped by app."""
    rows: Exchanges
    complete: int
    streamed: int
    ends: dict[str, int]
    cases: Cases
    cut_by_policy: int
    law: Law
    slack: Slack
    lengths: Lengths
    what_if: tuple[CapOutcome, ...]
    advice: Advice
    opaque: int
    """Exchanges whose body Lengthwise does not read."""
    estimated: int
    """Complete exchanges whose output tokens are an estimate."""
    reasoning: int
    """Complete exchanges with reasoning tokens."""
    in_arms: int
    """Exchanges of an experiment: for these, and no others, a limit's effect can be told."""
    apps: int
    """Known apps; with limits of their own they should be looked at one by one."""

    @property
    def cut(self) -> int:
        """Whole answers that the limit ended."""
        return int(self.cases.cut.sum())


@dataclass(frozen=True, slots=True)
class Report:
    """All groups of a source, the largest first and unknown models last."""

    exchanges: int
    since_unix_s: float
    until_unix_s: float
    by_app: bool
    groups: tuple[Group, ...]


def build(exchanges: Exchanges, window: Window, caps_tokens: Sequence[int] | None = None, *, by_app: bool) -> Report:
    """The report on at least one exchange.

    Args:
        exchanges: What is reported on.
        window: The window of time that they are of.
        caps_tokens: The caps to judge and to advise from. None judges `CAPS_TOKENS` and, where the best cap to try is
            between two of these, that one.
        by_app: True makes a group of each model and app.
    """
    groups = [
        _group(model, app, exchanges.take(rows), caps_tokens) for model, app, rows in _divided(exchanges, by_app=by_app)
    ]
    groups.sort(key=lambda group: (group.model is None, -len(group.rows), group.model or "", group.app or ""))
    since, until = window.since_unix_s, window.until_unix_s
    return Report(
        exchanges=len(exchanges),
        since_unix_s=float(exchanges.started_at.min()) if since is None else since,
        until_unix_s=float(exchanges.started_at.max()) if until is None else until,
        by_app=by_app,
        groups=tuple(groups),
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report in the public form, schema 1; unknown figures are None."""
    return {
        "schema": 1,
        "exchanges": report.exchanges,
        "since": iso(report.since_unix_s),
        "until": iso(report.until_unix_s),
        "groups": [_group_json(group, by_app=report.by_app) for group in report.groups],
    }


def iso(unix_s: float) -> str:
    """A moment as ISO 8601 in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat()


def _divided(exchanges: Exchanges, *, by_app: bool) -> list[tuple[str | None, str | None, Any]]:
    """Model, app and row numbers of each group that has a row."""
    models, apps = exchanges.model, exchanges.app if by_app else Words(np.zeros(len(exchanges), np.int32) - 1, ())
    codes = models.codes.astype(np.int64) * (len(apps.known) + 1) + apps.codes
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order])) + 1
    return [
        ((*models.known, None)[models.codes[rows[0]]], (*apps.known, None)[apps.codes[rows[0]]], rows)
        for rows in np.split(order, starts)
    ]


def _group(model: str | None, app: str | None, rows: Exchanges, caps_tokens: Sequence[int] | None) -> Group:
    complete, cases, slack = rows.complete, cases_of(rows), _slack(rows)
    tokens = rows.output_tokens[complete & is_single(rows) & ~np.isnan(rows.output_tokens)]
    shown = CAPS_TOKENS if caps_tokens is None else sorted(set(caps_tokens))
    outcomes = what_if(rows, sorted({*shown, *candidates(tokens)}) if caps_tokens is None else shown)
    reasoning = int((complete & (rows.reasoning_tokens > 0)).sum())
    advice = advise(outcomes, len(tokens), int(tokens.sum()), slack.reserved_unused_tokens, reasoning)
    return Group(
        model=model,
        app=app,
        rows=rows,
        complete=int(complete.sum()),
        streamed=int((rows.stream == 1).sum()),
        ends=_counted(rows.end),
        cases=cases,
        cut_by_policy=int((cases.cut & rows.action.among("capped", "inserted")).sum()),
        law=law_of(rows),
        slack=slack,
        lengths=lengths_of(rows),
        what_if=tuple(each for each in outcomes if each.cap_tokens in {*shown, advice.cap_tokens}),
        advice=advice,
        opaque=int(rows.dialect.among(OPAQUE).sum()),
        estimated=int((complete & rows.usage_source.among("estimated")).sum()),
        reasoning=reasoning,
        in_arms=int((rows.arm.codes >= 0).sum()),
        apps=len(np.unique(rows.app.codes[rows.app.codes >= 0])),
    )


def _counted(words: Words) -> dict[str, int]:
    counts = {word: int(words.among(word).sum()) for word in sorted(words.known)}
    counts["unknown"] = int((words.codes < 0).sum())
    return {word: count for word, count in counts.items() if count}


def _slack(rows: Exchanges) -> Slack:
    limited = rows.complete & is_single(rows) & (rows.forwarded_max_tokens > 0) & ~np.isnan(rows.output_tokens)
    tokens, limits = rows.output_tokens[limited], rows.forwarded_max_tokens[limited]
    return Slack(
        n=len(tokens),
        utilization_p50=quantile(tokens / limits, 0.5),
        utilization_p95=quantile(tokens / limits, 0.95),
        reserved_unused_tokens=int((limits - tokens).sum()),
    )


def _group_json(group: Group, *, by_app: bool) -> dict[str, Any]:
    cases, law, lengths = group.cases, group.law, group.lengths
    counts = {name: int(getattr(cases, name).sum()) for name in ("cut", "natural", "unlimited", "unknown")}
    return {
        "by": {"model": group.model, **({"app": group.app} if by_app else {})},
        "exchanges": len(group.rows),
        "complete": group.complete,
        "streamed": group.streamed,
        "ends": group.ends,
        "cases": counts,
        "cut_by": {"client": group.cut - group.cut_by_policy, "policy": group.cut_by_policy},
        "law": {
            "ttft_p50_s": law.ttft_p50_s,
            "ttft_p95_s": law.ttft_p95_s,
            "tpot_s": law.tpot_s,
            "tpot_ci95": law.tpot_ci95 and list(law.tpot_ci95),
            "tpot_ci_method": law.tpot_ci_method,
            "blocks": law.blocks,
            "r2_output_tokens": law.on_output_tokens and law.on_output_tokens.r2,
            "r2_max_tokens": law.on_max_tokens and law.on_max_tokens.r2,
            "ms_per_1000_max_tokens_naive": law.on_max_tokens and law.on_max_tokens.slope * 1e6,
        },
        "slack": {
            "utilization_p50": group.slack.utilization_p50,
            "utilization_p95": group.slack.utilization_p95,
            "reserved_unused_tokens": group.slack.reserved_unused_tokens,
        },
        "lengths": {
            "method": "kaplan-meier",
            **{f"p{percent}": _whole(lengths.quantile(percent / 100)) for percent in (50, 90, 95, 99)},
            "identified_up_to": lengths.identified_up_to,
        },
        "what_if": [_cap_json(outcome) for outcome in group.what_if],
        "advice": {"cap": group.advice.cap_tokens, "risk": group.advice.risk, "reason": group.advice.reason},
    }


def _cap_json(outcome: CapOutcome) -> dict[str, Any]:
    return {
        "cap": outcome.cap_tokens,
        "governed": outcome.governed,
        "newly_cut": outcome.newly_cut,
        "newly_cut_share": outcome.newly_cut_share,
        "tokens_saved": outcome.tokens_saved,
        "latency_saved_s": outcome.latency_saved_s,
        "latency_saved_ci95": outcome.latency_saved_ci95 and list(outcome.latency_saved_ci95),
        "e2e_p95_before_s": outcome.e2e_p95_before_s,
        "e2e_p95_after_s": outcome.e2e_p95_after_s,
    }


def _whole(tokens: float | None) -> int | None:
    return None if tokens is None else int(tokens)
