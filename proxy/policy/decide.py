"""What the rules do with one request.

Layer: policy. Pure: facts in, a `Decision` out; the caller reads the clock and rewrites the body.

Invariant: a decision never raises a limit. The first matching enforce rule decides, even if it changes nothing; every
matching shadow rule is recorded with what it would have done, wherever it stands.

Source: ARCHITECTURE.md 7 "Policies".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from proxy.policy.live import Live
from proxy.policy.rules import Match, PolicySet, Rule, When
from proxy.record import Action, Decision, RequestFacts, ShadowDecision

__all__ = ["Origin", "decide", "may_enforce"]

_ABSENT_COMPLETIONS_TOKENS = 16
"""What the provider generates at most when a completions request has no limit (OpenAI API reference, completions)."""


_LEAST_RESPONSES_TOKENS = 16
"""Smallest limit that the provider accepts in a responses request (OpenAI API reference, responses)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from and where it goes."""

    upstream: str
    """Name of the upstream."""
    app: str | None
    """Name of the calling application; None when it did not say."""
    key: str | None
    """Name of the client's key; None when it is not one of ours."""
    headers: Sequence[tuple[bytes, bytes]]
    """As received: any case, duplicates kept."""


def decide(
    facts: RequestFacts,
    origin: Origin,
    policies: PolicySet,
    live: Live,  # noqa: ARG001 -- deadlines and disarmed rules come from it
    now_unix_s: float,
) -> Decision:
    """Apply the rules to one request; O(rules).

    `limit_field` is the sent field that carries the limit; for `inserted` it is None, because the upstream's
    `insert_field` names it.
    """
    decided: Rule | None = None
    shadow: list[ShadowDecision] = []
    model = facts.model
    for rule in policies.rules:
        match = rule.match
        pattern = match.model  # the condition that most rules have, before the calls that look at all of them
        if pattern is not None and (model is None or pattern.match(model) is None):
            continue
        if (
            (decided is not None and rule.enforces)
            or not _matches_body(match, facts)
            or not _matches_origin(match, facts.dialect, origin, now_unix_s)
        ):
            continue
        if rule.enforces:
            decided = rule
        else:
            shadow.append(ShadowDecision(rule.name, *_effect(rule, facts)))
    if decided is None:
        return Decision(
            forwarded_max_tokens=facts.requested_max_tokens, limit_field=facts.limit_field, shadow=tuple(shadow)
        )
    action, forwarded = _effect(decided, facts)
    field = None if action is Action.REJECTED else facts.limit_field
    return Decision(action, decided.name, forwarded, field, shadow=tuple(shadow))


def may_enforce(dialect: str, origin: Origin, policies: PolicySet, now_unix_s: float) -> bool:
    """True when an enforce rule that caps or rejects could match by everything but the body.

    Then a body that cannot be judged must not pass: it might be what the rule is there for (ARCHITECTURE.md 5.6).
    """
    return any(
        rule.enforces and rule.do != "observe" and _matches_origin(rule.match, dialect, origin, now_unix_s)
        for rule in policies.rules
    )


def _effect(rule: Rule, facts: RequestFacts) -> tuple[Action, int | None]:
    """What the rule does, and the limit that is forwarded then."""
    requested, cap = facts.requested_max_tokens, rule.max_tokens
    if rule.do == "reject":
        return Action.REJECTED, None
    if cap is None:
        return Action.NONE, requested
    if facts.dialect == "responses":
        cap = max(cap, _LEAST_RESPONSES_TOKENS)
    if requested is not None:
        above = requested > cap or any(sent > cap for _, sent in facts.limits)
        return (Action.CAPPED if above else Action.NONE), min(requested, cap)
    # A body that could not be read cannot be edited either.
    if rule.when_absent == "leave" or facts.degraded is not None:
        return Action.NONE, None
    if facts.dialect == "completions" and cap >= _ABSENT_COMPLETIONS_TOKENS:
        return Action.NONE, None  # inserting the cap would raise the provider's own limit
    return Action.INSERTED, cap


def _matches_body(match: Match, facts: RequestFacts) -> bool:
    """The conditions on the body but for its model; an absent limit is over every number, an absent stream is false."""
    return (match.stream is None or facts.stream is match.stream) and (
        match.requested is None or _is_over(match.requested, facts)
    )


def _matches_origin(match: Match, dialect: str, origin: Origin, now_unix_s: float) -> bool:
    """The conditions on everything but the body; what is unknown fulfils none."""
    return (
        (match.upstream is None or origin.upstream in match.upstream)
        and (match.dialect is None or dialect in match.dialect)
        and (match.key is None or origin.key in match.key)
        and (match.app is None or (origin.app is not None and match.app.match(origin.app) is not None))
        and (not match.header or _has_headers(match, origin.headers))
        and (match.when is None or _is_within(match.when, now_unix_s))
    )


def _is_over(tokens: int, facts: RequestFacts) -> bool:
    # Any sent field counts, not only the one that the provider reads first: an upstream may read another.
    if facts.limits:
        return any(sent > tokens for _, sent in facts.limits)
    return facts.dialect != "completions" or tokens < _ABSENT_COMPLETIONS_TOKENS


def _has_headers(match: Match, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    for wanted, pattern in match.header:
        length = len(wanted)  # spares most names the lower-casing
        for name, value in headers:
            if len(name) == length and name.lower() == wanted and pattern.match(value.decode("latin-1")):
                break
        else:
            return False
    return True


def _is_within(when: When, now_unix_s: float) -> bool:
    now = datetime.fromtimestamp(now_unix_s, when.timezone)
    minute, day = now.hour * 60 + now.minute, now.weekday()
    for start, end in when.hours:
        if start < end:
            if start <= minute < end and day in when.days:
                return True
        elif (minute >= start and day in when.days) or (minute < end and (day - 1) % 7 in when.days):
            return True
    return False
