"""What a cap would have done: exact where it was observed, silent where it was not."""

import json

import numpy as np
import pytest

from proxy.evidence.what_if import what_if
from tests.support.exchanges import close, exchanges, exchanges_of
from tests.support.ledgers import DAY_S, STARTED_AT
from tests.support.traffic import decoding_s, ledger_rows


def _saved(*changes: dict[str, object], cap: int) -> float | None:
    (outcome,) = what_if(exchanges(*changes), [cap])
    return outcome.latency_saved_s


STREAM = {"output_tokens": 201, "decoded_tokens": 201, "ttft_s": 1.0, "last_token_s": 5.0, "e2e_s": 5.5, "tpot_s": 0.02}


@pytest.mark.parametrize(
    ("changes", "cap", "expected"),
    [
        ({}, 101, 2.0),  # no checkpoint: the answer's own pace, 100 tokens of 20 ms
        ({}, 1, 4.0),
        ({"checkpoints": "[[101, 2.0]]"}, 101, 3.0),  # the checkpoint is what was observed
        ({"checkpoints": "[[101, 2.0]]"}, 51, 3.5),  # half way from the first token to it
        ({"checkpoints": "[[101, 2.0]]"}, 151, 1.5),  # half way from it to the last token
        ({"checkpoints": "[[64, 1.5], [128, 2.0], [192, 4.0]]"}, 160, 2.0),
        ({"checkpoints": "[[64, 1.5], [201, 5.0]]"}, 64, 3.5),  # a checkpoint at the last token is that token
        (
            {"checkpoints": "[[1, 0.5], [101, 2.0], [300, 9.0]]"},
            51,
            3.5,
        ),  # one at the first token, or beyond the last, says nothing
        ({"checkpoints": "[[1, 0.5], [101, 2.0], [300, 9.0]]"}, 151, 1.5),
        ({"output_tokens": 301}, 201, 2.0),  # 100 hidden tokens came first: the cap falls on the 101st that was shown
        ({"output_tokens": 301}, 50, 4.0),  # among the hidden ones: at least all that was streamed
        ({"ttft_s": None}, 101, 2.0),  # only the pace is known
        ({"ttft_s": None, "tpot_s": None, "stream": 0}, 101, None),  # nothing is known
        ({}, 201, 0.0),
        ({}, 500, 0.0),
    ],
)
def test_time_saved_is_read_from_the_answers_own_line(
    changes: dict[str, object], cap: int, expected: float | None
) -> None:
    """From the cap's token to the last one."""
    assert _saved(STREAM | changes, cap=cap) == (None if expected is None else pytest.approx(expected))


def test_one_answers_line_does_not_touch_its_neighbours() -> None:
    """Rows with and without checkpoints, in any order, save what they save alone."""
    rows = [
        STREAM,
        STREAM | {"checkpoints": "[[101, 2.0]]"},
        STREAM | {"stream": 0, "ttft_s": None, "tpot_s": None},
        STREAM,
    ]
    assert _saved(*rows, cap=101) == pytest.approx(2.0 + 3.0 + 2.0)


def test_counts_are_of_complete_answers() -> None:
    """A cut one saves tokens and is not newly cut; others count for nothing; who has a smaller limit is not governed."""
    rows = [
        {"output_tokens": 300, "forwarded_max_tokens": 512},
        {"output_tokens": 300, "forwarded_max_tokens": None},
        {"output_tokens": 400, "forwarded_max_tokens": 400, "finish": "length", "cut": 1},
        {"output_tokens": 50, "forwarded_max_tokens": 100},
        {"output_tokens": None, "forwarded_max_tokens": 512},
        {"output_tokens": 900, "forwarded_max_tokens": 512, "choices": 3, "decoded_tokens": None},
        {"output_tokens": 300, "end": "client_disconnect"},
        {"output_tokens": 300, "status": 500},
    ]
    (outcome,) = what_if(exchanges(*rows), [100])
    found = (outcome.complete, outcome.governed, outcome.longer, outcome.newly_cut, outcome.tokens_saved)
    assert found == (6, 5, 3, 2, 700)
    assert outcome.newly_cut_share == pytest.approx(2 / 6)


def test_the_95th_percentile_moves_by_what_was_saved() -> None:
    """An answer whose saving is unknown keeps its time."""
    rows = [STREAM, STREAM | {"stream": 0, "ttft_s": None, "tpot_s": None, "e2e_s": 3.0}]
    (outcome,) = what_if(exchanges(*rows), [101])
    assert (outcome.longer, outcome.timed, outcome.latency_saved_s) == (2, 1, pytest.approx(2.0))
    assert (outcome.e2e_p95_before_s, outcome.e2e_p95_after_s) == (
        pytest.approx(3 + 0.95 * 2.5),
        pytest.approx(3 + 0.95 * 0.5),
    )


def test_the_interval_is_by_days() -> None:
    """Four days that agree; with three there is none."""
    days = [STREAM | {"started_at": STARTED_AT + day * DAY_S} for day in range(4)]
    four, three = (what_if(exchanges(*days[:count]), [101])[0].latency_saved_ci95 for count in (4, 3))
    assert (close(four), three) == ([8.0, 8.0], None)


@pytest.mark.parametrize(("checkpoints", "allowed"), [(True, 0.01), (False, 0.05)])
def test_simulated_truth_is_reached(checkpoints: bool, allowed: float) -> None:
    """Decoding slows by 10% in 1,000 tokens: tokens are exact, time within 1% with checkpoints and 5% without."""
    rows = list(ledger_rows(np.random.default_rng(3), exchanges=2000, days=7, growth=0.1, checkpoints=checkpoints))
    for cap, outcome in zip((128, 512, 1024), what_if(exchanges_of(rows), (128, 512, 1024)), strict=True):
        longer = [row for row in rows if row["output_tokens"] > cap]
        truth_s = 0.0
        for row in longer:
            n = row["output_tokens"]
            pace_s = (row["last_token_s"] - row["ttft_s"]) / decoding_s(np.array([n]), 1.0, 0.1)[0]
            whole_s, capped_s = decoding_s(np.array([n, cap]), pace_s, 0.1)
            truth_s += whole_s - capped_s
        assert outcome.tokens_saved == sum(row["output_tokens"] - cap for row in longer)
        assert outcome.newly_cut == sum(row["finish"] == "stop" for row in longer)
        assert outcome.latency_saved_s == pytest.approx(truth_s, rel=allowed)


def test_no_complete_answer_is_no_error() -> None:
    """Nothing saved, nothing known of times."""
    (outcome,) = what_if(exchanges({"end": "broken", "checkpoints": json.dumps([[64, 1.0]])}), [64])
    assert (outcome.complete, outcome.tokens_saved, outcome.newly_cut_share, outcome.e2e_p95_before_s) == (
        0,
        0,
        None,
        None,
    )
