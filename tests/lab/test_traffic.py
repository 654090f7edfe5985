"""The demo's traffic and what is made of the ledger's rows."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.lab import traffic
from proxy.lab.answers import draw_answers
from proxy.lab.chat_request import read_request
from proxy.lab.simulator import SimulatorOptions, make_app, serving
from proxy.lab.traffic import CLASSES, Summary, interleaved, rows_of, send_all, summarise


def row(app: str, **columns: Any) -> dict[str, Any]:
    """A ledger row with the columns that are read."""
    return {
        "app": app,
        "end": "complete",
        "status": 200,
        "requested_max_tokens": 2000,
        "forwarded_max_tokens": 2000,
        "output_tokens": 10,
        "ttft_s": 0.1,
        "tpot_s": 0.01,
        "e2e_s": 1.0,
        "cut": 0,
        "rule": None,
    } | columns


def test_every_class_shows_what_its_title_says() -> None:
    """As the simulator draws them: cutting limits cut, large ones do not, the same prompt is the same answer."""
    found = {}
    for kind in CLASSES:
        requests = [read_request(body, any_model=False) for body in kind.bodies()]
        drawn = [draw_answers(request, median_tokens=180, sigma=0.6, seed=1)[0] for request in requests]
        found[kind.name] = {answer.cut for answer in drawn}
        if kind.name.startswith("same-"):
            assert len({request.prompt_digest for request in requests}) == 1
    assert found == {kind.name: {kind.name in {"long-answer", "same-64"}} for kind in CLASSES}
    assert 50 <= len(interleaved()) <= 80


def test_classes_are_told_apart_by_name() -> None:
    """The name is what the ledger keeps, so no two classes share one."""
    assert len({kind.name for kind in CLASSES}) == len(CLASSES)
    assert len({kind.title for kind in CLASSES}) == len(CLASSES)


def test_a_summary_takes_medians_and_counts_from_the_rows() -> None:
    """Unknown times count for nothing, a class without rows has none, and other applications' rows are left out."""
    rows = [
        row("capped", output_tokens=96, e2e_s=1.0, cut=1, rule="demo-cap", forwarded_max_tokens=96),
        row("capped", output_tokens=96, e2e_s=3.0, cut=1, ttft_s=None, rule="demo-cap", end="broken"),
        row("capped", output_tokens=20, e2e_s=2.0, cut=None, ttft_s=0.3, tpot_s=None, rule="demo-cap", status=500),
        row("somebody-else"),
        row(None),  # type: ignore[arg-type]
    ]
    by_title = {summary.title: summary for summary in summarise(rows)}
    assert list(by_title) == [kind.title for kind in CLASSES]
    assert by_title["capped by policy"] == Summary(
        title="capped by policy",
        requests=3,
        complete=1,
        requested_max_tokens=2000,
        forwarded_max_tokens=96,
        generated_tokens=96,
        ttft_s=0.2,
        tpot_s=0.01,
        e2e_s=2.0,
        cut=2,
        rule="demo-cap",
    )
    assert by_title["reasoning"] == Summary("reasoning", 0, 0, None, None, None, None, None, None, 0, None)


async def test_all_traffic_is_served_by_the_simulator() -> None:
    """Every request of every class is answered whole; progress is told once for each."""
    told: list[None] = []
    async with serving(make_app(SimulatorOptions(ttft_s=0, tpot_s=0))) as origin:
        assert await send_all(f"{origin}/v1", lambda: told.append(None)) == []
    assert len(told) == len(interleaved())


async def test_what_fails_is_named() -> None:
    """An error status, an unreachable address and a stream without its end are failures; nothing is raised."""
    async with serving(make_app(SimulatorOptions(ttft_s=0, tpot_s=0, error_rate=1))) as origin:
        failures = await send_all(f"{origin}/v1", lambda: None)
    assert len(failures) == len(interleaved())
    assert {failure.split(": ")[1] for failure in failures} <= {"status 429", "status 500", "status 503"}
    assert len(await send_all(f"{origin}/v1", lambda: None)) == len(interleaved())


async def test_rows_are_awaited_and_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows as soon as they are there; what there is when they do not come."""
    monkeypatch.setattr(traffic, "_LEDGER_S", 0.2)
    ledger = tmp_path / "ledger.sqlite"
    assert await rows_of(ledger, 1) == []
    with closing(sqlite3.connect(ledger)) as database:
        database.execute("CREATE TABLE exchange (app)")
        database.execute("INSERT INTO exchange VALUES ('x')")
        database.commit()
    assert await rows_of(ledger, 1) == [{"app": "x"}]
    assert await rows_of(ledger, 2) == [{"app": "x"}]


def test_prompts_are_numbered_where_they_should_differ() -> None:
    """Only the classes that ask for it have the same prompt in every request."""
    for kind in CLASSES:
        prompts = {orjson.loads(body)["messages"][0]["content"] for body in kind.bodies()}
        assert len(prompts) == (1 if kind.name.startswith("same-") else kind.count)
