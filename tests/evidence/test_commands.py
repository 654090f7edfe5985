"""`report` and `advise` as they are typed: what is printed where, and the exit code."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from proxy.policy.rules import parse
from tests.support.ledgers import DAY_S, STARTED_AT, make_row, write_ledger

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, with nothing of the caller's configuration."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LENGTHWISE_", "COLUMNS"))}
    return subprocess.run(
        [sys.executable, "-m", "proxy.cli", *map(str, arguments)],
        cwd=cwd,
        env=kept | {"PYTHONPATH": str(REPOSITORY)} | environ,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger of five days, in the default place."""
    rows = [make_row(started_at=STARTED_AT + day * DAY_S, app=f"app{day % 2}") for day in range(5)]
    return write_ledger(tmp_path / "lengthwise.sqlite", rows)


def test_the_report_is_printed_and_written(ledger: Path, tmp_path: Path) -> None:
    """Terminal, JSON and page in one run; without --source it is the ledger here."""
    done = run("report", "--json", "r.json", "--html", "r.html", "--caps", "64,128", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Lengthwise report  5 exchanges" in done.stdout
    assert [cap["cap"] for cap in json.loads((tmp_path / "r.json").read_text())["groups"][0]["what_if"]] == [64, 128]
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_json_alone_goes_to_standard_output(ledger: Path, tmp_path: Path) -> None:
    """Nothing else is there."""
    done = run("report", "--source", ledger, "--json", "-", "--by", "app,model", cwd=tmp_path)
    assert [group["by"]["app"] for group in json.loads(done.stdout)["groups"]] == ["app0", "app1"]


def test_a_window_of_time(ledger: Path, tmp_path: Path) -> None:
    """ISO dates; a window without an exchange is said."""
    found = run("report", "--since", "2026-09-23", "--until", "2026-09-25", "--json", "-", cwd=tmp_path)
    assert json.loads(found.stdout)["exchanges"] == 2
    none = run("report", "--since", "2027-01-01", cwd=tmp_path)
    assert (none.returncode, none.stdout) == (1, "")
    assert none.stderr == "lengthwise: lengthwise.sqlite holds no exchange in this window of time\n"


def test_the_ledger_is_that_of_the_settings_here(ledger: Path, tmp_path: Path) -> None:
    """What else is wrong with the settings does not matter to a reader."""
    ledger.rename(tmp_path / "other.sqlite")
    (tmp_path / "lengthwise.yaml").write_text("ledger: {path: other.sqlite}\nupstreams: 7\n")
    assert run("report", "--json", "-", cwd=tmp_path).returncode == 0
    (tmp_path / "lengthwise.yaml").write_text("ledger: {path: null}\n")
    none = run("report", cwd=tmp_path)
    assert (none.returncode, none.stderr) == (
        1,
        "lengthwise: the settings here keep no ledger; name one with --source\n",
    )
    (tmp_path / "lengthwise.yaml").write_text("ledger: {path: 7}\n")
    assert run("report", cwd=tmp_path).returncode == 2
    assert run("report", "--json", "-", cwd=tmp_path, LENGTHWISE_LEDGER="{path: other.sqlite}").returncode == 0


@pytest.mark.parametrize("command", ["report", "advise"])
def test_no_ledger_is_said_and_none_is_made(command: str, tmp_path: Path) -> None:
    """Exit 1, one line, and the folder as it was."""
    done = run(command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "lengthwise: there is no ledger at lengthwise.sqlite\n"
    assert list(tmp_path.iterdir()) == []


def test_another_schema_is_refused(ledger: Path, tmp_path: Path) -> None:
    """Exit 2, both versions named."""
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("PRAGMA user_version = 2")
    done = run("report", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has schema version 2, this Lengthwise reads version 1" in done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ["--caps", "128,0"],
        ["--caps", "many"],
        ["--since", "soon"],
        ["--since", "99999999999d"],
        ["--since", "1h", "--until", "24h"],
        ["--source", "postgres://user:sw0rdfish@host/db"],
        ["--by", "colour"],
        ["--json", "no/such/folder.json"],
        ["--html", "no/such/folder.html"],
        ["--source", "clickhouse://user:sw0rdfish@host/db"],
    ],
)
def test_what_cannot_be_meant_is_refused(flags: list[str], ledger: Path, tmp_path: Path) -> None:
    """Exit 2 and a reason, without a traceback and without a credential."""
    done = run("report", *flags, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert "sw0rdfish" not in done.stderr


def test_advice_is_a_policy(ledger: Path, tmp_path: Path) -> None:
    """On standard output, for `> policies.yaml`."""
    done = run("advise", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert parse(yaml.safe_load(done.stdout)).rules == ()


def test_a_missing_extra_is_named(ledger: Path, tmp_path: Path) -> None:
    """Help needs no extra; the command says which one it needs."""
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError('No module named numpy', name='numpy')\n")
    shadowed = f"{tmp_path}{os.pathsep}{REPOSITORY}"
    done = run("report", cwd=tmp_path, PYTHONPATH=shadowed)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'lengthwise report needs numpy: pip install "lengthwise[report]"\n'
    assert run("report", "--help", cwd=tmp_path, PYTHONPATH=shadowed).returncode == 0
