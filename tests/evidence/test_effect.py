"""Experiments by intention to treat: a whole one by hand, known truths found, and claims that are not made."""

from dataclasses import replace

import numpy as np
import pytest

from proxy.evidence.effect import Arm, Comparison, Experiment, Unit, experiments
from proxy.evidence.sources.exchanges import Exchanges
from proxy.evidence.verdict import Verdict
from tests.support.experiment_traffic import columns, drawn, queued

CASE_C = (
    "arm 512 changes how long answers are (100 tokens, none 200) though it cuts none: "
    "the limit changes what the model does (case C)"
)


def _only(exchanges: Exchanges) -> Experiment:
    (experiment,) = experiments(exchanges)
    return experiment


def _ttft(experiment: Experiment) -> Comparison:
    return next(each for each in experiment.comparisons if each.outcome == "ttft")


def _pair(count: int, **given: object) -> Exchanges:
    """Exchanges that take the arms 512 and none in turns."""
    return columns(count, **{"rule": "r", "model": "m", "upstream": "u", "arm": ["512", "none"] * (count // 2)} | given)


def test_an_experiment_by_hand() -> None:
    """Forty exchanges in turns: 0.2 or 0.4 s against 0.3 or 0.5 s; one arm of 100 tokens, the other of 200."""
    turns = np.tile([0, 1], 20)
    ttft_s = 0.2 + 0.1 * turns + np.tile([0.0, 0.0, 0.2, 0.2], 10)
    experiment = _only(
        _pair(
            40,
            ttft_s=ttft_s,
            tpot_s=0.01,
            decoded_tokens=100.0 + 100 * turns,
            output_tokens=100.0 + 100 * turns,
            last_token_s=ttft_s + 0.01 * (99 + 100 * turns),
            e2e_s=ttft_s + 0.01 * (99 + 100 * turns),
            cut=0.0,
        )
    )
    # 100 ms, with a spread of 0.2 in the values of 40 requests: far too few for a verdict.
    ttft, tpot, e2e = experiment.comparisons
    assert experiment == Experiment(
        rule="r",
        model="m",
        upstream="u",
        unit=Unit.REQUEST,
        arms=(
            Arm("512", 20, 20, 0.0, 0.0, 100.0, pytest.approx(0.3), pytest.approx(0.01), pytest.approx(1.29)),
            Arm("none", 20, 20, 0.0, 0.0, 200.0, pytest.approx(0.4), pytest.approx(0.01), pytest.approx(2.39)),
        ),
        comparisons=(ttft, tpot, e2e),
        warnings=(CASE_C,),
    )
    assert (ttft.arm, ttft.reference, ttft.outcome, ttft.n, ttft.units) == ("512", "none", "ttft", 40, 40)
    assert (ttft.difference_s, ttft.margin_s) == pytest.approx((-0.1, 0.010))
    assert (tpot.difference_s, tpot.margin_s, tpot.verdict) == (
        pytest.approx(0),
        pytest.approx(2e-4),
        Verdict.EQUIVALENT,
    )
    assert (e2e.difference_s, e2e.verdict) == (pytest.approx(-1.1), Verdict.DIFFERENT)


def test_twenty_milliseconds_are_found_as_twenty() -> None:
    """12,000 exchanges, 6,000 for each arm: within 10 ms, each interval holds the truth, and no seed finds nothing."""
    found = [_ttft(_only(drawn(seed, 12_000, 0.020))) for seed in range(12)]
    errors = np.array([each.difference_s + 0.020 for each in found])
    assert {each.verdict for each in found} == {Verdict.DIFFERENT}
    assert (np.abs(errors) <= 0.010).all()
    assert abs(errors.mean()) <= 0.002
    assert all(each.ci95 is not None and each.ci95[0] <= -0.020 <= each.ci95[1] for each in found)


def test_nothing_is_found_where_nothing_is_however_often_one_looks() -> None:
    """Eight looks at each of 10 streams without an effect: never different, and in the end equivalent."""
    for seed in range(10):
        stream = drawn(2000 + seed, 30_000, 0.0)
        looks = [
            _ttft(_only(stream.take(np.arange(count)))).verdict for count in np.geomspace(60, 30_000, 8).astype(int)
        ]
        assert Verdict.DIFFERENT not in looks
        assert looks[-1] is Verdict.EQUIVALENT


def test_blocks_find_what_a_policy_does_to_a_queue_and_requests_do_not() -> None:
    """One queue that reserves the limit: 4,096 for everybody costs some 300 ms; requests beside each other show 5% of it at most."""
    truth_s = np.mean([queued(seed, 3.75, 80, "large").ttft_s.mean() for seed in (91, 92)]) - np.mean(
        [queued(seed, 3.75, 80, "small").ttft_s.mean() for seed in (91, 92)]
    )
    assert 0.2 < truth_s < 0.4
    blocks, requests = _only(queued(1, 3.75, 120, "switchback")), _only(queued(2, 3.75, 20, "request"))
    assert (blocks.unit, blocks.warnings) == (Unit.SWITCHBACK, ())
    assert _ttft(blocks).verdict is Verdict.DIFFERENT
    assert 0.8 * truth_s < -_ttft(blocks).difference_s < 1.2 * truth_s
    assert abs(_ttft(requests).difference_s) < 0.05 * truth_s


def test_blocks_that_the_ledger_does_not_name_are_known_by_their_runs() -> None:
    """Taken one by one, a queue's exchanges show a third of what the policy does, with an interval that excludes the truth."""
    named = queued(1, 3.75, 120, "switchback")
    nameless = replace(named, arm_unit=columns(len(named)).arm_unit)
    by_name, by_run = _only(named), _only(nameless)
    assert (by_run.unit, [warning.partition(",")[0] for warning in by_run.warnings]) == (
        Unit.SWITCHBACK,
        ["arms came in runs"],
    )
    assert _ttft(by_run).verdict is Verdict.DIFFERENT
    assert _ttft(by_run).difference_s == pytest.approx(_ttft(by_name).difference_s, rel=0.15)


def test_an_overloaded_queue_is_told() -> None:
    """Where waits last for a part of a block, the figure is too small, and is said to be."""
    experiment = _only(queued(1, 4.5, 40, "switchback"))
    assert [warning.partition(":")[0] for warning in experiment.warnings] == ["overload, or blocks too short"]


def test_values_of_a_header_count_once_each() -> None:
    """2,000 exchanges of 40 teams, all of a team in one arm and alike: 40 units, not 2,000."""
    source = np.random.default_rng(5)
    team = source.integers(0, 40, 2000)
    made = columns(
        2000,
        rule="r",
        model="m",
        upstream="u",
        arm=[["512", "none"][each % 2] for each in team],
        arm_unit=[f"{each:02x}" for each in team],
        ttft_s=0.3 + source.normal(0, 0.1, 40)[team],
    )
    found = _ttft(_only(made))
    assert (_only(made).unit, found.units, found.n) == (Unit.HEADER, 40, 2000)
    assert found.verdict is Verdict.UNDECIDED
    assert found.units_needed is not None
    assert found.units_needed > 100


def test_intention_to_treat_is_not_a_comparison_of_natural_ends() -> None:
    """Half of the answers would be long; the limit cuts them. By arm, E2E falls by their time; among natural ends nothing would."""
    long = np.tile([0, 0, 1, 1], 1000)
    in_arm = np.tile([1, 0], 2000)
    e2e_s = np.where(long == 1, np.where(in_arm == 1, 2.0, 10.0), 1.0)
    experiment = _only(
        _pair(
            4000,
            ttft_s=0.3,
            e2e_s=e2e_s,
            cut=np.where((long == 1) & (in_arm == 1), 1.0, 0.0),
            finish=["length" if each else "stop" for each in long & in_arm],
        )
    )
    e2e = experiment.comparisons[-1]
    assert (e2e.outcome, e2e.difference_s, e2e.n) == ("e2e", pytest.approx(-4.0, abs=0.01), 4000)
    assert experiment.warnings == (
        "arm 512 cuts 50.0% of its answers: its tpot and e2e are those of shorter answers; ttft is not touched by that",
    )


def test_what_was_lost_in_an_arm_is_told() -> None:
    """A limit of which a fifth is refused is compared by what is left, and that is said."""
    refused = (np.arange(1000) % 10 == 1) | (np.arange(1000) % 40 == 0)
    experiment = _only(
        _pair(
            1000,
            ttft_s=0.3,
            status=np.where(refused, 429.0, 200.0),
            # As the ledger has a refusal: no stream, no usage.
            stream=np.where(refused, 0.0, 1.0),
            input_tokens=np.where(refused, np.nan, 100.0),
        )
    )
    assert [arm.lost_share for arm in experiment.arms] == pytest.approx([0.05, 0.2])
    assert _ttft(experiment).n == 875
    assert experiment.warnings == (
        "arm 512 lost 5.0% of its answers (refused, broken off, left), none 20.0%: what is compared is what was left of either",
    )


def test_arms_that_did_not_run_together_are_not_compared() -> None:
    """A rule had 256 first and 1024 later, always beside none: 256 is compared with the first half of none only."""
    half, count = 2000, 4000
    arm = ["256", "none"] * (half // 2) + ["1024", "none"] * (half // 2)
    slow = np.where(np.arange(count) < half, 0.3, 0.9)  # the second half is slower for everybody
    experiment = _only(columns(count, rule="r", model="m", upstream="u", arm=arm, ttft_s=slow))
    found = {each.arm: (each.n, each.difference_s) for each in experiment.comparisons}
    # Ten minutes before and after are of one time: there four or five are of none.
    assert found == {"256": (2000 + 4, pytest.approx(0, abs=0.005)), "1024": (2000 + 5, pytest.approx(0, abs=0.005))}


def test_the_largest_limit_is_the_reference_and_none_is_larger() -> None:
    """Arms are ordered as limits, not as words."""
    three = columns(90, rule="r", arm=["1024", "256", "none"] * 30, ttft_s=0.3)
    two = columns(90, rule="r", arm=["1024", "256", "64"] * 30, ttft_s=0.3)
    assert [arm.arm for arm in _only(three).arms] == ["256", "1024", "none"]
    assert {each.reference for each in _only(two).comparisons} == {"1024"}


def test_rules_models_upstreams_and_units_are_experiments_of_their_own() -> None:
    """Nothing is compared across them."""
    made = columns(
        240,
        rule=["a", "b"] * 120,
        model=["m", "m", "n", "n"] * 60,
        upstream="u",
        arm=(["512"] * 4 + ["none"] * 4) * 30,
        arm_unit=[None] * 200 + ["block:1"] * 40,
        ttft_s=0.3,
    )
    found = [
        (each.rule, each.model, each.upstream, each.unit.value, sum(arm.n for arm in each.arms))
        for each in experiments(made)
    ]
    assert found == [
        (rule, model, "u", unit, count)
        for rule in ("a", "b")
        for model in ("m", "n")
        for unit, count in (("request", 50), ("switchback", 10))
    ]


def test_without_arms_there_is_no_experiment_and_with_one_no_comparison() -> None:
    """Limits that somebody chose say nothing of what they cause."""
    assert experiments(columns(50, rule="r", ttft_s=0.3, forwarded_max_tokens=np.arange(50.0))) == ()
    assert _only(columns(50, rule="r", arm="512", ttft_s=0.3)).comparisons == ()


def test_what_nobody_measured_is_not_compared() -> None:
    """Answers that were not streamed have no first token: e2e alone is compared."""
    found = _only(_pair(100, stream=0.0, e2e_s=1.0)).comparisons
    assert [each.outcome for each in found] == ["e2e"]


def test_a_slow_client_says_nothing_of_the_pace() -> None:
    """Exchanges whose client blocked for more than 1% of E2E have a TTFT, and no TPOT."""
    blocked_s = np.where(np.arange(100) < 40, 0.5, 0.0)
    found = _only(_pair(100, ttft_s=0.3, tpot_s=0.01, decoded_tokens=10.0, e2e_s=1.0, client_blocked_s=blocked_s))
    assert {each.outcome: each.n for each in found.comparisons} == {"ttft": 100, "tpot": 60, "e2e": 100}
