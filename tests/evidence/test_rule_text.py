"""The parts of a rule's text."""

import json
from fnmatch import fnmatchcase

import pytest

from proxy.evidence.rule_text import can_be_named, comment, pattern, rule_name


@pytest.mark.parametrize("name", ["gpt-4o", "a*b", "[x]?", 'say "a"', "ü\\n"])
def test_a_pattern_matches_its_name_alone(name: str) -> None:
    """Signs of patterns mean themselves."""
    glob = json.loads(pattern(name))
    assert fnmatchcase(name, glob)
    assert not fnmatchcase(f"{name}x", glob)
    assert not fnmatchcase(name.replace("*", "y").replace("?", "y") + "y", glob)


@pytest.mark.parametrize(("name", "can"), [("a", True), ("a b", True), ("", False), (None, False), ("a\nb", False)])
def test_a_pattern_needs_text_that_can_be_printed(name: str | None, can: bool) -> None:
    """Nothing else can stand in a line."""
    assert can_be_named(name) is can


def test_rules_have_names_of_their_own() -> None:
    """Short, of few signs, and none twice."""
    taken: set[str] = set()
    assert [rule_name(words, taken) for words in ("try-a/b", "try-a:b", "try-" + "x" * 90)] == [
        "try-a-b",
        "try-a-b-2",
        "try-" + "x" * 52,
    ]
    assert len(taken) == 3


def test_a_comment_is_one_whatever_its_length() -> None:
    """Every line of it begins with the sign."""
    lines = comment("word " * 100)
    assert len(lines) > 4
    assert all(line.startswith("#") and len(line) <= 100 for line in lines)
