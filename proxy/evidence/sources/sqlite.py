"""The ledger's file as a source.

Layer: evidence. The file is opened for reading alone and never created; a recorder may write to it meanwhile (WAL): one
query sees one state.

Source: sqlite.org/uri.html, sqlite.org/wal.html.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from proxy.evidence.sources.exchanges import AbsentError, Exchanges, SourceError, collect
from proxy.evidence.sources.query import Window, select
from proxy.record import LEDGER_VERSION

__all__ = ["read"]

_BATCH_ROWS: Final = 10_000
_BUSY_S: Final = 5.0


def read(path: Path, window: Window) -> Exchanges:
    """The exchanges of a ledger's file; may be none.

    Raises:
        AbsentError: there is no such file, or nothing was ever written to it.
        SourceError: it is no ledger, or one of another schema version.
    """
    if not path.exists():
        raise AbsentError(f"there is no ledger at {path}")
    try:
        with contextlib.closing(_connect(path)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            present = [name for _, name, *_ in connection.execute("PRAGMA table_info(exchange)")]
            if not version and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise AbsentError(f"the ledger {path} is empty")
            if version != LEDGER_VERSION:
                raise SourceError(
                    f"the ledger {path} has schema version {version}, this Lengthwise reads version {LEDGER_VERSION}"
                )
            return collect(_batches(connection, select("exchange", present, window)))
    except sqlite3.Error as error:
        raise SourceError(f"{path} cannot be read as a ledger: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    """A reading connection.

    SQLite reads a write-ahead log with the help of a file beside it. Where it may create none and no writer has left one
    (a copy on a medium that cannot be written), nobody can write to the ledger either, and it is read as it lies.
    """
    uri = path.absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=_BUSY_S)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        connection = sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)
    return connection


def _batches(connection: sqlite3.Connection, query: str) -> Iterator[Sequence[Sequence[object]]]:
    cursor = connection.execute(query)
    while rows := cursor.fetchmany(_BATCH_ROWS):
        yield rows
