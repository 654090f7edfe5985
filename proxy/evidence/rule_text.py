"""The parts of a rule's text that names come into: a pattern, the rule's own name, comments.

Layer: evidence, without numpy, so that a server can write rules as well. Names come from clients: in comments they are made printable by
who calls, in patterns their signs mean themselves, and one that no pattern can hold gets no rule.

Source: ARCHITECTURE.md 7 "Policies".
"""

import json
import re
import textwrap
from typing import Final

__all__ = ["can_be_named", "comment", "pattern", "rule_name"]

_WIDTH: Final = 100
_LONGEST_RULE: Final = 56
"""A rule's name may have 64 characters; some are left for a number."""


def can_be_named(name: str | None) -> bool:
    """A pattern needs text of at least one printable character."""
    return bool(name and name.isprintable())


def pattern(text: str) -> str:
    """A quoted glob that matches this text alone."""
    return json.dumps(re.sub(r"[*?[]", r"[\g<0>]", text), ensure_ascii=False)


def rule_name(words: str, taken: set[str]) -> str:
    """A rule's name made of these words, another one than those that are taken; it is taken then."""
    stem = re.sub("[^A-Za-z0-9_.]+", "-", words).strip("-")[:_LONGEST_RULE].rstrip("-")
    found, number = stem, 2
    while found in taken:
        found, number = f"{stem}-{number}", number + 1
    taken.add(found)
    return found


def comment(text: str) -> list[str]:
    """The lines of a comment."""
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)
