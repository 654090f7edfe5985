"""One question and its answer: the times are those of the data path, and no trouble is told with a credential in it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web

from proxy.lab.asking import Asker, AskError, LimitError, Provider, StatusError, session
from proxy.lab.simulator import SimulatorOptions, make_app, serving
from tests.support.odd_provider import answering, refusal, stream

KEY = "sk-never-to-be-seen"


@pytest.fixture(autouse=True)
def credential(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question is asked with a credential."""
    monkeypatch.setenv("PROBE_KEY", KEY)


def provider(base_url: str) -> Provider:
    """A provider of the simulated small model."""
    return Provider(base_url, "sim-small", "PROBE_KEY", "max_tokens", field_is_settled=False)


@contextlib.asynccontextmanager
async def asker(base_url: str) -> AsyncIterator[Asker]:
    """Asks there."""
    async with session(1) as http:
        yield Asker(http, provider(base_url))


async def refused(answer: web.Response) -> AskError:
    """What is said of this answer."""
    async with answering(lambda _: answer) as (base_url, _), asker(base_url) as ask:
        with pytest.raises(AskError) as told:
            await ask.ask("Say something.", 8)
    return told.value


async def test_an_answer_is_measured_as_an_exchange() -> None:
    """Twenty tokens, the first after 50 ms and one each 5 ms: as the record defines them; the limit cuts at twelve."""
    async with serving(make_app(SimulatorOptions(api_key=KEY))) as origin, asker(f"{origin}/v1") as ask:
        record = await ask.ask("Count. [tokens=20] [ttft_ms=50] [tpot_ms=5]", 12)
    assert (record.output_tokens, record.decoded_tokens, record.cut, record.usage_source) == (12, 12, True, "provider")
    assert (record.request.requested_max_tokens, record.decision.forwarded_max_tokens) == (12, 12)
    assert record.ttft_s is not None
    assert record.tpot_s is not None
    assert record.e2e_s is not None
    # Nothing is early; how late it may be is the machine's business.
    assert record.ttft_s >= 0.049
    last_s = record.ttft_s + 11 * record.tpot_s
    assert record.e2e_s + 1e-9 >= last_s >= 0.049 + 11 * 0.005


async def test_the_question_is_what_was_asked() -> None:
    """Model, input, limit, a stream with usage; the credential in its header."""
    usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    async with answering(lambda _: stream(2, usage=usage)) as (base_url, requests), asker(base_url) as ask:
        await ask.ask("Say something.", 8)
    assert requests[0].body == {
        "model": "sim-small",
        "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": 8,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert requests[0].authorization == f"Bearer {KEY}"


async def test_without_usage_the_events_are_counted() -> None:
    """Three events with text are three tokens, marked as estimated."""
    async with answering(lambda _: stream(3)) as (base_url, _), asker(base_url) as ask:
        record = await ask.ask("Say something.", 8)
    assert (record.output_tokens, record.usage_source, record.cut) == (3, "estimated", False)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            lambda: refusal(401, f"Incorrect API key provided: {KEY}."),
            "status 401: it does not accept the credential (variable PROBE_KEY)",
        ),
        (lambda: refusal(403, f"{KEY} is not allowed"), "status 403: the credential may not do this"),
        (
            lambda: refusal(404, "no model sim-small"),
            "status 404: there is no such model or address (sim-small; does the base URL end in /v1?)",
        ),
        (lambda: refusal(400, f"you sent {KEY}"), "status 400: you sent ***"),
        (lambda: web.Response(status=500, body=b"\x1b[31m<html>"), "status 500: [31m<html>"),
        (lambda: web.Response(status=502), "status 502: without a word"),
        (lambda: web.Response(status=307, headers={"location": "http://elsewhere.test/"}), "status 307: it redirects"),
        (lambda: web.json_response({"choices": []}), "does not stream"),
        (lambda: stream(3, finish=None, done=False), "broke off its answer"),
    ],
)
async def test_no_whole_answer_is_told_without_the_credential(answer: object, words: str) -> None:
    """Whatever the provider quotes, and whatever it sends for a terminal to read."""
    assert callable(answer)
    error = await refused(answer())
    assert words in str(error)
    assert KEY not in str(error)
    assert str(error).isprintable()


async def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal for want of a credential says which was missing, and none was sent."""
    monkeypatch.delenv("PROBE_KEY")
    async with serving(make_app(SimulatorOptions(api_key="x"))) as origin, asker(f"{origin}/v1") as ask:
        with pytest.raises(StatusError, match="variable PROBE_KEY, which is not set"):
            await ask.ask("Say something.", 8)


async def test_nobody_there_is_told_with_the_reason() -> None:
    """A port on which nobody listens."""
    async with serving(web.Application()) as origin:
        base_url = f"{origin}/v1"
    async with asker(base_url) as ask:
        with pytest.raises(AskError, match=f"no answer from {base_url}"):
            await ask.ask("Say something.", 8)


async def test_a_refusal_says_how_long_to_wait() -> None:
    """In seconds; anything else is not said."""
    found = []
    for value in ("7", "Wed, 21 Oct 2026 07:28:00 GMT"):
        error = await refused(refusal(429, "slow down", **{"retry-after": value}))
        assert isinstance(error, StatusError)
        found.append((error.status, error.retry_after_s))
    assert found == [(429, 7.0), (429, None)]


def test_another_way_of_asking_is_what_the_refusal_names() -> None:
    """The other field where either is named, no usage where its option is; nothing where the way was not the trouble."""
    start = provider("http://x/v1")
    settled = replace(start, field_is_settled=True)

    def refused_with(said: str, status: int = 400) -> StatusError:
        return StatusError("", status, said, None)

    assert start.other_way(refused_with("Use 'max_completion_tokens' instead.")) == replace(
        start, field="max_completion_tokens", field_is_settled=True
    )
    assert start.other_way(refused_with("unknown field max_tokens", 422)) is not None
    assert settled.other_way(refused_with("unknown field max_tokens")) is None
    assert start.other_way(refused_with("stream_options: extra field")) == replace(start, asks_usage=False)
    assert replace(start, asks_usage=False).other_way(refused_with("stream_options: extra field")) is None
    assert start.other_way(refused_with("context too long")) is None
    assert start.other_way(refused_with("max_tokens", 401)) is None


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            "rule=cap; action=capped; requested=8; forwarded=5",
            "a rule of Lengthwise on the way made 5 of the limit 8 (rule=cap; action=capped; requested=8; forwarded=5)",
        ),
        ("rule=cap; action=none; requested=8; forwarded=8", None),
        ("", None),
    ],
)
async def test_a_limit_that_a_rule_changed_on_the_way_is_not_measured(policy: str, message: str | None) -> None:
    """What would be measured is the rule."""
    answer = stream(2)
    if policy:
        answer.headers["x-lengthwise-policy"] = policy
    async with answering(lambda _: answer) as (base_url, _), asker(base_url) as ask:
        if message is None:
            await ask.ask("Say something.", 8)
        else:
            with pytest.raises(LimitError) as told:
                await ask.ask("Say something.", 8)
            assert str(told.value).startswith(message)
