"""A thousand requests as the official clients make them: none is refused, and what no rule changes arrives byte for byte."""

from typing import Any

import pytest

from tests.support.bypasses import COMPLETIONS, RESPONSES, framed
from tests.support.provider import Link, Message, Provider, ok
from tests.support.readers import worst_tokens
from tests.support.relay import relay
from tests.support.sdk_requests import SdkRequest, sdk_requests

CAP = {"name": "cap", "do": "cap", "when_absent": "leave"}


@pytest.fixture(scope="module")
def requests() -> list[SdkRequest]:
    """A thousand different ones."""
    return sdk_requests(1000)


async def sent(requests: list[SdkRequest], rule: dict[str, Any]) -> list[tuple[Message, Message | None]]:
    """(answer, what reached the upstream) of each, one after the other on one connection."""
    reached: list[Message] = []

    async def script(link: Link) -> None:
        while True:
            reached.append(await link.request())
            await link.send(ok(b"{}"))

    pairs: list[tuple[Message, Message | None]] = []
    async with (
        Provider(script) as provider,
        relay({"url": provider.url, "usage": "observe"}, policy=[rule]) as served,
    ):
        client = await served.connect()
        for request in requests:
            await client.send(framed(request.body, *request.headers, path=request.path))
            answer = await client.message()
            pairs.append((answer, reached.pop() if reached else None))
    return pairs


async def test_no_request_of_an_official_client_is_refused_or_changed_without_need(requests: list[SdkRequest]) -> None:
    """An enforcing rule judges each of them, finds its limit low enough, and the upstream gets the client's own bytes."""
    pairs = await sent(requests, CAP | {"max_tokens": 10**9})
    refused = [
        (answer.body, request.body) for request, (answer, got) in zip(requests, pairs, strict=True) if got is None
    ]
    assert refused == []
    headers = {answer.value(b"x-lengthwise-policy").partition(b"; requested")[0] for answer, _ in pairs}
    assert headers == {b"rule=cap; action=none"}
    assert [got.body for _, got in pairs] == [request.body for request in requests]


async def test_a_low_cap_refuses_none_but_budgets_of_thinking_above_it(requests: list[SdkRequest]) -> None:
    """Every reader finds the cap in what is sent; a budget that does not fit under it is a conflict that is named."""
    rule = CAP | {"max_tokens": 64, "when_absent": "insert"}
    for request, (answer, got) in zip(requests, await sent(requests, rule), strict=True):
        if got is None:
            assert answer.value(b"x-lengthwise-error") == b"policy_conflict"
            assert b'"budget_tokens":1024' in request.body
            continue
        absent = 16 if request.path == COMPLETIONS else float("inf")
        assert worst_tokens(got.body, absent=absent) <= 64
        assert request.path != RESPONSES or worst_tokens(got.body) >= 16
