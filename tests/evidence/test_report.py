"""The report, whole, against figures worked out by hand."""

import math
import statistics
from typing import Any

import numpy as np

from proxy.evidence.report import CAPS_TOKENS, as_json, build
from proxy.evidence.sources.query import Window
from tests.support.exchanges import close, exchanges, exchanges_of
from tests.support.ledgers import DAY_S, STARTED_AT, make_row
from tests.support.traffic import ledger_rows

T3 = 3.182446305284263
"""Student's t of three degrees, 97.5%."""
DAY = [STARTED_AT + day * DAY_S for day in range(4)]
LONG = {"output_tokens": 101, "decoded_tokens": 101, "ttft_s": 0.2, "forwarded_max_tokens": 200}
NOTHING = dict.fromkeys(
    (
        *("finish", "cut", "output_tokens", "decoded_tokens", "ttft_s", "last_token_s", "e2e_s", "tpot_s"),
        *("requested_max_tokens", "forwarded_max_tokens"),
    )
)

A = {**LONG, "started_at": DAY[0], "last_token_s": 1.1, "e2e_s": 1.1, "tpot_s": 0.009}
B = {**LONG, "started_at": DAY[1], "last_token_s": 1.3, "e2e_s": 1.3, "tpot_s": 0.011, "finish": "length", "cut": 1} | {
    "forwarded_max_tokens": 101,
    "checkpoints": "[[64, 0.7]]",
}
C = {**LONG, "started_at": DAY[2], "last_token_s": 1.1, "e2e_s": 1.1, "tpot_s": 0.009, "finish": "tool_calls"} | {
    "forwarded_max_tokens": None
}
D = {**LONG, "started_at": DAY[3], "last_token_s": 1.3, "e2e_s": 1.3, "tpot_s": 0.011, "action": "capped"}
E = {**NOTHING, "started_at": DAY[3] + 9, "stream": 0, "finish": "stop", "cut": 0, "e2e_s": 0.8} | {
    "output_tokens": 50,
    "decoded_tokens": 50,
    "forwarded_max_tokens": 200,
}
F = {
    "started_at": DAY[3],
    "end": "client_disconnect",
    "finish": None,
    "cut": None,
    "output_tokens": 30,
    "decoded_tokens": 30,
}
H = {**NOTHING, "started_at": DAY[0], "stream": 0, "finish": "length", "cut": 1, "e2e_s": 0.3, "action": "inserted"} | {
    "output_tokens": 10,
    "decoded_tokens": 10,
    "forwarded_max_tokens": 10,
}
I = {**NOTHING, "started_at": DAY[0], "stream": 0, "status": 429, "e2e_s": 0.05}  # noqa: E741 -- the next letter
OPAQUE = {**NOTHING, "started_at": DAY[0], "stream": 0, "e2e_s": 0.05, "dialect": "opaque", "model": None, "app": None}

TOKENS, LIMITS = [101, 101, 101, 101, 50, 10], [200, 101, 200, 200, 10]
E2E_S, LIMITED_E2E_S = [1.1, 1.3, 1.1, 1.3, 0.8, 0.3], [1.1, 1.3, 1.3, 0.8, 0.3]
REACH_S = T3 * math.sqrt(4 / 3 * 4 * 0.01) / 400
"""Days decode 100 tokens in 0.9, 1.1, 0.9 and 1.1 s: each is 0.1 s off the whole."""


def _total(by_day_s: list[float]) -> list[float]:
    reach_s = T3 * math.sqrt(4) * statistics.stdev(by_day_s)
    return [max(sum(by_day_s) - reach_s, 0.0), sum(by_day_s) + reach_s]


AT_50 = [0.459, 1.3 - (0.2 + 0.5 * 49 / 63), 0.459, 0.561]
AT_100 = [0.009, 0.6 / 37, 0.009, 0.011]

GOLDEN: dict[str, Any] = {
    "schema": 1,
    "exchanges": 9,
    "since": "2026-09-22T00:00:00+00:00",
    "until": "2026-09-25T00:00:09+00:00",
    "groups": [
        {
            "by": {"model": "gpt-4o"},
            "exchanges": 8,
            "complete": 6,
            "streamed": 5,
            "ends": {"client_disconnect": 1, "complete": 7},
            "cases": {"cut": 2, "natural": 3, "unlimited": 1, "unknown": 2},
            "cut_by": {"client": 1, "policy": 1},
            "law": {
                "ttft_p50_s": 0.2,
                "ttft_p95_s": 0.2,
                "tpot_s": 0.01,
                "tpot_ci95": [0.01 - REACH_S, 0.01 + REACH_S],
                "tpot_ci_method": "ratio of sums over day blocks, Student's t",
                "blocks": 4,
                "r2_output_tokens": statistics.correlation(TOKENS, E2E_S) ** 2,
                "r2_max_tokens": statistics.correlation(LIMITS, LIMITED_E2E_S) ** 2,
                "ms_per_1000_max_tokens_naive": statistics.linear_regression(LIMITS, LIMITED_E2E_S).slope * 1e6,
            },
            "slack": {"utilization_p50": 0.505, "utilization_p95": 1.0, "reserved_unused_tokens": 348},
            # 30 and 10 censored, 50 ends (5 at risk), at 101 three of four end: 1, 1, 0.8, 0.2.
            "lengths": {
                "method": "kaplan-meier",
                "p50": 101,
                "p90": None,
                "p95": None,
                "p99": None,
                "identified_up_to": 101,
            },
            "what_if": [
                {
                    "cap": 50,
                    "governed": 5,
                    "newly_cut": 3,
                    "newly_cut_share": 0.5,
                    "tokens_saved": 204,
                    "latency_saved_s": sum(AT_50),
                    "latency_saved_ci95": _total(AT_50),
                    "e2e_p95_before_s": 1.3,
                    "e2e_p95_after_s": 0.739 + 0.75 * (0.8 - 0.739),
                },
                {
                    "cap": 100,
                    "governed": 5,
                    "newly_cut": 3,
                    "newly_cut_share": 0.5,
                    "tokens_saved": 4,
                    "latency_saved_s": sum(AT_100),
                    "latency_saved_ci95": _total(AT_100),
                    "e2e_p95_before_s": 1.3,
                    "e2e_p95_after_s": 1.3 - 0.6 / 37 + 0.75 * (0.6 / 37 - 0.011),
                },
            ],
            "advice": {
                "cap": None,
                "risk": None,
                "reason": "6 whole answers of known length are too few to bound the risk of a cap at 2%",
            },
        },
        {
            "by": {"model": None},
            "exchanges": 1,
            "complete": 1,
            "streamed": 0,
            "ends": {"complete": 1},
            "cases": {"cut": 0, "natural": 0, "unlimited": 0, "unknown": 1},
            "cut_by": {"client": 0, "policy": 0},
            "law": {
                "ttft_p50_s": None,
                "ttft_p95_s": None,
                "tpot_s": None,
                "tpot_ci95": None,
                "tpot_ci_method": "this sample only (0 day blocks, an interval needs 4)",
                "blocks": 0,
                "r2_output_tokens": None,
                "r2_max_tokens": None,
                "ms_per_1000_max_tokens_naive": None,
            },
            "slack": {"utilization_p50": None, "utilization_p95": None, "reserved_unused_tokens": 0},
            "lengths": {
                "method": "kaplan-meier",
                "p50": None,
                "p90": None,
                "p95": None,
                "p99": None,
                "identified_up_to": None,
            },
            "what_if": [
                {
                    "cap": cap,
                    "governed": 0,
                    "newly_cut": 0,
                    "newly_cut_share": 0.0,
                    "tokens_saved": 0,
                    "latency_saved_s": 0.0,
                    "latency_saved_ci95": None,
                    "e2e_p95_before_s": 0.05,
                    "e2e_p95_after_s": 0.05,
                }
                for cap in (50, 100)
            ],
            "advice": {
                "cap": None,
                "risk": None,
                "reason": "0 whole answers of known length are too few to bound the risk of a cap at 2%",
            },
        },
    ],
}


def test_a_small_ledger_gives_the_figures_worked_out_by_hand() -> None:
    """Every key of the public form, and nothing besides."""
    rows = exchanges(A, B, C, D, E, F, H, I, OPAQUE)
    assert close(as_json(build(rows, Window(), [100, 50, 100], by_app=False))) == close(GOLDEN)


def test_groups_are_by_model_and_by_app_where_asked() -> None:
    """They add up to the exchanges; the largest comes first, unknown models last."""
    rows = exchanges(
        {"model": "a", "app": "x"},
        {"model": None, "app": None},
        {"model": None, "app": None},
        {"model": "b", "app": "x"},
        {"model": "b", "app": None},
        {"model": "b", "app": "x"},
    )
    by_model, by_app = (
        [(group["by"], group["exchanges"]) for group in as_json(build(rows, Window(), by_app=by_app))["groups"]]
        for by_app in (False, True)
    )
    assert by_model == [({"model": "b"}, 3), ({"model": "a"}, 1), ({"model": None}, 2)]
    assert by_app == [
        ({"model": "b", "app": "x"}, 2),
        ({"model": "a", "app": "x"}, 1),
        ({"model": "b", "app": None}, 1),
        ({"model": None, "app": None}, 2),
    ]


def test_a_window_that_was_asked_for_is_the_reports() -> None:
    """Not that of the exchanges in it."""
    report = as_json(build(exchanges({}), Window(STARTED_AT - 60, STARTED_AT + 60), by_app=False))
    assert (report["since"], report["until"]) == ("2026-09-21T23:59:00+00:00", "2026-09-22T00:01:00+00:00")


def test_caps_are_a_grid_and_the_one_that_is_advised() -> None:
    """Where the best cap lies between two of the grid it is judged and shown as well; caps that were asked for stand alone."""
    rows = exchanges_of(
        row for row in ledger_rows(np.random.default_rng(4), exchanges=4000, days=7) if row["app"] == "extract"
    )
    default, asked = (as_json(build(rows, Window(), caps, by_app=False))["groups"][0] for caps in (None, [256, 128]))
    advised = default["advice"]["cap"]
    assert advised not in CAPS_TOKENS
    assert [row["cap"] for row in default["what_if"]] == sorted([*CAPS_TOKENS, advised])
    assert [row["cap"] for row in asked["what_if"]] == [128, 256]


def test_an_end_that_is_unknown_is_counted() -> None:
    """A view may hold what the ledger never does."""
    report = as_json(build(exchanges({"end": None}, {}), Window(), by_app=False))
    assert report["groups"][0]["ends"] == {"complete": 1, "unknown": 1}


def test_every_column_may_be_unknown() -> None:
    """All but the time: no figure, no failure."""
    row = dict.fromkeys(make_row()) | {"started_at": STARTED_AT}
    (group,) = as_json(build(exchanges_of([row] * 3), Window(), by_app=True))["groups"]
    assert (group["exchanges"], group["complete"], group["cases"]["unknown"]) == (3, 0, 3)
    assert {group["law"][name] for name in ("tpot_s", "ttft_p50_s", "r2_output_tokens")} == {None}
