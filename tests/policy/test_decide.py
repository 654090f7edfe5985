"""Decisions as whole values: every action at, below and above the limit, and every condition on both of its sides."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.decide import Origin, decide, may_enforce, unmet
from proxy.policy.live import Law, Live
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


BIG = {"name": "big", "match": {"model": "big*"}, "do": "cap", "max_tokens": 5000}
ALL = {"name": "all", "do": "cap", "max_tokens": 100, "max_choices": 2}


@pytest.mark.parametrize(
    ("rules", "model", "deployment", "decides"),
    [
        ((BIG, ALL), "big-1", None, "big"),
        ((BIG, ALL), "big-1", "big-2", "big"),
        ((BIG, ALL), "small", None, "all"),
        ((BIG, ALL), None, None, "all"),
        ((BIG, ALL), "big-1", "small", "all"),
        ((BIG, ALL), "small", "big-1", "all"),
        ((BIG, ALL), None, "big-1", "big"),
        ((BIG | {"max_tokens": 50}, ALL), None, None, "big"),
        ((BIG | {"max_tokens": 50}, ALL, ALL | {"name": "least", "max_tokens": 1}), None, None, "big"),
        ((BIG, ALL | {"mode": "shadow"}), None, None, "big"),
        ((BIG, {"name": "exempt", "do": "observe"}, ALL), None, None, "big"),
        ((BIG, {"name": "no", "do": "reject"}, ALL), None, None, "no"),
    ],
)
def test_where_the_model_is_not_sure_the_strictest_decides(
    rules: tuple[dict[str, Any], ...], model: str | None, deployment: str | None, decides: str
) -> None:
    """A generous rule for one model is no way around the rules below it, for a client that leaves the model open or names two."""
    decision = decided(asked((MT, 9000), model=model), policy(*rules), ORIGIN._replace(deployment=deployment))
    assert decision.rule == decides


def test_a_model_that_is_left_open_is_no_way_around_a_bound_on_choices() -> None:
    """A refusal is stricter than any cap."""
    many = asked((MT, 9), choices=3)
    assert decided(many._replace(model="big-1"), policy(BIG, ALL)).action is NONE
    assert decided(many._replace(model=None), policy(BIG, ALL)).action is REJECTED


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
    assert [key[-2] for key in policies.chosen] == [((b"x-team", b"a"),)]


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


# -- what is not one rule with one limit --------------------------------------------------------------------------------

CHOICES = {"do": "cap", "max_choices": 4}
UNLIMITED = ("n_predict", None)


@pytest.mark.parametrize(
    ("rule", "facts", "expected"),
    [
        # a number that asks for no limit is above every cap
        (CAP, asked(UNLIMITED), Decision(CAPPED, "r0", 100, "n_predict", cap_tokens=100)),
        (CAP, asked((MT, 5), UNLIMITED), Decision(CAPPED, "r0", 5, MT, cap_tokens=100)),
        # choices
        (CHOICES, asked((MT, 5000), choices=4), Decision(NONE, "r0", 5000, MT)),
        (CHOICES, asked((MT, 5000), choices=5), Decision(REJECTED, "r0")),
        (CHOICES | CAP, asked((MT, 5000), choices=4), Decision(CAPPED, "r0", 100, MT, cap_tokens=100)),
        (CHOICES | CAP, asked((MT, 50), choices=5), Decision(REJECTED, "r0")),
        # a budget of thinking has to fit under the cap, where it fitted before
        (CAP, asked((MT, 500), thinking_budget_tokens=99), Decision(CAPPED, "r0", 100, MT, cap_tokens=100)),
        (CAP, asked((MT, 500), thinking_budget_tokens=100), Decision(Action.CONFLICT, "r0", cap_tokens=100)),
        (CAP, asked((MT, 500), thinking_budget_tokens=499), Decision(Action.CONFLICT, "r0", cap_tokens=100)),
        (CAP, asked((MT, 500), thinking_budget_tokens=500), Decision(CAPPED, "r0", 100, MT, cap_tokens=100)),
        (CAP, asked((MT, 90), thinking_budget_tokens=80), Decision(NONE, "r0", 90, MT, cap_tokens=100)),
        (CAP, asked(UNLIMITED, thinking_budget_tokens=200), Decision(Action.CONFLICT, "r0", cap_tokens=100)),
        (CAP, asked(thinking_budget_tokens=200), Decision(NONE, "r0")),
        (INSERT, asked(thinking_budget_tokens=200), Decision(Action.CONFLICT, "r0", cap_tokens=100)),
        ({"do": "observe"}, asked((MT, 500), thinking_budget_tokens=499), Decision(NONE, "r0", 500, MT)),
    ],
)
def test_more_than_a_limit_is_judged(rule: dict[str, Any], facts: RequestFacts, expected: Decision) -> None:
    """Unlimited numbers, choices, and budgets that a cap would leave no room for."""
    assert decided(facts, policy(rule)) == expected


NAMED = ORIGIN._replace(insert_field=MT, reads_only=MT)


@pytest.mark.parametrize(
    ("rule", "facts", "expected"),
    [
        (CAP, asked((MCT, 500)), Decision(CAPPED, "r0", 100, MT, cap_tokens=100)),
        (CAP, asked((MCT, 50)), Decision(INSERTED, "r0", 50, MT, cap_tokens=100)),
        (CAP, asked((MT, 50), (MCT, 500)), Decision(CAPPED, "r0", 50, MT, cap_tokens=100)),
        (CAP, asked((MCT, 500), (MT, 50)), Decision(CAPPED, "r0", 100, MCT, cap_tokens=100)),
        (CAP, asked(), Decision(NONE, "r0")),
        (CAP, asked((MCT, 500), dialect="completions"), Decision(CAPPED, "r0", 100, MCT, cap_tokens=100)),
        (CAP, asked((MCT, 9), dialect="completions"), Decision(INSERTED, "r0", 9, MT, cap_tokens=100)),
        ({"do": "observe"}, asked((MCT, 500)), Decision(NONE, "r0", 500, MCT)),
    ],
)
def test_a_cap_stands_in_the_field_that_the_upstream_reads(
    rule: dict[str, Any], facts: RequestFacts, expected: Decision
) -> None:
    """Where the settings name it: but never beside an absent completions limit that is lower than what would be inserted."""
    assert decided(facts, policy(rule), NAMED) == expected


LAW = Live({("openai", MODEL, 0.95): Law(0.5, 0.01), ("openai", MODEL, 0.5): Law(0.1, 0.01)})
"""Half a second to the first token, then a hundred a second."""
DEADLINE = {"do": "cap", "deadline_s": 2}
UNDECIDED = Action.UNDECIDED


@pytest.mark.parametrize(
    ("rule", "facts", "deadline_s", "expected"),
    [
        (DEADLINE, asked((MT, 500)), None, Decision(CAPPED, "r0", 151, MT, cap_tokens=151)),
        (DEADLINE, asked((MT, 151)), None, Decision(NONE, "r0", 151, MT, cap_tokens=151)),
        (DEADLINE, asked(), None, Decision(NONE, "r0")),
        (DEADLINE | {"when_absent": "insert"}, asked(), None, Decision(INSERTED, "r0", 151, MT, cap_tokens=151)),
        (DEADLINE | {"quantile": 0.5}, asked((MT, 500)), None, Decision(CAPPED, "r0", 191, MT, cap_tokens=191)),
        # with max_tokens the smaller of the two
        (DEADLINE | {"max_tokens": 100}, asked((MT, 500)), None, Decision(CAPPED, "r0", 100, MT, cap_tokens=100)),
        (DEADLINE | {"max_tokens": 400}, asked((MT, 500)), None, Decision(CAPPED, "r0", 151, MT, cap_tokens=151)),
        # a floor, which never exceeds the request
        (DEADLINE | {"deadline_s": 0.1}, asked((MT, 500)), None, Decision(CAPPED, "r0", 64, MT, cap_tokens=64)),
        (DEADLINE | {"deadline_s": 0.1, "floor": 9}, asked((MT, 500)), None, Decision(CAPPED, "r0", 9, MT, cap_tokens=9)),
        (DEADLINE | {"deadline_s": 0.1}, asked((MT, 10)), None, Decision(NONE, "r0", 10, MT, cap_tokens=64)),
        # no law: max_tokens, else undecided
        (DEADLINE, asked((MT, 500), model="new"), None, Decision(UNDECIDED, "r0", 500, MT)),
        (DEADLINE, asked(model="new"), None, Decision(UNDECIDED, "r0")),
        (DEADLINE, asked((MT, 500), model=None), None, Decision(UNDECIDED, "r0", 500, MT)),
        (DEADLINE | {"quantile": 0.9}, asked((MT, 500)), None, Decision(UNDECIDED, "r0", 500, MT)),
        (DEADLINE | {"max_tokens": 400}, asked((MT, 500), model="new"), None, Decision(CAPPED, "r0", 400, MT, cap_tokens=400)),
        # the request's own deadline, where the rule takes one: the shorter of two
        (DEADLINE, asked((MT, 500)), 1.0, Decision(CAPPED, "r0", 151, MT, cap_tokens=151)),
        (DEADLINE | {"deadline_header": True}, asked((MT, 500)), 1.5, Decision(CAPPED, "r0", 101, MT, cap_tokens=101)),
        (DEADLINE | {"deadline_header": True}, asked((MT, 500)), 9.0, Decision(CAPPED, "r0", 151, MT, cap_tokens=151)),
        ({"do": "cap", "deadline_header": True}, asked((MT, 500)), 1.5, Decision(CAPPED, "r0", 101, MT, cap_tokens=101)),
        ({"do": "cap", "deadline_header": True}, asked((MT, 500)), None, Decision(NONE, "r0", 500, MT)),
    ],
)  # fmt: skip
def test_a_deadline_is_the_tokens_that_the_law_expects_in_time(
    rule: dict[str, Any], facts: RequestFacts, deadline_s: float | None, expected: Decision
) -> None:
    """By the law of this upstream, model and quantile."""
    assert decided(facts, policy(rule), ORIGIN._replace(deadline_s=deadline_s), live=LAW) == expected


def test_a_disarmed_rule_acts_as_shadow_and_evaluation_goes_on() -> None:
    """The next enforcing rule decides; a name that no rule has changes nothing."""
    policies, live = policy(CAP, CAP | {"max_tokens": 300}), Live(disarmed=frozenset({"r0", "gone"}))
    assert decided(asked((MT, 500)), policies, live=live) == Decision(
        CAPPED, "r1", 300, MT, shadow=(ShadowDecision("r0", CAPPED, 100),), cap_tokens=300
    )
    assert may_enforce("chat_completions", ORIGIN, policy(CAP), Live(), 0.0)
    assert not may_enforce("chat_completions", ORIGIN, policy(CAP), live, 0.0)
    assert may_enforce("chat_completions", ORIGIN, policies, live, 0.0)


@pytest.mark.parametrize(
    ("model", "deployment", "capped", "exempt"),
    [
        (MODEL, None, True, True),
        ("o1", None, False, False),
        (None, None, True, False),
        (None, "gpt-4o", True, True),
        (None, "o1", False, False),
        (MODEL, "o1", True, False),
        ("o1", "gpt-4o", True, False),
        (MODEL, "gpt-4o", True, True),
    ],
)
def test_a_cap_holds_for_what_the_model_may_be_and_an_exemption_for_what_it_is(
    model: str | None, deployment: str | None, capped: bool, exempt: bool
) -> None:
    """An unnamed model may be any; of the body's and the path's an upstream reads either."""
    origin, match = ORIGIN._replace(deployment=deployment), {"match": {"model": "gpt*"}}
    rules = [decided(asked(model=model), policy(each | match), origin).rule for each in (CAP, {"do": "reject"})]
    assert rules == ["r0" if capped else None] * 2
    assert decided(asked(model=model), policy({"do": "observe"} | match), origin).rule == ("r0" if exempt else None)


# -- experiments ----------------------------------------------------------------------------------------------------------


def experiment(*arms: int | str, **changes: Any) -> dict[str, Any]:
    """A rule that compares these arms."""
    return {"do": "cap", "experiment": {"arms": list(arms)} | changes}


def drawn(
    policies: PolicySet, ids: range, *, at: float = 0.0, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> list[str]:
    """The arms of these requests."""
    where = ORIGIN._replace(headers=headers)
    arms = [decided(asked((MT, 500)), policies, where._replace(id=f"{number:024x}"), at).arm for number in ids]
    return [arm or "-" for arm in arms]


@pytest.mark.parametrize(
    ("rule", "limits", "by_arm"),
    [
        (experiment(200, "none"), ((MT, 500),), {"200": (CAPPED, 200), "none": (NONE, 500)}),
        (experiment(200, "none"), ((MT, 50),), {"200": (NONE, 50), "none": (NONE, 50)}),
        (experiment(200, "none") | {"max_tokens": 100}, ((MT, 500),), {"200": (CAPPED, 100), "none": (CAPPED, 100)}),
        (experiment(200, 80) | {"max_tokens": 100}, ((MT, 500),), {"200": (CAPPED, 100), "80": (CAPPED, 80)}),
        (experiment(200, "none"), (), {"200": (NONE, None), "none": (NONE, None)}),
        (experiment(200, "none") | {"when_absent": "insert"}, (), {"200": (INSERTED, 200), "none": (NONE, None)}),
    ],
)
def test_an_arm_is_a_limit_beside_those_of_request_and_rule(
    rule: dict[str, Any], limits: tuple[tuple[str, int], ...], by_arm: dict[str, tuple[Action, int | None]]
) -> None:
    """Forwarded is the smallest of the three; `none` sets none."""
    policies = policy(rule)
    decisions = [decided(asked(*limits), policies, ORIGIN._replace(id=str(number))) for number in range(40)]
    assert {each.arm: (each.action, each.forwarded_max_tokens) for each in decisions} == by_arm
    assert {each.unit for each in decisions} == {None}


def test_arms_are_drawn_evenly_alike_everywhere_and_independently_of_other_rules() -> None:
    """A thousand requests within five standard deviations; a second worker draws the same, another rule or other arms do not."""
    ids = range(3000)
    arms = drawn(policy(experiment(1, 2, "none")), ids)
    assert {arm: abs(arms.count(arm) - 1000) < 5 * 26 for arm in ("1", "2", "none")} == dict.fromkeys(
        ("1", "2", "none"), True
    )
    assert drawn(policy(experiment(1, 2, "none")), ids) == arms
    for other in (policy({"name": "x"} | experiment(1, 2, "none")), policy(experiment(1, 3, "none"))):
        same = sum(one == two for one, two in zip(arms, drawn(other, ids), strict=True))
        assert abs(same - len(ids) * (1 / 3 if other.rules[0].name == "x" else 2 / 9)) < 5 * 26


def test_an_arm_can_stick_to_a_header() -> None:
    """Its value decides, in whatever case its name is; without it there is no arm; the unit that is recorded tells no value."""
    policies = policy(experiment(1, "none", unit="header:X-User"))
    by_user = {
        user: set(drawn(policies, range(20), headers=((b"x-USER", b"%d" % user), (b"x-user", b"other"))))
        for user in range(100)
    }
    assert {len(arms) for arms in by_user.values()} == {1}
    assert 25 < sum(arms == {"none"} for arms in by_user.values()) < 75
    assert drawn(policies, range(1)) == ["-"]
    unit = decided(asked((MT, 500)), policies, ORIGIN._replace(headers=((b"X-User", b"secret"),))).unit
    assert unit is not None
    assert re.fullmatch("[0-9a-f]{4}", unit)


def test_an_arm_can_hold_for_a_block_of_time() -> None:
    """All requests of a block have one arm, and the block is recorded."""
    policies = policy(experiment(1, "none", unit="switchback", period_s=60))
    blocks = [
        set(drawn(policies, range(5), at=60.0 * block + second)) for block in range(100) for second in (0.0, 59.9)
    ]
    assert {len(arms) for arms in blocks} == {1}
    assert blocks[::2] == blocks[1::2]
    assert 25 < blocks[::2].count({"none"}) < 75
    assert decided(asked(), policies, at=119.9).unit == "block:1"


# -- what is remembered ---------------------------------------------------------------------------------------------------


def test_what_is_remembered_of_one_request_is_not_taken_for_another() -> None:
    """Asked in turn, each combination is decided as when it is the first."""
    rules = [
        CAP | {"max_tokens": 10, "match": {"model": "a*", "stream": True}},
        CAP | {"max_tokens": 20, "match": {"header": {"x-team": "b"}, "requested": {"over": 300}}},
        CAP | {"max_tokens": 30, "match": {"app": "c", "key": ["k1", "k2"]}},
        CAP | {"max_tokens": 40, "match": {"dialect": "messages", "upstream": "u"}},
        CAP | {"max_tokens": 50, "match": {"when": {"hours": "08:00-09:00"}}},
    ]
    asks = [
        (asked((MT, tokens), model=model, stream=stream, dialect=dialect), Origin("u", app, key, headers, insert_field=MT), at)
        for tokens in (200, 400)
        for model in ("ab", "b", None)
        for stream in (False, True)
        for dialect in ("messages", "chat_completions")
        for app in ("c", None)
        for key in ("k2", None)
        for headers in (((b"X-Team", b"b"),), ((b"X-Team", b"c"), (b"Other", b"b")))
        for at in (0.0, 8.5 * 3600)
    ]  # fmt: skip
    asks = [
        (facts, origin, live, at) for facts, origin, at in asks for live in (Live(), Live(disarmed=frozenset(("r1",))))
    ]
    policies = policy(*rules)
    fresh = [decide(facts, origin, policy(*rules), live, at) for facts, origin, live, at in asks]
    assert [decide(facts, origin, policies, live, at) for facts, origin, live, at in asks] == fresh
    assert [decide(facts, origin, policies, live, at) for facts, origin, live, at in reversed(asks)] == fresh[::-1]
    assert {each.rule for each in fresh} == {"r0", "r1", "r2", "r3", "r4", None}


def test_memory_is_bounded() -> None:
    """A client that makes up models costs the time of matching them, not memory without end."""
    policies = policy(CAP | {"match": {"model": "m*"}})
    for number in range(10_000):
        assert decided(asked(model=f"m{number}"), policies).rule == "r0"
    assert len(policies.chosen) <= 4096


@pytest.mark.parametrize(
    ("match", "failing"),
    [
        ({}, None),
        ({"upstream": "openai", "model": "gpt*", "stream": False, "requested": {"over": 5}}, None),
        ({"upstream": "other", "model": "x"}, "upstream"),
        ({"dialect": "messages"}, "dialect"),
        ({"model": "x"}, "model"),
        ({"header": {"x-team": "x"}}, "header"),
        ({"key": "x"}, "key"),
        ({"app": "x"}, "app"),
        ({"stream": True}, "stream"),
        ({"requested": {"over": 500}}, "requested"),
        ({"when": {"days": "sun"}}, "when"),
    ],
)
def test_the_first_condition_that_fails_is_told(match: dict[str, Any], failing: str | None) -> None:
    """What `check --explain` says of a rule that does not match."""
    policies = policy(CAP | {"match": match})
    facts = asked((MT, 500))
    assert unmet(policies.rules[0], facts, ORIGIN, policies, NOON_WEDNESDAY) == failing
    assert (decided(facts, policies).rule is None) is (failing is not None)


def test_of_two_limits_the_strictest_rule_decides_when_a_rule_is_only_for_one_of_them() -> None:
    """A large limit that nobody reads is no way from a strict rule below into a generous one above."""
    generous = CAP | {"max_tokens": 4096, "match": {"requested": {"over": 5000}}}
    policies = policy(generous, CAP)
    assert decided(asked((MT, 9000)), policies) == Decision(CAPPED, "r0", 4096, MT, cap_tokens=4096)
    assert decided(asked((MT, 2000)), policies) == Decision(CAPPED, "r1", 100, MT, cap_tokens=100)
    assert decided(asked((MT, 2000), ("n_predict", 9000)), policies) == Decision(CAPPED, "r1", 100, MT, cap_tokens=100)
    assert decided(asked((MT, 2000), ("n_predict", 9000)), policy(generous)).rule == "r0"
    assert (
        decided(asked((MT, 50), UNLIMITED), policy({"do": "reject"} | {"match": generous["match"]}, CAP)).rule == "r0"
    )
