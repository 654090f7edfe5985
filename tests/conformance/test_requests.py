"""What two servers could read differently is refused; everything else reaches the upstream as exactly the requests that it is.

Source: ARCHITECTURE.md 5.1, 5.9, 8.
"""

import asyncio
from collections import Counter

import orjson
import pytest

from proxy.errors import REFUSALS
from tests.conformance.requests import AFTER, CASES, Case, Seen
from tests.support.provider import PATIENCE_S, Link, Message, Provider, ok, read_message
from tests.support.relay import relay

QUIET = {"traces": "none", "metrics": "none"}  # nothing is propagated, so requests are those of the client
FRAMING = {b"host", b"content-length", b"transfer-encoding"}
SEEN_AFTER = Seen(b"GET /after", (), b"")


def as_seen(message: Message) -> Seen:
    """A request of the upstream, less what is its connection's own."""
    line, version = message.start.rsplit(b" ", 1)
    assert version == b"HTTP/1.1"
    headers = tuple(b"%b: %b" % pair for pair in message.headers if pair[0].lower() not in FRAMING)
    return Seen(line, headers, message.body)


def answers_in(data: bytes, requests: list[bytes]) -> list[Message]:
    """Every answer in what a client received, to requests of these methods; interim ones are left out."""
    found: list[Message] = []
    rest = data
    while rest:
        to_head = len(found) < len(requests) and requests[len(found)] == b"HEAD"
        read = read_message(rest, bodyless=to_head)
        assert read is not None, rest
        message, rest = read
        if message.status >= 200:
            found.append(message)
    return found


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.name}")
async def test_the_upstream_sees_exactly_these_requests(case: Case, pieces: int):
    """However it is cut into segments: what is refused reaches nobody, what follows a refusal is never read."""
    data = case.sent + AFTER
    reached: list[Seen] = []

    async def script(link: Link) -> None:
        while True:
            reached.append(as_seen(await link.request()))
            await link.send(ok(b"" if reached[-1].line.startswith(b"HEAD ") else b"ok"))

    refused = [each for each in case.expected if isinstance(each, int)]
    expected = [each for each in case.expected if isinstance(each, Seen)]
    if not (refused or case.closes):
        expected.append(SEEN_AFTER)
    async with Provider(script) as provider, relay(provider.url, telemetry=QUIET) as served:
        client = await served.connect()
        step = -(-len(data) // pieces)
        for at in range(0, len(data), step):
            try:
                await client.send(data[at : at + step])
            except ConnectionError:
                break  # it was refused before it was whole
            await asyncio.sleep(0)
        if refused or case.closes:
            await client.end()
        else:
            async with asyncio.timeout(PATIENCE_S):
                while served.worker.exchanges < len(expected) or served.worker.exchanges_active:
                    await asyncio.sleep(0)
            await client.until(lambda: client.received.count(b"\r\nx-lengthwise-id: ") == len(expected))
        assert reached[: len(expected)] == expected
        partial = reached[len(expected) :]
        assert partial == []
        answers = answers_in(bytes(client.received), [each.line.split(b" ", 1)[0] for each in expected])
        assert [answer.status for answer in answers] == [200] * len(expected) + refused
        if refused:
            (error,) = answers[-1].values(b"x-lengthwise-error")
            assert REFUSALS[error.decode()].status == refused[0]
            assert answers[-1].values(b"connection") == [b"close"]
            assert orjson.loads(answers[-1].body)["error"]["code"] == error.decode()
        began = len(await served.records(served.worker.exchanges))
        assert began + served.worker.connections_malformed == len(expected) + len(refused)


def test_there_are_enough_cases_of_each_kind():
    """A class that lost its cases would go unnoticed."""
    assert len({(case.kind, case.name) for case in CASES}) == len(CASES) >= 150
    assert all(count >= 8 for count in Counter(case.kind for case in CASES).values())
