"""A day in slots of time."""

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest

from proxy.recorder.page import history
from proxy.recorder.page.history import MOST_ROWS, History
from tests.support.ledgers import make_row
from tests.support.page_rows import page_rows

NOW_S = 1_790_000_000.0
(ROW,) = page_rows(make_row())


def _counts(known: History) -> dict[tuple[float, float], int]:
    """Exchanges of each slot by its begin and length."""
    return {
        (slot.start_s, slot.end_s - slot.start_s): sum(cell.figures().tally.exchanges for cell in slot.cells.values())
        for slot in known.slots(0)
    }


def _every(known: History, step_s: float, until_s: float) -> Iterator[float]:
    now_s = known.now_s
    while now_s < until_s:
        now_s += step_s
        yield now_s


def test_slots_grow_longer_as_they_grow_older() -> None:
    """As long as the window that needs them allows; none is older than a day, and there are never many."""
    known = History(NOW_S)
    taken = Counter[float]()
    for now_s in _every(known, 2.5, NOW_S + 30 * 3600):
        known.take([ROW], now_s)
        taken[now_s] += 1
    known.advance(known.now_s)
    counts = _counts(known)
    for (start_s, length_s), count in counts.items():
        youngest_s, oldest_s = {
            5: (0, 315),
            15: (285, 960),
            60: (840, 4320),
            720: (2880, 23_040),
            1440: (20_160, 90_000),
        }[length_s]
        assert youngest_s <= known.now_s - start_s <= oldest_s
        assert count == sum(1 for at_s in taken if start_s <= at_s < start_s + length_s)
    starts = sorted(counts)
    assert all(start + length == following for (start, length), (following, _) in itertools.pairwise(starts))
    assert known.now_s - 86_400 - 2880 <= starts[0][0] <= known.now_s - 86_400
    assert len(counts) < 250
    assert known.taken == len(taken)


def test_nothing_is_lost_whenever_somebody_looks() -> None:
    """Looked at often, once, or never before: the same exchanges at the same times."""
    often, never = History(NOW_S), History(NOW_S)
    for now_s in _every(often, 7.0, NOW_S + 5 * 3600):
        often.take([ROW, None, ROW], now_s)
        often.advance(now_s)
        never.take([ROW, ROW], now_s)
    for known in (often, never):
        known.advance(NOW_S + 5 * 3600)

    def by_twelve_minutes(known: History) -> Counter[int]:
        found: Counter[int] = Counter()
        for (start_s, _), count in _counts(known).items():
            found[int(start_s // 720)] += count
        return found

    assert by_twelve_minutes(often) == by_twelve_minutes(never)
    assert often.held == never.held == often.taken


def test_a_clock_that_steps_back_does_not_turn_back_time() -> None:
    """What comes then is of the moment that was."""
    known = History(NOW_S)
    known.take([ROW], NOW_S - 5000)
    known.advance(NOW_S - 5000)
    assert _counts(known) == {(NOW_S, 5): 1}


def test_the_oldest_exchanges_become_figures_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are held exactly, all are counted."""
    monkeypatch.setattr(history, "MOST_ROWS", 2000)
    known = History(NOW_S)
    for now_s in _every(known, 1.0, NOW_S + 1000):
        known.take([ROW] * 5, now_s)
    known.advance(known.now_s)
    assert sum(_counts(known).values()) == 5000
    held = [sum(map(len, slot.cells.values())) for slot in known.slots(0)]
    assert known.held == sum(held)
    assert 1900 < known.held <= 2000
    assert held == sorted(held, key=bool)  # nothing is held before what was given up
    assert MOST_ROWS == 100_000


def test_the_past_is_restored_where_it_was() -> None:
    """Whatever its age: what is older than a day is left out, what seems to come from the future is now."""
    known = History(NOW_S)
    ages_s = (-30.0, 100.0, 390.0, 2000.0, 20_000.0, 80_000.0, 95_000.0)
    known.take([ROW], NOW_S)
    known.restore((NOW_S - age_s, ROW) for age_s in ages_s)
    known.advance(NOW_S)
    assert _counts(known) == {
        (NOW_S - 80_000.0, 1440): 1,
        (NOW_S - 20_240.0, 720): 1,
        (NOW_S - 2000.0, 60): 1,
        (NOW_S - 395.0, 15): 1,
        (NOW_S - 100.0, 5): 1,
        (NOW_S, 5): 2,
    }


def test_preparing_makes_every_figure_bit_by_bit() -> None:
    """A thousand exchanges at a time; then there is nothing left to make."""
    known = History(NOW_S)
    known.take([ROW] * 3500, NOW_S)
    known.advance(NOW_S)
    assert [sum(1 for _ in known.prepare(0)) for _ in range(2)] == [4, 0]
