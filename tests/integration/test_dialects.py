"""Completions, responses and messages through Lengthwise: the same answers as direct, and rows that know what was in them."""

import asyncio
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from proxy.lab.simulator import SimulatorOptions, make_app
from proxy.lab.simulator import serving as simulating
from tests.support.serve import serving_async

FAST = SimulatorOptions(ttft_s=0.02, tpot_s=0.001)
CAP = {"name": "cap-20", "match": {"model": "sim-*"}, "do": "cap", "max_tokens": 20, "when_absent": "insert"}
DIFFERS = {"id", "created", "created_at"}
FACTS = ("dialect", "stream", "status", "end", "finish", "requested_max_tokens", "choices", "input_tokens", "output_tokens", "reasoning_tokens", "usage_source", "degraded")  # fmt: skip


def settings(url: str) -> dict[str, Any]:
    """One upstream, everything else by default."""
    return {"upstreams": [{"name": "sim", "url": url}]}


def client(base_url: str) -> openai.AsyncOpenAI:
    """The SDK as an application makes it, but without repetitions."""
    return openai.AsyncOpenAI(base_url=base_url, api_key="sk-test", max_retries=0)


def comparable(item: Any) -> Any:
    """What the SDK returned, without what differs from one request to the next."""
    if isinstance(item, openai.BaseModel | anthropic.BaseModel):
        item = item.model_dump()
    if isinstance(item, dict):
        return {key: comparable(value) for key, value in item.items() if key not in DIFFERS}
    return [comparable(each) for each in item] if isinstance(item, list) else item


def known(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row says of an answer."""
    return tuple(row[name] for name in FACTS)


def timed(row: dict[str, Any]) -> bool:
    """True when the first and the last token have a time."""
    return row["ttft_s"] is not None and row["last_token_s"] is not None


async def whole(answers: Any) -> list[Any]:
    """Every object of a stream, or the answer alone."""
    return (
        [comparable(each) async for each in answers]
        if isinstance(answers, openai.AsyncStream | anthropic.AsyncStream)
        else [comparable(answers)]
    )


async def test_completions_are_what_they_are_direct_and_known() -> None:
    """One and many prompts, streamed with and without usage, cut by their own limit and by the provider's."""
    cases: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({"prompt": "Say it. [tokens=40]", "max_tokens": 9}, ("length", 9, 1, 3, 9)),
        ({"prompt": "Say it. [tokens=40]"}, ("length", None, 1, 3, 16)),
        ({"prompt": ["a [tokens=5]", "b"], "n": 2, "max_tokens": 30}, ("stop", 30, 4, 3, 20)),
        ({"prompt": [5, 6, 7], "max_tokens": 1}, ("length", 1, 1, 3, 1)),
    ]
    async with simulating(make_app(FAST)) as url, serving_async(settings(url)) as served:
        async with client(f"{url}/v1") as direct, client(served.base_url) as through:
            for asked, _ in cases:
                for more in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
                    found = [
                        await whole(await each.completions.create(model="sim-small", **asked, **more))
                        for each in (direct, through)
                    ]
                    assert found[0] == found[1]
            unasked = [
                await whole(await each.completions.create(model="sim-small", prompt="a [tokens=5]", stream=True))
                for each in (direct, through)
            ]
            for chunk in unasked[1]:
                assert chunk.pop("usage") is None  # it stays of having been asked for; the event itself was cut
            assert unasked[1] == [
                {key: value for key, value in chunk.items() if key != "usage"} for chunk in unasked[0]
            ]
        rows = await asyncio.to_thread(served.rows, 9)
    expected = [
        ("completions", stream, 200, "complete", finish, requested, choices, given, output, None, "provider", None)
        for _, (finish, requested, choices, given, output) in cases
        for stream in (0, 1)
    ]
    expected.append(("completions", 1, 200, "complete", "stop", None, 1, 2, 5, None, "provider", None))
    assert [known(row) for row in rows] == expected
    assert [timed(row) for row in rows] == [bool(row["stream"]) for row in rows]


RESPONSES: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"input": "Say it. [tokens=30]", "max_output_tokens": 18}, ("length", 18, 18, 0)),
    ({"input": "Say it. [tokens=30]", "instructions": "Be kind."}, ("stop", None, 30, 0)),
    ({"input": [{"role": "user", "content": "Think. [reasoning=7] [tokens=5]"}]}, ("stop", None, 12, 7)),
    ({"input": "Look. [tool] [tokens=6]"}, ("tool_calls", None, 6, 0)),
]


async def test_responses_are_what_they_are_direct_and_known() -> None:
    """Streamed and not: an incomplete one, a complete one, one that reasons and one that calls a function."""
    async with simulating(make_app(FAST)) as url, serving_async(settings(url)) as served:
        async with client(f"{url}/v1") as direct, client(served.base_url) as through:
            for asked, _ in RESPONSES:
                for stream in (False, True):
                    found = [
                        await whole(await each.responses.create(model="sim-small", stream=stream, **asked))
                        for each in (direct, through)
                    ]
                    assert found[0] == found[1]
        rows = await asyncio.to_thread(served.rows, 8)
    assert [known(row)[:7] + known(row)[8:] for row in rows] == [
        ("responses", stream, 200, "complete", finish, requested, 1, output, reasoning, "provider", None)
        for _, (finish, requested, output, reasoning) in RESPONSES
        for stream in (0, 1)
    ]
    assert [timed(row) for row in rows] == [bool(row["stream"]) for row in rows]


MESSAGES: list[tuple[str, int, tuple[Any, ...]]] = [
    ("Say it. [tokens=30]", 9, ("length", 3, 9)),
    ("Say it. [tokens=30]", 99, ("stop", 3, 30)),
    ("Think. [reasoning=7] [tokens=5]", 99, ("stop", 3, 12)),
    ("Look. [tool] [tokens=6]", 99, ("tool_calls", 3, 6)),
]


async def test_messages_are_what_they_are_direct_and_known() -> None:
    """Streamed and not, by Anthropic's own client: the key goes in its own header, the stream has names for its events."""
    async with simulating(make_app(FAST)) as url, serving_async(settings(url)) as served:
        for prompt, limit, _ in MESSAGES:
            asked: Any = {"model": "sim-small", "max_tokens": limit, "messages": [{"role": "user", "content": prompt}]}
            for stream in (False, True):
                found = []
                for origin in (url, served.url):
                    async with anthropic.AsyncAnthropic(base_url=origin, api_key="k", max_retries=0) as each:
                        found.append(await whole(await each.messages.create(stream=stream, **asked)))
                assert found[0] == found[1]
        rows = await asyncio.to_thread(served.rows, 8)
    assert [known(row) for row in rows] == [
        ("messages", stream, 200, "complete", finish, limit, 1, given, output, None, "provider", None)
        for _, limit, (finish, given, output) in MESSAGES
        for stream in (0, 1)
    ]
    assert [timed(row) for row in rows] == [bool(row["stream"]) for row in rows]


async def test_anthropics_client_knows_our_refusals() -> None:
    """In its envelope, by its exceptions; and those of the provider pass as they are."""
    policies = {"version": 1, "rules": [{"name": "no", "match": {"requested": {"over": 50}}, "do": "reject"}]}
    asked: Any = {"model": "sim-small", "messages": [{"role": "user", "content": "a"}]}
    async with (
        simulating(make_app(FAST)) as url,
        serving_async(settings(url) | {"policies": "policies.yaml"}, policies=policies) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key="k", max_retries=0) as through,
    ):
        with pytest.raises(anthropic.BadRequestError) as refused:
            await through.messages.create(max_tokens=51, **asked)
        with pytest.raises(anthropic.NotFoundError) as missing:
            await through.messages.create(max_tokens=50, **asked | {"model": "no-such-model"})
    assert refused.value.response.headers["x-lengthwise-error"] == "policy_rejected"
    assert "x-lengthwise-error" not in missing.value.response.headers
    for error, kind in ((refused.value, "invalid_request_error"), (missing.value, "not_found_error")):
        assert isinstance(error.body, dict)
        assert (error.body["type"], error.body["error"]["type"]) == ("error", kind)


async def test_a_cap_reaches_every_dialect_in_its_own_field() -> None:
    """Lowered where a limit was sent, inserted where none was; a completions request without one has 16 anyway."""
    asked: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
        ("completions", {"prompt": "a [tokens=50]", "max_tokens": 40}, ("capped", "max_tokens", 20, 20, 1)),
        ("completions", {"prompt": "a [tokens=50]"}, ("none", None, None, 16, 1)),
        ("responses", {"input": "a [tokens=50]", "max_output_tokens": 40}, ("capped", "max_output_tokens", 20, 20, 1)),
        ("responses", {"input": "a [tokens=50]"}, ("inserted", "max_output_tokens", 20, 20, 1)),
        ("responses", {"input": "a [tokens=50]", "max_output_tokens": 16}, ("none", "max_output_tokens", 16, 16, 1)),
        ("messages", {"messages": [{"role": "user", "content": "a [tokens=50]"}], "max_tokens": 40}, ("capped", "max_tokens", 20, 20, 1)),
    ]  # fmt: skip
    async with (
        simulating(make_app(FAST)) as url,
        serving_async(settings(url) | {"policies": "policies.yaml"}, policies={"version": 1, "rules": [CAP]}) as served,
        aiohttp.ClientSession() as session,
    ):
        for path, body, _ in asked:
            async with session.post(f"{served.base_url}/{path}", json={"model": "sim-small"} | body) as answer:
                assert (answer.status, await answer.read() != b"") == (200, True)
        rows = await asyncio.to_thread(served.rows, len(asked))
    names = ("action", "limit_field", "forwarded_max_tokens", "output_tokens", "cut")
    assert [tuple(row[name] for name in names) for row in rows] == [expected for _, _, expected in asked]


@pytest.mark.parametrize(
    ("path", "body", "error_type"),
    [
        ("completions", {"prompt": "a [error_after=3]", "max_tokens": 9}, "server_error"),
        ("responses", {"input": "a [error_after=3]"}, "server_error"),
        ("messages", {"messages": [{"role": "user", "content": "a [error_after=3]"}], "max_tokens": 9}, "api_error"),
    ],
)
async def test_an_error_in_a_stream_is_an_error_of_the_upstream(
    path: str, body: dict[str, Any], error_type: str
) -> None:
    """A 200 that tells of a failure is no success."""
    async with (
        simulating(make_app(FAST)) as url,
        serving_async(settings(url)) as served,
        aiohttp.ClientSession() as session,
    ):
        asked = {"model": "sim-small", "stream": True} | body
        async with session.post(f"{served.base_url}/{path}", json=asked) as answer:
            assert error_type in await answer.text()
        (row,) = await asyncio.to_thread(served.rows, 1)
    assert (row["end"], row["error_type"], timed(row)) == ("upstream_error", error_type, True)
