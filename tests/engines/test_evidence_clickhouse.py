"""One report, whichever engine keeps the rows."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy.evidence.report import as_json, build
from proxy.evidence.sources.query import Window
from proxy.evidence.sources.source import read
from proxy.recorder.ledger import COLUMNS
from tests.engines.install import command
from tests.support.ledgers import DAY_S, STARTED_AT, make_row, write_ledger
from tests.support.traffic import ledger_rows

pytestmark = pytest.mark.engines

ODD = [
    dict.fromkeys(make_row())
    | {"started_at": STARTED_AT + 5, "end": "broken", "dialect": "opaque", "stream": 0}
    | {"action": "none", "usage_source": "none", "trace_id": "0"},
    make_row(model='<script>"\\ \t模型🦙', started_at=STARTED_AT + 1.25, checkpoints="[[64,0.7"),
    make_row(end="client_disconnect", finish=None, cut=None, output_tokens=None, status=None),
    make_row(arm="512", arm_unit="block:3", choices=4, decoded_tokens=None, reasoning_tokens=7),
]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """A week of simulated traffic, and rows with something odd about each."""
    usual = ledger_rows(np.random.default_rng(23), exchanges=5000, days=7)
    return [row | {"id": f"lw_{number:06d}"} for number, row in enumerate([*usual, *ODD, *ODD])]


@pytest.fixture(scope="module")
def clickhouse(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a ClickHouse that holds the rows."""
    python = command("clickhouse", "python")
    if python is None:
        pytest.skip("chdb is not installed: python tests/engines/install.py clickhouse")
    path = tmp_path_factory.mktemp("chdb") / "rows.json"
    path.write_text("".join(json.dumps({name: row.get(name) for name in COLUMNS}) + "\n" for row in rows))
    script = Path(__file__).with_name("chdb_server.py")
    with subprocess.Popen([python, script, path], stdout=subprocess.PIPE, text=True) as server:
        try:
            yield f"clickhouse://127.0.0.1:{int(server.stdout.readline())}/default"
        finally:
            server.kill()


@pytest.mark.parametrize("by_app", [False, True])
@pytest.mark.parametrize("window", [Window(), Window(STARTED_AT + DAY_S, STARTED_AT + 6.5 * DAY_S)])
def test_the_two_engines_give_equal_reports(
    clickhouse: str, rows: list[dict[str, Any]], tmp_path: Path, window: Window, by_app: bool
) -> None:
    """To the last digit, odd rows and names included."""
    ledger = write_ledger(tmp_path / "ledger.sqlite", reversed(rows))
    reports = [as_json(build(read(source, window), window, by_app=by_app)) for source in (str(ledger), clickhouse)]
    assert reports[0] == reports[1]
    assert reports[0]["exchanges"] > 3000
