"""One exchange on real sockets: the invariants that bear its name, its ends, and what a record says of each."""

import asyncio
import gzip
from collections.abc import Callable
from itertools import pairwise, permutations
from time import monotonic_ns
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import RefusalError
from proxy.observe.observer import Observer
from proxy.record import Action, End, ExchangeRecord
from proxy.relay import exchange
from proxy.relay.client import Client
from proxy.relay.exchange import Exchange
from proxy.relay.pool import Pool
from proxy.relay.upstream import Upstream
from tests.support.provider import (
    EVENT_STREAM,
    ID,
    PATIENCE_S,
    Link,
    Message,
    Provider,
    Script,
    answering,
    chunked,
    ok,
    read_message,
    silent,
    split_head,
    sse,
)
from tests.support.relay import Served, relay

QUIET = {"traces": "none", "metrics": "none"}  # nothing is propagated, so requests are those of the client
CHUNK = b'{"choices":[{"index":0,"delta":{"content":"hi"}}]}'
STOP = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
USAGE = b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}'
CAP = {"name": "cap", "do": "cap", "max_tokens": 100}


def post(path: bytes, body: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    """A POST with Content-Length."""
    lines = [b"POST %b HTTP/%b" % (path, version), b"Host: a", *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chat(document: dict[str, Any], *headers: bytes, version: bytes = b"1.1") -> bytes:
    """A chat completion request."""
    return post(b"/v1/chat/completions", orjson.dumps(document), *headers, version=version)


STREAMED = {"model": "m", "stream": True, "messages": []}


# -- invariant 1 ------------------------------------------------------------------------------------------------------


async def test_invariant_1_transparent_request_head():
    """Raw path, query, header order, names and duplicates reach the upstream; only the listed differences are made."""
    request = (
        b"GET /a//b/%2e%2e/c%2Fd?x=%41&x=%zz HTTP/1.1\r\nUser-Agent: u/1\r\nhOST: proxy.example:8080\r\nX-Dup: 1\r\nAccept-Encoding: br\r\n"
        b"X-Dup: 2\r\nConnection: keep-alive, X-Mine\r\nX-Mine: secret\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n"
        b"TE: trailers\r\nTrailer: X-T\r\nUpgrade: h2c\r\nProxy-Authorization: Basic x\r\nX-Lengthwise-App: search\r\n"
        b"x-lengthwise-deadline-ms: 5\r\nAuthorization: Bearer k\r\nCookie: a=b\r\nx-empty:\r\nX-Latin: \xe9\r\n\r\n"
    )
    async with Provider(answering(ok())) as provider, relay(provider.url, telemetry=QUIET) as served:
        await served.ask(request)
        assert provider.received == [
            b"GET /a//b/%%2e%%2e/c%%2Fd?x=%%41&x=%%zz HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: u/1\r\nX-Dup: 1\r\n"
            b"Accept-Encoding: br\r\nX-Dup: 2\r\nAuthorization: Bearer k\r\nCookie: a=b\r\nx-empty: \r\nX-Latin: \xe9\r\n\r\n"
            % provider.port
        ]
        assert (await served.record()).app == "search"


async def test_invariant_1_transparent_response_head():
    """Status, reason, order, duplicates and odd values reach the client; hop-by-hop and nominated headers do not."""
    answer = (
        b"HTTP/1.1 299 Very Fine\r\nServer: s\r\nSet-Cookie: a=1\r\nX-RateLimit-Remaining: 9\r\nset-cookie: b=2\r\nRetry-After: 7\r\n"
        b"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nTrailer: X-T\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n"
        b"Content-Length: 3\r\nLocation: /v1/%41\r\n\r\nabc"
    )
    async with Provider(answering(answer)) as provider, relay(provider.url) as served:
        got = await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        record = await served.record()
        assert got == Message(
            b"HTTP/1.1 299 Very Fine",
            [
                (b"Server", b"s"),
                (b"Set-Cookie", b"a=1"),
                (b"X-RateLimit-Remaining", b"9"),
                (b"set-cookie", b"b=2"),
                (b"Retry-After", b"7"),
                (b"Location", b"/v1/%41"),
                (b"x-lengthwise-id", record.id.encode()),
                (b"Content-Length", b"3"),
            ],
            b"abc",
        )


@pytest.mark.parametrize(
    "status", [b"429 Too Many Requests", b"500 Oops", b"503 Busy", b"529 Overloaded", b"307 Elsewhere"]
)
async def test_invariant_1_an_upstreams_own_error_passes_as_it_is(status: bytes):
    """Errors, rate limits and redirects are the client's business: no retry, no other envelope, end complete."""
    body = b'{"detail":"mine"}'
    headers = (b"Retry-After: 3", b"x-ratelimit-limit-tokens: 5", b"x-request-id: r", b"Location: http://127.0.0.1:1/")
    async with Provider(answering(ok(body, *headers, status=status))) as provider, relay(provider.url) as served:
        got = await served.ask(chat({"model": "m"}))
        record = await served.record()
        assert got.start == b"HTTP/1.1 " + status
        assert got.body == body
        assert got.headers[:4] == [tuple(header.split(b": ", 1)) for header in headers]
        assert got.values(b"x-lengthwise-error") == []
        assert (record.end, record.status) == (End.COMPLETE, int(status[:3]))
        assert record.error_type == (None if status[:1] == b"3" else status[:3].decode())
        assert len(provider.links) == 1


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (ok(b"fixed"), b"fixed"),
        (ok(b""), b""),
        (chunked([b"a", b"bc" * 9, b"d"]), b"a" + b"bc" * 9 + b"d"),
        (chunked([]), b""),
        (chunked([b"x"]).removesuffix(b"\r\n") + b"X-Trailer: 1\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\nclose", b"close"),
        (b"HTTP/1.0 200 OK\r\n\r\nclose", b"close"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 00005\r\n\r\nzeros", b"zeros"),
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_invariant_1_a_body_is_the_same_in_any_framing(answer: bytes, body: bytes, version: bytes):
    """Fixed, chunked and close-delimited answers arrive whole, with framing that the client's version has."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(answer)
        await link.fin()

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version)
        if version == b"1.0":
            assert await client.end() == "fin"
        got = await client.message()
        assert got.body == body
        if version == b"1.0":
            assert got.values(b"transfer-encoding") == []
        record = await served.record()
        assert (record.end, record.status, record.response_bytes) == (End.COMPLETE, 200, len(body))


@pytest.mark.parametrize("size", [0, 1, 70_000, 1_000_000])
@pytest.mark.parametrize("framing", ["fixed", "chunked"])
async def test_invariant_1_a_request_body_streams_to_an_opaque_route(size: int, framing: str):
    """Bodies of unknown routes arrive whole, in the client's own kind of framing."""
    body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    if framing == "fixed":
        request = post(b"/v1/files", body)
    else:
        pieces = [body[at : at + 30_000] for at in range(0, size, 30_000)]
        request = b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        request += b"".join(b"%X;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nX-T: 1\r\n\r\n"
    async with Provider(answering(ok())) as provider, relay(provider.url) as served:
        assert (await served.ask(request)).body == b"ok"
        got = read_message(provider.links[0].received)
        assert got is not None
        assert got[0].body == body
        assert got[0].values(b"x-t") == []
        assert (got[0].value(b"content-length") is None) == (framing == "chunked")
        record = await served.record()
        assert (record.request_bytes, record.end) == (size, End.COMPLETE)


@pytest.mark.parametrize("body", [b"{}", b"not json", b"", b'{"model":"m","max_tokens":5,"max_tokens":6}', b"\xff\x00"])
async def test_invariant_1_an_observed_body_without_a_decision_is_the_same_bytes(body: bytes):
    """What no rule touches goes out byte for byte, readable or not."""
    async with Provider(answering(ok())) as provider, relay(provider.url) as served:
        await served.ask(post(b"/v1/chat/completions", body))
        got = read_message(provider.links[0].received)
        assert got is not None
        assert got[0].body == body


async def test_a_trace_is_continued_and_its_child_sent():
    """With propagation the upstream sees our CLIENT span as parent, and the client's tracestate."""
    parent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with Provider(answering(ok())) as provider, relay(provider.url) as served:
        await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\ntraceparent: %b\r\ntracestate: v=1\r\n\r\n" % parent)
        record = await served.record()
        got = read_message(provider.links[0].received)
        assert got is not None
        assert got[0].value(b"traceparent") == f"00-{record.trace_id}-{record.client_span_id}-01".encode()
        assert got[0].value(b"tracestate") == b"v=1"
        assert (record.trace_id, record.parent_span_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


async def test_without_propagation_the_clients_own_trace_headers_pass():
    """`propagate: false` leaves the client's headers alone."""
    async with Provider(answering(ok())) as provider, relay(provider.url, telemetry={"propagate": False}) as served:
        await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\ntraceparent: mine\r\ntracestate: v=1\r\n\r\n")
        assert b"\r\ntraceparent: mine\r\ntracestate: v=1\r\n" in provider.links[0].received


def _facts(record: ExchangeRecord) -> Any:
    """What of a record does not depend on time or chance."""
    changing = {"id", "trace_id", "server_span_id", "client_span_id", "server_port", "client_blocked_ns", "max_gap_ns"}
    return {
        name: value is None if name.endswith("_ns") else value
        for part in (record, record.response)
        for name, value in part._asdict().items()
        if name not in changing | {"response"}
    }


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(marks) if start < end]


REQUESTS = [
    chat(STREAMED),
    chat({"model": "m", "max_tokens": 7}),
    (
        b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        b"b;x=y\r\n\n\r\n0\r\n\r\n\r\nz\r\n0\r\nX: y\r\n\r\n"
    ),
    b"GET /v1/models?a=%20 HTTP/1.1\r\nHost: a\r\n\r\n",
]
ANSWERS = [
    chunked(
        sse(b'{"choices":[{"index":0,"delta":{"role":"assistant"}}]}', CHUNK, STOP, USAGE, b"[DONE]"), EVENT_STREAM
    ),
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok(b'{"choices":[{"index":0,"finish_reason":"stop"}]}'),
    b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"\r\n\r\n0\r\n\r\n", b"X: y"),
    b"HTTP/1.1 204 No Content\r\n\r\n",
]


_WHOLE: dict[int, Any] = {}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    case=st.integers(0, 15),
    request_cuts=st.lists(st.integers(0, 1000), max_size=6),
    answer_cuts=st.lists(st.integers(0, 1000), max_size=6),
)
async def test_invariant_1_facts_and_bytes_do_not_depend_on_segments(
    case: int, request_cuts: list[int], answer_cuts: list[int]
):
    """However both messages are cut into segments: the same message at each end, the same facts in the record."""
    request, answer = REQUESTS[case % 4], ANSWERS[case // 4]

    async def exchange(request_pieces: list[bytes], answer_pieces: list[bytes]) -> tuple[Any, ...]:
        async def script(link: Link) -> None:
            await link.request()
            for piece in answer_pieces:
                await link.send(piece)
                await asyncio.sleep(0.001)  # lets a segment be one read; nothing depends on whether it is

        async with Provider(script) as provider, relay(provider.url, telemetry=QUIET) as served:
            client = await served.connect()
            for piece in request_pieces:
                await client.send(piece)
                await asyncio.sleep(0.001)
            answers = [await client.message()]
            if answers[0].status == 103:
                answers.append(await client.message())
            record = await served.record()
            upstream_bytes = read_message(provider.links[0].received)
            assert upstream_bytes is not None
            got = [
                (one.start, [pair for pair in one.headers if pair[0] != b"x-lengthwise-id"], one.body)
                for one in answers
            ]
            sent = upstream_bytes[0]
            return got, sent.start, [pair for pair in sent.headers if pair[0] != b"Host"], sent.body, _facts(record)

    if case not in _WHOLE:
        _WHOLE[case] = await exchange([request], [answer])
    whole = _WHOLE[case]
    assert await exchange(_pieces(request, request_cuts), _pieces(answer, answer_cuts)) == whole


# -- invariant 2 ------------------------------------------------------------------------------------------------------

_SSE_BODY = sse(CHUNK, STOP, b"[DONE]")


class Template(NamedTuple):
    """An upstream's whole answer, the body that the client gets of it, and the method that it answers."""

    answer: bytes
    body: bytes
    method: bytes = b"POST"


_GZIP = gzip.compress(b"".join(_SSE_BODY), mtime=0)
_DOCUMENT = b'{"choices":[{"index":0}]}'
TEMPLATES = {
    "chunked stream": Template(chunked(_SSE_BODY, EVENT_STREAM), b"".join(_SSE_BODY)),
    "fixed document": Template(ok(_DOCUMENT), _DOCUMENT),
    "close-delimited stream": Template(
        b"HTTP/1.1 200 OK\r\n" + EVENT_STREAM + b"\r\n\r\n" + b"".join(_SSE_BODY), b"".join(_SSE_BODY)
    ),
    "chunked gzip stream": Template(chunked([_GZIP], EVENT_STREAM, b"Content-Encoding: gzip"), _GZIP),
    "document after an interim answer": Template(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok(_DOCUMENT), _DOCUMENT
    ),
    "204": Template(b"HTTP/1.1 204 No Content\r\nX-Request-Id: r\r\n\r\n", b""),
    "answer to HEAD": Template(ok(_DOCUMENT).removesuffix(_DOCUMENT), b"", b"HEAD"),
}


def _final(raw: bytes) -> bytes:
    """A response from its final head on."""
    return raw.partition(b"\r\n\r\n")[2] if raw.startswith(b"HTTP/1.1 103") else raw


def _body_so_far(raw: bytes) -> bytes:
    """Body bytes of a response that need not be whole."""
    split = split_head(raw)
    if split is None:
        return b""
    _, headers, rest = split
    if (b"Transfer-Encoding", b"chunked") not in headers:
        return rest
    body = b""
    while rest:
        size, end, rest = rest.partition(b"\r\n")
        if not end or not int(size, 16):
            break
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("template", TEMPLATES)
async def test_invariant_2_a_broken_upstream_never_looks_complete(template: str, version: bytes, how: str):
    """A response cut at every byte: the client gets a prefix and no clean end; the record and the pool know."""
    answer, body, method = TEMPLATES[template]
    to_head = method == b"HEAD"
    head_bytes = len(answer) - len(_final(answer)) + _final(answer).index(b"\r\n\r\n") + 4

    async def script(link: Link) -> None:
        request = await link.request()
        cut = int(request.value(b"x-cut") or 0)
        await link.send(answer[:cut])
        if how == "reset":
            # What the relay has not read yet a reset destroys: give it the chance, the test holds either way.
            await asyncio.sleep(0)
            await link.reset()
        else:
            await link.fin()

    async def cut(served: Served, at: int) -> None:
        client = await served.connect()
        marks = (b"x-cut: %d" % at, b"x-lengthwise-app: %d" % at)
        if to_head:
            lines = b"\r\n".join((b"HEAD / HTTP/%b" % version, b"Host: a", *marks))
            await client.send(lines + b"\r\n\r\n")
        else:
            await client.send(chat(STREAMED, *marks, version=version))
        await client.until(
            lambda: client.closed.is_set() or read_message(_final(client.received), bodyless=to_head) is not None
        )
        if version == b"1.0":
            await client.end()
        raw, ended = _final(bytes(client.received)), client.ended
        start = raw.split(b"\r\n", 1)[0]
        if start == b"HTTP/1.1 502 Bad Gateway":
            assert at < head_bytes or how == "reset"
            assert b"\r\nx-lengthwise-error: upstream_reset\r\n" in raw
            ends[at] = "refused"
            return
        assert body.startswith(_body_so_far(raw))
        whole = read_message(raw, bodyless=to_head, ended=ended == "fin") is not None
        ends[at] = "whole" if whole else "broken"
        if how == "fin":
            assert ID.search(raw)
            if not template.startswith("chunked"):
                assert _body_so_far(raw) == answer[head_bytes:at]  # what arrived is flushed
        await client.close()

    ends: dict[int, str] = {}
    async with Provider(script, backlog=512) as provider, relay(provider.url) as served:
        for first in range(0, len(answer), 32):
            async with asyncio.TaskGroup() as group:
                for at in range(first, min(first + 32, len(answer))):
                    group.create_task(cut(served, at))
        records = await served.records(len(answer))
        assert len(provider.links) == len(answer)  # nothing broken was used again
        for record in records:
            at = int(record.app or "")
            if ends[at] == "refused":
                assert (record.end, record.status) == (End.UPSTREAM_ERROR, 502)
            elif template == "close-delimited stream" and how == "fin":
                # The client sees the clean end that it would see directly; the record knows better.
                assert ends[at] == "whole"
                assert record.end is (End.COMPLETE if STOP in answer[:at] else End.BROKEN)
            else:
                assert (at, ends[at], record.end) == (at, "broken", End.BROKEN)
                assert record.error_type == "upstream_reset"


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("template", TEMPLATES)
async def test_the_same_answers_uncut_are_complete(template: str, version: bytes):
    """The other half of invariant 2: a whole answer ends cleanly."""
    answer, body, method = TEMPLATES[template]

    async def script(link: Link) -> None:
        await link.request()
        await link.send(answer)
        await link.fin()

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        asked = chat(STREAMED, version=version) if method == b"POST" else b"HEAD / HTTP/%b\r\nHost: a\r\n\r\n" % version
        await client.send(asked)
        if version == b"1.0":
            assert await client.end() == "fin"
        message = await client.message(bodyless=method == b"HEAD")
        if message.status == 103:
            message = await client.message()
        assert message.body == body
        assert (await served.record()).end is End.COMPLETE


# -- invariant 3 ------------------------------------------------------------------------------------------------------

_BODY = orjson.dumps(STREAMED)


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("moment", ["request body", "first byte", "head", "stream", "document"])
async def test_invariant_3_a_client_that_leaves_cancels_its_upstream(moment: str, how: str):
    """Whenever the client leaves, the upstream sees its connection closed, and one record says so."""
    first = {
        "request body": b"",
        "first byte": b"",
        "head": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "stream": chunked(sse(CHUNK), EVENT_STREAM).removesuffix(b"0\r\n\r\n"),
        "document": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",
    }[moment]

    async def script(link: Link) -> None:
        await link.head()
        await link.send(first)

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        if moment == "request body":
            await client.send(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        else:
            await client.send(chat(STREAMED | {"stream": moment != "document"}))
        link = await provider.link(0)
        await link.head()
        if first:
            await client.has(b"\r\n\r\n")
        if moment == "stream":
            await client.has(CHUNK)
        await (client.close() if how == "fin" else client.reset())
        await link.end()
        record = await served.record()
        assert record.end is End.CLIENT_DISCONNECT
        assert record.status == (200 if first else None)
        assert record.upstream_tried
        await served.settled()


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_invariant_3_a_client_that_leaves_before_its_body_is_whole_reaches_no_upstream(how: str):
    """An observed body that never became whole was never sent: no upstream was tried."""
    async with Provider(silent) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(chat(STREAMED)[:-1])
        async with asyncio.timeout(5):
            while not served.worker.exchanges_active:
                await asyncio.sleep(0)
        await (client.close() if how == "fin" else client.reset())
        record = await served.record()
        assert (record.end, record.upstream_tried, record.status) == (End.CLIENT_DISCONNECT, False, None)
        assert provider.links == []


async def test_invariant_3_a_client_that_leaves_while_connecting_stops_the_attempt(tls_silence: str):
    """An upstream that accepts and never finishes its handshake sees the connection closed."""
    async with Provider(silent) as provider, relay({"url": f"https://localhost:{provider.port}"}) as served:
        client = await served.connect()
        await client.send(chat(STREAMED))
        link = await provider.link(0)
        await link.until(lambda: bool(link.received))
        await client.close()
        await link.end()
        record = await served.record()
        assert (record.end, record.upstream_tried, record.connected_ns) == (End.CLIENT_DISCONNECT, True, None)


@pytest.fixture
def tls_silence() -> str:
    """Says in the report that the upstream speaks no TLS at all."""
    return "silent"


async def test_a_client_that_leaves_after_the_terminal_event_has_had_its_answer():
    """The official client closes at [DONE], before the body's last chunk: complete, and the upstream is let go."""

    async def script(link: Link) -> None:
        await link.head()
        await link.send(chunked(sse(CHUNK, STOP, USAGE, b"[DONE]"), EVENT_STREAM).removesuffix(b"0\r\n\r\n"))

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(chat(STREAMED))
        await client.has(b"[DONE]")
        await client.close()
        await (await provider.link(0)).end()
        record = await served.record()
        assert (record.end, record.cut, record.output_tokens, record.error_type) == (End.COMPLETE, False, 7, None)


async def test_a_client_that_leaves_at_the_terminal_event_had_a_whole_answer():
    """The official client closes at [DONE]: the record says complete, the upstream that has not ended is cancelled."""

    async def script(link: Link) -> None:
        await link.request()
        if link.number:
            await link.send(ok(b"second"))
            return
        events = chunked(sse(CHUNK, STOP, b"[DONE]"), EVENT_STREAM, b"Keep-Alive: timeout=900")
        await link.send(events.removesuffix(b"0\r\n\r\n"))

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(chat(STREAMED))
        await client.has(b"[DONE]")
        await client.close()
        await provider.links[0].end()
        assert (await served.record()).end is End.COMPLETE
        assert (await served.ask(chat(STREAMED))).body == b"second"


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ([CHUNK, STOP], End.CLIENT_DISCONNECT),
        ([CHUNK, STOP, STOP.replace(b'"index":0', b'"index":1')], End.COMPLETE),
        ([CHUNK, STOP, b"[DONE]"], End.COMPLETE),
    ],
)
async def test_a_client_that_leaves_has_its_answer_when_every_choice_has_ended(events: list[bytes], end: End):
    """With n=2 the end of the first choice is not the end, even before anything came of the second."""

    async def script(link: Link) -> None:
        await link.head()
        await link.send(chunked(sse(*events), EVENT_STREAM).removesuffix(b"0\r\n\r\n"))

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(chat(STREAMED | {"n": 2}))
        await client.has(sse(*events)[-1])
        await client.close()
        assert (await served.record()).end is end


async def test_a_client_that_only_half_closes_is_leaving():
    """FIN while an answer is due is leaving, as documented."""
    async with Provider(silent) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        link = await provider.link(0)
        await link.head()
        await client.fin()
        await link.end()
        assert (await served.record()).end is End.CLIENT_DISCONNECT


async def test_a_client_that_leaves_with_a_large_body_on_the_way_is_seen():
    """A body beyond what is held for a connecting upstream must not leave the client unread once it was sent."""
    body = b"x" * 200_000
    async with Provider(silent) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(post(b"/v1/files", body))
        link = await provider.link(0)
        await link.until(lambda: link.received.endswith(body))
        await client.close()
        await link.end()
        assert (await served.record()).end is End.CLIENT_DISCONNECT


# -- usage and policy -------------------------------------------------------------------------------------------------


async def test_injected_usage_is_cut_out_and_the_rest_is_the_same_bytes():
    """The client did not ask for usage: it gets every byte but the one extra event, and the record has the count."""
    kept = [b": ping\n\n", *sse(CHUNK, STOP), b"data: [DONE]\n\n"]
    events = [*kept[:-1], *sse(USAGE), kept[-1]]
    async with Provider(answering(chunked(events, EVENT_STREAM))) as provider, relay(provider.url) as served:
        got = await served.ask(chat(STREAMED, b"Accept-Encoding: gzip"))
        assert got.body == b"".join(kept)
        sent = read_message(provider.links[0].received)
        assert sent is not None
        assert sent[0].body == b'{"stream_options":{"include_usage":true},"model":"m","stream":true,"messages":[]}'
        assert sent[0].values(b"accept-encoding") == [b"identity"]
        record = await served.record()
        assert record.output_tokens == 7
        assert (record.usage_source, record.response_bytes) == ("provider", len(got.body))


async def test_a_stream_with_a_length_out_of_which_an_event_is_cut_has_another_framing():
    """The length would be that of the bytes with the event."""
    kept = [*sse(CHUNK, STOP), b"data: [DONE]\n\n"]
    body = b"".join([*kept[:-1], *sse(USAGE), kept[-1]])
    async with Provider(answering(ok(body, EVENT_STREAM))) as provider, relay(provider.url) as served:
        got = await served.ask(chat(STREAMED))
        assert (got.body, got.value(b"content-length")) == (b"".join(kept), None)
        assert (await served.record()).end is End.COMPLETE


@pytest.mark.parametrize(
    ("status", "events", "texts"),
    [
        (b"200 OK", sse(CHUNK, STOP, b"[DONE]"), ["hi"]),
        (b"200 OK", sse(CHUNK, STOP, USAGE, b"[DONE]"), None),
        (b"200 OK", sse(CHUNK, CHUNK), ["hihi"]),
        (b"200 OK", sse(STOP, b"[DONE]"), None),
        (b"429 Too Many Requests", sse(CHUNK, STOP, b"[DONE]"), None),
    ],
    ids=["silent", "counted", "broken", "empty", "refused"],
)
async def test_the_text_goes_with_the_record_where_the_provider_counted_nothing(status, events, texts):
    """Of a good answer, however it ended; the record itself has none of it."""
    answer = b"HTTP/1.1 %b\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n%b" % (
        status,
        b"".join(events),
    )

    async def script(link):
        await link.request()
        await link.send(answer)
        await link.fin()

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(chat(STREAMED))
        await served.records(1)
        assert await served.texts() == texts


async def test_with_deliver_the_extra_event_stays():
    """`usage: deliver` asks and leaves the answer in the stream."""
    events = sse(CHUNK, STOP, USAGE, b"[DONE]")
    upstream = {"usage": "deliver"}
    async with (
        Provider(answering(chunked(events, EVENT_STREAM))) as provider,
        relay({"url": provider.url} | upstream) as served,
    ):
        assert (await served.ask(chat(STREAMED))).body == b"".join(events)
        assert b"include_usage" in provider.links[0].received


async def test_with_observe_nothing_is_asked():
    """`usage: observe` leaves the request alone."""
    async with Provider(answering(ok())) as provider, relay({"url": provider.url, "usage": "observe"}) as served:
        await served.ask(chat(STREAMED))
        assert provider.links[0].received.endswith(b"\r\n\r\n" + _BODY)


async def test_a_client_that_asks_for_usage_itself_gets_it():
    """Nothing is asked, nothing is cut."""
    events = sse(CHUNK, STOP, USAGE, b"[DONE]")
    document = STREAMED | {"stream_options": {"include_usage": True}}
    async with Provider(answering(chunked(events, EVENT_STREAM))) as provider, relay(provider.url) as served:
        assert (await served.ask(chat(document))).body == b"".join(events)
        assert provider.links[0].received.endswith(orjson.dumps(document))


async def test_a_cap_changes_digits_only_and_says_so():
    """Every sent limit above the cap is lowered to it in place; the header names rule, action and both numbers."""
    body = b'{ "max_tokens" :5000, "model":"m", "temperature":1.0, "max_completion_tokens": 50 , "n":1 }'
    async with Provider(answering(ok(b'{"choices":[]}'))) as provider, relay(provider.url, policy=[CAP]) as served:
        got = await served.ask(post(b"/v1/chat/completions", body))
        assert provider.links[0].received.endswith(b"\r\n\r\n" + body.replace(b"5000", b"100"))
        assert b"\r\nContent-Length: %d\r\n" % (len(body) - 1) in provider.links[0].received
        assert got.value(b"x-lengthwise-policy") == b"rule=cap; action=capped; requested=50; forwarded=50"
        record = await served.record()
        assert (record.decision.action, record.decision.rule) == (Action.CAPPED, "cap")


async def test_a_decision_that_changes_nothing_is_named_too():
    """An enforcing rule that matched and found the limit low enough decided all the same."""
    async with Provider(answering(ok())) as provider, relay(provider.url, policy=[CAP]) as served:
        got = await served.ask(chat({"model": "m", "max_tokens": 5}))
        assert got.value(b"x-lengthwise-policy") == b"rule=cap; action=none; requested=5; forwarded=5"


async def test_an_inserted_limit_goes_into_the_field_that_the_upstream_reads():
    """`when_absent: insert` adds one field; the header says that none was requested."""
    rule = CAP | {"when_absent": "insert"}
    upstream = {"insert_field": "max_completion_tokens"}
    async with Provider(answering(ok())) as provider, relay({"url": provider.url} | upstream, policy=[rule]) as served:
        got = await served.ask(chat({"model": "m"}))
        assert orjson.loads(provider.links[0].received.partition(b"\r\n\r\n")[2]) == {
            "max_completion_tokens": 100,
            "model": "m",
        }
        assert got.value(b"x-lengthwise-policy") == b"rule=cap; action=inserted; requested=none; forwarded=100"
        assert (await served.record()).decision.limit_field == "max_completion_tokens"


async def test_a_shadow_rule_changes_nothing_and_is_recorded():
    """No byte, no header; only the record knows what would have been."""
    rule = CAP | {"mode": "shadow"}
    async with Provider(answering(ok())) as provider, relay(provider.url, policy=[rule]) as served:
        body = b'{"model":"m","max_tokens":5000}'
        got = await served.ask(post(b"/v1/chat/completions", body))
        assert provider.links[0].received.endswith(body)
        assert got.values(b"x-lengthwise-policy") == []
        assert [(shadow.rule, shadow.action) for shadow in (await served.record()).decision.shadow] == [
            ("cap", Action.CAPPED)
        ]


async def test_a_compressed_body_is_capped_and_sent_plain():
    """What the policy judged is what the upstream reads: an edited body loses its Content-Encoding, an untouched one keeps it."""
    body = b'{"model":"m","max_tokens":5000}'
    async with Provider(answering(ok())) as provider, relay(provider.url, policy=[CAP]) as served:
        await served.ask(post(b"/v1/chat/completions", gzip.compress(body), b"Content-Encoding: gzip"))
        sent = read_message(provider.links[0].received)
        assert sent is not None
        assert sent[0].body == body.replace(b"5000", b"100")
        assert sent[0].values(b"content-encoding") == []
        untouched = gzip.compress(b'{"model":"m","max_tokens":50}')
        await served.ask(post(b"/v1/chat/completions", untouched, b"Content-Encoding: gzip"))
        assert b"\r\nContent-Encoding: gzip\r\n" in provider.log[-2][2]
        assert provider.log[-2][2].endswith(untouched)


async def test_a_body_coding_that_connection_nominates_is_judged_as_the_upstream_reads_it():
    """A nominated Content-Encoding is not forwarded, so the policy must not undo it either."""
    body = b'{"model":"m","max_tokens":5000}'
    async with Provider(answering(ok())) as provider, relay(provider.url, policy=[CAP]) as served:
        await served.ask(
            post(b"/v1/chat/completions", body, b"Content-Encoding: gzip", b"Connection: content-encoding")
        )
        assert provider.links[0].received.endswith(body.replace(b"5000", b"100"))


async def test_an_error_event_inside_a_stream_is_an_upstream_error():
    """Status 200 and a whole body, but the record says what the stream said."""
    events = sse(CHUNK, b'{"error":{"message":"m","type":"server_error"}}')
    async with Provider(answering(chunked(events, EVENT_STREAM))) as provider, relay(provider.url) as served:
        assert (await served.ask(chat(STREAMED))).body == b"".join(events)
        record = await served.record()
        assert (record.end, record.status, record.error_type) == (End.UPSTREAM_ERROR, 200, "server_error")


USAGE_REFUSED = ok(b'{"error":{"message":"Unknown parameter: stream_options"}}', status=b"400 Bad Request")


async def test_the_field_of_an_inserted_limit_is_the_same_when_asked_once_more():
    """A dialect that knows only `max_tokens` gets it both times, whatever the upstream's field for chats is."""
    rule = CAP | {"max_tokens": 5, "when_absent": "insert"}  # absent counts as 16 there
    upstream = {"insert_field": "max_completion_tokens"}
    async with (
        Provider(answering(USAGE_REFUSED, ok())) as provider,
        relay({"url": provider.url} | upstream, policy=[rule]) as served,
    ):
        await served.ask(post(b"/v1/completions", b'{"model":"m","prompt":"p","stream":true}'))
        sent = [orjson.loads(data.partition(b"\r\n\r\n")[2]) for _, kind, data in provider.log if kind == "received"]
        assert [document.get("max_tokens") for document in sent] == [5, 5]
        assert [document.get("max_completion_tokens") for document in sent] == [None, None]


@pytest.mark.parametrize(
    "answer",
    [
        ok(b'{"error":{"message":"no"}}', b"X: y", status=b"400 Bad Request"),
        ok(b"stream_options" * 10_000, status=b"422 Unprocessable"),
        chunked([b"x" * 70_000, b"stream_options"], status=b"400 Bad Request"),
        ok(b"stream_options", status=b"500 Oops"),
        ok(b"", status=b"400 Bad Request"),
    ],
)
async def test_any_other_refusal_is_the_clients(answer: bytes):
    """An error about something else, a long one, another status: passed as it is, once."""
    async with Provider(answering(answer)) as provider, relay(provider.url) as served:
        got = await served.ask(chat(STREAMED))
        whole = read_message(answer)
        assert whole is not None
        assert (got.start, got.body) == (whole[0].start, whole[0].body)
        record = await served.record()
        assert (record.end, record.resend_count, record.error_type) == (End.COMPLETE, 0, whole[0].start[9:12].decode())


async def test_a_client_that_leaves_while_a_refusal_is_read_cancels_it():
    """Nothing was written to it yet, and nothing will be."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(USAGE_REFUSED[:-3])

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(chat(STREAMED))
        async with asyncio.timeout(10):
            while not any(inner._exchange and inner._exchange._doubtful for inner in served.worker.clients):
                await asyncio.sleep(0)
        await client.close()
        await provider.links[0].end()
        assert (await served.record()).end is End.CLIENT_DISCONNECT


async def test_a_reject_rule_and_a_body_that_cannot_be_judged_are_400():
    """Both with the rule's header or none, and the connection goes on: the request was whole."""
    rules = [{"name": "no", "do": "reject", "match": {"model": "bad"}}, CAP]
    async with Provider(answering(ok())) as provider, relay(provider.url, policy=rules) as served:
        client = await served.connect()
        await client.send(chat({"model": "bad"}))
        answer = await client.message()
        refused(answer, 400, "policy_rejected", "invalid_request_error", final=True)
        assert (answer.value(b"x-lengthwise-policy") or b"").startswith(b"rule=no; action=rejected;")
        await client.send(post(b"/v1/chat/completions", b'{"model":"m","max_tokens":1,"max_tokens":2'))
        refused(await client.message(), 400, "ambiguous_body", "invalid_request_error", final=True)
        assert provider.links == []
        await client.send(chat({"model": "m"}))
        assert (await client.message()).body == b"ok"
        assert [record.end for record in await served.records(3)] == [End.REJECTED, End.REJECTED, End.COMPLETE]


# -- our own answers --------------------------------------------------------------------------------------------------


def refused(answer: Message, status: int, error_type: str, envelope: str, *, final: bool) -> None:
    """An answer made by us: status, headers and the dialect's envelope."""
    assert answer.status == status
    assert answer.value(b"x-lengthwise-error") == error_type.encode()
    assert answer.value(b"x-should-retry") == (b"false" if final else None)
    assert answer.value(b"content-type") == b"application/json"
    error = orjson.loads(answer.body)["error"]
    assert error.pop("message")
    assert error == {"type": envelope, "param": None, "code": error_type}


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/opaque"])
async def test_an_upstream_that_nobody_listens_at_is_502(path: bytes):
    """Refused connections name no address and can be repeated."""
    async with relay("http://127.0.0.1:1") as served:
        answer = await served.ask(post(path, b"{}"))
        refused(answer, 502, "upstream_connect", "server_error", final=False)
        assert b"127.0.0.1" not in answer.body
        record = await served.record()
        assert (record.end, record.error_type, record.upstream_tried) == (End.UPSTREAM_ERROR, "upstream_connect", True)


async def test_an_upstream_without_an_answer_is_502():
    """A connection that ends before a head: no answer was lost, none is made up."""

    async def script(link: Link) -> None:
        await link.request()
        await link.close()

    async with Provider(script) as provider, relay(provider.url) as served:
        refused(await served.ask(chat(STREAMED)), 502, "upstream_reset", "server_error", final=False)
        assert (await served.record()).end is End.UPSTREAM_ERROR


async def test_a_first_byte_that_does_not_come_is_504_and_final():
    """The upstream has the request: repeating it would cost twice."""
    async with Provider(silent) as provider, relay(provider.url, timeouts={"first_byte_s": 0.01}) as served:
        client = await served.connect()
        await client.send(chat(STREAMED))
        refused(await client.message(), 504, "upstream_first_byte_timeout", "server_error", final=True)
        await provider.links[0].end()
        assert (await served.record()).end is End.TIMEOUT
        await client.send(chat(STREAMED))  # the request was whole, so the connection goes on
        assert (await client.message()).status == 504


async def test_a_connection_that_does_not_come_about_is_504():
    """An upstream that accepts and never shakes hands."""
    async with (
        Provider(silent) as provider,
        relay(f"https://localhost:{provider.port}", timeouts={"connect_s": 0.01}) as served,
    ):
        refused(await served.ask(chat(STREAMED)), 504, "upstream_connect_timeout", "server_error", final=False)
        assert (await provider.link(0)).closed is not None
        await provider.links[0].end()
        record = await served.record()
        assert (record.end, record.error_type) == (End.TIMEOUT, "upstream_connect_timeout")


async def test_a_stream_that_falls_silent_breaks():
    """Idle between bytes of a body: flushed, no terminator, record timeout."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(chunked(sse(CHUNK), EVENT_STREAM).removesuffix(b"0\r\n\r\n"))

    async with Provider(script) as provider, relay(provider.url, timeouts={"idle_s": 0.01}) as served:
        client = await served.connect()
        await client.send(chat(STREAMED))
        assert await client.end() == "fin"
        assert read_message(client.received) is None
        assert CHUNK in client.received
        await provider.links[0].end()
        record = await served.record()
        assert (record.end, record.error_type, record.status) == (End.TIMEOUT, "upstream_idle_timeout", 200)


async def test_a_slow_stream_is_never_cut_by_a_total():
    """Each byte begins a new idle period: longer than the timeout in all is no timeout."""
    pieces = [b"%x\r\n%b\r\n" % (len(event), event) for event in sse(CHUNK) * 12]

    async def script(link: Link) -> None:
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            await link.send(piece)
            await asyncio.sleep(0.25)  # the pace of the stream is the case
        await link.send(b"0\r\n\r\n")

    async with (
        Provider(script) as provider,
        relay(provider.url, timeouts={"idle_s": 2, "first_byte_s": 2}) as served,
    ):
        assert (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).body == b"".join(sse(CHUNK) * 12)


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/opaque"])
async def test_a_request_body_that_does_not_come_is_408(path: bytes):
    """The client's own slowness; observed or streamed."""
    async with Provider(silent) as provider, relay(provider.url, timeouts={"client_body_s": 0.01}) as served:
        client = await served.connect()
        await client.send(post(path, b"{}")[:-1])
        refused(await client.message(), 408, "client_timeout", "invalid_request_error", final=True)
        assert await client.end() == "fin"
        record = await served.record()
        assert (record.end, record.error_type) == (End.REJECTED, "client_timeout")


async def test_more_in_flight_than_allowed_is_shed():
    """503 with Retry-After at once, repeatable; the running exchange goes on."""
    go = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        await go.wait()
        await link.send(ok())

    async with Provider(script) as provider, relay(provider.url, limits={"in_flight": 1}) as served:
        first = await served.connect()
        await first.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await (await provider.link(0)).head()
        answer = await served.ask(chat(STREAMED))
        refused(answer, 503, "overloaded", "server_error", final=False)
        assert answer.value(b"retry-after") == b"1"
        go.set()
        assert (await first.message()).body == b"ok"
        assert [record.end for record in await served.records(2)] == [End.SHED, End.COMPLETE]


async def test_blocked_routes_are_404_for_posts_of_no_dialect():
    """`unknown_routes: block` keeps POSTs to what can be read; other methods pass."""
    async with Provider(answering(ok())) as provider, relay(provider.url, limits={"unknown_routes": "block"}) as served:
        refused(await served.ask(post(b"/v1/files", b"")), 404, "unknown_route", "invalid_request_error", final=True)
        assert provider.links == []
        assert (await served.ask(chat(STREAMED))).status == 200
        assert (await served.ask(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
        assert [record.end for record in await served.records(3)] == [End.REJECTED, End.COMPLETE, End.COMPLETE]


async def test_prefixes_select_upstreams_and_are_removed():
    """The longest prefix of whole segments wins; base path and query are put together again."""
    async with (
        Provider(answering(ok(b"one"))) as one,
        Provider(answering(ok(b"two"))) as two,
        relay({"url": one.url, "prefix": "/x"}, {"url": two.url + "/base", "prefix": "/x/y"}) as served,
    ):
        assert (await served.ask(b"GET /x/v1?q=%2F HTTP/1.1\r\nHost: a\r\n\r\n")).body == b"one"
        assert (await served.ask(b"GET /x/y/v1?q HTTP/1.1\r\nHost: a\r\n\r\n")).body == b"two"
        assert (await served.ask(b"GET /x/yz HTTP/1.1\r\nHost: a\r\n\r\n")).body == b"one"
        assert (await served.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")).body == b"one"
        refused(
            await served.ask(b"GET /xy HTTP/1.1\r\nHost: a\r\n\r\n"),
            404,
            "unknown_route",
            "invalid_request_error",
            final=True,
        )
        starts = [entry[2].split(b"\r\n")[0] for entry in one.log if entry[1] == "received"]
        assert starts == [b"GET /v1?q=%2F HTTP/1.1", b"GET /yz HTTP/1.1", b"GET / HTTP/1.1"]
        assert two.received[0].startswith(b"GET /base/v1?q HTTP/1.1\r\n")
        assert [record.upstream for record in await served.records(5)] == ["u0", "u1", "u0", "u0", None]


KEY = "5f2b0c3bd1b5e1d9f0f9c2d6a0ab6d54bbd1f17dfb2b6d4a9a1b1f0c7f6f5f11"


@pytest.mark.parametrize(
    ("provider_name", "header"),
    [
        ("openai", b"Authorization: Bearer real"),
        ("azure.ai.openai", b"api-key: real"),
        ("anthropic", b"x-api-key: real"),
    ],
)
async def test_a_configured_credential_replaces_the_clients(
    provider_name: str, header: bytes, monkeypatch: pytest.MonkeyPatch
):
    """Only a token listed in `keys` may use it; every form of the client's credential is taken out."""
    from hashlib import sha256

    monkeypatch.setenv("UPSTREAM_KEY", "real")
    upstream = {"api_key_env": "UPSTREAM_KEY", "provider": provider_name}
    keys = {"team": sha256(b"token").hexdigest(), "other": KEY}
    async with Provider(answering(ok())) as provider, relay({"url": provider.url} | upstream, keys=keys) as served:
        for sent in (b"Authorization: Bearer token", b"api-key: token", b"X-API-Key: token"):
            answer = await served.ask(chat(STREAMED, sent))
            assert answer.status == 200
            assert b"token" not in provider.log[-2][2]
            assert provider.log[-2][2].count(b"real") == 1
            assert b"\r\n" + header + b"\r\n" in provider.log[-2][2]
        for sent in (b"Authorization: Bearer wrong", b"Authorization: token2", b"X: y"):
            answer = await served.ask(chat(STREAMED, sent))
            refused(answer, 401, "unknown_key", "authentication_error", final=True)
            assert b"wrong" not in answer.body
        records = await served.records(6)
        assert [(record.key_name, record.end) for record in records] == [("team", End.COMPLETE)] * 3 + [
            (None, End.REJECTED)
        ] * 3


async def test_a_body_too_large_for_a_rule_is_413_and_else_streams_unobserved():
    """Over `observed_body_bytes`: refused only where an enforcing rule would have to read it."""
    body = orjson.dumps({"model": "m", "messages": ["x" * 3000]})
    limits = {"observed_body_bytes": 1024}
    both = [post(b"/v1/chat/completions", body)]
    both.append(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + 500]), body[at : at + 500]) for at in range(0, len(body), 500))
        + b"0\r\n\r\n"
    )
    async with Provider(answering(ok(b"{}"))) as provider:
        async with relay(provider.url, limits=limits, policy=[CAP]) as served:
            for request in both:
                answer = await served.ask(request)
                refused(answer, 413, "body_too_large", "invalid_request_error", final=True)
            assert provider.links == []
            assert [record.end for record in await served.records(2)] == [End.REJECTED] * 2
        async with relay(provider.url, limits=limits) as served:
            for number, request in enumerate(both, 1):
                assert (await served.ask(request)).body == b"{}"
                records = await served.records(number)
                assert (records[-1].degraded, records[-1].request_bytes) == ("body_too_large", len(body))
        messages = []
        data = b"".join(link.received for link in provider.links)
        while data:
            found = read_message(data)
            assert found is not None
            messages.append(found[0].body)
            data = found[1]
        assert messages == [body, body]


async def test_an_absolute_target_never_chooses_the_upstream():
    """ARCHITECTURE.md 5.9: only the path of an absolute-form target counts, and no other header matters."""
    async with Provider(answering(ok())) as provider, Provider(answering(ok())) as other, relay(provider.url) as served:
        evil = b"127.0.0.1:%d" % other.port
        await served.ask(
            b"GET http://%b/v1/x?y HTTP/1.1\r\nHost: %b\r\nX-Forwarded-Host: %b\r\nForwarded: host=%b\r\n\r\n"
            % ((evil,) * 4)
        )
        await served.ask(b"GET http://%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (evil, evil))
        assert other.links == []
        starts = [entry[2].split(b"\r\n")[:2] for entry in provider.log if entry[1] == "received"]
        host = b"Host: 127.0.0.1:%d" % provider.port
        assert starts == [[b"GET /v1/x?y HTTP/1.1", host], [b"GET / HTTP/1.1", host]]


async def test_an_answer_that_comes_early_is_delivered_whole():
    """An upstream that refuses in the middle of an upload: the client that goes on sending still reads the answer."""

    async def script(link: Link) -> None:
        await link.head()
        await link.send(ok(b"no" * 20_000, status=b"413 Too Large"))

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 50_000)
        answer = await client.message()
        assert (answer.status, answer.body, answer.value(b"connection")) == (413, b"no" * 20_000, b"close")
        for _ in range(20):
            await client.send(b"x" * 50_000)  # no reset yet
        assert await client.end() == "fin"
        await provider.links[0].end()  # half a request: not used again
        assert (await served.record()).end is End.COMPLETE


async def test_a_chunked_body_that_turns_bad_during_an_early_answer_breaks_it():
    """Nothing is written into the middle of an answer that has begun."""

    async def script(link: Link) -> None:
        await link.head()
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await client.has(b"hello")
        await client.send(b"zz\r\n")
        await client.end()
        assert client.received.count(b"HTTP/1.1") == 1
        assert read_message(client.received) is None
        await provider.links[0].end()
        assert (await served.record()).end is End.ABORTED


async def test_a_malformed_chunked_body_is_400():
    """Before an answer began: refused, closed, and the upstream never gets a terminator."""
    async with Provider(silent) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        link = await provider.link(0)
        await link.has(b"abc")
        await client.send(b"zz\r\n")
        refused(await client.message(), 400, "malformed_request", "invalid_request_error", final=True)
        assert await client.end() == "fin"
        await link.end()
        assert not link.received.endswith(b"0\r\n\r\n")
        assert (await served.record()).end is End.REJECTED


# -- backpressure -----------------------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_pauses_its_upstream():
    """Memory stays bounded: what the client does not take stays with the upstream, and arrives later."""
    size = 40_000_000
    sent = 0

    async def script(link: Link) -> None:
        nonlocal sent
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 100_000):
            await link.send(b"x" * 100_000)
            sent += 100_000

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect(receive_buffer_bytes=65536)
        await client.stop_reading()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        (exchange_client,) = await clients(served)
        async with asyncio.timeout(10):
            while not exchange_client._exchange or not exchange_client._exchange._blocked_since_ns:
                await asyncio.sleep(0)
            before = -1
            while before != sent:  # until the kernel's buffers are full
                before = sent
                await asyncio.sleep(0.1)
        assert sent < size
        assert exchange_client._transport.get_write_buffer_size() < 1_000_000
        client.read()
        await client.until(lambda: len(client.received) > size)
        record = await served.record()
        assert (record.end, record.response_bytes) == (End.COMPLETE, size)
        assert record.client_blocked_ns > 0


async def test_a_client_that_stays_blocked_has_one_idle_time_and_is_measured_to_its_end():
    """What still arrives while it takes nothing renews no timeout; the time until it left counts as blocked."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n" + b"x" * 20_000_000)

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect(receive_buffer_bytes=65536)
        await client.stop_reading()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        (inner,) = await clients(served)
        async with asyncio.timeout(PATIENCE_S):
            while not inner._exchange or not inner._exchange._blocked_since_ns:
                await asyncio.sleep(0)
        deadline_ns, since_ns = inner.deadline_ns, inner._exchange._blocked_since_ns
        inner._exchange.response_data(b"x", False, deadline_ns)
        assert inner.deadline_ns == deadline_ns
        await client.reset()
        record = await served.record()
        assert (record.end, record.client_blocked_ns) == (End.CLIENT_DISCONNECT, record.ended_ns - since_ns)


async def clients(served: Served) -> list[Any]:
    """The worker's client connections, once there is one."""
    async with asyncio.timeout(5):
        while not served.worker.clients:
            await asyncio.sleep(0)
    return list(served.worker.clients)


@pytest.mark.parametrize("connected", [True, False])
async def test_an_upstream_that_does_not_read_pauses_its_client(connected: bool):
    """The same the other way round, whether the connection was pooled or is new."""
    size = 40_000_000
    stall = asyncio.Event()

    async def script(link: Link) -> None:
        if connected:
            await link.request()
            await link.send(ok())
        await link.stop_reading()
        await stall.wait()
        link.read()
        await link.until(lambda: len(link.received) > size)
        await link.send(ok())

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        if connected:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.message()
        sent = 0

        async def upload() -> None:
            nonlocal sent
            await client.send(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // 100_000):
                await client.send(b"x" * 100_000)
                sent += 100_000

        task = asyncio.create_task(upload())
        async with asyncio.timeout(10):
            before = -1
            while before != sent or not sent:
                before = sent
                await asyncio.sleep(0.1)
        assert sent < size
        (pool,) = served.worker.pools
        (connection,) = pool._connections
        assert connection.transport.get_write_buffer_size() < 1_000_000
        stall.set()
        await task
        assert (await client.message()).body == b"ok"


async def test_an_upload_that_its_upstream_does_not_take_is_the_upstreams_timeout():
    """While the client is paused by us its slowness is not its own: no 408."""

    async def script(link: Link) -> None:
        await link.stop_reading()

    async with (
        Provider(script) as provider,
        relay(provider.url, timeouts={"idle_s": 0.3, "client_body_s": 60}) as served,
    ):
        client = await served.connect()
        upload = asyncio.create_task(
            client.send(b"POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 64000000\r\n\r\n" + b"x" * 63_000_000)
        )
        answer = await client.message()
        refused(answer, 504, "upstream_first_byte_timeout", "server_error", final=True)
        assert (await served.record()).end is End.TIMEOUT
        upload.cancel()
        await asyncio.wait([upload])


async def test_a_pooled_connection_is_read_again_after_a_blocked_client():
    """The last bytes of an answer block the client; the upstream connection must come back unpaused."""
    big = b"x" * 20_000_000

    async with Provider(answering(ok(big), ok())) as provider, relay(provider.url) as served:
        client = await served.connect(receive_buffer_bytes=65536)
        await client.stop_reading()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        (inner,) = await clients(served)
        # The client takes all but the end, so that the end of the answer is written while it is blocked.
        client.read()
        await client.until(lambda: len(client.received) > len(big))
        await served.record()
        assert not inner._transport.is_closing()
        other = await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert other.body == b"ok"
        assert len(provider.links) == 1


# -- an upstream that does not know what we add ---------------------------------------------------------------------------

REFUSED = b'{"error":{"message":"Unknown parameter: \'stream_options\'.","param":"stream_options","code":"unknown_parameter"}}'


def error(status: bytes, body: bytes) -> bytes:
    """An upstream's error with a length."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize("status", [b"400 Bad Request", b"422 Unprocessable Entity"])
async def test_an_upstream_that_refuses_to_be_asked_for_usage_gets_the_clients_own_bytes(status: bytes):
    """Once more with the original body and headers; the next request on that path does not ask at all."""
    asked = chat(STREAMED, b"Accept-Encoding: gzip")

    async def script(link: Link) -> None:
        for number in range(3):
            request = await link.request()
            if b"stream_options" in request.body:
                assert number == 0
                await link.send(error(status, REFUSED))
            else:
                assert (request.body, request.value(b"accept-encoding")) == (_BODY, b"gzip")
                await link.send(chunked(sse(CHUNK, STOP, b"[DONE]"), EVENT_STREAM))

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        for _ in range(2):
            await client.send(asked)
            assert (await client.message()).body == b"".join(sse(CHUNK, STOP, b"[DONE]"))
        records = await served.records(2)
        assert [(record.end, record.status, record.resend_count) for record in records] == [
            (End.COMPLETE, 200, 1),
            (End.COMPLETE, 200, 0),
        ]
        assert len(provider.links) == 1
        again, first = records  # the stamps of the one are those of its final attempt, on a connection that was there
        assert (again.connect_started_ns, again.connected_ns, first.repeated_ns) == (None, None, None)
        assert again.request_complete_ns < again.repeated_ns <= again.request_sent_ns


async def test_an_error_that_only_echoes_what_was_added_does_not_end_the_asking():
    """FastAPI puts the whole body into its 422: the client gets the error of its own body, the next request is asked."""
    echo = b'{"detail":[{"loc":["body","n"],"msg":"no integer","input":%b}]}'

    async def script(link: Link) -> None:
        while True:
            request = await link.request()
            if b'"n"' in request.body:
                await link.send(error(b"422 Unprocessable Entity", echo % request.body))
            else:
                assert b"include_usage" in request.body
                await link.send(chunked(sse(CHUNK, STOP, USAGE, b"[DONE]"), EVENT_STREAM))

    async with Provider(script) as provider, relay(provider.url) as served:
        bad = STREAMED | {"n": "two"}
        answer = await served.ask(chat(bad))
        assert (answer.status, answer.body) == (422, echo % orjson.dumps(bad))
        await served.ask(chat(STREAMED))
        records = await served.records(2)
        assert [(record.status, record.resend_count, record.output_tokens) for record in records] == [
            (422, 1, None),
            (200, 0, 7),
        ]


async def test_paths_that_are_not_to_be_asked_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch):
    """A client that makes up paths costs bounded memory: beyond it each request is asked, and sent again."""
    monkeypatch.setattr(exchange, "_REFUSED_PATHS", 1)

    async def script(link: Link) -> None:
        while True:
            request = await link.request()
            refused = b"stream_options" in request.body
            await link.send(error(b"400 Bad Request", REFUSED) if refused else ok())

    async with Provider(script) as provider, relay(provider.url) as served:
        for path in (b"/a", b"/a", b"/b", b"/b"):
            await served.ask(post(path + b"/chat/completions", orjson.dumps(STREAMED)))
        assert [record.resend_count for record in await served.records(4)] == [1, 0, 1, 1]


@pytest.mark.parametrize("size", [10, 200_000])
async def test_an_error_that_is_about_something_else_passes_whole(size: int):
    """Short or long, in pieces, its own bytes reach the client and nothing is sent again."""
    body = b'{"error":{"message":"%b"}}' % (b"x" * size)
    answer = error(b"400 Bad Request", body)

    async def script(link: Link) -> None:
        await link.request()
        for piece in (answer[:30], answer[30:150], answer[150:]):
            await link.send(piece)

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(chat(STREAMED))
        message = await client.message()
        assert (message.status, message.body) == (400, body)
        record = await served.record()
        assert (record.end, record.status, record.resend_count, record.error_type) == (End.COMPLETE, 400, 0, "400")


@pytest.mark.parametrize("cut", [0, 20])
async def test_invariant_2_a_doubtful_error_that_breaks_off_never_looks_complete(cut: int):
    """An answer that was held back and then broke reaches the client as far as it came."""
    answer = error(b"400 Bad Request", REFUSED)

    async def script(link: Link) -> None:
        await link.request()
        await link.send(answer[: answer.index(b"\r\n\r\n") + 4 + cut])
        await link.fin()

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(chat(STREAMED))
        await client.end()
        assert bytes(client.received).endswith(b"\r\n\r\n" + REFUSED[:cut])
        assert b"Content-Length: %d\r\n" % len(REFUSED) in client.received
        assert (await served.record()).end is End.BROKEN


# -- invariant 6 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","max_tokens":1,"max_tokens":99999}',
        b'{"model":"m","max_tokens":"99999"}',
        b'{"model":"m","max_tokens":-1}',
        b'{"model":"m","max_tokens":1.5}',
        b'{"model":"m",}',
        b"[]",
        '{"model":"m"}'.encode("utf-16"),
    ],
)
async def test_invariant_6_a_body_that_a_rule_cannot_judge_passes_only_where_none_could_match(body: bytes):
    """400 where an enforcing rule could match by everything but the body; elsewhere the client's own bytes pass."""
    rules = [CAP | {"match": {"app": ["strict"]}}]
    async with Provider(answering(ok())) as provider, relay(provider.url, policy=rules) as served:
        answer = await served.ask(post(b"/v1/chat/completions", body, b"x-lengthwise-app: strict"))
        assert (answer.status, answer.value(b"x-lengthwise-error")) == (400, b"ambiguous_body")
        assert provider.links == []
        assert (await served.ask(post(b"/v1/chat/completions", body))).status == 200
        assert provider.links[0].received.endswith(b"\r\n\r\n" + body)


ENDS: dict[str, Callable[[Exchange], None]] = {
    "the client leaves": Exchange.client_left,
    "the upstream is lost": lambda one: one.upstream_lost(monotonic_ns()),
    "the answer cannot be understood": lambda one: one.upstream_failed(
        RefusalError("upstream_reset", ""), monotonic_ns()
    ),
    "time is up": lambda one: one.deadline(monotonic_ns()),
    "the worker leaves": lambda one: one.abort("drain"),
    "it is refused": lambda one: one.refuse(RefusalError("overloaded", "")),
}


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(("first", "second"), list(permutations(ENDS, 2)))
async def test_invariant_5_two_ends_make_one_record(first: str, second: str, begun: bool):
    """Whichever comes first counts; what comes behind it finds nothing to do."""

    async def script(link: Link) -> None:
        await link.request()
        if begun:
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf")

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await (await provider.link(0)).head()
        if begun:
            await client.has(b"half")
        (inner,) = served.worker.clients
        one = inner._exchange
        assert one is not None
        ENDS[first](one)
        record = await served.record()
        ENDS[second](one)
        await client.close()
        await served.settled()
        assert await served.records(1) == [record]
        assert served.worker.exchanges_active == 0


async def test_bytes_are_written_before_they_are_observed(monkeypatch: pytest.MonkeyPatch):
    """Reading an event must never delay it."""
    order: list[str] = []

    def noted(owner: type, method: str) -> None:
        proper = getattr(owner, method)

        def noting(self: Any, data: bytes, *arguments: Any) -> Any:
            if CHUNK in data:
                order.append(method)
            return proper(self, data, *arguments)

        monkeypatch.setattr(owner, method, noting)

    noted(Client, "write")
    noted(Observer, "feed")
    answer = chunked(sse(CHUNK, STOP, b"[DONE]"), EVENT_STREAM)
    async with Provider(answering(answer)) as provider, relay(provider.url) as served:
        await served.ask(chat(STREAMED))
    assert order == ["write", "feed"]


# -- mistakes of ours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["request_end", "response_head", "response_data"])
async def test_a_mistake_of_ours_ends_one_exchange_as_aborted(monkeypatch: pytest.MonkeyPatch, method: str):
    """A callback that raises closes both sides at once; one record says internal, and the next exchange is served."""

    def raises(*_: object) -> None:
        raise LookupError("sk-secret")

    async with Provider(answering(ok())) as provider, relay(provider.url) as served:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        with monkeypatch.context() as patch:
            patch.setattr(Exchange, method, raises)
            client = await served.connect()
            await client.send(chat(STREAMED))
            await client.end()
        record = await served.record()
        assert (record.end, record.error_type) == (End.ABORTED, "internal")
        assert (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
        await served.settled()


async def ending(link: Link) -> None:
    """Answers a stream that ends with its connection."""
    await link.request()
    await link.send(b"HTTP/1.1 200 OK\r\n" + EVENT_STREAM + b"\r\n\r\n" + sse(b"[DONE]")[0])
    await link.fin()


async def once(link: Link) -> None:
    """Answers the first request of a connection."""
    await link.request()
    await link.send(ok())


@pytest.mark.parametrize(
    ("script", "method", "requests"),
    [
        pytest.param(silent, "_request_head", 1, id="connect task"),
        pytest.param(silent, "refuse", 1, id="tick"),
        pytest.param(ending, "_complete", 1, id="connection_lost"),
        pytest.param(once, "begin", 2, id="call_soon"),
    ],
)
async def test_a_mistake_of_ours_outside_a_protocols_callbacks_ends_one_exchange_too(
    monkeypatch: pytest.MonkeyPatch, script: Script, method: str, requests: int
):
    """Nobody closes after a task, a timer or the end of a connection: the client must not wait for ever."""
    called = 0
    proper = getattr(Exchange, method)

    def raises(self: Exchange, *arguments: Any) -> None:
        nonlocal called
        called += 1
        if called == requests:
            raise LookupError("sk-secret")
        proper(self, *arguments)

    monkeypatch.setattr(Exchange, method, raises)
    timeouts = {"first_byte_s": 0.01 if method == "refuse" else None}
    async with Provider(script) as provider, relay(provider.url, timeouts=timeouts) as served:
        seen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
        client, other = await served.connect(), await served.connect()
        await client.send(chat(STREAMED) * requests)
        await client.end()
        record = (await served.records(requests))[-1]
        assert (record.end, record.error_type) == (End.ABORTED, "internal")
        assert [type(error) for error in seen] == [LookupError]
        await other.close()
        await served.settled()
        await provider.links[0].end()


async def test_a_deadline_that_raises_does_not_skip_another_ones(monkeypatch: pytest.MonkeyPatch):
    """All are looked at in one tick: each has its end."""

    def raises(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr(Exchange, "deadline", raises)
    async with Provider(silent) as provider, relay(provider.url) as served:
        seen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        both = [await served.connect() for _ in range(2)]
        for client in both:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await (await provider.link(1)).head()
        for inner in await clients(served):
            inner.deadline_ns = 1
        served.worker._tick()
        for client in both:
            await client.end()
        assert [record.error_type for record in await served.records(2)] == ["internal"] * 2


@pytest.mark.parametrize(("owner", "method"), [(Upstream, "give_back"), (Pool, "put_back")])
async def test_a_mistake_at_the_end_of_an_exchange_costs_its_record_only(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str
):
    """The client has its answer and its connection; the record is counted as lost."""

    def raises(*_: object, **__: object) -> None:
        raise LookupError

    async with Provider(answering(ok())) as provider, relay(provider.url) as served:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        monkeypatch.setattr(owner, method, raises)
        client = await served.connect()
        for _ in range(2):
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.message()).body == b"ok"
        assert (served.worker.exchanges_active, served.worker.outbox.records_dropped) == (0, 2)
        await provider.links[0].end()


async def test_a_record_that_cannot_be_made_is_counted_and_the_client_served(monkeypatch: pytest.MonkeyPatch):
    """The answer is whole, and the loss is seen."""

    def raises(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr(Exchange, "_record", raises)
    async with Provider(answering(ok())) as provider, relay(provider.url) as served:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        assert (await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
        await served.settled()
        assert served.worker.outbox.records_dropped == 1


async def test_invariant_6_a_cap_is_set_in_the_field_that_a_named_upstream_reads():
    """Ollama ignores `max_completion_tokens`: where `insert_field` is named, a cap stands there too."""
    async with (
        Provider(answering(ok())) as provider,
        relay({"url": provider.url, "insert_field": "max_tokens"}, policy=[CAP]) as served,
    ):
        await served.ask(chat({"model": "m", "max_completion_tokens": 500}))
        sent = provider.links[0].received
        assert orjson.loads(sent[sent.index(b"\r\n\r\n") :]) == {
            "model": "m",
            "max_completion_tokens": 100,
            "max_tokens": 100,
        }
        assert (await served.record()).decision.limit_field == "max_tokens"


# -- everything else ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "pieces"),
    [
        (b"/v1/threads/t1/runs", EVENT_STREAM, sse(b'{"object":"thread.message.delta"}', b"[DONE]")),
        (b"/v1/images/generations", EVENT_STREAM, sse(b'{"type":"image_generation.partial_image"}')),
        (b"/v1/audio/transcriptions", EVENT_STREAM, sse(b'{"type":"transcript.text.delta","delta":"a"}')),
        (b"/v1/audio/speech", b"Content-Type: audio/mpeg", [bytes(range(256)), b"\xff" * 5000]),
    ],
)
async def test_answers_of_no_dialect_pass_as_they_are_and_are_timed(path: bytes, kind: bytes, pieces: list[bytes]):
    """Opaque: the same bytes, a first byte and an end, and nothing that only a dialect could know."""
    async with Provider(answering(chunked(pieces, kind))) as provider, relay(provider.url) as served:
        answer = await served.ask(post(path, b'{"stream":true}'))
        assert (answer.body, answer.value(b"content-type")) == (b"".join(pieces), kind.split(b": ")[1])
        assert provider.links[0].received.endswith(b'{"stream":true}')
        record = await served.record()
        assert (record.end, record.request.dialect, record.ttft_s, record.usage_source) == (
            End.COMPLETE,
            "opaque",
            None,
            "none",
        )
        assert record.ttfc_s is not None
        assert record.e2e_s is not None
