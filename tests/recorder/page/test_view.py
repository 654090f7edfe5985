"""Windows and filters."""

import itertools

import numpy as np
import pytest

from proxy.recorder.page.cell import Figures
from proxy.recorder.page.columns import Group
from proxy.recorder.page.history import History
from proxy.recorder.page.view import WINDOWS, Filter, Views, Window
from tests.support.ledgers import make_row
from tests.support.page_rows import page_rows

NOW_S = 1_790_000_000.0


def _traffic(known: History, views: Views | None, looks: list[Window], minutes: int) -> None:
    """Uneven traffic of three models, looked at now and then."""
    rng = np.random.default_rng(5)
    rows = page_rows(
        *(
            make_row(model=f"m{n % 3}", app=None if n % 2 else "a", output_tokens=int(n) + 2, stream=int(n % 5 > 0))
            for n in range(60)
        )
    )
    now_s = known.now_s
    for _ in range(minutes):
        for _ in range(rng.integers(0, 6)):
            known.take([rows[rng.integers(60)]], now_s + rng.random() * 10)
        now_s += 60 * rng.choice((0.05, 0.2, 1, 4, 30), p=(0.3, 0.3, 0.3, 0.08, 0.02))
        if views is not None and rng.random() < 0.3:
            known.advance(now_s)
            for window in looks:
                views.steps(window, Filter(model="m1"))
    known.advance(now_s)


def _counts(steps: list[Figures]) -> list[tuple[int, int]]:
    return [(step.tally.exchanges, step.outcomes.longer[3]) for step in steps]


@pytest.mark.parametrize("window", WINDOWS.values())
def test_a_view_that_was_kept_says_what_a_new_one_says(window: Window) -> None:
    """Whenever somebody looked in between, and however long nobody did."""
    known = History(NOW_S)
    views = Views(known)
    _traffic(known, views, [window], 1500)
    for chosen in (Filter(model="m1"), Filter()):
        assert _counts(views.steps(window, chosen)) == _counts(Views(known).steps(window, chosen))
    assert len(views.steps(window, Filter())) == window.length_s // window.step_s


@pytest.mark.parametrize("window", WINDOWS.values())
def test_a_window_has_what_ended_in_it(window: Window) -> None:
    """By steps: those that began with the window, to the running one."""
    known, ended_s = History(NOW_S), []
    (row,) = page_rows(make_row())
    for now_s in np.arange(NOW_S, NOW_S + 90_000, 37.0):
        known.take([row], float(now_s))
        ended_s.append(float(now_s))
    known.advance(ended_s[-1])
    since_s = window.since_s(known.now_s)
    expected = [
        sum(since_s + n * window.step_s <= at_s < since_s + (n + 1) * window.step_s for at_s in ended_s)
        for n in range(window.length_s // window.step_s)
    ]
    found = [step.tally.exchanges for step in Views(known).steps(window, Filter())]
    assert found == expected
    assert 0 <= known.now_s - (since_s + window.length_s - window.step_s) < window.step_s


def test_filters_divide_the_exchanges() -> None:
    """Each group is in one part of each; the empty name is that of exchanges without one."""
    known = History(NOW_S)
    _traffic(known, None, [], 30)
    views, window = Views(known), WINDOWS[86_400]
    everything = Figures.total(views.steps(window, Filter())).tally.exchanges
    for parts in (
        [Filter(model=f"m{n}") for n in range(3)],
        [Filter(app=""), Filter(app="a")],
        [Filter(stream=True), Filter(stream=False)],
        [
            Filter(model=f"m{n}", app=app, stream=stream)
            for n, app, stream in itertools.product(range(3), ("", "a"), (True, False))
        ],
    ):
        assert sum(Figures.total(views.steps(window, chosen)).tally.exchanges for chosen in parts) == everything > 0
    assert views.steps(window, Filter(upstream="other"))[-1].tally.exchanges == 0


def test_groups_and_columns_are_those_of_the_window() -> None:
    """An older group cannot be chosen any more."""
    known = History(NOW_S)
    views = Views(known)
    known.take(page_rows(make_row(model="old")), NOW_S)
    known.take(page_rows(make_row(model="new"), make_row(model="new", app=None)), NOW_S + 300)
    known.advance(NOW_S + 301)
    assert views.groups(WINDOWS[60]) == {
        Group("openai", "new", "search", stream=True),
        Group("openai", "new", None, stream=True),
    }
    assert len(views.groups(WINDOWS[900])) == 3
    assert sum(map(len, views.columns(WINDOWS[900], Filter()))) == 3
    assert sum(map(len, views.columns(WINDOWS[900], Filter(model="old")))) == 1


def test_views_are_bounded_and_notice_that_the_past_changed() -> None:
    """However many filters are asked for; what is restored is in the next reading."""
    known = History(NOW_S)
    views = Views(known)
    for n in range(40):
        views.steps(WINDOWS[3600], Filter(model=f"m{n}"))
    assert len(views._views) == 16
    known.take(page_rows(make_row()), NOW_S)
    known.advance(NOW_S + 60)
    views.steps(WINDOWS[3600], Filter())
    known.restore((NOW_S - 600, row) for row in page_rows(make_row()))
    assert sum(step.tally.exchanges for step in views.steps(WINDOWS[3600], Filter())) == 2
