"""Our measurements beside those that vLLM makes of the same requests in its own spans."""

import secrets
import statistics
from typing import Any

import pytest

from tests.engines.asking import ask
from tests.engines.parts import VLLM_PROJECT, Engine, Phoenix, eventually
from tests.support.serve import serving

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

LIMITS = [4, 8, 16, 32, 64, 100] * 3
CAP = 48
TOLERANCE_S = 0.005
"""vLLM takes its first stamp from the wall clock, after it read the request, and reads ours later."""


def test_our_figures_agree_with_those_of_the_engine(vllm: Engine, phoenix: Phoenix) -> None:
    """The engine's span is the child of our CLIENT span; limit and tokens are equal, and our times enclose its own."""
    settings = {
        "upstreams": [{"name": "engine", "url": vllm.url, "provider": "vllm"}],
        "telemetry": {"metrics": "none"},
    }
    rule = {"name": "cap", "match": {"stream": True}, "do": "cap", "max_tokens": CAP, "mode": "enforce"}
    env = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{phoenix.url}/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_RESOURCE_ATTRIBUTES": f"openinference.project.name={VLLM_PROJECT}",
    }
    asked = {secrets.token_hex(16): (secrets.token_hex(8), limit) for limit in [LIMITS[0], *LIMITS]}
    warm_up = next(iter(asked))
    with serving(settings, policies={"version": 1, "rules": [rule]}, env=env) as served:
        for trace_id, (parent_id, limit) in asked.items():
            ask(
                served.base_url,
                headers={"traceparent": f"00-{trace_id}-{parent_id}-01"},
                model=vllm.model,
                messages=[{"role": "user", "content": "Write a poem about the sea, slowly."}],
                temperature=0,
                max_tokens=limit,
                stream=True,
            )
        rows = {row["trace_id"]: row for row in served.rows(len(asked))}
        traces = eventually(
            lambda: _traces(phoenix.spans(VLLM_PROJECT, 1), set(asked)),
            lambda found: all(len(spans) == 3 for spans in found.values()),
            "three spans in every trace",
        )

    extra_s = []
    print("\nlimit tokens | TTFT ours, vLLM, difference ms | E2E ours, vLLM ms | TPOT ours, vLLM ms")
    for trace_id, (parent_id, limit) in asked.items():
        server, ours, theirs = _chain(traces[trace_id], parent_id)
        assert server["name"] == "POST /v1/chat/completions"
        assert ours["name"] == "chat tiny"
        assert theirs["name"] == "llm_request"
        our, their = ours["attributes"], theirs["attributes"]
        assert our["lengthwise.max_tokens.requested"] == limit
        assert our["gen_ai.request.max_tokens"] == their["gen_ai.request.max_tokens"] == min(limit, CAP)
        assert our["gen_ai.usage.output_tokens"] == their["gen_ai.usage.completion_tokens"]
        assert our["gen_ai.usage.input_tokens"] == their["gen_ai.usage.prompt_tokens"]
        row = rows[trace_id]
        tokens = our["gen_ai.usage.output_tokens"]
        assert (row["output_tokens"], row["forwarded_max_tokens"]) == (tokens, min(limit, CAP))
        ttft_s, their_ttft_s = our["lengthwise.time_to_first_token"], their["gen_ai.latency.time_to_first_token"]
        their_e2e_s, their_tpot_s = (
            their["gen_ai.latency.e2e"],
            their["gen_ai.latency.time_in_model_decode"] / (tokens - 1),
        )
        assert ttft_s == pytest.approx(row["ttft_s"])
        assert ttft_s >= their_ttft_s - TOLERANCE_S
        assert row["e2e_s"] >= their_e2e_s - TOLERANCE_S
        if trace_id != warm_up:
            extra_s.append(ttft_s - their_ttft_s)
        times_ms = [1e3 * t for t in (ttft_s, their_ttft_s, ttft_s - their_ttft_s, row["e2e_s"], their_e2e_s)]
        times_ms += [1e3 * row["tpot_s"], 1e3 * their_tpot_s]
        print(
            "{:5} {:6} | {:7.2f} {:7.2f} {:7.2f} | {:7.2f} {:7.2f} | {:5.2f} {:5.2f}".format(limit, tokens, *times_ms)
        )
    middle, most = 1e3 * statistics.median(extra_s), 1e3 * max(extra_s)
    print(f"TTFT, ours less vLLM's over {len(extra_s)} requests: median {middle:.2f} ms, most {most:.2f} ms")


def _traces(spans: list[dict[str, Any]], wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    """The spans of each wanted trace."""
    traces: dict[str, list[dict[str, Any]]] = {trace_id: [] for trace_id in wanted}
    for span in spans:
        if span["context"]["trace_id"] in wanted:
            traces[span["context"]["trace_id"]].append(span)
    return traces


def _chain(spans: list[dict[str, Any]], parent_id: str) -> list[dict[str, Any]]:
    """The spans of a trace, each the parent of the next; the first is the child of `parent_id`."""
    chain = []
    for _ in spans:
        (child,) = [span for span in spans if span["parent_id"] == parent_id]
        chain.append(child)
        parent_id = child["context"]["span_id"]
    return chain
