"""How often experiments and probes are right, over many seeds of traffic whose truth is known; minutes, so not in `make test`."""

import numpy as np
import pytest

from proxy.evidence.effect import Comparison, Experiment, experiments
from proxy.evidence.sources.exchanges import Exchanges
from proxy.evidence.verdict import Verdict
from tests.support.experiment_traffic import drawn, queued
from tests.support.probe_drift import false_alarms

pytestmark = pytest.mark.timeout(3600)

PLANTED_S = 0.020
SEEDS = 200
LOOKS = 24


def _only(exchanges: Exchanges) -> Experiment:
    (experiment,) = experiments(exchanges)
    return experiment


def _ttft(exchanges: Exchanges) -> Comparison:
    return next(each for each in _only(exchanges).comparisons if each.outcome == "ttft")


def test_a_planted_effect_is_estimated() -> None:
    """6,000 exchanges for each arm: within 10 ms in 95 of 100 seeds, interval right in as many, no bias."""
    found = [_ttft(drawn(seed, 12_000, PLANTED_S)) for seed in range(SEEDS)]
    errors = np.array([each.difference_s + PLANTED_S for each in found])
    covered = [each.ci95 is not None and each.ci95[0] <= -PLANTED_S <= each.ci95[1] for each in found]
    print(
        f"\nbias {errors.mean() * 1e3:+.2f} ms, sd {errors.std() * 1e3:.2f} ms, within 10 ms "
        f"{(np.abs(errors) <= 0.010).mean():.1%}, covered {np.mean(covered):.1%}"
    )
    assert (np.abs(errors) <= 0.010).mean() >= 0.95
    assert np.mean(covered) >= 0.95
    assert abs(errors.mean()) <= 0.001


def test_looking_often_is_safe_and_ends_in_a_verdict() -> None:
    """No effect, looked at 24 times up to 40,000: different in at most 5 of 100 streams, within 15 ms in at least 95."""
    alarms, equivalent, reached = 0, 0, []
    for seed in range(SEEDS):
        stream = drawn(5000 + seed, 40_000, 0.0)
        looks = [(count, _ttft(stream.take(np.arange(count)))) for count in np.geomspace(60, 40_000, LOOKS).astype(int)]
        alarms += any(each.verdict is Verdict.DIFFERENT for _, each in looks)
        within = [count for count, each in looks if each.ci95 and max(map(abs, each.ci95)) <= 0.015]
        equivalent += bool(within)
        reached += within[:1]
    print(
        f"\ndifferent {alarms / SEEDS:.1%}, within 15 ms {equivalent / SEEDS:.1%}, at a median of {np.median(reached):,.0f}"
    )
    assert alarms / SEEDS <= 0.05
    assert equivalent / SEEDS >= 0.95


@pytest.mark.parametrize(("rate_per_s", "overloaded"), [(3.75, False), (4.5, True)])
def test_blocks_recover_the_policy_s_effect_unless_they_say_otherwise(rate_per_s: float, overloaded: bool) -> None:
    """At moderate load 80% of it at least, while requests see 5% at most; in overload it is less, and is flagged each time."""
    everybody = {
        policy: np.mean([queued(90 + seed, rate_per_s, 300, policy).ttft_s.mean() for seed in range(3)])
        for policy in ("small", "large")
    }
    truth_s = everybody["large"] - everybody["small"]
    blocks = [_only(queued(seed, rate_per_s, 200, "switchback")) for seed in range(10)]
    found_s = np.mean([-each.comparisons[0].difference_s for each in blocks])
    requests_s = np.mean([-_ttft(queued(50 + seed, rate_per_s, 40, "request")).difference_s for seed in range(5)])
    flagged = [any(warning.startswith("overload") for warning in each.warnings) for each in blocks]
    print(
        f"\n{rate_per_s}/s: policy {truth_s * 1e3:,.0f} ms, by blocks {found_s / truth_s:.0%}, by requests "
        f"{requests_s / truth_s:.1%}, flagged {np.mean(flagged):.0%}"
    )
    assert abs(requests_s) < 0.05 * truth_s
    assert flagged == [overloaded] * len(flagged)
    assert overloaded or found_s >= 0.8 * truth_s


def test_a_probe_in_drifting_load_raises_few_false_alarms() -> None:
    """4,000 probes of 30 pairs: at most 6% find what is not there; no bias of 5 ms, with an effect or without."""
    share, bias_s = false_alarms(seed=11, probes=4000)
    found, bias_planted_s = false_alarms(seed=12, probes=1000, effect_s=0.030)
    print(
        f"\nfalse alarms {share:.1%}, bias {bias_s * 1e3:+.2f} ms; 30 ms found in {found:.0%}, bias {bias_planted_s * 1e3:+.2f} ms"
    )
    assert share <= 0.06
    assert max(abs(bias_s), abs(bias_planted_s)) < 0.005
