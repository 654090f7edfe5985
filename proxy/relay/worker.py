"""One relay worker: the listening socket, the connections, the counters, and its ties to supervisor and recorder.

Layer: relay. Started by the supervisor as `python -m proxy.relay --control FD`; everything it needs comes as the first
line of that socket. `leave`, or the end of the socket, drains it; it inherits a mask against the signals of a terminal.
"""

import asyncio
import gc
import logging
import os
import socket
import ssl
from collections.abc import Sequence
from time import monotonic_ns
from typing import Any, cast

import orjson

from proxy import logs
from proxy.policy import rules
from proxy.policy.live import Live
from proxy.policy.rules import PolicySet
from proxy.record import ExchangeRecord
from proxy.relay.client import Client
from proxy.relay.outbox import Outbox
from proxy.relay.pool import Pool
from proxy.relay.route import DEADLINE_HEADER, METHOD_OVERRIDES, URL_OVERRIDES, Route
from proxy.settings import Settings, from_json
from proxy.wire.dialects.limit_fields import LIMIT_FIELDS
from proxy.wire.http1 import KnownHead

__all__ = ["Worker", "run"]

_log = logging.getLogger(__name__)

_TICK_S = 0.25
"""Timeouts are looked at so often: one timer for all connections, so that a chunk costs none."""
_OUTDATED_NS = 30_000_000_000
"""A law that was not repeated for so long is no law."""
_NEVER_NS = 1 << 62
"""A timeout that is switched off: a hundred years."""
_LINGER_NS = 5_000_000_000
_BACKLOG = 1024
_OUTBOX_CLOSE_S = 1.0


class Worker:
    """What the connections of one worker share."""

    def __init__(self, settings: Settings, policies: PolicySet, outbox: Outbox) -> None:
        self.settings = settings
        self.policies = policies
        self.live = Live()
        self._live_ns = 0
        self.outbox = outbox
        outbox.on_message = self._learn
        # The longest prefix wins, so it is tried first.
        self.pools = sorted(
            (Pool(settings, upstream) for upstream in settings.upstreams), key=lambda pool: -len(pool.prefix)
        )
        self.clients: set[Client] = set()
        self.known_heads: list[tuple[KnownHead, Route]] = []
        """Of the connections' heads that differ, the ones read last, while there are connections; for `Client`."""
        self.draining = False
        self.linger_ns = 0
        """While draining, how long an idle connection may still bring a request."""
        self.exchanges = 0
        self.exchanges_active = 0
        self.connections_malformed = 0
        self.scheme = "https" if settings.listen_tls else "http"
        self.app_header = settings.app_header.lower().encode("latin-1")
        self.private_headers = (self.app_header, DEADLINE_HEADER)
        self.propagate = settings.telemetry.propagate and settings.telemetry.traces != "none"
        self.sample_ratio = settings.telemetry.sample_ratio
        self.limit_fields = (*LIMIT_FIELDS, *settings.limits.limit_fields)
        self.interesting = frozenset(
            (
                self.app_header,
                DEADLINE_HEADER,
                b"traceparent",
                b"tracestate",
                b"content-encoding",
                b"content-type",
                b"x-stainless-retry-count",
                *METHOD_OVERRIDES,
                *URL_OVERRIDES,
            )
        )
        timeouts = settings.timeouts
        self.connect_ns = _ns(timeouts.connect_s)
        self.first_byte_ns = _ns(timeouts.first_byte_s)
        self.idle_ns = _ns(timeouts.idle_s)
        self.client_body_ns = _ns(timeouts.client_body_s)
        self.keepalive_ns = _ns(timeouts.keepalive_s)
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._ticks = 0
        self._idle = asyncio.Event()
        self.hurry = asyncio.Event()
        """Set to end a drain before its time."""

    def exchange_begun(self) -> None:
        """Count an exchange in."""
        self.exchanges += 1
        self.exchanges_active += 1

    def exchange_over(self, record: ExchangeRecord | None, texts: Sequence[str] | None) -> None:
        """Count an exchange out, and send its record, with the texts whose tokens are to be counted; None is a lost one."""
        self.exchanges_active -= 1
        if record is None:
            self.outbox.records_dropped += 1
        else:
            self.outbox.put(record, texts)
        if self.draining:
            self._loop.call_soon(self._check_idle)  # after the client decided whether to close

    def _learn(self, message: dict[str, Any]) -> None:
        """Live state from the recorder, whole each time."""
        self.live, self._live_ns = Live.from_json(message["live"]), monotonic_ns()

    def client_gone(self, client: Client) -> None:
        """A client's connection ended."""
        self.clients.discard(client)
        if not self.clients:
            self.known_heads.clear()  # they hold what was sent in them, keys too
        if self.draining:
            self._check_idle()

    def _check_idle(self) -> None:
        """Nothing runs and every answer has left: `drain` may go on."""
        if self.linger_ns and self.clients:
            return
        if not self.exchanges_active and not any(client.is_leaving for client in self.clients):
            self._idle.set()

    def totals(self) -> dict[str, Any]:
        """Counters since this worker's start."""
        return {
            "exchanges": self.exchanges,
            "exchanges_active": self.exchanges_active,
            "connections_malformed": self.connections_malformed,
            "policy_digest": self.policies.digest,
        }

    async def listen(self, listener: socket.socket) -> None:
        """Accept clients on a socket that is listening already."""
        tls = None if self.settings.listen_tls is None else _server_tls(self.settings)
        # asyncio switches Nagle's algorithm off for sockets that know their protocol, and one that was made without does not.
        sock = socket.socket(fileno=listener.detach())
        self._server = await self._loop.create_server(lambda: Client(self), sock=sock, ssl=tls, backlog=_BACKLOG)
        self._loop.call_later(_TICK_S, self._tick)
        self.outbox.tick()

    def _tick(self) -> None:
        self._loop.call_later(_TICK_S, self._tick)  # first: no mistake below may stop the clock
        now_ns = monotonic_ns()
        for client in [client for client in self.clients if 0 < client.deadline_ns <= now_ns]:
            client.deadline(now_ns)
        for pool in self.pools:
            pool.sweep(now_ns)
        if self.live.laws and now_ns - self._live_ns > _OUTDATED_NS:  # the recorder is away; what it disarmed stays so
            self.live = Live(disarmed=self.live.disarmed)
        self._ticks += 1
        if self._ticks * _TICK_S % 1 == 0:
            self.outbox.tick()

    async def drain(self, drain_s: float | None, *, linger: bool = False) -> None:
        """Take no more connections, let running exchanges finish, abort what is left after `drain_s`.

        `linger` where somebody else listens on: a client that has just connected to us must not find itself refused.
        """
        self.draining = True
        self.linger_ns = _LINGER_NS if linger else 0
        if self._server is not None:
            self._server.close()
        for client in tuple(self.clients):
            client.drain(self.linger_ns)
        self._check_idle()
        if not self._idle.is_set():
            waits = [self._loop.create_task(event.wait()) for event in (self._idle, self.hurry)]
            await asyncio.wait(waits, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if self.exchanges_active:
                _log.warning("not waiting any longer: %d exchanges are aborted", self.exchanges_active)
        for client in tuple(self.clients):
            client.abort("drain")
        for pool in self.pools:
            pool.close()
        await self.outbox.close(_OUTBOX_CLOSE_S)


def _ns(seconds: float | None) -> int:
    return _NEVER_NS if seconds is None else int(seconds * 1e9)


def _server_tls(settings: Settings) -> ssl.SSLContext:
    files = settings.listen_tls
    assert files is not None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert_file, files.key_file)
    if files.client_ca_file is not None:
        context.load_verify_locations(cafile=str(files.client_ca_file))
        context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Control(asyncio.Protocol):
    """The worker's end of the socket to the supervisor."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.init: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.leave = asyncio.Event()
        self.linger = False
        self.transport: asyncio.Transport | None = None
        self._received = b""

    def send(self, message: dict[str, Any]) -> None:
        """One line to the supervisor; nothing when it is gone."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(orjson.dumps(message) + b"\n")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by class

    def data_received(self, data: bytes) -> None:
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            message = orjson.loads(line)
            if "init" in message and not self.init.done():
                self.init.set_result(message["init"])
            elif "policy" in message and self.worker is not None:
                # One reference: an exchange reads it once, so it is judged by one version.
                self.worker.policies = rules.parse(message["policy"])
            elif "leave" in message:
                if "intake" in message and self.worker is not None:
                    self.worker.outbox.move(message["intake"])
                self.linger = bool(message.get("linger"))
                self.leave.set()
            elif "hurry" in message and self.worker is not None:
                self.worker.hurry.set()
            elif "policy" in message:
                self.init.result()["policy"] = message["policy"]  # reloaded while this process starts

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave.set()
        if not self.init.done():
            self.init.cancel()


async def _serve(control_fd: int) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.report)
    _, control = await loop.create_connection(_Control, sock=socket.socket(fileno=control_fd))
    init = await control.init
    settings = from_json(orjson.dumps(init["settings"]))
    logs.configure(settings.logs, f"worker {init['index']}")
    worker: Worker | None = None

    def totals() -> dict[str, Any]:
        return {} if worker is None else worker.totals()

    def hello() -> dict[str, Any]:
        disarmed = [] if worker is None else sorted(worker.live.disarmed)
        return {"worker": init["index"], "pid": os.getpid(), "disarmed": disarmed}

    outbox = Outbox(init["intake"], hello, totals)
    worker = control.worker = Worker(settings, rules.parse(init["policy"]), outbox)
    await worker.listen(socket.socket(fileno=init["listen_fd"]))
    # What start-up made lives as long as the process: the collector need not look at it.
    gc.freeze()
    gc.enable()
    # An exchange leaves no cycles, so collections find nothing; they only cost, some 4 % of a request by default.
    gc.set_threshold(50_000, 20, 20)
    control.send({"ready": True})

    def heartbeat() -> None:
        control.send({"heartbeat": worker.totals()})
        beats.append(loop.call_later(0.5, heartbeat))
        del beats[:-1]

    beats: list[asyncio.TimerHandle] = []
    heartbeat()
    await control.leave.wait()
    await worker.drain(settings.timeouts.drain_s, linger=control.linger)


def run(control_fd: int) -> None:
    """Run a worker until it is told to leave."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(control_fd))


def _loop_factory() -> Any:
    try:
        import uvloop  # noqa: PLC0415 -- optional: some 5 to 40 % less CPU for a request (extra `speed`)
    except ImportError:
        return None
    return uvloop.new_event_loop
