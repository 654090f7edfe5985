"""A source by its name."""

from pathlib import Path

import pytest

from proxy.evidence.sources.exchanges import AbsentError
from proxy.evidence.sources.query import Window
from proxy.evidence.sources.source import read
from tests.support.ledgers import STARTED_AT, make_row, write_ledger


def test_a_path_is_a_ledger(tmp_path: Path) -> None:
    """Its rows are read."""
    assert len(read(str(write_ledger(tmp_path / "l.sqlite", [make_row()])))) == 1


def test_no_row_is_said(tmp_path: Path) -> None:
    """An empty answer would look like a measured nothing."""
    path = str(write_ledger(tmp_path / "l.sqlite", [make_row()]))
    with pytest.raises(AbsentError, match="holds no exchange in this window of time"):
        read(path, Window(since_unix_s=STARTED_AT + 1))
    with pytest.raises(AbsentError, match=r"holds no exchange$"):
        read(str(write_ledger(tmp_path / "none.sqlite", [])))


def test_an_address_is_clickhouse() -> None:
    """Nobody answers on a port that nobody listens to."""
    with pytest.raises(AbsentError, match=r"ClickHouse at 127\.0\.0\.1:1 does not answer: Connection refused"):
        read("clickhouse://reader@127.0.0.1:1/default")
