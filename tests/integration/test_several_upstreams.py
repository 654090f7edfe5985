"""Several upstreams behind one port, each with its own credential, TLS and usage mode; and what passes to any of them."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import openai
import pytest

from proxy.record import OPAQUE, End
from tests.support.certificates import make_certificates, server_context
from tests.support.otlp import HttpCollector
from tests.support.provider import EVENT_STREAM, Link, Message, Provider, TlsProvider, answering, chunked, ok, sse
from tests.support.relay import Served as Port
from tests.support.relay import relay
from tests.support.serve import Served, serving_async

TOKEN = "token-of-search"
KEYS = {"search": hashlib.sha256(TOKEN.encode()).hexdigest()}
CHAT = {"model": "m", "messages": [], "stream": True, "max_tokens": 9}
DELTA = b'{"id":"c","model":"m-1","choices":[{"index":0,"delta":{"content":"hi"}}]}'
STOP = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
USAGE = b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}'
PLAIN, ASKED = [b"".join(sse(*events, b"[DONE]")) for events in ([DELTA, STOP], [DELTA, STOP, USAGE])]
QUIET = {"telemetry": {"traces": "none", "metrics": "none"}}


async def as_asked(link: Link) -> None:
    """A provider that reports usage when it is asked to, as OpenAI does."""
    while True:
        request = await link.request()
        asked = json.loads(request.body).get("stream_options") == {"include_usage": True}
        await link.send(chunked([ASKED if asked else PLAIN], EVENT_STREAM))


def post(path: str, *headers: str, body: bytes | None = None) -> bytes:
    """A POST, by default of a streamed chat completion."""
    body = json.dumps(CHAT).encode() if body is None else body
    lines = [f"POST {path} HTTP/1.1", "Host: lengthwise", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def asking(served: Served) -> Callable[[bytes], Awaitable[Message]]:
    """Sends one request to the command's data port on a connection of its own."""
    host, port = served.url.removeprefix("http://").split(":")
    return Port(None, None, (host, int(port))).ask  # type: ignore[arg-type]  # only its address is used


def got(provider: Provider) -> list[bytes]:
    """The heads and bodies that a provider received, in order."""
    return [data for _, what, data in provider.log if what == "received"]


# -- the command: prefixes, credentials, usage modes, TLS ---------------------------------------------------------------


async def test_each_upstream_has_its_prefix_credential_and_usage_mode() -> None:
    """Three providers behind one port: each gets its own key in its own header, and none the client's or another's."""
    async with Provider(as_asked) as one, Provider(as_asked) as two, Provider(as_asked) as three:
        modes = {
            "one": (one, "/openai", "openai", "inject"),
            "two": (two, "/azure", "azure.ai.openai", "deliver"),
            "three": (three, "", "anthropic", "observe"),
        }
        settings = {
            "keys": KEYS,
            "upstreams": [
                {
                    "name": name,
                    "url": provider.url,
                    "prefix": prefix,
                    "provider": known_as,
                    "usage": usage,
                    "api_key_env": f"KEY_OF_{name.upper()}",
                }
                for name, (provider, prefix, known_as, usage) in modes.items()
            ],
        }
        deployment = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
        with HttpCollector() as collector:
            env = {f"KEY_OF_{name.upper()}": f"real-{name}" for name in modes}
            env["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.endpoint
            async with serving_async(settings, env=env) as served:
                ask = asking(served)
                refused = [
                    await ask(post("/openai/v1/chat/completions", "Authorization: Bearer wrong")),
                    await ask(post("/azure" + deployment, "api-key: real-two")),  # the real one is no client's
                    await ask(post("/v1/chat/completions")),
                ]
                assert [one.links, two.links, three.links] == [[], [], []]
                answers = [
                    await ask(post("/openai/v1/chat/completions", f"Authorization: Bearer {TOKEN}")),
                    await ask(post("/azure" + deployment, f"api-key: {TOKEN}")),
                    await ask(post("/v1/chat/completions", f"x-api-key: {TOKEN}")),
                ]
                rows = await asyncio.to_thread(served.rows, 6)
                spans = await asyncio.to_thread(collector.wait_for_spans, 9)  # a refused one has no CLIENT
                log = served.log

        assert [(answer.status, answer.value(b"x-lengthwise-error")) for answer in refused] == [
            (401, b"unknown_key")
        ] * 3
        assert [answer.body for answer in answers] == [PLAIN, ASKED, PLAIN]

        heads = {name: got(provider)[0] for name, (provider, *_) in modes.items()}
        assert [head.split(b"\r\n")[0] for head in heads.values()] == [
            b"POST /v1/chat/completions HTTP/1.1",
            b"POST /openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21 HTTP/1.1",
            b"POST /v1/chat/completions HTTP/1.1",
        ]
        credentials = {
            "one": b"Authorization: Bearer real-one",
            "two": b"api-key: real-two",
            "three": b"x-api-key: real-three",
        }
        for name, received in heads.items():
            assert received.count(b"\r\n" + credentials[name] + b"\r\n") == 1
            assert received.count(b"real-") == 1
            assert TOKEN.encode() not in received
            assert (b'"stream_options":{"include_usage":true}' in received) == (name != "three")

        done = {row["upstream"]: row for row in rows if row["status"] == 200}
        columns = ("provider", "dialect", "key_name", "usage_source", "output_tokens")
        assert {name: tuple(row[column] for column in columns) for name, row in done.items()} == {
            "one": ("openai", "chat_completions", "search", "provider", 7),
            "two": ("azure.ai.openai", "chat_completions", "search", "provider", 7),
            "three": ("anthropic", "chat_completions", "search", "estimated", 1),
        }
        calls = [span["attributes"] for span in spans if span["kind"] == "CLIENT"]
        assert {(call["gen_ai.provider.name"], call["lengthwise.key"]) for call in calls} == {
            (known_as, "search") for _, _, known_as, _ in modes.values()
        }
        for sink in (json.dumps(spans), json.dumps(rows), log):
            assert [secret for secret in (TOKEN, "real-", "wrong", "gpt-4o") if secret in sink] == []


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_certificates`."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def test_upstreams_with_tls_of_their_own_stand_side_by_side(certificates: Path) -> None:
    """A private authority, a client certificate, and the system's authorities, which know neither: 200, 200 and 502."""
    async with (
        TlsProvider(server_context(certificates), ok(b"private")) as private,
        TlsProvider(server_context(certificates, client_ca=True), ok(b"mutual")) as mutual,
    ):
        ca = {"ca_file": str(certificates / "ca.pem")}
        own = {"cert_file": str(certificates / "client.pem"), "key_file": str(certificates / "client.key")}
        listed = (
            ("private", private, ca),
            ("mutual", mutual, ca | own),
            ("unknown", private, {}),
            ("anonymous", mutual, ca),
        )
        upstreams = [
            {"name": name, "url": f"https://localhost:{provider.port}", "prefix": f"/{name}", "tls": dict(tls)}
            for name, provider, tls in listed
        ]
        async with serving_async({"upstreams": upstreams} | QUIET) as served:
            ask = asking(served)
            found = {
                name: await ask(f"GET /{name}/v1/models HTTP/1.1\r\nHost: a\r\n\r\n".encode()) for name, _, _ in listed
            }
    assert {name: (answer.status, answer.value(b"x-lengthwise-error")) for name, answer in found.items()} == {
        "private": (200, None),
        "mutual": (200, None),
        "unknown": (502, b"upstream_connect"),
        "anonymous": (502, b"upstream_reset"),  # TLS 1.3 tells a client without a certificate only after the handshake
    }
    assert [found["private"].body, found["mutual"].body] == [b"private", b"mutual"]
    assert [len(private.requests), len(mutual.requests)] == [1, 1]


async def test_a_retry_of_the_official_client_is_seen_on_the_spans() -> None:
    """Its second attempt says that it is one; the first says nothing."""
    whole = b'{"id":"c","object":"chat.completion","choices":[],"usage":null}'
    busy = ok(b"{}", b"retry-after-ms: 1", status=b"500 Busy")
    async with Provider(answering(busy, ok(whole, b"Content-Type: application/json"))) as provider:
        with HttpCollector() as collector:
            settings = {"upstreams": [{"name": "one", "url": provider.url}]}
            env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
            async with serving_async(settings, env=env) as served:
                async with openai.AsyncOpenAI(base_url=served.base_url, api_key="k", max_retries=1) as client:
                    await client.chat.completions.create(model="m", messages=[])
                spans = await asyncio.to_thread(collector.wait_for_spans, 4)
    counts = {
        (span["kind"], span["attributes"]["http.response.status_code"]): span["attributes"].get(
            "http.request.header.x-stainless-retry-count"
        )
        for span in spans
    }
    assert counts == {("SERVER", 500): None, ("CLIENT", 500): None, ("SERVER", 200): ["1"], ("CLIENT", 200): ["1"]}


# -- what passes ---------------------------------------------------------------------------------------------------------


async def test_redirects_and_cookies_pass_and_are_never_followed_or_stored() -> None:
    """The client is told where to go and what to keep; a second tenant on the same connection knows of neither."""
    async with Provider(answering(ok(b"elsewhere"))) as elsewhere:
        location = f"Location: {elsewhere.url}/v1/chat/completions".encode()
        cookies = [b"Set-Cookie: session=first; Path=/; HttpOnly", b"Set-Cookie: region=eu"]
        redirect = ok(b"", location, *cookies, status=b"307 Temporary Redirect")
        async with Provider(answering(redirect, ok())) as provider, relay(provider.url) as served:
            path = "/v1/chat/completions"
            answer = await served.ask(post(path, "Authorization: Bearer first"))
            assert (answer.status, answer.value(b"location")) == (307, location.removeprefix(b"Location: "))
            assert answer.values(b"set-cookie") == [cookie.removeprefix(b"Set-Cookie: ") for cookie in cookies]
            await served.ask(post(path, "Authorization: Bearer second"))
            await served.ask(post(path, "Authorization: Bearer first", "Cookie: session=first"))
            await served.ask(post(path, "Authorization: Bearer first"))
            assert len(provider.links) == 1  # all of them on one connection
            sent = [request.lower().count(b"cookie") for request in got(provider)]
            assert sent == [0, 0, 1, 0]
            assert elsewhere.links == []
            assert [record.status for record in await served.records(4)] == [307, 200, 200, 200]


BOUNDARY = "----part"
FILE = bytes(range(256)) * 4096 * 4
"""4 MB of every byte."""


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_multipart_upload_is_streamed(framing: str) -> None:
    """The upstream has its first bytes before the client has sent the last, and in the end every byte."""
    opening = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=file; filename=a.bin\r\n\r\n".encode()
    closing = f"\r\n--{BOUNDARY}--\r\n".encode()
    body = opening + FILE + closing

    def framed(data: bytes) -> bytes:
        return data if framing == "length" else b"%x\r\n%b\r\n" % (len(data), data)

    declared = f"Content-Length: {len(body)}" if framing == "length" else "Transfer-Encoding: chunked"
    lines = ["POST /v1/files HTTP/1.1", "Host: a", f"Content-Type: multipart/form-data; boundary={BOUNDARY}", declared]
    async with Provider(answering(ok(b"{}"))) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send("\r\n".join([*lines, "", ""]).encode() + framed(opening))
        link = await provider.link(0)
        await link.has(opening)
        for at in range(0, len(FILE), 65536):
            await client.send(framed(FILE[at : at + 65536]))
        await link.until(lambda: len(link.received) > len(FILE) - 65536)
        assert not client.received
        await client.send(framed(closing) + (b"" if framing == "length" else b"0\r\n\r\n"))
        assert (await client.message()).status == 200
        link.taken = 0
        assert (await link.request()).body == body
        record = await served.record()
        assert (record.request.dialect, record.end, record.request_bytes) == (OPAQUE, End.COMPLETE, len(body))


async def test_a_binary_download_is_streamed() -> None:
    """The client has its first bytes before the upstream has sent the last, and in the end every byte."""
    begun = asyncio.Event()
    first = FILE[:1000]

    async def script(link: Link) -> None:
        await link.request()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % len(FILE)
        await link.send(head + first)
        await begun.wait()
        await link.send(FILE[len(first) :])

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"GET /v1/files/f/content HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.has(first)
        begun.set()
        answer = await client.message()
        assert answer.body == FILE
        assert answer.value(b"content-type") == b"application/octet-stream"
        record = await served.record()
        assert (record.request.dialect, record.end, record.response_bytes) == (OPAQUE, End.COMPLETE, len(FILE))


def filled(start: bytes, size: int) -> bytes:
    """A head of this many bytes: the start, and as many headers as there is room for."""
    head = start
    number = 0
    while size - len(head) > 2 * 1100:
        head += b"X-Fill-%03d: " % number + b"v" * 1000 + b"\r\n"
        number += 1
    return head + b"X-Last: " + b"v" * (size - len(head) - len(b"X-Last: \r\n\r\n")) + b"\r\n\r\n"


async def test_64_kb_of_headers_pass_both_ways() -> None:
    """A head of just below `header_bytes` in each direction arrives whole; one above is 431, and no upstream sees it."""
    start = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n"
    answer_head = filled(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", 65535)
    async with Provider(answering(answer_head + b"ok")) as provider, relay(provider.url) as served:
        request = filled(start, 65535)
        answer = await served.ask(request)
        assert (answer.status, answer.body) == (200, b"ok")
        sent = [line for line in answer_head.split(b"\r\n") if line.startswith(b"X-")]
        assert [b": ".join(header) for header in answer.headers if header[0].startswith(b"X-")] == sent
        assert len(sent) > 50
        received = bytes(provider.links[0].received)
        assert [line for line in received.split(b"\r\n") if line.startswith(b"X-")] == [
            line for line in request.split(b"\r\n") if line.startswith(b"X-")
        ]
        above = await served.ask(filled(start, 65537))
        assert (above.status, above.value(b"x-lengthwise-error")) == (431, b"header_too_large")
        assert bytes(provider.links[0].received) == received
        assert len(provider.links) == 1
