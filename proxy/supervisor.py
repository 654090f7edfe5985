"""The supervisor: owns the sockets, starts and restarts workers and recorder, answers for the health of the service.

Layer: supervisor. No request passes through it. It binds one listening socket that all workers inherit (closing one of
several SO_REUSEPORT sockets would reset its queue), and the recorder's two unix sockets, which outlive a recorder.

Health depends on worker heartbeats alone: neither recorder, ledger, backend nor upstream can turn it red.
Source: ARCHITECTURE.md 3, 5.8, 5.11.
"""

import asyncio
import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from proxy import __version__
from proxy.errors import LengthwiseError, SettingsError
from proxy.policy.rules import PolicySet
from proxy.settings import Address, Settings, digest, load_policies, to_json

__all__ = ["StartError", "run"]

_log = logging.getLogger(__name__)

_BACKLOG = 1024
_RESTART_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Pause before each restart in a row; a child that lived for `_LONG_S` begins again at the first."""
_LONG_S = 60.0
_HEARTBEAT_S = 3.0
"""A worker whose heartbeat (each 0.5 s) is older than this does not count as ready."""
_LEAVE_S = 3.0
"""The recorder's time to flush, and a worker's beyond `drain_s`."""
_START_S = 30.0
"""A worker starts in about 0.2 s, mostly imports; one that needs longer than this is stuck."""
_START_FAILURES = 3
"""A worker that ended so often before all were ready will not get better: the service does not start."""
_LOOK_S = 1.0
"""Between two looks at the policies file."""
_RECORDER_START_S = 5.0
"""The recorder's first start takes about one second, mostly imports."""
_SUPERVISORS = {signal.SIGINT, signal.SIGHUP, signal.SIGTERM}
"""A terminal and a service manager send them to the whole process group, the children included; what they mean is for us
to say, by the control socket: a recorder that left at once would miss what the workers still have to tell."""
_ADMIN_HEAD_BYTES = 8192
_HEAD = re.compile(
    rb"[A-Z]+ /[\w./%~-]*(?:\?[!-~]*)? HTTP/1\.[01]\r\n(?:[\w!#$%&'*+.^`|~-]+:[\t -~\x80-\xff]*\r\n)*\r\n", re.ASCII
)
"""What we answer or relay. Anything else the recorder's server would refuse too, but with its text in the log."""
_ADMIN_TIMEOUT_S = 30.0
_RELAYED = (b"host", b"accept", b"accept-encoding")
_NO_RECORDER = {"status": "unavailable", "reason": "the recorder is restarting"}

_Stamp = tuple[int, ...]


class StartError(LengthwiseError):
    """The service cannot start on this machine, for instance because an address is taken."""


class _Child:
    """One process, kept running until it is told to leave."""

    def __init__(self, name: str, module: str, fds: tuple[int, ...], init: Callable[[], dict[str, Any]]) -> None:
        self.name = name
        self.ready = False
        self.first_ready = asyncio.Event()
        """Set once and for all: tells a start from a restart."""
        self.process: asyncio.subprocess.Process | None = None
        self.heartbeat_s = 0.0
        """Monotonic moment of the last message."""
        self.failures = 0
        """Ends in a row, each soon after its start."""
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

    def leave(self) -> None:
        """Tell it to drain or flush and exit."""
        self._leaving.set()
        self.send({"leave": True})

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
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=2**20)
        self.send({"init": self._init()})
        if self._leaving.is_set():
            self.send({"leave": True})  # whoever said so found no process yet
        try:
            async for line in reader:
                self.heartbeat_s = time.monotonic()
                if "ready" in orjson.loads(line):
                    self.ready = True
                    self.first_ready.set()
        except (OSError, ValueError):
            pass  # a child that died in the middle of a line
        finally:
            self.ready = False
            self._writer.close()
            self._writer = None
        return await self.process.wait()

    async def _start(self, control_fd: int) -> asyncio.subprocess.Process:
        # They inherit the mask: from its first instruction on, a child is deaf to what it must not act upon.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SUPERVISORS)
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
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SUPERVISORS)


class _Supervisor:
    def __init__(self, settings: Settings, policies: PolicySet, listener: socket.socket, directory: str) -> None:
        self.settings = settings
        self.policies = policies
        self.policy_loaded_at_s = time.time()
        self.policy_error: str | None = None
        self._rules_since_s = dict.fromkeys(
            (rule.name for rule in policies.rules), _changed_s(settings.policies, self.policy_loaded_at_s)
        )
        """Unix time since when each rule is as it is: what the ledger says of an earlier one says nothing of it."""
        self._policies_read: _Stamp | None = ()
        """The policies file as it was last read; () before, so that a change since the start's reading is seen too."""
        self._policies_seen: _Stamp | None = ()
        self.leaving = asyncio.Event()
        self._hurried = False
        self._directory = directory
        self._intake = _unix_listener(f"{directory}/intake")
        self._admin = _unix_listener(f"{directory}/admin")
        self.recorder = _Child(
            "recorder", "proxy.recorder", (self._intake.fileno(), self._admin.fileno()), self._recorder_init
        )
        self.workers = [
            _Child(f"worker {index}", "proxy.relay", (listener.fileno(),), self._worker_init(index, listener.fileno()))
            for index in range(settings.workers)
        ]

    def _recorder_init(self) -> dict[str, Any]:
        return {
            "settings": orjson.Fragment(to_json(self.settings)),
            **self._policy_message(),
            "intake_fd": self._intake.fileno(),
            "admin_fd": self._admin.fileno(),
            "version": __version__,
            "settings_digest": digest(self.settings),
        }

    def _worker_init(self, index: int, listen_fd: int) -> Callable[[], dict[str, Any]]:
        return lambda: {
            "settings": orjson.Fragment(to_json(self.settings)),
            "policy": self.policies.document,
            "intake": f"{self._directory}/intake",
            "index": index,
            "listen_fd": listen_fd,
        }

    def _policy_message(self) -> dict[str, Any]:
        state = {
            "digest": self.policies.digest,
            "loaded_at": self.policy_loaded_at_s,
            "error": self.policy_error,
            "rules": [
                {"name": rule.name, "do": rule.do, "mode": rule.mode, "since": self._rules_since_s[rule.name]}
                for rule in self.policies.rules
            ],
        }
        return {"policy": state, "rules": self.policies.document}

    def reload(self) -> None:
        """Take the policies file as it is now, or keep the last good one and say why."""
        path = self.settings.policies
        if path is None:
            _log.info("no policies file to reload")
            return
        self._policies_read = _stamp(path)  # before it is read: a change meanwhile is one for the next look
        try:
            policies = load_policies(path, self.settings)
        except SettingsError as error:
            self.policy_error = str(error)
            _log.error("policies not reloaded, the last good ones stay: %s", error)
        else:
            self.policy_error = None
            _log.info("policies read, digest %s", policies.digest)
            if policies.digest != self.policies.digest:
                same = {rule.name for rule in policies.rules if rule in self.policies.rules}
                self.policies, self.policy_loaded_at_s = policies, time.time()
                self._rules_since_s = {
                    rule.name: self._rules_since_s[rule.name] if rule.name in same else self.policy_loaded_at_s
                    for rule in policies.rules
                }
                for worker in self.workers:
                    worker.send({"policy": policies.document})
        self.recorder.send(self._policy_message())

    def look(self) -> None:
        """Reload policies that changed and are the same at two looks: whoever writes the file is through with it."""
        if self.settings.policies is not None:
            before, self._policies_seen = self._policies_seen, _stamp(self.settings.policies)
            if before == self._policies_seen != self._policies_read:
                self.reload()

    async def watch(self) -> None:
        """Look at the policies file until told to leave."""
        while not self.leaving.is_set():
            asyncio.get_running_loop().call_soon(self.look)  # where a mistake of ours is logged and ends nothing
            with suppress(TimeoutError):
                await asyncio.wait_for(self.leaving.wait(), _LOOK_S)

    @property
    def ready_workers(self) -> int:
        """Workers that said something lately."""
        now_s = time.monotonic()
        return sum(worker.ready and now_s - worker.heartbeat_s < _HEARTBEAT_S for worker in self.workers)

    async def start(self) -> None:
        """Wait until every worker is ready, or we are told to leave.

        Raises:
            StartError: a worker cannot start.
        """
        leaving = asyncio.create_task(self.leaving.wait())
        late_s = time.monotonic() + _START_S
        while self.ready_workers < len(self.workers) and not self.leaving.is_set():
            for worker in self.workers:
                if worker.failures >= _START_FAILURES:
                    raise StartError(f"{worker.name} cannot start: it ended {worker.failures} times, see above")
                if not worker.first_ready.is_set() and time.monotonic() > late_s:
                    raise StartError(f"{worker.name} was not ready within {_START_S:.0f} s")
            await asyncio.wait([leaving], timeout=0.01)

    def stop(self) -> None:
        """The first signal drains; the second ends running answers now, with their records; a third waits for nothing."""
        if not self.leaving.is_set():
            _log.info("leaving once running answers have ended")
            self.leaving.set()
            return
        late = [worker for worker in self.workers if not worker.task.done()] or [self.recorder]
        _log.warning("told again to leave: not waiting for %s", ", ".join(child.name for child in late))
        for child in late:
            if self._hurried or child is self.recorder:
                child.kill()
            else:
                child.send({"hurry": True})
        self._hurried = True

    async def leave(self) -> None:
        """Drain the workers, then let the recorder flush what they sent last."""
        drain_s = self.settings.timeouts.drain_s
        for worker in self.workers:
            worker.leave()
        await _ended(self.workers, None if drain_s is None else drain_s + _LEAVE_S)
        self.recorder.leave()
        await _ended([self.recorder], _LEAVE_S + 1)

    # -- the admin port -----------------------------------------------------------------------------------------------

    async def admin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One admin connection, one request."""
        try:
            async with asyncio.timeout(_ADMIN_TIMEOUT_S):
                await self._answer(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone or does not speak HTTP
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, *_ = [*head.split(b"\r\n", 1)[0].split(b" "), b"", b""]
        path = target.split(b"?", 1)[0]
        if not _HEAD.fullmatch(head):
            await _reply(writer, method, 400, {"status": "refused", "reason": "no HTTP/1.1 request"})
        elif path == b"/healthz":
            # Alive while this loop runs; workers restart by themselves, so their absence is no reason to kill us.
            await _reply(writer, method, 200, {"status": "ok"})
        elif path == b"/readyz":
            ready, wanted = self.ready_workers, len(self.workers)
            ok = ready > 0 and not self.leaving.is_set()
            reason = "draining" if self.leaving.is_set() else None if ok else "no worker is ready"
            body = {"status": "ok" if ok else "unavailable", "workers_ready": ready, "workers": wanted}
            await _reply(writer, method, 200 if ok else 503, body if reason is None else body | {"reason": reason})
        else:
            # Traffic does not wait for the recorder to start; whoever asks for metrics in the first second may.
            with suppress(TimeoutError):
                await asyncio.wait_for(self.recorder.first_ready.wait(), _RECORDER_START_S)
            if self.recorder.ready:
                await self._relay(head, writer)
            else:
                await _reply(writer, method, 503, _NO_RECORDER)

    async def _relay(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        """The recorder answers; one request for each connection, so that nothing has to be parsed on the way back.

        Nothing on the admin port takes a body, and none is relayed, nor any field that could announce one.
        """
        start, *lines = head.rstrip(b"\r\n").split(b"\r\n")
        fields = {line.partition(b":")[0].lower(): line for line in lines}
        relayed = [fields[name] for name in _RELAYED if name in fields]
        from_recorder, to_recorder = await asyncio.open_unix_connection(f"{self._directory}/admin")
        to_recorder.write(b"\r\n".join((start, *relayed, b"Connection: close", b"", b"")))
        try:
            if not await _copy(from_recorder, writer):
                await _reply(writer, head.split(b" ", 1)[0], 503, _NO_RECORDER)
        finally:
            to_recorder.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Bytes copied until either side ended or broke."""
    copied = 0
    with suppress(OSError):
        while data := await reader.read(65536):
            copied += len(data)
            writer.write(data)
            await writer.drain()
    return copied


async def _reply(writer: asyncio.StreamWriter, method: bytes, status: int, body: dict[str, Any]) -> None:
    text = orjson.dumps(body) + b"\n"
    reason = {200: b"OK", 400: b"Bad Request", 503: b"Service Unavailable"}[status]
    writer.write(
        b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        % (status, reason, len(text))
    )
    if method != b"HEAD":
        writer.write(text)
    await writer.drain()


async def _ended(children: list[_Child], timeout_s: float | None) -> None:
    if not children:
        return
    _, late = await asyncio.wait([child.task for child in children], timeout=timeout_s)
    for child in children:
        if child.task in late:
            _log.error("%s did not leave in time and is killed", child.name)
            child.kill()
    if late:
        await asyncio.wait(late)


def _stamp(path: Path) -> _Stamp | None:
    """What tells one state of a file from another, a renamed or repaired one included; None when it is not there."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _changed_s(path: Path | None, now_s: float) -> float:
    """Unix time of a file's last change, at most now; now where there is none."""
    try:
        return now_s if path is None else min(path.stat().st_mtime, now_s)
    except OSError:
        return now_s


def _listener(address: Address) -> socket.socket:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(found[0], socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(found[4])
        sock.listen(_BACKLOG)
    except OSError as error:
        raise StartError(f"cannot listen on {address}: {error.strerror or error}") from error
    sock.setblocking(False)
    return sock


def _unix_listener(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on {path}: {error.strerror or error}") from error
    sock.listen(_BACKLOG)
    sock.setblocking(False)
    return sock


def _url(sock: socket.socket, scheme: str) -> str:
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def _serve(settings: Settings, policies: PolicySet, directory: str, say: Callable[[str], None]) -> None:
    listener = _listener(settings.listen)
    admin_listener = _listener(settings.admin)
    supervisor = _Supervisor(settings, policies, listener, directory)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    admin = await asyncio.start_server(supervisor.admin, sock=admin_listener, limit=_ADMIN_HEAD_BYTES)
    try:
        await supervisor.start()
        if not supervisor.leaving.is_set():
            say(f"listening on {_url(listener, 'https' if settings.listen_tls else 'http')}/v1")
            say(f"admin on {_url(admin_listener, 'http')}")
        await supervisor.watch()
    finally:
        # From here new connections are refused, unless a successor listens on the same socket.
        listener.close()
        await supervisor.leave()
        admin.close()


def run(settings: Settings, policies: PolicySet, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `say` gets the two ready lines.

    Raises:
        StartError: an address cannot be bound, or the workers cannot start.
    """
    # Unix socket paths are limited to some 100 bytes, so the directory is the system's, readable by us alone.
    try:
        directory = tempfile.mkdtemp(prefix="lengthwise-")
    except OSError as error:
        raise StartError(f"cannot make a folder for sockets: {error.strerror or error}") from error
    try:
        asyncio.run(_serve(settings, policies, directory, say))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
