"""The simulated provider, over real sockets, read by the official client where it can read it."""

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest

from proxy.lab import simulator
from proxy.lab.chat_request import read_request
from proxy.lab.simulator import SimulatorOptions, make_app, serving

QUICK = SimulatorOptions(ttft_s=0.0, tpot_s=0.0, median_tokens=20)


@contextlib.asynccontextmanager
async def sdk(options: SimulatorOptions = QUICK, key: str = "unused") -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, pointed at a simulator of its own."""
    async with serving(make_app(options)) as origin:
        client = openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key=key, max_retries=0)
        async with client:
            yield client


@contextlib.asynccontextmanager
async def plain(options: SimulatorOptions = QUICK) -> AsyncIterator[aiohttp.ClientSession]:
    """A plain HTTP client of a simulator of its own."""
    async with serving(make_app(options)) as origin, aiohttp.ClientSession(origin) as session:
        yield session


def chat(prompt: str, **more: Any) -> dict[str, Any]:
    """A chat request for the small model."""
    return {"model": "sim-small", "messages": [{"role": "user", "content": prompt}]} | more


async def events(response: aiohttp.ClientResponse) -> list[Any]:
    """The parsed data of every event of a stream, `[DONE]` as it is."""
    text = (await response.read()).decode()
    data = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


async def stats_once(session: aiohttp.ClientSession, **wanted: int) -> dict[str, int]:
    """The stats as soon as they say what is wanted; the test's timeout is the limit."""
    while True:
        async with session.get("/sim/stats") as response:
            stats: dict[str, int] = await response.json()
        if wanted.items() <= stats.items():
            return stats


async def test_the_official_client_reads_the_same_answer_streamed_and_not() -> None:
    """Content, finish reason and usage of a stream add up to the answer that is not streamed."""
    async with sdk() as client:
        whole = await client.chat.completions.create(**chat("Say something."))
        stream = await client.chat.completions.create(
            **chat("Say something."), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 2
    # The role-only chunk, the finish chunk and the usage chunk carry no token.
    assert len(chunks) - 3 == whole.usage.completion_tokens
    assert {chunk.system_fingerprint for chunk in chunks} == {"simulated"} == {whole.system_fingerprint}


async def test_a_limit_cuts_and_says_so() -> None:
    """The same prompt is cut by a small limit, and not touched by a larger one than its natural length."""
    async with sdk() as client:
        found = []
        for limit in (5, 12, 500, 5000):
            answer = await client.chat.completions.create(**chat("Go on. [tokens=12]"), max_completion_tokens=limit)
            assert answer.usage is not None
            found.append((answer.usage.completion_tokens, answer.choices[0].finish_reason))
    assert found == [(5, "length"), (12, "stop"), (12, "stop"), (12, "stop")]


async def test_every_response_says_that_it_is_simulated() -> None:
    """Answers, streams, errors, the list of models and unknown paths carry the header."""
    async with plain() as session:
        for method, path, body, status in (
            ("POST", "/v1/chat/completions", chat("Hi."), 200),
            ("POST", "/v1/chat/completions", chat("Hi.", stream=True), 200),
            ("POST", "/v1/chat/completions", chat("Hi.", model="gpt-4o"), 404),
            ("POST", "/v1/chat/completions", chat("Hi. [error=503]"), 503),
            ("GET", "/v1/models", None, 200),
            ("GET", "/v1/chat/completions", None, 404),
            ("POST", "/v1/elsewhere", {}, 404),
        ):
            async with session.request(method, path, json=body) as response:
                assert (response.status, response.headers["x-simulated-provider"]) == (status, "lengthwise")
                await response.read()


async def test_the_models_are_listed_and_any_other_is_not_found() -> None:
    """Names are honest; with any_model another name answers."""
    async with sdk() as client:
        names = [model.id async for model in client.models.list()]
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi."}])
    assert names == ["sim-small", "sim-large", "sim-reasoning", "sim-reserving"]
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    async with sdk(SimulatorOptions(ttft_s=0, tpot_s=0, any_model=True)) as client:
        answer = await client.chat.completions.create(**chat("Hi. [tokens=2]", model="gpt-4o"))
    assert answer.model == "gpt-4o"


async def test_usage_comes_in_one_extra_chunk_only_where_it_was_asked_for() -> None:
    """Asked: null on every chunk, then one without choices, then the end mark. Not asked: no word of usage."""
    async with plain() as session:
        prompt = "One two three. [tokens=2]"
        async with session.post("/v1/chat/completions", json=chat(prompt, stream=True)) as response:
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            unasked = await events(response)
        options = {"include_usage": True}
        asked_body = chat(prompt, stream=True, stream_options=options)
        async with session.post("/v1/chat/completions", json=asked_body) as response:
            asked = await events(response)
    assert [chunk if chunk == "[DONE]" else chunk["choices"][0]["delta"] for chunk in unasked] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "tok "},
        {"content": "tik "},
        {},
        "[DONE]",
    ]
    assert not any("usage" in chunk for chunk in unasked[:-1])
    assert [chunk["usage"] for chunk in asked[:-2]] == [None] * 4
    assert asked[-2]["choices"] == []
    assert asked[-2]["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    assert asked[-1] == "[DONE]"


async def test_choices_end_each_on_its_own_and_usage_is_their_sum() -> None:
    """Two choices of different length interleave; each has one role, its tokens and one finish reason."""
    body = chat("Twice.", stream=True, n=2, stream_options={"include_usage": True})
    async with plain() as session, session.post("/v1/chat/completions", json=body) as response:
        chunks = (await events(response))[:-1]
    tokens = [0, 0]
    finishes: list[list[str]] = [[], []]
    for choice in (chunk["choices"][0] for chunk in chunks[:-1]):
        tokens[choice["index"]] += bool(choice["delta"].get("content"))
        if choice["finish_reason"]:
            finishes[choice["index"]].append(choice["finish_reason"])
        else:
            assert not finishes[choice["index"]]
    assert finishes == [["stop"], ["stop"]]
    assert tokens[0] != tokens[1]
    assert chunks[-1]["usage"]["completion_tokens"] == sum(tokens)


async def test_reasoning_comes_first_and_is_counted_apart() -> None:
    """Reasoning deltas precede the answer's; usage counts them inside the completion and beside it."""
    async with sdk() as client:
        stream = await client.chat.completions.create(
            **chat("Think. [reasoning=4] [tokens=3]", model="sim-reasoning"),
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    kinds = [
        "reasoning" if hasattr(chunk.choices[0].delta, "reasoning_content") else "answer" for chunk in chunks[1:-2]
    ]
    assert kinds == ["reasoning"] * 4 + ["answer"] * 3
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (7, 4)


async def test_a_tool_call_streams_in_pieces_that_the_client_joins() -> None:
    """The client's own accumulation of the stream equals the call of the answer that is not streamed."""
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    async with sdk() as client:
        whole = await client.chat.completions.create(**chat("Look. [tool] [tokens=6]"), tools=tools)
        async with client.chat.completions.stream(**chat("Look. [tool] [tokens=6]"), tools=tools) as stream:
            async for _ in stream:
                pass
            joined = await stream.get_final_completion()
    assert joined.choices[0].finish_reason == whole.choices[0].finish_reason == "tool_calls"
    assert joined.choices[0].message.tool_calls is not None
    assert whole.choices[0].message.tool_calls is not None
    pieces, at_once = joined.choices[0].message.tool_calls[0].function, whole.choices[0].message.tool_calls[0].function
    assert (pieces.name, pieces.arguments) == (at_once.name, at_once.arguments) == ("weather", at_once.arguments)
    assert list(json.loads(at_once.arguments)) == ["query"]


@pytest.mark.parametrize(
    ("status", "raised"),
    [(400, openai.BadRequestError), (429, openai.RateLimitError), (500, openai.InternalServerError)],
)
async def test_an_error_directive_fails_as_the_client_expects(status: int, raised: type[openai.APIStatusError]) -> None:
    """The status maps to the client's own class, with a type in the envelope."""
    async with sdk() as client:
        with pytest.raises(raised) as caught:
            await client.chat.completions.create(**chat(f"[error={status}]"))
    assert caught.value.status_code == status
    assert caught.value.type


async def test_an_error_inside_a_stream_comes_after_its_tokens() -> None:
    """The status is 200 already, the client raises in the middle, and the stream has no end mark."""
    body = chat("[error_after=2] [tokens=9]", stream=True)
    async with sdk() as client:
        stream = await client.chat.completions.create(**body)
        said: list[str | None] = []
        with pytest.raises(openai.APIError, match="simulated failure"):
            await _listen(stream, said)
    assert said == ["", "tok ", "tik "]
    async with plain() as session, session.post("/v1/chat/completions", json=body) as response:
        last = (await events(response))[-1]
    assert last["error"]["type"] == "server_error"


async def _listen(stream: openai.AsyncStream[Any], said: list[str | None]) -> None:
    async for chunk in stream:
        said.append(chunk.choices[0].delta.content)  # noqa: PERF401 -- what came before the error must stay


async def test_a_reset_breaks_the_stream_and_is_no_client_that_left() -> None:
    """Tokens come, then the connection is torn down without an end; it is not counted as cancelled."""
    async with plain() as session:
        body = chat("[reset_after=3] [tokens=9]", stream=True)
        async with session.post("/v1/chat/completions", json=body) as response:
            content = response.content
            with pytest.raises(aiohttp.ClientError):
                await content.read()
        stats = await stats_once(session, active=0)
    assert stats == {"requests": 1, "active": 0, "waiting": 0, "cancelled": 0, "tokens": 3}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_counted_and_ends_the_work(stream: bool) -> None:
    """Leaving a silent answer cancels it: nothing stays active, and one request is counted as cancelled."""
    async with plain() as session:
        body = chat("[stall_after=2] [tokens=9]", stream=stream)
        request = asyncio.create_task(_read(session, body))
        await stats_once(session, active=1, tokens=2 if stream else 0)
        request.cancel()
        stats = await stats_once(session, active=0)
    assert stats == {"requests": 1, "active": 0, "waiting": 0, "cancelled": 1, "tokens": 2 if stream else 0}


async def test_a_client_that_leaves_mid_stream_stops_the_tokens() -> None:
    """An endless answer stops being generated when nobody reads it any more."""
    async with plain() as session:
        request = asyncio.create_task(_read(session, chat("[tokens=900000] [tpot_ms=1]", stream=True)))
        while (await stats_once(session))["tokens"] < 3:
            pass
        request.cancel()
        stats = await stats_once(session, active=0, cancelled=1)
    assert stats["tokens"] < 900_000


async def _read(session: aiohttp.ClientSession, body: dict[str, Any]) -> bytes:
    async with session.post("/v1/chat/completions", json=body) as response:
        return await response.read()


async def test_a_large_limit_waits_for_the_reservation_of_another() -> None:
    """Short answers with large limits queue one behind the other; with small limits both are admitted at once."""
    async with plain(SimulatorOptions(ttft_s=0, tpot_s=0, reservation_tokens=1000)) as session:
        prompt = "[stall_after=1] [tokens=5]"
        first = asyncio.create_task(_read(session, chat(prompt, stream=True, max_tokens=900)))
        await stats_once(session, active=1, tokens=1)
        second = asyncio.create_task(_read(session, chat("[tokens=4]", stream=True, max_tokens=900)))
        await stats_once(session, active=2, waiting=1, tokens=1)
        small = asyncio.create_task(_read(session, chat("[tokens=4]", stream=True, max_tokens=5)))
        # First come, first served: what would fit does not overtake.
        await stats_once(session, active=3, waiting=2, tokens=1)
        first.cancel()
        await asyncio.gather(second, small)
        stats = await stats_once(session, active=0)
    assert stats == {"requests": 3, "active": 0, "waiting": 0, "cancelled": 1, "tokens": 9}


async def test_without_a_reservation_the_same_requests_do_not_wait() -> None:
    """The small model does not look at the limit where no budget was set; sim-reserving has one of its own."""
    async with plain() as session:
        prompt = "[stall_after=1] [tokens=5]"
        requests = [
            asyncio.create_task(_read(session, chat(prompt, stream=True, max_tokens=19_000, model=model)))
            for model in ("sim-small", "sim-small", "sim-reserving", "sim-reserving")
        ]
        await stats_once(session, active=4, waiting=1, tokens=3)
        for request in requests:
            request.cancel()
        await stats_once(session, active=0, waiting=0, cancelled=4)


async def test_errors_and_stalls_come_at_the_rates_that_were_set() -> None:
    """At a rate of one every request fails, or falls silent; a seed repeats them."""
    async with (
        plain(SimulatorOptions(ttft_s=0, tpot_s=0, error_rate=1.0)) as session,
        session.post("/v1/chat/completions", json=chat("Hi.")) as response,
    ):
        assert response.status in {429, 500, 503}
    options = SimulatorOptions(ttft_s=0, tpot_s=0, error_rate=0.3, median_tokens=1, sigma=0)
    found = []
    for _ in range(2):
        async with plain(options) as session:
            statuses = []
            for _ in range(60):
                async with session.post("/v1/chat/completions", json=chat("Hi.")) as response:
                    statuses.append(response.status)
            found.append(statuses)
    assert found[0] == found[1]
    assert 8 <= sum(status != 200 for status in found[0]) <= 28
    async with plain(SimulatorOptions(ttft_s=0, tpot_s=0, stall_rate=1.0)) as session:
        request = asyncio.create_task(_read(session, chat("Hi.")))
        await stats_once(session, active=1)
        request.cancel()
        await stats_once(session, cancelled=1)


async def test_a_key_is_asked_for_where_one_was_set() -> None:
    """The right key answers; another gets 401 and no answer, on both routes; the key shows up in no repr."""
    options = SimulatorOptions(ttft_s=0, tpot_s=0, api_key="right")
    assert "right" not in repr(options)
    async with sdk(options, key="right") as client:
        await client.chat.completions.create(**chat("Hi. [tokens=1]"))
    async with sdk(options, key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(**chat("Hi. [tokens=1]"))
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_tokens_are_due_on_an_absolute_schedule() -> None:
    """The last token of a paced answer never comes before TTFT + (n - 1) x TPOT, also with large models and directives."""
    loop = asyncio.get_running_loop()
    async with plain(SimulatorOptions(ttft_s=0.02, tpot_s=0.002)) as session:
        for body, least_s in (
            (chat("[tokens=21]", stream=True), 0.02 + 20 * 0.002),
            (chat("[tokens=21]"), 0.02 + 20 * 0.002),
            (chat("[tokens=21]", model="sim-large"), 2 * (0.02 + 20 * 0.002)),
            (chat("[tokens=21] [ttft_ms=50] [tpot_ms=1]", model="sim-large"), 0.05 + 20 * 0.001),
        ):
            started = loop.time()
            await _read(session, body)
            assert loop.time() - started >= least_s


def test_jitter_spreads_the_schedule_and_never_turns_it_back() -> None:
    """Due times rise, differ from the even ones, and repeat with the seed; directives stay exact."""

    def due(number: int, prompt: str, jitter: float) -> list[float]:
        body = json.dumps(chat(prompt)).encode()
        request = read_request(body, any_model=False)
        options = SimulatorOptions(ttft_s=1, tpot_s=1, jitter=jitter)
        times = simulator._Exchange(options, request, number).due_s()
        return [next(times) for _ in range(50)]

    even = [float(second) for second in range(1, 51)]
    assert due(1, "Hi.", 0) == even
    jittered = due(1, "Hi.", 2.0)
    assert jittered == sorted(jittered) == due(1, "Hi.", 2.0)
    assert jittered != due(2, "Hi.", 2.0)
    assert due(1, "[ttft_ms=1000] [tpot_ms=1000]", 2.0) == even


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, who says it, and the flag."""
    parser = argparse.ArgumentParser()
    simulator.add_arguments(parser)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert simulator.run(parser.parse_args(["--listen", f"127.0.0.1:{port}"])) == 2
    assert capsys.readouterr().err.startswith("lengthwise: --listen: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_says_where_it_listens_and_leaves_when_told(number: signal.Signals) -> None:
    """One line with the address once it answers; exit 0 on either signal, with a silent stream open."""
    program = (
        "import argparse\nfrom proxy.lab import simulator\nparser = argparse.ArgumentParser()\n"
        "simulator.add_arguments(parser)\n"
        "raise SystemExit(simulator.run(parser.parse_args(['--listen', '127.0.0.1:0', '--ttft-ms', '0'])))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    origin = line.split()[3].removesuffix("/v1")
    body = chat("[stall_after=1]", stream=True)
    async with (
        aiohttp.ClientSession(origin) as session,
        session.post("/v1/chat/completions", json=body) as response,
    ):
        await response.content.readline()
        process.send_signal(number)
        assert await process.wait() == 0


@pytest.mark.parametrize(
    "flags",
    [
        ["--listen", "nowhere"],
        ["--listen", "127.0.0.1:70000"],
        ["--error-rate", "2"],
        ["--tpot-ms", "-1"],
        ["--sigma", "nan"],
        ["--median-tokens", "0"],
        ["--reservation-tokens", "0"],
    ],
)
def test_flags_outside_their_range_are_usage_errors(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A value that cannot be meant exits 2 and names the flag."""
    parser = argparse.ArgumentParser()
    simulator.add_arguments(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(flags)
    assert caught.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_a_missing_key_or_a_taken_port_are_configuration_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both exit 2 with one line."""
    monkeypatch.delenv("LENGTHWISE_TEST_ABSENT", raising=False)
    parser = argparse.ArgumentParser()
    simulator.add_arguments(parser)
    assert simulator.run(parser.parse_args(["--api-key-env", "LENGTHWISE_TEST_ABSENT"])) == 2
    assert "LENGTHWISE_TEST_ABSENT" in capsys.readouterr().err
    assert simulator.run(parser.parse_args(["--listen", "192.0.2.1:1"])) == 2  # RFC 5737: no address of this machine
    assert capsys.readouterr().err.count("\n") == 1
