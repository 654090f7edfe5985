"""Every decision of one rule against an oracle that is written down here: what was sent, what the rule says, where it goes.

Source: ARCHITECTURE.md 7 "Policies".
"""

from itertools import product
from typing import NamedTuple

import pytest

from proxy.policy.decide import Origin, decide
from proxy.policy.live import Live
from proxy.policy.rules import parse
from proxy.record import Action, Decision, ShadowDecision
from proxy.wire.dialects import DIALECTS
from proxy.wire.dialects.base import Dialect

READ_FIRST = {
    "chat_completions": "max_completion_tokens",
    "completions": "max_tokens",
    "responses": "max_output_tokens",
    "messages": "max_tokens",
}
"""The field that the provider of each dialect reads first."""


class Case(NamedTuple):
    """One request under one rule."""

    sent: str
    do: str
    cap: int
    when_absent: str
    stream: bool
    named: bool
    """True where the settings name the field that the upstream reads: `max_tokens` in chat completions."""


CASES = [
    Case(*each)
    for each in product(
        ("absent", "null", "below", "at", "above", "unlimited"),
        ("cap", "reject", "observe"),
        (8, 16, 100),
        ("leave", "insert"),
        (False, True),
        (False, True),
    )
]


def sent_tokens(case: Case) -> int | None:
    """The number in the body; None for none."""
    return {"below": case.cap - 1, "at": case.cap, "above": case.cap + 10_000}.get(case.sent)


def body_of(case: Case, dialect: str) -> bytes:
    """What the client sends; an unlimited answer is asked for as llama.cpp has it."""
    members = [b'"model":"m"', b'"stream":true' if case.stream else b'"stream":false']
    tokens = sent_tokens(case)
    if tokens is not None:
        members.append(b'"%b":%d' % (READ_FIRST[dialect].encode(), tokens))
    elif case.sent == "null":
        members.append(b'"%b":null' % READ_FIRST[dialect].encode())
    elif case.sent == "unlimited":
        members.append(b'"n_predict":-1')
    return b"{" + b",".join(members) + b"}"


def expected(case: Case, dialect: str) -> Decision:
    """What the rule does, in the words of the contract."""
    requested = sent_tokens(case)
    field = {"absent": None, "null": None, "unlimited": "n_predict"}.get(case.sent, READ_FIRST[dialect])
    if case.do == "observe":
        return Decision(Action.NONE, "r", requested, field)
    if case.do == "reject":
        return Decision(Action.REJECTED, "r", None, None)

    cap = max(case.cap, 16) if dialect == "responses" else case.cap  # the provider takes nothing lower
    reads = "max_tokens" if case.named and dialect == "chat_completions" else READ_FIRST[dialect]
    provider_stops_at_16 = dialect == "completions"  # where no max_tokens is sent

    if field is None:
        if case.when_absent == "leave" or (provider_stops_at_16 and cap >= 16):
            return Decision(Action.NONE, "r", None, None)
        # chat completions without a name in the settings: what the upstream's pool prefers, here max_completion_tokens
        return Decision(Action.INSERTED, "r", cap, reads, cap_tokens=cap)

    forwarded = cap if requested is None else min(requested, cap)
    is_lowered = requested is None or requested > cap
    action = Action.CAPPED if is_lowered else Action.NONE
    if case.named and field != reads and not (provider_stops_at_16 and forwarded >= 16):
        field = reads  # a cap stands in the field that the upstream reads, whatever else was sent
        action = Action.CAPPED if is_lowered else Action.INSERTED
    return Decision(action, "r", forwarded, field, cap_tokens=cap)


def decided(case: Case, dialect: Dialect, *, mode: str = "enforce", live: Live | None = None) -> Decision:
    """What the product does."""
    rule = {"name": "r", "do": case.do, "mode": mode}
    if case.do == "cap":
        rule |= {"max_tokens": case.cap, "when_absent": case.when_absent}
    preferred = dialect.insert_field("max_tokens" if case.named else "max_completion_tokens")
    origin = Origin("u", None, None, (), insert_field=preferred, reads_only=preferred if case.named else None)
    facts = dialect.read_request(body_of(case, dialect.name))
    assert facts.degraded is None
    if origin.reads_only is not None:
        facts = facts._replace(limits=tuple(sorted(facts.limits, key=lambda limit: limit[0] != origin.reads_only)))
    return decide(facts, origin, parse({"version": 1, "rules": [rule]}), live or Live(), 0.0)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_an_enforcing_rule_decides_as_the_contract_says(dialect: Dialect) -> None:
    """Every combination, the whole decision."""
    assert {case: decided(case, dialect) for case in CASES} == {case: expected(case, dialect.name) for case in CASES}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("mode", ["shadow", "disarmed"])
def test_a_rule_that_does_not_enforce_says_what_it_would_decide_and_changes_nothing(
    dialect: Dialect, mode: str
) -> None:
    """In shadow by the file, or disarmed by the answers that it cut."""
    live = Live(disarmed=frozenset({"r"})) if mode == "disarmed" else Live()
    for case in CASES:
        would = expected(case, dialect.name)
        shadow = (ShadowDecision("r", would.action, would.forwarded_max_tokens),)
        field = {"absent": None, "null": None, "unlimited": "n_predict"}.get(case.sent, READ_FIRST[dialect.name])
        got = decided(case, dialect, mode="shadow" if mode == "shadow" else "enforce", live=live)
        assert got == Decision(Action.NONE, None, sent_tokens(case), field, shadow=shadow)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_no_decision_raises_what_was_sent(dialect: Dialect) -> None:
    """The oracle itself keeps the invariant: forwarded is never above what was asked for."""
    for case in CASES:
        requested, forwarded = sent_tokens(case), expected(case, dialect.name).forwarded_max_tokens
        assert requested is None or forwarded is None or forwarded <= requested
