"""One query for both engines."""

import pytest

from proxy.evidence.sources.exchanges import COLUMNS, SourceError
from proxy.evidence.sources.query import Window, select


def test_a_column_that_a_table_lacks_is_null() -> None:
    """A ledger may be older than a column."""
    present = {*COLUMNS, "id"} - {"arm"}
    columns = ", ".join('NULL AS "arm"' if name == "arm" else f'"{name}"' for name in COLUMNS)
    assert select("exchange", present, Window()) == f'SELECT {columns} FROM "exchange" ORDER BY "started_at", "id"'


def test_a_window_includes_its_first_moment_and_not_its_last() -> None:
    """Two windows that meet share no exchange."""
    query = select("exchange", COLUMNS, Window(10.5, 20.0))
    assert query.partition(" WHERE ")[2] == '"started_at" >= 10.5 AND "started_at" < 20.0 ORDER BY "started_at"'


def test_a_table_without_times_is_refused() -> None:
    """A row needs to say when it was and how it ended."""
    with pytest.raises(SourceError, match="exchange has no column end and no column started_at"):
        select("exchange", {"id", "model"}, Window())
