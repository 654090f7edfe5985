"""Exchanges as columns: what the evidence reads of a ledger's rows, whichever engine keeps them.

Layer: evidence. A column has the ledger's name and unit. In numbers NaN is unknown, as NULL is in the ledger; in words the
code -1 is. What a column cannot hold (text where a number belongs, a broken list of checkpoints) is unknown as well.

Source: ARCHITECTURE.md 7 "Ledger".
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from proxy.errors import LengthwiseError

__all__ = [
    "COLUMNS",
    "AbsentError",
    "Checkpoints",
    "Exchanges",
    "Floats",
    "Ints",
    "Mask",
    "SourceError",
    "Words",
    "collect",
]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]


class SourceError(LengthwiseError):
    """A source that is none, or of another schema; the message says what was found."""


class AbsentError(LengthwiseError):
    """A source in which there is nothing to read: no file, no row, nobody who answers."""


@dataclass(frozen=True, slots=True)
class Words:
    """A column of text: each row's word by its code."""

    codes: NDArray[np.int32]
    """Index into `known`; -1 where the word is unknown."""
    known: tuple[str, ...]

    def among(self, *words: str) -> Mask:
        """Rows whose word is one of these; an unknown word is none of them."""
        return np.isin(self.codes, [self.known.index(word) for word in words if word in self.known])

    def take(self, rows: Mask | Ints) -> "Words":
        """The chosen rows, in their order."""
        return Words(self.codes[rows], self.known)

    def texts(self) -> list[str | None]:
        """Each row's word."""
        known = (*self.known, None)
        return [known[code] for code in self.codes]


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """For each row its (tokens, elapsed seconds) while it streamed, tokens rising; rows may have none."""

    starts: Ints
    """Row i has the points `starts[i]` to `starts[i + 1]`, so there is one more of these than there are rows."""
    tokens: Floats
    elapsed_s: Floats

    def take(self, rows: Mask | Ints) -> "Checkpoints":
        """The chosen rows, in their order."""
        chosen = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        counts = np.diff(self.starts)[chosen]
        starts = np.concatenate(([0], np.cumsum(counts)))
        points = np.repeat(self.starts[:-1][chosen] - starts[:-1], counts)
        points += np.arange(starts[-1])
        return Checkpoints(starts, self.tokens[points], self.elapsed_s[points])


@dataclass(frozen=True, slots=True)
class Exchanges:
    """The rows of a source, ordered by start and id; every column has as many elements as there are rows."""

    started_at: Floats
    """Unix time in seconds."""
    stream: Floats
    """1 or 0."""
    status: Floats
    cut: Floats
    """1 when any choice was ended by the limit, 0 when none was."""
    requested_max_tokens: Floats
    forwarded_max_tokens: Floats
    """NaN as well when no limit was forwarded."""
    choices: Floats
    input_tokens: Floats
    cached_input_tokens: Floats
    output_tokens: Floats
    reasoning_tokens: Floats
    decoded_tokens: Floats
    ttft_s: Floats
    ttfa_s: Floats
    last_token_s: Floats
    e2e_s: Floats
    tpot_s: Floats
    client_blocked_s: Floats
    overhead_s: Floats
    upstream: Words
    provider: Words
    dialect: Words
    model: Words
    app: Words
    key_name: Words
    end: Words
    finish: Words
    rule: Words
    action: Words
    arm: Words
    arm_unit: Words
    """What was assigned to its arm as one: `block:N`, or a bucket of a header's value; unknown where each exchange was alone."""
    usage_source: Words
    degraded: Words
    checkpoints: Checkpoints

    def __len__(self) -> int:
        return len(self.started_at)

    def take(self, rows: Mask | Ints) -> Self:
        """The chosen rows (a mask, or indexes), in their order."""
        columns: dict[str, Any] = {}
        for column in fields(self):
            values = getattr(self, column.name)
            columns[column.name] = values[rows] if isinstance(values, np.ndarray) else values.take(rows)
        return type(self)(**columns)

    @property
    def complete(self) -> Mask:
        """Whole answers with a 2xx status: what evidence is made of."""
        return self.end.among("complete") & (self.status >= 200) & (self.status < 300)


COLUMNS: Final = tuple(column.name for column in fields(Exchanges))
"""The ledger's columns that are read, in the order in which `collect` takes them."""
_WORDS: Final = frozenset(column.name for column in fields(Exchanges) if column.type is Words)


def collect(batches: Iterable[Sequence[Sequence[object]]]) -> Exchanges:
    """Exchanges of rows that come in batches; a row has the values of `COLUMNS`, None where unknown."""
    parts: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    codes = {name: _Codes() for name in _WORDS}
    counts: list[NDArray[np.int64]] = []
    for batch in batches:
        for name, values in zip(COLUMNS, zip(*batch, strict=True), strict=False):
            if name in _WORDS:
                coded = np.fromiter(map(codes[name].__getitem__, values), np.int32, len(values))
                parts[name].append(coded)
            elif name == "checkpoints":
                count, points = _points(values)
                counts.append(count)
                parts[name].append(points)
            else:
                parts[name].append(_numbers(values))
    columns: dict[str, Any] = {}
    for name, arrays in parts.items():
        if name in _WORDS:
            columns[name] = Words(np.concatenate([np.empty(0, np.int32), *arrays]), tuple(codes[name].known))
        elif name == "checkpoints":
            starts = np.concatenate(([0], np.cumsum(np.concatenate([np.empty(0, np.int64), *counts]))))
            tokens, elapsed_s = (np.concatenate([np.empty(0), *(each[:, side] for each in arrays)]) for side in (0, 1))
            columns[name] = Checkpoints(starts, tokens, elapsed_s)
        else:
            columns[name] = np.concatenate([np.empty(0), *arrays])
        arrays.clear()
    return Exchanges(**columns)


class _Codes(dict[object, int]):
    """The code of each value of a column; a new one gets the next."""

    def __init__(self) -> None:
        super().__init__({None: -1})
        self.known: list[str] = []

    def __missing__(self, value: object) -> int:
        self[value] = len(self.known)
        self.known.append(str(value))
        return self[value]


def _numbers(values: Sequence[object]) -> Floats:
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array([value if isinstance(value, int | float) else None for value in values], dtype=np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def _points(texts: Sequence[object]) -> tuple[NDArray[np.int64], Floats]:
    """How many checkpoints each row has, and all of them, one below the other."""
    written = [text if isinstance(text, str) and text else "[]" for text in texts]
    try:  # one call for the batch; a batch with a broken row in it is read row by row
        rows = orjson.loads(f"[{','.join(written)}]")
        counts = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        points = _pairs(itertools.chain.from_iterable(rows))
    except (TypeError, ValueError):
        rows = [_row_points(text) for text in written]
        counts = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        points = np.concatenate([np.empty((0, 2)), *rows])
    owner = np.repeat(np.arange(len(counts)), counts)
    rising = np.diff(points, axis=0) >= 0
    falls = ~rising.all(axis=1) & (owner[1:] == owner[:-1])
    broken = np.zeros(len(counts), bool)
    broken[owner[1:][falls]] = True
    broken[owner[~np.isfinite(points).all(axis=1)]] = True
    return np.where(broken, 0, counts), points[~broken[owner]]


def _pairs(points: Iterable[object]) -> Floats:
    pairs = np.array(list(points), dtype=np.float64)
    if pairs.size and (pairs.ndim != 2 or pairs.shape[1] != 2):
        raise ValueError("not pairs")
    return pairs.reshape(-1, 2)


def _row_points(text: str) -> Floats:
    try:
        return _pairs(orjson.loads(text))
    except (TypeError, ValueError):
        return np.empty((0, 2))
