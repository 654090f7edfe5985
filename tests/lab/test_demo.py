"""The demo as a user runs it."""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.lab import demo, demo_run
from proxy.lab.traffic import BATCHES, CLASSES, sent

ROOT = Path(__file__).resolve().parents[2]
ALL = sent() + 96
"""Requests of the traffic and of the probe."""

WITHOUT_RICH = """
import sys

class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name == "rich":
            raise ModuleNotFoundError("No module named 'rich'", name=name)

sys.meta_path.insert(0, Hiding())
from proxy.cli import main
sys.exit(main(sys.argv[1:]))
"""


async def start(temporary: Path, *flags: str) -> asyncio.subprocess.Process:
    """Run the command with a place of its own for temporary files."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proxy.cli",
        "demo",
        *flags,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1", "COLUMNS": "80"},
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


async def test_the_demo_answers_the_question_and_finds_every_request_in_the_ledger(tmp_path: Path) -> None:
    """Exit 0, a row for each application, as many ledger rows as requests, three answers; what is kept is where it was asked to be."""
    kept = tmp_path / "kept"
    process = await start(tmp_path, "--keep", str(kept))
    output, _ = await process.communicate()
    shown = output.decode()
    assert process.returncode == 0, shown
    assert re.search(
        r"Watch the live page; it fills as long as this runs:\n\n  http://127\.0\.0\.1:\d+/\?window=60\n", shown
    )
    for kind in (*CLASSES, *BATCHES):
        assert f"\n{kind.name} " in shown
    assert f"{ALL} requests sent, {ALL} rows in the ledger, {ALL} complete." in shown
    assert re.search(r"assistant +sim-large +16 +2,000 > 96 +96 .* 16 \(rule\)\n", shown)
    assert "sim-small ───" in shown
    answers = " ".join(shown.partition("what happens to latency? ─")[2].split())
    assert "1. The limit cuts (case A): time falls with the tokens." in answers
    assert "all of the answers were cut: 64 tokens instead of 160" in answers
    assert "2. The limit is not reached (case B):" in answers
    assert (
        "3. What remains is a queue. On a provider that reserves the limit, with max_tokens 8,192 instead of 512"
        in answers
    )
    assert "each request waited until its whole limit was free" in answers
    with contextlib.closing(sqlite3.connect(kept / "lengthwise.sqlite")) as database:
        generated = dict(database.execute("SELECT app, max(output_tokens) FROM exchange GROUP BY app"))
    # Real tokens, though no client of the traffic asked for usage.
    assert (generated["summary"], generated["batch-512"], generated["batch-8192"], generated[None]) == (
        128,
        120,
        120,
        160,
    )
    starts = {path.name: path.read_text()[:14] for path in kept.iterdir() if path.suffix in {".html", ".svg"}}
    page = "<!doctype html"
    assert starts == {"answer.svg": '<svg class="ri', "report.html": page, "probe.html": page}
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


@pytest.mark.parametrize("command", ["demo", "probe --base-url http://a --model m --limits 1,2"])
def test_without_its_packages_one_line_says_what_to_install(command: str) -> None:
    """An installation without the extra exits 2; the flags are explained all the same."""
    for flags, code, said in (
        ("", 2, f'lengthwise {command.partition(" ")[0]} needs rich: pip install "lengthwise[report]"\n'),
        ("--help", 0, ""),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", WITHOUT_RICH, *command.split(), *flags.split()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (code, said)


def test_a_folder_that_is_there_is_not_written_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--keep makes a new folder, or exits 2."""
    assert demo.run(arguments("--keep", str(tmp_path))) == 2
    assert "--keep" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_does_not_start_is_an_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A proxy that refuses its settings ends the demo with 1 and shows what it said."""
    monkeypatch.setattr(demo_run, "_POLICIES", "version: 99\n")
    assert demo.run(arguments("--keep", str(tmp_path / "kept"))) == 1
    shown = capsys.readouterr().err
    assert "`lengthwise serve` did not start" in shown
    assert "version" in shown
    assert processes_in(tmp_path) == []
