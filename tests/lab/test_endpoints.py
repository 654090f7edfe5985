"""The simulated endpoints that generate, over real sockets: each in its own form, with its own errors."""

import asyncio
import json
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from proxy.lab.endpoints import ENDPOINTS
from proxy.lab.simulator import SimulatorOptions, make_app, serving
from proxy.wire.dialects import DIALECTS

QUICK = SimulatorOptions(ttft_s=0.0, tpot_s=0.0, median_tokens=20)


def asked(path: str, prompt: str) -> dict[str, Any]:
    """A request of this prompt."""
    kinds: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": prompt, "max_tokens": 99},
        "/v1/responses": {"input": prompt},
    }
    return {"model": "sim-small"} | kinds.get(
        path, {"messages": [{"role": "user", "content": prompt}], "max_tokens": 99}
    )


def test_every_dialect_is_simulated() -> None:
    """None is left without something to try it on."""
    assert [endpoint.path for endpoint in ENDPOINTS] == [dialect.route for dialect in DIALECTS]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
async def test_faults_and_paces_hold_on_every_endpoint(endpoint: Any) -> None:
    """Errors before and inside the stream have the endpoint's envelope; a reset is a reset."""
    async with serving(make_app(QUICK)) as origin, aiohttp.ClientSession(origin) as session:
        async with session.post(endpoint.path, json=asked(endpoint.path, "[error=503]")) as refused:
            error = await refused.json()
        assert (refused.status, "message" in error["error"], error.get("type")) == (
            503,
            True,
            "error" if endpoint.id_prefix == "msg" else None,
        )
        async with session.post(
            endpoint.path, json=asked(endpoint.path, "[error_after=3]") | {"stream": True}
        ) as broken:
            last = (await broken.text()).rstrip().rpartition("data: ")[2]
        assert (broken.status, "simulated failure" in last, isinstance(json.loads(last), dict)) == (200, True, True)
        with pytest.raises(aiohttp.ClientError):
            async with session.post(
                endpoint.path, json=asked(endpoint.path, "[reset_after=3]") | {"stream": True}
            ) as reset:
                await reset.read()


async def test_the_official_clients_read_every_endpoint() -> None:
    """Their helpers put a stream together to what the answer is when it is not streamed."""
    async with serving(make_app(QUICK)) as origin:
        async with openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key="k", max_retries=0) as client:
            whole = await client.responses.create(model="sim-small", input="Go on. [tokens=5] [reasoning=3]")
            async with client.responses.stream(model="sim-small", input="Go on. [tokens=5] [reasoning=3]") as stream:
                final = await stream.get_final_response()
            assert (final.output_text, final.usage) == (whole.output_text, whole.usage)
            text = await client.completions.create(model="sim-small", prompt="Go on. [tokens=5]")
            pieces = await client.completions.create(model="sim-small", prompt="Go on. [tokens=5]", stream=True)
            assert "".join([chunk.choices[0].text async for chunk in pieces]) == text.choices[0].text
        async with anthropic.AsyncAnthropic(base_url=origin, api_key="k", max_retries=0) as claude:
            request: Any = asked("/v1/messages", "Look. [tool] [tokens=6]")
            message = await claude.messages.create(**request)
            async with claude.messages.stream(**request) as events:
                put_together = await events.get_final_message()
            assert put_together.content[0].to_dict()["input"] == message.content[0].to_dict()["input"]
            assert put_together.usage.output_tokens == message.usage.output_tokens == 6


async def test_a_key_may_come_as_anthropics_clients_send_it() -> None:
    """In `x-api-key`; a wrong one is refused in their envelope."""
    options = SimulatorOptions(ttft_s=0, tpot_s=0, api_key="right")
    async with serving(make_app(options)) as origin:
        request: Any = asked("/v1/messages", "[tokens=2]")
        async with anthropic.AsyncAnthropic(base_url=origin, api_key="right", max_retries=0) as claude:
            assert (await claude.messages.create(**request)).usage.output_tokens == 2
        async with anthropic.AsyncAnthropic(base_url=origin, api_key="wrong", max_retries=0) as claude:
            with pytest.raises(anthropic.AuthenticationError):
                await asyncio.wait_for(claude.messages.create(**request), 30)
