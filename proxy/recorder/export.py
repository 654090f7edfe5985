"""The way out over OTLP: which exporters, what became of what they were given, and an end that does not wait.

Layer: recorder. Endpoint, headers, certificates, compression, time-outs and retries are the SDK's, by its standard variables; here
are only what it lacks: a choice of protocol by variable, counts of what was exported, failed and dropped, one log line instead of
many, and a shutdown with a bound (the SDK's own waits up to 30 s for a collector that is away). Spans arrive encoded, see `otlp`.

Source: opentelemetry.io/docs/specs/otel/protocol/exporter; ARCHITECTURE.md 5.8.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

if TYPE_CHECKING:
    import requests

__all__ = ["ExportCounts", "MetricOutlet", "SpanOutlet", "configured", "protocol_of", "quiet_sdk", "run_bounded"]

_QUEUE_SPANS: Final = 8192
_BATCH_SPANS: Final = 256
_DELAY_MS: Final = 1000
_INTERVAL_MS: Final = 60_000
_TIMEOUT_S: Final = 3.0
_LOG_EVERY_S: Final = 60.0
_ANSWER_BYTES: Final = 65536

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ExportCounts:
    """What became of one signal; items are spans, or metric exports."""

    signal: str
    protocol: str
    exported: int = 0
    failed: int = 0
    dropped: int = 0
    """Never given to the exporter: its queue was full."""
    failing: bool = False
    """True when the last attempt failed."""
    last_failure: str | None = None
    """Kind of the last failure: an exception's name, an HTTP status, a gRPC code."""
    _logged_s: float = field(default=float("-inf"), repr=False)

    def outcomes(self) -> dict[str, int]:
        """The three counts by their names."""
        return {"exported": self.exported, "failed": self.failed, "dropped": self.dropped}

    def status(self) -> dict[str, object]:
        """For `/status`."""
        return {
            "protocol": self.protocol,
            **self.outcomes(),
            "failing": self.failing,
            "last_failure": self.last_failure,
        }

    def complain(self) -> None:
        """Log what is lost so far, at most once a minute."""
        now_s = time.monotonic()
        if now_s - self._logged_s < _LOG_EVERY_S:
            return
        self._logged_s = now_s
        log.warning(
            "OTLP export of %s fails (%s), see OTEL_EXPORTER_OTLP_ENDPOINT: %d failed, %d dropped so far; traffic is not affected",
            self.signal,
            self.last_failure or "no reason given",
            self.failed,
            self.dropped,
        )


def configured(signal: str, environ: Mapping[str, str]) -> bool:
    """True when an OTLP endpoint is named for `traces` or `metrics` and no variable turns the signal off."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower() == "none":
        return False
    return bool(
        environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    )


def protocol_of(signal: str, environ: Mapping[str, str]) -> str:
    """`grpc` or `http/protobuf` for `traces` or `metrics`; the signal's own variable beats the general one."""
    name = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    return "grpc" if (name or "").strip().lower() == "grpc" else "http/protobuf"


class SpanOutlet:
    """A bounded queue of encoded spans and the thread that exports them, in batches, at the latest after a second."""

    def __init__(
        self, counts: ExportCounts, request: Callable[[Sequence[bytes]], bytes], environ: Mapping[str, str]
    ) -> None:
        """`request` makes an `ExportTraceServiceRequest` of encoded spans."""
        self._counts = counts
        self._queue: deque[bytes] = deque()
        self._most = _natural(environ, "OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE_SPANS)
        self._batch = min(_natural(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _BATCH_SPANS), self._most)
        self._delay_s = _natural(environ, "OTEL_BSP_SCHEDULE_DELAY", _DELAY_MS) / 1000
        self._request = request
        self._export, self._close = _span_exporter(counts.protocol, environ)
        self._due = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def put(self, spans: Sequence[bytes]) -> None:
        """Queue finished spans; never waits. What does not fit is counted."""
        for span in spans:
            if len(self._queue) >= self._most:
                self._counts.dropped += 1
                self._counts.complain()
            else:
                self._queue.append(span)
        if len(self._queue) >= self._batch:
            self._due.set()

    def shutdown(self) -> None:
        """Export what is queued; may take as long as the collector lets it: call through `run_bounded`."""
        self._closing = True
        self._due.set()
        self._thread.join()
        self._close()

    def _run(self) -> None:
        while not self._closing or self._queue:
            self._due.wait(self._delay_s)
            self._due.clear()
            waiting = len(
                self._queue
            )  # so many at least; what comes meanwhile fills a batch or waits for the next time
            while waiting > 0 or len(self._queue) >= self._batch:
                spans = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
                waiting -= len(spans)
                _count(self._counts, len(spans), lambda: self._export(self._request(spans)))  # noqa: B023 -- called at once


class MetricOutlet:
    """Exports the metrics every OTEL_METRIC_EXPORT_INTERVAL (60 s), and a last time."""

    def __init__(self, counts: ExportCounts, take: Callable[[int], MetricsData], environ: Mapping[str, str]) -> None:
        """`take` is called on the event loop with the time in unix ns; its result is encoded and sent by a thread."""
        self._counts = counts
        self._take = take
        self._interval_s = _natural(environ, "OTEL_METRIC_EXPORT_INTERVAL", _INTERVAL_MS) / 1000
        self._exporter = _metric_exporter(counts.protocol, environ)

    async def run(self) -> None:
        """Export until cancelled. An export that hangs delays the next one, and nothing else."""
        while True:
            await asyncio.sleep(self._interval_s)
            await asyncio.to_thread(self._export, self._take(time.time_ns()))

    def last(self) -> Callable[[], None]:
        """Take the last metrics now; what it returns exports them, for as long as the collector lets it."""
        data = self._take(time.time_ns())

        def export() -> None:
            self._export(data)
            self._exporter.shutdown()

        return export

    def _export(self, data: MetricsData) -> None:
        _count(self._counts, 1, lambda: self._exporter.export(data) is MetricExportResult.SUCCESS)


def _count(counts: ExportCounts, items: int, export: Callable[[], bool]) -> None:
    _reasons.last.kind = None
    try:
        taken = export()
    except Exception as error:  # noqa: BLE001 -- a third party's exporter must not end the thread that runs it
        _reasons.last.kind = type(error).__name__
        taken = False
    counts.failing = not taken
    if taken:
        counts.exported += items
    else:
        counts.failed += items
        # the SDK mutes a complaint that it repeats within 20 s: then the last kind stands
        counts.last_failure = _reasons.last.kind or counts.last_failure
        counts.complain()


def _options(signal: str, environ: Mapping[str, str], gzip: object) -> dict[str, Any]:
    """Our defaults, where no standard variable says otherwise."""

    def said(name: str) -> bool:
        return bool(
            environ.get(f"OTEL_EXPORTER_OTLP_{name}") or environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}")
        )

    options: dict[str, Any] = {}
    if not said("TIMEOUT"):
        options["timeout"] = _TIMEOUT_S
    if not said("COMPRESSION"):
        options["compression"] = gzip
    return options


# The gRPC library costs a tenth of a second and its own threads, so each protocol is imported only when it is asked for.


def _span_exporter(protocol: str, environ: Mapping[str, str]) -> tuple[Callable[[bytes], bool], Callable[[], None]]:
    """What exports a request and says whether it was taken, and what closes the connection.

    The SDK's exporters take its own spans only, so this reaches below: to the step after their encoding. `pyproject.toml` holds
    them to the versions of which that is known.
    """
    if protocol == "grpc":
        from grpc import Compression as GrpcCompression  # type: ignore[import-untyped] # noqa: PLC0415 -- see above
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter as GrpcSpanExporter,
        )
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415

        class Encoded(GrpcSpanExporter):
            """Takes a request for spans."""

            def _translate_data(self, data: Any) -> ExportTraceServiceRequest:
                request: ExportTraceServiceRequest = data
                return request

            def _count_data(self, data: Any) -> int:
                return 1

        grpc_exporter = Encoded(**_options("traces", environ, GrpcCompression.Gzip))

        def export_grpc(request: bytes) -> bool:
            return grpc_exporter._export(ExportTraceServiceRequest.FromString(request)) is SpanExportResult.SUCCESS  # noqa: SLF001 -- see above

        return export_grpc, grpc_exporter.shutdown
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    http_exporter = OTLPSpanExporter(**_options("traces", environ, Compression.Gzip), session=_session())

    def export_http(request: bytes) -> bool:
        return http_exporter._client.export(request).success  # noqa: SLF001 -- see above

    return export_http, http_exporter.shutdown


def _metric_exporter(protocol: str, environ: Mapping[str, str]) -> MetricExporter:
    if protocol == "grpc":
        from grpc import Compression as GrpcCompression  # noqa: PLC0415 -- see above
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter as GrpcMetricExporter,
        )

        return GrpcMetricExporter(**_options("metrics", environ, GrpcCompression.Gzip))
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415

    return OTLPMetricExporter(**_options("metrics", environ, Compression.Gzip), session=_session())


def _session() -> "requests.Session":
    import requests  # noqa: PLC0415 -- as above

    class Session(requests.Session):
        """One whose certificate is the named one, and that reads little of what a collector answers."""

        def merge_environment_settings(self, *args: Any) -> Any:
            """What requests does, but that REQUESTS_CA_BUNDLE does not beat OTEL_EXPORTER_OTLP_CERTIFICATE."""
            merged = super().merge_environment_settings(*args)
            return merged if self.verify is True else {**merged, "verify": self.verify}

        def request(self, *args: Any, **options: Any) -> requests.Response:
            """One request; an answer that is longer than any collector's costs its connection, not our memory."""
            answer = super().request(*args, **(options | {"stream": True}))
            if len(answer.raw.read(_ANSWER_BYTES)) == _ANSWER_BYTES:
                answer.close()
            return answer

    return Session()


def _natural(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, "")
    return int(value) if value.isdecimal() and int(value) > 0 else default


class _Last(threading.local):
    """Each signal is exported by a thread of its own."""

    kind: str | None = None


class _Reasons(logging.Handler):
    """Keeps the kind of the SDK's last complaint, not its text: that can quote an endpoint's secret path."""

    def __init__(self) -> None:
        super().__init__()
        self.last = _Last()

    def emit(self, record: logging.LogRecord) -> None:
        """Find the one argument that names a kind."""
        for value in record.args if isinstance(record.args, tuple) else ():
            if isinstance(value, BaseException):
                self.last.kind = type(value).__name__
            elif type(value) is int and 100 <= value < 600:
                self.last.kind = f"HTTP {value}"
            elif type(value).__name__ == "StatusCode":
                self.last.kind = f"gRPC {getattr(value, 'name', '')}"
            else:
                continue
            return
        if "timeout" in str(record.msg) and self.last.kind is None:
            self.last.kind = "timeout"


_reasons = _Reasons()


def quiet_sdk() -> None:
    """Keep the SDK and its transports from logging themselves: their lines are many, and we say the same once."""
    for name in ("opentelemetry", "urllib3", "requests", "grpc"):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers = [_reasons if name == "opentelemetry" else logging.NullHandler()]


def run_bounded(tasks: Sequence[Callable[[], object]], within_s: float) -> bool:
    """Run tasks side by side in daemon threads and wait for all of them at most `within_s`; False when some still run."""
    threads = [threading.Thread(target=task, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(deadline_s - time.monotonic(), 0))
    return not any(thread.is_alive() for thread in threads)
