"""The way out over OTLP: which exporters, what became of what they were given, and an end that does not wait.

Layer: recorder. Endpoint, headers, certificates, compression and temporality are the SDK's standard variables; here are
only what it lacks: a choice of protocol by variable, counts of what was exported, failed and dropped, one log line
instead of many, and a shutdown with a bound (the SDK's own waits up to 30 s for a collector that is away).

Source: opentelemetry.io/docs/specs/otel/protocol/exporter; ARCHITECTURE.md 5.8.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

__all__ = ["ExportCounts", "SpanOutlet", "configured", "metric_reader", "protocol_of", "quiet_sdk", "run_bounded"]

_QUEUE_SPANS: Final = 8192
_BATCH_SPANS: Final = 64
_DELAY_MS: Final = 1000
_TIMEOUT_S: Final = 3.0
_LOG_EVERY_S: Final = 60.0

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
    last_failure: str | None = None
    """Kind of the last failure: an exception's name, an HTTP status, a gRPC code."""
    _logged_s: float = field(default=float("-inf"), repr=False)

    def status(self) -> dict[str, object]:
        """For `/status`."""
        return {
            "protocol": self.protocol,
            "exported": self.exported,
            "failed": self.failed,
            "dropped": self.dropped,
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


def metric_reader(counts: ExportCounts, environ: Mapping[str, str]) -> PeriodicExportingMetricReader:
    """A reader that exports the metrics over OTLP every OTEL_METRIC_EXPORT_INTERVAL (60 s)."""
    return PeriodicExportingMetricReader(_CountedMetrics(_metric_exporter(counts.protocol, environ), counts))


class SpanOutlet:
    """A bounded queue of spans and the thread that exports them."""

    def __init__(self, counts: ExportCounts, environ: Mapping[str, str]) -> None:
        self._counts = counts
        self._queue_spans = _natural(environ, "OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE_SPANS)
        batch_spans = _natural(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _BATCH_SPANS)
        self._exporter = _CountedSpans(_span_exporter(counts.protocol, environ), counts)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=self._queue_spans,
            schedule_delay_millis=_natural(environ, "OTEL_BSP_SCHEDULE_DELAY", _DELAY_MS),
            max_export_batch_size=min(batch_spans, self._queue_spans),
        )
        self._given = 0

    def put(self, spans: Sequence[ReadableSpan]) -> None:
        """Queue finished spans; never waits. What does not fit is counted, before the SDK would drop it silently."""
        for span in spans:
            if self._given - self._exporter.taken >= self._queue_spans:
                self._counts.dropped += 1
                self._counts.complain()
                continue
            self._given += 1
            self._processor.on_end(span)

    def shutdown(self) -> None:
        """Export what is queued; may take as long as the collector lets it: call through `run_bounded`."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


class _CountedSpans(SpanExporter):
    """Counts what the exporter below it does."""

    def __init__(self, inner: SpanExporter, counts: ExportCounts) -> None:
        self._inner = inner
        self._counts = counts
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export one batch; an exporter that raises has failed."""
        self.taken += len(spans)
        _count(self._counts, len(spans), lambda: self._inner.export(spans) is SpanExportResult.SUCCESS)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the connection."""
        self._inner.shutdown()


class _CountedMetrics(MetricExporter):
    """Counts what the exporter below it does."""

    def __init__(self, inner: MetricExporter, counts: ExportCounts) -> None:
        # the SDK's readers take both from these attributes; there is no public way to ask the exporter
        super().__init__(inner._preferred_temporality, inner._preferred_aggregation)  # noqa: SLF001 -- see above
        self._inner = inner
        self._counts = counts

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Export one collection; an exporter that raises has failed."""
        _count(self._counts, 1, lambda: self._inner.export(metrics_data, timeout_millis) is MetricExportResult.SUCCESS)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is buffered."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Close the connection."""
        self._inner.shutdown()


def _count(counts: ExportCounts, items: int, export: Callable[[], bool]) -> None:
    _reasons.last.kind = None
    try:
        taken = export()
    except Exception as error:  # noqa: BLE001 -- a third party's exporter must not end the thread that runs it
        _reasons.last.kind = type(error).__name__
        taken = False
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


def _span_exporter(protocol: str, environ: Mapping[str, str]) -> SpanExporter:
    if protocol == "grpc":
        from grpc import Compression as GrpcCompression  # type: ignore[import-untyped] # noqa: PLC0415 -- see above
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter as GrpcSpanExporter,
        )

        return GrpcSpanExporter(**_options("traces", environ, GrpcCompression.Gzip))
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter(**_options("traces", environ, Compression.Gzip))


def _metric_exporter(protocol: str, environ: Mapping[str, str]) -> MetricExporter:
    if protocol == "grpc":
        from grpc import Compression as GrpcCompression  # noqa: PLC0415 -- see above
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter as GrpcMetricExporter,
        )

        return GrpcMetricExporter(**_options("metrics", environ, GrpcCompression.Gzip))
    from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415

    return OTLPMetricExporter(**_options("metrics", environ, Compression.Gzip))


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
