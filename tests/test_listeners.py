"""Sockets that were bound, passed on by a service manager, or left by a supervisor; and the folder of the local ones."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.listeners import StartError, activated, bound, notify, socket_folder, taken_over, unix
from proxy.settings import Address
from tests.support.serve import ROOT

ACTIVATED = """
import json, os, sys
from proxy.listeners import StartError, activated
os.environ["LISTEN_PID"] = os.environ["LISTEN_PID"].replace("self", str(os.getpid()))
try:
    print(json.dumps({role: sock.getsockname()[1] for role, sock in activated(os.environ).items()}))
except StartError as error:
    print(json.dumps(str(error)))
print(json.dumps([name for name in os.environ if name.startswith("LISTEN_")]))
"""


@pytest.fixture
def two() -> Iterator[list[socket.socket]]:
    """Two listening sockets, as systemd would hold them."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    yield sockets
    for sock in sockets:
        sock.close()


def passed_on(sockets: list[socket.socket], names: str | None, pid: str = "self") -> tuple[object, list[str]]:
    """What a process makes of sockets that it gets from its descriptor 3 on, and the variables that are left."""
    moved = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 100) for sock in sockets]  # out of the way of 3 and on
    redirections = " ".join(f"{3 + index}<&{fd}" for index, fd in enumerate(moved))
    environ = os.environ | {"LISTEN_FDS": str(len(sockets)), "LISTEN_PID": pid, "PYTHONPATH": str(ROOT)}
    if names is not None:
        environ["LISTEN_FDNAMES"] = names
    try:
        ran = subprocess.run(
            ["bash", "-c", f'exec "$@" {redirections}', "bash", sys.executable, "-c", ACTIVATED],
            env=environ,
            pass_fds=moved,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        for fd in moved:
            os.close(fd)
    found, left = map(json.loads, ran.stdout.splitlines())
    return found, left


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        ("data:admin", ("data", "admin")),
        ("admin:data", ("admin", "data")),
        ("lengthwise.socket:lengthwise.socket", ("data", "admin")),
        ("unknown:data", ("admin", "data")),
        (None, ("data", "admin")),
    ],
)
def test_systemds_sockets_are_told_apart_by_their_names(
    two: list[socket.socket], names: str | None, roles: tuple[str, ...]
) -> None:
    """Those without a name of ours take what is missing: data first. No variable is left for children."""
    expected = {role: sock.getsockname()[1] for role, sock in zip(roles, two, strict=True)}
    assert passed_on(two, names) == (expected, [])


def test_one_socket_is_the_data_port(two: list[socket.socket]) -> None:
    """The admin port is bound as usual then."""
    assert passed_on(two[:1], "lengthwise.socket") == ({"data": two[0].getsockname()[1]}, [])
    assert passed_on(two[:1], "admin") == ({"admin": two[0].getsockname()[1]}, [])


def test_sockets_of_another_process_are_none_of_ours(two: list[socket.socket]) -> None:
    """LISTEN_PID names who they are for: a wrapper that did not exec keeps them."""
    assert passed_on(two, "data:admin", pid="1") == ({}, [])
    assert activated({}) == {}


def test_what_cannot_be_listened_on_is_said(two: list[socket.socket]) -> None:
    """Too many, and a socket that does not listen."""
    three = [*two, two[0]]
    assert (
        passed_on(three, "data:admin:third")[0]
        == "LISTEN_FDS: 3 sockets were passed on, but only data and admin are known"
    )
    with socket.socket() as idle:
        assert passed_on([idle], "data")[0] == "the inherited file 3 is no listening stream socket"
    with tempfile.TemporaryFile() as file, pytest.raises(StartError, match="cannot be used"):
        taken_over({"data": os.dup(file.fileno())})


def test_a_bound_socket_queues_connections_at_once() -> None:
    """Also before anybody accepts; a taken address is said."""
    with bound(Address("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            bound(Address("127.0.0.1", port))


def test_a_service_manager_hears_what_it_wants_to_know(tmp_path: Path) -> None:
    """One datagram, a state on each line; nobody there is no failure."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notify({"NOTIFY_SOCKET": str(tmp_path / "notify")}, "MAINPID=7", "READY=1")
        assert manager.recv(100) == b"MAINPID=7\nREADY=1"
    notify({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, "READY=1")
    notify({}, "READY=1")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder of this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_behind(runtime: Path, name: str, *files: str) -> Path:
    """A folder as a supervisor leaves it that was killed an hour ago."""
    folder = runtime / name
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    hour_ago = time.time() - 3600
    os.utime(folder, (hour_ago, hour_ago))
    return folder


def test_the_folder_is_private_and_goes_with_its_sockets(runtime: Path) -> None:
    """Whatever lies in it of ours."""
    with socket_folder() as name:
        folder = Path(name)
        assert folder.parent == runtime
        assert folder.stat().st_mode & 0o777 == 0o700
        unix(f"{folder}/intake").close()
        with pytest.raises(StartError, match="Address already in use"):
            unix(f"{folder}/intake")
    assert list(runtime.iterdir()) == []


def test_folders_of_supervisors_that_were_killed_are_removed(runtime: Path) -> None:
    """Not those of running ones, young ones, or somebody else's whose name begins alike."""
    left_behind(runtime, "lengthwise-dead", "intake", "admin")
    left_behind(runtime, "lengthwise-empty")
    kept = [
        left_behind(runtime, "lengthwise-theirs", "intake", "notes.txt"),
        left_behind(runtime, "other", "intake"),
        left_behind(runtime, "lengthwise-running", "intake", "admin"),
    ]
    young = runtime / "lengthwise-young"
    young.mkdir()
    lock = os.open(kept[-1], os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with socket_folder() as name:
            assert sorted(runtime.iterdir()) == sorted([*kept, young, Path(name)])
    finally:
        os.close(lock)
    with socket_folder():
        assert not (runtime / "lengthwise-running").exists()


@pytest.mark.parametrize("name", ["intake", "admin"])
def test_a_folder_whose_sockets_somebody_listens_to_stays(runtime: Path, name: str) -> None:
    """Also one that nobody has locked: the lock of an orphaned recorder's supervisor is gone, its workers still hand over."""
    folder = left_behind(runtime, "lengthwise-unlocked")
    with unix(f"{folder}/{name}"):
        hour_ago = time.time() - 3600
        os.utime(folder, (hour_ago, hour_ago))
        with socket_folder():
            assert (folder / name).is_socket()
    os.utime(folder, (hour_ago, hour_ago))
    with socket_folder():
        assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_said(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence."""
    monkeypatch.setattr(tempfile, "tempdir", str(runtime / "missing"))
    with pytest.raises(StartError, match="cannot make a folder for sockets: No such file"), socket_folder():
        pass
