"""A hundred ways around a cap, sent to the real relay: what reached the upstream is low enough for every reader, or nothing did.

Source: ARCHITECTURE.md 5.6 and 7 "Policies".
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from proxy.record import End
from tests.support.bypasses import BYPASSES, CAP, GONE, LARGEST_BODY_BYTES, SAME, Bypass
from tests.support.encodings import unpacked
from tests.support.provider import Link, Message, Provider, ok
from tests.support.readers import worst_least_tokens, worst_tokens
from tests.support.relay import relay

DIALECTS = (b"/chat/completions", b"/completions", b"/responses", b"/messages")


def is_judged(way: Bypass) -> bool:
    """True when what it posts is read."""
    return way.method == b"POST" and way.path.partition(b"?")[0].endswith(DIALECTS)


def each(ways: Iterable[Bypass]) -> pytest.MarkDecorator:
    """A test for each of these ways."""
    return pytest.mark.parametrize("way", list(ways), ids=lambda way: f"{way.number:03} {way.what[:60]}")


async def tried(way: Bypass, *policy: dict[str, Any], **limits: Any) -> tuple[list[Message], list[Message]]:
    """(answers, what reached the upstream) of one way around these rules."""
    reached: list[Message] = []

    async def script(link: Link) -> None:
        while True:
            reached.append(await link.request())
            await link.send(ok(b'{"choices":[]}'))

    settings = {"observed_body_bytes": LARGEST_BODY_BYTES} | limits
    async with (
        Provider(script) as provider,
        relay({"url": provider.url, "usage": "observe"}, policy=policy, limits=settings) as served,
    ):
        client = await served.connect()
        answers: list[Message] = []
        try:
            for piece in way.wire:
                await client.send(piece)
                await asyncio.sleep(0)
        except ConnectionError:
            pass  # it was refused before it was whole
        if way.expected == GONE:
            await client.fin()
            assert (await served.record()).end is End.CLIENT_DISCONNECT
            return answers, reached
        for _ in range(2 if way.number == 99 else 1):
            answers.append(await client.message())
            while answers[-1].status == 100:
                answers[-1] = await client.message()
        await client.close()
        await served.settled()
        return answers, reached


@each(BYPASSES)
async def test_a_cap_cannot_be_bypassed(way: Bypass) -> None:
    """Every reader of what reached the upstream finds a limit under the cap; what is refused reaches nothing."""
    answers, reached = await tried(way, CAP)
    if way.expected == GONE:
        assert reached == []
    elif isinstance(way.expected, tuple):
        status, error_type = way.expected
        assert (answers[0].status, answers[0].value(b"x-lengthwise-error")) == (status, error_type.encode())
        assert reached == []
    else:
        assert [answer.status for answer in answers] == [200] * len(reached)
        if way.expected == SAME:
            assert reached[-1].body == way.body
        else:
            assert reached[-1].body != way.body
        for request in reached if is_judged(way) else ():
            body = unpacked((request.value(b"content-encoding") or b"").decode(), request.body)
            # without a limit OpenAI's completions generate 16 tokens
            absent = 16 if request.start.split()[1].endswith(b"/v1/completions") else float("inf")
            assert worst_tokens(body, absent=absent) <= CAP["max_tokens"]
            assert worst_least_tokens(body) <= CAP["max_tokens"]


@each(way for way in BYPASSES if way.body and b"#" not in way.path)
async def test_where_no_rule_enforces_it_passes_untouched(way: Bypass) -> None:
    """Without a rule, in shadow, for another upstream, and behind an exemption: only what is no HTTP is refused."""
    for policy in (
        (),
        (CAP | {"mode": "shadow"},),
        (CAP | {"match": {"upstream": "other"}},),
        ({"name": "exempt", "do": "observe"}, CAP),
    ):
        answers, reached = await tried(way, *policy)
        assert (answers[-1].status, reached[-1].body) == (200, way.body)


@each(way for way in BYPASSES if way.expected == SAME and way.method == b"POST" and not is_judged(way))
async def test_posts_to_what_no_rule_reads_can_be_blocked(way: Bypass) -> None:
    """`unknown_routes: block` leaves no endpoint of which nothing is known."""
    answers, reached = await tried(way, CAP, unknown_routes="block")
    assert (answers[0].status, answers[0].value(b"x-lengthwise-error"), reached) == (404, b"unknown_route", [])


def test_the_table_has_a_hundred_ways() -> None:
    """Each number has an entry, and no entry is another one's."""
    assert {way.number for way in BYPASSES} == set(range(1, 101))
    twice = [wire for wire, times in Counter(way.wire for way in BYPASSES).items() if times > 1]
    assert twice == []
