"""Exchanges as the page keeps them: the ledger's rows as columns of numbers, some hundred bytes for each exchange.

Layer: recorder. Pure. NaN is unknown in a column, as NULL is in a row. What a row says in words is one of few kinds, so that a row has
the number of its kind; whose exchange it is says the group, which the columns of one are kept under. No content, no key, no id.

The kinds are the evidence's cases and the metrics' labels, so that the page's figures are theirs (`proxy/evidence/cases.py`).
"""

import math
from array import array
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import orjson

from proxy.record import OPAQUE
from proxy.recorder.ledger import COLUMNS, Row
from proxy.recorder.metrics import Names

__all__ = ["Columns", "Decided", "Group", "Kind", "Words", "kind_of"]

_NAN: Final = math.nan
_NUMBERS: Final = (
    "output_tokens",
    "decoded_tokens",
    "requested_max_tokens",
    "forwarded_max_tokens",
    "ttft_s",
    "last_token_s",
    "e2e_s",
    "tpot_s",
    "overhead_s",
    "client_blocked_s",
)
_numbers_of: Final = itemgetter(*map(COLUMNS.index, _NUMBERS))
_WORDS: Final = ("end", "status", "finish", "cut", "action", "choices", "dialect", "stream")
_words_of: Final = itemgetter(*map(COLUMNS.index, (*_WORDS, "rule", "shadow", "upstream", "model", "app")))
_checkpoints_of: Final = itemgetter(COLUMNS.index("checkpoints"))
_MOST_GROUPS: Final = 64
_MOST_SEEN: Final = 10_000
_OTHER: Final = "_other"

_FAULT_OF_END: Final = {
    "rejected": "client",
    "shed": "proxy",
    "aborted": "proxy",
    "broken": "upstream",
    "upstream_error": "upstream",
    "timeout": "upstream",
}


class Group(NamedTuple):
    """Whose exchanges they are; None is unknown, `_other` what has no name of its own here."""

    upstream: str | None
    model: str | None
    app: str | None
    stream: bool


class Decided(NamedTuple):
    """What a rule did to one exchange, or in shadow would have done."""

    rule: str
    action: str
    mode: str
    """enforce or shadow."""


class Kind(NamedTuple):
    """What a row says in words."""

    end: str
    fault: str | None
    """client, proxy or upstream, where something went wrong. A client that leaves is no fault."""
    complete: bool
    """A whole answer with a 2xx status: what evidence is made of."""
    case: str
    """cut, ended (by the model) or unknown; an answer that is not complete is unknown."""
    cut: bool
    """Any choice was ended by the limit, complete or not."""
    action: str
    whole: bool
    """One choice of an answer that came whole, whatever its status: what slack and utilization are of."""
    single: bool
    """One choice was asked for, or none said."""
    judged: bool
    """Of an endpoint on which a cap can act."""
    stream: bool


def kind_of(  # noqa: PLR0917 -- a row
    end: str,
    status: int | None,
    finish: str | None,
    cut: int | None,
    action: str,
    choices: int | None,
    dialect: str,
    stream: int,
) -> Kind:
    """The kind of a row with these words."""
    fault = _FAULT_OF_END.get(end)
    if fault is None and status is not None and status >= 400 and end == "complete":
        fault = "upstream" if status >= 500 or status == 429 else "client"
    complete = end == "complete" and status is not None and 200 <= status < 300
    case = "unknown"
    if complete and (finish == "length" or cut == 1):
        case = "cut"
    elif complete and finish in {"stop", "tool_calls"}:
        case = "ended"
    return Kind(
        end,
        fault,
        complete,
        case,
        cut == 1,
        action,
        choices == 1 and end == "complete",
        choices is None or choices == 1,
        dialect != OPAQUE,
        bool(stream),
    )


class Said(NamedTuple):
    """What a row says in words."""

    kind: int
    """The number of its kind."""
    group: Group
    decided: tuple[Decided, ...]
    """What rules did to it."""


class Words:
    """What rows say, bounded: some thousands of kinds, 64 groups and one for the rest; names are bounded as labels are."""

    def __init__(self) -> None:
        self.kinds: list[Kind] = []
        """Every kind that was seen, by its number."""
        self._numbers: dict[Kind, int] = {}
        self._upstreams, self._models, self._apps = Names(other=_OTHER), Names(other=_OTHER), Names(other=_OTHER)
        self._groups: set[Group] = set()
        self._said: dict[tuple[Any, ...], Said] = {}
        """What was seen already; begun anew when it grows, for numbers of choices and shadows of deadlines have no end."""

    def said(self, row: Row) -> Said:
        """What a row says.

        Raises:
            LookupError, TypeError, ValueError: it is no row that a recorder wrote.
        """
        words = _words_of(row)
        return self._said.get(words) or self._new(words)

    def _new(self, words: tuple[Any, ...]) -> Said:
        *kind_words, rule, shadow, upstream, model, app = words
        kind = kind_of(*kind_words)
        number = self._numbers.setdefault(kind, len(self.kinds))
        if number == len(self.kinds):
            self.kinds.append(kind)
        enforced = [] if rule is None else [Decided(rule, kind.action, "enforce")]
        tried = [] if shadow is None else orjson.loads(shadow)
        decided = (*enforced, *(Decided(each["rule"], each["action"], "shadow") for each in tried))
        said = Said(number, self._group(upstream, model, app, kind), decided)
        if len(self._said) > _MOST_SEEN:
            self._said.clear()
        self._said[words] = said
        return said

    def _group(self, upstream: str | None, model: str | None, app: str | None, kind: Kind) -> Group:
        group = Group(
            None if upstream is None else self._upstreams.bound(upstream),
            None if model is None else self._models.bound(model),
            None if app is None else self._apps.bound(app),
            kind.stream,
        )
        if group not in self._groups and len(self._groups) >= _MOST_GROUPS:
            return Group(_OTHER, _OTHER, _OTHER, kind.stream)
        self._groups.add(group)
        return group


def _column(values: Sequence[float | None]) -> "array[float]":
    try:  # most have no None, and to look for one costs more than to take them
        return array("d", values)  # type: ignore[arg-type]
    except TypeError:
        return array("d", [_NAN if value is None else value for value in values])


class Columns:
    """Exchanges, one below the other."""

    __slots__ = ("checkpoints", "decided", "kinds", "numbers", "order")

    def __init__(self) -> None:
        self.kinds = array("H")
        """The number of each row's kind."""
        self.numbers: dict[str, array[float]] = {name: array("d") for name in _NUMBERS}
        """The ledger's columns of that name."""
        self.checkpoints: list[str | None] = []
        """The ledger's text of them."""
        self.decided: list[tuple[Decided, ...]] = []
        """What rules did to each."""
        self.order = array("Q")
        """Numbers that rise from row to row, of whichever group it is."""

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, name: str) -> "array[float]":
        return self.numbers[name]

    def append(self, rows: Sequence[Row], words: Words, first: int) -> list[Group]:
        """Take at least one row of the ledger, numbered from `first`; whose exchanges they are.

        Raises:
            LookupError, TypeError, ValueError: they are no rows that a recorder wrote; nothing is taken.
        """
        numbers = list(map(_column, zip(*map(_numbers_of, rows), strict=True)))
        kinds, groups, decided = zip(*map(words.said, rows), strict=True)
        self.kinds.extend(kinds)
        for name, values in zip(_NUMBERS, numbers, strict=True):
            self.numbers[name].extend(values)
        self.checkpoints.extend(map(_checkpoints_of, rows))
        self.decided.extend(decided)
        self.order.extend(range(first, first + len(rows)))
        return list(groups)

    def extend(self, other: "Columns") -> None:
        """Take all rows of another."""
        self.kinds.extend(other.kinds)
        for name, values in self.numbers.items():
            values.extend(other.numbers[name])
        self.checkpoints.extend(other.checkpoints)
        self.decided.extend(other.decided)
        self.order.extend(other.order)

    def part(self, start: int, stop: int) -> "Columns":
        """The rows from `start` to before `stop`."""
        return self._each(itemgetter(slice(start, stop)))

    def pick(self, places: Sequence[int]) -> "Columns":
        """The rows at these places."""
        if len(places) == 1:
            return self.part(places[0], places[0] + 1)
        return self._each(itemgetter(*places))

    def _each(self, chosen: "itemgetter[Any]") -> "Columns":
        found = Columns()
        found.kinds = array("H", chosen(self.kinds))
        found.numbers = {name: array("d", chosen(values)) for name, values in self.numbers.items()}
        found.checkpoints = list(chosen(self.checkpoints))
        found.decided = list(chosen(self.decided))
        found.order = array("Q", chosen(self.order))
        return found
