"""Probes of a provider whose load drifts, without a network: what an honest pair of limits looks like where nothing is planted."""

import numpy as np

from proxy.evidence.verdict import Verdict, judged, trimmed


def false_alarms(seed: int, probes: int, pairs: int = 30, effect_s: float = 0.0) -> tuple[float, float]:
    """Share of probes that call the limits different, and the mean error of their estimates.

    Calls come one after the other, two for each pair, in random order; TTFT is 300 ms and an AR(1) drift of 40 ms that
    remembers 95% from call to call, with 25 ms of noise and one call in a hundred that takes seconds. The first call of a
    connection takes 400 ms more, and is discarded.
    """
    source = np.random.default_rng(seed)
    found, errors = 0, []
    for _ in range(probes):
        calls = 1 + 2 * pairs
        drift = np.zeros(calls)
        shocks = source.normal(0, 0.04 * np.sqrt(1 - 0.95**2), calls)
        for call in range(1, calls):
            drift[call] = 0.95 * drift[call - 1] + shocks[call]
        ttft_s = 0.3 + drift + source.normal(0, 0.025, calls)
        ttft_s += np.where(source.random(calls) < 0.01, source.exponential(2.0, calls), 0.0)
        ttft_s[0] += 0.4
        measured = ttft_s[1:].reshape(pairs, 2)
        arm_first = source.random(pairs) < 0.5
        arm = np.where(arm_first, measured[:, 0], measured[:, 1]) + effect_s
        reference = np.where(arm_first, measured[:, 1], measured[:, 0])
        estimate = trimmed(arm - reference)
        found += judged(estimate.ci95, 0.010) is Verdict.DIFFERENT
        errors.append(estimate.difference - effect_s)
    return found / probes, float(np.mean(errors))
