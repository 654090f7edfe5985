"""Bias and coverage over many weeks of simulated traffic, and what a large ledger costs; minutes, so not in `make test`."""

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from proxy.evidence.law import law_of
from proxy.evidence.what_if import what_if
from tests.support.exchanges import exchanges_of
from tests.support.ledgers import write_ledger
from tests.support.traffic import ledger_rows

pytestmark = pytest.mark.engines

WEEKS = 200


@pytest.fixture(scope="module")
def weeks() -> list[tuple[float, bool, float, bool]]:
    """Of each week: pace and whether its interval holds the long run's; time saved by a cap of 512 and the same."""
    found = []
    for seed in range(WEEKS):
        rows = exchanges_of(ledger_rows(np.random.default_rng(seed), exchanges=4000, days=7))
        law, (outcome,) = law_of(rows), what_if(rows, [512])
        found.append((law.tpot_s, law.tpot_ci95, outcome.latency_saved_s, outcome.latency_saved_ci95))
    pace_s, saved_s = (statistics.fmean(week[at] for week in found) for at in (0, 2))
    return [
        (
            pace / pace_s - 1,
            interval.low <= pace_s <= interval.high,
            saved / saved_s - 1,
            span.low <= saved_s <= span.high,
        )
        for pace, interval, saved, span in found
    ]


@pytest.mark.timeout(1800)
def test_the_law_is_near_and_its_interval_honest(weeks: list[tuple[float, bool, float, bool]]) -> None:
    """Of 200 weeks of 4,000: error within 4% in 95 of 100, interval right in at least 90 of 100."""
    errors, covered = [week[0] for week in weeks], [week[1] for week in weeks]
    print(f"\ntpot: sd {statistics.pstdev(errors):.2%}, covered {statistics.fmean(covered):.1%} of {WEEKS} weeks")
    assert statistics.fmean(abs(error) <= 0.04 for error in errors) >= 0.95
    assert statistics.fmean(covered) >= 0.9


@pytest.mark.timeout(1800)
def test_what_a_cap_saves_in_a_week_is_forecast(weeks: list[tuple[float, bool, float, bool]]) -> None:
    """Mean error within 10%, interval right in at least 90 of 100 weeks."""
    errors, covered = [abs(week[2]) for week in weeks], [week[3] for week in weeks]
    print(f"\nsaved by 512: mean error {statistics.fmean(errors):.1%}, covered {statistics.fmean(covered):.1%}")
    assert statistics.fmean(errors) <= 0.1
    assert statistics.fmean(covered) >= 0.9


@pytest.mark.timeout(1800)
def test_a_large_ledger_is_reported_in_little_memory(tmp_path: Path) -> None:
    """300,000 exchanges: the time is printed, the memory is below 1 GB."""
    ledger = write_ledger(tmp_path / "l.sqlite", ledger_rows(np.random.default_rng(1), exchanges=300_000, days=28))
    before = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "proxy.cli", "report", "--source", ledger, "--json", "-"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"\n300,000 rows: {time.perf_counter() - before:.1f} s, CPU {used.ru_utime:.1f} s, {used.ru_maxrss / 1e6:.2f} GB"
    )
    assert used.ru_maxrss < 1_000_000
