"""Our estimators against those of lifelines, statsmodels and scipy."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy.evidence.adjusted import adjusted
from proxy.evidence.blocks import ratio_interval, t_quantile
from proxy.evidence.law import line
from proxy.evidence.survival import kaplan_meier
from proxy.evidence.verdict import trimmed
from tests.engines.install import command

pytestmark = pytest.mark.engines

DEGREES = [1, 2, 3, 6, 29, 89, 364, 1000]


def _reference(asked: dict[str, Any]) -> dict[str, Any]:
    python = command("statistics", "python")
    if python is None:
        pytest.skip("lifelines and statsmodels are not installed: python tests/engines/install.py statistics")
    script = Path(__file__).with_name("reference_statistics.py")
    done = subprocess.run([python, script], input=json.dumps(asked), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_our_figures_are_those_of_the_libraries() -> None:
    """Kaplan-Meier to 1e-6 in each stratum, with ties and heavy censoring; lines, block errors and t to nine digits."""
    rng = np.random.default_rng(17)
    strata = []
    for mean, limits in ((3.0, [40]), (5.5, [128, 512]), (6.5, [4096])):
        natural = np.exp(rng.normal(mean, 0.8, 3000)).astype(int) + 1
        limit = rng.choice(limits, 3000)
        strata.append((np.minimum(natural, limit).astype(float), natural <= limit))
    x = rng.lognormal(5, 1, 500)
    y = 0.3 + 0.018 * x + rng.normal(0, 0.5, 500)
    days = rng.integers(0, 9, 500)
    day_y = (0.018 + 0.002 * rng.normal(0, 1, 9)[days]) * x
    in_arm = rng.random(500) < 0.4
    differences = rng.standard_t(2, 33) * 0.02 + 0.01
    found = _reference(
        {
            "strata": [{"lengths": lengths.tolist(), "ended": ended.tolist()} for lengths, ended in strata],
            "x": x.tolist(),
            "y": y.tolist(),
            "day_x": x.tolist(),
            "day_y": day_y.tolist(),
            "days": days.tolist(),
            "degrees": DEGREES,
            "in_arm": in_arm.tolist(),
            "differences": differences.tolist(),
        }
    )
    for (lengths, ended), curve in zip(strata, found["curves"], strict=True):
        ours = kaplan_meier(lengths, ended)
        theirs = dict(zip(curve["tokens"], curve["survival"], strict=True))
        assert [theirs[tokens] for tokens in ours.tokens.tolist()] == pytest.approx(ours.survival.tolist(), abs=1e-6)
    assert line(x, y) == pytest.approx((500, found["slope"], found["intercept"], found["r2"]), rel=1e-9)
    assert [t_quantile(degrees) for degrees in DEGREES] == pytest.approx(found["t"], rel=1e-9)
    low, high = found["ratio_ci95"]
    ours = ratio_interval(day_y, x, days)
    # statsmodels corrects for 500 exchanges and one parameter as well: (n - 1) / (n - k) is 1 for k = 1.
    assert ours == pytest.approx((low, high), rel=1e-9)
    assert adjusted(y, in_arm, x[:, None], np.arange(500)).values.mean() == pytest.approx(found["lin"], rel=1e-9)
    assert trimmed(differences).ci95 == pytest.approx(found["yuen_ci95"], rel=1e-9)
