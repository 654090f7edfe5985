"""Records on disk: one SQLite table, one row for each exchange.

Layer: recorder. One writer; readers (report, a user's own sqlite3) may read at any time, as WAL lets them. A ledger that
cannot be written costs rows, which are counted, and never the process. No column holds content or a credential.

Source: ARCHITECTURE.md 7 "Ledger"; sqlite.org/wal.html.
"""

import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.errors import LengthwiseError
from proxy.policy.disarm import Answer
from proxy.policy.slack import Length
from proxy.record import LEDGER_VERSION, Action, End, ExchangeRecord, ShadowDecision, cut_by

__all__ = ["COLUMNS", "Ledger", "LedgerError", "Row", "recent_lengths", "row", "rows_of", "shadow_json"]

_BUSY_S: Final = 1.0
"""How long a commit waits for another writer: longer than the recorder of a supervisor that is being succeeded holds it."""
_STILL_BUSY_S: Final = 0.1
"""How long, while the one before waited in vain: rows are worth less than the records behind them."""
_RETRY_S: Final = 0.005
_SLICE_ROWS: Final = 2000
_LENGTHS: Final = 100_000
_INT64 = range(-(2**63), 2**63)

Value = str | int | float | None
Row = tuple[Value, ...]
"""The values of `COLUMNS`."""


class LedgerError(LengthwiseError):
    """A ledger that cannot be used."""


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)


def _finish(record: ExchangeRecord) -> str | None:
    """The first choice's word; `cut` tells about the others."""
    return record.finish_words[0] if record.finish_words else None


def shadow_json(record: ExchangeRecord) -> str | None:
    """What shadow rules would have done, `[{"rule","action","forwarded"}]`; None when none matched."""
    shadow = [decision._asdict() for decision in record.decision.shadow]
    return orjson.dumps(shadow).decode() if shadow else None


def _checkpoints(record: ExchangeRecord) -> str | None:
    points = record.checkpoints_s
    return orjson.dumps(points).decode() if points else None


_TABLE: Final[tuple[tuple[str, str, Callable[[ExchangeRecord], Value]], ...]] = (
    ("id", "TEXT PRIMARY KEY", lambda r: r.id),
    ("started_at", "REAL NOT NULL", lambda r: r.started_at_s),
    ("upstream", "TEXT", lambda r: r.upstream),
    ("provider", "TEXT", lambda r: r.provider),
    ("dialect", "TEXT NOT NULL", lambda r: r.request.dialect),
    ("model", "TEXT", lambda r: r.request.model),
    ("response_model", "TEXT", lambda r: r.response.response_model),
    ("app", "TEXT", lambda r: r.app),
    ("key_name", "TEXT", lambda r: r.key_name),
    ("stream", "INTEGER NOT NULL", lambda r: int(r.streamed)),
    ("status", "INTEGER", lambda r: r.status),
    ("end", "TEXT NOT NULL", lambda r: r.end.value),
    ("finish", "TEXT", _finish),
    ("cut", "INTEGER", lambda r: _flag(r.cut)),
    ("requested_max_tokens", "INTEGER", lambda r: r.request.requested_max_tokens),
    ("forwarded_max_tokens", "INTEGER", lambda r: r.decision.forwarded_max_tokens),
    ("limit_field", "TEXT", lambda r: r.decision.limit_field or r.request.limit_field),
    ("rule", "TEXT", lambda r: r.decision.rule),
    ("action", "TEXT NOT NULL", lambda r: r.decision.action.value),
    ("arm", "TEXT", lambda r: r.decision.arm),
    ("shadow", "TEXT", shadow_json),
    ("choices", "INTEGER", lambda r: r.request.choices),
    ("input_tokens", "INTEGER", lambda r: r.response.usage.input_tokens if r.response.usage else None),
    ("cached_input_tokens", "INTEGER", lambda r: r.response.usage.cached_input_tokens if r.response.usage else None),
    ("output_tokens", "INTEGER", lambda r: r.output_tokens),
    ("reasoning_tokens", "INTEGER", lambda r: r.response.usage.reasoning_tokens if r.response.usage else None),
    ("decoded_tokens", "INTEGER", lambda r: r.decoded_tokens),
    ("usage_source", "TEXT NOT NULL", lambda r: r.usage_source),
    ("ttfc_s", "REAL", lambda r: r.ttfc_s),
    ("ttft_s", "REAL", lambda r: r.ttft_s),
    ("ttfa_s", "REAL", lambda r: r.ttfa_s),
    ("last_token_s", "REAL", lambda r: r.last_token_s),
    ("e2e_s", "REAL", lambda r: r.e2e_s),
    ("tpot_s", "REAL", lambda r: r.tpot_s),
    ("checkpoints", "TEXT", _checkpoints),
    ("client_blocked_s", "REAL", lambda r: r.client_blocked_s),
    ("overhead_s", "REAL", lambda r: r.overhead_s),
    ("degraded", "TEXT", lambda r: r.degraded),
    ("error_type", "TEXT", lambda r: r.error_type),
    ("trace_id", "TEXT NOT NULL", lambda r: r.trace_id),
    ("arm_unit", "TEXT", lambda r: r.decision.unit),
)
COLUMNS: Final = tuple(name for name, _, _ in _TABLE)
"""Columns in their order; `end` is a word of SQL and needs quotes in a query."""
_STARTED_AT, _E2E_S = COLUMNS.index("started_at"), COLUMNS.index("e2e_s")
_FIRST_COLUMNS: Final = 40
"""Those of the first ledgers of this version."""

_CREATE = (
    "CREATE TABLE exchange (" + ", ".join(f'"{name}" {kind}' for name, kind, _ in _TABLE) + ")",
    "CREATE INDEX exchange_started_at ON exchange (started_at)",
    f"PRAGMA user_version = {LEDGER_VERSION}",
)
_NAMED = ", ".join(f'"{name}"' for name in COLUMNS)
"""Named, for the table may get columns of a later version while this one still writes."""
_INSERT = f"INSERT OR IGNORE INTO exchange ({_NAMED}) VALUES ({', '.join('?' * len(_TABLE))})"  # noqa: S608 -- no values


def row(record: ExchangeRecord) -> Row:
    """The ledger's row of a record, in the order of `COLUMNS`.

    Raises:
        TypeError: the record holds a value that no column can.
    """
    values = tuple(_storable(read(record)) for _, _, read in _TABLE)
    if None in (values[0], values[1]):
        raise TypeError("a row needs its id and its time")
    return values


def _storable(value: Value) -> Value:
    if type(value) is int:
        return value if value in _INT64 else None
    if value is None or type(value) is float or type(value) is str:
        return value
    raise TypeError("no column holds this")


def rows_of(records: Iterable[ExchangeRecord]) -> list[Row | None]:
    """Each record's row; None for one that no row can hold. Never raises."""
    rows: list[Row | None] = []
    for record in records:
        try:
            rows.append(row(record))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            rows.append(None)
    return rows


class Ledger:
    """The open ledger of one recorder. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open or create the ledger at `path`, for its owner's eyes only when it is new.

        Raises:
            LedgerError: it cannot be opened, or is not of this version's schema.
        """
        self.written = 0
        """Rows committed."""
        self.failed = 0
        """Rows that could not be written."""
        self.error: str | None = None
        """Why the last rows were not written; None when they were."""
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"the ledger {path} cannot be opened (ledger.path): {_reason(error)}") from error
        try:
            self._prepare()
            (self._last_rowid,) = self._connection.execute("SELECT coalesce(max(rowid), 0) FROM exchange").fetchone()
        except sqlite3.Error as error:
            self._connection.close()
            raise LedgerError(f"the ledger {path} cannot be opened (ledger.path): {_reason(error)}") from error
        except LedgerError:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if version != LEDGER_VERSION and (version or tables):
            raise LedgerError(
                f"the ledger's schema is version {version}, this Lengthwise writes version {LEDGER_VERSION}: "
                "name another file in ledger.path"
            )
        self._use_wal()
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("BEGIN IMMEDIATE")  # another recorder may begin or extend the same file
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        for statement in () if version else _CREATE:
            self._connection.execute(statement)
        columns = tuple(name for _, name, *_ in self._connection.execute("PRAGMA table_info(exchange)"))
        if columns == COLUMNS[: len(columns)] and len(columns) >= _FIRST_COLUMNS:
            for name, kind, _ in _TABLE[len(columns) :]:  # columns that came since are added at the end
                self._connection.execute(f'ALTER TABLE exchange ADD COLUMN "{name}" {kind}')
        elif columns[: len(COLUMNS)] != COLUMNS:  # a later version may have added some: a step back must not lose rows
            raise LedgerError("the ledger's table has other columns than its version says: name another file")
        self._connection.execute("COMMIT")

    def _use_wal(self) -> None:
        """For this lock SQLite does not wait by itself, and of two recorders that begin a file one finds it taken."""
        late_s = time.monotonic() + _BUSY_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if time.monotonic() > late_s:
                    raise
                time.sleep(_RETRY_S)
            else:
                return

    def write(self, found: Sequence[Row | None]) -> bool:
        """Commit rows in one transaction; False when that failed. What is not written counts as failed, as None does."""
        rows = [row for row in found if row is not None]
        self.failed += len(found) - len(rows)
        before = self._connection.total_changes
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_INSERT, rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.failed += len(rows)
            self.error = _reason(error)
            self._roll_back()
            self._wait_at_most(_STILL_BUSY_S)
            return False
        if self.error is not None:
            self._wait_at_most(_BUSY_S)
        written = self._connection.total_changes - before
        self.written += written
        self.failed += len(rows) - written
        self.error = None
        return True

    def answers(self, rule: str, since_unix_s: float, most: int) -> list[Answer]:
        """The last answers that a rule decided or would have, oldest first; none when they cannot be read."""
        query = (
            'SELECT rule, cut, action, requested_max_tokens, forwarded_max_tokens, "end", output_tokens, choices, shadow '
            "FROM exchange WHERE started_at >= ? AND status BETWEEN 200 AND 299 AND (rule = ? OR instr(shadow, ?)) "
            "ORDER BY started_at DESC LIMIT ?"
        )
        named = orjson.dumps({"rule": rule})[1:-1].decode()
        try:
            rows = self._connection.execute(query, (since_unix_s, rule, named, most)).fetchall()
            return [_answer(*row) for row in reversed(rows)]
        except (sqlite3.Error, LookupError, TypeError, ValueError):
            return []

    def before(self, since_unix_s: float, most: int) -> Iterator[list[tuple[float, Row]]]:
        """Rows that were there when this ledger was opened, and when each exchange ended, the latest first, in slices.

        Nothing more comes when they cannot be read.
        """
        query = (
            f"SELECT rowid, {_NAMED} FROM exchange WHERE rowid <= ? AND started_at >= ? AND (started_at, rowid) < (?, ?) "  # noqa: S608 -- no values
            "ORDER BY started_at DESC, rowid DESC LIMIT ?"
        )
        last: tuple[Any, int] = (math.inf, 0)
        while most > 0:
            try:
                values = (self._last_rowid, since_unix_s, *last, min(most, _SLICE_ROWS))
                found = self._connection.execute(query, values).fetchall()
                rows = [(row[1 + _STARTED_AT] + (row[1 + _E2E_S] or 0.0), row[1:]) for row in found]
            except (sqlite3.Error, TypeError):
                return
            if not rows:
                return
            yield rows
            most -= len(rows)
            last = (found[-1][1 + _STARTED_AT], found[-1][0])

    def forget(self, before_unix_s: float) -> bool:
        """Delete one slice of the rows that started before; True while there may be more."""
        query = (
            "DELETE FROM exchange WHERE rowid IN (SELECT rowid FROM exchange WHERE started_at < ? "
            "ORDER BY started_at LIMIT ?)"
        )
        try:
            return self._connection.execute(query, (before_unix_s, _SLICE_ROWS)).rowcount == _SLICE_ROWS
        except sqlite3.Error as error:
            self.error = _reason(error)
            return False

    def close(self) -> None:
        """Close the file; its write-ahead log is merged into it."""
        try:
            self._connection.close()
        except sqlite3.Error as error:
            self.error = _reason(error)

    def _wait_at_most(self, seconds: float) -> None:
        self._connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self.error = _reason(error)


def recent_lengths(path: Path) -> list[Length]:
    """The last answers of a ledger that came whole; none where it is absent or cannot be read. It is only read."""
    query = (
        "SELECT upstream, dialect, model, app, output_tokens FROM exchange "
        "WHERE \"end\" = 'complete' AND status BETWEEN 200 AND 299 AND output_tokens IS NOT NULL "
        "ORDER BY started_at DESC LIMIT ?"
    )
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return [Length(*row) for row in connection.execute(query, (_LENGTHS,))]
    except sqlite3.Error:
        return []


def _answer(  # noqa: PLR0917 -- a row
    rule: str | None,
    cut: int | None,
    action: str,
    requested: int | None,
    forwarded: int | None,
    end: str,
    output_tokens: int | None,
    choices: int | None,
    shadow: str | None,
) -> Answer:
    decisions = [] if shadow is None else orjson.loads(shadow)
    return Answer(
        rule,
        cut_by(bool(cut), Action(action), requested, forwarded) == "policy",
        end == End.COMPLETE and cut is not None,
        output_tokens,
        choices,
        tuple(ShadowDecision(each["rule"], Action(each["action"]), each["forwarded"]) for each in decisions),
    )


def _reason(error: OSError | sqlite3.Error) -> str:
    """A short reason in the system's own words: names no value of a row."""
    return (error.strerror or "unreadable") if isinstance(error, OSError) else str(error)
