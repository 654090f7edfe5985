"""Exchanges as the page keeps them: the ledger's rows as columns of numbers, some hundred bytes for each exchange.

Layer: recorder. Pure. NaN is unknown in a column, as NULL is in a row. What a row says in words is one of few kinds, so that a row has
the number of its kind; whose exchange it is says the group, which the columns of one are kept under. No content, no key, no id.

The kinds are the evidence's cases and the metrics' labels, so that the page's figures are theirs (`proxy/evidence/cases.py`).
"""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import Final, NamedTuple

import orjson

from proxy.record import OPAQUE
from proxy.recorder.ledger import COLUMNS, Row
from proxy.recorder.metrics import Names

__all__ = ["Columns", "Decided", "Group", "Groups", "Kind", "Kinds", "kind_of"]

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
_words_of: Final = itemgetter(
    *map(COLUMNS.index, ("end", "status", "finish", "cut", "action", "choices", "dialect", "stream"))
)
_group_of: Final = itemgetter(*map(COLUMNS.index, ("upstream", "model", "app", "stream")))
_rest_of: Final = itemgetter(*map(COLUMNS.index, ("checkpoints", "rule", "action", "shadow")))
_MOST_GROUPS: Final = 64
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


class Kinds:
    """Every kind that was seen, by its number. There are some thousands that can be."""

    def __init__(self) -> None:
        self.known: list[Kind] = []
        self._numbers: dict[Kind, int] = {}
        self._words: dict[tuple[object, ...], int] = {}

    def number(self, words: tuple[object, ...]) -> int:
        """The number of the kind of these words."""
        found = self._words.get(words)
        if found is None:
            kind = kind_of(*words)  # type: ignore[arg-type] # a row is typed by its table
            found = self._numbers.setdefault(kind, len(self.known))
            if found == len(self.known):
                self.known.append(kind)
            if len(self._words) > 10_000:  # statuses and numbers of choices come from outside
                self._words.clear()
            self._words[words] = found
        return found


class Groups:
    """The groups that are told apart: names are bounded as labels are, and so are their combinations."""

    def __init__(self) -> None:
        self._upstreams, self._models, self._apps = Names(other=_OTHER), Names(other=_OTHER), Names(other=_OTHER)
        self._known: dict[tuple[object, ...], Group] = {}
        self._groups: set[Group] = set()

    def group(self, row: Row) -> Group:
        """The group of a row."""
        raw = _group_of(row)
        found = self._known.get(raw)
        return self._new(raw) if found is None else found

    def _new(self, raw: tuple[str | None, str | None, str | None, int]) -> Group:
        upstream, model, app, stream = raw
        group = Group(
            None if upstream is None else self._upstreams.bound(upstream),
            None if model is None else self._models.bound(model),
            None if app is None else self._apps.bound(app),
            bool(stream),
        )
        if group not in self._groups and len(self._groups) >= _MOST_GROUPS:
            return Group(_OTHER, _OTHER, _OTHER, bool(stream))
        self._groups.add(group)
        if len(self._known) < 4 * _MOST_GROUPS:
            self._known[raw] = group
        return group


class Columns:
    """Exchanges of one group, one below the other."""

    __slots__ = ("checkpoints", "decided", "kinds", "numbers", "order")

    def __init__(self) -> None:
        self.kinds = array("H")
        """The number of each row's kind."""
        self.numbers: dict[str, array[float]] = {name: array("d") for name in _NUMBERS}
        """The ledger's columns of that name."""
        self.checkpoints: list[str | None] = []
        """The ledger's text of them."""
        self.order = array("Q")
        """Numbers that rise from row to row, of whichever group it is."""
        self.decided: Counter[Decided] = Counter()
        """What rules did to these rows."""

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, name: str) -> "array[float]":
        return self.numbers[name]

    def append(self, rows: Sequence[Row], kinds: Kinds, first: int) -> None:
        """Take at least one row of the ledger; they are numbered from `first`.

        Raises:
            LookupError, TypeError, ValueError: they are no rows that a recorder wrote; nothing is taken.
        """
        numbers = [
            array("d", [_NAN if value is None else value for value in values])
            for values in zip(*map(_numbers_of, rows), strict=True)
        ]
        checkpoints, rules, actions, shadows = zip(*map(_rest_of, rows), strict=True)
        decided: Counter[Decided] = Counter()
        for (rule, action), times in Counter(zip(rules, actions, strict=True)).items():
            if rule is not None:
                decided[Decided(rule, action, "enforce")] += times
        for text, times in Counter(shadows).items():
            for shadow in () if text is None else orjson.loads(text):
                decided[Decided(shadow["rule"], shadow["action"], "shadow")] += times
        self.kinds.extend(array("H", map(kinds.number, map(_words_of, rows))))
        for name, values in zip(_NUMBERS, numbers, strict=True):
            self.numbers[name].extend(values)
        self.order.extend(range(first, first + len(rows)))
        self.checkpoints.extend(checkpoints)
        self.decided.update(decided)

    def extend(self, other: "Columns") -> None:
        """Take all rows of another."""
        self.kinds.extend(other.kinds)
        for name, values in self.numbers.items():
            values.extend(other.numbers[name])
        self.order.extend(other.order)
        self.checkpoints.extend(other.checkpoints)
        self.decided.update(other.decided)

    def part(self, start: int, stop: int) -> "Columns":
        """The rows from `start` to before `stop`; what rules did to them is not told apart."""
        part = Columns()
        part.kinds = self.kinds[start:stop]
        part.numbers = {name: values[start:stop] for name, values in self.numbers.items()}
        part.order = self.order[start:stop]
        part.checkpoints = self.checkpoints[start:stop]
        return part

    def kind_rows(self, known: Sequence[Kind]) -> list[Kind]:
        """Each row's kind."""
        return [known[number] for number in self.kinds]
