"""Simulated traffic in which limits are drawn by lot, and the truth is known.

    columns(3, ttft_s=[...])                     exchanges with these columns, all else unknown
    drawn(seed, 12_000, effect_s=0.02)           TTFT of a provider whose load drifts; arm "none" waits `effect_s` longer
    queued(seed, rate, blocks, "switchback")     one queue that reserves a token budget, first come first served

TTFT is 250 ms and 50 us for each token of input that was not cached, a load that follows the hour (diurnal and AR(1)), 20%
of noise, and one wait in a hundred that takes seconds: 300 ms of standard deviation, of which covariates explain most.
"""

import heapq
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from proxy.evidence.sources.exchanges import COLUMNS, Checkpoints, Exchanges, Words

Floats = NDArray[np.float64]
Assignment = Literal["request", "switchback", "small", "large"]

_WORDS: Final = frozenset(name for name in COLUMNS if Exchanges.__dataclass_fields__[name].type is Words)
STARTED_AT: Final = 1_790_035_200.0
PERIOD_S: Final = 300
SMALL, LARGE = 2048, 4096
BUDGET_TOKENS: Final = 120_000


def columns(count: int, **given: Any) -> Exchanges:
    """Streamed whole 2xx exchanges with these columns, one a minute; words as lists or one word for all."""
    given = {
        "started_at": STARTED_AT + 60.0 * np.arange(count),
        "stream": 1.0,
        "status": 200.0,
        "end": "complete",
    } | given
    built: dict[str, Any] = {}
    for name in COLUMNS:
        value = given.get(name)
        if name == "checkpoints":
            built[name] = Checkpoints(np.zeros(count + 1, np.int64), np.empty(0), np.empty(0))
        elif name in _WORDS:
            words = value if isinstance(value, list) else [value] * count
            known = tuple(dict.fromkeys(word for word in words if word is not None))
            codes = [-1 if word is None else known.index(word) for word in words]
            built[name] = Words(np.array(codes, np.int32), known)
        else:
            built[name] = np.broadcast_to(np.nan if value is None else np.asarray(value, float), (count,)).copy()
    return Exchanges(**built)


def arms(codes: NDArray[np.int64], *known: str) -> Words:
    """A column of words by their codes: faster than a list of words."""
    return Words(codes.astype(np.int32), known)


def drawn(seed: int, count: int, effect_s: float, per_hour: int = 400) -> Exchanges:
    """An experiment by requests with the arms 512 and none."""
    source = np.random.default_rng(seed)
    hours = count // per_hour + 1
    drift = np.zeros(hours)
    shocks = source.normal(0, 0.25, hours)
    for hour in range(1, hours):
        drift[hour] = 0.8 * drift[hour - 1] + shocks[hour]
    load = np.clip(1 + 0.5 * np.sin(2 * np.pi * np.arange(hours) / 24) + drift, 0.1, None)
    input_tokens = source.lognormal(np.log(900), 1.0, count)
    cached = np.where(source.random(count) < 0.4, input_tokens / 2, 0.0)
    ttft_s = 0.25 + 50e-6 * (input_tokens - cached) + 0.12 * load[np.arange(count) // per_hour]
    ttft_s *= source.lognormal(0, 0.2, count)
    ttft_s += np.where(source.random(count) < 0.01, source.exponential(2.0, count), 0.0)
    arm = source.integers(0, 2, count)
    made = columns(
        count,
        started_at=STARTED_AT + 3600.0 / per_hour * np.arange(count),
        ttft_s=ttft_s + effect_s * arm,
        input_tokens=input_tokens,
        cached_input_tokens=cached,
        rule="r",
        model="m",
        upstream="u",
    )
    return _with(made, arm=arms(arm, "512", "none"))


def queued(seed: int, rate_per_s: float, blocks: int, assignment: Assignment) -> Exchanges:
    """Exchanges of one provider with the arms 2048 and 4096; `small` and `large` are one policy for everybody."""
    source = np.random.default_rng(seed)
    count = int(source.poisson(rate_per_s * blocks * PERIOD_S))
    arrived_s = np.sort(source.uniform(0, blocks * PERIOD_S, count))
    input_tokens = source.integers(200, 1400, count)
    tokens = np.minimum(source.lognormal(np.log(220), 0.8, count), 1024).astype(int) + 1
    served_s = 0.03 + source.gamma(4, 0.005, count)
    block = (arrived_s // PERIOD_S).astype(int)
    by_block, by_request = source.integers(0, 2, blocks), source.integers(0, 2, count)
    arm = {
        "request": by_request,
        "switchback": by_block[block],
        "small": np.zeros(count, int),
        "large": np.ones(count, int),
    }[assignment]
    needed = input_tokens + np.where(arm == 1, LARGE, SMALL)
    waited_s = _waits_s(arrived_s, needed, served_s + 0.018 * tokens)
    made = columns(
        count,
        started_at=STARTED_AT + arrived_s,
        ttft_s=served_s + waited_s,
        input_tokens=input_tokens,
        rule="r",
        model="m",
        upstream="u",
    )
    units = arms(block, *(f"block:{number}" for number in range(blocks))) if assignment == "switchback" else None
    return _with(made, arm=arms(arm, str(SMALL), str(LARGE)), **({"arm_unit": units} if units else {}))


def _with(exchanges: Exchanges, **changes: Any) -> Exchanges:
    return Exchanges(**{name: changes.get(name, getattr(exchanges, name)) for name in COLUMNS})


def _waits_s(arrived_s: Floats, needed: NDArray[np.int64], held_s: Floats) -> Floats:
    """How long each waits for its tokens; nobody overtakes."""
    free, now_s, ends = BUDGET_TOKENS, 0.0, list[tuple[float, int]]()
    waits = np.empty(len(arrived_s))
    for number, arrival_s in enumerate(arrived_s.tolist()):
        now_s = max(arrival_s, now_s)
        while ends and (ends[0][0] <= now_s or free < needed[number]):
            end_s, tokens = heapq.heappop(ends)
            free += tokens
            now_s = max(now_s, end_s)
        free -= int(needed[number])
        heapq.heappush(ends, (now_s + float(held_s[number]), int(needed[number])))
        waits[number] = now_s - arrival_s
    return waits
