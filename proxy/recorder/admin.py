"""The recorder's side of the admin port: `/metrics`, `/status`, and the live page.

Layer: recorder. The supervisor owns the port, answers `/healthz` and `/readyz` itself and relays every other request to
the local socket served here. Nothing here shows content, a key or a path of an exchange.

On loopback `/api/`, which tells of single exchanges, answers to a loopback name or address alone: else any page of the web could give its
own name this address (DNS rebinding), and read them through the browser of whoever visits it. A port that is bound elsewhere is asked by
names that we cannot know: its token guards it.

Source: ARCHITECTURE.md 7 "Admin".
"""

import socket
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from proxy.recorder.page.endpoints import Page
from proxy.settings import Address

__all__ = ["serve"]

_EXISTING = ["/", "/healthz", "/readyz", "/metrics", "/status", "/api/state"]


async def serve(
    listening: socket.socket,
    registry: CollectorRegistry | None,
    status: Callable[[], Mapping[str, object]],
    page: Page,
    address: Address,
) -> web.AppRunner:
    """Serve the admin paths on a listening socket until the runner's `cleanup`.

    `registry` None: metrics are not offered here (`telemetry.prometheus: false`). `address` is the port that the supervisor listens on.
    """

    @web.middleware
    async def refuse_foreign_names(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not request.path.startswith("/api/") or _is_meant(request.headers.get("Host"), address):
            return await handler(request)
        return _json(421, {"error": f"this port is on loopback: ask it as {address.host} or localhost"})

    async def get_metrics(_: web.Request) -> web.Response:
        if registry is None:
            return _not_found("telemetry.prometheus is false")
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def get_status(_: web.Request) -> web.Response:
        return _json(200, status())

    async def get_other(_: web.Request) -> web.Response:
        return _not_found("no such path")

    application = web.Application(middlewares=[refuse_foreign_names])
    application.router.add_get("/metrics", get_metrics)
    application.router.add_get("/status", get_status)
    page.add_to(application)
    application.router.add_route("*", "/{tail:.*}", get_other)
    # access lines would carry paths; signals belong to the process
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.2)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    return runner


def _is_meant(host: str | None, address: Address) -> bool:
    """True when a request's Host may name this port; a browser always sends one."""
    if host is None or not address.is_loopback:
        return True
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and Address(name, 0).is_loopback


def _not_found(message: str) -> web.Response:
    return _json(404, {"error": message, "paths": _EXISTING})


def _json(status: int, document: Mapping[str, object]) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return web.Response(status=status, body=body, content_type="application/json")
