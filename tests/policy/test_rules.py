"""The grammar of policies: what is accepted means what it says, what is not is reported whole."""

import re
from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from proxy.errors import Mistake, SettingsError
from proxy.policy.rules import EMPTY, Match, PolicySet, Rule, When, parse


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
    (rules({"name": "a", "do": "cap"}), [("rules[0].max_tokens", "required with do: cap, but missing")]),
    (rules(cap(do="reject")), [("rules[0].max_tokens", "only do: cap reads it, but do is reject")]),
    (
        rules({"name": "a", "do": "observe", "when_absent": "insert"}),
        [("rules[0].when_absent", "only do: cap reads it, but do is observe")],
    ),
    (rules(cap(max_tokens=0)), [("rules[0].max_tokens", "expected a whole number of at least 1, got 0")]),
    (rules(cap(max_tokens=None)), [("rules[0].max_tokens", "expected a whole number of at least 1, got null")]),
    (rules(cap(max_tokens=8.0)), [("rules[0].max_tokens", "expected a whole number of at least 1, got a number with")]),
    (rules(cap(max_tokens="1e3")), [("rules[0].max_tokens", "expected a whole number of at least 1, got text")]),
    (rules(cap(max_tokens=True)), [("rules[0].max_tokens", "expected a whole number of at least 1, got a boolean")]),
    (rules(cap(max_tokens=2**53)), [("rules[0].max_tokens", "expected a whole number of at most 9007199254740991")]),
    (rules(cap(when_absent="add")), [("rules[0].when_absent", "expected one of leave, insert")]),
    (rules(cap(mode="off")), [("rules[0].mode", "expected one of enforce, shadow")]),
    (
        rules(cap(deadline_s=8, quantile=0.9, floor=1, max_choices=2, disarm={}, experiment={})),
        [
            (f"rules[0].{each}", "not supported by this version yet")
            for each in ("deadline_s", "quantile", "floor", "max_choices", "disarm", "experiment")
        ],
    ),
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
            when_absent="insert",
            mode="shadow",
        )
    )

    assert parse(document).rules == (
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
            when_absent="insert",
            mode="shadow",
        ),
    )


def test_keys_that_are_left_out_have_their_documented_defaults() -> None:
    """A rule without conditions matches all, enforces, and leaves absent limits absent."""
    assert parse(rules(cap(), cap(name="b", match={"when": {}}))).rules == (
        Rule("a", "cap", Match(), 8, "leave", "enforce"),
        Rule("b", "cap", Match(when=When(frozenset(range(7)), ((0, 1440),), UTC)), 8, "leave", "enforce"),
    )


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
    assert PolicySet((), EMPTY.digest, {"version": 1, "rules": []}) == EMPTY
