"""What an upstream answers reaches the client as the same answer, a 502 or one that visibly breaks off, and never as two.

Source: ARCHITECTURE.md 5.1, 5.2, 8.
"""

import asyncio

import pytest

from proxy.record import End
from tests.conformance.answers import ANSWERS, Answer, Broken, Whole
from tests.support.provider import Link, Message, Provider, Wire, ok
from tests.support.relay import relay

OURS = {b"content-length", b"transfer-encoding", b"x-lengthwise-id", b"connection"}
SECOND = b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n"


def as_whole(message: Message, interim: list[int]) -> Whole:
    """An answer of the client, less what belongs to its own connection."""
    headers = tuple(b"%b: %b" % pair for pair in message.headers if pair[0].lower() not in OURS)
    return Whole(message.status, headers, message.body, tuple(interim))


async def answer_to(client: Wire, *, bodyless: bool) -> tuple[Message, list[int]]:
    """The final answer and the status of each interim one before it."""
    interim = []
    while (message := await client.message(bodyless=bodyless)).status < 200:
        interim.append(message.status)
    return message, interim


@pytest.mark.parametrize("pieces", [1, 9])
@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: f"{case.kind}: {case.name}")
async def test_the_client_gets_exactly_this_answer(case: Answer, pieces: int):
    """However it is cut into segments; the next request is answered by its own answer, on a connection that is fit for it."""

    async def script(link: Link) -> None:
        if not link.number:
            await link.request()
            step = max(-(-len(case.sent) // pieces), 1)
            try:
                for at in range(0, len(case.sent), step):
                    await link.send(case.sent[at : at + step])
                    await asyncio.sleep(0)
            except ConnectionError:
                return  # it was refused before it was whole
            if case.ends:
                await link.fin()
                return
        while True:
            await link.request()
            await link.send(ok(b"after"))

    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % case.method)
        record = await served.record()
        if isinstance(case.gets, Broken):
            await client.end()
            head, _, rest = bytes(client.received).partition(b"\r\n\r\n")
            assert b" 200 OK\r\n" in head
            assert not rest.endswith(b"0\r\n\r\n")
            framed = b"\r\ntransfer-encoding: chunked" in head.lower()
            assert (b"".join(_chunks(rest)) if framed else rest) == case.gets.body
            assert record.end is End.BROKEN
            client = await served.connect()
        else:
            message, interim = await answer_to(client, bodyless=case.method == b"HEAD")
            if isinstance(case.gets, Whole):
                assert as_whole(message, interim) == case.gets
                assert record.end is End.COMPLETE
            else:
                assert (message.status, record.end) == (case.gets, End.UPSTREAM_ERROR)
                assert message.value(b"x-lengthwise-error") == b"upstream_reset"
            if b"close" in message.values(b"connection"):
                client = await served.connect()
        await client.send(SECOND)
        after = await client.message()
        assert (after.status, after.body) == (200, b"after")
        assert len(provider.links) == (1 if case.kept else 2)


def _chunks(rest: bytes) -> list[bytes]:
    """Contents of the chunks that are whole."""
    found = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return found


def test_each_case_is_there_once():
    """A name is what a reader finds a case by."""
    assert len({(case.kind, case.name) for case in ANSWERS}) == len(ANSWERS) > 80
