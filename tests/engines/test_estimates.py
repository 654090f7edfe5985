"""Servers that count otherwise: what the provider does not count is estimated, and the ledger says that it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.asking import Answer, ask
from tests.engines.parts import Engine, eventually
from tests.support.serve import Served, serving

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

QUESTION = [{"role": "user", "content": "What is the time?"}]
LIMIT = 7
WAYS = [
    pytest.param({}, id="whole"),
    pytest.param({"stream": True}, id="streamed"),
    pytest.param({"stream": True, "stream_options": {"include_usage": True}}, id="streamed-with-usage"),
]


@pytest.fixture(scope="module", params=["guidellm", "llama_cpp"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each server in turn."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(scope="module", params=["inject", "observe"])
def served(
    request: pytest.FixtureRequest, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, str]]:
    """Lengthwise that has no vocabulary, so that it counts events, and its usage mode."""
    settings = {
        "upstreams": [{"name": "engine", "url": engine.url, "usage": request.param}],
        "telemetry": {"traces": "none", "metrics": "none"},
    }
    nothing: Path = tmp_path_factory.mktemp("vocabularies")
    with serving(settings, env={"TIKTOKEN_CACHE_DIR": str(nothing)}) as served:
        yield served, request.param


def row_of(served: Served, answer: Answer) -> dict[str, Any]:
    """The ledger's row of an answer."""
    assert answer.exchange_id
    (row,) = eventually(lambda: [row for row in served.rows(1) if row["id"] == answer.exchange_id], bool, "ledger row")
    return row


def without_fingerprint(answer: Answer) -> list[dict[str, Any]]:
    """The objects without what guidellm's server draws for each whole answer."""
    return [{name: value for name, value in item.items() if name != "system_fingerprint"} for item in answer.objects]


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_the_servers_own_or_honestly_estimated(
    engine: Engine, served: tuple[Served, str], way: dict[str, Any]
) -> None:
    """The client gets what it gets directly; where the server does not count, events are counted."""
    lengthwise, usage = served
    asked = {"model": engine.model, "messages": QUESTION, "temperature": 0, "max_tokens": LIMIT} | way
    direct = ask(f"{engine.url}/v1", **asked)
    through = ask(lengthwise.base_url, **asked)
    row = row_of(lengthwise, through)
    assert (without_fingerprint(through), through.text) == (without_fingerprint(direct), direct.text)
    counts = engine.name == "guidellm" and (usage == "inject" or "stream_options" in way)
    source = "provider" if counts or not way else "estimated"
    assert (row["usage_source"], row["output_tokens"]) == (source, LIMIT)
    assert (row["end"], row["requested_max_tokens"], row["degraded"]) == ("complete", LIMIT, None)
    assert row["finish"] == direct.finish
