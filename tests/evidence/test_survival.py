"""Lengths that limits cut short."""

import numpy as np
import pytest

from proxy.evidence.survival import kaplan_meier, lengths_of
from tests.support.exchanges import exchanges


def test_the_curve_of_the_textbook() -> None:
    """By hand: 6 answers; of 3 at 10 tokens two ended there and one was cut there, so it counts as at risk."""
    curve = kaplan_meier(np.array([5.0, 10, 10, 10, 20, 30]), np.array([True, True, True, False, False, True]))
    assert curve.tokens.tolist() == [5, 10, 20, 30]
    assert curve.survival.tolist() == pytest.approx([5 / 6, 5 / 6 * 3 / 5, 1 / 2, 0])
    assert [curve.quantile(share) for share in (0.1, 0.5, 0.51, 1.0)] == [5, 10, 30, 30]


def test_without_censoring_a_quantile_is_that_of_the_sample() -> None:
    """Rounding in a long product moves none of them."""
    curve = kaplan_meier(np.arange(1.0, 1001), np.ones(1000, bool))
    assert [curve.quantile(share) for share in (0.5, 0.9, 0.95, 0.99)] == [500, 900, 950, 990]
    assert kaplan_meier(np.arange(1.0, 11), np.ones(10, bool)).quantile(0.8) == 8


def test_beyond_the_largest_limit_nothing_is_identified() -> None:
    """One in four is cut at the limit: the median is known, the 90th percentile is not guessed."""
    natural = [{"output_tokens": tokens, "forwarded_max_tokens": 200} for tokens in (50, 100, 150)]
    lengths = lengths_of(
        exchanges(*natural, {"output_tokens": 200, "forwarded_max_tokens": 200, "finish": "length", "cut": 1})
    )
    assert [lengths.quantile(share) for share in (0.5, 0.75, 0.9)] == [100, 150, None]
    assert (lengths.n, lengths.censored, lengths.identified_up_to) == (4, 1, 200)


@pytest.mark.parametrize(
    ("rows", "up_to"),
    [
        ([{"output_tokens": 50, "forwarded_max_tokens": 300}, {"output_tokens": 90, "forwarded_max_tokens": 200}], 300),
        ([{"output_tokens": 50, "forwarded_max_tokens": 300}, {"output_tokens": 90, "forwarded_max_tokens": None}], 90),
        ([{"output_tokens": 50}, {"output_tokens": 90, "end": "client_disconnect"}], 90),
        ([{"output_tokens": None}], None),
    ],
)
def test_data_reach_to_the_largest_limit_or_the_longest_answer(
    rows: list[dict[str, object]], up_to: int | None
) -> None:
    """The limit, where every answer ended below one; else what was seen."""
    assert lengths_of(exchanges(*rows)).identified_up_to == up_to


def test_what_did_not_end_by_itself_is_censored() -> None:
    """The client left, the stream broke, a filter ended it; answers of several choices have no length."""
    rows = [
        {"output_tokens": 10},
        {"output_tokens": 20, "end": "client_disconnect", "finish": None, "cut": None},
        {"output_tokens": 30, "end": "broken"},
        {"output_tokens": 40, "finish": "content_filter"},
        {"output_tokens": 50, "choices": 2, "decoded_tokens": None},
        {"output_tokens": None, "end": "rejected", "status": 400},
    ]
    lengths = lengths_of(exchanges(*rows))
    assert (lengths.n, lengths.censored) == (4, 3)
    assert lengths.curve.survival.tolist() == pytest.approx([0.75] * 4)


def test_randomised_limits_leave_the_tail_unbiased() -> None:
    """Limits drawn by lot cut a third of the answers; the share above 512 tokens is found within 2 points."""
    rng = np.random.default_rng(11)
    natural = np.exp(rng.normal(5.6, 0.9, 8000))
    limit = rng.choice([128, 512, 2048], 8000)
    curve = kaplan_meier(np.minimum(natural, limit), natural <= limit)
    found = curve.survival[np.searchsorted(curve.tokens, 512, side="right") - 1]
    assert found == pytest.approx((natural > 512).mean(), abs=0.02)
