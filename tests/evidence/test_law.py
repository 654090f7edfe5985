"""The law of traffic whose truth is known, and who may say anything about it."""

import math
import statistics

import numpy as np
import pytest

from proxy.evidence.law import law_of, law_rows, line
from tests.support.exchanges import exchanges, exchanges_of
from tests.support.ledgers import DAY_S, STARTED_AT
from tests.support.traffic import TPOT_S, ledger_rows


@pytest.mark.parametrize(
    ("changes", "belongs"),
    [
        ({}, True),
        ({"decoded_tokens": 2}, True),
        ({"decoded_tokens": 1}, False),
        ({"decoded_tokens": None, "choices": 2}, False),
        ({"stream": 0}, False),
        ({"end": "client_disconnect"}, False),
        ({"status": 404}, False),
        ({"ttft_s": None}, False),
        ({"last_token_s": None}, False),
        ({"client_blocked_s": 0.5}, False),
        ({"client_blocked_s": None}, True),
        ({"finish": "length", "cut": 1}, True),
    ],
)
def test_the_law_is_of_streamed_whole_answers(changes: dict[str, object], belongs: bool) -> None:
    """With two tokens or more, known times, and a client that took them."""
    assert law_rows(exchanges(changes)).tolist() == [belongs]


def test_tpot_is_a_ratio_of_sums() -> None:
    """By hand: (0.99 + 3.0) / (99 + 100); a mean of the two paces would be 20 ms."""
    law = law_of(
        exchanges(
            {"decoded_tokens": 100, "ttft_s": 0.1, "last_token_s": 1.09},
            {"decoded_tokens": 101, "ttft_s": 0.3, "last_token_s": 3.3},
        )
    )
    assert law.tpot_s == pytest.approx(3.99 / 199)
    assert (law.n, law.ttft_p50_s, law.blocks, law.tpot_ci95) == (2, pytest.approx(0.2), 1, None)
    assert law.tpot_ci_method == "this sample only (1 day blocks, an interval needs 4)"


def test_without_such_answers_there_is_no_law() -> None:
    """Unknown, not nought."""
    law = law_of(exchanges({"stream": 0}))
    assert (law.n, law.tpot_s, law.ttft_p50_s, law.ttft_p95_s, law.blocks) == (0, None, None, None, 0)


def test_the_interval_is_by_days() -> None:
    """Four days are enough."""
    law = law_of(exchanges(*({"started_at": STARTED_AT + day * DAY_S} for day in range(4))))
    assert (law.blocks, law.tpot_ci95) == (4, pytest.approx((0.01, 0.01)))
    assert law.tpot_ci_method == "ratio of sums over day blocks, Student's t"


def test_a_line_is_the_least_squares_one() -> None:
    """As the standard library has it; rows of which one side is unknown are left out."""
    rng = np.random.default_rng(5)
    x = rng.normal(0, 1, 50)
    y = 3 - 2 * x + rng.normal(0, 1, 50)
    found = line(np.append(x, [np.nan, 1.0]), np.append(y, [1.0, np.nan]))
    slope, intercept = statistics.linear_regression(x.tolist(), y.tolist())
    r2 = statistics.correlation(x.tolist(), y.tolist()) ** 2
    assert found == pytest.approx((50, slope, intercept, r2))


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2])])
def test_points_that_make_no_line_make_none(x: list[float], y: list[float]) -> None:
    """Two points fit any; equal ones fit none."""
    assert line(np.array(x, float), np.array(y, float)) is None


def test_the_tokens_explain_the_time_and_the_pace_is_the_logs_own() -> None:
    """A week of simulated traffic: exact against its own sums, near to the planted pace, R2 above 0.9 on tokens."""
    rows = list(ledger_rows(np.random.default_rng(7), exchanges=4000, days=7))
    law = law_of(exchanges_of(rows))
    several = [row for row in rows if row["decoded_tokens"] >= 2]
    own = math.fsum(row["last_token_s"] - row["ttft_s"] for row in several) / sum(
        row["decoded_tokens"] - 1 for row in several
    )
    assert law.tpot_s == own
    assert law.tpot_s == pytest.approx(TPOT_S, rel=0.06)
    assert law.on_output_tokens.r2 > 0.9 > law.on_max_tokens.r2
    assert law.blocks == 7
    assert law.tpot_ci95.low < law.tpot_s < law.tpot_ci95.high


def test_day_intervals_cover_the_long_run() -> None:
    """Twenty weeks of traffic: the interval of at least 16 holds the pace of them all together."""
    weeks = [
        law_of(exchanges_of(ledger_rows(np.random.default_rng(seed), exchanges=600, days=7, checkpoints=False)))
        for seed in range(20)
    ]
    truth = statistics.fmean(law.tpot_s for law in weeks)
    assert sum(law.tpot_ci95.low <= truth <= law.tpot_ci95.high for law in weeks) >= 16
