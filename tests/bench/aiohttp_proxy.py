"""The plainest reverse proxy in Python: aiohttp on both sides, observing nothing. `aiohttp_proxy.py PORT UPSTREAM_PORT`.

A candidate of the bench, not a part of the product. One process, the standard event loop, each chunk passed on as it arrives, and a
client that leaves cancels its upstream.
"""

import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}


def proxy(upstream: str) -> web.Application:
    """An application that sends everything to `upstream`."""
    sessions: list[ClientSession] = []

    async def session(_app: web.Application) -> AsyncIterator[None]:
        connector = TCPConnector(limit=0)
        async with ClientSession(connector=connector, auto_decompress=False, timeout=ClientTimeout(None)) as made:
            sessions.append(made)
            yield

    async def relay(request: web.Request) -> web.StreamResponse:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        url, body = upstream + request.raw_path, await request.read()
        async with sessions[0].request(request.method, url, headers=headers, data=body) as got:
            answer = web.StreamResponse(status=got.status, reason=got.reason)
            for name, value in got.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    answer.headers.add(name, value)
            answer.content_length = got.content_length
            await answer.prepare(request)
            async for data in got.content.iter_any():
                await answer.write(data)
            await answer.write_eof()
            return answer

    app = web.Application(client_max_size=2**25)
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", relay)
    return app


if __name__ == "__main__":
    web.run_app(
        proxy(f"http://127.0.0.1:{sys.argv[2]}"),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        handler_cancellation=True,
        backlog=4096,
        print=None,
    )
