"""The recorder as the supervisor starts it: inherited sockets, a control channel, and a worker's end of the intake.

    with RecorderHost(tmp_path, telemetry={...}, environ={...}) as host:
        host.start()
        worker = host.worker(0, pid=1)
        assert worker.send([record]) == 1          # the acknowledged number
        host.get("/status")

The sockets belong to the host: `kill` and `start` again are a restart as the supervisor would do it.
"""

import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import orjson
import yaml

from proxy.record import ExchangeRecord
from proxy.settings import digest, load, to_json

ROOT = Path(__file__).resolve().parents[2]
VERSION = "0.0.test"
PATIENCE_S = 60.0
EXIT_S = 20.0
"""Far beyond the promised 3 s, well below the 30 s that the SDK would wait for a collector that is away."""
_LEDGER = {"path": "ledger.sqlite", "keep_days": 36500}  # records of tests have a fixed date


class Worker:
    """A relay worker's end of one intake connection."""

    def __init__(self, path: Path, index: int, pid: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")
        self.seq = 0
        self.say({"hello": {"worker": index, "pid": pid}})

    def say(self, message: Any) -> None:
        """Send one line."""
        self.raw(orjson.dumps(message, default=tuple) + b"\n")

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def post(self, records: Sequence[ExchangeRecord]) -> None:
        """Send records without waiting for their acknowledgement."""
        lines = []
        for record in records:
            self.seq += 1
            lines.append(orjson.dumps({"seq": self.seq, "record": record}, default=tuple))
        self.raw(b"\n".join(lines) + b"\n")

    def acknowledged(self, seq: int) -> int:
        """Wait until `seq` is acknowledged; the number that was."""
        acked = 0
        while acked < seq:
            line = self.lines.readline()
            if not line:
                raise EOFError("the recorder closed the intake")
            acked = orjson.loads(line).get("ack", acked)  # live state comes between
        return acked

    def send(self, records: Sequence[ExchangeRecord]) -> int:
        """Send records and wait for their acknowledgement; the last acknowledged number."""
        self.post(records)
        return self.acknowledged(self.seq)

    def close(self) -> None:
        """Leave as a worker that exits."""
        self.lines.close()
        self.socket.close()


def policy_message(state: dict[str, Any], rules: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The supervisor's word about the rules; each is as it is since the beginning of time."""
    shown = [
        {"name": rule["name"], "do": rule["do"], "mode": rule.get("mode", "enforce"), "since": 0.0} for rule in rules
    ]
    return {"policy": state | {"rules": shown}, "rules": {"version": 1, "rules": list(rules)}}


class RecorderHost:
    """The supervisor's part: sockets, settings, the process."""

    def __init__(
        self,
        folder: Path,
        *,
        telemetry: dict[str, Any] | None = None,
        ledger: dict[str, Any] | None = None,
        logs: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
        policy: dict[str, Any] | None = None,
        rules: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.folder = folder
        self.log_path = folder / "recorder.log"
        self.intake_path, self.admin_path = folder / "i.sock", folder / "a.sock"
        self.intake, self.admin = _listening(self.intake_path), _listening(self.admin_path)
        config = folder / "lengthwise.yaml"
        config.write_text(
            yaml.safe_dump({"telemetry": telemetry or {}, "ledger": _LEDGER | (ledger or {}), "logs": logs or {}})
        )
        self.settings, _, _ = load(config, {}, {})
        self.policy = policy or {"digest": "0" * 12, "loaded_at": None, "error": None, "rules": []}
        self.rules = rules
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
            "NO_PROXY": "127.0.0.1",
            "TIKTOKEN_CACHE_DIR": str(folder),  # no vocabularies, whatever this machine has
            **(environ or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.control_lines: Any = None
        self._workers: list[Worker] = []

    @property
    def ledger_path(self) -> Path:
        """Where the rows are."""
        assert self.settings.ledger.path is not None
        return self.settings.ledger.path

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE_S)
        with theirs, self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxy.recorder", "--control", str(theirs.fileno())],
                pass_fds=[theirs.fileno(), self.intake.fileno(), self.admin.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=self.environ,
            )
        self.control, self.control_lines = ours, ours.makefile("rb")
        self.tell(
            {
                "init": {
                    "settings": orjson.loads(to_json(self.settings)),
                    **policy_message(self.policy, self.rules),
                    "intake_fd": self.intake.fileno(),
                    "admin_fd": self.admin.fileno(),
                    "version": VERSION,
                    "settings_digest": digest(self.settings),
                    "supervisor_pid": os.getpid(),
                }
            }
        )
        line = self.control_lines.readline()
        assert line == b'{"ready":true}\n', (line, self.log())

    def tell(self, message: Any) -> None:
        """Send one control line."""
        assert self.control is not None
        self.control.sendall(orjson.dumps(message) + b"\n")

    def worker(self, index: int = 0, pid: int = 1000) -> Worker:
        """Connect as a relay worker."""
        worker = Worker(self.intake_path, index, pid)
        self._workers.append(worker)
        return worker

    def request(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Ask the admin socket; status, headers, body."""
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE_S)
        connection.sock.connect(str(self.admin_path))
        with contextlib.closing(connection):
            connection.request(method, path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def status(self) -> dict[str, Any]:
        """The parsed `/status`."""
        status, _, body = self.request("/status")
        assert status == 200
        document: dict[str, Any] = orjson.loads(body)
        return document

    def metrics(self) -> dict[str, float]:
        """The parsed `/metrics`: `name{labels}` as exposed to its value."""
        status, _, body = self.request("/metrics")
        assert status == 200
        samples = re.findall(r"^([^#\s][^ {]*(?:\{.*\})?) (\S+)$", body.decode(), re.MULTILINE)
        return {name: float(value) for name, value in samples}

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask `/status` until something holds; the answer for which it did."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            status = self.status()
            if holds(status):
                return status
            assert time.monotonic() < deadline, status
            time.sleep(0.02)

    def stop(self) -> int:
        """Tell it to leave and wait for the exit code."""
        self.tell({"leave": True})
        return self.abandon()

    def abandon(self) -> int:
        """Close the control channel without a word, as a supervisor that is killed, and wait for the exit code."""
        assert self.control is not None
        assert self.process is not None
        self.control_lines.close()
        self.control.close()
        self.control = None
        return self.process.wait(EXIT_S)

    def kill(self) -> None:
        """SIGKILL the process; the sockets stay."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE_S)
        if self.control is not None:
            self.control_lines.close()
            self.control.close()
            self.control = None

    def log(self) -> str:
        """What the process wrote so far."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()
        if self.process is not None:
            self.kill()
        self.intake.close()
        self.admin.close()


def _listening(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(64)
    return listening
