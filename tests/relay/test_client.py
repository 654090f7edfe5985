"""The client's side on real sockets: in which order answers leave, and how a connection ends.

What is a request, and which requests it is, stands in tests/conformance.
"""

import asyncio

import orjson
import pytest

from proxy.record import End
from tests.support.provider import (
    PATIENCE_S,
    Link,
    Message,
    Provider,
    answering,
    chunked,
    ok,
    read_message,
    silent,
)
from tests.support.relay import relay

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


async def echo(link: Link) -> None:
    """Answers each request with its path, or its body when it has one."""
    while True:
        request = await link.request()
        await link.send(ok(request.body or request.start.split(b" ")[1]))


def malformed(answer: Message, status: int = 400, error_type: bytes = b"malformed_request") -> None:
    """An answer to bytes that are no request: envelope, header, and the connection's end."""
    assert answer.status == status
    assert answer.value(b"x-lengthwise-error") == error_type
    assert answer.value(b"x-should-retry") == (None if status == 505 else b"false")
    assert answer.value(b"connection") == b"close"
    assert orjson.loads(answer.body)["error"]["type"] == "invalid_request_error"
    assert orjson.loads(answer.body)["error"]["code"] == error_type.decode()


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
    ],
)
async def test_other_versions_are_505(request_bytes: bytes):
    """The HTTP/2 preface included; repeating it elsewhere may succeed, so nothing says that it is final."""
    async with Provider(echo) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(request_bytes)
        malformed(await client.message(), 505, b"http_version")
        assert await client.end() == "fin"
        assert provider.links == []


@pytest.mark.parametrize("whole", [True, False])
async def test_an_oversized_head_is_431(whole: bool):
    """At `header_bytes`, whether or not its end is in sight; a head one byte below passes."""
    limits = {"header_bytes": 2048}
    async with Provider(echo) as provider, relay(provider.url, limits=limits) as served:
        head = b"GET /x HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n"
        room = 2048 - len(head % b"")
        assert (await served.ask(head % (b"x" * room))).body == b"/x"
        client = await served.connect()
        await client.send((head % (b"x" * (room + 1)))[: None if whole else -1] + (b"" if whole else b"x"))
        malformed(await client.message(), 431, b"header_too_large")
        assert await client.end() == "fin"
        assert len(provider.links) == 1


async def test_a_head_that_drips_is_408():
    """From its first byte on a head has `client_body_s`, however steadily it drips."""
    async with Provider(silent) as provider, relay(provider.url, timeouts={"client_body_s": 0.01}) as served:
        client = await served.connect()
        await client.send(b"GET / HT")
        malformed(await client.message(), 408, b"client_timeout")
        assert await client.end() == "fin"
        assert served.worker.connections_malformed == 1


async def test_empty_lines_do_not_renew_the_time_for_a_head():
    """However many precede a request (RFC 9112 2.2), the time runs from the first; and they are part of no request."""
    async with Provider(echo) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET % 1)
        assert (await client.message()).body == b"/1"
        (inner,) = served.worker.clients

        async def deadline_ns(lines: bytes) -> int:
            """The client's, once these were read."""
            before = inner._accepted_ns
            await client.send(lines)
            async with asyncio.timeout(PATIENCE_S):
                while inner._accepted_ns == before:
                    await asyncio.sleep(0)
            return inner.deadline_ns

        first = await deadline_ns(b"\r\n\r\n")
        assert await deadline_ns(b"\r\n\r\n") == first
        assert await deadline_ns(b"\r\n\r\nGET") == first
        await client.send((GET % 1)[3:])
        assert (await client.message()).body == b"/1"


async def test_half_a_head_and_then_the_end_is_counted():
    """No exchange, no record: a counter."""
    async with Provider(silent) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"GET / HT")
        async with asyncio.timeout(PATIENCE_S):
            while not any(inner._raw_head for inner in served.worker.clients):
                await asyncio.sleep(0)
        await client.close()
        await served.settled()
        assert served.worker.connections_malformed == 1


async def test_a_refused_client_that_goes_on_sending_reads_its_answer():
    """What comes after is taken and thrown away for a while, so that no reset destroys the answer."""
    async with Provider(silent) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.stop_reading()
        await client.send(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 300_000)
        for _ in range(20):
            await client.send(b"x" * 50_000)
            await asyncio.sleep(0)
        client.read()
        malformed(await client.message())
        assert await client.end() == "fin"


# -- order and reuse --------------------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_order():
    """One at a time: the next goes out when the last was answered; on one upstream connection."""
    async with Provider(echo) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"".join(GET % number for number in range(20)))
        assert [(await client.message()).body for _ in range(20)] == [b"/%d" % number for number in range(20)]
        assert len(provider.links) == 1
        assert [kind for _, kind, _ in provider.log] == ["received", "sent"] * 20
        assert [record.end for record in await served.records(20)] == [End.COMPLETE] * 20


async def test_a_request_behind_a_chunked_body_in_the_same_segment_is_the_next_request():
    """Where the body ends is exactly where the next head begins, for every kind of end."""
    data = b"POST /f HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%b" + GET % 7
    async with Provider(echo) as provider, relay(provider.url) as served:
        for tail in (b"2\r\nhi\r\n0\r\n\r\n", b"2;a=b\r\nhi\r\n000;x\r\nT: GET\r\nU: v\r\n\r\n"):
            client = await served.connect()
            await client.send(data % tail)
            assert [(await client.message()).body for _ in range(2)] == [b"hi", b"/7"]
        client = await served.connect()
        await client.send(b"POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi" + GET % 8)
        assert [(await client.message()).body for _ in range(2)] == [b"hi", b"/8"]
        assert provider.links[0].received.count(b"HTTP/1.1\r\n") == 6


@pytest.mark.parametrize("loud", [False, True])
async def test_more_pipelined_requests_than_are_held_wait_in_the_socket(loud: bool):
    """Beyond `header_bytes` reading stops until the present answer is out; nothing is lost, mixed up or unbounded."""
    count = 3000
    go = asyncio.Event()

    async def script(link: Link) -> None:
        request = await link.request()
        await go.wait()
        await link.send(ok(request.start.split(b" ")[1]))
        await echo(link)

    async with Provider(script) as provider, relay(provider.url, limits={"header_bytes": 2048}) as served:
        client = await served.connect()
        padding = b"X: %b\r\n" % (b"x" * 1000 if loud else b"")
        data = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n%b\r\n" % (number, padding) for number in range(count))
        sending = asyncio.create_task(client.send(data))
        await (await provider.link(0)).head()
        (inner,) = served.worker.clients
        async with asyncio.timeout(PATIENCE_S):
            while inner._reading:
                await asyncio.sleep(0)
        assert inner._held_bytes < 2048 + (1 << 18)
        go.set()
        await client.has(b"/%d" % (count - 1))
        await sending
        bodies = [line for line in bytes(client.received).split(b"\r\n") if line[:1] == b"/"]
        assert b"".join(bodies).replace(b"HTTP/1.1 200 OK", b"") == b"".join(b"/%d" % number for number in range(count))
        await served.records(count)


async def test_bytes_that_arrive_with_the_answer_stay_behind_those_that_wait():
    """An answer that ends and a client's next bytes, in one turn of the loop: the older bytes are read first."""
    async with Provider(silent) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET % 1 + b"GET /2 HTTP/1.1\r\nHo")
        link = await provider.link(0)
        await link.head()
        async with asyncio.timeout(PATIENCE_S):
            while not any(inner._held for inner in served.worker.clients):
                await asyncio.sleep(0)
        # Both sockets become readable between two turns of the loop, the upstream's first.
        link.sock.send(ok(b"one"))
        client.sock.send(b"st: a\r\n\r\n")
        assert (await client.message()).body == b"one"
        await link.has(b"GET /2 HTTP/1.1\r\n")
        await link.send(ok(b"two"))
        assert (await client.message()).body == b"two"


async def test_a_client_that_takes_no_answers_gets_no_further_ones_made():
    """Pipelined requests of a client that does not read wait, so that their answers do not pile up here."""
    count, size = 400, 100_000
    async with Provider(answering(ok(b"x" * size))) as provider, relay(provider.url) as served:
        client = await served.connect(receive_buffer_bytes=65536)
        await client.stop_reading()
        await client.send(b"".join(GET % number for number in range(count)))
        (inner,) = await _clients(served.worker.clients)
        async with asyncio.timeout(PATIENCE_S):
            before = -1
            while before != len(provider.log) or not before:
                before = len(provider.log)
                await asyncio.sleep(0.05)
        assert inner._transport.get_write_buffer_size() < 3 * size
        assert served.worker.exchanges < count
        client.read()
        async with asyncio.timeout(PATIENCE_S):
            while bytes(client.received[-size - 400 :]).count(b"HTTP/1.1") < 1 or served.worker.exchanges < count:
                await client.until(lambda: True)
                await asyncio.sleep(0)
        assert [record.end for record in await served.records(count)] == [End.COMPLETE] * count
        assert len(provider.links) == 1


async def test_a_request_of_a_client_that_has_not_taken_its_last_answer_waits():
    """Nothing was held before it, and no exchange is under way: it is held all the same, until the client takes bytes."""
    async with Provider(echo) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(GET % 1)
        assert (await client.message()).body == b"/1"
        (inner,) = served.worker.clients
        inner.pause_writing()  # as the transport says it
        await client.send(GET % 2)
        async with asyncio.timeout(PATIENCE_S):
            while not inner._held and served.worker.exchanges == 1:
                await asyncio.sleep(0)
        assert served.worker.exchanges == 1
        inner.resume_writing()
        assert (await client.message()).body == b"/2"


async def _clients(clients: set) -> list:
    async with asyncio.timeout(PATIENCE_S):
        while not clients:
            await asyncio.sleep(0)
    return list(clients)


async def test_a_repeated_head_with_another_length_is_read_anew():
    """Requests of one connection that differ in length, in one header, or in nothing: each is what it says."""
    lengths = (b"5", b"05", b"5 ", b"\t5", b"0", b"11", b"5")
    async with Provider(echo) as provider, relay(provider.url) as served:
        client = await served.connect()
        for spelled in lengths:
            for _ in range(2):
                body = b"GET /smuggled HTTP/1.1\r\n\r\n"[: int(spelled)]
                await client.send(b"POST /f HTTP/1.1\r\nHost: a\r\nContent-Length:%b\r\nX: y\r\n\r\n" % spelled + body)
                assert (await client.message()).body == (body or b"/f")
        for header in (
            b"X: z",
            b"X: yy",
            b"Connection: keep-alive",
            b"X-Lengthwise-App: one",
            b"X-Lengthwise-App: two",
        ):
            await client.send(b"POST /f HTTP/1.1\r\nHost: a\r\nContent-Length:5\r\n%b\r\n\r\nhello" % header)
            assert (await client.message()).body == b"hello"
        records = await served.records(2 * len(lengths) + 5)
        assert [record.app for record in records[-3:]] == [None, "one", "two"]
        assert [record.request_bytes for record in records] == [5] * 8 + [0, 0, 11, 11, 5, 5] + [5] * 5
        assert len({record.id for record in records}) == len({record.trace_id for record in records}) == len(records)


async def test_a_head_is_known_from_other_connections_and_means_there_what_it_means_here():
    """The same bytes give each connection its own exchange; of heads that differ the last four are kept."""
    async with Provider(echo) as provider, relay(provider.url) as served:

        def post(body: bytes, app: int, trace: int) -> bytes:
            head = b"POST /v1/files HTTP/1.1\r\nHost: a\r\nx-lengthwise-app: %d\r\ntraceparent: 00-%032x-%016x-01\r\n"
            return head % (app, trace, trace) + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)

        another = await served.connect()
        for number, app in enumerate([1, 1, 2, 1, 3, 4, 5, 6, 1], 1):
            body = b"x" * number
            assert (await served.ask(post(body, app, number))).body == body
        records = await served.records(9)
        assert [record.app for record in records] == list("112134561")
        assert [record.request_bytes for record in records] == list(range(1, 10))
        assert [record.trace_id for record in records] == [f"{number:032x}" for number in range(1, 10)]
        assert [route.app for _, route in served.worker.known_heads] == list("1654")
        await another.close()
        await served.settled()
        assert served.worker.known_heads == []  # nobody is connected, so nothing of anybody is kept


async def test_empty_lines_before_a_request_are_read_in_linear_time():
    """Sixteen megabytes of them in one read; a quadratic reader would not come back."""
    async with Provider(echo) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"\r\n\r\n")
        while not any(each._head_parser for each in served.worker.clients):
            await asyncio.sleep(0)
        (connection,) = served.worker.clients
        connection.data_received(b"\r\n" * (8 << 20))
        await client.send(GET % 1)
        assert (await client.message()).body == b"/1"


async def test_a_repeated_head_is_not_taken_for_a_longer_one():
    """The known head as the beginning of another one, cut anywhere."""
    request = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
    async with Provider(echo) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(request)
        assert (await client.message()).body == b"/a"
        for cut in range(1, len(request)):
            await client.send(request[:cut])
            await asyncio.sleep(0.001)
            await client.send(request[cut:])
            assert (await client.message()).body == b"/a"
        await client.send(request * 3 + b"GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n")
        assert [(await client.message()).body for _ in range(3)] == [b"/a"] * 3
        malformed(await client.message())


async def test_empty_lines_before_a_request_are_skipped():
    """RFC 9112 2.2: what some clients send behind a body."""
    async with Provider(echo) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"\r\n" + GET % 1)
        assert (await client.message()).body == b"/1"
        await client.send(b"\r\n\r\n\r\n" + GET % 2)
        assert (await client.message()).body == b"/2"
        await client.send(b"\r\n")
        await client.send(GET % 3)
        assert (await client.message()).body == b"/3"


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", None, True),
        (b"1.1", b"close", False),
        (b"1.1", b"keep-alive, CLOSE", False),
        (b"1.0", None, False),
        (b"1.0", b"keep-alive", True),
        (b"1.0", b"Keep-Alive, close", False),
    ],
)
async def test_a_connection_is_kept_as_its_client_says(version: bytes, connection: bytes | None, kept: bool):
    """HTTP/1.1 keeps unless told, HTTP/1.0 only when told, and our answer says which."""
    head = b"GET /1 HTTP/%b\r\nHost: a\r\n" % version
    if connection is not None:
        head += b"Connection: %b\r\n" % connection
    async with Provider(echo) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(head + b"\r\n")
        answer = await client.message()
        assert answer.body == b"/1"
        expected = b"close" if not kept else b"keep-alive" if version == b"1.0" else None
        assert answer.value(b"connection") == expected
        if kept:
            await client.send(head + b"\r\n")
            assert (await client.message()).body == b"/1"
        else:
            assert await client.end() == "fin"


async def test_http10_needs_no_host_and_no_length():
    """A chunked answer reaches an HTTP/1.0 client as bytes up to the end of the connection."""
    async with Provider(answering(chunked([b"a", b"b"]))) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert await client.end() == "fin"
        answer = await client.message()
        assert (answer.body, answer.value(b"connection")) == (b"ab", b"close")


async def test_expect_100_continue_is_answered_here_and_not_forwarded():
    """The client gets its 100 before it sends; the upstream sees no Expect, and its own 100 is swallowed."""

    async def script(link: Link) -> None:
        await link.head()
        await link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = await link.request()
        await link.send(ok(request.body))

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"POST /f HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n")
        assert (await client.message()).start == b"HTTP/1.1 100 Continue"
        await client.send(b"hello")
        answer = await client.message()
        assert (answer.status, answer.body) == (200, b"hello")
        assert b"xpect" not in provider.links[0].received


async def test_http10_gets_no_interim_answer():
    """RFC 9110 15.2: neither ours nor the upstream's."""
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok()
    async with Provider(answering(answer)) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"POST /f HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi")
        assert (await client.message()).status == 200


async def test_a_refused_expectation_gets_no_100():
    """A body that will not be taken is not asked for."""
    async with Provider(silent) as provider, relay({"url": provider.url, "prefix": "/p"}) as served:
        client = await served.connect()
        await client.send(b"POST /f HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert (await client.message()).status == 404


async def test_idle_connections_end_after_keepalive():
    """Before the first request and after an answer; cleanly, without an answer."""
    async with Provider(echo) as provider, relay(provider.url, timeouts={"keepalive_s": 0.01}) as served:
        client = await served.connect()
        assert await client.end() == "fin"
        assert client.received == b""
        client = await served.connect()
        await client.send(GET % 1)
        assert (await client.message()).body == b"/1"
        assert await client.end() == "fin"


async def test_an_answer_that_nobody_takes_does_not_keep_a_connection_for_ever():
    """A complete exchange whose client never reads: the connection ends after its idle time."""
    async with (
        Provider(answering(ok(b"x" * 100_000))) as provider,
        relay(provider.url, timeouts={"keepalive_s": 0.2}) as served,
    ):
        client = await served.connect(receive_buffer_bytes=65536)
        await client.stop_reading()
        await client.send(b"".join(GET % number for number in range(400)))
        await _clients(served.worker.clients)
        await served.settled()
        assert served.worker.exchanges < 400


async def test_a_repeated_refusal_keeps_the_connection():
    """A request that was read whole and refused does not cost its client the connection."""
    rule = {"name": "one", "do": "cap", "max_tokens": 5}
    async with relay("http://127.0.0.1:1", policy=[rule]) as served:
        client = await served.connect()
        for _ in range(3):
            await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
            assert (await client.message()).status == 502
        await served.records(3)


BLOCKING = {"unknown_routes": "block"}
UNKNOWN = b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize("times", [1, 3])
async def test_a_refusal_at_the_head_keeps_the_connection_of_a_body_that_is_here(times: int):
    """What is refused before its body is read costs no new connection: the body is skipped, what follows it is the next request."""
    async with Provider(echo) as provider, relay(provider.url, limits=BLOCKING) as served:
        client = await served.connect()
        await client.send((UNKNOWN + b"GET ") * times + GET % 1)
        answers = [await client.message() for _ in range(times + 1)]
        assert [answer.status for answer in answers] == [404] * times + [200]
        assert [answer.value(b"connection") for answer in answers] == [None] * (times + 1)
        assert answers[-1].body == b"/1"
        assert [record.end for record in await served.records(times + 1)] == [End.REJECTED] * times + [End.COMPLETE]
        assert len(provider.links) == 1


async def test_a_refusal_at_the_head_closes_when_its_body_is_still_to_come():
    """Nobody knows how long it takes, or whether it comes: the answer says so."""
    async with Provider(echo) as provider, relay(provider.url, limits=BLOCKING) as served:
        client = await served.connect()
        await client.send(UNKNOWN + b"GET")
        answer = await client.message()
        assert (answer.status, answer.value(b"connection")) == (404, b"close")
        assert await client.end() == "fin"


async def test_head_answers_of_ours_have_no_body():
    """A refusal of HEAD has the headers of the answer to GET alone."""
    async with relay("http://127.0.0.1:1") as served:
        client = await served.connect()
        await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        first = await client.message(bodyless=True)
        second = await client.message()
        assert (first.status, second.status) == (502, 502)
        assert first.value(b"content-length") == second.value(b"content-length")
        assert read_message(client.received[client.taken :]) is None
