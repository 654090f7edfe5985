"""The advised policy is one that `check` accepts, that matches what it is about, and that says why."""

import re

import numpy as np
import pytest
import yaml

from proxy.evidence.advise import policy
from proxy.evidence.report import build
from proxy.evidence.sources.query import Window
from proxy.policy.rules import PolicySet, parse
from tests.support.exchanges import exchanges_of
from tests.support.ledgers import DAY_S, STARTED_AT, make_row
from tests.support.traffic import ledger_rows


def _rows(count: int = 500, **changes: object) -> list[dict[str, object]]:
    """Half a thousand answers over five days of which one is long."""
    rows = [make_row(**changes, started_at=STARTED_AT + 5 * DAY_S * at / count) for at in range(count)]
    rows[0] |= {"output_tokens": 400, "decoded_tokens": 400, "last_token_s": 4.19, "e2e_s": 4.19}
    return rows


def _policy(*rows: dict[str, object]) -> tuple[str, PolicySet]:
    text = policy(build(exchanges_of(rows), Window(), by_app=True))
    return text, parse(yaml.safe_load(text))


def _comments(text: str) -> str:
    return " ".join(
        line.strip().removeprefix("#").strip() for line in text.splitlines() if line.strip().startswith("#")
    )


def test_a_rule_in_shadow_with_its_evidence() -> None:
    """Risk, saving, interval and n stand above the rule; it caps what the figures are of."""
    text, found = _policy(*_rows())
    (rule,) = found.rules
    assert (rule.name, rule.do, rule.mode, rule.max_tokens) == ("advised-gpt-4o-search", "cap", "shadow", 128)
    assert (rule.match.model.pattern, rule.match.app.pattern) == (r"(?s:gpt\-4o)\Z", r"(?s:search)\Z")
    comments = _comments(text)
    assert "500 whole answers (n)" in comments
    assert "Risk: 1 of 500 answers cut (0.2%), 1 of them newly." in comments
    assert (
        "Saving: 272 tokens; 2.72 s of waiting in all, known for 1 of 1 longer answers (95% interval: 0 ms to"
        in comments
    )


def test_exchanges_without_a_limit_get_one() -> None:
    """Otherwise the rule would not touch what the figures count."""
    _, limited = _policy(*_rows())
    _, free = _policy(*_rows(forwarded_max_tokens=None, requested_max_tokens=None))
    assert [rule.when_absent for rule in (*limited.rules, *free.rules)] == ["leave", "insert"]


def test_nothing_to_advise_is_explained() -> None:
    """The file has no rule, is accepted, and says why for each group."""
    text, found = _policy(make_row(), make_row(app=None), make_row(model=None))
    assert found.rules == ()
    assert len(re.findall(r"no rule\. 1 whole answers of known length are too few", _comments(text))) == 3


def test_a_rule_for_exchanges_that_named_no_app_comes_last() -> None:
    """It matches every app, so those that are named go first."""
    text, found = _policy(*_rows(app=None), *_rows(app="zebra"))
    assert [rule.name for rule in found.rules] == ["advised-gpt-4o-zebra", "advised-gpt-4o"]
    assert "matches every app of this model that no rule above names" in _comments(text)


def test_a_reasoning_model_is_warned_of() -> None:
    """Case C."""
    text, _ = _policy(*_rows(reasoning_tokens=30))
    assert "Case C: 500 answers hold reasoning." in _comments(text)


@pytest.mark.parametrize(
    "name",
    [
        '"quoted" \\ back',
        "glob*?[a]",
        "yaml: {x: [1, # no]}",
        "- name: x",
        "<script>",
        "模型-4 ümlaut 🦙",
        "a" * 300,
        "_",
        "null",
        "12",
    ],
)
def test_any_printable_name_is_matched_and_nothing_else(name: str) -> None:
    """Signs of globs and of YAML mean themselves."""
    _, found = _policy(*_rows(model=name))
    (rule,) = found.rules
    assert rule.match.model.match(name)
    assert not rule.match.model.match(f"{name}x")
    assert not rule.match.model.match("glob1a")


@pytest.mark.parametrize("name", ["two\nlines: 1", "\x1b[31mred", "", "tab\there", "\u2028"])
def test_a_name_that_no_pattern_can_hold_gets_no_rule(name: str) -> None:
    """And breaks out of no comment."""
    text, found = _policy(*_rows(model=name))
    assert found.rules == ()
    assert "no pattern can hold this name" in _comments(text).lower()


def test_names_that_look_alike_get_rules_of_their_own() -> None:
    """A rule's name is unique."""
    _, found = _policy(*_rows(model="a/b"), *_rows(model="a b"))
    assert [rule.name for rule in found.rules] == ["advised-a-b-search", "advised-a-b-search-2"]


def test_simulated_traffic_is_advised_on() -> None:
    """Some apps get a rule, and some a reason."""
    text, found = _policy(*ledger_rows(np.random.default_rng(4), exchanges=4000, days=7))
    assert {rule.mode for rule in found.rules} == {"shadow"}
    assert 1 <= len(found.rules) <= 5
    assert "no rule." in _comments(text)
