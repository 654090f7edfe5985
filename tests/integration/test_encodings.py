"""Encoded bodies: read for policy and facts, and passed as they are; sent plain only where the policy changes them."""

import asyncio
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.record import Action, End, ExchangeRecord
from tests.support.encodings import PACK, packed, zstd
from tests.support.provider import EVENT_STREAM, Link, Message, Provider, answering, chunked, ok, read_message, sse
from tests.support.relay import relay
from tests.support.serve import serving_async

CODINGS = [*PACK, "gzip, br"]
CAP = {"name": "cap", "do": "cap", "max_tokens": 100}
ASKED = b'{"model":"m","messages":[],"max_tokens":5000}'
CHUNKS = sse(
    b'{"id":"c","model":"m-1","choices":[{"index":0,"delta":{"content":"a"}}]}',
    b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}',
    b"[DONE]",
)
ANSWER = (
    b'{"id":"c","model":"m-1","choices":[{"index":0,"message":{"content":"a"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}'
)


def asking(body: bytes, coding: str, *headers: bytes) -> bytes:
    """A chat completion request in this coding."""
    lines = [
        b"POST /v1/chat/completions HTTP/1.1",
        b"Host: a",
        b"Content-Type: application/json",
        b"Content-Encoding: " + coding.encode(),
        *headers,
        b"Content-Length: %d" % len(body),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def sent(provider: Provider) -> Message:
    """The one request that the upstream got."""
    (received,) = provider.received
    found = read_message(received)
    assert found is not None
    return found[0]


def encoding(coding: str) -> bytes:
    """The header of an encoded answer."""
    return b"Content-Encoding: " + coding.encode()


# -- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [[], [CAP | {"max_tokens": 6000}]], ids=["no rule", "a rule that changes nothing"])
@pytest.mark.parametrize("coding", CODINGS)
async def test_an_encoded_request_is_read_and_forwarded_untouched(coding: str, policy: list[dict[str, Any]]) -> None:
    """The same bytes with their Content-Encoding; model and limit are known, and usage is not worth another encoding."""
    body = packed(coding, ASKED)
    streamed = packed(coding, ASKED[:-1] + b',"stream":true}')
    for each in (body, streamed):
        async with Provider(answering(ok(ANSWER))) as provider, relay(provider.url, policy=policy) as served:
            await served.ask(asking(each, coding))
            record = await served.record()
            got = sent(provider)
        assert (got.body, got.value(b"content-encoding")) == (each, coding.encode())
        assert got.value(b"content-length") == b"%d" % len(each)
        assert (record.request.model, record.request.requested_max_tokens, record.degraded) == ("m", 5000, None)


@pytest.mark.parametrize("coding", CODINGS)
async def test_an_encoded_request_that_is_capped_is_sent_plain(coding: str) -> None:
    """What the policy judged is what the upstream reads: without Content-Encoding, in its own length."""
    async with Provider(answering(ok(ANSWER))) as provider, relay(provider.url, policy=[CAP]) as served:
        answer = await served.ask(asking(packed(coding, ASKED), coding, b"X-Kept: 1"))
        record = await served.record()
        got = sent(provider)
    plain = ASKED.replace(b"5000", b"100")
    assert (got.body, got.values(b"content-encoding"), got.value(b"x-kept")) == (plain, [], b"1")
    assert got.value(b"content-length") == b"%d" % len(plain)
    assert answer.value(b"x-lengthwise-policy") == b"rule=cap; action=capped; requested=5000; forwarded=100"
    assert record.decision.action is Action.CAPPED


BOMB = zstd.compress(b'{"max_tokens":5000,"x":"' + bytes(256 << 20))
UNREADABLE = {
    "unknown": ("compress", ASKED),
    "three": ("gzip, br, zstd", packed("gzip, br, zstd", ASKED)),
    "corrupt": ("br", b"\xff" + packed("br", ASKED)),
    "truncated": ("gzip", packed("gzip", ASKED)[:-1]),
    "followed": ("zstd", packed("zstd", ASKED) + b"{}"),
    "bomb": ("zstd", BOMB),
    "bomb in two codings": ("zstd, gzip", packed("gzip", BOMB)),
    "more than is read": ("gzip", packed("gzip", ASKED + b" " * 40_000)),
}


@pytest.fixture
def peak() -> Iterator[Any]:
    """Calling it gives the most bytes that the test has allocated so far."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("case", UNREADABLE)
async def test_a_body_that_cannot_be_read_is_refused_where_a_rule_could_match(case: str, peak: Any) -> None:
    """400 without a word to the upstream, and a bomb is never unpacked."""
    coding, body = UNREADABLE[case]
    limits = {"observed_body_bytes": 30_000 if case == "more than is read" else 1 << 20}
    async with Provider(answering(ok())) as provider, relay(provider.url, policy=[CAP], limits=limits) as served:
        answer = await served.ask(asking(body, coding))
        record = await served.record()
        assert provider.links == []
    assert (answer.status, answer.value(b"x-lengthwise-error")) == (400, b"ambiguous_body")
    assert (record.end, record.error_type) == (End.REJECTED, "ambiguous_body")
    assert peak() < 24 << 20


@pytest.mark.parametrize(
    "policy",
    [[], [CAP | {"match": {"upstream": "another"}}], [CAP | {"mode": "shadow"}]],
    ids=["none", "other", "shadow"],
)
@pytest.mark.parametrize("case", UNREADABLE)
async def test_elsewhere_a_body_that_cannot_be_read_passes_untouched(
    case: str, policy: list[dict[str, Any]], peak: Any
) -> None:
    """The upstream decides what it makes of it; the record says that it was not read."""
    coding, body = UNREADABLE[case]
    limits = {"observed_body_bytes": 30_000 if case == "more than is read" else 1 << 20}
    async with Provider(answering(ok(ANSWER))) as provider, relay(provider.url, policy=policy, limits=limits) as served:
        await served.ask(asking(body, coding))
        record = await served.record()
        got = sent(provider)
    assert (got.body, got.value(b"content-encoding")) == (body, coding.encode())
    assert (record.end, record.degraded) == (End.COMPLETE, "content_encoding")
    assert peak() < 24 << 20


# -- responses --------------------------------------------------------------------------------------------------------


def told(record: ExchangeRecord) -> tuple[Any, ...]:
    """What a record says of an answer."""
    usage = record.response.usage
    assert usage is not None
    return record.response.response_model, record.response.finish_reasons, usage.output_tokens, record.degraded


@pytest.mark.parametrize("coding", CODINGS)
async def test_an_encoded_answer_passes_as_it_is_and_is_read(coding: str) -> None:
    """JSON in one piece."""
    body = packed(coding, ANSWER)
    async with Provider(answering(ok(body, encoding(coding)))) as provider, relay(provider.url) as served:
        answer = await served.ask(asking(ASKED, "identity"))
        record = await served.record()
    assert (answer.body, answer.value(b"content-encoding")) == (body, coding.encode())
    assert told(record) == ("m-1", ("stop",), 7, None)


def flushed(coding: str) -> list[bytes]:
    """The stream in pieces that can be read one by one, as a server flushes it: here members and frames."""
    return [packed(coding, event) for event in CHUNKS]


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_an_encoded_stream_passes_as_it_is_and_is_read(coding: str) -> None:
    """Each event reaches the client, and the clock, when it comes."""
    pieces = flushed(coding)
    read = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        whole = chunked(pieces, EVENT_STREAM, encoding(coding))
        at = whole.index(pieces[0]) + len(pieces[0]) + 2
        await link.send(whole[:at])
        await read.wait()
        await link.send(whole[at:])

    asked = ASKED[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'
    async with Provider(script) as provider, relay(provider.url) as served:
        client = await served.connect()
        await client.send(asking(asked, "identity"))
        await client.has(pieces[0])
        read.set()
        answer = await client.message()
        record = await served.record()
    assert (answer.body, answer.value(b"content-encoding")) == (b"".join(pieces), coding.encode())
    assert told(record) == ("m-1", ("stop",), 7, None)
    response = record.response
    assert response.first_token_ns == response.first_chunk_ns
    assert response.terminal_seen


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_stream_that_ignores_identity_passes_uncut_and_is_marked(coding: str) -> None:
    """Usage was asked for, so the extra event is the client's too: better one event too many than a broken stream."""
    body = packed(coding, b"".join(CHUNKS))
    answers = answering(chunked([body[:20], body[20:]], EVENT_STREAM, encoding(coding)))
    async with Provider(answers) as provider, relay(provider.url) as served:
        answer = await served.ask(asking(ASKED[:-1] + b',"stream":true}', "identity", b"Accept-Encoding: br, gzip"))
        record = await served.record()
        got = sent(provider)
    assert got.values(b"accept-encoding") == [b"identity"]
    assert b'"include_usage":true' in got.body
    assert (answer.body, answer.value(b"content-encoding")) == (body, coding.encode())
    assert told(record) == ("m-1", ("stop",), 7, "identity_refused")


@pytest.mark.parametrize("coding", ["compress", "gzip, br, zstd"])
async def test_an_answer_in_a_coding_that_nobody_knows_passes_and_is_timed(coding: str) -> None:
    """Degraded, not broken."""
    async with Provider(answering(ok(ANSWER, encoding(coding)))) as provider, relay(provider.url) as served:
        answer = await served.ask(asking(ASKED, "identity"))
        record = await served.record()
    assert answer.body == ANSWER
    assert (record.end, record.degraded, record.response.usage) == (End.COMPLETE, "content_encoding", None)
    assert record.response.first_chunk_ns is not None


# -- the product ------------------------------------------------------------------------------------------------------


async def test_a_zstd_request_with_a_zstd_answer_is_in_the_ledger() -> None:
    """As Codex sends it, through the processes that a user starts."""
    body = zstd.compress(ASKED)
    answer = chunked(flushed("zstd"), EVENT_STREAM, encoding("zstd"))
    async with (
        Provider(answering(answer)) as provider,
        serving_async({"upstreams": [{"name": "fake", "url": provider.url}]}) as served,
    ):
        host, _, port = served.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(asking(body, "zstd", b"Connection: close"))
        received = await reader.read()
        while not reader.at_eof():
            received += await reader.read()
        writer.close()
        (row,) = await asyncio.to_thread(served.rows, 1)
        assert sent(provider).body == body
    found = read_message(received)
    assert found is not None
    assert found[0].body == b"".join(flushed("zstd"))
    told_by_row = (row["model"], row["requested_max_tokens"], row["output_tokens"], row["finish"], row["degraded"])
    assert told_by_row == ("m", 5000, 7, "stop", None)
    assert row["ttft_s"] is not None
