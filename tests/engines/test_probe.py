"""The probe against real inference engines: both cases told, the limit kept, the budget too."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.engines.parts import Engine

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


CASES = {"vllm": {5: "A", 50: "A", 100: "A"}, "transformers": {5: "A", 100: "B", 200: "B"}}
"""By limit. transformers always takes the likeliest token, and this answer ends before the 100th; vLLM draws one of 1024 that
are all about as likely, so that its answers end by chance, after some hundreds of tokens, few within 100.
"""


def test_a_real_engine_is_probed(engine: Engine) -> None:
    """Each limit has the case that the engine makes of it, and answers that keep it; figures are printed."""
    cases = CASES[engine.name]
    flags = ["--base-url", f"{engine.url}/v1", "--model", engine.model, "--prompt", "What is the time?"]
    flags += ["--limits", ",".join(map(str, cases)), "--cache", "warm", "--blocks", "30", "--concurrency", "1"]
    flags += ["--budget-requests", "96", "--json", "-"]
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
        (limit, 30, case) for limit, case in cases.items()
    ]
    for arm in data["arms"]:
        assert arm["output_tokens_mean"] <= arm["max_tokens"]
        assert arm["cut_share"] < 1 or arm["output_tokens_mean"] == arm["max_tokens"]
