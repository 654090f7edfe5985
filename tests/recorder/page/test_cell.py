"""One group's exchanges in one span of time."""

from collections import Counter

import numpy as np
import pytest

from proxy.recorder.page.cell import Cell, Figures
from proxy.recorder.page.columns import Columns, Decided, Words
from tests.support.ledgers import make_row
from tests.support.page_rows import columns_of, messy_rows, page_rows

ROWS = page_rows(*messy_rows(np.random.default_rng(3), 2500))
WORDS = Words()


def _cell(start: int, stop: int) -> Cell:
    columns = Columns()
    columns.append(ROWS[start:stop], WORDS, start)
    return Cell(WORDS, columns)


def _counts(figures: Figures) -> tuple[object, ...]:
    found = figures.tally
    return found.exchanges, found.ends, found.ttft_s, found.utilization, dict(figures.decided)


def test_figures_follow_what_is_added() -> None:
    """Asked before and after, with some in between: those of all that there is."""
    cell = _cell(0, 1700)
    cell.figures()
    cell.extend(_cell(1700, 2500))
    assert not cell.is_figured
    assert _counts(cell.figures()) == _counts(_cell(0, 2500).figures())
    assert cell.figures().outcomes.longer == _cell(0, 2500).figures().outcomes.longer
    assert cell.is_figured


@pytest.mark.parametrize("asked", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("given_up", [(), (0,), (1,), (0, 1)])
def test_two_cells_make_one_of_all_their_exchanges(asked: tuple[int, ...], given_up: tuple[int, ...]) -> None:
    """Whether their figures were asked for before, and whether they still hold the exchanges."""
    cells = [_cell(0, 1200), _cell(1200, 2500)]
    for place in asked:
        cells[place].figures()
    for place in given_up:
        cells[place].give_up()
    cells[0].extend(cells[1])
    assert _counts(cells[0].figures()) == _counts(_cell(0, 2500).figures())
    assert len(cells[0]) == (0 if given_up else 2500)
    if not given_up:
        assert cells[0].figures().outcomes.complete == _cell(0, 2500).figures().outcomes.complete


def test_what_caps_do_is_known_of_exchanges_that_were_held_when_somebody_looked() -> None:
    """The rest has its tally alone, and the outcomes say of how many they are."""
    cell = _cell(0, 1000)
    complete = cell.figures().outcomes.complete
    cell.columns.extend(_cell(1000, 2000).columns)
    cell.give_up()
    cell.extend(_cell(2000, 2500))
    assert _counts(cell.figures()) == _counts(_cell(0, 2500).figures())
    assert (cell.figures().outcomes.complete, len(cell)) == (complete, 0)


def test_decisions_are_those_of_all_parts() -> None:
    """Held, summed up, or both."""
    cell, other = (
        Cell(*columns_of(page_rows(*(make_row(rule="cap", action="capped") for _ in range(6))))[::-1]) for _ in range(2)
    )
    cell.give_up()
    cell.extend(other)
    assert cell.figures().decided == Counter({Decided("cap", "capped", "enforce"): 12})
    assert Figures.total([]).decided == Counter()
