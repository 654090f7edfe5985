"""The rules of `policies.yaml`: grammar, checks, and the compiled form that `decide` evaluates.

Layer: policy. Pure: a parsed document in, an immutable `PolicySet` out; no file, no clock.

Everything that costs is done here once (globs become regular expressions, names sets, hours minutes), nothing per request.

Source: ARCHITECTURE.md 7 "Policies".
"""

import fnmatch
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from proxy.errors import Mistake, SettingsError
from proxy.policy.document import (
    REQUIRED,
    boolean,
    integer,
    label,
    list_of,
    member,
    one_of,
    one_or_more,
    refuse,
    section,
    sub_path,
    text,
    wrong,
)

__all__ = ["DIALECT_NAMES", "EMPTY", "Match", "PolicySet", "Rule", "When", "parse"]

DIALECT_NAMES = ("chat_completions", "completions", "responses", "messages")
"""What `match.dialect` may name (ARCHITECTURE.md, names of the dialects)."""

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_SPAN = re.compile(r"([a-z]{3})(?:-([a-z]{3}))?")
_HOUR_SPAN = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LATER_RULE_KEYS = frozenset({"deadline_s", "quantile", "floor", "max_choices", "disarm", "experiment"})


def _names(read: Any) -> Any:
    def read_names(value: object, path: str, mistakes: list[Mistake]) -> Any:
        return frozenset(one_or_more(read)(value, path, mistakes) or ())

    return read_names


def _globs(value: object, path: str, mistakes: list[Mistake]) -> Any:
    globs = one_or_more(text)(value, path, mistakes)
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs)) if globs and all(globs) else None


def _headers(value: object, path: str, mistakes: list[Mistake]) -> Any:
    if not isinstance(value, Mapping) or not value:
        return wrong("a mapping of header names to globs", value, path, mistakes)
    found: dict[bytes, Any] = {}
    for header, globs in value.items():
        at, lower = sub_path(path, header), header.lower()
        if not _HEADER_NAME.fullmatch(header):
            mistakes.append(Mistake(at, "expected the name of a header"))
        elif lower.encode() in found:
            mistakes.append(Mistake(at, "this header is written twice; names are compared without case"))
        else:
            found[lower.encode()] = _globs(globs, at, mistakes)
    return tuple(found.items())


def _days(value: object, path: str, mistakes: list[Mistake]) -> Any:
    return frozenset().union(*(days or () for days in one_or_more(_day_span)(value, path, mistakes) or ()))


def _day_span(value: object, path: str, mistakes: list[Mistake]) -> Any:
    span = _DAY_SPAN.fullmatch(value) if isinstance(value, str) else None
    if not span or any(day and day not in _DAYS for day in span.groups()):
        return refuse(f"expected a day or a span of days such as mon-fri, of {', '.join(_DAYS)}", path, mistakes)
    first, last = _DAYS.index(span[1]), _DAYS.index(span[2] or span[1])
    return {(first + offset) % 7 for offset in range((last - first) % 7 + 1)}


def _hour_span(value: object, path: str, mistakes: list[Mistake]) -> Any:
    span = _HOUR_SPAN.fullmatch(value) if isinstance(value, str) else None
    hours = [int(part) for part in span.groups()] if span else [99]
    if len(hours) < 4 or max(hours[1], hours[3]) > 59 or hours[0] > 23 or hours[2] * 60 + hours[3] > 24 * 60:
        return refuse('expected a span of hours such as "08:00-18:00"', path, mistakes)
    start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if start == end:
        return refuse("ends when it starts; for the whole day leave hours out", path, mistakes)
    return start, end


def _timezone(value: object, path: str, mistakes: list[Mistake]) -> Any:
    if value == "UTC":
        return UTC  # needs no time zone database, which small images lack
    if not isinstance(value, str):
        return wrong("the name of a time zone such as Europe/Paris", value, path, mistakes)
    try:
        return ZoneInfo(value)
    except (OSError, ValueError, KeyError):
        return refuse("expected a time zone that this machine knows, such as Europe/Paris", path, mistakes)


@dataclass(frozen=True, slots=True)
class When:
    """Times of the week at which a rule holds."""

    days: frozenset[int] = member(frozenset(range(7)), _days)
    """Monday is 0. A span of hours that crosses midnight belongs to the day on which it starts."""
    hours: tuple[tuple[int, int], ...] = member(((0, 24 * 60),), one_or_more(_hour_span))
    """(start, end) in minutes since local midnight, end excluded; end < start crosses midnight."""
    timezone: tzinfo = member(UTC, _timezone)


@dataclass(frozen=True, slots=True)
class _Requested:
    over: int = member(REQUIRED, integer(0))


def _over(value: object, path: str, mistakes: list[Mistake]) -> Any:
    requested = section(_Requested)(value, path, mistakes)
    return requested and requested.over


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions of a rule; all must hold, None always does."""

    upstream: frozenset[str] | None = member(None, _names(label))
    dialect: frozenset[str] | None = member(None, _names(one_of(*DIALECT_NAMES)))
    model: re.Pattern[str] | None = member(None, _globs)
    header: tuple[tuple[bytes, re.Pattern[str]], ...] = member((), _headers)
    """(lower-case name, pattern of the value); when a name has several lines, any may match."""
    key: frozenset[str] | None = member(None, _names(label))
    app: re.Pattern[str] | None = member(None, _globs)
    stream: bool | None = member(None, boolean)
    requested: int | None = member(None, _over)
    """Tokens that the limit must exceed; an absent limit does (on completions it is 16)."""
    when: When | None = member(None, section(When))


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: when it matches, and what it does then."""

    name: str = member(REQUIRED, label)
    do: str = member(REQUIRED, one_of("cap", "reject", "observe"))
    match: Match = member(Match(), section(Match))
    max_tokens: int | None = member(None, integer(1))
    """The cap; a number for `do: cap`, None for everything else."""
    when_absent: str = member("leave", one_of("leave", "insert"))
    mode: str = member("enforce", one_of("enforce", "shadow"))

    @property
    def enforces(self) -> bool:
        """False for a shadow rule."""
        return self.mode == "enforce"


def _rule(value: object, path: str, mistakes: list[Mistake]) -> Any:
    rule: Rule | None = section(Rule, not_yet=_LATER_RULE_KEYS)(value, path, mistakes)
    if rule is None or not isinstance(value, Mapping):
        return None
    if rule.do == "cap" and "max_tokens" not in value:
        mistakes.append(Mistake(sub_path(path, "max_tokens"), "required with do: cap, but missing"))
    if rule.do in {"reject", "observe"}:
        mistakes.extend(
            Mistake(sub_path(path, each), f"only do: cap reads it, but do is {rule.do}")
            for each in ("max_tokens", "when_absent")
            if each in value
        )
    return rule


def _rules(value: object, path: str, mistakes: list[Mistake]) -> Any:
    rules: tuple[Rule | None, ...] = list_of(_rule)(value, path, mistakes) or ()
    first: dict[str, int] = {}
    for index, rule in enumerate(rules):
        if rule and rule.name and first.setdefault(rule.name, index) != index:
            at = sub_path(sub_path(path, index), "name")
            mistakes.append(Mistake(at, f"rules[{first[rule.name]}] has this name already"))
    return rules


def _version(value: object, path: str, mistakes: list[Mistake]) -> Any:
    if type(value) is not int:
        return wrong("1", value, path, mistakes)
    return value if value == 1 else refuse(f"expected 1, got {value}", path, mistakes)


@dataclass(frozen=True, slots=True)
class _Document:
    version: int = member(REQUIRED, _version)
    rules: tuple[Rule, ...] = member(REQUIRED, _rules)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All rules of one file, in order; replaced as a whole on reload."""

    rules: tuple[Rule, ...]
    digest: str
    """First 12 hex digits of the sha256 of the document's canonical JSON: formatting and comments do not change it."""
    document: Any
    """What `parse` was given, in JSON's types: the form in which rules cross to the workers."""


def parse(document: object) -> PolicySet:
    """Check and compile a parsed policies document.

    Raises:
        SettingsError: with every mistake, paths such as `rules[0].match.model`.
    """
    mistakes: list[Mistake] = []
    read = section(_Document)(document, "", mistakes)
    if mistakes:
        raise SettingsError(mistakes)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return PolicySet(read.rules, hashlib.sha256(canonical.encode()).hexdigest()[:12], document)


EMPTY = parse({"version": 1, "rules": []})
"""No rule: nothing is changed."""
