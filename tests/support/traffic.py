"""Simulated traffic with a known truth: six apps with lengths and limits of their own on one model.

    ledger_rows(rng, exchanges=4000, days=7)      rows for `tests.support.ledgers.write_ledger`

The truth: TTFT is 250 ms, 0.05 ms for each uncached input token, and load; a token takes 18 ms, 8% more or less for each
request, with the day's load on top, which shares a factor among the exchanges of an hour. Lengths are lognormal and know
nothing of the limit: an answer is cut where its length would exceed it. Load follows the hour and an AR(1) process.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.support.ledgers import DAY_S, STARTED_AT, make_row

TPOT_S = 0.018
APPS = {
    "classify": (0.28, 2.2, 0.4, 40),
    "extract": (0.20, 4.3, 0.5, 256),
    "search": (0.18, 5.2, 0.6, 512),
    "chat": (0.20, 5.9, 0.8, 1024),
    "write": (0.10, 6.6, 0.6, 4096),
    "agent": (0.04, 6.2, 1.0, None),
}
"""Share of the traffic, mean and spread of the log of the natural length, and the limit."""


def ledger_rows(
    rng: np.random.Generator,
    *,
    exchanges: int,
    days: float,
    growth: float = 0.0,
    checkpoints: bool = True,
    model: str = "sim-large",
) -> Iterator[dict[str, Any]]:
    """Rows of the traffic; `growth` is how much slower decoding gets in 1,000 tokens."""
    names = list(APPS)
    app = rng.choice(len(names), exchanges, p=[share for share, *_ in APPS.values()])
    started = np.sort(_starts(rng, exchanges, days))
    load = _load(rng, started)
    _, means, spreads, limits = zip(*APPS.values(), strict=True)
    natural = np.maximum(np.exp(rng.normal(np.array(means)[app], np.array(spreads)[app])).astype(int), 1)
    limit = np.array([limit or 0 for limit in limits])[app]
    cut = (limit > 0) & (natural > limit)
    tokens = np.where(cut, limit, natural)
    uncached = rng.integers(50, 3000, exchanges)
    ttft_s = 0.250 + 0.05e-3 * uncached + 0.2 * np.maximum(load - 1, 0) + rng.exponential(0.02, exchanges)
    ttft_s = np.where(rng.random(exchanges) < 0.01, ttft_s * 4, ttft_s)
    pace_s = TPOT_S * load * rng.normal(1, 0.08, exchanges)
    for at in range(exchanges):
        n, ttft = int(tokens[at]), float(ttft_s[at])
        times_s = ttft + decoding_s(np.array([n, *range(64, n + 1, 64)]), float(pace_s[at]), growth)
        points = [[at_token, float(at_s)] for at_token, at_s in zip(range(64, n + 1, 64), times_s[1:], strict=True)]
        yield make_row(
            started_at=STARTED_AT + float(started[at]),
            model=model,
            app=names[app[at]],
            finish="length" if cut[at] else "stop",
            cut=int(cut[at]),
            requested_max_tokens=int(limit[at]) or None,
            forwarded_max_tokens=int(limit[at]) or None,
            limit_field="max_tokens" if limit[at] else None,
            input_tokens=int(uncached[at]),
            output_tokens=n,
            decoded_tokens=n,
            ttfc_s=ttft,
            ttft_s=ttft,
            ttfa_s=ttft,
            last_token_s=float(times_s[0]),
            e2e_s=float(times_s[0]) + 0.002,
            tpot_s=(float(times_s[0]) - ttft) / (n - 1) if n > 1 else None,
            checkpoints=json.dumps(points) if checkpoints and points else None,
        )


def decoding_s(token: np.ndarray, pace_s: float, growth: float) -> np.ndarray:
    """Seconds from the first token to this one, when decoding slows down by `growth` in 1,000 tokens."""
    steps = token - 1.0
    return pace_s * (steps + growth * steps**2 / 2000)


def _starts(rng: np.random.Generator, exchanges: int, days: float) -> np.ndarray:
    """Twice as many by day as by night."""
    started: list[float] = []
    while len(started) < exchanges:
        moment = rng.random() * days * DAY_S
        if rng.random() < 0.5 + 0.25 * (1 + np.sin(2 * np.pi * (moment / DAY_S - 0.3))):
            started.append(moment)
    return np.array(started)


def _load(rng: np.random.Generator, started: np.ndarray) -> np.ndarray:
    """A factor around 1: the hour of the day, and an hourly AR(1) process that a day has mostly forgotten."""
    hours = (started / 3600).astype(int)
    noise = np.zeros(hours.max() + 1)
    for hour in range(1, len(noise)):
        noise[hour] = 0.8 * noise[hour - 1] + rng.normal(0, 0.04)
    return np.clip(1 + 0.1 * np.sin(2 * np.pi * (started / DAY_S - 0.3)) + noise[hours], 0.6, 1.6)
