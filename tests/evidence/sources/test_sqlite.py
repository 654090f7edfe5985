"""The ledger's file is read, and only read."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from proxy.evidence.sources.exchanges import AbsentError, SourceError
from proxy.evidence.sources.query import Window
from proxy.evidence.sources.sqlite import read
from proxy.recorder.ledger import Ledger, rows_of
from tests.support.ledgers import STARTED_AT, make_row, write_ledger
from tests.support.records import make_record


def test_rows_come_in_the_order_of_their_start(tmp_path: Path) -> None:
    """Whatever the order in which they were written; equal starts by id."""
    rows = [make_row(id=name, started_at=STARTED_AT + at, model=name) for name, at in (("c", 1), ("b", 0), ("a", 1))]
    assert read(write_ledger(tmp_path / "l.sqlite", rows), Window()).model.texts() == ["b", "a", "c"]


def test_only_exchanges_of_the_window_are_read(tmp_path: Path) -> None:
    """From the first moment on, up to the one after the last."""
    path = write_ledger(tmp_path / "l.sqlite", [make_row(started_at=STARTED_AT + at) for at in range(5)])
    assert read(path, Window(STARTED_AT + 1, STARTED_AT + 3)).started_at.tolist() == [STARTED_AT + 1, STARTED_AT + 2]


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Asking leaves no trace."""
    with pytest.raises(AbsentError, match="there is no ledger at"):
        read(tmp_path / "l.sqlite", Window())
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_anything_in_it_is_empty(tmp_path: Path) -> None:
    """A recorder that died before its first table leaves one."""
    (tmp_path / "l.sqlite").touch()
    with pytest.raises(AbsentError, match="is empty"):
        read(tmp_path / "l.sqlite", Window())


def test_another_schema_is_refused_by_both_versions(tmp_path: Path) -> None:
    """A reader of columns that mean something else would be wrong in silence."""
    path = write_ledger(tmp_path / "l.sqlite", [make_row()])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(SourceError, match=r"has schema version 7, this Lengthwise reads version 1$"):
        read(path, Window())


@pytest.mark.parametrize("make", [lambda path: path.write_text("no ledger " * 100), Path.mkdir])
def test_what_is_no_ledger_is_said_to_be_none(tmp_path: Path, make: object) -> None:
    """A text file, a folder."""
    make(tmp_path / "l.sqlite")
    with pytest.raises(SourceError, match="cannot be read as a ledger"):
        read(tmp_path / "l.sqlite", Window())


def test_a_ledger_is_read_while_a_recorder_writes_to_it(tmp_path: Path) -> None:
    """What is committed is seen, though it is in the write-ahead log only; and the writer goes on."""
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.write(rows_of([make_record(id="a")]))
    assert len(read(tmp_path / "l.sqlite", Window())) == 1
    ledger.write(rows_of([make_record(id="b")]))
    assert len(read(tmp_path / "l.sqlite", Window())) == 2
    ledger.close()


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """Not a byte of the file, and nothing is left beside it."""
    path = write_ledger(tmp_path / "l.sqlite", [make_row()])
    before = path.read_bytes()
    assert len(read(path, Window())) == 1
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("l.sqlite", before)]


def test_columns_of_a_later_version_are_not_in_the_way(tmp_path: Path) -> None:
    """Columns are added; the ones that are known still mean what they did."""
    path = write_ledger(tmp_path / "l.sqlite", [make_row()])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE exchange ADD COLUMN mood TEXT DEFAULT 'good'")
        connection.execute("ALTER TABLE exchange DROP COLUMN arm")
    exchanges = read(path, Window())
    assert (exchanges.model.texts(), exchanges.arm.texts()) == (["gpt-4o"], [None])
