"""The one query that a source answers, in the SQL that SQLite and ClickHouse share; and its window of time.

Layer: evidence. Only names of columns and numbers get into the text, never a value of a user's.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.evidence.sources.exchanges import COLUMNS, SourceError

__all__ = ["Window", "select"]


@dataclass(frozen=True, slots=True)
class Window:
    """Which exchanges are meant, by their start."""

    since_unix_s: float | None = None
    """First moment; None from the first exchange on."""
    until_unix_s: float | None = None
    """First moment after the window; None to the last exchange."""


def select(table: str, present: Iterable[str], window: Window) -> str:
    """The query of `COLUMNS` over a table or view that has the columns `present`; a column that it lacks is NULL.

    Rows are ordered by start and id, so that both engines give equal sums to the last digit.

    Raises:
        SourceError: the table has not the columns without which a row says nothing.
    """
    names = set(present)
    if missing := {"started_at", "end"} - names:
        raise SourceError(f"{table} has no column {' and no column '.join(sorted(missing))}")
    columns = ", ".join(f'"{name}"' if name in names else f'NULL AS "{name}"' for name in COLUMNS)
    bounds = [
        f'"started_at" {sign} {unix_s!r}'
        for sign, unix_s in ((">=", window.since_unix_s), ("<", window.until_unix_s))
        if unix_s is not None
    ]
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    order = ", ".join(f'"{name}"' for name in ("started_at", "id") if name in names)
    return f'SELECT {columns} FROM "{table}"{where} ORDER BY {order}'  # noqa: S608 -- names and numbers of our own
