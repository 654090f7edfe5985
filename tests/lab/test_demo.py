"""The demo as a user runs it."""

import argparse
import asyncio
import contextlib
import importlib.util
import os
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from proxy.lab import demo
from proxy.lab.traffic import CLASSES, Summary

ROOT = Path(__file__).resolve().parents[2]
SENT = sum(kind.count for kind in CLASSES)


async def start(temporary: Path, *flags: str) -> asyncio.subprocess.Process:
    """Run the command with a place of its own for temporary files."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proxy.cli",
        "demo",
        *flags,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def processes_in(folder: Path) -> list[str]:
    """Processes whose working folder is, or was, inside this one."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(str(folder)):
                found.append((link.parent / "cmdline").read_text())
    return found


def requests_recorded(temporary: Path) -> int:
    """Rows in the ledger of the demo that runs with this place for temporary files."""
    for ledger in temporary.glob("lengthwise-demo-*/lengthwise.sqlite"):
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as database,
        ):
            return int(database.execute("SELECT count(*) FROM exchange").fetchone()[0])
    return 0


async def test_the_demo_shows_every_class_and_finds_every_request_in_the_ledger(tmp_path: Path) -> None:
    """Exit 0, a row for each class, as many ledger rows as requests; what is kept is where it was asked to be."""
    kept = tmp_path / "kept"
    process = await start(tmp_path, "--keep", str(kept))
    output, _ = await process.communicate()
    shown = output.decode()
    assert process.returncode == 0, shown
    for kind in CLASSES:
        assert kind.title in shown
    assert f"{SENT} requests sent, {SENT} rows in the ledger, {SENT} complete." in shown
    assert "2000->96" in shown
    assert "cut 8 (rule)" in shown
    assert "simulated" in shown
    assert "The limit that cut the answer shortened the wait" in shown
    with contextlib.closing(sqlite3.connect(kept / "lengthwise.sqlite")) as database:
        generated = dict(database.execute("SELECT app, max(output_tokens) FROM exchange GROUP BY app"))
    # Real tokens, though no client of the demo asked for usage.
    assert (generated["same-1024"], generated["same-8192"], generated["same-64"]) == (321, 321, 64)
    assert processes_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C while traffic runs: exit 1, no process and no folder left."""
    process = await start(tmp_path)
    while not requests_recorded(tmp_path):
        assert process.returncode is None
        await asyncio.sleep(0.01)
    assert processes_in(tmp_path)
    process.send_signal(number)
    output, _ = await process.communicate()
    assert process.returncode == 1, output.decode()
    assert output.decode().endswith("demo: interrupted\n")
    assert processes_in(tmp_path) == []
    assert os.listdir(tmp_path) == []  # noqa: PTH208 -- nothing blocks here any more


def arguments(*flags: str) -> argparse.Namespace:
    """The flags as the command reads them."""
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(flags)


def test_without_rich_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installation without the extra exits 2."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else found(name))
    assert demo.run(arguments()) == 2
    assert capsys.readouterr().err == 'The demo draws its table with rich: pip install "lengthwise[report]"\n'


def test_a_folder_that_is_there_is_not_written_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--keep makes a new folder, or exits 2."""
    assert demo.run(arguments("--keep", str(tmp_path))) == 2
    assert "--keep" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_does_not_start_is_an_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A proxy that refuses its settings ends the demo with 1 and shows what it said."""
    monkeypatch.setattr(demo, "_POLICIES", "version: 99\n")
    assert demo.run(arguments("--keep", str(tmp_path / "kept"))) == 1
    shown = capsys.readouterr().err
    assert "`lengthwise serve` did not start" in shown
    assert "version" in shown
    assert processes_in(tmp_path) == []


def summary(complete: int = 2, **changes: object) -> Summary:
    """The summary of a class of two requests."""
    values = {"title": "x", "requests": 2, "complete": complete, "requested_max_tokens": 8, "forwarded_max_tokens": 8}
    values |= {"generated_tokens": 5.0, "ttft_s": 0.1, "tpot_s": 0.01, "e2e_s": 1.0, "cut": 0, "rule": None}
    return Summary(**values | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("complete", "sent", "rows", "failures", "good"),
    [
        (2, 2, 2, [], True),
        (2, 2, 1, [], False),
        (2, 2, 3, [], False),
        (1, 2, 2, [], False),
        (2, 2, 2, ["x: status 500"], False),
    ],
)
def test_the_account_is_good_only_when_everything_agrees(
    complete: int, sent: int, rows: int, failures: list[str], good: bool
) -> None:
    """A missing or doubled row, an incomplete exchange or a client's failure ends the demo with 1."""
    assert demo._print_account([summary(complete)], sent, rows, failures) is good


def test_cells_show_unknown_as_unknown() -> None:
    """A time that no row has is a dash, no limit is named so, a cap shows both limits."""
    unknown = summary(
        requested_max_tokens=None, forwarded_max_tokens=None, generated_tokens=None, ttft_s=None, tpot_s=None
    )
    assert demo._cells(unknown) == ("x", "2", "no limit", "-", "-", "-", "1.00", "natural 2")
    capped = summary(forwarded_max_tokens=5, cut=1, rule="r")
    assert demo._cells(capped) == ("x", "2", "8->5", "5", "100", "10.0", "1.00", "cut 1 (rule), natural 1")


def test_the_finding_is_said_only_when_the_numbers_show_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Slack limits that differ in time, or no cut answer, leave the numbers to speak alone."""
    cut, slack, slower = summary(cut=2, e2e_s=0.5), summary(e2e_s=2.0), summary(e2e_s=3.0)
    said = []
    for same in ([cut, slack, slack], [cut, slack, slower], [slack, slack], []):
        demo._print_findings(same)
        said.append("shortened the wait" in capsys.readouterr().out)
    assert said == [True, False, False, False]
