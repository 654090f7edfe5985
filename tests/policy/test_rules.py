"""The grammar of policies: what is accepted means what it says, what is not is reported whole."""

import re
from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from proxy.errors import Mistake, SettingsError
from proxy.policy.rules import EMPTY, NO_ARM, Disarm, Experiment, Match, PolicySet, Rule, When, parse


def cap(**changes: Any) -> dict[str, Any]:
    """A correct rule, changed."""
    return {"name": "a", "do": "cap", "max_tokens": 8} | changes


def rules(*listed: Any) -> dict[str, Any]:
    """A policies document."""
    return {"version": 1, "rules": list(listed)}


def match(**conditions: Any) -> dict[str, Any]:
    """A policies document with one rule that has these conditions."""
    return rules(cap(match=conditions))


DAYS = "expected a day or a span of days such as mon-fri, of mon, tue, wed, thu, fri, sat, sun"
HOURS = 'expected a span of hours such as "08:00-18:00"'
LABEL = "expected a name of letters, digits, '.', '_' and '-', at most 64"
NO_CAP = "required with do: cap unless it has deadline_s, deadline_header, max_choices or experiment"
TEXT_LIST = "expected a list with at least one element, got an empty one"

BROKEN = [
    (None, [("", "expected a mapping, got null")]),
    ([], [("", "expected a mapping, got a list")]),
    ({}, [("version", "required, but missing"), ("rules", "required, but missing")]),
    ({"version": 2, "rules": []}, [("version", "expected 1, got 2")]),
    ({"version": "1", "rules": []}, [("version", "expected 1, got text")]),
    ({"version": True, "rules": []}, [("version", "expected 1, got a boolean")]),
    ({"version": 1, "rules": None}, [("rules", "expected a list, got null")]),
    ({"version": 1, "rules": {}}, [("rules", "expected a list, got a mapping")]),
    ({"version": 1, "rule": []}, [("rule", 'unknown key; did you mean "rules"?'), ("rules", "required, but missing")]),
    (rules("cap"), [("rules[0]", "expected a mapping, got text")]),
    (rules({}), [("rules[0].name", "required, but missing"), ("rules[0].do", "required, but missing")]),
    (rules(cap(), cap()), [("rules[1].name", "rules[0] has this name already")]),
    (rules(cap(name="a b")), [("rules[0].name", LABEL)]),
    (rules(cap(name="a" * 65)), [("rules[0].name", LABEL)]),
    (rules(cap(name=5)), [("rules[0].name", f"{LABEL}, got a whole number")]),
    (rules(cap(do="capp")), [("rules[0].do", 'expected one of cap, reject, observe; did you mean "cap"?')]),
    (rules({"name": "a", "do": "cap"}), [("rules[0].max_tokens", f"{NO_CAP}, but missing")]),
    (rules({"name": "a", "do": "cap", "deadline_header": False}), [("rules[0].max_tokens", f"{NO_CAP}, but missing")]),
    (rules(cap(do="reject")), [("rules[0].max_tokens", "only do: cap reads it, but do is reject")]),
    (
        rules({"name": "a", "do": "observe", "when_absent": "insert"}),
        [("rules[0].when_absent", "only do: cap reads it, but do is observe")],
    ),
    (rules(cap(max_tokens=0)), [("rules[0].max_tokens", "expected a whole number of at least 1 or null, got 0")]),
    (rules(cap(max_tokens=None)), [("rules[0].max_tokens", f"{NO_CAP}, but missing")]),
    (rules(cap(max_tokens=8.0)), [("rules[0].max_tokens", "expected a whole number of at least 1 or null, got a number with")]),
    (rules(cap(max_tokens="1e3")), [("rules[0].max_tokens", "expected a whole number of at least 1 or null, got text")]),
    (rules(cap(max_tokens=True)), [("rules[0].max_tokens", "expected a whole number of at least 1 or null, got a boolean")]),
    (rules(cap(max_tokens=2**53)), [("rules[0].max_tokens", "expected a whole number of at most 9007199254740991")]),
    (rules(cap(when_absent="add")), [("rules[0].when_absent", "expected one of leave, insert")]),
    (rules(cap(mode="off")), [("rules[0].mode", "expected one of enforce, shadow")]),
    (rules(cap(deadline_s=0)), [("rules[0].deadline_s", "expected a number greater than 0 or null")]),
    (rules(cap(deadline_s="8s")), [("rules[0].deadline_s", "expected a number greater than 0 or null, got text")]),
    (rules(cap(deadline_s=float("inf"))), [("rules[0].deadline_s", "expected a number greater than 0 or null")]),
    (rules(cap(deadline_s=float("nan"))), [("rules[0].deadline_s", "expected a number greater than 0 or null")]),
    (rules(cap(deadline_header=1)), [("rules[0].deadline_header", "expected true or false, got a whole number")]),
    (rules(cap(deadline_s=8, quantile=95)), [("rules[0].quantile", "expected a number from 0.01 to 0.999")]),
    (rules(cap(deadline_s=8, floor=0)), [("rules[0].floor", "expected a whole number of at least 1, got 0")]),
    (rules(cap(deadline_s=8, floor=9)), [("rules[0].floor", "is above max_tokens, so no deadline could lower the cap")]),
    (rules(cap(quantile=0.9, floor=4)), [
        ("rules[0].quantile", "only a deadline reads it: set deadline_s or deadline_header"),
        ("rules[0].floor", "only a deadline reads it"),
    ]),
    (rules(cap(max_choices=0)), [("rules[0].max_choices", "expected a whole number of at least 1 or null, got 0")]),
    (rules(cap(disarm=True)), [("rules[0].disarm", "expected a mapping or null, got a boolean")]),
    (rules(cap(disarm={})), [("rules[0].disarm.truncated_share", "required, but missing")]),
    (rules(cap(disarm={"truncated_share": 2})), [("rules[0].disarm.truncated_share", "expected a number from 0 to 1")]),
    (rules(cap(disarm={"truncated_share": 0, "of_last": 0})), [("rules[0].disarm.of_last", "a whole number of at least 1")]),
    (rules(cap(disarm={"truncated_share": 0, "of_last": 10**7})), [("rules[0].disarm.of_last", "of at most 1000000")]),
    (rules(cap(experiment={})), [("rules[0].experiment.arms", "required, but missing")]),
    (rules(cap(experiment={"arms": [5]})), [("rules[0].experiment.arms", "at least two arms to compare, got 1")]),
    (rules(cap(experiment={"arms": [5, 5]})), [("rules[0].experiment.arms", "has an arm twice")]),
    (rules(cap(experiment={"arms": [5, "no", 0]})), [
        ("rules[0].experiment.arms[1]", "expected a whole number of at least 1, or none, got text"),
        ("rules[0].experiment.arms[2]", "expected a whole number of at least 1, got 0"),
    ]),
    (rules(cap(experiment={"arms": [5, "none"], "unit": "header:"})), [
        ("rules[0].experiment.unit", "expected request, header:NAME or switchback"),
    ]),
    (rules(cap(experiment={"arms": [5, "none"], "unit": 5})), [("rules[0].experiment.unit", "switchback, got a whole number")]),
    (rules(cap(experiment={"arms": [5, "none"], "period_s": 0})), [
        ("rules[0].experiment.period_s", "expected a number from 1 to 604800"),
    ]),
    (rules({"name": "a", "do": "reject", "deadline_s": 8, "max_choices": 2, "disarm": {"truncated_share": 0}}), [
        (f"rules[0].{each}", "only do: cap reads it, but do is reject") for each in ("deadline_s", "max_choices", "disarm")
    ]),
    (rules(cap(match=None)), [("rules[0].match", "expected a mapping, got null")]),
    (match(models="x"), [("rules[0].match.models", 'unknown key; did you mean "model"?')]),
    (match(model=[]), [("rules[0].match.model", TEXT_LIST)]),
    (match(model=["a", 3, ""]), [
        ("rules[0].match.model[1]", "expected text, got a whole number"),
        ("rules[0].match.model[2]", "expected text of at least one character, without control characters"),
    ]),
    (match(upstream="a/b"), [("rules[0].match.upstream", LABEL)]),
    (match(dialect="chat_completion"), [("rules[0].match.dialect", 'did you mean "chat_completions"?')]),
    (match(header={}), [("rules[0].match.header", "expected a mapping of header names to globs, got a mapping")]),
    (match(header="x"), [("rules[0].match.header", "expected a mapping of header names to globs, got text")]),
    (match(header={"x y": "a"}), [('rules[0].match.header."x y"', "expected the name of a header")]),
    (match(header={"X-A": "a", "x-a": "b"}), [("rules[0].match.header.x-a", "this header is written twice")]),
    (match(key=[None]), [("rules[0].match.key[0]", f"{LABEL}, got null")]),
    (match(app={}), [("rules[0].match.app", "expected text, got a mapping")]),
    (match(stream="yes"), [("rules[0].match.stream", "expected true or false, got text")]),
    (match(requested=4096), [("rules[0].match.requested", "expected a mapping, got a whole number")]),
    (match(requested={}), [("rules[0].match.requested.over", "required, but missing")]),
    (match(requested={"over": -1}), [("rules[0].match.requested.over", "expected a whole number of at least 0, got -1")]),
    (match(when={"days": "mo-fr"}), [("rules[0].match.when.days", DAYS)]),
    (match(when={"days": ["mon", 5]}), [("rules[0].match.when.days[1]", DAYS)]),
    (match(when={"hours": "8-18"}), [("rules[0].match.when.hours", HOURS)]),
    (match(when={"hours": "08:00-24:01"}), [("rules[0].match.when.hours", HOURS)]),
    (match(when={"hours": "24:00-08:00"}), [("rules[0].match.when.hours", HOURS)]),
    (match(when={"hours": "08:60-09:00"}), [("rules[0].match.when.hours", HOURS)]),
    (match(when={"hours": "08:00-08:00"}), [("rules[0].match.when.hours", "ends when it starts")]),
    (match(when={"timezone": "Europe/Pari"}), [("rules[0].match.when.timezone", "expected a time zone that this machine")]),
    (match(when={"timezone": "../../etc/passwd"}), [("rules[0].match.when.timezone", "expected a time zone that this")]),
    (match(when={"timezone": 1}), [("rules[0].match.when.timezone", "expected the name of a time zone")]),
    (
        {"version": 3, "rules": [cap(mode="x", match={"stream": 1}), {"name": "b"}], "more": 1},
        [
            ("version", "expected 1"),
            ("rules[0].mode", "expected one of"),
            ("rules[0].match.stream", "expected true or false"),
            ("rules[1].do", "required, but missing"),
            ("more", "unknown key"),
        ],
    ),
]  # fmt: skip


def matches_all(found: list[Mistake], expected: list[tuple[str, str]]) -> bool:
    """Same paths in the same order, and each message contains its fragment."""
    return len(found) == len(expected) and all(
        mistake.path == path and fragment in mistake.message
        for mistake, (path, fragment) in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(("document", "expected"), BROKEN)
def test_every_mistake_of_a_broken_document_is_reported_with_its_path(
    document: object, expected: list[tuple[str, str]]
) -> None:
    """A broken document never becomes a policy, and one look shows all that is wrong."""
    with pytest.raises(SettingsError) as caught:
        parse(document)

    assert matches_all(caught.value.mistakes, expected), caught.value.mistakes


def test_a_rule_with_every_key_is_compiled_to_what_it_says() -> None:
    """Each key of the grammar arrives at its place."""
    document = rules(
        cap(
            match={
                "upstream": "openai",
                "dialect": ["chat_completions", "responses"],
                "model": ["gpt-4o*", "o?"],
                "header": {"X-Team": "growth*"},
                "key": ["team-a"],
                "app": "search",
                "stream": True,
                "requested": {"over": 4096},
                "when": {
                    "days": ["fri-mon", "wed"],
                    "hours": ["08:00-12:30", "22:00-06:00"],
                    "timezone": "Europe/Paris",
                },
            },
            deadline_s=2,
            deadline_header=True,
            quantile=0.5,
            floor=4,
            when_absent="insert",
            max_choices=3,
            mode="shadow",
            disarm={"truncated_share": 0.02, "of_last": 100},
            experiment={"arms": [4, "none"], "unit": "header:X-User", "period_s": 60},
        )
    )

    policies = parse(document)

    assert policies.headers == {b"x-team"}
    assert policies.rules == (
        Rule(
            name="a",
            do="cap",
            match=Match(
                upstream=frozenset({"openai"}),
                dialect=frozenset({"chat_completions", "responses"}),
                model=re.compile(r"(?s:gpt\-4o.*)\Z|(?s:o.)\Z"),
                header=((b"x-team", re.compile(r"(?s:growth.*)\Z")),),
                key=frozenset({"team-a"}),
                app=re.compile(r"(?s:search)\Z"),
                stream=True,
                requested=4096,
                when=When(frozenset({4, 5, 6, 0, 2}), ((480, 750), (1320, 360)), ZoneInfo("Europe/Paris")),
            ),
            max_tokens=8,
            deadline_s=2.0,
            deadline_header=True,
            quantile=0.5,
            floor=4,
            when_absent="insert",
            max_choices=3,
            mode="shadow",
            disarm=Disarm(0.02, 100),
            experiment=Experiment((4, NO_ARM), "header:x-user", 60.0),
        ),
    )
    assert policies.rules[0].has_deadline
    assert not policies.rules[0].enforces
    assert policies.rules[0].disarm == Disarm(0.02, 100)
    assert Disarm(0.02, 100).budget == 2.0


def test_keys_that_are_left_out_have_their_documented_defaults() -> None:
    """A rule without conditions matches all, enforces, and leaves absent limits absent."""
    assert parse(rules(cap(), cap(name="b", match={"when": {}}))).rules == (
        Rule("a", "cap", Match(), 8, None, False, 0.95, 64, "leave", None, "enforce", None, None),
        Rule("b", "cap", Match(when=When(frozenset(range(7)), ((0, 1440),), UTC)), 8),
    )
    defaults = {"disarm": {"truncated_share": 0.5}, "experiment": {"arms": [1, 2]}}
    assert parse(rules(cap(**defaults))).rules == (
        Rule("a", "cap", max_tokens=8, disarm=Disarm(0.5, 200), experiment=Experiment((1, 2), "request", 300.0)),
    )


@pytest.mark.parametrize("key", ["max_tokens", "deadline_s", "max_choices", "disarm", "experiment"])
def test_null_is_absent(key: str) -> None:
    """A key that may be left out may be written as null."""
    rule = cap(deadline_header=True) | {key: None}
    (read,) = parse(rules(rule)).rules
    assert (getattr(read, key), read.deadline_header) == (None, True)


@pytest.mark.parametrize("key", ["max_tokens", "deadline_s", "deadline_header", "max_choices", "experiment"])
def test_a_cap_may_be_made_of_each_of_its_keys(key: str) -> None:
    """One of them is enough."""
    values = {"deadline_header": True, "experiment": {"arms": [8, "none"]}}
    (rule,) = parse(rules({"name": "a", "do": "cap", key: values.get(key, 8)})).rules
    assert (rule.has_deadline, rule.enforces) == (key.startswith("deadline"), True)


def test_the_digest_follows_the_content_and_not_the_order_of_keys() -> None:
    """Equal policies have equal digests, different ones do not."""
    one = parse({"version": 1, "rules": [{"name": "a", "do": "reject"}]})
    same = parse({"rules": [{"do": "reject", "name": "a"}], "version": 1})
    other = parse({"version": 1, "rules": [{"name": "a", "do": "observe"}]})

    assert one == same
    assert re.fullmatch("[0-9a-f]{12}", one.digest)
    assert one.digest != other.digest


def test_the_empty_policy_has_no_rules() -> None:
    """What is used without a policies file changes nothing."""
    document = {"version": 1, "rules": []}
    assert PolicySet((), EMPTY.digest, document, headers=frozenset(), conditions=()) == EMPTY
