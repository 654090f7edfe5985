"""The supervisor: what it keeps running, what it says about it, and how it ends, with real processes."""

import asyncio
import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import certifi
import pytest

from proxy.handover import Listeners
from proxy.lab.simulator import SimulatorOptions, make_app
from proxy.lab.simulator import serving as simulating
from proxy.policy.rules import EMPTY, PolicySet
from proxy.settings import Ledger, Settings, Telemetry, Timeouts, load, load_policies
from proxy.supervisor import _Supervisor
from tests.support.otlp import free_port, wait_until
from tests.support.serve import ROOT, Served, serving, serving_async

NOWHERE = {"upstreams": [{"name": "nowhere", "url": "http://127.0.0.1:1"}], "ledger": {"path": None}}
"""Requests are answered, with 502: enough to see a worker at work."""
PACED = SimulatorOptions(ttft_s=0.02, tpot_s=0.01)


def named(policy: dict[str, Any]) -> list[str]:
    """The names of the rules in force, as `/status` shows them; each enforces and is armed."""
    assert all((rule["mode"], rule["armed"]) == ("enforce", True) for rule in policy["rules"])
    return [rule["name"] for rule in policy["rules"]]


def capping(limit: int) -> dict[str, Any]:
    """Policies that lower every limit."""
    return {"version": 1, "rules": [{"name": f"cap-{limit}", "match": {}, "do": "cap", "max_tokens": limit}]}


def children(served: Served) -> dict[int, str]:
    """The supervisor's children: pid to module."""
    listed = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text(encoding="ascii")
    found = {}
    for pid in map(int, listed.split()):
        words = command(pid)
        if "-m" in words:
            found[pid] = words[words.index("-m") + 1]
    return found


def command(pid: int) -> list[str]:
    """The words that a process was started with; none when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    return []


def workers(served: Served) -> list[int]:
    """The pids of the workers."""
    return sorted(pid for pid, module in children(served).items() if module == "proxy.relay")


def recorder(served: Served) -> int:
    """The pid of the recorder."""
    (pid,) = [pid for pid, module in children(served).items() if module == "proxy.recorder"]
    return pid


def gone(pids: list[int]) -> bool:
    """True when none of the processes runs; a zombie has no command line."""
    return not any(command(pid) for pid in pids)


def in_group(group: int) -> list[int]:
    """The processes of a process group, zombies aside."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[2]) == group:
                found.append(int(folder.name))
    return found


def status(served: Served) -> dict[str, Any]:
    """The `/status` document, as soon as the recorder answers."""
    answers: list[tuple[int, str]] = []

    def answered() -> bool:
        answers.append(served.get("/status"))
        return answers[-1][0] == 200

    wait_until(answered)
    return json.loads(answers[-1][1])


def connected(served: Served) -> http.client.HTTPConnection:
    """A connection of its own to the data port."""
    host, port = served.url.removeprefix("http://").split(":")
    return http.client.HTTPConnection(host, int(port), timeout=30)


def asked(connection: http.client.HTTPConnection) -> str | None:
    """The error that a request over the connection is answered with; None when the connection is gone."""
    try:
        connection.request("GET", "/v1/models")
        with connection.getresponse() as answer:
            answer.read()
            return answer.headers["x-lengthwise-error"]
    except (OSError, http.client.HTTPException):
        return None


def answers(served: Served) -> bool:
    """True when a new connection gets an answer."""
    with contextlib.closing(connected(served)) as connection:
        return asked(connection) == "upstream_connect"


def raw(served: Served, *pieces: bytes) -> bytes:
    """What the admin port answers to these bytes until it closes; '' for a reset."""
    host, port = served.admin_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionError:
            return b""


@contextlib.contextmanager
def breakable_workers(tmp_path: Path) -> Iterator[tuple[dict[str, Any], Callable[[], None], Callable[[], None]]]:
    """Settings with which a worker starts, or does not: the certificates that it needs are broken and repaired."""
    authorities = tmp_path / "authorities.pem"

    def repair() -> None:
        shutil.copyfile(certifi.where(), authorities)

    def spoil() -> None:
        authorities.write_text("-----BEGIN CERTIFICATE-----\nnone\n", encoding="ascii")

    repair()
    upstream = {"name": "nowhere", "url": "https://127.0.0.1:1", "tls": {"ca_file": str(authorities)}}
    yield NOWHERE | {"upstreams": [upstream]}, spoil, repair


def serve(folder: Path, text: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    """`serve` that is expected not to start, in an environment of its own."""
    (folder / "lengthwise.yaml").write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-P", "-m", "proxy", "serve"],
        cwd=folder,
        env=environment(**extra),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def environment(**extra: str) -> dict[str, str]:
    """The environment without settings, in which this source tree is found from any folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LENGTHWISE_"))}
    return kept | {"PYTHONPATH": str(ROOT)} | extra


# Start --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["listen", "admin"])
def test_a_taken_address_is_said_in_one_line(tmp_path: Path, taken: str) -> None:
    """Exit code 1, no traceback, no ready line, and no folder left behind."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        addresses = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"} | {taken: f"127.0.0.1:{port}"}
        text = "".join(f"{key}: {value}\n" for key, value in addresses.items())
        ended = serve(tmp_path, text, TMPDIR=str(runtime))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"lengthwise: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert list(runtime.iterdir()) == []


def test_an_address_that_is_not_ours_is_said_in_one_line(tmp_path: Path) -> None:
    """So is a host that no name service knows."""
    for host, reason in (("192.0.2.1", "Cannot assign requested address"), ("nowhere.invalid", "")):
        ended = serve(tmp_path, f"listen: {host}:8080\n")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith(f"lengthwise: cannot listen on {host}:8080: {reason}")
        assert ended.stderr.count("\n") == 1


def test_a_folder_too_deep_for_sockets_is_said_in_one_line(tmp_path: Path) -> None:
    """A unix socket's path has room for some 100 bytes; TMPDIR may have more."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    ended = serve(tmp_path, "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n", TMPDIR=str(deep))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(r"lengthwise: cannot listen on \S+/intake: AF_UNIX path too long\n", ended.stderr)
    assert list(deep.iterdir()) == []


def test_workers_that_cannot_start_end_the_start(tmp_path: Path) -> None:
    """After three attempts serve says so and leaves with exit code 1, with nothing left running or lying about."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    with breakable_workers(tmp_path) as (settings, spoil, _):
        spoil()
        ended = serve(
            tmp_path, json.dumps(settings | {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}), TMPDIR=str(runtime)
        )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1] == "lengthwise: worker 0 cannot start: it ended 3 times, see above"
    assert "ssl.SSLError" in ended.stderr
    assert list(runtime.iterdir()) == []


def test_files_of_the_working_folder_are_not_taken_for_our_own(tmp_path: Path) -> None:
    """A folder with a proxy.py and a json.py is a fine place to start in: no child imports them."""
    for name in ("proxy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n", encoding="ascii")
    (tmp_path / "lengthwise.yaml").write_text(json.dumps(NOWHERE | {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}))
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "proxy", "serve"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
        finally:
            process.terminate()
            _, log = process.communicate(timeout=60)
    assert [line.split(" on ")[0] for line in lines] == ["listening", "admin", "live page"], log
    assert process.returncode == 0
    assert "the wrong module" not in log


def test_the_first_lines_on_stdout_are_the_addresses(tmp_path: Path) -> None:
    """Three lines, all usable as they are, with the ports that the system chose; whoever asks at once gets an answer."""
    (tmp_path / "lengthwise.yaml").write_text(json.dumps(NOWHERE | {"listen": "127.0.0.1:0", "admin": "[::1]:0"}))
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "proxy", "serve"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            base_url = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+/v1)\n", lines[0]).group(1)
            admin_url = re.fullmatch(r"admin on (http://\[::1\]:\d+)\n", lines[1]).group(1)
            assert lines[2] == f"live page on {admin_url}/\n"
            served = Served(base_url, admin_url, None, process, tmp_path)
            # The recorder is still importing: the request waits for it.
            assert served.get("/status")[0] == 200
            assert answers(served)
        finally:
            process.terminate()
            rest, _ = process.communicate(timeout=60)
    assert rest == ""
    assert process.returncode == 0


# Children that die --------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_while_its_sibling_goes_on() -> None:
    """Both workers serve; kept-alive connections of the survivor last, and the new one has the same place in `/status`."""
    with serving(NOWHERE | {"workers": 2}) as served:
        connections = []

        def both_serve() -> bool:
            connections.append(connected(served))
            assert asked(connections[-1]) == "upstream_connect"
            state = status(served)["workers"]
            return len(state) == 2 and all(worker["exchanges"] for worker in state)

        wait_until(both_serve)
        before = workers(served)
        assert sorted(worker["pid"] for worker in status(served)["workers"]) == before

        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: gone(before[:1]))
        outcomes = [asked(connection) for connection in connections]
        assert set(outcomes) == {None, "upstream_connect"}
        assert served.get("/readyz")[0] == 200

        wait_until(lambda: json.loads(served.get("/readyz")[1])["workers_ready"] == 2)
        after = workers(served)
        assert len(after) == 2
        assert set(before) & set(after) == {before[1]}
        wait_until(lambda: sorted(worker["pid"] for worker in status(served)["workers"] if worker["alive"]) == after)
        assert sorted(worker["index"] for worker in status(served)["workers"] if worker["alive"]) == [0, 1]
        for connection in connections:
            connection.close()
        assert "worker" in served.log
        assert "Traceback" not in served.log


def test_the_only_worker_killed_comes_back() -> None:
    """A request that arrives meanwhile waits in the listening socket's queue, which outlives workers."""
    with serving(NOWHERE) as served:
        for _ in range(2):
            (before,) = workers(served)
            os.kill(before, signal.SIGKILL)
            wait_until(lambda before=before: gone([before]))
            assert answers(served)
        wait_until(lambda: served.get("/readyz")[0] == 200)


def test_a_worker_that_dies_again_and_again_is_restarted_ever_more_slowly(tmp_path: Path) -> None:
    """Without a worker the service is alive and not ready; it serves again as soon as a worker can start."""
    with breakable_workers(tmp_path) as (settings, spoil, repair), serving(settings) as served:
        spoil()
        os.kill(workers(served)[0], signal.SIGKILL)
        wait_until(lambda: "restarting in 0.5 s" in served.log)
        assert re.findall(r"worker 0 ended with code (\S+); restarting in (\S+) s", served.log) == [
            ("-9", "0.1"),
            ("1", "0.2"),
            ("1", "0.5"),
        ]
        assert served.get("/readyz") == (
            503,
            '{"status":"unavailable","workers_ready":0,"workers":1,"reason":"no worker is ready"}\n',
        )
        assert served.get("/healthz") == (200, '{"status":"ok"}\n')
        repair()
        wait_until(lambda: served.get("/readyz") == (200, '{"status":"ok","workers_ready":1,"workers":1}\n'))
        assert answers(served)


def test_leaving_does_not_wait_for_a_restart_that_is_due(tmp_path: Path) -> None:
    """Told to leave while a worker pauses for longer than a drain may take: there is nobody to wait for."""
    with (
        breakable_workers(tmp_path) as (settings, spoil, _),
        serving(settings | {"timeouts": {"drain_s": 0.1}}) as served,
    ):
        spoil()
        os.kill(workers(served)[0], signal.SIGKILL)
        wait_until(lambda: "restarting in 5.0 s" in served.log)
        served.process.terminate()
        assert served.process.wait(60) == 0
        assert "did not leave in time" not in served.log


def test_without_a_recorder_its_paths_say_so_and_traffic_goes_on(tmp_path: Path) -> None:
    """503 with a reason from `/status` and `/metrics`; requests, `/healthz` and `/readyz` are untouched."""
    hindrance = tmp_path / "hindrance"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"if 'proxy.recorder' in sys.orig_argv and os.path.exists({str(hindrance)!r}):\n"
        "    os._exit(3)\n"
    )
    with serving(NOWHERE, env={"PYTHONPATH": str(tmp_path)}) as served:
        assert served.get("/status")[0] == 200
        hindrance.touch()
        os.kill(recorder(served), signal.SIGKILL)
        wait_until(lambda: "recorder ended with code 3" in served.log)
        unavailable = (503, '{"status":"unavailable","reason":"the recorder is restarting"}\n')
        assert [served.get(path) for path in ("/status", "/metrics", "/else")] == [unavailable] * 3
        assert (served.get("/healthz")[0], served.get("/readyz")[0]) == (200, 200)
        assert answers(served)
        hindrance.unlink()
        wait_until(lambda: status(served)["records"] == 1)  # the worker kept it meanwhile
        assert "Traceback" not in served.log


def test_a_recorder_that_hangs_does_not_make_who_asks_wait() -> None:
    """Stopped, it is said to be silent; going on, it answers."""
    with serving(NOWHERE) as served:
        assert served.get("/status")[0] == 200
        os.kill(recorder(served), signal.SIGSTOP)
        silent = (503, '{"status":"unavailable","reason":"the recorder says nothing"}\n')
        wait_until(lambda: served.get("/status") == silent)
        assert served.get("/readyz")[0] == 200
        assert answers(served)
        os.kill(recorder(served), signal.SIGCONT)
        wait_until(lambda: status(served)["records"] == 1)


def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    """Stopped, it says nothing for ten seconds: its sibling serves, then there are two again."""
    with serving(NOWHERE | {"workers": 2}) as served:
        before = workers(served)
        os.kill(before[0], signal.SIGSTOP)
        wait_until(lambda: gone(before[:1]))
        assert answers(served)
        wait_until(lambda: json.loads(served.get("/readyz")[1])["workers_ready"] == 2)
        assert set(workers(served)) & set(before) == {before[1]}
        assert re.search(r"worker \d hangs: it said nothing for 10 s, and is killed", served.log)


def test_the_recorder_stands_back_behind_workers() -> None:
    """Every thread of it, its exporter's too; a worker is as near to the processor as we are, and so is a new recorder far from it."""
    exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}

    def niceness(pid: int) -> set[int]:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks}

    with serving(NOWHERE, env=exporting) as served:
        status(served)
        ours, first = os.getpriority(os.PRIO_PROCESS, 0), recorder(served)
        assert len(list(Path(f"/proc/{first}/task").iterdir())) > 1
        assert niceness(first) == {ours + 10}
        assert [niceness(pid) for pid in workers(served)] == [{ours}]
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: gone([first]) and "proxy.recorder" in children(served).values())
        status(served)
        assert niceness(recorder(served)) == {ours + 10}


def test_workers_are_replaced_one_after_the_other() -> None:
    """SIGUSR1: all are new, none was missed meanwhile, and the recorder is the same."""
    with serving(NOWHERE | {"workers": 2}) as served:
        before, same = workers(served), recorder(served)
        served.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: "workers replaced" in served.log and gone(before))
        assert served.get("/readyz") == (200, '{"status":"ok","workers_ready":2,"workers":2}\n')
        assert answers(served)
        assert recorder(served) == same
        assert "restarting" not in served.log


# Policies -----------------------------------------------------------------------------------------------------------


async def test_a_reload_reaches_every_worker_and_a_broken_file_none() -> None:
    """SIGHUP: a good file acts from the next request on, also in a worker started later; a broken one is reported."""

    async def rules() -> set[str]:
        found = set()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            body = {"model": "sim-small", "messages": [{"role": "user", "content": "[tokens=3]"}], "max_tokens": 99}
            for _ in range(10):
                async with session.post(f"{served.base_url}/chat/completions", json=body) as answer:
                    found.add(answer.headers["x-lengthwise-policy"].split(";")[0])
        return found

    async def taken(holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        await asyncio.to_thread(wait_until, lambda: holds(status(served)))
        return (await asyncio.to_thread(status, served))["policy"]

    async with (
        simulating(make_app(SimulatorOptions(ttft_s=0.0, tpot_s=0.0))) as url,
        serving_async(
            {"upstreams": [{"name": "sim", "url": url}], "workers": 2, "policies": "policies.yaml"},
            policies=capping(50),
        ) as served,
    ):
        file = served.folder / "policies.yaml"
        first = (await asyncio.to_thread(status, served))["policy"]
        assert (first["error"], named(first)) == (None, ["cap-50"])
        assert await rules() == {"rule=cap-50"}

        file.write_text(json.dumps(capping(20)))
        served.process.send_signal(signal.SIGHUP)
        second = await taken(
            lambda state: (
                [worker["policy_digest"] for worker in state["workers"]] == [state["policy"]["digest"]] * 2
                and state["policy"]["digest"] != first["digest"]
            )
        )
        assert second["error"] is None
        assert second["loaded_at"] > first["loaded_at"]
        assert await rules() == {"rule=cap-20"}

        file.write_text("version: 1\nrules: [{name: a, do: cap, max_tokens: none}, {name: a, do: what}]")
        served.process.send_signal(signal.SIGHUP)
        broken = await taken(lambda state: state["policy"]["error"] is not None)
        assert broken == second | {"error": broken["error"]}
        for place in ("policies.yaml: rules[0].max_tokens", "policies.yaml: rules[1].do"):
            assert place in broken["error"]
        before = workers(served)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert await rules() == {"rule=cap-20"}

        file.unlink()
        served.process.send_signal(signal.SIGHUP)
        await taken(lambda state: "cannot be read" in (state["policy"]["error"] or ""))

        file.write_text(json.dumps(capping(10)))
        # A hang-up reaches the whole process group: it is a reload, and no end for a child.
        await asyncio.to_thread(wait_until, lambda: len(workers(served)) == 2)
        before = children(served)
        os.killpg(served.process.pid, signal.SIGHUP)
        third = await taken(lambda state: state["policy"]["error"] is None)
        assert named(third) == ["cap-10"]
        assert await rules() == {"rule=cap-10"}
        assert children(served) == before


def test_a_reload_reaches_a_worker_that_is_just_starting(tmp_path: Path) -> None:
    """It was sent the old policies already and has not read them yet: it begins with the new ones."""
    gate, restarting = tmp_path / "gate", tmp_path / "restarting"
    os.mkfifo(gate)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"if 'proxy.relay' in sys.orig_argv and os.path.exists({str(restarting)!r}):\n"
        f"    open({str(gate)!r}).read()\n"
    )
    settings = NOWHERE | {"policies": "policies.yaml"}
    with serving(settings, policies=capping(50), env={"PYTHONPATH": str(tmp_path)}) as served:
        old = status(served)["policy"]["digest"]
        restarting.touch()
        os.kill(workers(served)[0], signal.SIGKILL)
        with gate.open("w"):  # opens as soon as the new worker is there, and holds it back
            (served.folder / "policies.yaml").write_text(json.dumps(capping(20)))
            served.process.send_signal(signal.SIGHUP)
            wait_until(lambda: status(served)["policy"]["digest"] != old)
            new = status(served)["policy"]["digest"]
        wait_until(
            lambda: [worker["policy_digest"] for worker in status(served)["workers"] if worker["alive"]] == [new]
        )


def test_a_changed_file_is_taken_without_being_told() -> None:
    """Written in place, renamed over the old one, half written, gone: `/status` follows, and a signal is never needed."""
    with serving(NOWHERE | {"policies": "policies.yaml"}, policies=capping(50)) as served:
        file, beside = served.folder / "policies.yaml", served.folder / "policies.new"

        def taken(name: str, error: str | None) -> dict[str, Any]:
            def holds() -> bool:
                policy = status(served)["policy"]
                said = policy["error"] is None if error is None else error in (policy["error"] or "")
                return said and named(policy) == [name]

            wait_until(holds)
            return status(served)["policy"]

        first = taken("cap-50", None)
        file.write_text(json.dumps(capping(20)))
        second = taken("cap-20", None)
        assert second["loaded_at"] > first["loaded_at"]

        beside.write_text(json.dumps(capping(10)))
        beside.replace(file)
        third = taken("cap-10", None)
        wait_until(lambda: [each["policy_digest"] for each in status(served)["workers"]] == [third["digest"]])

        whole = json.dumps(capping(30))
        file.write_text(whole[:40])
        assert taken("cap-10", "policies.yaml: line 1")["loaded_at"] == third["loaded_at"]
        file.write_text(whole)
        taken("cap-30", None)

        file.unlink()
        taken("cap-30", "cannot be read")
        file.write_text(whole)
        taken("cap-30", None)
        assert "Traceback" not in served.log


@contextlib.asynccontextmanager
async def looking(settings: Settings, policies: PolicySet, folder: Path) -> AsyncIterator[_Supervisor]:
    """A supervisor that looks at its policies when the test says so; its children are only just started."""
    quiet = dataclasses.replace(
        settings,
        timeouts=Timeouts(drain_s=0.1),
        ledger=Ledger(None),
        telemetry=Telemetry(traces="none", metrics="none"),
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        supervisor = _Supervisor(quiet, policies, Listeners(listener, listener, {}), str(folder))
        await asyncio.sleep(0)  # each child's task has asked for its process
        try:
            yield supervisor
        finally:
            await supervisor.leave()
            for sock in (supervisor._intake, supervisor._admin):
                sock.close()


async def test_a_file_is_taken_when_it_is_the_same_at_two_looks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not while it grows, although its beginning would do; and what is already in force is no news."""
    caplog.set_level("INFO", "proxy.supervisor")
    file = tmp_path / "policies.yaml"
    file.write_text(json.dumps(capping(50)))
    async with looking(Settings(policies=file), load_policies(file), tmp_path) as supervisor:

        def after_looks(looks: int) -> list[str]:
            caplog.clear()
            for _ in range(looks):
                supervisor.look()
            return caplog.messages

        before, loaded_at_s = supervisor.policies, supervisor.policy_loaded_at_s
        assert after_looks(1) == []
        assert after_looks(4) == [f"policies read, digest {before.digest}"]  # once: it may have changed since the start
        assert (supervisor.policies, supervisor.policy_loaded_at_s) == (before, loaded_at_s)

        grown = "version: 1\nrules:\n"
        for name in "abc":
            grown += f"- {{name: {name}, do: reject}}\n"
            file.write_text(grown)
            assert after_looks(1) == []
        assert after_looks(3) == [f"policies read, digest {load_policies(file).digest}"]
        assert [rule.name for rule in supervisor.policies.rules] == ["a", "b", "c"]
        taken_at_s = supervisor.policy_loaded_at_s
        assert taken_at_s > loaded_at_s

        file.write_text("version: 1\nrules: [{name: a, do: what}]")
        (said,) = after_looks(5)
        assert said.startswith("policies not reloaded, the last good ones stay: policies.yaml: rules[0].do: ")
        file.write_text(grown)
        assert after_looks(1) == []
        assert supervisor.policy_error is not None
        assert len(after_looks(1)) == 1
        assert (supervisor.policy_error, supervisor.policy_loaded_at_s) == (None, taken_at_s)

        state = file.stat()
        file.write_text(grown.replace("name: c", "name: d"))  # as long as before, and dated back
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert len(after_looks(2)) == 1
        assert [rule.name for rule in supervisor.policies.rules] == ["a", "b", "d"]

        file.unlink()
        assert after_looks(1) == []
        (said,) = after_looks(5)
        assert said.endswith("policies.yaml: cannot be read: No such file or directory")
        assert [rule.name for rule in supervisor.policies.rules] == ["a", "b", "d"]

        file.write_text(grown)
        supervisor.reload()  # told so, it waits for no second look, and none takes the file again
        assert [rule.name for rule in supervisor.policies.rules] == ["a", "b", "c"]
        assert after_looks(3) == []


async def test_a_default_file_that_was_absent_at_the_start_stays_without_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings have no policies then, as `check` said; neither a look nor a signal finds any."""
    monkeypatch.chdir(tmp_path)
    settings, policies, _ = load(None, {}, {})
    async with looking(settings, policies, tmp_path) as supervisor:
        (tmp_path / "policies.yaml").write_text(json.dumps(capping(50)))
        caplog.set_level("INFO", "proxy.supervisor")
        supervisor.look()
        supervisor.look()
        assert caplog.messages == []
        supervisor.reload()
        assert caplog.messages == [
            "no policies file to reload: none was there at the start, and one that came later needs a restart"
        ]
        assert supervisor.policies == EMPTY


# The end ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def streaming(served: Served, tokens: int) -> Any:
    """A stream whose first bytes have arrived."""
    body = {
        "model": "sim-small",
        "messages": [{"role": "user", "content": f"[tokens={tokens}]"}],
        "max_tokens": tokens,
        "stream": True,
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{served.base_url}/chat/completions", json=body) as answer,
    ):
        assert answer.status == 200
        await answer.content.readany()
        yield answer


async def test_while_it_drains_it_is_alive_and_not_ready() -> None:
    """`/readyz` turns away new traffic, `/healthz` prevents a restart, and the running stream ends whole."""
    async with simulating(make_app(PACED)) as url, serving_async({"upstreams": [{"name": "s", "url": url}]}) as served:
        async with streaming(served, 300) as answer:
            served.process.terminate()
            await asyncio.to_thread(wait_until, lambda: served.get("/readyz")[0] == 503)
            ready = await asyncio.to_thread(served.get, "/readyz")
            assert json.loads(ready[1])["reason"] == "draining"
            assert (await asyncio.to_thread(served.get, "/healthz"))[0] == 200
            assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")
        assert await asyncio.to_thread(served.process.wait, 60) == 0


async def test_ctrl_c_drains_and_says_nothing_of_tracebacks() -> None:
    """SIGINT to the whole process group, as a terminal sends it: the stream ends whole, exit code 0."""
    async with simulating(make_app(PACED)) as url, serving_async({"upstreams": [{"name": "s", "url": url}]}) as served:
        async with streaming(served, 60) as answer:
            os.killpg(served.process.pid, signal.SIGINT)
            assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")
        assert await asyncio.to_thread(served.process.wait, 60) == 0
        assert len(served.rows(1)) == 1
        assert "Traceback" not in served.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_ends_the_drain(number: signal.Signals) -> None:
    """Without a limit to the drain, the stream would last for ten minutes."""
    settings = {"timeouts": {"drain_s": None}}
    async with (
        simulating(make_app(PACED)) as url,
        serving_async(settings | {"upstreams": [{"name": "s", "url": url}]}) as served,
    ):
        async with streaming(served, 60_000) as answer:
            os.killpg(served.process.pid, number) if number == signal.SIGINT else served.process.send_signal(number)
            await asyncio.to_thread(wait_until, lambda: served.get("/readyz")[0] == 503)
            served.process.send_signal(number)
            with pytest.raises(aiohttp.ClientError):
                await answer.content.read()
        assert await asyncio.to_thread(served.process.wait, 60) == 0
        assert "told again to leave: not waiting for worker 0" in served.log
        assert "Traceback" not in served.log
        (row,) = served.rows(1)
        assert (row["end"], row["error_type"]) == ("aborted", "drain")


async def test_a_signal_to_the_whole_group_drains_like_one_to_the_supervisor() -> None:
    """As systemd sends SIGTERM: the stream arrives whole, its record is kept, and nothing is restarted meanwhile."""
    async with simulating(make_app(PACED)) as url, serving_async({"upstreams": [{"name": "s", "url": url}]}) as served:
        async with streaming(served, 60) as answer:
            os.killpg(served.process.pid, signal.SIGTERM)
            assert b"[DONE]" in await answer.content.read()
        assert await asyncio.to_thread(served.process.wait, 60) == 0
        (row,) = served.rows(1)
        assert row["end"] == "complete"
        assert "restarting" not in served.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    """As soon as there is a child, the whole group is told to leave: exit code 0, no ready line, no traceback."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    (tmp_path / "lengthwise.yaml").write_text(json.dumps(NOWHERE | {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}))
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "proxy", "serve"],
        cwd=tmp_path,
        env=environment(TMPDIR=str(runtime)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: bool(listed.read_text(encoding="ascii")))
        os.killpg(process.pid, number)
        out, log = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in log
    assert in_group(process.pid) == []
    assert list(runtime.iterdir()) == []


async def test_children_that_are_only_being_started_leave_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Told to leave before the system has made their processes, none is waited for and killed."""
    settings = Settings(
        timeouts=Timeouts(drain_s=60), ledger=Ledger(None), telemetry=Telemetry(traces="none", metrics="none")
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = _Supervisor(settings, EMPTY, Listeners(listener, listener, {}), str(tmp_path))
        await asyncio.sleep(0)  # each child's task has asked for its process
        assert [child.process for child in (*started.workers, started.recorder)] == [None, None]
        await started.leave()
        assert [child.process.returncode for child in started.workers] == [0]
        for sock in (started._intake, started._admin):
            sock.close()
    assert caplog.messages == []


async def test_killed_outright_it_leaves_nothing_running_and_starts_again(tmp_path: Path) -> None:
    """Workers and recorder notice and leave; ports and ledger are free for the next start, which keeps the old rows."""
    addresses = {"listen": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{free_port()}"}
    async with simulating(make_app(SimulatorOptions(ttft_s=0.0, tpot_s=0.0))) as url:
        settings = addresses | {
            "upstreams": [{"name": "s", "url": url}],
            "workers": 2,
            "ledger": {"path": str(tmp_path / "kept.sqlite")},
        }
        for starts in (1, 2):
            async with serving_async(settings, env={"TMPDIR": str(tmp_path)}) as served:
                async with streaming(served, 3) as answer:
                    await answer.content.read()
                rows = await asyncio.to_thread(served.rows, starts)
                assert len(rows) == starts
                family = list(children(served))
                assert len(family) == 3
                served.process.kill()
                await asyncio.to_thread(wait_until, lambda family=family: gone(family))
                await asyncio.to_thread(served.process.wait)
                assert "Traceback" not in served.log


async def test_killed_outright_running_streams_still_end_whole(tmp_path: Path) -> None:
    """A worker whose supervisor is gone drains like one that was told to."""
    env = {"TMPDIR": str(tmp_path)}  # where nobody is left to remove the folder of the sockets
    async with (
        simulating(make_app(PACED)) as url,
        serving_async({"upstreams": [{"name": "s", "url": url}]}, env=env) as served,
    ):
        async with streaming(served, 60) as answer:
            served.process.kill()
            assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")
        await asyncio.to_thread(wait_until, lambda: len(in_group(served.process.pid)) == 0)


def test_a_start_says_what_runs() -> None:
    """Where requests go, how many rules of which file act, where rows are kept."""
    rules = [
        {"name": "a", "do": "cap", "max_tokens": 5, "mode": "enforce"},
        {"name": "b", "do": "cap", "max_tokens": 5, "mode": "shadow"},
    ]
    with serving(NOWHERE, policies={"version": 1, "rules": rules}) as served:
        wait_until(lambda: "relaying to" in served.log)
        found = re.search(r"relaying to \w+ \(127\.0\.0\.1\); rules of (.+): 2, 1 enforced; ledger: (.+)", served.log)
        assert found is not None, served.log
        assert Path(found[1]).is_file()
        assert found[2] == str(served.ledger_path or "none")


def test_the_folder_of_the_sockets_is_private_and_goes_with_the_process(tmp_path: Path) -> None:
    """Nobody else can read it, and nothing of it is left after SIGTERM."""
    with serving(NOWHERE, env={"TMPDIR": str(tmp_path)}) as served:
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        family = list(children(served))
        served.process.terminate()
        assert served.process.wait(60) == 0
        assert gone(family)
        assert list(tmp_path.iterdir()) == []


# The admin port -----------------------------------------------------------------------------------------------------


def test_the_admin_port_speaks_http() -> None:
    """HEAD, unknown paths, queries, bodies, old and repeated requests: each gets one answer, then the end."""
    with serving(NOWHERE) as served:
        assert served.get("/status")[0] == 200
        head = raw(served, b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.endswith(b"Content-Length: 16\r\nConnection: close\r\n\r\n")
        assert raw(served, b"GET /healthz?a=b HTTP/1.0\r\n\r\n").endswith(b'\r\n\r\n{"status":"ok"}\n')
        relayed = raw(served, b"HEAD /status HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n")
        assert relayed.startswith(b"HTTP/1.1 200 OK\r\n")
        assert relayed.endswith(b"\r\n\r\n")
        tag = re.search(rb"ETag: (\S+)", raw(served, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")).group(1)
        again = raw(served, b"GET / HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: %b\r\n\r\n" % tag)
        assert again.startswith(b"HTTP/1.1 304 Not Modified\r\n")
        foreign = raw(served, b"GET /api/state HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert foreign.startswith(b"HTTP/1.1 421 ")
        code, text = served.get("/nothing")
        assert (code, json.loads(text)["error"]) == (404, "no such path")
        body = b"x" * 300_000
        posted = raw(
            served, b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body), body
        )
        assert posted == b"" or posted.startswith(b"HTTP/1.1 404 ")  # a server may answer before it read the body
        chunked = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n"
        assert raw(served, chunked).startswith(b"HTTP/1.1 404 ")
        twice = raw(served, b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
        assert twice.count(b"\r\nContent-Length: ") == 1
        assert [word for word in ("Traceback", "never retrieved", "secret") if word in served.log] == [], served.log


def test_the_admin_port_survives_what_is_not_http() -> None:
    """Garbage, an endless head, clients that leave anywhere: nothing is logged, and others are answered meanwhile."""
    with serving(NOWHERE) as served:
        assert served.get("/status")[0] == 200
        for garbage in (
            b"GET / HTTP/1.1\r\nbad header secret\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\0secret\r\n\r\n",
            b"GET http://[secret HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
            b"\r\n\r\n",
            b"GET\r\n\r\n",
            b"a b c d\r\n: \r\n\r\n",
        ):
            assert raw(served, garbage)[8:13] == b" 400 "
        assert raw(served, b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n") == b""
        for path in (b"//[secret", b"/%zz%00", b"/" + b"secret" * 1300, b"/a?" + b"secret" * 1300):
            refused = raw(served, b"GET %b HTTP/1.1\r\nHost: localhost\r\nHost: localhost:1\r\n\r\n" % path)
            assert refused[8:13] in {b" 400 ", b" 404 "}
        host, port = served.admin_url.removeprefix("http://").split(":")
        with contextlib.ExitStack() as stack:
            half = [stack.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(50)]
            for connection in half:
                connection.sendall(b"GET /status HTTP/1.1\r\nHo")
            whole = b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
            assert raw(served, *(whole[at : at + 1] for at in range(len(whole)))).startswith(b"HTTP/1.1 200 ")
            assert served.get("/healthz")[0] == 200
            for connection in half[:25]:
                connection.sendall(b"st: localhost\r\n\r\n")
            assert {connection.recv(12) for connection in half[:25]} == {b"HTTP/1.1 200"}
        for _ in range(20):  # gone before the answer, by a reset
            connection = socket.create_connection((host, int(port)), timeout=30)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.close()
        assert served.get("/metrics")[0] == 200
        served.process.terminate()
        assert served.process.wait(60) == 0
        assert [word for word in ("Traceback", "never retrieved", "secret") if word in served.log] == [], served.log
