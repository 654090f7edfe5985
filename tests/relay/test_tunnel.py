"""A websocket through the relay on real sockets: bytes both ways once the upstream said 101, and not before."""

import asyncio

import pytest

from proxy.record import End
from tests.support.provider import PATIENCE_S, Link, Provider, answering, ok, silent
from tests.support.relay import relay

UPGRADE = (
    b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Key: k\r\nSec-WebSocket-Protocol: p\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s\r\n\r\n"
)


async def test_a_websocket_is_bytes_both_ways():
    """The handshake keeps its headers; what comes together with the 101 is not lost; closing either side ends both."""

    async def script(link: Link) -> None:
        await link.head()
        await link.send(SWITCHED + b"\x81\x02hi")
        await link.has(b"\x00\xffGET / HTTP/1.1\r\n\r\n")
        await link.send(b"\x88\x00\r\n\r\n")

    async with Provider(script) as provider, relay(provider.url, telemetry={"traces": "none"}) as served:
        client = await served.connect()
        await client.send(UPGRADE)
        answer = await client.message()
        assert answer.start == b"HTTP/1.1 101 Switching Protocols"
        assert answer.value(b"upgrade") == b"websocket"
        assert answer.value(b"connection") == b"Upgrade"
        assert answer.value(b"sec-websocket-accept") == b"s"
        await client.send(b"\x00\xffGET / HTTP/1.1\r\n\r\n")
        await client.until(lambda: client.received.endswith(b"\x81\x02hi\x88\x00\r\n\r\n"))
        assert provider.links[0].received == (
            b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Protocol: p\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x00\xffGET / HTTP/1.1\r\n\r\n" % provider.port
        )
        await client.close()
        await provider.links[0].end()
        record = await served.record()
        assert (record.end, record.status) == (End.COMPLETE, 101)


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_websocket_ends_with_its_upstream(how: str):
    """What it sent last arrives, then the client's side ends too."""

    async def script(link: Link) -> None:
        await link.head()
        await link.send(SWITCHED + b"bye")
        await link.has(b"now")
        await (link.fin() if how == "fin" else link.reset())

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(UPGRADE)
        await client.has(b"bye")
        await client.send(b"now")
        assert await client.end() == "fin"
        assert (await served.record()).end is End.COMPLETE


async def test_bytes_before_the_101_wait_for_it():
    """An upstream that has not switched could read them as another request."""
    go = asyncio.Event()

    async def script(link: Link) -> None:
        await link.head()
        await go.wait()
        await link.send(SWITCHED)

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(UPGRADE + b"early")
        link = await provider.link(0)
        await link.head()
        await client.send(b" bird")
        async with asyncio.timeout(PATIENCE_S):
            while not any(inner._held_bytes == len(b"early bird") for inner in served.worker.clients):
                await asyncio.sleep(0)
        assert link.received.endswith(b"\r\n\r\n")
        go.set()
        await link.until(lambda: link.received.endswith(b"\r\n\r\nearly bird"))


@pytest.mark.parametrize("status", [b"403 Forbidden", b"200 OK", b"426 Upgrade Required"])
async def test_a_refused_handshake_is_an_ordinary_answer(status: bytes):
    """It passes as it is, the connections go on, and bytes that followed never reach the upstream as they were."""
    async with Provider(answering(ok(b"no", status=status), ok())) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(UPGRADE + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await client.message()
        assert (answer.start, answer.body) == (b"HTTP/1.1 " + status, b"no")
        assert (await client.message()).body == b"ok"
        assert provider.log[-2][2].startswith(b"GET /next HTTP/1.1\r\nHost: 127.0.0.1")
        assert [record.end for record in await served.records(2)] == [End.COMPLETE] * 2
        assert [record.status for record in await served.records(2)] == [int(status[:3]), 200]


async def test_a_websocket_gets_a_connection_of_its_own():
    """Never a pooled one: a stale one could not be told from a refusal."""

    async def script(link: Link) -> None:
        await link.head()
        await link.send(SWITCHED if b"Upgrade" in link.received else ok())

    async with Provider(script) as provider, relay(provider.url) as served:
        await served.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client = await served.connect()
        await client.send(UPGRADE)
        assert (await client.message()).status == 101
        assert len(provider.links) == 2


@pytest.mark.parametrize(
    "request_bytes",
    [
        UPGRADE.replace(b"WebSocket", b"h2c"),
        UPGRADE.replace(b"GET", b"POST"),
        UPGRADE.replace(b"keep-alive, Upgrade", b"keep-alive"),
    ],
)
async def test_other_upgrades_are_not_asked_for(request_bytes: bytes):
    """Only a GET that nominates `Upgrade: websocket`; the rest are requests without an upgrade."""
    async with Provider(answering(ok())) as provider, relay(provider.url) as served:
        assert (await served.ask(request_bytes)).body == b"ok"
        assert b"pgrade" not in provider.links[0].received


async def test_upgrades_can_be_blocked():
    """`limits.upgrades: block`."""
    async with Provider(answering(ok())) as provider, relay(provider.url, limits={"upgrades": "block"}) as served:
        assert (await served.ask(UPGRADE)).body == b"ok"
        assert b"pgrade" not in provider.links[0].received


async def test_a_101_to_another_protocol_than_asked_is_502():
    """The client asked for a websocket: `Upgrade: h2c` in the answer is no answer to that."""
    async with Provider(answering(SWITCHED.replace(b"websocket", b"h2c"))) as provider, relay(provider.url) as served:
        answer = await served.ask(UPGRADE)
        assert (answer.status, answer.value(b"x-lengthwise-error")) == (502, b"upstream_reset")
        await provider.links[0].end()


async def test_a_client_that_leaves_during_the_handshake_cancels_it():
    """As with any request."""
    async with Provider(silent) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(UPGRADE)
        link = await provider.link(0)
        await link.head()
        await client.close()
        await link.end()
        assert (await served.record()).end is End.CLIENT_DISCONNECT


@pytest.mark.parametrize("towards", ["client", "upstream"])
async def test_a_websocket_whose_reader_stalls_is_held_back(towards: str):
    """Backpressure both ways: the sender stops, and everything arrives later."""
    size = 40_000_000
    sent = 0

    async def pour(wire: object) -> None:
        nonlocal sent
        for _ in range(size // 100_000):
            await wire.send(b"x" * 100_000)
            sent += 100_000

    async def script(link: Link) -> None:
        await link.head()
        await link.send(SWITCHED)

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(UPGRADE)
        await client.message()
        link = provider.links[0]
        sender, reader = (link, client) if towards == "client" else (client, link)
        await reader.stop_reading()
        task = asyncio.create_task(pour(sender))
        async with asyncio.timeout(PATIENCE_S):
            before = -1
            while before != sent or not sent:
                before = sent
                await asyncio.sleep(0.05)
        assert sent < size
        (inner,) = served.worker.clients
        (connection,) = served.worker.pools[0]._connections
        transport = inner._transport if towards == "client" else connection.transport
        assert transport.get_write_buffer_size() < 1_000_000
        reader.read()
        await reader.until(lambda: len(reader.received) > size)
        await task
