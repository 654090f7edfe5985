"""The demo's traffic and what is made of the ledger's rows."""

import sqlite3
from contextlib import closing
from pathlib import Path
from statistics import correlation
from typing import Any

import orjson
import pytest

from proxy.lab import traffic
from proxy.lab.answers import Answer, draw_answers
from proxy.lab.chat_request import read_request
from proxy.lab.simulator import SimulatorOptions, make_app, serving
from proxy.lab.traffic import (
    BATCHES,
    CLASSES,
    Summary,
    TrafficClass,
    interleaved,
    rows_of,
    send_all,
    sent,
    summarise,
)


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


def drawn(kind: TrafficClass) -> list[Answer]:
    """The answers of a class, as the simulator draws them."""
    requests = [read_request(body, any_model=False) for body in kind.bodies()]
    return [draw_answers(request, median_tokens=180, sigma=0.6, seed=1)[0] for request in requests]


def test_applications_are_cut_where_their_limit_is_low() -> None:
    """Sums are cut, nearly all; no other application reaches its own limit."""
    cut = {kind.name: sum(answer.cut for answer in drawn(kind)) for kind in (*CLASSES, *BATCHES)}
    assert {name: count for name, count in cut.items() if count} == {"summary": 39}


def test_tokens_explain_the_time_and_limits_do_not() -> None:
    """In the small model's traffic, lengths and limits are next to unrelated, so that the plots tell them apart."""
    pairs = [
        (kind.fields["max_tokens"], answer.tokens)
        for kind in CLASSES
        if kind.model == "sim-small"
        for answer in drawn(kind)
    ]
    limits, tokens = zip(*pairs, strict=True)
    assert correlation(limits, tokens) ** 2 < 0.05


def test_requests_are_the_same_in_every_run() -> None:
    """Two runs of the demo send the same bytes."""
    assert [body for _, body in interleaved()] == [body for _, body in interleaved()]
    assert len({body for _, body in interleaved()}) == len(interleaved())


def test_batches_take_turns_with_the_same_requests() -> None:
    """Two limits, each twice; nothing but the limit differs."""
    bodies = [[orjson.loads(body) for body in kind.bodies()] for kind in BATCHES]
    limits = [[body.pop("max_tokens") for body in block] for block in bodies]
    assert limits == [[512] * 8, [8192] * 8, [512] * 8, [8192] * 8]
    assert all(block == bodies[0] for block in bodies)


def test_a_summary_takes_medians_and_counts_from_the_rows() -> None:
    """Unknown times count for nothing, a class without rows has none, and other applications' rows are left out."""
    rows = [
        row("assistant", output_tokens=96, e2e_s=1.0, cut=1, rule="demo-cap", forwarded_max_tokens=96),
        row("assistant", output_tokens=96, e2e_s=3.0, cut=1, ttft_s=None, rule="demo-cap", end="broken"),
        row("assistant", output_tokens=20, e2e_s=2.0, cut=None, ttft_s=0.3, tpot_s=None, rule="demo-cap", status=500),
        row("somebody-else"),
        row(None),  # type: ignore[arg-type]
    ]
    by_name = {summary.name: summary for summary in summarise(rows)}
    assert list(by_name) == [*(kind.name for kind in CLASSES), "batch-512", "batch-8192"]
    assert by_name["assistant"] == Summary(
        name="assistant",
        model="sim-large",
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
    assert by_name["chat"] == Summary("chat", "sim-small", 0, 0, None, None, None, None, None, None, 0, None)


async def test_all_traffic_is_served_by_the_simulator() -> None:
    """Every request of every class is answered whole; progress is told once for each."""
    told: list[None] = []
    async with serving(make_app(SimulatorOptions(ttft_s=0, tpot_s=0))) as origin:
        assert await send_all(f"{origin}/v1", lambda: told.append(None)) == []
    assert len(told) == sent()


async def test_what_fails_is_named() -> None:
    """An error status, an unreachable address and a stream without its end are failures; nothing is raised."""
    async with serving(make_app(SimulatorOptions(ttft_s=0, tpot_s=0, error_rate=1))) as origin:
        failures = await send_all(f"{origin}/v1", lambda: None)
    assert len(failures) == sent()
    assert {failure.split(": ")[1] for failure in failures} <= {"status 429", "status 500", "status 503"}
    assert len(await send_all(f"{origin}/v1", lambda: None)) == sent()


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
