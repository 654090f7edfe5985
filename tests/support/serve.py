"""Lengthwise as a user starts it: the command in a process of its own, with a settings file, on ports that are free.

    with serving({"upstreams": [{"name": "fake", "url": url}]}) as served:
        client = openai.OpenAI(base_url=served.base_url, ...)
        ...
        (row,) = served.rows(1)

`serving` blocks while it starts and stops. A test whose upstream or collector runs in the test's own event loop takes
`serving_async`, which leaves that loop running meanwhile.
"""

import asyncio
import contextlib
import os
import queue
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import yaml

ROOT = Path(__file__).resolve().parents[2]
START_S = 30.0
STOP_S = 60.0
ROWS_S = 15.0
LISTENING = "listening on "
ADMIN = "admin on "

_open = build_opener(ProxyHandler({})).open  # an outer proxy has no business between a test and this machine


@dataclass(frozen=True, slots=True)
class Served:
    """A running Lengthwise."""

    base_url: str
    """What an application sets as base_url: ends in `/v1`."""
    admin_url: str
    """Without a slash at its end."""
    ledger_path: Path | None
    """None when the settings switch the ledger off."""
    process: subprocess.Popen[str]
    """The supervisor."""
    folder: Path
    """Where the settings file is; relative paths in it start here."""

    @property
    def url(self) -> str:
        """The data port without `/v1`."""
        return self.base_url.removesuffix("/v1")

    @property
    def log(self) -> str:
        """Everything that was written to stderr so far, by all processes."""
        return (self.folder / "stderr.txt").read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET on the admin port; status 0 and the reason when nothing answered."""
        try:
            with _open(self.admin_url + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (URLError, OSError) as error:
            return 0, str(error)

    def rows(self, count: int) -> list[dict[str, Any]]:
        """The ledger's rows in the order in which they were written, as soon as there are at least `count`.

        Raises:
            AssertionError: they did not come.
        """
        assert self.ledger_path is not None, "the settings switch the ledger off"
        found: list[dict[str, Any]] = []
        deadline_s = time.monotonic() + ROWS_S
        while time.monotonic() < deadline_s:
            found = _read(self.ledger_path)
            if len(found) >= count:
                return found
            time.sleep(0.02)
        raise AssertionError(f"{len(found)} ledger rows, expected {count}; stderr:\n{self.log}")


def _read(path: Path) -> list[dict[str, Any]]:
    """All rows; none while the file or its table does not exist yet."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM exchange ORDER BY rowid")]
    except sqlite3.OperationalError:
        return []


@contextlib.contextmanager
def serving(
    settings: Mapping[str, Any] | str,
    *,
    policies: Mapping[str, Any] | str | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """Runs `lengthwise serve` until the block ends, then stops it by SIGTERM.

    `settings` and `policies` are the files' contents, as text or data. `listen` and `admin` default to free ports of
    the loopback interface. Nothing named OTEL_* or LENGTHWISE_* is inherited, and no vocabularies are found; `env` adds
    to the environment.

    Raises:
        AssertionError: it did not get ready, or did not leave after SIGTERM; with its stderr.
    """
    served = _start(settings, policies, env or {})
    try:
        yield served
    finally:
        _stop(served)


@contextlib.asynccontextmanager
async def serving_async(
    settings: Mapping[str, Any] | str,
    *,
    policies: Mapping[str, Any] | str | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Served]:
    """`serving` for a test whose own event loop must go on while Lengthwise starts and stops."""
    served = await asyncio.to_thread(_start, settings, policies, env or {})
    try:
        yield served
    finally:
        await asyncio.to_thread(_stop, served)


def _start(
    settings: Mapping[str, Any] | str, policies: Mapping[str, Any] | str | None, env: Mapping[str, str]
) -> Served:
    folder = Path(tempfile.mkdtemp(prefix="lengthwise-"))
    text = _text(settings)
    known = yaml.safe_load(text) or {}
    free = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    text += "".join(f"\n{key}: {value}" for key, value in free.items() if key not in known)
    (folder / "lengthwise.yaml").write_text(text + "\n", encoding="utf-8")
    if policies is not None:
        (folder / "policies.yaml").write_text(_text(policies), encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LENGTHWISE_"))}
    command = [sys.executable, "-m", "proxy.cli", "serve", "--config", str(folder / "lengthwise.yaml")]
    with (folder / "stderr.txt").open("wb") as stderr:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=inherited | {"PYTHONUNBUFFERED": "1", "TIKTOKEN_CACHE_DIR": str(folder)} | dict(env),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # so that what it started can be ended with it when it fails
        )
    ledger = (known.get("ledger") or {}).get("path", "lengthwise.sqlite")
    served = Served("", "", None if ledger is None else folder / ledger, process, folder)
    try:
        lines = _lines(process)
        return _ready(served, lines)
    except BaseException:
        _kill(served)
        raise


def _text(content: Mapping[str, Any] | str) -> str:
    return content if isinstance(content, str) else yaml.safe_dump(dict(content), sort_keys=False)


def _lines(process: subprocess.Popen[str]) -> "queue.Queue[str | None]":
    """Stdout line by line, then None; read to its end, so that the process never blocks on a full pipe."""
    lines: queue.Queue[str | None] = queue.Queue()
    stdout = process.stdout
    assert stdout is not None

    def read() -> None:
        with stdout:
            for line in stdout:
                lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _ready(served: Served, lines: "queue.Queue[str | None]") -> Served:
    """Waits for both addresses and for `/readyz`."""
    found: dict[str, str] = {}
    deadline_s = time.monotonic() + START_S
    while len(found) < 2:
        try:
            line = lines.get(timeout=max(deadline_s - time.monotonic(), 0))
        except queue.Empty:
            line = None
        assert line is not None, f"serve printed no addresses (exit {served.process.poll()}); stderr:\n{served.log}"
        for start in (LISTENING, ADMIN):
            if line.startswith(start):
                found[start] = line.removeprefix(start).split()[0].rstrip("/")
    ready = Served(found[LISTENING], found[ADMIN], served.ledger_path, served.process, served.folder)
    answer = (0, "")
    while time.monotonic() < deadline_s and ready.process.poll() is None:
        answer = ready.get("/readyz")
        if answer[0] == 200:
            return ready
        time.sleep(0.02)
    raise AssertionError(f"not ready: {answer} (exit {ready.process.poll()}); stderr:\n{ready.log}")


def _stop(served: Served) -> None:
    """SIGTERM, as a service manager stops it; a process that stays is killed and reported."""
    if served.process.poll() is None:
        served.process.send_signal(signal.SIGTERM)
    try:
        served.process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        log = served.log
        _kill(served)
        raise AssertionError(f"still there {STOP_S:.0f} s after SIGTERM; stderr:\n{log}") from None
    log = served.log
    _kill(served)
    assert "internal error" not in log, log  # what no callback caught: a mistake of ours, whatever the test is about


def _kill(served: Served) -> None:
    """Ends whatever is left of the process group and removes the folder."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(served.process.pid, signal.SIGKILL)
    served.process.wait()
    shutil.rmtree(served.folder, ignore_errors=True)
