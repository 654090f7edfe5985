"""What a head alone decides: the upstream, the dialect, who asks, and the head that the upstream gets."""

import hashlib

import pytest

from tests.support.judging import post, route, worker

KEYS = {"team-a": hashlib.sha256(b"client-key").hexdigest()}
PLAIN = {"name": "plain", "url": "http://plain.example:81/base"}
AZURE = {"name": "azure", "url": "https://azure.example", "prefix": "/azure", "provider": "azure.ai.openai"}


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
    found = route(worker(PLAIN), b"%b %b HTTP/1.1\r\nHost: a\r\n\r\n" % (method, path))
    assert found.facts.dialect == dialect
    assert found.upstream_head(usage_asked=False, decoded=False).startswith(b"%b /base%b HTTP/1.1\r\n" % (method, path))


async def test_asking_for_usage_and_decoding_change_one_header_each():
    """Everything else, order and spelling included, is the client's."""
    found = route(
        worker(PLAIN),
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
    "sent",
    [
        b"Authorization: Bearer client-key",
        b"Authorization: bearer\tclient-key",
        b"Authorization: Bearer  client-key x",
        b"Authorization: client-key",
        b"Authorization: Bearer client-key\r\nAuthorization: Bearer other",
        b"Authorization: Bearer other\r\napi-key: client-key",
        b"api-key: client-key",
        b"x-api-key: client-key",
    ],
)
async def test_a_known_key_is_replaced_by_the_upstreams(
    monkeypatch: pytest.MonkeyPatch, provider: str, header: bytes, sent: bytes
):
    """The client's key goes nowhere; its name goes into the record; white space around ours is none of it.

    However a server would find it: another spelling must not be a way around the rules for it.
    """
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
    passed = route(worker(PLAIN, keys=KEYS), raw)
    assert (passed.refusal, passed.key_name) == (None, None)
    assert b"Authorization: Bearer other\r\n" in passed.upstream_head(usage_asked=False, decoded=False)


async def test_an_api_version_tells_refusals_of_usage_apart():
    """Azure refuses `stream_options` on old versions; nothing else of the query is remembered."""
    at = worker(PLAIN)
    keys = [
        route(at, b"POST /v1/chat/completions?%b HTTP/1.1\r\nHost: a\r\n\r\n" % query).usage_key
        for query in (b"api-version=1&key=secret", b"key=secret&api-version=2", b"key=secret")
    ]
    assert keys == [b"/v1/chat/completionsapi-version=1", b"/v1/chat/completionsapi-version=2", b"/v1/chat/completions"]


# -- what could be read in two ways -------------------------------------------------------------------------------------

CHAT = b"/v1/chat/completions"
WEBSOCKET = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
MALFORMED, AMBIGUOUS, UNJUDGEABLE = "malformed_request", "ambiguous_body", "policy_unjudgeable"
DOUBTS = [
    (post(CHAT), []),
    (post(b"/openai/deployments/gpt-4o.mini_1/chat/completions?api-version=a%2fb"), []),
    (post(b"//v1/chat/completions"), [("chat_completions", MALFORMED)]),
    (post(b"/v1/chat%2fcompletions"), [("chat_completions", MALFORMED)]),
    (post(b"/v1/responses/"), [("responses", MALFORMED)]),
    (post(b"/v1/Messages"), [("messages", MALFORMED)]),
    (post(CHAT, b"Content-Type: application/json; charset=UTF-8"), []),
    (post(CHAT, b'Content-Type: application/json; charset="utf8"'), []),
    (post(CHAT, b"Content-Type: text/plain"), []),
    (post(CHAT, b"Content-Type: application/json;charset=utf-16le"), [("chat_completions", AMBIGUOUS)]),
    (post(CHAT, b"Content-Type: application/json; Charset = utf-7"), [("chat_completions", AMBIGUOUS)]),
    (
        post(CHAT, b"Content-Type: text/plain; charset=ibm037", b"Content-Type: application/json"),
        [("chat_completions", AMBIGUOUS)],
    ),
    (post(b"/v1/embeddings", b"Content-Type: application/json;charset=utf-16"), []),
    (WEBSOCKET % b"/v1/realtime?model=m", [("realtime", UNJUDGEABLE)]),
    (WEBSOCKET % b"/v1//Realtime/", [("realtime", UNJUDGEABLE)]),
    (WEBSOCKET % b"/v1/responses", [("responses", UNJUDGEABLE)]),
    (WEBSOCKET % b"/v1/realtime/calls", [("realtime", UNJUDGEABLE)]),
    (WEBSOCKET % b"/v1/realtimes", []),
    (WEBSOCKET % b"/socket", []),
    (b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\n\r\n", []),
    (post(b"/v1/x", b"X-Original-URL: /v1/chat/completions"), [("chat_completions", MALFORMED)]),
    (post(b"/v1/x", b"X-Rewrite-URL: http://a/v1//Messages?x"), [("messages", MALFORMED)]),
    (post(CHAT, b"X-Original-URL: /v1/responses"), [("responses", MALFORMED)]),
    (post(CHAT, b"X-Original-URL: /v1/chat/completions"), []),
    (post(CHAT, b"X-Original-URL: /v1/models"), []),
    (b"PUT /v1/completions HTTP/1.1\r\nHost: a\r\nX-HTTP-Method-Override: post\r\n\r\n", [("completions", MALFORMED)]),
    (b"PUT /v1/completions HTTP/1.1\r\nHost: a\r\nX-HTTP-Method: PATCH\r\n\r\n", []),
    (post(CHAT, b"X-HTTP-Method-Override: POST"), []),
    (post(b"/v1/x", b"X-Forwarded-Uri: /v1/responses"), [("responses", MALFORMED)]),
    (post(b"/v1/x", b"X-Original-URL: /v1/responses", b"X-Original-URL: /y"), [("responses", MALFORMED)]),
    (
        post(b"/v1//responses", b"Content-Type: a/b;charset=utf-7", b"X-Original-URL: /v1/messages"),
        [("responses", MALFORMED), ("responses", AMBIGUOUS), ("messages", MALFORMED)],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), DOUBTS)
async def test_a_head_that_servers_could_read_otherwise_is_doubted(raw: bytes, expected: list[tuple[str, str]]):
    """What is sent when a rule could hold for the dialect that it is about; without one the request passes."""
    found = route(worker(PLAIN), raw)
    assert [(dialect, doubt.error_type) for dialect, doubt in found.doubts] == expected
    assert found.refusal is None


async def test_routes_of_no_dialect_can_be_blocked():
    """POSTs only: what stores, lists and cancels stays reachable."""
    at = worker(PLAIN, limits={"unknown_routes": "block"})
    refused = route(at, post(b"/v1/embeddings")).refusal
    assert refused is not None
    assert refused.error_type == "unknown_route"
    assert route(at, post(CHAT)).refusal is None
    assert route(at, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n").refusal is None


async def test_what_else_a_decision_needs_of_a_head_is_read():
    """Azure's deployment, the deadline of the request, and the coding of its body."""
    at = worker(PLAIN)
    found = route(
        at,
        post(
            b"/openai/Deployments/gpt-4o/chat/completions?x=/deployments/other/",
            b"X-Lengthwise-Deadline-Ms: 1500",
            b"Content-Encoding: GZIP",
            b"Content-Encoding: identity",
        ),
    )
    assert (found.deployment, found.deadline_s, found.bad_deadline, found.encoding) == (
        "gpt-4o",
        1.5,
        False,
        "gzip, identity",
    )
    assert b"deadline" not in found.upstream_head(usage_asked=False, decoded=False).lower()
    for wrong in (b"0", b"-1", b"1.5", b"", b"1e3", b"10000000000", b"1s"):
        bad = route(at, post(CHAT, b"X-Lengthwise-Deadline-Ms: " + wrong))
        assert (bad.deadline_s, bad.bad_deadline) == (None, True)
