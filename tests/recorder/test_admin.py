"""The admin socket."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge

from proxy.recorder import admin
from proxy.recorder.page.endpoints import Page
from proxy.settings import Address

Ask = Callable[..., Any]
NOT_FOUND_PATHS = ["/", "/healthz", "/readyz", "/metrics", "/status", "/api/state"]


@pytest.fixture(params=[True, False], ids=["prometheus", "no_prometheus"])
def registry(request: pytest.FixtureRequest) -> CollectorRegistry | None:
    """A registry with one gauge, or none."""
    if not request.param:
        return None
    registry = CollectorRegistry()
    Gauge("answer", "", registry=registry).set(42)
    return registry


@asynccontextmanager
async def served(folder: Path, registry: CollectorRegistry | None, address: Address) -> AsyncIterator[Ask]:
    """A client of a served admin socket; `address` is the port before it."""
    path = folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        status = {"version": "1", "laws": {}}
        runner = await admin.serve(listening.dup(), registry, lambda: status, Page(lambda: status, None), address)
        async with aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(str(path))) as session:

            async def ask(method: str, target: str, **headers: str) -> tuple[int, str, Any]:
                async with session.request(method, target, headers=headers) as response:
                    body = await (response.json() if response.content_type == "application/json" else response.text())
                    return response.status, response.content_type, body

            yield ask
        await runner.cleanup()


@pytest.fixture
async def ask(tmp_path: Path, registry: CollectorRegistry | None) -> AsyncIterator[Ask]:
    """A client of a port on loopback."""
    async with served(tmp_path, registry, Address("127.0.0.1", 9464)) as ask:
        yield ask


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


async def test_on_loopback_a_name_of_the_web_is_refused(tmp_path: Path) -> None:
    """A page that gave its own name this address reads nothing through its visitor's browser."""
    refused = {"error": "this port is on loopback: ask it as 127.0.0.1 or localhost"}
    async with served(tmp_path, CollectorRegistry(), Address("127.0.0.1", 9464)) as ask:
        for host in (
            "evil.example",
            "evil.example:9464",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "[::",
            "",
        ):
            for path in ("/api/state", "/api/exchanges", "/%61pi/state", "/api/no/such"):
                assert await ask("GET", path, Host=host) == (421, "application/json", refused)


async def test_what_tells_of_no_exchange_answers_to_any_name(tmp_path: Path) -> None:
    """Whoever scrapes through a relay of its own may call it as it likes."""
    async with served(tmp_path, CollectorRegistry(), Address("127.0.0.1", 9464)) as ask:
        for path in ("/", "/metrics", "/status"):
            assert (await ask("GET", path, Host="relay.example"))[0] == 200


async def test_on_loopback_its_own_names_are_answered(tmp_path: Path) -> None:
    """By address or name, whatever the port: a tunnel has its own."""
    async with served(tmp_path, None, Address("127.0.0.1", 9464)) as ask:
        for host in ("127.0.0.1:9464", "localhost:1234", "LOCALHOST", "[::1]:9464", "127.0.0.2"):
            assert (await ask("GET", "/api/exchanges", Host=host))[0] == 200


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "10.1.2.3", "admin.internal"])
async def test_bound_elsewhere_every_name_is_answered(tmp_path: Path, bound: str) -> None:
    """A scraper knows a service by its name or address in the network, a balancer by any."""
    async with served(tmp_path, None, Address(bound, 9464)) as ask:
        for host in ("lengthwise.monitoring.svc:9464", "10.42.0.7:9464", "localhost"):
            assert (await ask("GET", "/api/exchanges", Host=host))[0] == 200
