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
from dataclasses import dataclass, field, fields
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
    number,
    one_of,
    one_or_more,
    optional,
    refuse,
    section,
    sub_path,
    text,
    wrong,
)

__all__ = [
    "DIALECT_NAMES",
    "EMPTY",
    "NO_ARM",
    "Chosen",
    "Disarm",
    "Experiment",
    "Match",
    "PolicySet",
    "Rule",
    "When",
    "parse",
]

DIALECT_NAMES = ("chat_completions", "completions", "responses", "messages")
"""What `match.dialect` may name (ARCHITECTURE.md, names of the dialects)."""

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_SPAN = re.compile(r"([a-z]{3})(?:-([a-z]{3}))?")
_HOUR_SPAN = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNIT = re.compile(r"request|switchback|header:([!#$%&'*+.^_`|~0-9A-Za-z-]+)")
_MOST_WINDOW = 1_000_000
NO_ARM = "none"
"""The arm of an experiment that sets no limit of its own."""


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
class Disarm:
    """When a rule stops enforcing by itself."""

    truncated_share: float = member(REQUIRED, number(between=(0.0, 1.0)))
    """Most answers that it may cut, as a share of the last ones."""
    of_last: int = member(200, integer(1, _MOST_WINDOW))

    @property
    def budget(self) -> float:
        """Most answers of the last `of_last` that it may cut."""
        return self.truncated_share * self.of_last


def _arm(value: object, path: str, mistakes: list[Mistake]) -> Any:
    if value == NO_ARM:
        return NO_ARM
    if type(value) is not int:
        return wrong("a whole number of at least 1, or none", value, path, mistakes)
    return integer(1)(value, path, mistakes)


def _arms(value: object, path: str, mistakes: list[Mistake]) -> Any:
    arms = list_of(_arm)(value, path, mistakes)
    if arms is not None and len(arms) < 2:
        return refuse(f"expected at least two arms to compare, got {len(arms)}", path, mistakes)
    if arms is not None and None not in arms and len(set(arms)) < len(arms):
        return refuse("has an arm twice", path, mistakes)
    return arms


def _unit(value: object, path: str, mistakes: list[Mistake]) -> Any:
    expected = "request, header:NAME or switchback"
    if not isinstance(value, str):
        return wrong(expected, value, path, mistakes)
    return value.lower() if _UNIT.fullmatch(value) else refuse(f"expected {expected}", path, mistakes)


@dataclass(frozen=True, slots=True)
class Experiment:
    """Limits that are compared with each other, assigned at random."""

    arms: tuple[int | str, ...] = member(REQUIRED, _arms)
    """Limits in tokens, or `NO_ARM`."""
    unit: str = member("request", _unit)
    """What one draw of the arm is for: `request`, `header:name` (lower case), `switchback` (a block of time)."""
    period_s: float = member(300.0, number(between=(1.0, 604_800.0)))
    """Length of a block of time."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: when it matches, and what it does then."""

    name: str = member(REQUIRED, label)
    do: str = member(REQUIRED, one_of("cap", "reject", "observe"))
    match: Match = member(Match(), section(Match))
    max_tokens: int | None = member(None, optional(integer(1)))
    """The cap; None for none, which only `do: cap` with another of its keys has."""
    deadline_s: float | None = member(None, optional(number(above=0)))
    """Time in which the whole answer is to come: a cap by the live law."""
    deadline_header: bool = member(False, boolean)
    """True when `x-lengthwise-deadline-ms` of a request sets a deadline too; of two the shorter counts."""
    quantile: float = member(0.95, number(between=(0.01, 0.999)))
    """Share of answers that the law expects to be as fast as it says."""
    floor: int = member(64, integer(1))
    """Least cap that a deadline makes, in tokens."""
    when_absent: str = member("leave", one_of("leave", "insert"))
    max_choices: int | None = member(None, optional(integer(1)))
    """More choices (`n`, `best_of`, prompts) are rejected."""
    mode: str = member("enforce", one_of("enforce", "shadow"))
    disarm: Disarm | None = member(None, optional(section(Disarm)))
    experiment: Experiment | None = member(None, optional(section(Experiment)))

    @property
    def enforces(self) -> bool:
        """False for a shadow rule."""
        return self.mode == "enforce"

    @property
    def has_deadline(self) -> bool:
        """True when it may need a law."""
        return self.deadline_s is not None or self.deadline_header


_CAPPING = ("max_tokens", "deadline_s", "deadline_header", "max_choices", "experiment")
"""Keys of which `do: cap` needs one."""
_OF_CAP = (*_CAPPING, "quantile", "floor", "when_absent", "disarm")


def _rule(value: object, path: str, mistakes: list[Mistake]) -> Any:
    before = len(mistakes)
    rule: Rule | None = section(Rule)(value, path, mistakes)
    if rule is None or not isinstance(value, Mapping):
        return None
    if rule.do == "cap" and not any(value.get(each) for each in _CAPPING) and len(mistakes) == before:
        message = (
            "required with do: cap unless it has deadline_s, deadline_header, max_choices or experiment, but missing"
        )
        mistakes.append(Mistake(sub_path(path, "max_tokens"), message))
    if rule.do in {"reject", "observe"}:
        mistakes.extend(
            Mistake(sub_path(path, each), f"only do: cap reads it, but do is {rule.do}")
            for each in _OF_CAP
            if value.get(each) is not None
        )
    elif not rule.has_deadline:
        mistakes.extend(
            Mistake(sub_path(path, each), "only a deadline reads it: set deadline_s or deadline_header")
            for each in ("quantile", "floor")
            if each in value
        )
    elif "floor" in value and None not in {rule.floor, rule.max_tokens} and rule.floor > (rule.max_tokens or 0):
        mistakes.append(Mistake(sub_path(path, "floor"), "is above max_tokens, so no deadline could lower the cap"))
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


Chosen = tuple[Rule, int, int, bool]
"""A rule that matches but for its limit: the tokens that the limit must exceed (-1 for any), which of several limits that is (0 the smallest,
1 the largest), and False when it matches only by one of the models that the upstream might read. Plain, because it is unpacked for each request."""


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All rules of one file, in order; replaced as a whole on reload."""

    rules: tuple[Rule, ...]
    digest: str
    """First 12 hex digits of the sha256 of the document's canonical JSON: formatting and comments do not change it."""
    document: Any
    """What `parse` was given, in JSON's types: the form in which rules cross to the workers."""
    headers: frozenset[bytes]
    """Lower-case names of the headers that rules look at."""
    conditions: tuple[tuple[Rule, tuple[str, ...]], ...]
    """Each rule with the keys that its `match` has."""
    chosen: dict[tuple[object, ...], tuple[tuple[Chosen, ...], tuple[Chosen, ...]]] = field(
        default_factory=dict, repr=False, compare=False
    )
    """Memory of `decide`: the rules that match by what requests have in common; bounded there."""
    clock: list[tuple[int, frozenset[str]]] = field(default_factory=list, repr=False, compare=False)
    """Memory of `decide`: a minute since the epoch, and the rules whose hours it is."""


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
    return PolicySet(
        read.rules,
        hashlib.sha256(canonical.encode()).hexdigest()[:12],
        document,
        headers=frozenset(name for rule in read.rules for name, _ in rule.match.header),
        conditions=tuple((rule, _keys(rule.match)) for rule in read.rules),
    )


def _keys(match: Match) -> tuple[str, ...]:
    return tuple(each.name for each in fields(match) if getattr(match, each.name) not in {None, ()})


EMPTY = parse({"version": 1, "rules": []})
"""No rule: nothing is changed."""
