"""The ledger's file as a source.

Layer: evidence. The file is opened for reading alone and never created; a recorder may write to it meanwhile (WAL): one
query sees one state. Nothing is left beside it.

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

_BATCH_ROWS: Final = 1000
"""More are slower: their checkpoints outgrow the processor's cache and wake the garbage collector."""
_BUSY_S: Final = 5.0


def read(path: Path, window: Window) -> Exchanges:
    """The exchanges of a ledger's file; may be none.

    Raises:
        AbsentError: there is no such file, or nothing was ever written to it.
        SourceError: it is no ledger, or one of another schema version.
    """
    try:
        state = _state_at_rest(path)
        if state is not None:
            # SQLite would make the files of a write-ahead log to read without one, or fail where it may not write.
            with contextlib.suppress(sqlite3.Error):
                exchanges = _read(path, "mode=ro&immutable=1", window)
                if _state_at_rest(path) == state:
                    return exchanges
        return _read(path, "mode=ro", window)
    except FileNotFoundError:
        raise AbsentError(f"there is no ledger at {path}") from None
    except (OSError, sqlite3.Error) as error:
        raise SourceError(f"{path} cannot be read as a ledger: {error}") from error


def _state_at_rest(path: Path) -> tuple[int, int] | None:
    """Size and time of a file that nobody has open for writing; None while a write-ahead log is beside it."""
    found = path.stat()
    return None if path.with_name(f"{path.name}-wal").exists() else (found.st_size, found.st_mtime_ns)


def _read(path: Path, how: str, window: Window) -> Exchanges:
    uri = f"{path.absolute().as_uri()}?{how}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        present = [name for _, name, *_ in connection.execute("PRAGMA table_info(exchange)")]
        if not version and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise AbsentError(f"the ledger {path} is empty")
        if version != LEDGER_VERSION:
            raise SourceError(
                f"the ledger {path} has schema version {version}, this Lengthwise reads version {LEDGER_VERSION}"
            )
        return collect(_batches(connection, select("exchange", present, window)))


def _batches(connection: sqlite3.Connection, query: str) -> Iterator[Sequence[Sequence[object]]]:
    cursor = connection.execute(query)
    while rows := cursor.fetchmany(_BATCH_ROWS):
        yield rows
