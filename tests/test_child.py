"""A child process: restarts and hangs, with real processes that the tests write themselves."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import child as module
from proxy.child import Child

SILENT = """
import socket, sys, time
control = socket.socket(fileno=int(sys.argv[sys.argv.index("--control") + 1]))
line = control.makefile().readline()
open("started", "a").write("x")
control.sendall(b'{"ready":true}\\n')
if "talk" in line:
    while True:
        control.sendall(b'{"heartbeat":{}}\\n')
        time.sleep(0.01)
control.recv(100)
"""


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that says it is ready, and then nothing, or a lot; each start leaves a mark in the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "silent_child.py").write_text(SILENT)
    return tmp_path


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a state that has no event."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def marks(folder: Path) -> str:
    """One for each start so far."""
    file = folder / "started"
    return file.read_text() if file.exists() else ""


async def ended(child: Child) -> None:
    """Tell it to leave, and see it gone."""
    child.leave()
    child.kill()
    await asyncio.wait_for(child.task, 60)


async def test_a_child_that_hangs_is_killed_and_started_again(silent: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After so many looks without a word; before, it is left alone."""
    child = Child("it", "silent_child", (), dict, 3)
    await asyncio.wait_for(child.first_ready.wait(), 60)
    assert child.process is not None
    os.kill(child.process.pid, signal.SIGSTOP)  # deaf to all but SIGKILL
    first = child.process.pid
    child.look()
    child.look()
    assert child.process.returncode is None
    child.look()
    await until(lambda: child.ready and child.process is not None and child.process.pid != first)
    assert caplog.messages == [
        "it hangs: it said nothing for 3 s, and is killed",
        "it ended with code -9; restarting in 0.1 s",
    ]
    assert marks(silent) == "xx"
    await ended(child)


async def test_a_child_that_talks_is_left_alone(silent: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However often it is looked at."""
    child = Child("it", "silent_child", (), lambda: {"talk": 1}, 3)
    await asyncio.wait_for(child.first_ready.wait(), 60)
    for _ in range(20):
        heard_s = child.heartbeat_s
        child.look()
        await until(lambda heard_s=heard_s: child.heartbeat_s > heard_s)
    assert child.is_ready
    assert caplog.messages == []
    await ended(child)
    assert marks(silent) == "x"


async def test_a_child_stands_back_as_far_as_it_is_told_to(silent: Path) -> None:
    """Behind us by its niceness, and beside us without one."""
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    for niceness in (0, 5):
        child = Child("it", "silent_child", (), dict, 3, niceness=niceness)
        await asyncio.wait_for(child.first_ready.wait(), 60)
        assert child.process is not None
        assert os.getpriority(os.PRIO_PROCESS, child.process.pid) == ours + niceness
        await ended(child)


async def test_a_start_may_take_longer_than_a_silence(
    silent: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that never gets ready is killed in the end."""
    monkeypatch.setattr(module, "_START_LOOKS", 5)
    (silent / "silent_child.py").write_text("import time\nopen('started', 'a').write('x')\ntime.sleep(600)\n")
    child = Child("it", "silent_child", (), dict, 2)
    await until(lambda: marks(silent) == "x")
    for _ in range(4):
        child.look()
    assert caplog.messages == []
    child.look()
    assert caplog.messages == ["it hangs: it said nothing for 5 s, and is killed"]
    await until(lambda: marks(silent) == "xx")
    await ended(child)
