"""What the rules do with one request.

Layer: policy. Pure: facts in, a `Decision` out; the caller reads the clock and rewrites the body. What requests have in
common (upstream, model, key, headers that rules look at) is matched once and remembered with the policies.

Invariant: a decision never raises a limit. The first matching armed enforce rule decides, even if it changes nothing;
every matching shadow or disarmed rule is recorded with what it would have done, wherever it stands. Where the model is
not sure (none is named, or the path names another than the body), rules that match by it do not end the search: of all up
to the first that is sure the strictest decides, or a generous rule for one model would be a way around those below it.

Source: ARCHITECTURE.md 7 "Policies".
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import blake2b
from math import inf
from typing import NamedTuple, TypeVar

from proxy.policy.live import Live
from proxy.policy.rules import NO_ARM, Chosen, PolicySet, Rule, When
from proxy.record import Action, Decision, RequestFacts, ShadowDecision
from proxy.wire.dialects.base import UNREADABLE

__all__ = ["Origin", "decide", "may_enforce", "unmet"]

_ABSENT_COMPLETIONS_TOKENS = 16
"""What the provider generates at most when a completions request has no limit (OpenAI API reference, completions)."""


_LEAST_RESPONSES_TOKENS = 16
"""Smallest limit that the provider accepts in a responses request (OpenAI API reference, responses)."""

_REMEMBERED = 4096
"""Combinations of upstream, model, key, application and headers that are matched once; then memory starts anew."""

_REMEMBERED_CHARS = 512
"""Header values and deployments that are longer together are matched each time."""

_Number = TypeVar("_Number", int, float)


class Origin(NamedTuple):
    """Where a request comes from and where it goes: all that rules look at besides the body."""

    upstream: str
    """Name of the upstream."""
    app: str | None
    """Name of the calling application; None when it did not say."""
    key: str | None
    """Name of the client's key; None when it is not one of ours."""
    headers: Sequence[tuple[bytes, bytes]]
    """As received: any case, duplicates kept."""
    id: str = ""
    """The exchange's own: draws the arm of an experiment whose unit is the request."""
    deployment: str | None = None
    """Model that the path names (Azure): the upstream reads it there, whatever the body says."""
    deadline_s: float | None = None
    """The request's own deadline."""
    insert_field: str | None = None
    """Field in which a limit is inserted here."""
    reads_only: str | None = None
    """The field that this upstream reads, by its settings: a cap always sets it. None when they do not say."""


class _Effect(NamedTuple):
    action: Action
    forwarded: int | None
    field: str | None = None
    cap_tokens: int | None = None
    arm: str | None = None
    unit: str | None = None


def decide(facts: RequestFacts, origin: Origin, policies: PolicySet, live: Live, now_unix_s: float) -> Decision:
    """Apply the rules to one request.

    O(rules) for what was not seen lately, else O(rules that match by all but the requested limit). `limit_field` is the field that carries the
    limit: a sent one, or that in which one is to be inserted.
    """
    read = _limits_read(facts)
    armed, idle = _chosen(facts, origin, policies, live, now_unix_s)
    shadow: list[ShadowDecision] = []
    for rule, over, which, _ in idle:
        if read[which] > over:
            effect = _effect(rule, facts, origin, live, now_unix_s)
            shadow.append(ShadowDecision(rule.name, effect.action, effect.forwarded))
    deciding: list[Rule] = []
    for rule, over, which, sure in armed:
        if read[which] > over:
            deciding.append(rule)
            if sure and read[_SMALLEST] > over:
                break
    if not deciding:
        return Decision(Action.NONE, None, facts.requested_max_tokens, facts.limit_field, None, tuple(shadow))
    decided = deciding[0]
    effect = _effect(decided, facts, origin, live, now_unix_s)
    for rule in deciding[1:]:
        other = _effect(rule, facts, origin, live, now_unix_s)
        if _room_tokens(other) < _room_tokens(effect):
            decided, effect = rule, other
    return Decision(
        effect.action,
        decided.name,
        effect.forwarded,
        effect.field,
        effect.arm,
        tuple(shadow),
        effect.cap_tokens,
        effect.unit,
    )


def may_enforce(dialect: str, origin: Origin, policies: PolicySet, live: Live, now_unix_s: float) -> bool:
    """True when a rule that caps or rejects could decide, as far as everything but the body tells.

    Then a body that cannot be judged must not pass: it might be what the rule is there for (ARCHITECTURE.md 5.6). An exemption that holds
    whatever the body says ends the search.
    """
    nothing, open_now = RequestFacts(dialect), _open_rules(policies, now_unix_s)
    for rule, keys in policies.conditions:
        if not rule.enforces or rule.name in live.disarmed or ("when" in keys and rule.name not in open_now):
            continue
        if not all(_LASTING[key](rule, nothing, origin) for key in keys if key in _LASTING and key not in _OF_BODY):
            continue
        if rule.do != "observe":
            return True
        if _OF_BODY.isdisjoint(keys):
            return False
    return False


def unmet(rule: Rule, facts: RequestFacts, origin: Origin, policies: PolicySet, now_unix_s: float) -> str | None:
    """The first key of `match` that does not hold; None when the rule matches."""
    for key in next(keys for each, keys in policies.conditions if each is rule):
        if key == "requested":
            holds = _limits_read(facts)[_which(rule)] > (rule.match.requested or 0)
        elif key == "when":
            holds = rule.name in _open_rules(policies, now_unix_s)
        else:
            holds = _LASTING[key](rule, facts, origin)
        if not holds:
            return key
    return None


# -- what a rule does -------------------------------------------------------------------------------------------------


def _effect(rule: Rule, facts: RequestFacts, origin: Origin, live: Live, now_unix_s: float) -> _Effect:
    requested = facts.requested_max_tokens
    if rule.do == "observe":
        return _Effect(Action.NONE, requested, facts.limit_field)
    too_many = rule.max_choices is not None and facts.choices is not None and facts.choices > rule.max_choices
    if rule.do == "reject" or too_many:
        return _Effect(Action.REJECTED, None)
    arm, unit = (None, None) if rule.experiment is None else _arm(rule, origin, now_unix_s)
    cap = _least(rule.max_tokens, None if arm is None or arm == NO_ARM else int(arm))
    deadline_s = _least(rule.deadline_s, origin.deadline_s if rule.deadline_header else None)
    if deadline_s is not None:
        law = live.laws.get((origin.upstream, facts.model, rule.quantile))
        if law is not None:
            cap = _least(cap, max(law.tokens_within(deadline_s), rule.floor))
        elif cap is None:
            return _Effect(Action.UNDECIDED, requested, facts.limit_field, arm=arm, unit=unit)
    if cap is None:
        return _Effect(Action.NONE, requested, facts.limit_field, arm=arm, unit=unit)
    if facts.dialect == "responses":
        cap = max(cap, _LEAST_RESPONSES_TOKENS)
    effect = _capped(cap, rule, facts, origin)
    budget = facts.thinking_budget_tokens
    if (
        budget is not None
        and effect.action is not Action.NONE
        and effect.forwarded is not None
        and effect.forwarded <= budget
        and (requested is None or requested > budget)
    ):
        effect = _Effect(Action.CONFLICT, None, cap_tokens=cap)
    return effect if arm is None else effect._replace(arm=arm, unit=unit)


def _capped(cap: int, rule: Rule, facts: RequestFacts, origin: Origin) -> _Effect:
    """The effect of a cap: it lowers what was sent, or is inserted where nothing was."""
    requested, limits, field = facts.requested_max_tokens, facts.limits, origin.reads_only
    is_16_at_most = facts.dialect == "completions"
    if limits:
        forwarded = cap if requested is None else min(requested, cap)
        above = _limits_read(facts)[_LARGEST] > cap
        if (
            field is None
            or any(name == field for name, _ in limits)
            or (is_16_at_most and forwarded >= _ABSENT_COMPLETIONS_TOKENS)
        ):
            return _Effect(Action.CAPPED if above else Action.NONE, forwarded, facts.limit_field, cap)
        return _Effect(Action.CAPPED if above else Action.INSERTED, forwarded, field, cap)
    # A body that could not be read cannot be edited either.
    if rule.when_absent == "leave" or facts.degraded in UNREADABLE:
        return _Effect(Action.NONE, None)
    if is_16_at_most and cap >= _ABSENT_COMPLETIONS_TOKENS:
        return _Effect(Action.NONE, None)  # inserting the cap would raise the provider's own limit
    return _Effect(Action.INSERTED, cap, field or origin.insert_field, cap)


def _room_tokens(effect: _Effect) -> float:
    """How long an answer may be at most: nothing of a refused one."""
    if effect.action in {Action.REJECTED, Action.CONFLICT}:
        return 0
    return inf if effect.cap_tokens is None else effect.cap_tokens


def _least(one: _Number | None, other: _Number | None) -> _Number | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _arm(rule: Rule, origin: Origin, now_unix_s: float) -> tuple[str | None, str | None]:
    """The arm of this request and what it was drawn for; no arm for a request without the header that is the unit.

    A keyed hash, so that every worker draws alike and after a restart too; its key is the experiment, so that two rules, or one with other
    arms, draw independently.
    """
    experiment = rule.experiment
    assert experiment is not None
    unit: str | None = None
    if experiment.unit == "request":
        drawn_for = origin.id
    elif experiment.unit == "switchback":
        drawn_for = unit = f"block:{int(now_unix_s // experiment.period_s)}"
    else:
        name = experiment.unit.removeprefix("header:").encode()
        found = next((value for each, value in origin.headers if each.lower() == name), None)
        if found is None:
            return None, None
        drawn_for = found.decode("latin-1")
        # Enough to keep apart what was drawn together, too little to tell whose it was.
        unit = blake2b(found, digest_size=2, key=b"unit").hexdigest()
    key = f"{rule.name} {experiment.arms} {experiment.unit} {experiment.period_s}".encode()
    number = int.from_bytes(
        blake2b(drawn_for.encode(), digest_size=8, key=blake2b(key, digest_size=32).digest()).digest()
    )
    return str(experiment.arms[number % len(experiment.arms)]), unit


# -- when it matches --------------------------------------------------------------------------------------------------


def _chosen(
    facts: RequestFacts, origin: Origin, policies: PolicySet, live: Live, now_unix_s: float
) -> tuple[tuple[Chosen, ...], tuple[Chosen, ...]]:
    """The rules that match but for their limit, remembered while the hours last: the armed enforcing ones, and those that act as shadow."""
    open_now = _open_rules(policies, now_unix_s)
    looked_at = policies.headers
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if looked_at:
        headers = tuple([(lower, value) for name, value in origin.headers if (lower := name.lower()) in looked_at])
    disarmed = live.disarmed
    of_body = (facts.dialect, facts.model, facts.stream)
    key = (of_body, origin.upstream, origin.deployment, origin.app, origin.key, headers, disarmed)
    chosen = policies.chosen.get(key)
    if chosen is None:
        armed: list[Chosen] = []
        idle: list[Chosen] = []
        for rule, keys in policies.conditions:
            if "when" in keys and rule.name not in open_now:
                continue
            if all(_LASTING[key](rule, facts, origin) for key in keys if key in _LASTING):
                over = -1 if rule.match.requested is None else rule.match.requested
                among = armed if rule.enforces and rule.name not in disarmed else idle
                among.append((rule, over, _which(rule), _is_sure_of_model(rule, facts, origin)))
        chosen = tuple(armed), tuple(idle)
        # models and applications are clamped; what else clients write may be long, and all of it would be kept
        if sum(len(value) for _, value in headers) + len(origin.deployment or "") <= _REMEMBERED_CHARS:
            if len(policies.chosen) >= _REMEMBERED:
                policies.chosen.clear()
            policies.chosen[key] = chosen
    return chosen


def _holds_model(rule: Rule, facts: RequestFacts, origin: Origin) -> bool:
    """An unnamed model may be any, and of two names the upstream may read either: caps hold for each, exemptions for what is sure."""
    matches = _matches_of_model(rule, facts, origin)
    return _is_sure_of_model(rule, facts, origin) if rule.do == "observe" else not matches or any(matches)


def _is_sure_of_model(rule: Rule, facts: RequestFacts, origin: Origin) -> bool:
    """True when the upstream reads a model that the rule is for, whichever it reads."""
    if rule.match.model is None:
        return True
    matches = _matches_of_model(rule, facts, origin)
    return bool(matches) and all(matches)


def _matches_of_model(rule: Rule, facts: RequestFacts, origin: Origin) -> list[bool]:
    pattern = rule.match.model
    assert pattern is not None
    return [pattern.match(name) is not None for name in (facts.model, origin.deployment) if name is not None]


def _holds_app(rule: Rule, _: RequestFacts, origin: Origin) -> bool:
    pattern = rule.match.app
    assert pattern is not None
    return origin.app is not None and pattern.match(origin.app) is not None


def _holds_header(rule: Rule, _: RequestFacts, origin: Origin) -> bool:
    for wanted, pattern in rule.match.header:
        length = len(wanted)  # spares most names the lower-casing
        for name, value in origin.headers:
            if len(name) == length and name.lower() == wanted and pattern.match(value.decode("latin-1")):
                break
        else:
            return False
    return True


_LASTING: dict[str, Callable[[Rule, RequestFacts, Origin], bool]] = {
    "upstream": lambda rule, _, origin: origin.upstream in (rule.match.upstream or ()),
    "dialect": lambda rule, facts, _: facts.dialect in (rule.match.dialect or ()),
    "model": _holds_model,
    "header": _holds_header,
    "key": lambda rule, _, origin: origin.key in (rule.match.key or ()),
    "app": _holds_app,
    "stream": lambda rule, facts, _: facts.stream is rule.match.stream,
}
"""Keys of `match` about what requests have in common: whether one that is there holds. What is unknown fulfils none, but for the model."""

_OF_BODY = frozenset(("model", "stream", "requested"))


_SMALLEST, _LARGEST = range(2)
"""Places in what `_limits_read` gives."""


def _which(rule: Rule) -> int:
    """Of several limits the upstream may read any: exemptions hold for the smallest, caps and rejections for the largest."""
    return _SMALLEST if rule.do == "observe" else _LARGEST


def _limits_read(facts: RequestFacts) -> tuple[float, float]:
    """The smallest and the largest limit that any server might read; infinity for none.

    Any sent field counts, not only the one that the provider reads first: an upstream may read another.
    """
    if not facts.limits:
        absent = _ABSENT_COMPLETIONS_TOKENS if facts.dialect == "completions" else inf
        return absent, absent
    sent = [inf if tokens is None else tokens for _, tokens in facts.limits]
    return (sent[0], sent[0]) if len(sent) == 1 else (min(sent), max(sent))


def _open_rules(policies: PolicySet, now_unix_s: float) -> frozenset[str]:
    """Names of the rules whose hours it is; looked at once a minute, because offsets from UTC and hours are whole minutes.

    When it is other ones' time, what was remembered with them is forgotten.
    """
    minute = int(now_unix_s // 60)
    clock = policies.clock
    if not clock or clock[0][0] != minute:
        names = [
            rule.name
            for rule in policies.rules
            if rule.match.when is not None and _is_within(rule.match.when, now_unix_s)
        ]
        if clock and clock[0][1] != set(names):
            policies.chosen.clear()
        clock[:] = [(minute, frozenset(names))]
    return clock[0][1]


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
