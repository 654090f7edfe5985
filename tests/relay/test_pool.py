"""Connections to upstreams on real sockets: kept, expired, retried, verified."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.record import End
from tests.support.certificates import make_certificates, server_context
from tests.support.provider import PATIENCE_S, Link, Provider, TlsProvider, answering, ok, read_message, silent
from tests.support.relay import Served, relay

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


async def pooled(served: Served, count: int = 1) -> list[Any]:
    """The idle connections, once there are so many."""
    (pool,) = served.worker.pools
    async with asyncio.timeout(PATIENCE_S):
        while len(pool._idle) != count:
            await asyncio.sleep(0)
    return pool._idle


async def test_a_request_never_waits_for_another_ones_connection():
    """No queue and no cap: as many connections as requests at once, all of them used again later."""
    go = asyncio.Event()

    async def script(link: Link) -> None:
        while True:
            await link.request()
            await go.wait()
            await link.send(ok())

    async with Provider(script) as provider, relay(provider.url) as served:
        asked = [asyncio.create_task(served.ask(GET)) for _ in range(50)]
        for number in range(50):
            await (await provider.link(number)).head()
        go.set()
        assert [(await one).body for one in asked] == [b"ok"] * 50
        await pooled(served, 50)
        for _ in range(50):
            await served.ask(GET)
        assert len(provider.links) == 50


async def test_two_clients_share_a_connection_and_nothing_else():
    """Cookies, credentials and other headers of one client never appear in a request of another."""
    async with Provider(answering(ok(b"x", b"Set-Cookie: session=1"))) as provider, relay(provider.url) as served:
        await served.ask(b"GET /1 HTTP/1.1\r\nHost: a\r\nCookie: mine\r\nAuthorization: Bearer one\r\n\r\n")
        await served.ask(b"GET /2 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer two\r\n\r\n")
        first, second = (data for _, kind, data in provider.log if kind == "received")
        assert b"Cookie: mine\r\nAuthorization: Bearer one\r\n" in first
        assert b"ookie" not in second
        assert b"one" not in second
        assert len(provider.links) == 1


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
async def test_a_stale_connection_costs_an_idempotent_request_one_repetition(method: bytes):
    """The upstream closes as the request arrives: it is sent once more on a new connection, and recorded as resent."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(ok())
        if not link.number:
            await link.until(lambda: link.received.count(b"HTTP/1.1\r\n") == 2)
            await link.reset()

    async with Provider(script) as provider, relay(provider.url) as served:
        await served.ask(GET)
        await pooled(served)
        answer = await served.ask(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n", bodyless=method == b"HEAD")
        assert answer.status == 200
        first, second = await served.records(2)
        assert (first.resend_count, second.resend_count, second.end) == (0, 1, End.COMPLETE)
        assert second.request_complete_ns < second.repeated_ns <= second.connect_started_ns
        assert second.request_sent_ns > second.connected_ns > second.connect_started_ns
        assert len(provider.links) == 2


@pytest.mark.parametrize(
    "request_bytes", [POST, POST.replace(b"POST", b"GET"), b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n"]
)
async def test_a_stale_connection_costs_any_other_request_a_502(request_bytes: bytes):
    """What the upstream may have begun to do is never sent twice."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(ok())
        await link.request()
        await link.close()

    async with Provider(script) as provider, relay(provider.url) as served:
        await served.ask(GET)
        await pooled(served)
        answer = await served.ask(request_bytes)
        assert (answer.status, answer.value(b"x-lengthwise-error")) == (502, b"upstream_reset")
        assert answer.values(b"x-should-retry") == []
        assert len(provider.links) == 1
        assert [record.resend_count for record in await served.records(2)] == [0, 0]


async def test_a_request_is_repeated_once_and_only_before_an_answer_began():
    """A new connection that ends is a 502, and so is an old one that had begun to answer."""

    async def script(link: Link) -> None:
        await link.request()
        if link.number == 1:
            await link.close()
            return
        await link.send(ok())
        await link.request()
        if link.number == 2:
            await link.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await link.close()

    async with Provider(script) as provider, relay(provider.url) as served:
        await served.ask(GET)
        await pooled(served)
        assert (await served.ask(GET)).status == 502
        assert len(provider.links) == 2
        await served.ask(GET)
        await pooled(served)
        client = await served.connect()
        await client.send(GET)
        assert (await client.message()).status == 103
        assert (await client.message()).status == 502
        assert len(provider.links) == 3


@pytest.mark.parametrize("what", ["fin", "reset", "bytes"])
async def test_an_idle_connection_that_stirs_is_given_up(what: str):
    """Nothing was asked: whatever comes ends the connection, and the next request makes a new one."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(ok(b"%d" % link.number, b"Keep-Alive: timeout=900"))  # it does not expire meanwhile
        if not link.number:
            await go.wait()
            if what == "bytes":
                await link.send(ok(b"poison"))
            else:
                await (link.fin() if what == "fin" else link.reset())

    go = asyncio.Event()
    async with Provider(script) as provider, relay(provider.url) as served:
        assert (await served.ask(GET)).body == b"0"
        await pooled(served)
        go.set()
        await pooled(served, 0)
        assert (await served.ask(POST)).body == b"1"
        if what == "bytes":
            await provider.links[0].end()


@pytest.mark.parametrize("header", [b"Keep-Alive: timeout=1", b"Keep-Alive: max=5, timeout=1"])
async def test_an_idle_connection_expires_before_the_upstream_says(header: bytes):
    """A second earlier than `Keep-Alive: timeout`, so that a request does not race with the upstream's close."""
    async with Provider(answering(ok(b"ok", header))) as provider, relay(provider.url) as served:
        await served.ask(GET)
        await provider.links[0].end()  # swept, not only unused
        await served.ask(POST)
        assert len(provider.links) == 2


async def test_idle_time_is_the_upstreams_own_then_four_seconds_never_more_than_keepalive():
    """Three upstreams' words, one limit."""
    answers = [
        ok(b"", b"Keep-Alive: timeout=31"),
        ok(b""),
        ok(b"", b"Keep-Alive: timeout=900"),
        ok(b"", b"Keep-Alive: x"),
    ]
    seconds = []
    for answer in answers:
        async with Provider(answering(answer)) as provider, relay(provider.url) as served:
            await served.ask(GET)
            (connection,) = await pooled(served)
            record = await served.record()
            seconds.append(round((connection.expires_ns - record.ended_ns) / 1e9))
    assert seconds == [30, 4, 75, 4]


async def test_an_idle_time_that_no_clock_holds_is_a_day():
    """Without a limit of our own as well, where the upstream's word is all there is."""
    answer = ok(b"", b"Keep-Alive: timeout=" + b"9" * 400)
    timeouts = {"keepalive_s": None}
    async with Provider(answering(answer)) as provider, relay(provider.url, timeouts=timeouts) as served:
        await served.ask(GET)
        (connection,) = await pooled(served)
        record = await served.record()
        assert round((connection.expires_ns - record.ended_ns) / 1e9) == 86_400


async def test_an_expired_connection_is_not_taken():
    """Between two sweeps as well: what has expired is closed when it would be taken."""
    async with Provider(answering(ok())) as provider, relay(provider.url) as served:
        await served.ask(GET)
        (connection,) = await pooled(served)
        connection.expires_ns = 1
        await served.ask(GET)
        assert len(provider.links) == 2
        await provider.links[0].end()


# -- connecting -------------------------------------------------------------------------------------------------------


async def test_a_name_that_does_not_resolve_is_502_without_the_name():
    """`upstream_connect`, whether the resolver or the encoding refuses it."""
    for host in ("nowhere.invalid", "a" * 70 + ".invalid"):
        async with relay(f"http://{host}") as served:
            answer = await served.ask(GET)
            assert (answer.status, answer.value(b"x-lengthwise-error")) == (502, b"upstream_connect")
            assert b"invalid:" not in answer.body
            assert (await served.record()).end is End.UPSTREAM_ERROR


async def test_a_full_backlog_is_a_connect_timeout():
    """An upstream whose kernel takes no more connections."""
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        holders = []
        for _ in range(4):
            holder = socket.socket()
            holder.setblocking(False)
            holder.connect_ex(("127.0.0.1", port))
            holders.append(holder)
        async with relay(f"http://127.0.0.1:{port}", timeouts={"connect_s": 0.01}) as served:
            answer = await served.ask(GET)
            assert (answer.status, answer.value(b"x-lengthwise-error")) == (504, b"upstream_connect_timeout")
            assert answer.values(b"x-should-retry") == []
            record = await served.record()
            assert (record.end, record.upstream_tried, record.connected_ns) == (End.TIMEOUT, True, None)
        for holder in holders:
            holder.close()


async def test_both_families_of_a_name_are_tried():
    """`localhost` may be ::1 first; the upstream listens on 127.0.0.1 only."""
    async with Provider(answering(ok())) as provider, relay(f"http://localhost:{provider.port}") as served:
        assert (await served.ask(GET)).body == b"ok"
        assert b"\r\nHost: localhost:%d\r\n" % provider.port in provider.links[0].received


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `make_certificates`."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def test_a_tls_upstream_is_verified_and_its_connection_kept(certificates: Path):
    """By the configured authority and by name; HTTP/1.1 is what both sides agree on."""
    async with TlsProvider(server_context(certificates), ok()) as provider:
        upstream = {"url": f"https://localhost:{provider.port}", "tls": {"ca_file": str(certificates / "ca.pem")}}
        async with relay(upstream) as served:
            client = await served.connect()
            for _ in range(2):
                await client.send(GET)
                assert (await client.message()).body == b"ok"
            assert len(provider.requests) == 2
            first, second = await served.records(2)
            assert first.connected_ns is not None
            assert second.connected_ns is None  # a pooled one was used
            (connection,) = await pooled(served)
            assert connection.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("wrong", ["name", "authority", "nothing configured"])
async def test_a_tls_upstream_that_is_not_who_it_should_be_is_502(wrong: str, certificates: Path):
    """No byte of a request reaches it."""
    async with TlsProvider(server_context(certificates), ok()) as provider:
        host = "127.0.0.1" if wrong == "name" else "localhost"
        authority = {"name": "ca.pem", "authority": "other.pem"}.get(wrong)
        tls = {"ca_file": str(certificates / authority)} if authority else {}
        async with relay({"url": f"https://{host}:{provider.port}", "tls": tls}) as served:
            answer = await served.ask(GET)
            assert (answer.status, answer.value(b"x-lengthwise-error")) == (502, b"upstream_connect")
            assert b"certificate" in answer.body
            assert provider.requests == []
            assert (await served.record()).end is End.UPSTREAM_ERROR


async def test_verification_can_be_switched_off(certificates: Path):
    """`tls.verify: false`, for a test provider with a certificate of its own."""
    async with (
        TlsProvider(server_context(certificates), ok()) as provider,
        relay({"url": f"https://127.0.0.1:{provider.port}", "tls": {"verify": False}}) as served,
    ):
        assert (await served.ask(GET)).body == b"ok"


@pytest.mark.parametrize("with_certificate", [True, False])
async def test_an_upstream_may_ask_for_our_certificate(with_certificate: bool, certificates: Path):
    """mTLS: accepted with it, an error of the upstream without."""
    async with TlsProvider(server_context(certificates, client_ca=True), ok()) as provider:
        tls = {"ca_file": str(certificates / "ca.pem")}
        if with_certificate:
            tls |= {"cert_file": str(certificates / "client.pem"), "key_file": str(certificates / "client.key")}
        async with relay({"url": f"https://localhost:{provider.port}", "tls": tls}) as served:
            assert (await served.ask(GET)).status == (200 if with_certificate else 502)


async def test_tls_to_something_that_speaks_none_is_502():
    """A plain provider behind https."""
    async with Provider(answering(ok())) as provider, relay(f"https://localhost:{provider.port}") as served:

        async def nonsense() -> None:
            link = await provider.link(0)
            await link.until(lambda: bool(link.received))
            await link.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        task = asyncio.create_task(nonsense())
        answer = await served.ask(GET)
        await task
        assert (answer.status, answer.value(b"x-lengthwise-error")) == (502, b"upstream_connect")


# -- forward proxy ----------------------------------------------------------------------------------------------------


async def test_a_forward_proxy_is_asked_for_a_tunnel(certificates: Path, monkeypatch: pytest.MonkeyPatch):
    """`proxy_env` with HTTPS_PROXY: CONNECT with the proxy's own credentials, then TLS with the upstream end to end."""
    async with TlsProvider(server_context(certificates), ok()) as provider:

        async def script(link: Link) -> None:
            await link.head()
            asked.append(bytes(link.received))
            await link.stop_reading()
            reader, writer = await asyncio.open_connection("127.0.0.1", provider.port)
            await link.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            loop = asyncio.get_running_loop()

            async def back() -> None:
                while data := await reader.read(65536):
                    await loop.sock_sendall(link.sock, data)

            task = loop.create_task(back())
            try:
                while data := await loop.sock_recv(link.sock, 65536):
                    writer.write(data)
            finally:
                task.cancel()
                writer.transport.abort()
                await asyncio.wait([task])

        asked: list[bytes] = []
        async with Provider(script) as forward:
            monkeypatch.setenv("https_proxy", f"http://us%20er:pa%3Ass@127.0.0.1:{forward.port}")
            monkeypatch.setenv("no_proxy", "")
            upstream = {
                "url": f"https://localhost:{provider.port}",
                "tls": {"ca_file": str(certificates / "ca.pem")},
                "proxy_env": True,
            }
            async with relay(upstream) as served:
                assert (await served.ask(GET)).body == b"ok"
            target = b"localhost:%d" % provider.port
            assert asked == [
                b"CONNECT %b HTTP/1.1\r\nHost: %b\r\nProxy-Authorization: Basic dXMgZXI6cGE6c3M=\r\n\r\n"
                % (target, target)
            ]
            assert b"authorization" not in provider.requests[0].lower()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 Who\r\n\r\n", b"", b"x" * 70000])
async def test_a_forward_proxy_that_refuses_is_502(answer: bytes, monkeypatch: pytest.MonkeyPatch):
    """Refused, closed, or endless."""

    async def script(link: Link) -> None:
        await link.head()
        await link.send(answer)
        await link.fin()

    async with Provider(script) as forward:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{forward.port}")
        monkeypatch.setenv("no_proxy", "")
        async with relay({"url": "https://example.invalid", "proxy_env": True}) as served:
            got = await served.ask(GET)
            assert (got.status, got.value(b"x-lengthwise-error")) == (502, b"upstream_connect")


async def test_a_forward_proxy_that_cannot_be_read_is_502_without_its_credential(monkeypatch: pytest.MonkeyPatch):
    """The password's slash ends the authority, so that its first half is no port."""
    monkeypatch.setenv("https_proxy", "http://user:se/cret@127.0.0.1:3128")
    monkeypatch.setenv("no_proxy", "")
    async with relay({"url": "https://example.invalid", "proxy_env": True}) as served:
        got = await served.ask(GET)
        assert (got.status, got.value(b"x-lengthwise-error")) == (502, b"upstream_connect")
        assert orjson.loads(got.body)["error"]["message"] == "The upstream u0 cannot be reached: ValueError."
        assert (await served.record()).error_type == "upstream_connect"


async def test_without_proxy_env_the_environment_names_no_upstream(monkeypatch: pytest.MonkeyPatch):
    """ARCHITECTURE.md 5.9: a proxy variable alone diverts nothing."""
    async with Provider(silent) as forward, Provider(answering(ok())) as provider, relay(provider.url) as served:
        monkeypatch.setitem(os.environ, "http_proxy", f"http://127.0.0.1:{forward.port}")
        assert (await served.ask(GET)).body == b"ok"
        assert forward.links == []
        assert read_message(provider.links[0].received) is not None


async def test_an_upstream_that_cannot_be_reached_is_logged_once(caplog: pytest.LogCaptureFixture):
    """With its name and address, not for each request: the client is told the name alone."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with relay(f"http://127.0.0.1:{port}") as served:
        for _ in range(2):
            answer = await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (answer.status, answer.value(b"x-lengthwise-error")) == (502, b"upstream_connect")
            assert str(port).encode() not in answer.body
    warnings = [each.getMessage() for each in caplog.records if each.name == "proxy.relay.pool"]
    assert warnings == [f"upstream u0 (127.0.0.1:{port}) cannot be reached: connection refused"]
