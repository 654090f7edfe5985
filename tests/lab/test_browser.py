"""Showing a page to whoever is there."""

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from proxy.lab import browser
from tests.support.otlp import wait_until

URL = "http://127.0.0.1:9464/?window=60"


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Standard output is a terminal."""
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as screen, contextlib.redirect_stdout(screen):  # noqa: PTH123 -- a descriptor
        yield
    os.close(ours)


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """A browser that writes down what it is given, and what it wrote."""
    command = tmp_path / "browser"
    command.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/part && mv {tmp_path}/part {tmp_path}/opened\n')
    command.chmod(0o755)
    return tmp_path / "opened"


def _desktop(**changes: str) -> Mapping[str, str]:
    return {"PATH": os.environ["PATH"], "DISPLAY": ":0"} | changes


def test_on_a_desktop_the_page_opens(opened: Path) -> None:
    """In the browser that the user chose."""
    with terminal():
        assert browser.show(URL, _desktop(BROWSER=f"{opened.parent}/browser %s &"))
    wait_until(opened.exists)
    assert opened.read_text() == URL


def test_what_lies_in_this_folder_is_not_run(opened: Path) -> None:
    """A file named like a module of Python's may be anybody's."""
    (opened.parent / "webbrowser.py").write_text("raise SystemExit\n")
    with terminal(), contextlib.chdir(opened.parent):
        assert browser.show(URL, _desktop(BROWSER=f"{opened.parent}/browser %s &"))
        wait_until(opened.exists)


@pytest.mark.parametrize("changes", [{"DISPLAY": ""}, {"CI": "true"}, {"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}])
def test_where_nobody_sees_a_screen_nothing_is_started(changes: dict[str, str]) -> None:
    """A server, a job, a remote shell."""
    with terminal():
        assert not browser.show(URL, _desktop(**changes))


def test_into_a_pipe_nothing_is_started() -> None:
    """Whoever reads it later has no use for it."""
    assert not browser.show(URL, _desktop())


@pytest.mark.parametrize("command", ["{}/browser", "{}/browser %s", "/no/such"])
def test_a_browser_that_needs_the_terminal_is_left_alone(opened: Path, command: str) -> None:
    """The demo has it; what cannot be started is nobody's trouble either."""
    environ = _desktop(BROWSER=command.format(opened.parent))
    subprocess.run([sys.executable, "-c", browser._OPEN, URL], env=environ, check=False, stderr=subprocess.DEVNULL)
    assert not opened.exists()
