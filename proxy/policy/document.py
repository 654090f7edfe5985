"""Typed reading of a parsed document: the fields of a dataclass are the keys that a mapping may have.

Layer: policy, above errors; rules and settings are read with it. Pure.

A reader takes a value, its key path and the list of mistakes. It returns what it read, or appends a mistake and returns
None, so that one pass finds every mistake. No message quotes a value: a credential may stand in the wrong place.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields
from typing import Any, Final

from proxy.errors import Mistake

__all__ = [
    "REQUIRED",
    "Reader",
    "boolean",
    "integer",
    "label",
    "list_of",
    "member",
    "number",
    "one_of",
    "one_or_more",
    "optional",
    "refuse",
    "section",
    "sub_path",
    "text",
    "wrong",
]

Reader = Callable[[object, str, list[Mistake]], Any]

REQUIRED: Final = MISSING
"""Default of a key that must be written."""

_LARGEST = 2**53 - 1
"""JSON readers agree on whole numbers up to here (RFC 8259, section 6)."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "a whole number",
    float: "a number with a fraction",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


def sub_path(path: str, step: str | int) -> str:
    """Key path of a member or an element; the document itself is ''."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    shown = step if _PLAIN_KEY.fullmatch(step) else json.dumps(step[:64])
    return f"{path}.{shown}" if path else shown


def refuse(message: str, path: str, mistakes: list[Mistake]) -> Any:
    """Report a mistake; returns the None that stands for what could not be read."""
    mistakes.append(Mistake(path, message))
    return None


def wrong(expected: str, value: object, path: str, mistakes: list[Mistake]) -> Any:
    """Report a value of the wrong type, by the type's name only."""
    return refuse(f"expected {expected}, got {_KINDS.get(type(value), 'something else')}", path, mistakes)


def boolean(value: object, path: str, mistakes: list[Mistake]) -> Any:
    """Read true or false."""
    return value if isinstance(value, bool) else wrong("true or false", value, path, mistakes)


def text(value: object, path: str, mistakes: list[Mistake]) -> Any:
    """Read text with at least one character, without control characters and lone surrogates."""
    if not isinstance(value, str):
        return wrong("text", value, path, mistakes)
    if not value or not value.isprintable():
        return refuse("expected text of at least one character, without control characters", path, mistakes)
    return value


def label(value: object, path: str, mistakes: list[Mistake]) -> Any:
    """Read a name: it becomes a label of metrics and a part of headers."""
    expected = "a name of letters, digits, '.', '_' and '-', at most 64"
    if not isinstance(value, str):
        return wrong(expected, value, path, mistakes)
    return value if _PLAIN_KEY.fullmatch(value) else refuse(f"expected {expected}", path, mistakes)


def integer(minimum: int, maximum: int = _LARGEST) -> Reader:
    """Read a whole number from `minimum` to `maximum`."""

    def read(value: object, path: str, mistakes: list[Mistake]) -> Any:
        if type(value) is not int:
            return wrong(f"a whole number of at least {minimum}", value, path, mistakes)
        if value > maximum:
            return refuse(f"expected a whole number of at most {maximum}", path, mistakes)
        if value < minimum:
            return refuse(f"expected a whole number of at least {minimum}, got {value}", path, mistakes)
        return value

    return read


def number(*, above: float | None = None, between: tuple[float, float] | None = None) -> Reader:
    """Read a number greater than `above`, or one within `between` (both ends included), as a float."""
    low, high = between or (above or 0.0, float("inf"))
    expected = f"a number from {low:g} to {high:g}" if between else f"a number greater than {low:g}"

    def read(value: object, path: str, mistakes: list[Mistake]) -> Any:
        if type(value) is not int and type(value) is not float:
            return wrong(expected, value, path, mistakes)
        if not low <= value <= high or (value == low and not between) or abs(value) > _LARGEST:
            return refuse(f"expected {expected}", path, mistakes)
        return float(value)

    return read


def one_of(*words: str) -> Reader:
    """Read one of some words."""
    expected = f"one of {', '.join(words)}"

    def read(value: object, path: str, mistakes: list[Mistake]) -> Any:
        if not isinstance(value, str):
            return wrong(expected, value, path, mistakes)
        if value not in words:
            return refuse(f"expected {expected}{_meant(value, words)}", path, mistakes)
        return value

    return read


def optional(read: Reader) -> Reader:
    """Read null as None, everything else with `read`."""

    def read_optional(value: object, path: str, mistakes: list[Mistake]) -> Any:
        if value is None:
            return None
        before = len(mistakes)
        found = read(value, path, mistakes)
        mistakes[before:] = [
            Mistake(path, re.sub(r"^expected [^,;]*", r"\g<0> or null", each.message)) if each.path == path else each
            for each in mistakes[before:]
        ]
        return found

    return read_optional


def list_of(read: Reader, *, minimum: int = 0) -> Reader:
    """Read a list into a tuple, elements with `read`."""

    def read_list(value: object, path: str, mistakes: list[Mistake]) -> Any:
        if not isinstance(value, list):
            return wrong("a list", value, path, mistakes)
        if len(value) < minimum:
            return refuse("expected a list with at least one element, got an empty one", path, mistakes)
        return tuple(read(element, sub_path(path, index), mistakes) for index, element in enumerate(value))

    return read_list


def one_or_more(read: Reader) -> Reader:
    """Read one value or a list of some into a tuple."""
    read_list = list_of(read, minimum=1)

    def read_some(value: object, path: str, mistakes: list[Mistake]) -> Any:
        return read_list(value, path, mistakes) if isinstance(value, list) else (read(value, path, mistakes),)

    return read_some


def member(default: Any, read: Reader) -> Any:
    """Declare a dataclass field as a key of the document: its default (or REQUIRED) and its reader."""
    return field(default=default, metadata={"read": read})


def section(kind: type[Any]) -> Reader:
    """Read a mapping into the dataclass `kind`, whose fields were declared with `member`; unknown keys are mistakes."""
    readers: dict[str, Reader] = {each.name: each.metadata["read"] for each in fields(kind)}
    required = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]

    def read(value: object, path: str, mistakes: list[Mistake]) -> Any:
        if not isinstance(value, Mapping):
            return wrong("a mapping", value, path, mistakes)
        found: dict[str, Any] = dict.fromkeys(required)
        for each, found_value in value.items():
            at = sub_path(path, each)
            if each in readers:
                found[each] = readers[each](found_value, at, mistakes)
            else:
                mistakes.append(Mistake(at, f"unknown key{_meant(each, tuple(readers))}"))
        mistakes.extend(
            Mistake(sub_path(path, each), "required, but missing") for each in required if each not in value
        )
        return kind(**found)

    return read


def _meant(word: str, words: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, words, 1)
    return f'; did you mean "{close[0]}"?' if close else ""
