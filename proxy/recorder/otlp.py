"""Spans as bytes of OTLP, and instruments as what the SDK's exporters take.

Layer: recorder. Pure. A span is encoded once, when its exchange is recorded: the SDK's encoder takes some 300 us for the two spans
of an exchange, protobuf's Python interface more than half of it; here it is a concatenation, since names repeat and their bytes are
kept. A test holds it to what the SDK's encoder makes of the same spans.

Source: opentelemetry-proto 1.x `trace/v1/trace.proto`, `common/v1/common.proto`; protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import export as points
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind

from proxy.recorder.series import Counter, Histogram, Instrument, Labels, Observed, Spread
from proxy.recorder.spans import Span

__all__ = ["MetricSnapshots", "SpanEncoder"]

_FIXED = struct.Struct("<Q").pack
_DOUBLE = struct.Struct("<d").pack
_FLAGS = struct.Struct("<I").pack
_KINDS = {SpanKind.SERVER: b"\x30\x02", SpanKind.CLIENT: b"\x30\x03"}
"""Field 6 of a span."""
_STATUS = {False: b"\x7a\x00", True: b"\x7a\x02\x18\x02"}
"""Field 15: unset, error."""
_LOCAL, _REMOTE = 0x100, 0x300
"""SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK, and with ..._IS_REMOTE_MASK."""


class SpanEncoder:
    """Encodes spans of one resource and scope."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._names: dict[str, bytes] = {}
        self._floats: dict[str, bytes] = {}
        attributes = b"".join(_field(0x0A, self._pair(name, value)) for name, value in resource.attributes.items())
        self._resource = _field(0x0A, attributes)
        self._scope = _field(0x0A, _field(0x0A, scope.name.encode()) + _field(0x12, (scope.version or "").encode()))
        self._schema = _field(0x1A, (scope.schema_url or "").encode())

    def span(self, span: Span) -> bytes:
        """One span as an element of `ScopeSpans.spans`.

        Raises:
            ValueError, TypeError, struct.error: an id or a time is none, or a value is of no kind that OTLP knows.
        """
        parts = [b"\x0a\x10", _id(span.trace_id, 16), b"\x12\x08", _id(span.span_id, 8)]
        if span.trace_state:
            parts.append(_field(0x1A, span.trace_state.encode()))
        if span.parent_span_id is not None:
            parts += (b"\x22\x08", _id(span.parent_span_id, 8))
        parts += (
            _field(0x2A, span.name.encode()),
            _KINDS[span.kind],
            b"\x39",
            _FIXED(span.start_unix_ns),
            b"\x41",
            _FIXED(span.end_unix_ns),
        )
        parts += [self._attribute(name, value) for name, value in span.attributes.items()]
        for name, at_unix_ns in span.events:
            parts.append(_field(0x5A, b"\x09" + _FIXED(at_unix_ns) + _field(0x12, name.encode())))
        parts += (_STATUS[span.failed], b"\x85\x01", _FLAGS(_REMOTE if span.parent_is_remote else _LOCAL))
        return _field(0x12, b"".join(parts))

    def request(self, spans: Sequence[bytes]) -> bytes:
        """An `ExportTraceServiceRequest` of encoded spans."""
        scope_spans = _field(0x12, b"".join((self._scope, *spans, self._schema)))
        return _field(0x0A, self._resource + scope_spans)

    def _attribute(self, name: str, value: Any) -> bytes:
        """An element of `Span.attributes`; most are numbers or short texts, whose lengths need one byte."""
        kind = type(value)
        if kind is float:
            head = self._floats.get(name)
            if head is None:  # all but the number is the same each time
                head = self._floats[name] = _field(0x4A, self._pair(name, 0.0))[:-8]
            return head + _DOUBLE(value)
        if kind is str:
            known = self._names.get(name) or self._name(name)
            text = value.encode()
            length = len(text)
            if length + len(known) < 124:
                return b"J%c%b\x12%c\x0a%c%b" % (len(known) + length + 4, known, length + 2, length, text)
        return _field(0x4A, self._pair(name, value))

    def _pair(self, name: str, value: Any) -> bytes:
        return (self._names.get(name) or self._name(name)) + _field(0x12, _any(value))

    def _name(self, name: str) -> bytes:
        self._names[name] = _field(0x0A, name.encode())
        return self._names[name]


def _id(text: str, length_bytes: int) -> bytes:
    found = bytes.fromhex(text)
    if len(found) != length_bytes:
        raise ValueError("an id of another length")
    return found


def _any(value: Any) -> bytes:
    """An `AnyValue`."""
    kind = type(value)
    if kind is str:
        return _field(0x0A, value.encode())
    if kind is bool:
        return b"\x10\x01" if value else b"\x10\x00"
    if kind is int:
        return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    if kind is float:
        return b"\x21" + _DOUBLE(value)
    if kind is list or kind is tuple:
        return _field(0x2A, b"".join(_field(0x0A, _any(item)) for item in value))
    raise TypeError("no value of an attribute")


_SMALL = [bytes((number,)) for number in range(128)]


def _varint(number: int) -> bytes:
    if number < 128:
        return _SMALL[number]
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _field(tag: int, content: bytes) -> bytes:
    """A field of wire type 2; `tag` is below 128."""
    return _SMALL[tag] + _varint(len(content)) + content


class MetricSnapshots:
    """What goes out each interval: sums since the start, or, where the backend prefers it, since the last time."""

    def __init__(
        self,
        instruments: Sequence[Instrument],
        resource: Resource,
        scope: InstrumentationScope,
        preference: str,
        started_unix_ns: int,
    ) -> None:
        """`preference` is what OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE says: cumulative, delta or lowmemory."""
        self._instruments = instruments
        self._resource = resource
        self._scope = scope
        self._delta: tuple[type, ...] = {
            "delta": (Histogram, Counter, Observed),
            "lowmemory": (Histogram, Counter),
        }.get(preference.strip().lower(), ())
        self._started_unix_ns = self._before_unix_ns = started_unix_ns
        self._told: dict[tuple[str, Labels | None], tuple[list[int], float]] = {}

    def take(self, now_unix_ns: int) -> points.MetricsData:
        """The metrics as they are; exemplars are given away, and of deltas the extremes. A delta of nothing is left out, as by the SDK."""
        metrics = [metric for each in self._instruments if (metric := self._metric(each, now_unix_ns)) is not None]
        self._before_unix_ns = now_unix_ns
        schema = self._scope.schema_url or ""
        in_scope = points.ScopeMetrics(self._scope, metrics, schema)
        return points.MetricsData([points.ResourceMetrics(self._resource, [in_scope], "")])

    def _metric(self, instrument: Instrument, now_unix_ns: int) -> points.Metric | None:
        delta = isinstance(instrument, self._delta) and (isinstance(instrument, Histogram) or instrument.monotonic)
        kind = points.AggregationTemporality.DELTA if delta else points.AggregationTemporality.CUMULATIVE
        start = self._before_unix_ns if delta else self._started_unix_ns
        data: points.Sum | points.Histogram
        if isinstance(instrument, Histogram):
            spreads = [
                self._spread(instrument, key, spread, (start, now_unix_ns), delta=delta)
                for key, spread in instrument.series.items()
            ]
            data = points.Histogram([each for each in spreads if each.count], kind)
        else:
            values = [
                points.NumberDataPoint(
                    instrument.named(key), start, now_unix_ns, self._since(instrument, key, value) if delta else value
                )
                for key, value in instrument.values()
            ]
            if delta and isinstance(instrument, Counter):
                values = [each for each in values if each.value]
            data = points.Sum(values, kind, instrument.monotonic)
        if not data.data_points:
            return None
        return points.Metric(instrument.name, instrument.description, instrument.unit, data)

    def _since(self, instrument: Instrument, key: Labels | None, value: float) -> float:
        _, before = self._told.get((instrument.name, key), ([], 0))
        self._told[instrument.name, key] = [], value
        return value - before

    def _spread(
        self, instrument: Histogram, key: Labels | None, spread: Spread, times: tuple[int, int], *, delta: bool
    ) -> points.HistogramDataPoint:
        named = instrument.named(key)
        exemplars = [
            sdk.Exemplar({}, each.value, each.at_unix_ns, each.span_id, each.trace_id)
            for each in spread.exemplars.values()
        ]
        spread.exemplars = {}
        counts, total, least, most = spread.counts.copy(), spread.total, spread.least, spread.most
        if delta:
            spread.begin_range()
            before, total_before = self._told.get((instrument.name, key), ([0] * len(counts), 0))
            self._told[instrument.name, key] = counts, total
            counts, total = [now - then for now, then in zip(counts, before, strict=True)], total - total_before
        return points.HistogramDataPoint(
            named, *times, sum(counts), total, counts, instrument.bounds, least, most, exemplars
        )
