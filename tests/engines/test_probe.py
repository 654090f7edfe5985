"""The probe against real inference engines: both cases told, the limit kept, the budget too."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.engines.parts import Engine

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


def test_a_real_engine_is_probed(engine: Engine) -> None:
    """The tiny model ends its answer between the limits: 5 tokens cut (A), 100 and 200 do not (B); figures are printed."""
    flags = [
        "--base-url",
        f"{engine.url}/v1",
        "--model",
        engine.model,
        "--limits",
        "5,100,200",
        "--prompt",
        "What is the time?",
    ]
    flags += ["--cache", "warm", "--blocks", "30", "--concurrency", "1", "--budget-requests", "96", "--json", "-"]
    ended = subprocess.run(
        [sys.executable, "-m", "proxy.cli", "probe", *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    data = orjson.loads(ended.stdout)
    for arm in data["arms"]:
        print(f"\n{engine.name}: {arm}")
    for each in data["comparisons"]:
        print(f"{engine.name}: {each}")
    assert [(arm["max_tokens"], arm["n"], arm["case"]) for arm in data["arms"]] == [
        (5, 30, "A"),
        (100, 30, "B"),
        (200, 30, "B"),
    ]
    assert data["arms"][0]["output_tokens_mean"] == 5.0
