"""Readers: one value each, or one mistake with the path, and never the value itself."""

from dataclasses import dataclass

import pytest

from proxy.errors import Mistake
from proxy.policy.document import (
    REQUIRED,
    Reader,
    boolean,
    integer,
    list_of,
    member,
    number,
    one_of,
    one_or_more,
    optional,
    section,
    sub_path,
    text,
)


def read(reader: Reader, value: object) -> tuple[object, list[Mistake]]:
    """What was read at path `p`, and the mistakes."""
    mistakes: list[Mistake] = []
    return reader(value, "p", mistakes), mistakes


@pytest.mark.parametrize(
    ("reader", "value", "expected"),
    [
        (boolean, False, False),
        (text, "x", "x"),
        (integer(0), 0, 0),
        (integer(0), 2**53 - 1, 2**53 - 1),
        (number(above=0), 3, 3.0),
        (number(above=0), 0.5, 0.5),
        (number(between=(0.0, 1.0)), 0, 0.0),
        (number(between=(0.0, 1.0)), 1, 1.0),
        (one_of("a", "b"), "b", "b"),
        (optional(text), None, None),
        (optional(text), "x", "x"),
        (list_of(text), [], ()),
        (list_of(text), ["a", "b"], ("a", "b")),
        (one_or_more(text), "a", ("a",)),
        (one_or_more(text), ["a", "b"], ("a", "b")),
    ],
)
def test_a_reader_returns_what_it_read(reader: Reader, value: object, expected: object) -> None:
    """Accepted values arrive in their own type."""
    found = read(reader, value)

    assert found == (expected, [])
    assert type(found[0]) is type(expected)


@pytest.mark.parametrize(
    ("reader", "value", "message"),
    [
        (boolean, 1, "expected true or false, got a whole number"),
        (text, "", "expected text of at least one character, without control characters"),
        (text, "a\n", "expected text of at least one character, without control characters"),
        (text, "\ud800", "expected text of at least one character, without control characters"),
        (text, 1.5, "expected text, got a number with a fraction"),
        (integer(1), True, "expected a whole number of at least 1, got a boolean"),
        (integer(1), 2**53, "expected a whole number of at most 9007199254740991"),
        (number(above=0), 0, "expected a number greater than 0"),
        (number(above=0), float("inf"), "expected a number greater than 0"),
        (number(above=0), float("nan"), "expected a number greater than 0"),
        (number(above=0), 10**400, "expected a number greater than 0"),
        (number(above=0), True, "expected a number greater than 0, got a boolean"),
        (number(between=(0.0, 1.0)), 1.1, "expected a number from 0 to 1"),
        (number(between=(0.0, 1.0)), -0.1, "expected a number from 0 to 1"),
        (one_of("left", "right"), "sk-secret", "expected one of left, right"),
        (one_of("left", "right"), "rigth", 'expected one of left, right; did you mean "right"?'),
        (optional(number(above=0)), "1e3", "expected a number greater than 0 or null, got text"),
        (list_of(text, minimum=1), [], "expected a list with at least one element, got an empty one"),
        (list_of(text), "a", "expected a list, got text"),
    ],
)
def test_a_reader_reports_what_it_cannot_read(reader: Reader, value: object, message: str) -> None:
    """The mistake says what was expected; None stands for the value."""
    assert read(reader, value) == (None, [Mistake("p", message)])


@dataclass(frozen=True, slots=True)
class Colour:
    """A section for these tests."""

    red: int = member(REQUIRED, integer(0))
    alpha: float = member(1.0, number(between=(0.0, 1.0)))


def test_a_section_reads_the_fields_of_its_dataclass() -> None:
    """Defaults stay where nothing is written."""
    assert read(section(Colour), {"red": 3}) == (Colour(3, 1.0), [])


def test_a_section_reports_everything_at_once() -> None:
    """Wrong, unknown and missing keys appear together, in the document's order, missing ones last."""
    _, mistakes = read(section(Colour), {"alpha": "x", "rad": 1})

    assert mistakes == [
        Mistake("p.alpha", "expected a number from 0 to 1, got text"),
        Mistake("p.rad", 'unknown key; did you mean "red"?'),
        Mistake("p.red", "required, but missing"),
    ]


def test_paths_stay_readable_whatever_a_key_is() -> None:
    """A key that could be taken for syntax, or that a terminal would obey, is quoted and clamped."""
    assert sub_path("", "rules") == "rules"
    assert sub_path("rules", 0) == "rules[0]"
    assert sub_path("a", "b-c") == "a.b-c"
    assert sub_path("a", "b\n\x1b[1m") == 'a."b\\n\\u001b[1m"'
    assert len(sub_path("a", "x" * 1000)) < 70
