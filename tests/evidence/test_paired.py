"""A probe's figures by hand."""

import pytest

from proxy.evidence.paired import Comparison, LimitArm, Sample, as_json, comparisons, limit_arms
from proxy.evidence.verdict import Verdict


def sample(block: int, max_tokens: int, ttft_s: float | None, tokens: int = 11, **changes: object) -> Sample:
    """An answer with 10 ms for each token after the first."""
    given = {
        "block": block,
        "max_tokens": max_tokens,
        "output_tokens": tokens,
        "decoded_tokens": tokens,
        "cut": tokens == max_tokens,
        "ttft_s": ttft_s,
        "tpot_s": 0.01,
        "e2e_s": None if ttft_s is None else ttft_s + 0.01 * (tokens - 1),
    }
    return Sample(**given | changes)  # type: ignore[arg-type]


SAMPLES = (
    [sample(block, 8, 0.100 + 0.010 * block, tokens=8) for block in range(4)]
    + [sample(block, 64, 0.300 + 0.020 * block) for block in range(4)]
    + [sample(4, 64, 0.300)]  # a block without its other half is in the arm and in no pair
)


def test_a_probe_by_hand() -> None:
    """TTFT differs by 200, 210, 220, 230 ms: 215 ms, with a spread of 12.9099 ms and t with 3 degrees 3.182446."""
    half = 3.1824463053 * 0.0129099445 / 2
    near = pytest.approx
    assert limit_arms(SAMPLES, [64, 8]) == (
        LimitArm(8, 4, 1.0, "A", 8.0, near(0.115), near(0.01), near(0.185)),
        LimitArm(64, 5, 0.0, "B", 11.0, near(0.320), near(0.01), near(0.420)),
    )
    assert comparisons(SAMPLES) == (
        Comparison(8, 64, "ttft", near(-0.215), near((-0.215 - half, -0.215 + half)), Verdict.DIFFERENT, 0.010),
        Comparison(8, 64, "tpot", near(0.0), near((-1e-9, 1e-9)), Verdict.EQUIVALENT, near(0.0002)),
        Comparison(8, 64, "e2e", near(-0.245), near((-0.245 - half, -0.245 + half)), Verdict.DIFFERENT, 0.010),
    )


def test_its_public_form() -> None:
    """Exactly these keys, in every arm and comparison; lists for intervals."""
    given = as_json(limit_arms(SAMPLES, [8, 64]), comparisons(SAMPLES))
    assert {key: type(value) for key, value in given.items()} == {"schema": int, "arms": list, "comparisons": list}
    assert [list(arm) for arm in given["arms"]] == [
        ["max_tokens", "n", "cut_share", "case", "output_tokens_mean", "ttft_p50_s", "tpot_s", "e2e_p50_s"]
    ] * 2
    assert [list(each) for each in given["comparisons"]] == [
        ["arm", "reference", "outcome", "difference_s", "ci95", "verdict", "margin_s"]
    ] * 3
    assert given["schema"] == 1


def test_the_pace_is_that_of_all_tokens() -> None:
    """10 ms for 10 steps and 40 ms for 2: 180 ms for 12, not the mean of the two."""
    both = [sample(0, 64, 0.1), sample(1, 64, 0.1, tokens=3, tpot_s=0.04)]
    assert limit_arms(both, [64])[0].tpot_s == pytest.approx(0.015)


def test_what_is_not_known_is_in_no_figure() -> None:
    """An answer whose end said nothing, one of a single token, and a limit without any answer."""
    unknown = sample(0, 64, 0.1, cut=None, output_tokens=None, decoded_tokens=None, tpot_s=None)
    assert limit_arms([unknown], [8, 64]) == (
        LimitArm(8, 0, None, None, None, None, None, None),
        LimitArm(64, 1, None, None, None, 0.1, None, unknown.e2e_s),
    )
    assert comparisons([unknown, sample(0, 8, 0.1)]) == tuple(
        Comparison(8, 64, outcome, pytest.approx(difference_s), None, Verdict.UNDECIDED, 0.010)
        for outcome, difference_s in (("ttft", 0.0), ("e2e", 0.0))
    )


def test_a_limit_that_cuts_half_is_no_case_a() -> None:
    """A is for limits that cut most answers."""
    shares = [
        limit_arms([sample(block, 8, 0.1, cut=block < cut) for block in range(10)], [8])[0] for cut in (0, 5, 6, 10)
    ]
    assert [(arm.cut_share, arm.case) for arm in shares] == [(0.0, "B"), (0.5, "B"), (0.6, "A"), (1.0, "A")]


def test_without_answers_there_is_nothing_to_compare() -> None:
    """And nothing is raised."""
    assert comparisons([]) == ()
