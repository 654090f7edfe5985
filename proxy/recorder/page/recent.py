"""The last exchanges, one by one: what the ledger's row says of each, and what happened when.

Layer: recorder. Facts alone: no content, no key and no name of one. Of an exchange that this recorder saw end the whole timeline is
known; of one that it read in the ledger, what the ledger keeps of it. Names are shortened, for they come from clients.

Source: ARCHITECTURE.md 7 "Ledger", "Times and tokens".
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Final

import orjson

from proxy.record import ExchangeRecord, ResponseFacts
from proxy.recorder.ledger import COLUMNS, Row

__all__ = ["KEPT", "SHOWN", "Recent"]

KEPT: Final = 1000
"""Exchanges that are kept, so that a filter finds some of its own."""
SHOWN: Final = 200
_LONGEST_NAME: Final = 200
_FACTS: Final = (
    "id",
    "started_at",
    "model",
    "app",
    "upstream",
    "dialect",
    "stream",
    "status",
    "end",
    "error_type",
    "finish",
    "cut",
    "requested_max_tokens",
    "forwarded_max_tokens",
    "input_tokens",
    "output_tokens",
    "usage_source",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "overhead_s",
    "client_blocked_s",
    "rule",
    "action",
    "arm",
    "degraded",
    "trace_id",
)
"""The ledger's columns that are shown."""
_MARKS: Final = (
    ("accepted", "accepted_ns"),
    ("request complete", "request_complete_ns"),
    ("connecting", "connect_started_ns"),
    ("connected", "connected_ns"),
    ("sent", "request_sent_ns"),
    ("headers", "headers_ns"),
    ("end", "ended_ns"),
)
"""Marks of a timeline, and the stamps of a record that they are."""
_MARKS_OF_RESPONSE: Final = (
    ("first byte", "first_chunk_ns"),
    ("first token", "first_token_ns"),
    ("first answer token", "first_answer_ns"),
    ("last token", "last_token_ns"),
    ("last byte", "end_ns"),
)
_stamps_of: Final = itemgetter(*(ExchangeRecord._fields.index(stamp) for _, stamp in _MARKS))
_stamps_of_response: Final = itemgetter(*(ResponseFacts._fields.index(stamp) for _, stamp in _MARKS_OF_RESPONSE))
_PLACES: Final = {name: COLUMNS.index(name) for name in (*_FACTS, "ttfc_s", "ttfa_s", "last_token_s", "checkpoints")}


class Recent:
    """The last exchanges.

    Each is kept as a line: some hundred small objects that live for a while and are scattered when they go would cost more than to write it.
    """

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=KEPT)
        """Row and stamps of each, as JSON."""

    def take(self, rows: Iterable[Row | None], records: Iterable[ExchangeRecord]) -> None:
        """Take exchanges that just ended, with their rows; those without a row are left out."""
        for row, record in zip(rows, records, strict=True):
            if row is not None:
                self._lines.append(orjson.dumps((row, _stamps_of(record) + _stamps_of_response(record.response))))

    def restore(self, rows: Iterable[Row]) -> None:
        """Take older exchanges, the latest first, as long as there is room."""
        for row in rows:
            if len(self._lines) == KEPT:
                return
            self._lines.appendleft(orjson.dumps((row, None)))

    def last(self, takes: Callable[[Row], bool]) -> list[dict[str, Any]]:
        """The facts of the last exchanges that are asked for, the latest first."""
        found = []
        for line in reversed(self._lines):
            row = tuple(orjson.loads(line)[0])
            if takes(row):
                found.append(_facts(row))
                if len(found) == SHOWN:
                    break
        return found

    def one(self, exchange_id: str) -> dict[str, Any] | None:
        """The facts of one exchange and its timeline; None when it is not kept any more."""
        for row, stamps in map(orjson.loads, reversed(self._lines)):
            if row[_PLACES["id"]] == exchange_id:
                return _facts(row) | _timeline(row, stamps)
        return None


def _facts(row: Row) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in _FACTS:
        value = row[_PLACES[name]]
        facts[name] = f"{value[:_LONGEST_NAME]}…" if isinstance(value, str) and len(value) > _LONGEST_NAME else value
    return facts


def _timeline(row: Row, stamps: Sequence[int | None] | None) -> dict[str, Any]:
    """`marks`: [name, seconds since the first of them]; `checkpoints`: [tokens, seconds likewise]."""
    marks = _marks_of_row(row) if stamps is None else _marks_of_stamps(stamps)
    known = sorted(((name, at_s) for name, at_s in marks if at_s is not None), key=lambda mark: mark[1])
    sent_s = next((at_s for name, at_s in known if name == "sent"), None)
    text = row[_PLACES["checkpoints"]]
    points = orjson.loads(text) if isinstance(text, str) and sent_s is not None else []
    return {
        "marks": [[name, round(at_s, 6)] for name, at_s in known],
        "checkpoints": [[tokens, round(sent_s + elapsed_s, 6)] for tokens, elapsed_s in points if sent_s is not None],
    }


def _marks_of_stamps(stamps: Sequence[int | None]) -> list[tuple[str, float | None]]:
    accepted_ns, marks = stamps[0], (*_MARKS, *_MARKS_OF_RESPONSE)
    assert accepted_ns is not None
    found = {
        name: None if at_ns is None else (at_ns - accepted_ns) / 1e9
        for (name, _), at_ns in zip(marks, stamps, strict=True)
    }
    if found["connected"] is None:
        found["connecting"] = None  # and did not get there
    return list(found.items())


def _marks_of_row(row: Row) -> list[tuple[str, Any]]:
    def at(column: str) -> Any:
        return row[_PLACES[column]]

    return [
        ("sent", 0.0 if at("e2e_s") is not None else None),
        ("first byte", at("ttfc_s")),
        ("first token", at("ttft_s")),
        ("first answer token", at("ttfa_s")),
        ("last token", at("last_token_s")),
        ("last byte", at("e2e_s")),
    ]
