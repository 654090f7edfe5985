"""The official client through Lengthwise in front of real inference engines."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.engines.asking import Answer, ask, client
from tests.engines.parts import Engine, eventually
from tests.support.serve import Served, serving

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

QUESTION = [{"role": "user", "content": "What is the time?"}]
"""The tiny model ends its answer by itself, well below `NATURAL`."""
NATURAL, CUT, CAP = 100, 5, 8
WAYS = [
    pytest.param({}, id="whole"),
    pytest.param({"stream": True}, id="streamed"),
    pytest.param({"stream": True, "stream_options": {"include_usage": True}}, id="streamed-with-usage"),
]
LIMITS = [
    pytest.param({"max_tokens": NATURAL}, id="natural"),
    pytest.param({"max_tokens": CUT}, id="cut"),
]


def settings(engine: Engine) -> dict[str, Any]:
    """Lengthwise before one engine."""
    return {
        "upstreams": [{"name": "engine", "url": engine.url, "provider": engine.name}],
        "telemetry": {"traces": "none", "metrics": "none"},
    }


@pytest.fixture(scope="module")
def served(engine: Engine) -> Iterator[Served]:
    """Lengthwise that changes nothing."""
    with serving(settings(engine)) as served:
        yield served


@pytest.fixture(scope="module")
def capping(engine: Engine) -> Iterator[Served]:
    """Lengthwise that lets nobody have more than `CAP` tokens."""
    rule = {"name": "cap", "match": {}, "do": "cap", "max_tokens": CAP, "when_absent": "insert", "mode": "enforce"}
    both = [rule | {"name": "streams", "match": {"stream": True}}, rule | {"match": {"stream": False}}]
    with serving(settings(engine), policies={"version": 1, "rules": both}) as served:
        yield served


def row_of(served: Served, answer: Answer) -> dict[str, Any]:
    """The ledger's row of an answer."""
    assert answer.exchange_id
    (row,) = eventually(lambda: [row for row in served.rows(1) if row["id"] == answer.exchange_id], bool, "ledger row")
    return row


def without_what_moves(engine: Engine, way: dict[str, Any], answer: Answer) -> Answer:
    """An answer less what an engine moves into the usage event that Lengthwise asked for, and keeps back.

    vLLM sends `system_fingerprint` with the last event: the usage event when it is asked for one, else the last choice.
    """
    if engine.name != "vllm" or way != {"stream": True}:
        return answer
    objects = [{name: value for name, value in item.items() if name != "system_fingerprint"} for item in answer.objects]
    return replace(answer, objects=objects)


def request(engine: Engine, *parts: dict[str, Any]) -> dict[str, Any]:
    """A request with a repeatable answer."""
    whole = {"model": engine.model, "messages": QUESTION, "temperature": 0}
    for part in parts:
        whole |= part
    return whole


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", LIMITS)
def test_the_official_client_returns_the_same_objects_as_without_lengthwise(
    engine: Engine, served: Served, way: dict[str, Any], limit: dict[str, Any]
) -> None:
    """Apart from ids and times, the client cannot tell that Lengthwise is there."""
    direct = without_what_moves(engine, way, ask(f"{engine.url}/v1", **request(engine, way, limit)))
    through = ask(served.base_url, **request(engine, way, limit))
    assert (through.objects, through.text) == (direct.objects, direct.text)
    assert (direct.exchange_id, direct.policy, through.policy) == (None, None, None)


def test_without_asking_for_usage_not_even_a_fingerprint_moves(engine: Engine, tmp_path: Path) -> None:
    """With `usage: observe` a stream is what it is without Lengthwise; tokens are the engine's where it tells them, else estimated."""
    observing = settings(engine)
    observing["upstreams"][0]["usage"] = "observe"
    way = {"stream": True, "max_tokens": CUT}
    direct = ask(f"{engine.url}/v1", **request(engine, way))
    with serving(observing, env={"TIKTOKEN_CACHE_DIR": str(tmp_path)}) as served:
        through = ask(served.base_url, **request(engine, way))
        row = row_of(served, through)
    assert (through.objects, through.text) == (direct.objects, direct.text)
    if direct.usage:
        assert (row["output_tokens"], row["usage_source"]) == (direct.usage["completion_tokens"], "provider")
    else:
        assert row["usage_source"] == "estimated"
        assert 0 < row["output_tokens"] <= CUT
    assert (row["finish"], row["cut"], row["requested_max_tokens"]) == ("length", 1, CUT)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", LIMITS)
def test_the_ledger_says_what_the_engine_counted(
    engine: Engine, served: Served, way: dict[str, Any], limit: dict[str, Any]
) -> None:
    """Tokens, limit and finish of the row are the engine's own, even where the client asked for no usage."""
    counted = ask(f"{engine.url}/v1", **request(engine, limit))
    assert counted.usage
    answer = ask(served.base_url, **request(engine, way, limit))
    row = row_of(served, answer)
    expected = {
        "upstream": "engine",
        "provider": engine.name,
        "dialect": "chat_completions",
        "model": engine.model,
        "stream": int(way.get("stream", False)),
        "status": 200,
        "end": "complete",
        "finish": counted.finish,
        "cut": int(counted.finish == "length"),
        "requested_max_tokens": limit["max_tokens"],
        "forwarded_max_tokens": limit["max_tokens"],
        "limit_field": "max_tokens",
        "action": "none",
        "rule": None,
        "choices": 1,
        "input_tokens": counted.usage["prompt_tokens"],
        "output_tokens": counted.usage["completion_tokens"],
        "decoded_tokens": counted.usage["completion_tokens"],
        "usage_source": "provider",
        "degraded": None,
        "error_type": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert counted.finish == ("length" if limit["max_tokens"] == CUT else "stop")
    stamps = [row[name] for name in ("ttfc_s", "ttft_s", "last_token_s", "e2e_s")]
    if way.get("stream"):
        assert all(stamps)
        assert stamps == sorted(stamps)
        assert row["tpot_s"] == pytest.approx(
            (row["last_token_s"] - row["ttft_s"]) / (counted.usage["completion_tokens"] - 1)
        )
    else:
        assert [stamp is None for stamp in stamps] == [False, True, True, False]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "limit", [pytest.param({"max_tokens": NATURAL}, id="lowered"), pytest.param({}, id="inserted")]
)
def test_a_cap_is_what_the_engine_keeps(
    engine: Engine, capping: Served, way: dict[str, Any], limit: dict[str, Any]
) -> None:
    """The engine's count ends at the cap, and the response and the ledger say whose limit that was."""
    direct = without_what_moves(engine, way, ask(f"{engine.url}/v1", **request(engine, way, {"max_tokens": CAP})))
    answer = ask(capping.base_url, **request(engine, way, limit))
    assert (answer.objects, answer.text) == (direct.objects, direct.text)
    row = row_of(capping, answer)
    rule, action = ("streams" if way else "cap"), ("capped" if limit else "inserted")
    asked = limit.get("max_tokens")
    assert answer.policy == f"rule={rule}; action={action}; requested={asked or 'none'}; forwarded={CAP}"
    expected = {
        "rule": rule,
        "action": action,
        "requested_max_tokens": asked,
        "forwarded_max_tokens": CAP,
        "output_tokens": CAP,
        "finish": "length",
        "cut": 1,
    }
    assert {name: row[name] for name in expected} == expected


def test_an_error_of_the_engine_stays_what_it_is(engine: Engine, served: Served) -> None:
    """A model that the engine does not have gives the same exception, with the same status and body."""

    def refused(base_url: str) -> tuple[type[openai.APIStatusError], int, object]:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(base_url, **request(engine, {"model": "another"}))
        return type(caught.value), caught.value.status_code, caught.value.body

    assert refused(served.base_url) == refused(f"{engine.url}/v1")


def test_a_route_of_no_dialect_passes(engine: Engine, served: Served) -> None:
    """The list of models is the engine's."""

    def models(base_url: str) -> list[str]:
        with client(base_url) as sdk:
            return [model.id for model in sdk.models.list()]

    assert models(served.base_url) == models(f"{engine.url}/v1")
