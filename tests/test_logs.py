"""Log lines: their shape, what is never in them, and that nobody waits for them."""

import asyncio
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from proxy import logs
from proxy.settings import Logs
from tests.support.serve import ROOT

log = logging.getLogger("proxy.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The handlers and levels of the test run."""
    root, ours = logging.getLogger(), logging.getLogger("proxy")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def written(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The lines so far."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    return capfd.readouterr().err.splitlines()


def test_json_is_one_object_on_each_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Time in UTC, level, process, logger, message, and the fields that a line has."""
    logs.configure(Logs(format="json"), "worker 1")
    log.info("exchange", extra={"fields": {"model": 'a"\n', "status": 200}})
    log.warning("second of %d", 2)
    first, second = map(json.loads, written(capfd))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.pop("time"))
    del second["time"]
    shared = {"process": "worker 1", "logger": "proxy.test"}
    assert first == shared | {"level": "info", "message": "exchange", "model": 'a"\n', "status": 200}
    assert second == shared | {"level": "warning", "message": "second of 2"}


def test_console_is_one_line_for_readers(capfd: pytest.CaptureFixture[str]) -> None:
    """Values that hold more than a word are quoted, so that no client can forge a line or a colour."""
    logs.configure(Logs(), "recorder")
    log.info("exchange", extra={"fields": {"model": "gpt-4o", "app": "a b\n\x1b[31m", "ttft_s": 0.25}})
    (line,) = written(capfd)
    assert re.fullmatch(
        r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO recorder: exchange model=gpt-4o app="a b\\n\\u001b\[31m" ttft_s=0\.25',
        line,
    )


@pytest.mark.parametrize("form", ["console", "json"])
async def test_an_exception_is_named_and_placed_but_not_quoted(capfd: pytest.CaptureFixture[str], form: str) -> None:
    """Its text could hold what was in our hands."""
    logs.configure(Logs(format=form), "worker 0")
    try:
        int("sk-secret")
    except ValueError as error:
        log.exception("it failed")
        logs.report(asyncio.get_running_loop(), {"exception": error, "message": "sk-secret"})
    logs.report(asyncio.get_running_loop(), {"message": "sk-secret"})
    logs.report(asyncio.get_running_loop(), {"exception": ConnectionResetError("sk-secret")})
    lines = written(capfd)
    assert len(lines) == 3
    place = r"ValueError < test_logs\.py:\d+ test_an_exception_is_named_and_placed_but_not_quoted"
    assert [bool(re.search(place, line)) for line in lines] == [True, True, False]
    assert "sk-secret" not in "".join(lines)


def test_levels_are_ours_and_libraries_are_heard_from_warnings_on(capfd: pytest.CaptureFixture[str]) -> None:
    """What a library says at debug could be anything."""
    logs.configure(Logs(level="debug"), "recorder")
    log.debug("ours")
    logging.getLogger("aiohttp").info("theirs")
    logging.getLogger("aiohttp").warning("their warning")
    logs.configure(Logs(level="error"), "recorder")
    log.warning("ours again")
    assert [line.partition("recorder: ")[2] for line in written(capfd)] == ["ours", "their warning"]


def test_a_line_that_cannot_be_made_costs_itself(capfd: pytest.CaptureFixture[str]) -> None:
    """The next one is written."""
    logs.configure(Logs(), "recorder")
    log.info("%d", "none")
    log.info("next")
    first, second = written(capfd)
    assert first == "a log line could not be made: TypeError"
    assert second.endswith("next")


def test_nobody_waits_for_a_reader_that_does_not_read() -> None:
    """A pipe that is full: the process goes on and ends; every line is there or counted as lost."""
    script = (
        "import logging\n"
        "from proxy import logs\n"
        "from proxy.settings import Logs\n"
        "logs.configure(Logs(), 'worker 0')\n"
        "for number in range(5000):\n"
        "    logging.getLogger('proxy').info('x' * 200)\n"
        "print('went on', flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "went on\n"
        lines = [process.stderr.readline()]
        while not lines[-1].endswith("were lost: nobody took them\n"):
            lines.append(process.stderr.readline())
        process.communicate("\n", timeout=60)
    lost = int(lines.pop().split()[0])
    assert lost > 0
    assert len(lines) + lost == 5000
