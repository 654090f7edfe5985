"""What a head alone decides: the upstream, the dialect, who asks, and the head that the upstream gets."""

import hashlib

import orjson
import pytest

from proxy.policy.rules import EMPTY
from proxy.relay.outbox import Outbox
from proxy.relay.route import Route
from proxy.relay.worker import Worker
from proxy.settings import from_json
from proxy.wire.http1 import HeadParser

KEYS = {"team-a": hashlib.sha256(b"client-key").hexdigest()}
PLAIN = {"name": "plain", "url": "http://plain.example:81/base"}
AZURE = {"name": "azure", "url": "https://azure.example", "prefix": "/azure", "provider": "azure.ai.openai"}


def worker(*upstreams: dict[str, object], **changes: object) -> Worker:
    """A worker that listens nowhere."""
    document = {"upstreams": list(upstreams or (PLAIN,)), "policies": None} | changes
    return Worker(from_json(orjson.dumps(document)), EMPTY, Outbox("/nowhere", {}, dict))


def route(at: Worker, raw: bytes) -> Route:
    """The way of one head."""
    parser = HeadParser()
    parser.feed(raw)
    return Route(at, parser.head(raw, at.interesting))


async def test_the_longest_prefix_wins_and_is_removed():
    """Whole segments only; the upstream's own path stands before the client's raw rest."""
    at = worker(PLAIN, AZURE)
    found = [
        route(at, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target).upstream_head(usage_asked=False, decoded=False)
        for target in (b"/azure/v1/x?y=%41", b"/azurex/v1", b"/azure")
    ]
    assert [head.split(b"\r\n")[0] for head in found] == [
        b"GET /v1/x?y=%41 HTTP/1.1",
        b"GET /base/azurex/v1 HTTP/1.1",
        b"GET / HTTP/1.1",
    ]
    assert [head.split(b"\r\n")[1] for head in found] == [
        b"Host: azure.example",
        b"Host: plain.example:81",
        b"Host: azure.example",
    ]


async def test_a_path_without_an_upstream_has_no_way():
    """404, before anything of the request is read."""
    found = route(worker(AZURE), b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
    assert found.refusal is not None
    assert (found.refusal.error_type, found.pool) == ("unknown_route", None)


@pytest.mark.parametrize(
    ("method", "path", "dialect"),
    [
        (b"POST", b"/v1/chat/completions", "chat_completions"),
        (b"POST", b"/V1//Chat/%63ompletions/", "chat_completions"),
        (b"POST", b"/v1/embeddings", "opaque"),
        (b"GET", b"/v1/chat/completions", "opaque"),
    ],
)
async def test_posts_are_read_by_what_their_path_may_mean(method: bytes, path: bytes, dialect: str):
    """The canonical path decides about reading; the raw path is what the upstream gets."""
    found = route(worker(), b"%b %b HTTP/1.1\r\nHost: a\r\n\r\n" % (method, path))
    assert found.facts.dialect == dialect
    assert found.upstream_head(usage_asked=False, decoded=False).startswith(b"%b /base%b HTTP/1.1\r\n" % (method, path))


async def test_asking_for_usage_and_decoding_change_one_header_each():
    """Everything else, order and spelling included, is the client's."""
    found = route(
        worker(),
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nX-A: 1\r\nAccept-Encoding: br\r\nContent-Encoding: gzip\r\n"
        b"X-Lengthwise-App: search\r\ntraceparent: t\r\nX-A: 2\r\n\r\n",
    )
    heads = {
        (asked, decoded): found.upstream_head(usage_asked=asked, decoded=decoded)
        for asked in (0, 1)
        for decoded in (0, 1)
    }
    start = b"POST /base/v1/chat/completions HTTP/1.1\r\nHost: plain.example:81\r\nX-A: 1\r\n"
    accept, content, identity = (
        b"Accept-Encoding: br\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Accept-Encoding: identity\r\n",
    )
    assert heads == {
        (0, 0): start + accept + content + b"X-A: 2\r\n",
        (0, 1): start + accept + b"X-A: 2\r\n",
        (1, 0): start + content + b"X-A: 2\r\n" + identity,
        (1, 1): start + b"X-A: 2\r\n" + identity,
    }
    assert (found.app, found.encoding, found.traceparent) == ("search", "gzip", b"t")


@pytest.mark.parametrize(
    ("provider", "header"),
    [
        ("openai", b"Authorization: Bearer upstream-key"),
        ("azure.ai.openai", b"api-key: upstream-key"),
        ("anthropic", b"x-api-key: upstream-key"),
    ],
)
@pytest.mark.parametrize(
    "sent", [b"Authorization: Bearer client-key", b"api-key: client-key", b"x-api-key: client-key"]
)
async def test_a_known_key_is_replaced_by_the_upstreams(
    monkeypatch: pytest.MonkeyPatch, provider: str, header: bytes, sent: bytes
):
    """The client's key goes nowhere; its name goes into the record; white space around ours is none of it."""
    monkeypatch.setenv("UPSTREAM_KEY", "upstream-key\r\n")  # a file of one line
    at = worker(PLAIN | {"provider": provider, "api_key_env": "UPSTREAM_KEY"}, keys=KEYS)
    found = route(at, b"POST /v1/x HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % sent)
    head = found.upstream_head(usage_asked=False, decoded=False)
    assert (found.key_name, found.refusal) == ("team-a", None)
    assert b"client-key" not in head
    assert header in head.split(b"\r\n")


async def test_an_unknown_key_has_no_way_to_an_upstream_with_a_key_of_ours(monkeypatch: pytest.MonkeyPatch):
    """401; without `api_key_env` it passes as it is, unnamed."""
    monkeypatch.setenv("UPSTREAM_KEY", "upstream-key")
    raw = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer other\r\n\r\n"
    refused = route(worker(PLAIN | {"api_key_env": "UPSTREAM_KEY"}, keys=KEYS), raw)
    assert refused.refusal is not None
    assert refused.refusal.error_type == "unknown_key"
    passed = route(worker(keys=KEYS), raw)
    assert (passed.refusal, passed.key_name) == (None, None)
    assert b"Authorization: Bearer other\r\n" in passed.upstream_head(usage_asked=False, decoded=False)


async def test_an_api_version_tells_refusals_of_usage_apart():
    """Azure refuses `stream_options` on old versions; nothing else of the query is remembered."""
    at = worker()
    keys = [
        route(at, b"POST /v1/chat/completions?%b HTTP/1.1\r\nHost: a\r\n\r\n" % query).usage_key
        for query in (b"api-version=1&key=secret", b"key=secret&api-version=2", b"key=secret")
    ]
    assert keys == [b"/v1/chat/completionsapi-version=1", b"/v1/chat/completionsapi-version=2", b"/v1/chat/completions"]
