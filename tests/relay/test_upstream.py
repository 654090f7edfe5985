"""The upstream's side on real sockets: what is an answer, what is none, and when a connection may be used again."""

import asyncio

import pytest

from proxy.record import End
from tests.support.provider import PATIENCE_S, Link, Provider, answering, chunked, ok, read_message
from tests.support.relay import Served, relay

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


async def used_again(served: Served, provider: Provider) -> bool:
    """Whether the next request came over the first connection; waits for the pool to have decided."""
    async with asyncio.timeout(PATIENCE_S):
        while served.worker.exchanges_active:
            await asyncio.sleep(0)
    before = len(provider.links)
    assert (await served.ask(GET)).status == 200
    return len(provider.links) == before


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n",
        b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
async def test_an_answer_to_head_ends_with_its_head(answer: bytes):
    """Whatever body it describes: the client is answered, its length kept, and the connection serves another request."""

    async def script(link: Link) -> None:
        for one in (answer, answer, ok(b"after"), ok()):
            await link.request()
            await link.send(one)

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        for _ in range(2):
            await client.send(HEAD)
            got = await client.message(bodyless=True)
            assert got.status == int(answer[9:12])
            expected = None if got.status == 204 else read_message(answer, bodyless=True)[0].value(b"content-length")
            assert got.value(b"content-length") == expected
            assert got.value(b"connection") is None
        await client.send(GET)
        assert (await client.message()).body == b"after"
        assert len(provider.links) == 1
        assert [record.end for record in await served.records(3)] == [End.COMPLETE] * 3


@pytest.mark.parametrize(
    ("answer", "length"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 77\r\n\r\n", b"77"),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", None),
    ],
)
async def test_204_and_304_have_no_body(answer: bytes, length: bytes | None):
    """No framing is made up for them, and the connection goes on."""
    async with Provider(answering(answer, ok())) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET)
        got = await client.message()
        assert (got.value(b"content-length"), got.value(b"transfer-encoding")) == (length, None)
        await client.send(GET)
        assert (await client.message()).body == b"ok"
        assert len(provider.links) == 1


async def test_interim_answers_pass_but_for_100():
    """103 and others reach the client in order, without hop-by-hop headers; 100 was answered by us."""
    answer = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nKeep-Alive: timeout=5\r\nContent-Length: 7\r\nLink: </b>\r\n\r\n"
        + ok()
    )
    async with Provider(answering(answer)) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET)
        got = [await client.message() for _ in range(3)]
        assert [(one.start, one.headers[:2]) for one in got[:2]] == [
            (b"HTTP/1.1 102 Processing", []),
            (b"HTTP/1.1 103 Early Hints", [(b"Link", b"</a>"), (b"Link", b"</b>")]),
        ]
        assert got[2].body == b"ok"
        await client.send(GET)
        assert (await client.message()).status == 102
        assert len(provider.links) == 1
        assert [record.status for record in await served.records(2)] == [200, 200]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbytes",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: 2\r\n\r\nok",
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_a_101_that_nobody_asked_for_is_502(answer: bytes, method: bytes):
    """RFC 9110 15.2.2: with or without the headers of an upgrade."""
    async with Provider(answering(answer)) as provider, relay(provider.url) as served:
        got = await served.ask(b"%b / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % method)
        assert (got.status, got.value(b"x-lengthwise-error")) == (502, b"upstream_reset")
        await provider.links[0].end()
        assert (await served.record()).end is End.UPSTREAM_ERROR


BAD_ANSWERS = {
    "no HTTP": b"hello\r\n\r\n",
    "garbage behind a version": b"HTTP/1.1 abc\r\n\r\n",
    "CL and TE": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "an odd length": b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nok",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx",
    "obs-fold": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "NUL": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "a status of 0": b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000,
    "endless interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 1000,
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
async def test_a_head_that_cannot_be_understood_is_502(case: str):
    """No byte of its final head reaches the client, the connection is not used again."""
    limits = {"header_bytes": 4096}
    answer = BAD_ANSWERS[case]
    async with Provider(answering(answer, ok())) as provider, relay(provider.url, limits=limits) as served:
        client = await served.connect()
        await client.send(GET)
        got = await client.message()
        while got.status == 102:
            got = await client.message()
        assert (got.status, got.value(b"x-lengthwise-error")) == (502, b"upstream_reset")
        await provider.links[0].end()
        record = await served.record()
        assert (record.end, record.error_type, record.upstream_tried) == (End.UPSTREAM_ERROR, "upstream_reset", True)
        assert not await used_again(served, provider)


@pytest.mark.parametrize("tail", [b"zz\r\n", b"3\r\nabcd\r\n", b"3\nabc\r\n"])
async def test_a_chunk_that_cannot_be_understood_breaks_the_answer(tail: bytes):
    """What came before it is flushed, no terminator follows."""
    good = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    async with Provider(answering(good + tail)) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET)
        assert await client.end() == "fin"
        assert b"5\r\nhello" in client.received or b"hello" in client.received
        assert read_message(client.received) is None
        assert (await served.record()).end is End.BROKEN


KEPT = b"Keep-Alive: timeout=900"  # so that nothing expires while a test waits
WHOLE = {
    "fixed": ok(b"ok", KEPT),
    "chunked": chunked([b"ok"], KEPT),
    "204": b"HTTP/1.1 204 No Content\r\n%b\r\n\r\n" % KEPT,
}


@pytest.mark.parametrize("extra", [b"GARBAGE", b"\r\nx", ok(b"poison"), b"\0"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("answer", WHOLE)
async def test_bytes_behind_an_answer_cost_the_connection_and_nothing_else(answer: str, extra: bytes, apart: bool):
    """The answer was whole and stays whole, together or apart; what follows reaches nobody."""

    async def script(link: Link) -> None:
        await link.request()
        if link.number:
            await link.send(ok(b"second"))
            return
        await link.send(WHOLE[answer] + (b"" if apart else extra))
        if apart:
            await link.send(extra)

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET)
        got = await client.message()
        assert got.body == (b"" if answer == "204" else b"ok")
        await provider.links[0].end()
        await client.send(GET)
        assert (await client.message()).body == b"second"
        assert [record.end for record in await served.records(2)] == [End.COMPLETE] * 2


async def test_bytes_behind_an_answer_to_head_cost_the_connection():
    """A body where none may be is not read as the next answer."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(
            ok(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", KEPT) if not link.number else ok(b"second")
        )

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(HEAD)
        assert (await client.message(bodyless=True)).status == 200
        await provider.links[0].end()
        await client.send(GET)
        assert (await client.message()).body == b"second"


@pytest.mark.parametrize(
    ("answer", "again"),
    [
        (ok(), True),
        (chunked([b"x"]), True),
        (ok(b"ok", b"Connection: close"), False),
        (ok(b"ok", b"Connection: foo, CLOSE"), False),
        (ok().replace(b"1.1", b"1.0"), False),
        (ok(b"ok", b"Connection: keep-alive").replace(b"1.1", b"1.0"), True),
        (ok(b"no", status=b"429 Too Many Requests"), True),
    ],
)
async def test_a_connection_is_used_again_when_the_upstream_keeps_it(answer: bytes, again: bool):
    """As version and Connection say, whatever the status."""
    async with Provider(answering(answer, ok())) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET)
        await client.message()
        assert await used_again(served, provider) == again
        if not again:
            await provider.links[0].end()


async def test_a_connection_with_a_request_under_way_is_not_used_again():
    """An answer that came before the upstream had taken the whole body: what is left must not delay another request."""

    async def script(link: Link) -> None:
        await link.head()
        if not link.number:
            await link.stop_reading()
        await link.send(ok())

    limits = {"observed_body_bytes": 64_000_000}
    async with Provider(script) as provider, relay(provider.url, limits=limits) as served:
        body = b'{"model":"m","messages":["' + b"x" * 32_000_000 + b'"]}'
        lines = [b"POST /v1/chat/completions HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body)]
        assert (await served.ask(b"\r\n".join(lines) + b"\r\n\r\n" + body)).status == 200
        assert not await used_again(served, provider)


async def test_an_answer_before_the_end_of_its_request_costs_the_connection():
    """The rest of the body would be the next request's beginning."""

    async def script(link: Link) -> None:
        await link.head()
        await link.send(ok())

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nh")
        assert (await client.message()).status == 200
        assert not await used_again(served, provider)


async def test_trailers_are_dropped():
    """RFC 9110 6.5.1: they are neither headers nor body."""
    answer = chunked([b"x"], b"Trailer: X-T").removesuffix(b"\r\n") + b"X-T: 1\r\nSet-Cookie: a\r\n\r\n"
    async with Provider(answering(answer)) as provider, relay(provider.url) as served:
        got = await served.ask(GET)
        assert (got.body, got.values(b"x-t"), got.values(b"set-cookie"), got.values(b"trailer")) == (b"x", [], [], [])
        assert await used_again(served, provider)


async def test_an_answer_in_single_bytes_is_the_same_answer():
    """A head that comes byte for byte does not lose or repeat one."""
    answer = ok(b"body", b"X-A: 1", b"X-B: 2")

    async def script(link: Link) -> None:
        await link.request()
        for at in range(len(answer)):
            await link.send(answer[at : at + 1])
            await asyncio.sleep(0.0005)

    async with Provider(script) as provider, relay(provider.url) as served:
        got = await served.ask(GET)
        assert (got.start, got.headers[:2], got.body) == (
            b"HTTP/1.1 200 OK",
            [(b"X-A", b"1"), (b"X-B", b"2")],
            b"body",
        )
