"""More than it may or can take: shed at once and politely, and neither accept nor connect spins where descriptors are out."""

import asyncio
import resource
import socket
from pathlib import Path

import openai
import orjson
import pytest

from tests.bench import processes
from tests.support.provider import EVENT_STREAM, PATIENCE_S, Link, Provider, Wire, answering, chunked, ok, sse
from tests.support.serve import Served, serving_async

QUIET = {"traces": "none", "metrics": "none"}
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
EVENTS = sse(b'{"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}', b"[DONE]")
STARVED_S = 1.0
SPINNING = 0.5
"""Share of a processor; a loop that is woken again and again by the same descriptor takes all of it."""


def worker_of(served: Served) -> int:
    """The only relay worker."""
    pid = processes.named(served.process.pid, "proxy.relay")
    assert pid is not None
    return pid


async def settled(served: Served) -> None:
    """The worker is known to the recorder, so it holds every descriptor that it opens by itself."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, text = await asyncio.to_thread(served.get, "/status")
            if status == 200 and orjson.loads(text)["workers"]:
                return


async def connected(served: Served) -> Wire:
    """A client's connection to the data port."""
    host, port = served.url.removeprefix("http://").rsplit(":", 1)
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    wire = Wire(sock)
    wire.read()
    return wire


async def test_what_is_shed_is_answered_at_once_and_the_official_client_comes_back():
    """503 with Retry-After while as many run as may; a client that repeats as it is told to is served when one has ended."""
    go = asyncio.Event()

    async def script(link: Link) -> None:
        while True:
            await link.request()
            await go.wait()
            await link.send(chunked(EVENTS, EVENT_STREAM))

    settings = {"telemetry": QUIET, "limits": {"in_flight": 2}}
    async with Provider(script) as provider:
        settings["upstreams"] = [{"name": "fake", "url": provider.url}]
        async with serving_async(settings) as served:

            async def ask(retries: int) -> str | None:
                async with openai.AsyncOpenAI(base_url=served.base_url, api_key="k", max_retries=retries) as client:
                    stream = await client.chat.completions.create(model="m", messages=[], stream=True)
                    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            running = [asyncio.create_task(ask(0)) for _ in range(2)]
            for number in range(2):
                await (await provider.link(number)).head()
            with pytest.raises(openai.InternalServerError) as caught:
                await ask(0)
            assert caught.value.status_code == 503
            assert caught.value.response.headers["retry-after"] == "1"
            assert caught.value.response.headers["x-lengthwise-error"] == "overloaded"
            assert "x-should-retry" not in caught.value.response.headers
            patient = asyncio.create_task(ask(5))
            while len(await asyncio.to_thread(served.rows, 1)) < 2:
                pass  # its first attempt was shed
            assert len(provider.links) == 2
            go.set()
            assert await asyncio.gather(*running, patient) == ["hi"] * 3
            rows = await asyncio.to_thread(served.rows, 5)
            assert sorted(row["end"] for row in rows) == ["complete"] * 3 + ["shed"] * (len(rows) - 3)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_descriptors_that_are_out_cost_refusals_and_no_processor(tmp_path: Path, loop: str):
    """Who is accepted gets an answer, the others wait or are closed; with descriptors again everything is served."""
    if loop == "asyncio":  # an installed uvloop that cannot be imported is one that is not there
        (tmp_path / "uvloop.py").write_text("raise ImportError\n")
    settings = {"telemetry": QUIET, "ledger": {"path": None}}
    async with Provider(answering(ok())) as provider:
        settings["upstreams"] = [{"name": "fake", "url": provider.url}]
        async with serving_async(settings, env={"PYTHONPATH": str(tmp_path)}) as served:
            await settled(served)
            pid = worker_of(served)
            limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            used = processes.descriptors(pid)
            free = min(set(range(len(used) + 1)) - used)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (free + 1, limits[1]))  # one more and no further
            first = await connected(served)
            await first.send(GET)
            answer = await first.message()
            assert (answer.status, answer.value(b"x-lengthwise-error")) == (502, b"upstream_connect")
            assert b"too many open files" in answer.body
            others = [await connected(served) for _ in range(20)]
            before_ns = processes.cpu_ns(pid)
            await asyncio.sleep(STARVED_S)
            assert processes.cpu_ns(pid) - before_ns < SPINNING * STARVED_S * 1e9
            assert served.get("/readyz")[0] == 200
            for client in (first, *others):
                await client.close()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            async with asyncio.timeout(PATIENCE_S):
                client = await connected(served)
                await client.send(GET)
                assert (await client.message()).body == b"ok"
            await client.close()
            assert orjson.loads((await asyncio.to_thread(served.get, "/status"))[1])["workers"]
