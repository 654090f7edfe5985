"""The admin socket."""

import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge

from proxy.recorder import admin
from proxy.recorder.page.endpoints import Page

Ask = Callable[[str, str], Any]
NOT_FOUND_PATHS = ["/", "/healthz", "/readyz", "/metrics", "/status", "/api/state"]


@pytest.fixture(params=[True, False], ids=["prometheus", "no_prometheus"])
def registry(request: pytest.FixtureRequest) -> CollectorRegistry | None:
    """A registry with one gauge, or none."""
    if not request.param:
        return None
    registry = CollectorRegistry()
    Gauge("answer", "", registry=registry).set(42)
    return registry


@pytest.fixture
async def ask(tmp_path: Path, registry: CollectorRegistry | None) -> AsyncIterator[Ask]:
    """A client of a served admin socket."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        status = {"version": "1", "laws": {}}
        runner = await admin.serve(listening.dup(), registry, lambda: status, Page(lambda: status, None))
        async with aiohttp.ClientSession("http://recorder", connector=aiohttp.UnixConnector(str(path))) as session:

            async def ask(method: str, target: str) -> tuple[int, str, Any]:
                async with session.request(method, target) as response:
                    body = await (response.json() if response.content_type == "application/json" else response.text())
                    return response.status, response.content_type, body

            yield ask
        await runner.cleanup()


async def test_status_is_json(ask: Ask) -> None:
    """Whatever the process says of itself."""
    assert await ask("GET", "/status") == (200, "application/json", {"version": "1", "laws": {}})


async def test_the_live_page_is_there(ask: Ask) -> None:
    """At the port's root, for whoever types its address."""
    status, kind, body = await ask("GET", "/")
    assert (status, kind, body[:15]) == (200, "text/html", "<!doctype html>")


async def test_metrics_are_text_where_they_are_offered(ask: Ask, registry: CollectorRegistry | None) -> None:
    """With prometheus off the path says why it is not there."""
    if registry is None:
        missing = {"error": "telemetry.prometheus is false", "paths": NOT_FOUND_PATHS}
        assert await ask("GET", "/metrics") == (404, "application/json", missing)
    else:
        expected = "# HELP answer \n# TYPE answer gauge\nanswer 42.0\n"
        assert await ask("GET", "/metrics") == (200, "text/plain", expected)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/"), ("GET", "/page/"), ("GET", "/status/"), ("POST", "/status"), ("GET", "/x?y=1")],
)
async def test_anything_else_says_what_exists(ask: Ask, method: str, path: str) -> None:
    """404 as JSON; the path that was asked for is not repeated."""
    assert await ask(method, path) == (404, "application/json", {"error": "no such path", "paths": NOT_FOUND_PATHS})
