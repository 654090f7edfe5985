"""Days are the unit of every interval."""

import math

import numpy as np
import pytest

from proxy.evidence.blocks import (
    DAY_S,
    Interval,
    blocks_of,
    quantile,
    ratio_interval,
    share_upper,
    t_quantile,
    total_interval,
)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (1, 12.7062047362),
        (2, 4.3026527297),
        (3, 3.1824463053),
        (6, 2.4469118511),
        (29, 2.0452296421),
    ],
)
def test_students_t_is_that_of_the_tables(degrees: int, expected: float) -> None:
    """The 97.5% quantile, for even and odd degrees."""
    assert t_quantile(degrees) == pytest.approx(expected, abs=1e-9)


def test_a_block_is_a_day_of_utc() -> None:
    """Days without an exchange are no blocks; order does not matter."""
    starts = np.array([3 * DAY_S + 1, 10, DAY_S - 0.5, 3 * DAY_S])
    assert blocks_of(starts).tolist() == [1, 0, 0, 1]


def test_a_ratio_varies_as_its_days_do() -> None:
    """By hand: days off by 0.1 up and down; the error is sqrt(4/3 x 4 x 0.01) / 400, times t of 3 degrees."""
    seconds, tokens, days = np.array([0.9, 1.1, 0.9, 1.1]), np.full(4, 100.0), np.arange(4)
    reach = 3.182446305284263 * math.sqrt(4 / 3 * 4 * 0.01) / 400
    assert ratio_interval(seconds, tokens, days) == pytest.approx((0.01 - reach, 0.01 + reach))


def test_exchanges_of_one_day_are_one_observation() -> None:
    """Splitting a day's sum into many exchanges does not narrow the interval."""
    whole = ratio_interval(np.array([0.9, 1.1, 0.9, 1.1]), np.full(4, 100.0), np.arange(4))
    parts = ratio_interval(np.repeat([0.9, 1.1, 0.9, 1.1], 50) / 50, np.full(200, 2.0), np.repeat(np.arange(4), 50))
    assert parts == pytest.approx(whole)


def test_a_total_varies_as_its_days_do() -> None:
    """By hand: the days' standard deviation is 2 / sqrt(3); a total is never below nought."""
    reach = 3.182446305284263 * 2 * math.sqrt(4 / 3)
    assert total_interval(np.array([9.0, 11.0, 9.0, 11.0]), np.arange(4)) == pytest.approx((40 - reach, 40 + reach))
    assert total_interval(np.array([0.0, 0.0, 0.0, 4.0]), np.arange(4)).low == 0.0


@pytest.mark.parametrize("days", [0, 1, 3])
def test_below_four_days_there_is_no_interval(days: int) -> None:
    """However many exchanges there are."""
    blocks = np.arange(days * 100) % max(days, 1)
    values = np.ones(days * 100)
    assert (ratio_interval(values, values, blocks), total_interval(values, blocks)) == (None, None)


def test_days_that_agree_leave_no_doubt() -> None:
    """An interval of no width, not none."""
    assert total_interval(np.ones(4), np.arange(4)) == Interval(4.0, 4.0)


def test_a_quantile_is_of_what_is_known() -> None:
    """Linear between neighbours; of nothing it is unknown."""
    assert quantile(np.array([1.0, np.nan, 2.0, 4.0]), 0.75) == 3.0
    assert quantile(np.array([np.nan]), 0.5) is None


def test_no_hit_in_few_trials_bounds_little() -> None:
    """Wilson: nought of ten may be 28%, nought of a thousand 0.4%, and 1 of 2 anything up to 91%."""
    assert [round(share_upper(hits, trials), 4) for hits, trials in ((0, 10), (0, 1000), (1, 2), (0, 0))] == [
        0.2775,
        0.0038,
        0.9055,
        1.0,
    ]
