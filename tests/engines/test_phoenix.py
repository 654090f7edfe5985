"""Spans as a real trace backend understood them."""

import json
import secrets
from datetime import datetime
from typing import Any

import pytest

from tests.engines.asking import ask
from tests.engines.parts import Phoenix
from tests.engines.scripted import FIRST_TOKEN_S, INPUT_TOKENS, WORDS
from tests.support.serve import serving

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

PARENT = "b7ad6b7169203331"
REQUESTED, CAP = 20, 8
ASKED = [("scripted", True), ("scripted", False), ("capped", True), ("capped", False)]
"""Model, and whether it is streamed."""


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_spans_come_back_with_limit_tokens_and_time_to_first_token(
    phoenix: Phoenix, provider: str, protocol: str
) -> None:
    """What the backend shows is what was asked, what was forwarded, what came, and when; under the right parents."""
    project = f"lengthwise-{protocol.partition('/')[0]}"
    settings = {
        "upstreams": [{"name": "scripted", "url": provider, "provider": "openai"}],
        "telemetry": {"metrics": "none"},
    }
    rule = {"name": "cap", "match": {"model": "capped*"}, "do": "cap", "max_tokens": CAP, "mode": "enforce"}
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": phoenix.grpc_url if protocol == "grpc" else phoenix.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_RESOURCE_ATTRIBUTES": f"openinference.project.name={project}",
    }
    traces = {secrets.token_hex(16): asked for asked in ASKED}
    with serving(settings, policies={"version": 1, "rules": [rule]}, env=env) as served:
        for trace_id, (model, stream) in traces.items():
            ask(
                served.base_url,
                headers={"traceparent": f"00-{trace_id}-{PARENT}-01"},
                model=model,
                messages=[{"role": "user", "content": "Tell me a story."}],
                max_tokens=REQUESTED,
                stream=stream,
            )
        rows = {row["trace_id"]: row for row in served.rows(len(traces))}
        spans = phoenix.spans(project, 2 * len(traces))

    assert len(spans) == 2 * len(traces)
    for trace_id, (model, stream) in traces.items():
        ours = [span for span in spans if span["context"]["trace_id"] == trace_id]
        (server,) = [span for span in ours if span["parent_id"] == PARENT]
        (client,) = [span for span in ours if span["parent_id"] == server["context"]["span_id"]]
        assert (server["name"], client["name"]) == ("POST /v1/chat/completions", f"chat {model}")
        assert {name for name in server["attributes"] if name.startswith(("gen_ai.", "lengthwise."))} == set()
        capped = model.startswith("capped")
        forwarded, tokens = (CAP, CAP) if capped else (REQUESTED, len(WORDS))
        expected: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": forwarded,
            "gen_ai.usage.input_tokens": INPUT_TOKENS,
            "gen_ai.usage.output_tokens": tokens,
            "gen_ai.response.finish_reasons": ["length" if capped else "stop"],
            "lengthwise.max_tokens.requested": REQUESTED,
            "lengthwise.max_tokens.forwarded": forwarded,
            "lengthwise.max_tokens.action": "capped" if capped else "none",
            "lengthwise.max_tokens.slack": forwarded - tokens,
            "lengthwise.truncated": capped,
            # What Phoenix derived from them for its own screens:
            "llm.model_name": model,
            "llm.token_count.prompt": INPUT_TOKENS,
            "llm.token_count.completion": tokens,
        }
        if stream:
            expected["lengthwise.stream.end"] = "complete"
        assert {name: client["attributes"].get(name) for name in expected} == expected
        assert json.loads(client["attributes"]["llm.invocation_parameters"])["max_tokens"] == forwarded
        assert client["span_kind"] == "LLM"
        _check_first_token(client, rows[trace_id]["ttft_s"], stream=stream)
        assert _at_s(server["start_time"]) <= _at_s(client["start_time"])
        assert _at_s(client["end_time"]) <= _at_s(server["end_time"])


def _check_first_token(client: dict[str, Any], ttft_s: float | None, *, stream: bool) -> None:
    """A stream has its true first token, not that of the role, as attribute and event; a whole answer has neither."""
    events = [event for event in client["events"] if event["name"] == "First Token Stream Event"]
    if not stream:
        assert (events, ttft_s) == ([], None)
        assert "lengthwise.time_to_first_token" not in client["attributes"]
        return
    assert ttft_s is not None
    assert ttft_s >= FIRST_TOKEN_S
    assert client["attributes"]["lengthwise.time_to_first_token"] == pytest.approx(ttft_s)
    (event,) = events
    assert _at_s(client["start_time"]) + ttft_s <= _at_s(event["timestamp"]) + 1e-4 <= _at_s(client["end_time"]) + 1e-4


def _at_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
