"""Metrics as a real Prometheus scraped them from a running Lengthwise."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.engines.asking import ask
from tests.engines.parts import get_json, prometheus
from tests.engines.scripted import WORDS
from tests.support.serve import serving

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

STREAMED, WHOLE, CAP = 5, 2, 8


def test_prometheus_scrapes_what_was_asked_and_what_came(
    prometheus_command: Path, provider: str, tmp_path: Path
) -> None:
    """The target is up, and every metric counts the requests that were made."""
    settings = {
        "upstreams": [{"name": "scripted", "url": provider, "provider": "openai"}],
        "telemetry": {"traces": "none", "metrics": "none"},
    }
    rule = {"name": "cap", "match": {"stream": True}, "do": "cap", "max_tokens": CAP, "mode": "enforce"}
    with serving(settings, policies={"version": 1, "rules": [rule]}) as served:
        for number in range(STREAMED + WHOLE):
            question = {"role": "user", "content": "Tell me a story."}
            ask(served.base_url, model="gpt-x", messages=[question], max_tokens=20, stream=number < STREAMED)
        served.rows(STREAMED + WHOLE)
        status, text = served.get("/metrics")
        assert status == 200
        with prometheus(prometheus_command, served.admin_url.removeprefix("http://"), tmp_path) as server:
            found = {query: sum(float(series["value"][1]) for series in server.query(query)) for query in EXPECTED}
            (up,) = server.query('up{job="lengthwise"}')
            boundaries = server.query('lengthwise_time_to_first_token_seconds_bucket{le="600.0"}')
            (target,) = get_json(f"{server.url}/api/v1/targets")["data"]["activeTargets"]
    assert found == EXPECTED
    assert up["value"][1] == "1"
    assert boundaries
    assert (target["health"], target["lastError"]) == ("up", "")
    _check_by_promtool(text)


TOKENS = STREAMED * CAP + WHOLE * len(WORDS)
MODEL = 'gen_ai_request_model="gpt-x",gen_ai_provider_name="openai"'
EXPECTED = {
    f"gen_ai_client_operation_duration_seconds_count{{{MODEL}}}": STREAMED + WHOLE,
    f"gen_ai_client_operation_time_to_first_chunk_seconds_count{{{MODEL}}}": STREAMED,
    f'gen_ai_client_token_usage_sum{{{MODEL},gen_ai_token_type="output"}}': TOKENS,
    f'lengthwise_time_to_first_token_seconds_count{{{MODEL},stream="true",limit="le_256"}}': STREAMED,
    f"lengthwise_time_per_output_token_seconds_count{{{MODEL}}}": STREAMED,
    f"lengthwise_max_tokens_requested_sum{{{MODEL}}}": 20 * (STREAMED + WHOLE),
    f"lengthwise_max_tokens_utilization_count{{{MODEL}}}": STREAMED + WHOLE,
    f'lengthwise_overhead_duration_seconds_count{{{MODEL},phase="request"}}': STREAMED + WHOLE,
    f'lengthwise_policy_decisions_total{{{MODEL},rule="cap",action="capped",mode="enforce"}}': STREAMED,
    f'lengthwise_truncations_total{{{MODEL},by="policy"}}': STREAMED,
    f"lengthwise_reserved_unused_tokens_total{{{MODEL}}}": WHOLE * (20 - len(WORDS)),
    f'lengthwise_stream_ends_total{{{MODEL},end="complete"}}': STREAMED + WHOLE,
    "lengthwise_records_dropped_total": 0,
    "lengthwise_connections_malformed_total": 0,
    "lengthwise_exchanges_active": 0,
    "lengthwise_workers_ready": 1,
}
"""Each query, and the sum of what it finds."""


def _check_by_promtool(text: str) -> None:
    """What Prometheus' own linter says of the exposition; where it is installed."""
    promtool = shutil.which("promtool")
    if promtool is None:
        return
    outcome = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")
