"""What the endpoints answer."""

import pytest

from proxy.recorder.page.caps import CAPS_TOKENS
from proxy.recorder.page.cell import Cell, Figures
from proxy.recorder.page.columns import Columns, Group, Words
from proxy.recorder.page.documents import caps_document, figures_document, points_document
from proxy.recorder.page.view import WINDOWS
from tests.support.ledgers import make_row
from tests.support.page_rows import columns_of, page_rows


def _figures(*rows: dict[str, object]) -> Figures:
    columns, words = columns_of(page_rows(*rows))
    return Cell(words, columns).figures()


ANSWERS = [
    make_row(output_tokens=100, decoded_tokens=100, ttft_s=0.5, last_token_s=1.49, e2e_s=1.5, tpot_s=0.01),
    make_row(output_tokens=200, decoded_tokens=200, ttft_s=0.5, last_token_s=2.49, e2e_s=2.5, tpot_s=0.01),
    make_row(output_tokens=512, decoded_tokens=512, ttft_s=0.5, last_token_s=5.61, e2e_s=5.62, tpot_s=0.01, cut=1, finish="length"),
    make_row(end="rejected", status=400, finish=None, cut=None, output_tokens=None, decoded_tokens=None, ttft_s=None,
             last_token_s=None, e2e_s=None, tpot_s=None, model=None, rule="cap", action="rejected"),
]  # fmt: skip


def test_figures_are_those_of_the_window_and_of_each_step() -> None:
    """Counts add up; a step without an answer has no quantile; rates are by the time that passed."""
    steps = [Figures()] * 10 + [_figures(*ANSWERS[:2]), _figures(*ANSWERS[2:])]
    groups = [Group("openai", "gpt-4o", "search", stream=True), Group("openai", None, None, stream=False)]
    found = figures_document(steps, WINDOWS[60], 1057.0, 0.0, groups)
    assert found["names"] == {"models": ["", "gpt-4o"], "apps": ["", "search"], "upstreams": ["openai"]}
    assert (found["window_s"], found["step_s"], found["since_s"], found["per_s"]) == (60, 5, 1000, 4 / 57)
    assert (found["exchanges"], found["complete"], found["streamed"]) == (4, 3, 4)
    assert (found["ends"], found["faults"]) == (
        {"complete": 3, "rejected": 1},
        {"client": 1, "proxy": 0, "upstream": 0},
    )
    assert found["cases"] == {"cut": 1, "ended": 2, "unknown": 1}
    assert found["truncations"] == {"client": 1, "policy": 0}
    assert found["reserved_unused_tokens"] == 412 + 312
    assert found["decisions"] == [{"rule": "cap", "action": "rejected", "mode": "enforce", "count": 1}]
    assert found["ttft_s"] == {"n": 3} | dict.fromkeys(("p50", "p95", "p99"), pytest.approx(0.5, rel=0.01))
    assert found["law"]["tpot_s"] == pytest.approx(0.01)
    assert (found["law"]["n"], found["law"]["on_output_tokens"]["n"], found["law"]["on_max_tokens"]) == (3, 3, None)
    assert found["steps"]["exchanges"] == [0] * 10 + [2, 2]
    assert found["steps"]["faults"] == [0] * 11 + [1]
    assert found["steps"]["ttft_p50_s"] == [None] * 10 + [pytest.approx(0.5, rel=0.01)] * 2


def test_a_rate_is_by_the_time_that_is_known() -> None:
    """A service that began within the window has no nought before; of its first moments a step is taken."""
    rates = {
        since_s: figures_document([_figures(*ANSWERS)], WINDOWS[60], 1057.0, since_s, [])["per_s"]
        for since_s in (0.0, 1000.0, 1037.0, 1056.0)
    }
    assert rates == {0.0: 4 / 57, 1000.0: 4 / 57, 1037.0: 4 / 20, 1056.0: 4 / 5}


def test_bars_hold_every_answer_in_the_bar_of_its_length() -> None:
    """A length that is a bar's bound is in that bar, and so is the limit that cut it there."""
    lengths = figures_document([_figures(*ANSWERS)], WINDOWS[60], 60.0, 0.0, [])["lengths"]
    bars = {
        name: {lengths["up_to_tokens"][place]: count for place, count in enumerate(lengths[name]) if count}
        for name in ("ended", "other", "limits")
    }
    assert bars == {"ended": {112: 1, 224: 1}, "other": {512: 1}, "limits": {512: 4}}


def test_a_length_that_is_a_bars_bound_is_in_that_bar() -> None:
    """At every bound: limits are round numbers, and what they cut is as long as they are."""
    bounds = figures_document([Figures()], WINDOWS[60], 60.0, 0.0, [])["lengths"]["up_to_tokens"]
    rows = [make_row(output_tokens=tokens, forwarded_max_tokens=tokens) for tokens in bounds]
    lengths = figures_document([_figures(*rows)], WINDOWS[60], 60.0, 0.0, [])["lengths"]
    assert (lengths["ended"], lengths["limits"]) == ([1] * len(bounds), [1] * len(bounds))


def test_utilization_never_passes_the_whole() -> None:
    """An answer that used all of its limit is in the last bar."""
    used = figures_document([_figures(*ANSWERS)], WINDOWS[60], 60.0, 0.0, [])["utilization"]
    assert (used["n"], used["p99"], used["count"][-1], sum(used["count"])) == (3, pytest.approx(0.39, rel=0.02), 1, 3)


def test_caps_say_what_is_known() -> None:
    """Nothing longer: nothing saved. Longer, and its time unknown: None, which is not nought."""
    found = caps_document(_figures(*ANSWERS).outcomes)
    assert [each["cap"] for each in found["caps"]] == list(CAPS_TOKENS)
    assert {each["cap"]: each for each in found["caps"]}[128] == {
        "cap": 128,
        "governed": 3,
        "longer": 2,
        "newly_cut": 1,
        "newly_cut_share": 1 / 3,
        "tokens_saved": 72 + 384,
        "latency_saved_s": pytest.approx(0.72 + 3.84),
    }
    untimed = caps_document(_figures(make_row(ttft_s=None, tpot_s=None)).outcomes)["caps"]
    assert (untimed[0]["latency_saved_s"], untimed[-1]["latency_saved_s"]) == (None, 0)
    assert caps_document(Figures().outcomes)["caps"][0]["newly_cut_share"] is None


def test_points_are_whole_answers_of_one_choice() -> None:
    """With their limit where they had one."""
    columns, words = columns_of(page_rows(*ANSWERS, make_row(choices=2), make_row(forwarded_max_tokens=None)))
    assert points_document([columns], words.kinds) == {
        "held": 6,
        "one_in": 1,
        "output_tokens": [100, 200, 512, 128],
        "max_tokens": [512, 512, 512, None],
        "e2e_s": [1.5, 2.5, 5.62, 1.47],
        "cut": [0, 0, 1, 0],
    }


def test_points_are_thinned_without_flicker() -> None:
    """Few enough to be drawn; one that is shown stays as more come, until only every other one does."""
    words, cells = Words(), [Columns() for _ in range(3)]
    shown: list[set[int]] = []
    every: list[int] = []
    for number in range(6000):
        cells[number % 3].append(page_rows(make_row(output_tokens=number)), words, number)
        if number % 500 == 499:
            found = points_document(cells, words.kinds)
            assert len(found["output_tokens"]) <= 1200
            shown.append(set(found["output_tokens"]))
            every.append(found["one_in"])
    assert every == [1, 1, 2, 2, 4, 4, 4, 4, 4, 8, 8, 8]
    assert shown == [set(range(0, (n + 1) * 500, step)) for n, step in enumerate(every)]
