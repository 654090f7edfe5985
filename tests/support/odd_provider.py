"""A provider of chat completions that answers as a test says: for servers that differ from OpenAI's.

async with answering(lambda body: stream(3)) as (base_url, requests):
    ...
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from proxy.lab.simulator import serving

Answer = Callable[[dict[str, Any]], web.Response]


class Asked(NamedTuple):
    """One request."""

    authorization: str | None
    body: dict[str, Any]


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[tuple[str, list[Asked]]]:
    """Serve these answers; yields the base URL and the requests as they come."""
    requests: list[Asked] = []

    async def handle(request: web.Request) -> web.Response:
        asked = Asked(request.headers.get("authorization"), orjson.loads(await request.read()))
        requests.append(asked)
        return answer(asked.body)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    async with serving(app) as origin:
        yield f"{origin}/v1", requests


def stream(
    tokens: int, *, usage: dict[str, Any] | None = None, finish: str | None = "stop", done: bool = True
) -> web.Response:
    """A streamed answer, all at once."""
    deltas: list[dict[str, Any]] = [{"delta": {"content": "x"}, "index": 0} for _ in range(tokens)]
    if finish is not None:
        deltas.append({"delta": {}, "index": 0, "finish_reason": finish})
    events: list[dict[str, Any]] = [{"choices": [delta]} for delta in deltas]
    events += [{"choices": [], "usage": usage}] if usage is not None else []
    body = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + (
        b"data: [DONE]\n\n" if done else b""
    )
    return web.Response(body=body, content_type="text/event-stream")


def refusal(status: int, message: str, **headers: str) -> web.Response:
    """An error in OpenAI's envelope."""
    body = orjson.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
