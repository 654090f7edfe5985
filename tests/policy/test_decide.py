"""Decisions as whole values: every action at, below and above the limit, and every condition on both of its sides."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.decide import Origin, decide, may_enforce
from proxy.policy.live import Live
from proxy.policy.rules import EMPTY, PolicySet, parse
from proxy.record import Action, Decision, RequestFacts, ShadowDecision

MODEL = "gpt-4o-mini"
NOON_WEDNESDAY = datetime(2025, 1, 15, 12, tzinfo=UTC).timestamp()
ORIGIN = Origin("openai", "search", "team-a", ((b"Host", b"h"), (b"X-Team", b"growth-eu")))
FIELD_OF = {"responses": "max_output_tokens"}
"""Where a limit is inserted, if not in max_tokens."""


def policy(*rules: dict[str, Any]) -> PolicySet:
    """A policy of these rules, named r0, r1, … unless they have a name."""
    return parse({"version": 1, "rules": [{"name": f"r{index}"} | rule for index, rule in enumerate(rules)]})


def asked(*limits: tuple[str, int | None], **changes: Any) -> RequestFacts:
    """A readable chat request with these limits."""
    return RequestFacts(**({"dialect": "chat_completions", "model": MODEL, "limits": limits} | changes))


def decided(
    facts: RequestFacts,
    policies: PolicySet,
    origin: Origin = ORIGIN,
    at: float = NOON_WEDNESDAY,
    live: Live = Live(),  # noqa: B008 -- immutable
) -> Decision:
    """The decision at noon on a Wednesday."""
    if origin.insert_field is None:
        origin = origin._replace(insert_field=FIELD_OF.get(facts.dialect, "max_tokens"))
    return decide(facts, origin, policies, live, at)


CAP = {"do": "cap", "max_tokens": 100}
INSERT = CAP | {"when_absent": "insert"}
MT, MCT, MOT = "max_tokens", "max_completion_tokens", "max_output_tokens"
NONE, CAPPED, INSERTED, REJECTED = Action.NONE, Action.CAPPED, Action.INSERTED, Action.REJECTED

TRUTH = [
    # nothing sent
    (CAP, asked(), Decision(NONE, "r0")),
    (INSERT, asked(), Decision(INSERTED, "r0", 100, MT, cap_tokens=100)),
    ({"do": "reject"}, asked(), Decision(REJECTED, "r0")),
    ({"do": "observe"}, asked(), Decision(NONE, "r0")),
    # below, at, above
    (CAP, asked((MT, 99)), Decision(NONE, "r0", 99, MT, cap_tokens=100)),
    (CAP, asked((MT, 100)), Decision(NONE, "r0", 100, MT, cap_tokens=100)),
    (CAP, asked((MT, 101)), Decision(CAPPED, "r0", 100, MT, cap_tokens=100)),
    (INSERT, asked((MT, 99)), Decision(NONE, "r0", 99, MT, cap_tokens=100)),
    (INSERT, asked((MT, 101)), Decision(CAPPED, "r0", 100, MT, cap_tokens=100)),
    ({"do": "reject"}, asked((MT, 99)), Decision(REJECTED, "r0")),
    ({"do": "observe"}, asked((MT, 101)), Decision(NONE, "r0", 101, MT)),
    # several fields: the first is what the provider reads, any above the cap makes it a cap
    (CAP, asked((MCT, 300), (MT, 200)), Decision(CAPPED, "r0", 100, MCT, cap_tokens=100)),
    (CAP, asked((MCT, 50), (MT, 200)), Decision(CAPPED, "r0", 50, MCT, cap_tokens=100)),
    (CAP, asked((MCT, 200), (MT, 50)), Decision(CAPPED, "r0", 100, MCT, cap_tokens=100)),
    (CAP, asked((MCT, 50), (MT, 60)), Decision(NONE, "r0", 50, MCT, cap_tokens=100)),
    # completions: absent is 16
    (INSERT, asked(dialect="completions"), Decision(NONE, "r0")),
    (INSERT | {"max_tokens": 16}, asked(dialect="completions"), Decision(NONE, "r0")),
    (INSERT | {"max_tokens": 15}, asked(dialect="completions"), Decision(INSERTED, "r0", 15, MT, cap_tokens=15)),
    (CAP | {"max_tokens": 15}, asked(dialect="completions"), Decision(NONE, "r0")),
    # responses: nothing below 16 is forwarded, and nothing is raised
    (CAP | {"max_tokens": 8}, asked((MOT, 99), dialect="responses"), Decision(CAPPED, "r0", 16, MOT, cap_tokens=16)),
    (CAP | {"max_tokens": 8}, asked((MOT, 17), dialect="responses"), Decision(CAPPED, "r0", 16, MOT, cap_tokens=16)),
    (CAP | {"max_tokens": 8}, asked((MOT, 16), dialect="responses"), Decision(NONE, "r0", 16, MOT, cap_tokens=16)),
    (CAP | {"max_tokens": 8}, asked((MOT, 9), dialect="responses"), Decision(NONE, "r0", 9, MOT, cap_tokens=16)),
    (CAP, asked((MOT, 101), dialect="responses"), Decision(CAPPED, "r0", 100, MOT, cap_tokens=100)),
    (INSERT | {"max_tokens": 8}, asked(dialect="responses"), Decision(INSERTED, "r0", 16, MOT, cap_tokens=16)),
    (CAP | {"max_tokens": 8}, asked((MT, 99), dialect="messages"), Decision(CAPPED, "r0", 8, MT, cap_tokens=8)),
    # a body that could not be read is left alone
    (INSERT, asked(degraded="invalid_json"), Decision(NONE, "r0")),
    # streamed or not makes no difference to the action
    (CAP, asked((MT, 101), stream=True), Decision(CAPPED, "r0", 100, MT, cap_tokens=100)),
    (INSERT, asked(stream=True), Decision(INSERTED, "r0", 100, MT, cap_tokens=100)),
]


@pytest.mark.parametrize(("rule", "facts", "expected"), TRUTH)
def test_an_enforcing_rule_decides(rule: dict[str, Any], facts: RequestFacts, expected: Decision) -> None:
    """The whole decision of one rule without conditions."""
    assert decided(facts, policy(rule)) == expected


@pytest.mark.parametrize(("rule", "facts", "expected"), TRUTH)
def test_a_shadow_rule_records_the_same_and_changes_nothing(
    rule: dict[str, Any], facts: RequestFacts, expected: Decision
) -> None:
    """In shadow mode the request is forwarded as it was sent, and the record says what enforcing would have done."""
    assert decided(facts, policy(rule | {"mode": "shadow"})) == Decision(
        NONE,
        None,
        facts.requested_max_tokens,
        facts.limit_field,
        shadow=(ShadowDecision("r0", expected.action, expected.forwarded_max_tokens),),
    )


def test_without_rules_the_limit_is_forwarded_as_sent() -> None:
    """The record knows the limit in force although nothing matched."""
    assert decided(asked((MT, 7)), EMPTY) == Decision(NONE, None, 7, MT)
    assert decided(asked(), EMPTY) == Decision()


def test_the_first_matching_enforce_rule_decides_even_if_it_changes_nothing() -> None:
    """Order is the file's: an exemption above a cap exempts, a cap above a stricter one wins."""
    observe, strict = {"do": "observe", "match": {"model": "gpt*"}}, CAP | {"max_tokens": 10}

    assert decided(asked((MT, 500)), policy(observe, strict)) == Decision(NONE, "r0", 500, MT)
    assert decided(asked((MT, 50)), policy(CAP, strict)) == Decision(NONE, "r0", 50, MT, cap_tokens=100)
    assert decided(asked((MT, 50), model="o1"), policy(observe, strict)) == Decision(
        CAPPED, "r1", 10, MT, cap_tokens=10
    )


def test_shadow_rules_before_and_after_the_deciding_rule_are_recorded() -> None:
    """Every matching shadow rule of the file says what it would have done to the request as sent."""
    before, after = CAP | {"max_tokens": 10, "mode": "shadow"}, {"do": "reject", "mode": "shadow"}
    other = CAP | {"mode": "shadow", "match": {"model": "claude*"}}

    assert decided(asked((MT, 500)), policy(before, CAP, other, after)) == Decision(
        CAPPED,
        "r1",
        100,
        MT,
        shadow=(ShadowDecision("r0", CAPPED, 10), ShadowDecision("r3", REJECTED, None)),
        cap_tokens=100,
    )


CONDITIONS = [
    ({"upstream": "openai"}, {}, {}, True),
    ({"upstream": ["a", "openai"]}, {}, {}, True),
    ({"upstream": "open"}, {}, {}, False),
    ({"dialect": ["responses", "chat_completions"]}, {}, {}, True),
    ({"dialect": "completions"}, {}, {}, False),
    ({"model": "gpt-4o*"}, {}, {}, True),
    ({"model": ["x", "*mini"]}, {}, {}, True),
    ({"model": "gpt-4o"}, {}, {}, False),
    ({"model": "GPT-4o*"}, {}, {}, False),
    ({"model": "gpt-4o-min[ij]"}, {}, {}, True),
    ({"model": "gpt-4o-mini"}, {"model": "gpt-4o-mini\n"}, {}, False),
    ({"model": "*"}, {"model": None}, {}, False),
    ({"header": {"x-TEAM": "growth*"}}, {}, {}, True),
    ({"header": {"x-team": "Growth*"}}, {}, {}, False),
    ({"header": {"x-team": ["a", "*eu"], "host": "h"}}, {}, {}, True),
    ({"header": {"x-team": "growth*", "x-none": "*"}}, {}, {}, False),
    ({"header": {"x-team": "b"}}, {}, {"headers": ((b"x-team", b"a"), (b"X-TEAM", b"b"))}, True),
    ({"header": {"x-team": "?"}}, {}, {"headers": ((b"x-team", b"\xff"),)}, True),
    ({"key": "team-a"}, {}, {}, True),
    ({"key": "team-a"}, {}, {"key": None}, False),
    ({"app": "search"}, {}, {}, True),
    ({"app": "Search"}, {}, {}, False),
    ({"app": "*"}, {}, {"app": None}, False),
    ({"stream": True}, {"stream": True}, {}, True),
    ({"stream": True}, {}, {}, False),
    ({"stream": False}, {}, {}, True),
    ({"stream": False}, {"stream": True}, {}, False),
    ({"requested": {"over": 100}}, {"limits": ((MT, 101),)}, {}, True),
    ({"requested": {"over": 100}}, {"limits": ((MT, 100),)}, {}, False),
    ({"requested": {"over": 100}}, {"limits": ((MCT, 50), (MT, 101))}, {}, False),
    ({"requested": {"over": 100}}, {"limits": ((MCT, 101), (MT, None))}, {}, True),
    ({"requested": {"over": 100}}, {}, {}, True),
    ({"requested": {"over": 100}}, {"degraded": "invalid_json"}, {}, True),
    ({"requested": {"over": 15}}, {"dialect": "completions"}, {}, True),
    ({"requested": {"over": 16}}, {"dialect": "completions"}, {}, False),
    ({"model": "gpt*", "stream": True}, {}, {}, False),
    ({"model": "gpt*", "stream": False}, {}, {}, True),
]


@pytest.mark.parametrize(("match", "facts", "origin", "holds"), CONDITIONS)
def test_a_rule_acts_when_all_of_its_conditions_hold(
    match: dict[str, Any], facts: dict[str, Any], origin: dict[str, Any], holds: bool
) -> None:
    """Each condition on both sides."""
    where = Origin(**({"upstream": "openai", "app": "search", "key": "team-a", "headers": ORIGIN.headers} | origin))

    rule = decided(asked(**facts), policy({"do": "observe", "match": match}), where).rule

    assert rule == ("r0" if holds else None)


def test_of_several_limits_rejections_count_the_largest_and_exemptions_the_smallest() -> None:
    """A second limit that the upstream may pass over is no way into an exemption, and none around a rejection."""
    exempt = {"do": "observe", "match": {"requested": {"over": 1000}}}
    absurd = {"do": "reject", "match": {"requested": {"over": 100}}}
    for limits in (((MT, 200), ("n_predict", None)), ((MT, 50), ("n_predict", 200))):
        decision = decided(asked(*limits), policy(exempt, absurd))
        assert (decision.rule, decision.action) == ("r1", REJECTED)
    assert decided(asked(), policy(exempt, absurd)).rule == "r0"


TIMES = [
    # 2025-01-15 is a Wednesday; Paris is one hour ahead of UTC then, two in July
    ({"hours": "08:00-18:00"}, "2025-01-15T07:59:59", False),
    ({"hours": "08:00-18:00"}, "2025-01-15T08:00:00", True),
    ({"hours": "08:00-18:00"}, "2025-01-15T17:59:59", True),
    ({"hours": "08:00-18:00"}, "2025-01-15T18:00:00", False),
    ({"hours": "08:00-24:00"}, "2025-01-15T23:59:59", True),
    ({"hours": ["01:00-02:00", "03:00-04:00"]}, "2025-01-15T03:30:00", True),
    ({"hours": ["01:00-02:00", "03:00-04:00"]}, "2025-01-15T02:30:00", False),
    ({"days": "mon-fri"}, "2025-01-15T12:00:00", True),
    ({"days": "mon-fri"}, "2025-01-18T12:00:00", False),
    ({"days": ["sat", "sun"]}, "2025-01-18T12:00:00", True),
    ({"days": "fri-mon"}, "2025-01-19T12:00:00", True),
    ({"days": "fri-mon"}, "2025-01-15T12:00:00", False),
    # across midnight the day is the start's
    ({"days": "fri", "hours": "22:00-06:00"}, "2025-01-17T22:00:00", True),
    ({"days": "fri", "hours": "22:00-06:00"}, "2025-01-18T05:59:59", True),
    ({"days": "fri", "hours": "22:00-06:00"}, "2025-01-18T06:00:00", False),
    ({"days": "fri", "hours": "22:00-06:00"}, "2025-01-18T22:00:00", False),
    ({"days": "fri", "hours": "22:00-06:00"}, "2025-01-17T05:00:00", False),
    ({"days": "sun", "hours": "22:00-06:00"}, "2025-01-20T01:00:00", True),
    # time zones
    ({"hours": "08:00-09:00", "timezone": "Europe/Paris"}, "2025-01-15T07:30:00", True),
    ({"hours": "08:00-09:00", "timezone": "Europe/Paris"}, "2025-07-16T07:30:00", False),
    ({"hours": "08:00-09:00", "timezone": "Europe/Paris"}, "2025-07-16T06:30:00", True),
    ({"days": "thu", "timezone": "Asia/Tokyo"}, "2025-01-15T15:00:00", True),
]


@pytest.mark.parametrize(("when", "utc", "holds"), TIMES)
def test_times_are_those_of_the_rules_time_zone(when: dict[str, Any], utc: str, holds: bool) -> None:
    """Starts are included, ends are not, and nights belong to the day on which they begin."""
    at = datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp()

    rule = decided(asked(), policy({"do": "observe", "match": {"when": when}}), at=at).rule

    assert rule == ("r0" if holds else None)


def test_deciding_compiles_nothing() -> None:
    """All that costs was done when the rules were parsed: the emptied cache of patterns stays empty."""
    policies = policy({"do": "observe", "match": {"model": "gpt*", "app": "s*", "header": {"x-team": "growth*"}}})
    re.purge()

    decision = decided(asked(), policies)

    assert decision.rule == "r0"
    assert not re._cache


def test_what_is_remembered_of_requests_is_bounded() -> None:
    """A client may send another long header with each request: such ones are matched each time, alike."""
    policies = policy(CAP | {"match": {"header": {"x-team": "a*"}}})
    for value, deployment in ((b"a", None), (b"a" * 60_000, None), (b"a", "d" * 60_000)):
        origin = ORIGIN._replace(headers=((b"X-Team", value),), deployment=deployment)
        assert decided(asked((MT, 101)), policies, origin).rule == "r0"
    assert [origin[-1] for origin in policies.chosen] == [((b"x-team", b"a"),)]


LIMITS = st.lists(
    st.tuples(st.sampled_from([MCT, MT]), st.integers(-5, 300)), max_size=2, unique_by=lambda each: each[0]
)
RULES = st.lists(
    st.fixed_dictionaries(
        {"do": st.just("cap"), "max_tokens": st.integers(1, 300)},
        optional={
            "when_absent": st.sampled_from(["leave", "insert"]),
            "mode": st.sampled_from(["enforce", "shadow"]),
            "match": st.fixed_dictionaries({"requested": st.fixed_dictionaries({"over": st.integers(0, 300)})}),
        },
    ),
    max_size=4,
)


@given(LIMITS, RULES, st.sampled_from(["chat_completions", "completions", "responses", "messages"]))
def test_no_decision_raises_a_limit(limits: list[tuple[str, int]], rules: list[dict[str, Any]], dialect: str) -> None:
    """What is forwarded is never above what was sent, and an absent completions limit never above its 16."""
    facts = asked(*limits, dialect=dialect)

    decision = decided(facts, policy(*rules))

    in_force = 16 if dialect == "completions" and not limits else facts.requested_max_tokens
    assert decision.forwarded_max_tokens is None or in_force is None or decision.forwarded_max_tokens <= in_force
    assert (decision.action is INSERTED) <= (not limits)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], False),
        ([CAP], True),
        ([{"do": "reject"}], True),
        ([{"do": "observe"}], False),
        ([CAP | {"mode": "shadow"}], False),
        ([CAP | {"match": {"upstream": "other"}}], False),
        ([CAP | {"match": {"upstream": ["other", "openai"], "dialect": "chat_completions"}}], True),
        ([CAP | {"match": {"dialect": "responses"}}], False),
        ([CAP | {"match": {"model": "x", "stream": True, "requested": {"over": 9}}}], True),
        ([CAP | {"match": {"app": ["search"], "header": {"x-team": "growth*"}}}], True),
        ([CAP | {"match": {"app": ["other"]}}], False),
        ([CAP | {"match": {"header": {"x-team": "other"}}}], False),
        ([{"do": "observe"}, CAP], False),
        ([{"do": "observe", "match": {"upstream": "other"}}, CAP], True),
        ([{"do": "observe", "match": {"model": "x"}}, CAP], True),
        ([{"do": "observe", "match": {"stream": True}}, CAP], True),
        ([{"do": "observe", "match": {"requested": {"over": 9}}}, CAP], True),
        ([{"do": "observe", "mode": "shadow"}, CAP | {"mode": "shadow"}, CAP], True),
        ([CAP | {"match": {"when": {"days": "thu"}}}], True),
        ([CAP | {"match": {"when": {"days": "fri"}}}], False),
    ],
)
def test_a_rule_may_enforce_when_all_but_the_body_fits(rules: list[dict[str, Any]], expected: bool) -> None:
    """The answer errs to True: what only the body can tell is taken as fulfilled by a cap and as unfulfilled by an exemption."""
    origin = Origin("openai", "search", None, ((b"X-Team", b"growth-1"),))
    assert may_enforce("chat_completions", origin, policy(*rules), Live(), 0.0) is expected
