"""A chat request through Lengthwise as a user sees it: same answer, and a span, a metric and a ledger row."""

import asyncio
import json
from typing import Any

import openai
import pytest

from proxy.lab.simulator import SimulatorOptions, make_app
from proxy.lab.simulator import serving as simulating
from tests.support.otlp import HttpCollector
from tests.support.serve import Served, serving_async

FAST = SimulatorOptions(ttft_s=0.02, tpot_s=0.001)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ASKED = {"model": "sim-small", "messages": [{"role": "user", "content": "Say it. [tokens=40]"}]}


def settings(url: str) -> dict[str, Any]:
    """One upstream, everything else by default."""
    return {"upstreams": [{"name": "sim", "url": url}]}


def client(base_url: str) -> openai.AsyncOpenAI:
    """The SDK as an application makes it, but without repetitions."""
    return openai.AsyncOpenAI(base_url=base_url, api_key="sk-test", max_retries=0)


def comparable(item: Any) -> dict[str, Any]:
    """An SDK object without what differs from one request to the next."""
    return {key: value for key, value in item.model_dump().items() if key not in {"id", "created"}}


async def streamed(asked: openai.AsyncOpenAI, **extra: Any) -> list[dict[str, Any]]:
    """Every chunk of a streamed answer."""
    stream = await asked.chat.completions.create(**ASKED, stream=True, **extra)
    return [comparable(chunk) async for chunk in stream]


def without_usage(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Chunks without the member that include_usage puts on every chunk."""
    return [{key: value for key, value in chunk.items() if key != "usage"} for chunk in chunks]


async def test_the_official_client_gets_the_same_objects_as_direct() -> None:
    """Non-streamed, streamed and streamed with usage: what the SDK returns through the proxy equals direct."""
    async with (
        simulating(make_app(FAST)) as url,
        serving_async(settings(url)) as served,
        client(f"{url}/v1") as direct,
        client(served.base_url) as through,
    ):
        for limit in ({"max_tokens": 10}, {"max_completion_tokens": 400}, {}):
            whole = [comparable(await each.chat.completions.create(**ASKED, **limit)) for each in (direct, through)]
            assert whole[0] == whole[1]

            with_usage = {"stream_options": {"include_usage": True}, **limit}
            assert await streamed(direct, **with_usage) == await streamed(through, **with_usage)

            # Usage was asked for on the client's behalf: its event is cut out again, only `usage: null` stays.
            assert without_usage(await streamed(direct, **limit)) == without_usage(await streamed(through, **limit))


async def test_an_exchange_becomes_two_spans_a_metric_and_a_row() -> None:
    """Requested max_tokens, real output tokens and TTFT agree in the CLIENT span, the ledger and the metrics."""
    with HttpCollector() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        async with simulating(make_app(FAST)) as url, serving_async(settings(url), env=environment) as served:
            async with client(served.base_url) as through:
                await streamed(
                    through,
                    max_tokens=10,
                    extra_headers={"traceparent": TRACEPARENT, "x-lengthwise-app": "search"},
                )
            spans = await asyncio.to_thread(collector.wait_for_spans, 2)
            (row,) = await asyncio.to_thread(served.rows, 1)
            _, metrics = await asyncio.to_thread(served.get, "/metrics")

    by_kind = {span["kind"]: span for span in spans}
    server, call = by_kind["SERVER"], by_kind["CLIENT"]
    assert (server["name"], call["name"]) == ("POST /v1/chat/completions", "chat sim-small")
    assert server["trace_id"] == call["trace_id"] == row["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert (server["parent_span_id"], call["parent_span_id"]) == ("00f067aa0ba902b7", server["span_id"])
    assert not [name for name in server["attributes"] if name.startswith(("gen_ai.", "lengthwise."))]

    attributes = call["attributes"]
    assert attributes["gen_ai.request.max_tokens"] == attributes["lengthwise.max_tokens.requested"] == 10
    assert attributes["gen_ai.usage.output_tokens"] == row["output_tokens"] == 10
    assert attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert attributes["lengthwise.truncated_by"] == "client"
    assert attributes["lengthwise.time_to_first_token"] == row["ttft_s"]
    assert attributes["lengthwise.app"] == row["app"] == "search"
    assert [event["name"] for event in call["events"]] == ["First Token Stream Event"]
    assert (row["end"], row["finish"], row["cut"], row["usage_source"]) == ("complete", "length", 1, "provider")
    assert "lengthwise_time_to_first_token_seconds_count{" in metrics
    assert 'lengthwise_truncations_total{by="client"' in metrics


async def test_the_first_token_is_not_the_role_event_before_it() -> None:
    """The simulator sends a role-only event halfway to the first token; TTFT is the token's time, TTFC the event's."""
    slow = SimulatorOptions(ttft_s=0.16, tpot_s=0.01)
    async with simulating(make_app(slow)) as url, serving_async(settings(url)) as served:
        async with client(served.base_url) as through:
            await streamed(through, max_tokens=20)
        (row,) = await asyncio.to_thread(served.rows, 1)
    # Bounds that no scheduling can break: nothing arrives before the provider's own due time.
    assert row["ttft_s"] >= 0.16
    assert row["ttfc_s"] < row["ttft_s"]
    assert row["last_token_s"] >= 0.16 + 19 * 0.01
    assert abs(row["tpot_s"] - (row["last_token_s"] - row["ttft_s"]) / 19) < 1e-9


async def test_a_cap_lowers_the_limit_and_says_so_everywhere() -> None:
    """An enforced cap: the provider cuts at it, the header, the row and the metrics name the rule."""
    policies = {
        "version": 1,
        "rules": [
            {"name": "half", "match": {"model": "sim-*"}, "do": "cap", "max_tokens": 5, "mode": "shadow"},
            {"name": "cap-8", "match": {"model": ["sim-small"]}, "do": "cap", "max_tokens": 8, "when_absent": "insert"},
        ],
    }
    async with (
        simulating(make_app(FAST)) as url,
        serving_async(settings(url) | {"policies": "policies.yaml"}, policies=policies) as served,
        client(served.base_url) as through,
    ):
        capped = await through.chat.completions.with_raw_response.create(**ASKED, max_tokens=30)
        inserted = await through.chat.completions.with_raw_response.create(**ASKED)
        below = await through.chat.completions.with_raw_response.create(**ASKED, max_completion_tokens=7)
        rows = await asyncio.to_thread(served.rows, 3)
        _, metrics = await asyncio.to_thread(served.get, "/metrics")
    assert [answer.headers["x-lengthwise-policy"] for answer in (capped, inserted, below)] == [
        "rule=cap-8; action=capped; requested=30; forwarded=8",
        "rule=cap-8; action=inserted; requested=none; forwarded=8",
        "rule=cap-8; action=none; requested=7; forwarded=7",
    ]
    assert [answer.parse().usage.completion_tokens for answer in (capped, inserted, below)] == [8, 8, 7]
    assert [(row["action"], row["rule"], row["limit_field"]) for row in rows] == [
        ("capped", "cap-8", "max_tokens"),
        ("inserted", "cap-8", "max_tokens"),
        ("none", "cap-8", "max_completion_tokens"),
    ]
    assert json.loads(rows[0]["shadow"]) == [{"rule": "half", "action": "capped", "forwarded": 5}]
    assert 'lengthwise_truncations_total{by="policy"' in metrics


async def test_what_the_provider_refuses_passes_as_it_is() -> None:
    """A 404 and a 429 of the provider reach the SDK as its own exceptions; the row says what came."""
    async with simulating(make_app(FAST)) as url, serving_async(settings(url)) as served:
        async with client(served.base_url) as through:
            for model, prompt, expected in (
                ("no-such-model", "hi", openai.NotFoundError),
                ("sim-small", "[error=429]", openai.RateLimitError),
            ):
                with pytest.raises(expected) as refused:
                    await through.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])
                assert "x-lengthwise-error" not in refused.value.response.headers
        rows = await asyncio.to_thread(served.rows, 2)
    assert [(row["status"], row["end"], row["error_type"]) for row in rows] == [
        (404, "complete", "404"),
        (429, "complete", "429"),
    ]


async def test_the_service_leaves_when_told(tmp_path: Any) -> None:
    """SIGTERM while twenty streams run: every stream arrives whole, every record is in the ledger, exit code 0."""
    slow = SimulatorOptions(ttft_s=0.1, tpot_s=0.02)

    async def one(through: openai.AsyncOpenAI, begun: asyncio.Event) -> str | None:
        stream = await through.chat.completions.create(**ASKED, stream=True)
        reason = None
        async for chunk in stream:
            begun.set()
            reason = chunk.choices[0].finish_reason or reason
        return reason

    ledger = {"ledger": {"path": str(tmp_path / "kept.sqlite")}}
    async with simulating(make_app(slow)) as url, serving_async(settings(url) | ledger) as served:
        async with client(served.base_url) as through:
            begun = [asyncio.Event() for _ in range(20)]
            streams = [asyncio.create_task(one(through, event)) for event in begun]
            for event in begun:
                await event.wait()
            served.process.terminate()
            assert await asyncio.gather(*streams) == ["stop"] * 20
        assert await asyncio.to_thread(served.process.wait, 20) == 0
        rows = Served.rows(served, 20)
    assert [row["end"] for row in rows] == ["complete"] * 20
