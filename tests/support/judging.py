r"""One request through everything that decides about it, without a socket: head, route, facts, decision, body.

at = worker(policy=[CAP])
judged = judge(body, route(at, post(b"/v1/chat/completions")), at, "id", 0.0)
"""

from collections.abc import Sequence
from typing import Any

import orjson

from proxy.policy.rules import parse
from proxy.relay.outbox import Outbox
from proxy.relay.route import Route
from proxy.relay.worker import Worker
from proxy.settings import from_json
from proxy.wire.http1 import HeadParser

UPSTREAM = {"name": "openai", "url": "http://upstream.example"}


def worker(*upstreams: dict[str, Any], policy: Sequence[dict[str, Any]] = (), **changes: Any) -> Worker:
    """A worker that listens nowhere; `changes` are sections of the settings."""
    document = {"upstreams": list(upstreams or (UPSTREAM,)), "policies": None} | changes
    policies = parse({"version": 1, "rules": list(policy)})
    return Worker(from_json(orjson.dumps(document)), policies, Outbox("/nowhere", {}, dict))


def route(at: Worker, raw: bytes) -> Route:
    """The way of one head."""
    parser = HeadParser()
    parser.feed(raw)
    return Route(at, parser.head(raw, at.interesting))


def post(path: bytes, *headers: bytes) -> bytes:
    """Head of a POST."""
    return b"\r\n".join((b"POST %b HTTP/1.1" % path, b"Host: a", *headers)) + b"\r\n\r\n"
