"""The supervisor: owns the sockets, starts and restarts workers and recorder, answers for the health of the service.

Layer: supervisor. No request passes through it. It has one listening socket that all workers inherit (closing one of
several SO_REUSEPORT sockets would reset its queue), and the recorder's two unix sockets, which outlive a recorder.

Signals: SIGTERM and SIGINT drain, SIGHUP reads the policies again, SIGUSR1 replaces the workers one after the other (for renewed
certificates), SIGUSR2 replaces all of it (for new settings, or a new version): see `handover`.

Health depends on worker heartbeats alone: neither recorder, ledger, backend nor upstream can turn it red.
Source: ARCHITECTURE.md 3, 5.8, 5.11.
"""

import asyncio
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from proxy import __version__, logs
from proxy.child import Child
from proxy.errors import SettingsError
from proxy.handover import HandoverError, Listeners, Successor, listeners
from proxy.listeners import StartError, notify, socket_folder, unix
from proxy.policy.rules import PolicySet
from proxy.settings import Settings, digest, load_policies, to_json

__all__ = ["StartError", "run"]

_log = logging.getLogger(__name__)

_LEAVE_S = 3.0
"""The recorder's time to flush, and a worker's beyond `drain_s`."""
_START_S = 30.0
"""A worker starts in about 0.2 s, mostly imports; one that needs longer than this is stuck."""
_START_FAILURES = 3
"""A worker that ended so often before all were ready will not get better: the service does not start."""
_LOOK_S = 1.0
"""Between two looks at the policies file."""
_WORKER_SILENCE_LOOKS = 10
_RECORDER_SILENCE_LOOKS = 60
"""Nothing waits for the recorder, and a disk that stalls is no reason to lose what it holds."""
_RECORDER_NICENESS = 10
"""Where workers want its processor it gets about a tenth of it, and drops what it cannot take: traffic never pays for records."""
_RECORDER_START_S = 15.0
"""The recorder's first start takes about one second, mostly imports."""
_RECORDER_SILENCE_S = 10.0
"""A slow disk, or a processor that workers want, may keep it from speaking for some seconds; who asks waits so long, and no longer."""
_ADMIN_HEAD_BYTES = 8192
_HEAD = re.compile(
    rb"[A-Z]+ /[\w./%~-]*(?:\?[!-~]*)? HTTP/1\.[01]\r\n(?:[\w!#$%&'*+.^`|~-]+:[\t -~\x80-\xff]*\r\n)*\r\n", re.ASCII
)
"""What we answer or relay. Anything else the recorder's server would refuse too, but with its text in the log."""
_ADMIN_TIMEOUT_S = 30.0
_RELAYED = (b"host", b"accept", b"accept-encoding", b"authorization", b"if-none-match")
_NO_RECORDER = {"status": "unavailable", "reason": "the recorder is restarting"}
_SILENT_RECORDER = {"status": "unavailable", "reason": "the recorder says nothing"}

_Stamp = tuple[int, ...]


class _Supervisor:
    def __init__(self, settings: Settings, policies: PolicySet, sockets: Listeners, directory: str) -> None:
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
        self._sockets = sockets
        self._replacing: asyncio.Task[None] | None = None
        self._succession: asyncio.Task[None] | None = None
        self._draining: set[asyncio.Task[None]] = set()
        self._heir: dict[str, str | bool] = {"linger": True} if sockets.kept else {}
        """What workers are told at the end, where somebody else listens on."""
        self.admin_server: asyncio.Server | None = None
        self._intake = unix(f"{directory}/intake")
        self._admin = unix(f"{directory}/admin")
        # First, because a start waits for them alone.
        self.workers = [self._worker(index) for index in range(settings.workers)]
        self.recorder = Child(
            "recorder",
            "proxy.recorder",
            (self._intake.fileno(), self._admin.fileno()),
            self._recorder_init,
            _RECORDER_SILENCE_LOOKS,
            niceness=_RECORDER_NICENESS,
        )
        self.others: list[Child] = []
        """Workers that are not counted on: they only start, or drain."""

    def _worker(self, index: int) -> Child:
        listen_fd = self._sockets.data.fileno()
        init = self._worker_init(index, listen_fd)
        return Child(f"worker {index}", "proxy.relay", (listen_fd,), init, _WORKER_SILENCE_LOOKS)

    def _recorder_init(self) -> dict[str, Any]:
        return {
            "settings": orjson.Fragment(to_json(self.settings)),
            **self._policy_message(),
            "intake_fd": self._intake.fileno(),
            "admin_fd": self._admin.fileno(),
            "version": __version__,
            "settings_digest": digest(self.settings),
            "supervisor_pid": os.getpid(),
        }

    def _worker_init(self, index: int, listen_fd: int) -> Callable[[], dict[str, Any]]:
        return lambda: {
            "settings": orjson.Fragment(to_json(self.settings)),
            "policy": self.policies.document,
            "intake": self.intake_path,
            "index": index,
            "listen_fd": listen_fd,
        }

    @property
    def intake_path(self) -> str:
        """Where workers connect to hand over their records."""
        return f"{self._directory}/intake"

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
            _log.info(
                "no policies file to reload: none was there at the start, and one that came later needs a restart"
            )
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
                for worker in (*self.workers, *self.others):
                    worker.send({"policy": policies.document})
        self.recorder.send(self._policy_message())

    def look(self) -> None:
        """Reload policies that changed and are the same at two looks: whoever writes the file is through with it."""
        if self.settings.policies is not None:
            before, self._policies_seen = self._policies_seen, _stamp(self.settings.policies)
            if before == self._policies_seen != self._policies_read:
                self.reload()

    async def watch(self) -> None:
        """Look at the policies file and at the children until told to leave."""
        while not self.leaving.is_set():
            loop = asyncio.get_running_loop()
            loop.call_soon(self.look)  # where a mistake of ours is logged and ends nothing
            for child in (*self.workers, *self.others, self.recorder):
                loop.call_soon(child.look)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.leaving.wait(), _LOOK_S)

    @property
    def ready_workers(self) -> int:
        """Workers that said something lately."""
        return sum(worker.is_ready for worker in self.workers)

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

    def replace_workers(self) -> None:
        """Begin to replace them, unless that is going on."""
        if self.leaving.is_set() or (self._replacing is not None and not self._replacing.done()):
            _log.info("workers are not replaced: it is going on, or we leave")
            return
        self._replacing = asyncio.get_running_loop().create_task(self._replace_workers())

    async def _replace_workers(self) -> None:
        """One after the other: each drains when the next of its place is ready."""
        for index, old in enumerate(self.workers):
            fresh = self._worker(index)
            self.others.append(fresh)
            try:
                await asyncio.wait_for(fresh.first_ready.wait(), _START_S)
            except TimeoutError:
                _log.error("worker %d is not replaced: the new one was not ready within %.0f s", index, _START_S)
                fresh.leave()
                await self._until_gone(fresh)
                return
            if self.leaving.is_set():
                return
            self.workers[index] = fresh
            self.others.remove(fresh)
            self.others.append(old)
            old.leave(linger=True)
            self._draining.add(draining := asyncio.get_running_loop().create_task(self._until_gone(old)))
            draining.add_done_callback(self._draining.discard)
        _log.info("workers replaced")

    async def _until_gone(self, worker: Child) -> None:
        drain_s = self.settings.timeouts.drain_s
        await _ended([worker], None if drain_s is None else drain_s + _LEAVE_S)
        self.others.remove(worker)

    def succeed(self) -> None:
        """Begin to hand over to a successor, unless that is going on."""
        if self.leaving.is_set() or (self._succession is not None and not self._succession.done()):
            _log.info("no successor is started: one is starting, or we leave")
            return
        self._succession = asyncio.get_running_loop().create_task(self._hand_over())

    async def _hand_over(self) -> None:
        try:
            successor = Successor.start(self._sockets, os.environ)
        except OSError as error:
            _log.error("no successor can be started, still serving: %s", error.strerror)
            return
        try:
            intake = await successor.ready()
        except HandoverError as error:
            _log.error("the successor did not get ready, still serving: %s", error)
            return
        except asyncio.CancelledError:  # told to leave: so is it, while our own workers drain
            await asyncio.to_thread(successor.end)  # which ends before our process, whatever becomes of this task
            raise
        _log.info("process %d took over", successor.process.pid)
        notify(os.environ, f"MAINPID={successor.process.pid}")
        self._heir = {"linger": True, "intake": intake}
        if self.admin_server is not None:
            self.admin_server.close()
        self._begin_to_leave()

    def stop(self) -> None:
        """The first signal drains; the second ends running answers now, with their records; a third waits for nothing."""
        if not self.leaving.is_set():
            notify(os.environ, "STOPPING=1")
            for task in (self._succession, self._replacing):
                if task is not None:
                    task.cancel()
            self._begin_to_leave()
            return
        late = [worker for worker in (*self.workers, *self.others) if not worker.task.done()] or [self.recorder]
        _log.warning("told again to leave: not waiting for %s", ", ".join(child.name for child in late))
        for child in late:
            if self._hurried or child is self.recorder:
                child.kill()
            else:
                child.send({"hurry": True})
        self._hurried = True

    def _begin_to_leave(self) -> None:
        _log.info("leaving once running answers have ended")
        self.leaving.set()

    async def leave(self) -> None:
        """Drain the workers, then let the recorder flush what they sent last."""
        drain_s = self.settings.timeouts.drain_s
        workers = [*self.workers, *self.others]
        for worker in workers:
            worker.leave(**self._heir)
        await _ended(workers, None if drain_s is None else drain_s + _LEAVE_S)
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
            if not self.recorder.ready:
                await _reply(writer, method, 503, _NO_RECORDER)
            elif self.recorder.silence_s > _RECORDER_SILENCE_S:
                await _reply(writer, method, 503, _SILENT_RECORDER)
            else:
                await self._relay(head, writer)

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


async def _ended(children: list[Child], timeout_s: float | None) -> None:
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


def _url(sock: socket.socket, scheme: str) -> str:
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _what_runs(settings: Settings, policies: PolicySet) -> str:
    """Where requests go, by which rules, and where their rows are: files of the current folder are found without being named."""
    upstreams = ", ".join(f"{upstream.name} ({upstream.host})" for upstream in settings.upstreams)
    enforcing = sum(rule.enforces for rule in policies.rules)
    rules = (
        "no rules"
        if settings.policies is None
        else f"rules of {settings.policies}: {len(policies.rules)}, {enforcing} enforced"
    )
    return f"relaying to {upstreams}; {rules}; ledger: {settings.ledger.path or 'none'}"


async def _serve(settings: Settings, policies: PolicySet, directory: str, say: Callable[[str], None]) -> None:
    sockets, predecessor = listeners(settings, os.environ)
    supervisor = _Supervisor(settings, policies, sockets, directory)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.report)
    for numbers, act in (
        ((signal.SIGTERM, signal.SIGINT), supervisor.stop),
        ((signal.SIGHUP,), supervisor.reload),
        ((signal.SIGUSR1,), supervisor.replace_workers),
        ((signal.SIGUSR2,), supervisor.succeed),
    ):
        for number in numbers:
            loop.add_signal_handler(number, act)
            signal.pthread_sigmask(
                signal.SIG_UNBLOCK, {number}
            )  # a predecessor may have been starting children of its own

    async def answer_admin() -> None:
        supervisor.admin_server = await asyncio.start_server(
            supervisor.admin, sock=sockets.admin, limit=_ADMIN_HEAD_BYTES
        )

    try:
        if predecessor is None:  # else it answers until we are ready
            await answer_admin()
        await supervisor.start()
        if predecessor is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(supervisor.recorder.first_ready.wait(), _RECORDER_START_S)
            await answer_admin()
            predecessor.ready(supervisor.intake_path)
        if not supervisor.leaving.is_set():
            say(f"listening on {_url(sockets.data, 'https' if settings.listen_tls else 'http')}/v1")
            say(f"admin on {_url(sockets.admin, 'http')}")
            say(f"live page on {_url(sockets.admin, 'http')}/")
            _log.info("%s", _what_runs(settings, policies))
            notify(os.environ, "READY=1")
        await supervisor.watch()
    finally:
        # From here new connections are refused, unless a successor or a service manager listens on the same socket.
        sockets.data.close()
        await supervisor.leave()
        if supervisor.admin_server is not None:
            supervisor.admin_server.close()
        sockets.admin.close()


def run(settings: Settings, policies: PolicySet, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM, SIGINT or a successor; `say` gets the three ready lines.

    Raises:
        StartError: an address cannot be bound, or the workers cannot start.
    """
    with socket_folder() as directory:
        asyncio.run(_serve(settings, policies, directory, say))
