"""One supervisor succeeds another without a refused connection: the listening sockets are left open to the next.

Layer: below supervisor. On SIGUSR2 a supervisor starts its own command again. The successor inherits the sockets, starts its children and
says that it is ready; only then does the predecessor drain, and its workers give their records to the successor's recorder. A
successor that does not get ready changes nothing.

An address that the successor's settings name differently is not inherited but bound anew.
Source: ARCHITECTURE.md 5.11.
"""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass

import orjson

from proxy.errors import LengthwiseError
from proxy.listeners import activated, bound, taken_over
from proxy.settings import Settings

__all__ = ["HandoverError", "Listeners", "Predecessor", "Successor", "listeners"]

_VARIABLE = "_LENGTHWISE_HANDOVER"
"""Not of the settings' variables, all of which begin with LENGTHWISE_."""
_READY_S = 60.0


class HandoverError(LengthwiseError):
    """The successor did not get ready."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """The two listening sockets, and what the settings called them."""

    data: socket.socket
    admin: socket.socket
    addresses: dict[str, str]
    kept: bool = False
    """True when the data socket is a service manager's, which listens on whether we run or not."""


class Predecessor:
    """The supervisor that started this one."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def ready(self, intake: str) -> None:
        """Say that it may leave, and where its workers' records go from now on."""
        with self._control, suppress(OSError):  # when it is gone, the sockets are ours all the same
            self._control.sendall(orjson.dumps({"intake": intake}) + b"\n")


def listeners(settings: Settings, environ: MutableMapping[str, str]) -> tuple[Listeners, Predecessor | None]:
    """The sockets to listen on: a predecessor's, a service manager's, or our own. What the environment said of them is removed.

    Raises:
        StartError: an address cannot be bound, or what was inherited is no listening socket.
    """
    addresses = {"data": str(settings.listen), "admin": str(settings.admin)}
    found, predecessor = activated(environ), None
    kept = "data" in found
    left = environ.pop(_VARIABLE, None)
    if left is not None:
        estate = orjson.loads(left)
        predecessor = Predecessor(socket.socket(fileno=estate["control"]))
        for role, sock in taken_over(estate["sockets"]).items():
            if estate["addresses"][role] == addresses[role]:
                found[role] = sock
                kept = kept or (role == "data" and estate["kept"])
            else:
                sock.close()
    data = found.get("data") or bound(settings.listen)
    admin = found.get("admin") or bound(settings.admin)
    return Listeners(data, admin, addresses, kept), predecessor


class Successor:
    """The supervisor that this one started."""

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        self.process = process
        self._control = control

    @classmethod
    def start(cls, estate: Listeners, environ: Mapping[str, str]) -> "Successor":
        """Run our own command again, in the same folder and environment.

        Raises:
            OSError: there is no process to be had.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            sockets = {"data": estate.data.fileno(), "admin": estate.admin.fileno()}
            left = {"control": theirs.fileno(), "sockets": sockets, "addresses": estate.addresses, "kept": estate.kept}
            try:
                # Not asyncio's: that ends its children with the loop.
                process = subprocess.Popen(  # noqa: S603 -- our own command
                    [sys.executable, *sys.orig_argv[1:]],
                    env={**environ, _VARIABLE: orjson.dumps(left).decode()},
                    pass_fds=(theirs.fileno(), *sockets.values()),
                )
            except OSError:
                ours.close()
                raise
        return cls(process, ours)

    async def ready(self) -> str:
        """Wait until it is ready; the path of its recorder's intake.

        Raises:
            HandoverError: it ended, or was not ready in time; it is gone then.
        """
        reader, writer = await asyncio.open_connection(sock=self._control)
        try:
            async with asyncio.timeout(_READY_S):
                line = await reader.readline()
            if line:
                intake: str = orjson.loads(line)["intake"]
                return intake
            raise HandoverError(f"it ended with code {await asyncio.to_thread(self.process.wait, _READY_S)}, see above")
        except TimeoutError:
            await asyncio.to_thread(self.end)
            raise HandoverError(f"it was not ready within {_READY_S:.0f} s") from None
        finally:
            writer.close()

    def end(self) -> None:
        """Stop it, and wait until it is gone."""
        self.process.terminate()
        try:
            self.process.wait(_READY_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
