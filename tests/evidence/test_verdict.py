"""Intervals and verdicts: by hand, and how often they are wrong."""

import math

import numpy as np
import pytest

from proxy.evidence.verdict import Estimate, Verdict, _half_width, judged, margin_s, sequence, trimmed, units_needed
from tests.support.probe_drift import false_alarms


@pytest.mark.parametrize(
    ("ci95", "verdict"),
    [
        ((0.001, 0.050), Verdict.DIFFERENT),
        ((-0.050, -0.001), Verdict.DIFFERENT),
        ((0.001, 0.002), Verdict.DIFFERENT),
        ((-0.010, 0.010), Verdict.EQUIVALENT),
        ((-0.011, 0.010), Verdict.UNDECIDED),
        ((-0.010, 0.011), Verdict.UNDECIDED),
        ((0.0, 0.050), Verdict.UNDECIDED),
        (None, Verdict.UNDECIDED),
    ],
)
def test_an_interval_decides(ci95: tuple[float, float] | None, verdict: Verdict) -> None:
    """Without zero: different, however small. Within 10 ms: equivalent. Else, or without an interval: undecided."""
    assert judged(ci95, 0.010) is verdict


def test_the_margin_is_a_share_of_the_wait_and_at_least_ten_milliseconds() -> None:
    """A time per token has no floor: 10 ms a token are seconds of an answer."""
    margins = [margin_s("ttft", 0.3), margin_s("ttft", 2.0), margin_s("e2e", 20.0), margin_s("tpot", 0.018)]
    assert margins == pytest.approx([0.010, 0.040, 0.4, 0.00036])


def test_a_trimmed_mean_and_its_interval_by_hand() -> None:
    """1 to 10 without its ends: mean 5.5, winsorised squares 66.5, t with 7 degrees 2.364624."""
    estimate = trimmed(np.arange(10, 0, -1.0))
    half = 2.3646242516 * math.sqrt(66.5 / (8 * 7))
    assert estimate.difference == 5.5
    assert estimate.ci95 == pytest.approx((5.5 - half, 5.5 + half), abs=1e-9)


def test_few_pairs_are_not_trimmed_and_one_has_no_interval() -> None:
    """Two differences of 1 and 3: the mean is 2, its error 1, and t with one degree 12.706205."""
    assert trimmed(np.array([3.0])) == Estimate(3.0, None)
    assert trimmed(np.array([1.0, 3.0])).ci95 == pytest.approx((2 - 12.7062047364, 2 + 12.7062047364), abs=1e-8)


def test_one_wait_of_seconds_does_not_decide_a_probe() -> None:
    """Of ten differences around 1 ms one is 5 s: the estimate stays, the interval stays finite in milliseconds."""
    estimate = trimmed(np.array([0.001] * 5 + [0.0015] * 4 + [5.0]))
    assert estimate.ci95 is not None
    assert -0.001 < estimate.ci95[0] < estimate.difference < estimate.ci95[1] < 0.003


def test_a_confidence_sequence_by_hand() -> None:
    """100 values of mean 1 and standard deviation 1.005038, narrowest at 100: 3.035209 errors wide to either side."""
    estimate = sequence(np.array([0.0, 2.0] * 50), best_at=100)
    half = math.sqrt(100 / 99) * 0.3035208990
    assert estimate.difference == 1.0
    assert estimate.ci95 == pytest.approx((1 - half, 1 + half), abs=1e-8)


def test_too_few_units_have_no_interval() -> None:
    """An asymptotic statement needs twenty, and more units than parameters."""
    values = np.array([0.0, 2.0] * 10)
    assert sequence(values[:19], best_at=100).ci95 is None
    assert sequence(values, best_at=100).ci95 is not None
    assert sequence(values, best_at=100, degrees_lost=19).ci95 is None


@pytest.mark.parametrize(("mean", "sd", "margin"), [(0.0, 0.2, 0.010), (0.008, 0.2, 0.010), (0.050, 0.2, 0.010)])
def test_the_number_needed_is_the_first_that_decides(mean: float, sd: float, margin: float) -> None:
    """With mean and spread as they are, that many units decide, and one fewer does not."""
    values = mean + sd * np.array([-1.0, 1.0] * 20)
    needed = units_needed(values, best_at=4000, margin=margin)
    decided = []
    for units in (needed - needed % 2 - 2, needed + needed % 2):
        spread = values.std(ddof=1) * math.sqrt((units - 1) / units)
        more = mean + np.array([-1.0, 1.0] * (units // 2)) * spread
        decided.append(judged(sequence(more, best_at=4000).ci95, margin) is not Verdict.UNDECIDED)
    assert decided == [False, True]


def test_looking_all_the_time_raises_no_alarm_where_there_is_nothing() -> None:
    """300 streams of noise, looked at after every tenth value: an interval without zero in at most 5% of them."""
    source = np.random.default_rng(7)
    halves = [0.2 * _half_width(units, 1000) for units in range(31, 3001, 10)]
    alarms = 0
    for _ in range(300):
        values = source.normal(0, 0.2, 3000)
        counts = np.arange(1, 3001)
        means = np.cumsum(values) / counts
        alarms += bool((np.abs(means[30::10]) > halves).any())
    assert alarms <= 15


def test_a_probe_in_drifting_load_is_wrong_about_nothing_no_more_than_said() -> None:
    """1,000 probes of 30 pairs without an effect: at most 6% find one, and on average they find none."""
    share, bias_s = false_alarms(seed=3, probes=1000)
    assert share <= 0.06
    assert abs(bias_s) < 0.005


def test_rounding_errors_are_no_difference() -> None:
    """Values that differ by less than a clock can tell are equal: either interval reaches a nanosecond to both sides."""
    values = np.full(40, 1e-17)
    for estimate in (sequence(values, best_at=100), trimmed(values)):
        assert estimate.ci95 == pytest.approx((-1e-9, 1e-9))
        assert judged(estimate.ci95, 0.010) is Verdict.EQUIVALENT
