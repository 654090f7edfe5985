"""The last exchanges, one by one: what the ledger's row says of each, and what happened when.

Layer: recorder. Facts alone: no content, no key and no name of one. Of an exchange that this recorder saw end the whole timeline is
known; of one that it read in the ledger, what the ledger keeps of it. Names are shortened, for they come from clients.

Source: ARCHITECTURE.md 7 "Ledger", "Times and tokens".
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from proxy.record import ExchangeRecord
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
_PLACES: Final = {name: COLUMNS.index(name) for name in (*_FACTS, "ttfc_s", "ttfa_s", "last_token_s", "checkpoints")}


class Recent:
    """The last exchanges."""

    def __init__(self) -> None:
        self._seen: deque[tuple[Row, ExchangeRecord | None]] = deque(maxlen=KEPT)

    def take(self, rows: Iterable[Row | None], records: Iterable[ExchangeRecord]) -> None:
        """Take exchanges that just ended, with their rows; those without a row are left out."""
        self._seen.extend((row, record) for row, record in zip(rows, records, strict=True) if row is not None)

    def restore(self, rows: Iterable[Row]) -> None:
        """Take older exchanges, the latest first, as long as there is room."""
        for row in rows:
            if len(self._seen) == KEPT:
                return
            self._seen.appendleft((row, None))

    def last(self, takes: Callable[[Row], bool]) -> list[dict[str, Any]]:
        """The facts of the last exchanges that are asked for, the latest first."""
        found = []
        for row, _ in reversed(self._seen):
            if takes(row):
                found.append(_facts(row))
                if len(found) == SHOWN:
                    break
        return found

    def one(self, exchange_id: str) -> dict[str, Any] | None:
        """The facts of one exchange and its timeline; None when it is not kept any more."""
        for row, record in reversed(self._seen):
            if row[_PLACES["id"]] == exchange_id:
                return _facts(row) | _timeline(row, record)
        return None


def _facts(row: Row) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in _FACTS:
        value = row[_PLACES[name]]
        facts[name] = f"{value[:_LONGEST_NAME]}…" if isinstance(value, str) and len(value) > _LONGEST_NAME else value
    return facts


def _timeline(row: Row, record: ExchangeRecord | None) -> dict[str, Any]:
    """`marks`: [name, seconds since the first of them]; `checkpoints`: [tokens, seconds likewise]."""
    marks = _marks_of_row(row) if record is None else _marks_of_record(record)
    known = sorted(((name, at_s) for name, at_s in marks if at_s is not None), key=lambda mark: mark[1])
    sent_s = next((at_s for name, at_s in known if name == "sent"), None)
    text = row[_PLACES["checkpoints"]]
    points = orjson.loads(text) if isinstance(text, str) and sent_s is not None else []
    return {
        "marks": [[name, round(at_s, 6)] for name, at_s in known],
        "checkpoints": [[tokens, round(sent_s + elapsed_s, 6)] for tokens, elapsed_s in points if sent_s is not None],
    }


def _marks_of_record(record: ExchangeRecord) -> list[tuple[str, float | None]]:
    response = record.response
    stamps = (
        ("accepted", record.accepted_ns),
        ("request complete", record.request_complete_ns),
        ("connecting", record.connect_started_ns if record.connected_ns is not None else None),
        ("connected", record.connected_ns),
        ("sent", record.request_sent_ns),
        ("headers", record.headers_ns),
        ("first byte", response.first_chunk_ns),
        ("first token", response.first_token_ns),
        ("first answer token", response.first_answer_ns),
        ("last token", response.last_token_ns),
        ("last byte", response.end_ns),
        ("end", record.ended_ns),
    )
    return [(name, None if at_ns is None else (at_ns - record.accepted_ns) / 1e9) for name, at_ns in stamps]


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
