"""The recorder process: composes intake, spans, metrics, ledger and admin, and ends in time.

Layer: recorder. Nothing here may end it but the supervisor: a collector, a ledger or a record that fails is counted and
shown in `/status`. It leaves when it is told so, on SIGTERM or when the control channel closes, within 3 seconds whatever the collector does:
first for what workers still hand over, the rest for the export of what is queued.

Source: ARCHITECTURE.md 3, 5.7, 5.8, 7 "Admin".
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry

from proxy import logs
from proxy.errors import SettingsError
from proxy.policy import rules
from proxy.record import ExchangeRecord
from proxy.recorder import admin, export, semconv, tokens
from proxy.recorder.exposition import Exposition
from proxy.recorder.intake import Intake
from proxy.recorder.learned import Learned, LearnedPolicy
from proxy.recorder.ledger import Ledger, LedgerError, rows_of
from proxy.recorder.metrics import Metrics
from proxy.recorder.otlp import MetricSnapshots, SpanEncoder
from proxy.recorder.page.endpoints import TOKEN_VARIABLE, Page
from proxy.recorder.page.history import MOST_ROWS
from proxy.recorder.series import Instrument, Observed
from proxy.recorder.spans import SpanForm, spans_of
from proxy.recorder.tokens import TokenCounter
from proxy.recorder.workers import Workers
from proxy.settings import Settings, Telemetry, from_json

__all__ = ["Init", "Recorder", "run"]

_LEAVE_S: Final = 2.7
_DRAIN_S: Final = 1.2
"""Part of it for what workers have sent already; they are gone by then, so this ends with the backlog."""
_BEAT_S: Final = 0.5
_TEACH_S: Final = 1.0
_HOUR_S: Final = 3600.0
_SLICE_PAUSE_S: Final = 0.01
_DAY_S: Final = 86400.0
_CONTROL_BYTES: Final = 64 * 1024 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Init:
    """The supervisor's first line."""

    settings: Settings
    policy: dict[str, Any]
    """`/status` shows it: digest, loaded_at, error, rules."""
    learned: LearnedPolicy
    intake_fd: int
    admin_fd: int
    version: str
    settings_digest: str
    supervisor_pid: int

    @classmethod
    def read(cls, line: bytes) -> "Init":
        """Read the line.

        Raises:
            ValueError, LookupError, TypeError, SettingsError: it is no init line.
        """
        init = orjson.loads(line)["init"]
        return cls(
            from_json(orjson.dumps(init["settings"])),
            init["policy"],
            LearnedPolicy.read(rules.parse, init),
            init["intake_fd"],
            init["admin_fd"],
            init["version"],
            init["settings_digest"],
            init["supervisor_pid"],
        )


class Recorder:
    """Everything that a record goes through, and what `/status` says of it."""

    def __init__(self, init: Init, environ: Mapping[str, str]) -> None:
        telemetry = init.settings.telemetry
        self._init = init
        self.policy = init.policy
        self.workers = Workers()
        self._vocabularies = tokens.folder(environ)
        self._counter = TokenCounter(partial(tokens.load, self._vocabularies))
        self.intake = Intake(self.process, self.workers, self._counter)
        self.failed_records = 0
        self._exports = {
            signal_name: export.ExportCounts(signal_name, export.protocol_of(signal_name, environ))
            for signal_name, sink in (("traces", telemetry.traces), ("metrics", telemetry.metrics))
            if sink == "otlp" and export.configured(signal_name, environ)
        }
        resource = _resource(telemetry, init.version, environ)
        scope = InstrumentationScope(semconv.SCOPE, init.version, semconv.SCHEMA_URL)
        urls = {upstream.name: upstream.url.rstrip("/") for upstream in init.settings.upstreams}
        self._form = SpanForm(telemetry.genai, frozenset(telemetry.compat), urls)
        self._encoder = SpanEncoder(resource, scope)
        self._outlet = (
            export.SpanOutlet(self._exports["traces"], self._encoder.request, environ)
            if "traces" in self._exports
            else None
        )
        metrics = Metrics(self.workers, telemetry.models, self._policy_state)
        instruments = (*metrics.instruments, *self._own_instruments())
        self._metrics = metrics if telemetry.prometheus or "metrics" in self._exports else None
        self.registry = CollectorRegistry() if telemetry.prometheus else None
        if self.registry is not None:
            self.registry.register(Exposition(instruments, resource.attributes))
        self._metric_outlet: export.MetricOutlet | None = None
        if "metrics" in self._exports:
            preference = environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "")
            snapshots = MetricSnapshots(instruments, resource, scope, preference, time.time_ns())
            self._metric_outlet = export.MetricOutlet(self._exports["metrics"], snapshots.take, environ)
        self._ledger, self._ledger_error = _open_ledger(init.settings)
        self.learned = Learned(init.learned, self._ledger.answers if self._ledger is not None else lambda *_: ())
        self.intake.greet = self._greet
        self.page = Page(self.status, environ.get(TOKEN_VARIABLE))
        if not self._exports and "otlp" in {telemetry.traces, telemetry.metrics}:
            log.info("no OTLP endpoint is configured (OTEL_EXPORTER_OTLP_ENDPOINT): no spans or metrics are exported")

    def process(self, records: Sequence[ExchangeRecord]) -> None:
        """Take a batch: spans, metrics, then the ledger's commit. Never raises."""
        for record in records:
            try:
                if self._metrics is not None:
                    self._metrics.record(record)
                if self._outlet is not None:
                    self._outlet.put([self._encoder.span(span) for span in spans_of(record, self._form)])
                if self._init.settings.logs.exchanges:
                    _log_exchange(record)
            except Exception:  # noqa: BLE001 -- one record must not cost the others; its text could hold anything
                self.failed_records += 1
        rows = rows_of(records)
        self.page.take(rows, records)
        if self._ledger is not None:
            failing = self._ledger.error is not None
            if not self._ledger.write(rows) and not failing:
                log.warning("the ledger takes no rows (%s): they are counted, and not kept", self._ledger.error)

        if self.learned.observe(records):
            self.intake.tell(self.learned.line(time.time()))

    def _policy_state(self) -> tuple[bool, Sequence[tuple[str, bool]]]:
        return self.policy["error"] is not None, self.learned.armed()

    def _greet(self, disarmed: list[str]) -> bytes:
        self.learned.adopt(disarmed)
        return self.learned.line(time.time())

    def take_policy(self, message: dict[str, Any]) -> None:
        """Take the supervisor's word about the rules.

        Raises:
            LookupError, TypeError, ValueError, SettingsError: it is none.
        """
        learned = LearnedPolicy.read(rules.parse, message)
        self.policy = message["policy"]
        self.learned.take(learned)
        self.intake.tell(self.learned.line(time.time()))

    async def teach(self) -> None:
        """Tell the workers each second what is known: they take a law for outdated that is not repeated."""
        while True:
            await asyncio.sleep(_TEACH_S)
            self.intake.tell(self.learned.line(time.time()))

    async def housekeep(self) -> None:
        """Delete what is older than `ledger.keep_days`, now and every hour, in slices between which records pass."""
        while self._ledger is not None:
            oldest_unix_s = time.time() - self._init.settings.ledger.keep_days * _DAY_S
            more = self._ledger.forget(oldest_unix_s)
            await asyncio.sleep(_SLICE_PAUSE_S if more else _HOUR_S)

    async def remember(self) -> None:
        """Read for the page what the ledger has of the last day, the latest first, in slices between which records pass."""
        slices = () if self._ledger is None else self._ledger.before(time.time() - _DAY_S, MOST_ROWS)
        for rows in slices:
            try:
                self.page.restore(rows)
            except (LookupError, TypeError, ValueError):  # somebody else wrote into it
                log.warning("the live page begins now: the ledger holds rows that no recorder wrote")
                return
            await asyncio.sleep(_SLICE_PAUSE_S)

    async def export_metrics(self) -> None:
        """Send the metrics over OTLP, each time they are due, if anybody wants them."""
        if self._metric_outlet is not None:
            await self._metric_outlet.run()

    def _own_instruments(self) -> tuple[Instrument, ...]:
        """What the recorder tells about itself, by way of whatever still works."""
        return (
            Observed(
                semconv.LENGTHWISE_EXPORT_ITEMS,
                "{item}",
                "Spans, and collections of metrics, by what became of them.",
                ("signal", "outcome"),
                lambda: [
                    ((name, outcome), count)
                    for name, counts in self._exports.items()
                    for outcome, count in counts.outcomes().items()
                ],
            ),
            Observed(
                semconv.LENGTHWISE_LEDGER_ROWS,
                "{row}",
                "Rows of the ledger, by what became of them.",
                ("outcome",),
                lambda: (
                    [
                        (("written",), self._ledger.written),
                        (("failed",), self._ledger.failed),
                    ]
                    if self._ledger
                    else []
                ),
            ),
        )

    def status(self) -> dict[str, object]:
        """What `/status` answers."""
        totals, armed = self.workers.totals, self.learned.rules_status()
        return {
            "version": self._init.version,
            "supervisor_pid": self._init.supervisor_pid,
            "listen": f"{'https' if self._init.settings.listen_tls else 'http'}://{self._init.settings.listen}",
            "settings": {"digest": self._init.settings_digest},
            "policy": self.policy | {"rules": [rule | armed.get(rule["name"], {}) for rule in self.policy["rules"]]},
            "workers": [
                {
                    "index": worker.index,
                    "pid": worker.pid,
                    "alive": worker.alive,
                    "exchanges": worker.totals.exchanges,
                    "active": worker.totals.exchanges_active if worker.alive else 0,
                    "dropped": worker.totals.records_dropped,
                    "malformed": worker.totals.connections_malformed,
                    "policy_digest": worker.policy_digest,
                }
                for worker in self.workers
            ],
            "exchanges": totals.exchanges,
            "records": self.intake.counts.records,
            "drops": {
                "records": totals.records_dropped,
                "malformed_lines": self.intake.counts.malformed_lines,
                "failed_records": self.failed_records,
                "connections_malformed": totals.connections_malformed,
            },
            "laws": self.learned.laws_status(time.time()),
            "encodings": tokens.present(self._vocabularies),
            "export": {name: counts.status() for name, counts in self._exports.items()},
            "ledger": self._ledger_status(),
        }

    def _ledger_status(self) -> dict[str, object] | None:
        path = self._init.settings.ledger.path
        if path is None:
            return None
        if self._ledger is None:
            return {"path": str(path), "written": 0, "failed": 0, "error": self._ledger_error}
        return {
            "path": str(path),
            "written": self._ledger.written,
            "failed": self._ledger.failed,
            "error": self._ledger.error,
        }

    def close(self, within_s: float) -> bool:
        """Commit, and export what is queued; False when the collector did not take it in time."""
        self._counter.close()
        if self._ledger is not None:
            self._ledger.close()
        ends = [] if self._outlet is None else [self._outlet.shutdown]
        if self._metric_outlet is not None:
            ends.append(self._metric_outlet.last())
        return export.run_bounded(ends, within_s)


async def run(control: socket.socket, environ: Mapping[str, str]) -> int:
    """Run until the supervisor ends it; the exit code: 0, or 2 when the first line was none."""
    loop = asyncio.get_running_loop()
    # a terminal sends these to the whole process group; what they mean is the supervisor's to say
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    reader, writer = await asyncio.open_unix_connection(sock=control, limit=_CONTROL_BYTES)
    try:
        init = Init.read(await reader.readline())
    except Exception as error:  # noqa: BLE001 -- whatever is wrong with it, its text may hold a credential
        log.error("the control channel gave no settings (%s)", type(error).__name__)  # noqa: TRY400 -- likewise
        return 2
    logs.configure(init.settings.logs, "recorder")
    loop.set_exception_handler(logs.report)
    leave = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, leave.set)
    recorder = Recorder(init, environ)
    await recorder.intake.serve(_inherited(init.intake_fd))
    runner = await admin.serve(
        _inherited(init.admin_fd), recorder.registry, recorder.status, recorder.page, init.settings.admin
    )
    tasks = [
        loop.create_task(_obey(reader, recorder, leave)),
        loop.create_task(recorder.housekeep()),
        loop.create_task(recorder.remember()),
        loop.create_task(recorder.teach()),
        loop.create_task(recorder.export_metrics()),
        loop.create_task(_beat(writer)),
    ]
    writer.write(b'{"ready":true}\n')
    await leave.wait()
    if tasks[0].done() and not tasks[0].result():
        log.warning("the supervisor is gone: leaving when its workers have drained")
        drain_s = init.settings.timeouts.drain_s
        await recorder.intake.drain(None if drain_s is None else drain_s + _LEAVE_S)
    deadline_s = time.monotonic() + _LEAVE_S
    await recorder.intake.drain(_DRAIN_S)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(runner.cleanup(), 0.3)
    if not recorder.close(deadline_s - time.monotonic()):
        log.warning("left without exporting everything: the OTLP collector did not take it in time")
    writer.close()
    return 0


async def _obey(reader: asyncio.StreamReader, recorder: Recorder, leave: asyncio.Event) -> bool:
    """Take the supervisor's lines until it closes the channel; True when it said so before."""
    told = False
    with contextlib.suppress(OSError, ValueError):  # it broke, which is an end like any other
        while line := await reader.readline():
            with contextlib.suppress(ValueError, LookupError, TypeError, SettingsError):
                message = orjson.loads(line)
                if "leave" in message:
                    told = True
                    break
                recorder.take_policy(message)
    leave.set()
    return told


async def _beat(writer: asyncio.StreamWriter) -> None:
    """Tell the supervisor that this process does not hang."""
    while True:
        await asyncio.sleep(_BEAT_S)
        writer.write(b'{"heartbeat":true}\n')


def _log_exchange(record: ExchangeRecord) -> None:
    """One line of what the ledger's row says, for those who read logs."""
    decision = record.decision
    fields = {
        "id": record.id,
        "app": record.app,
        "upstream": record.upstream,
        "dialect": record.request.dialect,
        "model": record.request.model,
        "stream": record.streamed,
        "status": record.status,
        "end": record.end.value,
        "error_type": record.error_type,
        "rule": decision.rule,
        "action": decision.action.value,
        "requested_max_tokens": record.request.requested_max_tokens,
        "forwarded_max_tokens": decision.forwarded_max_tokens,
        "output_tokens": record.output_tokens,
        "ttft_s": record.ttft_s,
        "e2e_s": record.e2e_s,
        "trace_id": record.trace_id,
    }
    log.info("exchange", extra={"fields": {name: value for name, value in fields.items() if value is not None}})


def _inherited(fd: int) -> socket.socket:
    """A socket of our own on the supervisor's listening one, which outlives us."""
    os.set_inheritable(fd, False)
    listening = socket.socket(fileno=fd)
    listening.setblocking(False)
    return listening


def _resource(telemetry: Telemetry, version: str, environ: Mapping[str, str]) -> Resource:
    own = {semconv.SERVICE_VERSION: version}
    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not named:
        own[semconv.SERVICE_NAME] = telemetry.service_name
    return Resource.create(own)


def _open_ledger(settings: Settings) -> tuple[Ledger | None, str | None]:
    if settings.ledger.path is None:
        return None, None
    try:
        return Ledger(settings.ledger.path), None
    except LedgerError as error:
        log.error("%s; records are not kept", error)  # noqa: TRY400 -- the sentence says it
        return None, str(error)
