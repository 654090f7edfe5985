"""The bytes and the numbers that leave over OTLP, beside what the SDK's own encoder would send."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import export as points
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from proxy.record import End
from proxy.recorder.otlp import MetricSnapshots, SpanEncoder
from proxy.recorder.series import Counter, Histogram, Observed
from proxy.recorder.spans import Span, SpanForm, spans_of
from tests.support.records import make_record

RESOURCE = Resource({"service.name": "lengthwise", "a": 1, "list": ("x", "y"), "long": "v" * 300})
SCOPE = InstrumentationScope("lengthwise", "1", "https://opentelemetry.io/schemas/1.41.0")
ENCODER = SpanEncoder(RESOURCE, SCOPE)
START, BEFORE, NOW = 1_000, 2_000, 3_000


def by_the_sdk(span: Span) -> ReadableSpan:
    """The same span as the SDK would hold it."""
    state = TraceState.from_header([span.trace_state]) if span.trace_state else None

    def context(span_id: str, *, remote: bool) -> SpanContext:
        return SpanContext(
            int(span.trace_id, 16), int(span_id, 16), remote, TraceFlags(TraceFlags.SAMPLED), trace_state=state
        )

    return ReadableSpan(
        span.name,
        context=context(span.span_id, remote=False),
        parent=None if span.parent_span_id is None else context(span.parent_span_id, remote=span.parent_is_remote),
        resource=RESOURCE,
        attributes=span.attributes,
        events=[Event(name, {}, at_ns) for name, at_ns in span.events],
        kind=span.kind,
        status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
        start_time=span.start_unix_ns,
        end_time=span.end_unix_ns,
        instrumentation_scope=SCOPE,
    )


def sent(spans: list[Span]) -> ExportTraceServiceRequest:
    """What a collector reads."""
    return ExportTraceServiceRequest.FromString(ENCODER.request([ENCODER.span(span) for span in spans]))


@pytest.mark.parametrize(
    "record",
    [
        make_record(),
        make_record(trace_state="a=1,b=2", parent_span_id=None, end=End.BROKEN),
        make_record(upstream_tried=False, status=503, end=End.SHED),
        make_record(request={"model": "m" * 5000, "seed": -1, "limits": (("max_tokens", 2**62),)}),
        make_record(response={"finish_reasons": ("stop", "length")}),
    ],
    ids=["chat", "broken", "shed", "long", "choices"],
)
def test_spans_are_what_the_sdks_encoder_makes_of_them(record: Any) -> None:
    """Message for message, with resource, scope and schema."""
    spans = spans_of(record, SpanForm(compat=frozenset({"langfuse", "signoz"})))
    assert sent(spans) == encode_spans([by_the_sdk(span) for span in spans])


_VALUES = some.one_of(
    some.text("a\0é中😀", max_size=300),
    some.integers(-(2**63), 2**63 - 1),
    some.floats(allow_nan=False),
    some.booleans(),
    some.lists(some.text("ab", max_size=5), min_size=1, max_size=3),
)


@given(
    some.dictionaries(some.text("abc.", min_size=1, max_size=140), _VALUES, max_size=5), some.text("xyz", max_size=200)
)
def test_any_attribute_is_encoded_as_the_sdk_does(attributes: dict[str, Any], name: str) -> None:
    """Texts of any length and script, numbers of any size."""
    span = Span(name, SpanKind.CLIENT, "1" * 32, "2" * 16, "3" * 16, False, "", 1, 2**63, False, attributes)
    assert sent([span]) == encode_spans([by_the_sdk(span)])


def test_texts_of_every_length_are_encoded_as_the_sdk_does() -> None:
    """Over the lengths at which one more byte is needed to say how long something is."""
    plain = spans_of(make_record(), SpanForm())[0]
    spans = [plain._replace(attributes={"a.name": "v" * length}) for length in (*range(90, 140), 16_370, 16_384)]
    assert sent(spans) == encode_spans([by_the_sdk(span) for span in spans])


@pytest.mark.parametrize(
    "changes",
    [
        {"trace_id": "none"},
        {"trace_id": "1" * 30},
        {"span_id": "2" * 18},
        {"parent_span_id": "3"},
        {"attributes": {"a": None}},
        {"attributes": {"a": {"b": 1}}},
        {"start_unix_ns": -1},
    ],
)
def test_a_span_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    """Before it could damage the batch that it would be in."""
    span = spans_of(make_record(), SpanForm())[0]._replace(**changes)
    with pytest.raises((ValueError, TypeError, struct.error)):
        ENCODER.span(span)


class Kept:
    """An instrument of each kind, and their snapshots."""

    def __init__(self, preference: str) -> None:
        self.histogram = Histogram("h", "s", "H", ("model",), (1, 2))
        self.counter = Counter("c", "{token}", "C", ("model",))
        self.active = 7
        self.instruments = (
            self.histogram,
            self.counter,
            Observed("o", "{item}", "O", (), lambda: [((), 10 * self.active)]),
            Observed("a", "{item}", "A", (), lambda: [((), self.active)], monotonic=False),
        )
        self.snapshots = MetricSnapshots(self.instruments, RESOURCE, SCOPE, preference, START)

    def count(self) -> None:
        """One measurement each."""
        self.histogram.record(1.5, ("m",), (5, 0xA, 0xB))
        self.counter.add(3, ("m",))

    def taken(self, now_unix_ns: int) -> dict[str, tuple[Any, ...]]:
        """Temporality, start, time and numbers of each metric."""
        data = self.snapshots.take(now_unix_ns)
        assert encode_metrics(data)
        found = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            (point,) = metric.data.data_points
            numbers = (
                (point.count, point.sum, list(point.bucket_counts), len(point.exemplars))
                if isinstance(point, points.HistogramDataPoint)
                else point.value
            )
            assert not isinstance(metric.data, points.Gauge | points.ExponentialHistogram)
            temporality = metric.data.aggregation_temporality.name
            found[metric.name] = (temporality, point.start_time_unix_nano, point.time_unix_nano, numbers)
        return found


@pytest.mark.parametrize("preference", ["", "cumulative", "nonsense"])
def test_sums_go_on_from_the_start(preference: str) -> None:
    """The second snapshot has everything; an exemplar is told once."""
    kept = Kept(preference)
    kept.count()
    kept.taken(BEFORE)
    kept.count()
    assert kept.taken(NOW) == {
        "h": ("CUMULATIVE", START, NOW, (2, 3.0, [0, 2, 0], 1)),
        "c": ("CUMULATIVE", START, NOW, 6),
        "o": ("CUMULATIVE", START, NOW, 70),
        "a": ("CUMULATIVE", START, NOW, 7),
    }
    assert kept.taken(NOW)["h"][3] == (2, 3.0, [0, 2, 0], 0)


def test_a_backend_that_prefers_deltas_gets_them() -> None:
    """Each snapshot has what came since the last; a sum that can fall stays what it is."""
    kept = Kept("delta")
    kept.count()
    assert kept.taken(BEFORE)["c"] == ("DELTA", START, BEFORE, 3)
    kept.count()
    kept.active = 9
    assert kept.taken(NOW) == {
        "h": ("DELTA", BEFORE, NOW, (1, 1.5, [0, 1, 0], 1)),
        "c": ("DELTA", BEFORE, NOW, 3),
        "o": ("DELTA", BEFORE, NOW, 20),
        "a": ("CUMULATIVE", START, NOW, 9),
    }


def test_a_delta_is_of_its_interval_alone() -> None:
    """The least and the most too; what did not happen is not told, what somebody else keeps always is."""
    kept = Kept("delta")
    kept.histogram.record(9, ("m",))
    kept.histogram.record(0.5, ("m",))
    kept.counter.add(3, ("m",))
    kept.taken(BEFORE)
    assert kept.taken(NOW) == {"o": ("DELTA", BEFORE, NOW, 0), "a": ("CUMULATIVE", START, NOW, 7)}
    kept.histogram.record(1.5, ("m",))
    (metric,) = [
        each
        for each in kept.snapshots.take(NOW).resource_metrics[0].scope_metrics[0].metrics
        if each.name == kept.histogram.name
    ]
    (point,) = metric.data.data_points
    assert isinstance(point, points.HistogramDataPoint)
    assert (point.count, point.sum, point.min, point.max) == (1, 1.5, 1.5, 1.5)


def test_low_memory_leaves_to_the_backend_what_is_only_read() -> None:
    """Deltas of what is counted here, sums of what somebody else keeps."""
    kept = Kept("LowMemory")
    kept.count()
    kept.taken(BEFORE)
    kept.count()
    assert {name: found[0] for name, found in kept.taken(NOW).items()} == {
        "h": "DELTA",
        "c": "DELTA",
        "o": "CUMULATIVE",
        "a": "CUMULATIVE",
    }


def test_exemplars_name_their_span() -> None:
    """Value, time, trace and span reach the wire."""
    kept = Kept("")
    kept.count()
    (metric,) = [
        each
        for each in encode_metrics(kept.snapshots.take(NOW)).resource_metrics[0].scope_metrics[0].metrics
        if each.name == "h"
    ]
    (exemplar,) = metric.histogram.data_points[0].exemplars
    assert (exemplar.as_double, exemplar.time_unix_nano) == (1.5, 5)
    assert (exemplar.trace_id.hex(), exemplar.span_id.hex()) == (f"{0xA:032x}", f"{0xB:016x}")
