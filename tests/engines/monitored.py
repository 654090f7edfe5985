"""Lengthwise between the simulated provider and a real Prometheus, after traffic that feeds every metric."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import openai

from proxy.lab.traffic import send_all, sent
from tests.engines.asking import ask
from tests.engines.parts import Prometheus, eventually, free_port, prometheus, simulator
from tests.support.serve import Served, serving

POLICIES = {
    "version": 1,
    "rules": [
        {"name": "trial", "match": {"stream": True}, "do": "cap", "max_tokens": 20, "mode": "shadow"},
        {"name": "cap", "match": {"model": "sim-large"}, "do": "cap", "max_tokens": 96},
    ],
}
BURSTS = 2
"""A rate needs a counter that grew between two scrapes: what came before the first one counts for nothing."""


@dataclass(frozen=True, slots=True)
class Monitored:
    """The running parts."""

    served: Served
    server: Prometheus


@contextlib.contextmanager
def monitored(command: Path, folder: Path, alertmanager: str | None = None) -> Iterator[Monitored]:
    """Runs all of it until the block ends; Prometheus has scraped every burst when the block begins."""
    for name in ("simulator", "prometheus"):
        (folder / name).mkdir()
    with simulator(folder / "simulator") as provider:
        settings = {
            "upstreams": [
                {"name": "simulated", "url": provider, "provider": "openai"},
                {"name": "uncounted", "url": provider, "provider": "vllm", "prefix": "/uncounted", "usage": "observe"},
                {"name": "dead", "url": f"http://127.0.0.1:{free_port()}", "provider": "groq", "prefix": "/dead"},
            ],
            "telemetry": {"traces": "none", "metrics": "none"},
        }
        with serving(settings, policies=POLICIES) as served:
            target = urlsplit(served.admin_url).netloc
            with prometheus(command, target, folder / "prometheus", alertmanager) as server:
                for burst in range(BURSTS):
                    _send(served, burst)
                    _wait_for_scrape(server, burst)
                yield Monitored(served, server)


def _send(served: Served, burst: int) -> None:
    """The demo's traffic, a stream that nobody counts, an upstream that is away, and bytes that are no request."""
    assert asyncio.run(send_all(served.base_url, lambda: None)) == []
    question = {"model": "sim-small", "messages": [{"role": "user", "content": "Name three rivers."}], "max_tokens": 64}
    ask(f"{served.url}/uncounted/v1", stream=True, **question)
    with contextlib.suppress(openai.APIStatusError):
        ask(f"{served.url}/dead/v1", **question)
    with socket.create_connection((urlsplit(served.url).hostname, urlsplit(served.url).port)) as client:
        client.sendall(b"no request\r\n\r\n")
        while client.recv(4096):
            pass
    served.rows((burst + 1) * SENT)


def _wait_for_scrape(server: Prometheus, burst: int) -> None:
    for metric, each_burst in (("lengthwise_stream_ends_total", SENT), ("lengthwise_connections_malformed_total", 1)):
        wanted = (burst + 1) * each_burst
        eventually(
            lambda metric=metric: sum(float(series["value"][1]) for series in server.query(metric)),
            lambda value, wanted=wanted: value == wanted,
            f"scrape of {wanted} {metric}",
        )


SENT = sent() + 2
"""Exchanges of a burst."""
