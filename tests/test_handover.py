"""One supervisor succeeds another, or does not: with real processes, whose successors the tests find by `/status`."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.otlp import free_port, wait_until
from tests.support.serve import ROOT, Served, serving

NOWHERE: dict[str, Any] = {"upstreams": [{"name": "nowhere", "url": "http://127.0.0.1:1"}]}
"""Requests are answered, with 502: enough to see who is there."""


def addresses() -> dict[str, str]:
    """Two that are free."""
    return {"listen": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{free_port()}"}


def answers(address: str) -> bool:
    """True when a new connection gets an answer."""
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().headers["x-lengthwise-error"] == "upstream_connect"
    except OSError:
        return False
    finally:
        connection.close()


def supervisor_of(served: Served) -> int:
    """Who answers on the admin port; 0 while nobody knows."""
    code, text = served.get("/status")
    return int(json.loads(text)["supervisor_pid"]) if code == 200 else 0


def is_gone(pid: int) -> bool:
    """True when no process of that id runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def end(pid: int) -> None:
    """Stop a successor, which is nobody's child."""
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: is_gone(pid))


def rewrite(served: Served, **changes: Any) -> None:
    """Change the settings that a successor will read."""
    file = served.folder / "lengthwise.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def test_a_successor_that_cannot_start_changes_nothing() -> None:
    """A mistake in the settings, then an address that is taken: the reason is said, and the next attempt succeeds."""
    with serving(NOWHERE | addresses()) as served, socket.create_server(("127.0.0.1", 0)) as taken:
        wait_until(lambda: supervisor_of(served) == served.process.pid)
        file = served.folder / "lengthwise.yaml"
        text = file.read_text()
        listen = yaml.safe_load(text)["listen"]
        for number, change in enumerate(({"workers": 0}, {"listen": f"127.0.0.1:{taken.getsockname()[1]}"}), 1):
            rewrite(served, **change)
            served.process.send_signal(signal.SIGUSR2)
            wait_until(
                lambda number=number: served.log.count("did not get ready, still serving: it ended with code") == number
            )
            assert supervisor_of(served) == served.process.pid
            assert answers(listen)
            file.write_text(text)
        assert "error: workers: expected a whole number of at least 1" in served.log
        assert "Address already in use" in served.log

        served.process.send_signal(signal.SIGUSR2)
        assert served.process.wait(60) == 0
        assert answers(listen)
        wait_until(lambda: supervisor_of(served) not in {0, served.process.pid})
        end(supervisor_of(served))


def test_an_address_that_changed_is_bound_anew() -> None:
    """The successor listens where its own settings say; what stayed the same is inherited."""
    with serving(NOWHERE | addresses()) as served:
        before, after = served.url.removeprefix("http://"), f"127.0.0.1:{free_port()}"
        rewrite(served, listen=after)
        served.process.send_signal(signal.SIGUSR2)
        assert served.process.wait(60) == 0
        assert (answers(before), answers(after)) == (False, True)
        wait_until(lambda: supervisor_of(served) not in {0, served.process.pid})
        end(supervisor_of(served))


def test_a_stop_while_a_successor_starts_stops_both(tmp_path: Path) -> None:
    """Whoever says stop means the service, not the process."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if '_LENGTHWISE_HANDOVER' in os.environ:\n"
        f"    open({str(tmp_path / 'successor')!r}, 'w').write(str(os.getpid()))\n"
        f"    open({str(gate)!r}).read()\n"
    )
    with serving(NOWHERE, env={"PYTHONPATH": str(tmp_path)}) as served:
        served.process.send_signal(signal.SIGUSR2)
        pid_file = tmp_path / "successor"
        wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
        served.process.send_signal(signal.SIGUSR2)  # one at a time
        wait_until(lambda: "no successor is started" in served.log)
        served.process.terminate()
        assert served.process.wait(60) == 0
        assert is_gone(int(pid_file.read_text()))
        assert "Traceback" not in served.log


def test_a_successor_that_will_not_go_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Told to leave, the workers leave at once, and the successor is waited for meanwhile."""
    pid_file = tmp_path / "successor"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "if '_LENGTHWISE_HANDOVER' in os.environ:\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"    open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "    signal.pause()\n"
    )
    with serving(NOWHERE, env={"PYTHONPATH": str(tmp_path)}) as served:
        wait_until(lambda: supervisor_of(served) == served.process.pid)
        workers = [worker["pid"] for worker in json.loads(served.get("/status")[1])["workers"]]
        served.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
        successor = int(pid_file.read_text())
        try:
            served.process.terminate()
            wait_until(lambda: all(map(is_gone, workers)))
            assert not is_gone(successor)
        finally:
            os.kill(successor, signal.SIGKILL)
        assert served.process.wait(60) == 0


def test_successors_succeed_each_other() -> None:
    """The sockets are passed on again and again; signals reach each of them."""
    with serving(NOWHERE) as served:
        listen = served.url.removeprefix("http://")
        generations = [served.process.pid]
        wait_until(lambda: supervisor_of(served) == generations[0])
        for _ in range(2):
            os.kill(generations[-1], signal.SIGUSR2)
            wait_until(lambda: supervisor_of(served) not in {0, *generations})
            generations.append(supervisor_of(served))
            wait_until(lambda: is_gone(generations[-2]))
            assert answers(listen)
        assert re.findall(r"process (\d+) took over", served.log) == [str(pid) for pid in generations[1:]]
        end(generations[-1])
        assert not answers(listen)
        served.process.wait(60)


@contextlib.contextmanager
def activated(folder: Path, sockets: list[socket.socket]) -> Iterator["subprocess.Popen[str]"]:
    """`serve` as systemd starts it: the sockets are its descriptors 3 and 4, and stay open when it is gone."""
    (folder / "lengthwise.yaml").write_text(yaml.safe_dump(NOWHERE | {"ledger": {"path": None}} | addresses()))
    redirections = " ".join(f"{3 + index}<&{sock.fileno()}" for index, sock in enumerate(sockets))
    command = f'export LISTEN_PID=$$; exec "$@" {redirections}'
    with subprocess.Popen(
        ["bash", "-c", command, "bash", sys.executable, "-P", "-m", "proxy", "serve"],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LENGTHWISE_"))},
            "PYTHONPATH": str(ROOT),
            "LISTEN_FDS": "2",
            "LISTEN_FDNAMES": "data:admin",
        },
        pass_fds=[sock.fileno() for sock in sockets],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(60) == 0


def test_a_service_managers_sockets_outlive_a_restart(tmp_path: Path) -> None:
    """The addresses are the sockets' own; who connects while nothing runs is answered by the next start."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        data, admin = (f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets)
        with activated(tmp_path, sockets) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"listening on http://{data}/v1\n"
            assert process.stdout.readline() == f"admin on http://{admin}\n"
            assert answers(data)
        early = stack.enter_context(socket.create_connection(sockets[0].getsockname(), timeout=60))
        early.sendall(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
        with activated(tmp_path, sockets):
            assert early.recv(12) == b"HTTP/1.1 502"
