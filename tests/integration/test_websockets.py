"""Websockets through the command, with a real client and server: messages, close codes, subprotocols, refused handshakes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.support.otlp import HttpCollector
from tests.support.serve import serving_async

KEY = "openai-insecure-api-key.sk-CANARYSOCKET9876"
"""A browser has no other place for its key than the list of subprotocols."""


async def talk(request: web.Request) -> web.WebSocketResponse:
    """Echoes text and bytes; `bye` closes with a code and reason of its own."""
    if request.query.get("model") == "closed":
        raise web.HTTPUnauthorized(text='{"error":{"code":"invalid_api_key"}}', content_type="application/json")
    socket = web.WebSocketResponse(protocols=("realtime",))
    await socket.prepare(request)
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.data == "bye":
            await socket.close(code=4001, message=b"session expired")
        else:
            await socket.send_str(message.data)
    return socket


@contextlib.asynccontextmanager
async def provider() -> AsyncIterator[str]:
    """A provider that speaks realtime."""
    app = web.Application()
    app.router.add_get("/v1/realtime", talk)
    app.router.add_get("/v1/responses", talk)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("path", ["/realtime", "/responses"])
async def test_a_websocket_is_what_it_is_directly(path: str) -> None:
    """Text, large binary messages, the chosen subprotocol and the server's close code; one row, and no key anywhere."""
    with HttpCollector() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        async with (
            provider() as url,
            serving_async({"upstreams": [{"name": "up", "url": url}]}, env=environment) as served,
            aiohttp.ClientSession() as session,
        ):
            address = f"{served.base_url}{path}?model=gpt-realtime"
            async with session.ws_connect(address, protocols=("realtime", KEY), compress=15) as socket:
                assert socket.protocol == "realtime"
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
                for size in (1, 70_000, 1_000_000):
                    await socket.send_bytes(b"x" * size)
                    assert await socket.receive_bytes() == b"x" * size
                await socket.send_str("bye")
                assert (await socket.receive()).extra == "session expired"
                assert socket.close_code == 4001
            async with session.ws_connect(address) as socket:
                await socket.close(code=4002)
            rows = await asyncio.to_thread(served.rows, 2)
            await asyncio.to_thread(collector.wait_for_spans, 4)
            sinks = repr((rows, collector.spans)) + served.log
            sinks += repr([each.read_bytes() for each in Path(served.folder).glob("*.sqlite*")])  # noqa: ASYNC240 -- small
        assert [(row["status"], row["end"], row["dialect"]) for row in rows] == [(101, "complete", "opaque")] * 2
        assert "CANARYSOCKET" not in sinks


async def test_a_refused_handshake_keeps_its_status_and_body() -> None:
    """What the provider says to a bad key reaches the client as it is."""
    async with (
        provider() as url,
        serving_async({"upstreams": [{"name": "up", "url": url}]}) as served,
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{served.base_url}/realtime?model=closed")
        assert refused.value.status == 401
        (row,) = await asyncio.to_thread(served.rows, 1)
    assert (row["status"], row["end"]) == (401, "complete")
