"""YAML says here what JSON can say, and nothing is guessed."""

from pathlib import Path

import pytest

from proxy.errors import Mistake
from proxy.narrow_yaml import read, read_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-0.5", -0.5),
        ("1.5e3", 1500.0),
        ("true", True),
        ("~", None),
        ("", None),
        ("{a: [1, b]}", {"a": [1, "b"]}),
        # what YAML 1.1 makes numbers, booleans, dates and sexagesimals of
        ("010", "010"),
        ("1e3", "1e3"),
        ("1:30", "1:30"),
        ("on", "on"),
        ("yes", "yes"),
        ("0x10", "0x10"),
        ("2026-01-01", "2026-01-01"),
        ("<<", "<<"),
        # no YAML at all, but a text that a variable may hold
        ("[::1]:8080", "[::1]:8080"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_a_text_stands_for_what_json_could_say(text, value):
    """Anything else is text."""
    mistakes: list[Mistake] = []
    assert read_value(text, "v", mistakes) == value
    assert mistakes == []


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("{a: 1, a: 2}", [Mistake("v.a", "duplicate key, in lines 1 and 1")]),
        ("{1: 2}", [Mistake("v", "line 1: a key must be text")]),
        ("[!!binary aGk=]", [Mistake("v[0]", "line 1: this tag or value is not allowed")]),
    ],
)
def test_what_could_be_read_in_two_ways_is_a_mistake(text, mistakes):
    """It is said where."""
    found: list[Mistake] = []
    read_value(text, "v", found)
    assert found == mistakes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: &x 1\nb: *x", "line 2, column 4: aliases are not allowed"),
        (b"a: [", "line 1, column 5: expected the node content, but found '<stream end>'"),
        (b"\xff", "is not UTF-8 text"),
        (b"\0", "contains characters that YAML does not allow"),
        (b"[" * 5000, "is nested too deeply"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_none_says_why(tmp_path: Path, content, message):
    """And where, as far as that is known."""
    file = tmp_path / "a.yaml"
    if content is not None:
        file.write_bytes(content)
    found: list[Mistake] = []
    read(file, found)
    assert found == [Mistake("", message)]
