"""Listening sockets: bound to an address, or inherited; and the folder of the local ones.

Layer: below supervisor. A socket that is inherited keeps its queue: connections that arrive while one process ends and the next begins
wait in it. systemd hands sockets over by `LISTEN_FDS`; a supervisor to its successor by a variable of ours.

Source: systemd sd_listen_fds(3), sd_notify(3); ARCHITECTURE.md 3, 5.11.
"""

import contextlib
import fcntl
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from proxy.errors import LengthwiseError
from proxy.settings import Address

__all__ = ["StartError", "activated", "bound", "notify", "socket_folder", "taken_over", "unix"]

_BACKLOG = 1024
_FIRST_FD = 3
_ROLES = ("data", "admin")
_FOLDER = "lengthwise-"
_LOCAL = {"intake", "admin"}
_YOUNG_S = 60.0
"""A folder that is younger may belong to a supervisor that has not locked it yet."""


class StartError(LengthwiseError):
    """The service cannot start on this machine, for instance because an address is taken."""


def bound(address: Address) -> socket.socket:
    """A socket that listens on an address.

    Raises:
        StartError: the address is taken, or not ours.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise StartError(f"cannot listen on {address}: {error.strerror or error}") from error
    sock = socket.socket(found[0], socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(found[4])
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on {address}: {error.strerror or error}") from error
    sock.setblocking(False)
    return sock


def unix(path: str) -> socket.socket:
    """A local socket that listens at a path.

    Raises:
        StartError: the path is taken or too long.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on {path}: {error.strerror or error}") from error
    sock.listen(_BACKLOG)
    sock.setblocking(False)
    return sock


def activated(environ: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """The sockets that systemd passed on, by `data` and `admin`; empty without any. Its variables are removed.

    `LISTEN_FDNAMES` tells which is which; one without such a name is the first that is missing of data, admin.

    Raises:
        StartError: there are more than two, or one is no listening stream socket.
    """
    count, pid, names = (environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    named = dict(zip(range(_FIRST_FD, _FIRST_FD + int(count)), names.split(":"), strict=False))
    found = {name: fd for fd, name in named.items() if name in _ROLES}
    missing = [role for role in _ROLES if role not in found]
    unnamed = [fd for fd in range(_FIRST_FD, _FIRST_FD + int(count)) if fd not in found.values()]
    if len(unnamed) > len(missing):
        raise StartError(f"LISTEN_FDS: {count} sockets were passed on, but only data and admin are known")
    return {role: _inherited(fd) for role, fd in (found | dict(zip(missing, unnamed, strict=False))).items()}


def taken_over(fds: dict[str, int]) -> dict[str, socket.socket]:
    """The sockets that the supervisor before us left open for us.

    Raises:
        StartError: one is no listening stream socket.
    """
    return {role: _inherited(fd) for role, fd in fds.items()}


def _inherited(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"the inherited file {fd} cannot be used: {error.strerror or error}") from error
    if not listening:
        sock.close()
        raise StartError(f"the inherited file {fd} is no listening stream socket")
    sock.setblocking(False)
    return sock


def notify(environ: MutableMapping[str, str], *states: str) -> None:
    """Tell the service manager, where there is one that wants to know (systemd, `Type=notify`)."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            sock.send("\n".join(states).encode())


@contextlib.contextmanager
def socket_folder() -> Iterator[str]:
    """A new folder for local sockets, for our eyes only, removed at the end; those of supervisors that were killed go too.

    Unix sockets' paths are limited to some 100 bytes, so it is the system's temporary folder.

    Raises:
        StartError: it cannot be made.
    """
    try:
        folder = tempfile.mkdtemp(prefix=_FOLDER)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # released by the system, however we end
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise StartError(f"cannot make a folder for sockets: {error.strerror or error}") from error
    try:
        _sweep(Path(folder).parent)
        yield folder
    finally:
        _remove(Path(folder))
        os.close(lock)


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_FOLDER}*"):
        try:
            state = folder.lstat()
            if (
                not stat.S_ISDIR(state.st_mode)
                or state.st_uid != os.getuid()
                or time.time() - state.st_mtime < _YOUNG_S
            ):
                continue
            if {entry.name for entry in folder.iterdir()} - _LOCAL:
                continue  # somebody else's, by the same beginning of its name
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not any(_listened_to(folder / name) for name in _LOCAL):
                _remove(folder)
        except OSError:
            pass  # its supervisor runs
        finally:
            os.close(lock)


def _listened_to(path: Path) -> bool:
    """True unless a connection is certain to be refused: a lock can be lost, or never have been there, where somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)  # a full queue is a sign of life
        try:
            sock.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True


def _remove(folder: Path) -> None:
    for name in _LOCAL:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
