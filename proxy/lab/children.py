"""Our own commands as child processes, as a user starts them: in a folder of their own, without the user's configuration.

Layer: lab.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp

import proxy
from proxy.errors import LengthwiseError

__all__ = ["ChildError", "child", "log_tails", "ready"]

_START_S = 20.0
_STOP_S = 6.0


class ChildError(LengthwiseError):
    """A command that did not start, or did not get ready; the message has the end of its log."""


@contextlib.asynccontextmanager
async def child(folder: Path, arguments: Sequence[str], announced: Sequence[str]) -> AsyncIterator[list[str]]:
    """Run one of our commands while the block lasts; yields the addresses that it prints after each of `announced`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LENGTHWISE_"))}
    # The folder is no place of ours: a source tree that is not installed is found by its path.
    paths = [str(Path(proxy.__file__).parents[1]), *filter(None, [environ.get("PYTHONPATH")])]
    environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    with _log(folder, arguments).open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "proxy.cli",
            *arguments,
            cwd=folder,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # a Ctrl-C reaches the demo alone, which ends the others in their order
        )
    reading: asyncio.Task[None] | None = None
    try:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                addresses = await _addresses(process.stdout, announced)
        except TimeoutError:
            addresses = []
        if len(addresses) < len(announced):
            raise ChildError(f"`lengthwise {arguments[0]}` did not start{log_tails(folder)}")
        reading = asyncio.create_task(_drain(process.stdout))
        yield addresses
    finally:
        try:
            await _stop(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever is left of it and of what it started
            if reading is not None:
                reading.cancel()


async def _addresses(stdout: asyncio.StreamReader, announced: Sequence[str]) -> list[str]:
    found: dict[str, str] = {}
    async for line in stdout:
        for words in announced:
            match = re.search(rf"{words} (http://\S+)", line.decode(errors="replace"))
            if match:
                found[words] = match.group(1).rstrip("/")
        if len(found) == len(announced):
            break
    return [found[words] for words in announced if words in found]


async def _drain(stdout: asyncio.StreamReader) -> None:
    while await stdout.read(65536):
        pass


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STOP_S):
            await process.wait()


def _log(folder: Path, arguments: Sequence[str]) -> Path:
    return folder / f"{arguments[0]}.log"


def log_tails(folder: Path) -> str:
    """The last lines of every log in the folder; empty where nothing was logged."""
    tails = []
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        tails += [f"\n--- {log.name}", *lines] if lines else []
    return "\n".join(tails)


async def ready(admin_url: str, folder: Path) -> None:
    """Wait until Lengthwise says that it is ready."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_S), aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{admin_url}/readyz") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.05)
    raise ChildError(f"Lengthwise did not get ready{log_tails(folder)}")
