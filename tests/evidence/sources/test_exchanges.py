"""Rows become columns; what cannot be one is unknown."""

import itertools
from dataclasses import fields

import numpy as np
import pytest

from proxy.evidence.sources.exchanges import COLUMNS, Exchanges, collect
from proxy.recorder.ledger import COLUMNS as LEDGER_COLUMNS
from tests.support.ledgers import make_row


def _columns(*rows: dict[str, object], batch: int = 100) -> Exchanges:
    values = [tuple(row.get(name) for name in COLUMNS) for row in rows]
    return collect(values[at : at + batch] for at in range(0, len(values), batch))


def _points(exchanges: Exchanges) -> list[list[tuple[float, float]]]:
    points, starts = exchanges.checkpoints, exchanges.checkpoints.starts
    return [
        list(zip(points.tokens[first:last].tolist(), points.elapsed_s[first:last].tolist(), strict=True))
        for first, last in itertools.pairwise(starts)
    ]


def test_every_column_is_one_of_the_ledger() -> None:
    """Nothing is read that the recorder does not write."""
    assert [name for name in COLUMNS if name not in LEDGER_COLUMNS] == []


def test_null_is_unknown_and_zero_is_measured() -> None:
    """Numbers have NaN, words have no code."""
    exchanges = _columns(make_row(output_tokens=None, app=None), make_row(output_tokens=0, app="mail"))
    assert np.array_equal(exchanges.output_tokens, [np.nan, 0.0], equal_nan=True)
    assert exchanges.app.texts() == [None, "mail"]
    assert exchanges.app.among("mail", "never").tolist() == [False, True]


@pytest.mark.parametrize("wrong", ["many", b"x", float("inf")])
def test_a_number_that_is_none_is_unknown(wrong: object) -> None:
    """A column of SQLite may hold anything; its neighbours stay."""
    exchanges = _columns(make_row(output_tokens=3), make_row(output_tokens=wrong))
    assert np.array_equal(exchanges.output_tokens, [3.0, np.nan], equal_nan=True)


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_checkpoints_stay_with_their_row(batch: int) -> None:
    """Rows without points, and rows whose points cannot be read, have none, in whatever batches they come."""
    exchanges = _columns(
        make_row(checkpoints="[[64,0.5],[128,1.0]]"),
        make_row(),
        make_row(checkpoints="[[64,0.5"),
        make_row(checkpoints='[[64,"x"]]'),
        make_row(checkpoints="[[64]]"),
        make_row(checkpoints="7"),
        make_row(checkpoints="[[128,1.0],[64,0.5]]"),
        make_row(checkpoints="[[1,0.25]]"),
        batch=batch,
    )
    assert _points(exchanges) == [[(64.0, 0.5), (128.0, 1.0)], [], [], [], [], [], [], [(1.0, 0.25)]]


def test_a_falling_point_spoils_its_own_row_alone() -> None:
    """The next row may begin below the last one's end."""
    exchanges = _columns(
        make_row(checkpoints="[[64,1],[128,2]]"),
        make_row(checkpoints="[[32,1],[64,0.5]]"),
        make_row(checkpoints="[[8,1]]"),
    )
    assert _points(exchanges) == [[(64.0, 1.0), (128.0, 2.0)], [], [(8.0, 1.0)]]


@pytest.mark.parametrize("rows", [np.array([2, 0]), np.array([True, False, True])])
def test_chosen_rows_take_all_their_columns_with_them(rows: np.ndarray) -> None:
    """Numbers, words and checkpoints are those of the rows chosen, in the order chosen."""
    exchanges = _columns(
        make_row(model="a", e2e_s=1.0, checkpoints="[[1,1.0],[2,2.0]]"),
        make_row(model="b", e2e_s=2.0, checkpoints="[[3,3.0]]"),
        make_row(model="c", e2e_s=3.0, checkpoints="[[4,4.0]]"),
    ).take(rows)
    chosen = [
        (exchanges.model.texts()[at], exchanges.e2e_s[at], _points(exchanges)[at]) for at in range(len(exchanges))
    ]
    by_model = sorted(chosen, reverse=rows.dtype != bool)
    assert chosen == by_model
    assert sorted(chosen) == [("a", 1.0, [(1.0, 1.0), (2.0, 2.0)]), ("c", 3.0, [(4.0, 4.0)])]


def test_no_row_is_no_error() -> None:
    """Every column is there, of length nought."""
    exchanges = collect([])
    assert len(exchanges) == 0
    assert [len(getattr(exchanges, each.name)) for each in fields(exchanges) if each.name.endswith("_s")] == [0] * 7
    assert _points(exchanges) == []


def test_complete_is_a_whole_answer_with_a_2xx_status() -> None:
    """Neither a relayed error nor a broken stream, nor an unknown status."""
    exchanges = _columns(
        make_row(), make_row(status=204), make_row(status=429), make_row(status=None), make_row(end="broken")
    )
    assert exchanges.complete.tolist() == [True, True, False, False, False]
