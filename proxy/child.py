"""A child process, kept running until it is told to leave: started by exec, talked to over a control socket.

Layer: below supervisor. Its first line to the child is the whole of what it needs (`init`); each line back is a sign of life. One that
ends is started again, ever more slowly; one that says nothing for long hangs, and is ended so that it can be.

Source: ARCHITECTURE.md 3.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

__all__ = ["Child"]

_log = logging.getLogger(__name__)

_RESTART_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Pause before each restart in a row; a child that lived for `_LONG_S` begins again at the first."""
_LONG_S = 60.0
_HEARTBEAT_S = 3.0
"""A child whose sign of life (each 0.5 s) is older than this does not count as ready."""
_START_LOOKS = 30
"""A start takes about a second, mostly imports."""
_DEAF = {signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
"""A terminal and a service manager send them to the whole process group, the children included; what they mean is for the supervisor
to say, by the control socket: a recorder that left at once would miss what the workers still have to tell."""


class Child:
    """One process, kept running until it is told to leave."""

    def __init__(
        self,
        name: str,
        module: str,
        fds: tuple[int, ...],
        init: Callable[[], dict[str, Any]],
        silence_looks: int,
        *,
        niceness: int = 0,
    ) -> None:
        """Start it.

        Args:
            name: For the log.
            module: Run as `python -m MODULE --control FD`.
            fds: Further files that it inherits.
            init: Makes its first line, at each start.
            silence_looks: It hangs when it said nothing for so many looks.
            niceness: How far it stands back behind us, once it is ready, where both want the same processor (nice(2)).
        """
        self.name = name
        self.ready = False
        self.first_ready = asyncio.Event()
        """Set once and for all: tells a start from a restart."""
        self.process: asyncio.subprocess.Process | None = None
        self.heartbeat_s = 0.0
        """Monotonic moment of the last message."""
        self.failures = 0
        """Ends in a row, each soon after its start."""
        self._silence_looks = silence_looks
        self._niceness = niceness
        self._silent = 0
        self._module = module
        self._fds = fds
        self._init = init
        self._leaving = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self.task = asyncio.get_running_loop().create_task(self._keep())

    def send(self, message: dict[str, Any]) -> None:
        """One line to the child; lost while it restarts, because a restart begins with the present state."""
        if self._writer is not None:
            self._writer.write(orjson.dumps(message) + b"\n")

    def leave(self, **how: str | bool) -> None:
        """Tell it to drain or flush and exit; `how` says more to a worker: `linger`, `intake`."""
        self._leaving.set()
        self.send({"leave": True, **how})

    @property
    def is_ready(self) -> bool:
        """True when it said so, and something lately."""
        return self.ready and self.silence_s < _HEARTBEAT_S

    @property
    def silence_s(self) -> float:
        """Time since it last said anything."""
        return time.monotonic() - self.heartbeat_s

    def look(self) -> None:
        """Once a second: end it when it hangs.

        Looks are counted, not time: where the whole machine stood still, so did the looks.
        """
        self._silent += 1
        longest = self._silence_looks if self.ready else max(self._silence_looks, _START_LOOKS)
        if self._silent >= longest and self.process is not None and self.process.returncode is None:
            _log.error("%s hangs: it said nothing for %d s, and is killed", self.name, self._silent)
            self._silent = 0
            self.kill()

    def kill(self) -> None:
        """End it now."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    async def _keep(self) -> None:
        while not self._leaving.is_set():
            started_s = time.monotonic()
            try:
                end = f"code {await self._run()}"
            except OSError as error:  # no process, no socket: the machine may have some again later
                end = str(error)
            if self._leaving.is_set():
                return
            self.failures = 1 if time.monotonic() - started_s > _LONG_S else self.failures + 1
            pause_s = _RESTART_S[min(self.failures, len(_RESTART_S)) - 1]
            _log.error("%s ended with %s; restarting in %.1f s", self.name, end, pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), pause_s)

    async def _run(self) -> int | None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = await self._start(theirs.fileno())
            except OSError:
                ours.close()
                raise
        self._silent = 0
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=2**20)
        self.send({"init": self._init()})
        if self._leaving.is_set():
            self.send({"leave": True})  # whoever said so found no process yet
        try:
            async for line in reader:
                self.heartbeat_s, self._silent = time.monotonic(), 0
                if "ready" in orjson.loads(line):
                    self._stand_back()
                    self.ready = True
                    self.first_ready.set()
        except (OSError, ValueError):
            pass  # a child that died in the middle of a line
        finally:
            self.ready = False
            self._writer.close()
            self._writer = None
        return await self.process.wait()

    def _stand_back(self) -> None:
        """Once it has started: a start that waits for whoever else wants the processor could take for ever."""
        assert self.process is not None
        if not self._niceness:
            return
        with suppress(OSError):  # it is gone already, or a sandbox forbids it: then it runs like any other
            niceness = os.getpriority(os.PRIO_PROCESS, 0) + self._niceness
            # Linux has a niceness for each thread; those to come take after the one that makes them.
            tasks = Path(f"/proc/{self.process.pid}/task")
            for thread in [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else [self.process.pid]:
                os.setpriority(os.PRIO_PROCESS, thread, niceness)

    async def _start(self, control_fd: int) -> asyncio.subprocess.Process:
        # They inherit the mask: from its first instruction on, a child is deaf to what it must not act upon.
        signal.pthread_sigmask(signal.SIG_BLOCK, _DEAF)
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the folder that we were started in may hold a proxy.py or json.py of its own
                "-m",
                self._module,
                "--control",
                str(control_fd),
                stdin=asyncio.subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # what we could import, they can
                pass_fds=(control_fd, *self._fds),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _DEAF)
