"""The way out, against collectors on real sockets."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from proxy.record import ExchangeRecord
from proxy.recorder.export import (
    ExportCounts,
    MetricOutlet,
    SpanOutlet,
    configured,
    protocol_of,
    quiet_sdk,
    run_bounded,
)
from proxy.recorder.metrics import Metrics
from proxy.recorder.otlp import MetricSnapshots, SpanEncoder
from proxy.recorder.spans import SpanForm, spans_of
from proxy.recorder.workers import Workers
from tests.support.certificates import make_certificates
from tests.support.otlp import GrpcCollector, HttpCollector, wait_until
from tests.support.records import CLIENT_SPAN_ID, PARENT_SPAN_ID, SERVER_SPAN_ID, STARTED_UNIX_NS, TRACE_ID, make_record

RESOURCE = Resource({"service.name": "lengthwise"})
SCOPE = InstrumentationScope("lengthwise", "1", "https://opentelemetry.io/schemas/1.41.0")
ENCODER = SpanEncoder(RESOURCE, SCOPE)
COLLECTORS: dict[str, Callable[..., HttpCollector | GrpcCollector]] = {
    "http/protobuf": HttpCollector,
    "grpc": GrpcCollector,
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No proxy between test and collector; the SDK's own loggers as in the process, and restored."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    loggers = [logging.getLogger(name) for name in ("opentelemetry", "urllib3", "requests", "grpc")]
    before = [(logger, logger.propagate, logger.handlers) for logger in loggers]
    quiet_sdk()
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("opentelemetry") and isinstance(logger, logging.Logger):
            logger.filters.clear()  # the SDK mutes what it said within 20 s: in an earlier test
    yield
    for logger, propagate, handlers in before:
        logger.propagate, logger.handlers = propagate, handlers


def _environ(monkeypatch: pytest.MonkeyPatch, endpoint: str, **more: str) -> dict[str, str]:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **more}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)  # the SDK reads the process's variables itself
    return environ


def spans(record: ExchangeRecord | None = None) -> list[bytes]:
    """The encoded spans of an exchange."""
    return [ENCODER.span(span) for span in spans_of(record or make_record(), SpanForm())]


@pytest.mark.parametrize("protocol", COLLECTORS)
def test_spans_arrive_as_they_were_measured(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, times, kinds, events, resource and scope on the collector's side, by either protocol."""
    with COLLECTORS[protocol]() as collector:
        counts = ExportCounts("traces", protocol)
        outlet = SpanOutlet(counts, ENCODER.request, _environ(monkeypatch, collector.endpoint))
        outlet.put(spans(make_record(trace_state="a=1")))
        client, server = collector.wait_for_spans(2)
        wait_until(lambda: counts.exported == 2)
        assert run_bounded([outlet.shutdown], 30)
    assert counts.status() == {
        "protocol": protocol,
        "exported": 2,
        "failed": 0,
        "dropped": 0,
        "failing": False,
        "last_failure": None,
    }
    shared = {
        "trace_id": TRACE_ID,
        "trace_state": "a=1",
        "end_ns": STARTED_UNIX_NS + 1_571_000_000,
        "status": "UNSET",
        "resource": {"service.name": "lengthwise"},
        "scope": {"name": "lengthwise", "version": "1", "schema_url": "https://opentelemetry.io/schemas/1.41.0"},
    }
    attributes = [span.pop("attributes") for span in (client, server)]
    assert [client, server] == [
        shared
        | {
            "name": "chat gpt-4o",
            "kind": "CLIENT",
            "span_id": CLIENT_SPAN_ID,
            "parent_span_id": SERVER_SPAN_ID,
            "start_ns": STARTED_UNIX_NS + 1_250_000,
            "events": [{"name": "First Token Stream Event", "at_ns": STARTED_UNIX_NS + 290_000_000, "attributes": {}}],
        },
        shared
        | {
            "name": "POST /v1/chat/completions",
            "kind": "SERVER",
            "span_id": SERVER_SPAN_ID,
            "parent_span_id": PARENT_SPAN_ID,
            "start_ns": STARTED_UNIX_NS,
            "events": [],
        },
    ]
    assert attributes[0]["gen_ai.response.finish_reasons"] == ["stop"]
    assert attributes[0]["lengthwise.time_to_first_token"] == 0.287


@pytest.mark.parametrize("protocol", COLLECTORS)
def test_metrics_are_exported_at_the_end_with_exemplars(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last collection leaves with the process; measurements point to their span."""
    with COLLECTORS[protocol]() as collector:
        counts = ExportCounts("metrics", protocol)
        environ = _environ(monkeypatch, collector.endpoint)
        metrics = Metrics(Workers())
        outlet = MetricOutlet(counts, MetricSnapshots(metrics.instruments, RESOURCE, SCOPE, "", 0).take, environ)
        metrics.record(make_record())
        assert run_bounded([outlet.last()], 30)
        found = collector.wait_for_metric("lengthwise.time_to_first_token")
    (point,) = found["points"]
    assert (found["unit"], found["kind"], found["temporality"]) == ("s", "histogram", "CUMULATIVE")
    assert (point["count"], point["sum"], point["exemplars"]) == (
        1,
        0.287,
        [{"trace_id": TRACE_ID, "span_id": CLIENT_SPAN_ID}],
    )
    assert (counts.exported, counts.failed) == (1, 0)


@pytest.mark.parametrize("protocol", COLLECTORS)
def test_certificates_and_headers_are_those_of_the_standard_variables(
    protocol: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A collector of a private authority that wants our certificate and a token: both signals reach it."""
    tls = make_certificates(tmp_path)
    with COLLECTORS[protocol](tls=tls) as collector:
        environ = _environ(
            monkeypatch,
            collector.endpoint,
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(tls / "ca.pem"),
            OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=str(tls / "client.pem"),
            OTEL_EXPORTER_OTLP_CLIENT_KEY=str(tls / "client.key"),
            OTEL_EXPORTER_OTLP_HEADERS="x-token=abc%20d,x-tenant=7",
        )
        traces, collections = ExportCounts("traces", protocol), ExportCounts("metrics", protocol)
        metrics = Metrics(Workers())
        metrics.record(make_record())
        outlet = SpanOutlet(traces, ENCODER.request, environ)
        snapshots = MetricSnapshots(metrics.instruments, RESOURCE, SCOPE, "", 0)
        outlet.put(spans())
        assert run_bounded([outlet.shutdown, MetricOutlet(collections, snapshots.take, environ).last()], 30)
    assert (traces.outcomes(), collections.outcomes()) == (
        {"exported": 2, "failed": 0, "dropped": 0},
        {"exported": 1, "failed": 0, "dropped": 0},
    )
    assert [(each["x-token"], each["x-tenant"]) for each in collector.headers] == [("abc d", "7")] * 2


def test_an_endless_answer_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken is exported; the next batch goes out over another connection."""
    with HttpCollector("endless") as collector:
        counts = ExportCounts("traces", "http/protobuf")
        outlet = SpanOutlet(counts, ENCODER.request, _environ(monkeypatch, collector.endpoint))
        for expected in (2, 4):
            outlet.put(spans())
            wait_until(lambda: counts.exported == expected)  # noqa: B023 -- called at once
        assert run_bounded([outlet.shutdown], 30)
    assert counts.failed == 0


async def test_metrics_are_exported_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each OTEL_METRIC_EXPORT_INTERVAL, whatever became of the export before; only failures are told."""
    with HttpCollector("500") as collector:
        counts = ExportCounts("metrics", "http/protobuf")
        environ = _environ(monkeypatch, collector.endpoint, OTEL_METRIC_EXPORT_INTERVAL="10")
        metrics = Metrics(Workers())
        outlet = MetricOutlet(counts, MetricSnapshots(metrics.instruments, RESOURCE, SCOPE, "", 0).take, environ)
        exporting = asyncio.create_task(outlet.run())
        await asyncio.to_thread(wait_until, lambda: counts.failed >= 2)
        assert counts.failing
        collector.mode = "ok"
        await asyncio.to_thread(collector.wait_for_metric, "lengthwise.records.dropped")
        await asyncio.to_thread(wait_until, lambda: not counts.failing)
        exporting.cancel()
        await asyncio.wait([exporting])
        assert run_bounded([outlet.last()], 30)


@pytest.mark.parametrize(
    ("protocol", "mode", "reason"),
    [
        ("http/protobuf", "500", "HTTP 500"),
        ("http/protobuf", "garbage", "ConnectionError"),
        ("http/protobuf", "refuse", "ConnectionError"),
        ("http/protobuf", "hang", "timeout"),
        ("grpc", "500", "gRPC INTERNAL"),
        ("grpc", "hang", "gRPC DEADLINE_EXCEEDED"),
    ],
)
def test_a_bad_collector_costs_counted_spans_and_one_line(
    protocol: str,
    mode: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two batches fail, are counted with a reason, and are said once, without the endpoint."""
    with COLLECTORS[protocol](mode) as collector:
        counts = ExportCounts("traces", protocol)
        environ = _environ(monkeypatch, collector.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="2")
        outlet = SpanOutlet(counts, ENCODER.request, environ)
        for expected in (2, 4):
            outlet.put(spans())
            wait_until(lambda: counts.failed == expected)  # noqa: B023 -- called at once
        assert run_bounded([outlet.shutdown], 30)
    assert counts.exported == 0
    assert counts.last_failure == reason
    (line,) = lines = [record.getMessage() for record in caplog.records if record.name.startswith("proxy.")]
    assert line.startswith(
        f"OTLP export of traces fails ({reason}), see OTEL_EXPORTER_OTLP_ENDPOINT: 2 failed, 0 dropped so far"
    )
    assert "127.0.0.1" not in lines[0]


def test_a_full_queue_drops_what_is_new_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a collector hangs, the queue holds its size; the rest is counted, and putting never waits."""
    with HttpCollector("hang") as collector:
        counts = ExportCounts("traces", "http/protobuf")
        environ = _environ(
            monkeypatch, collector.endpoint, OTEL_BSP_MAX_QUEUE_SIZE="10", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="2"
        )
        outlet = SpanOutlet(counts, ENCODER.request, environ)
        outlet.put(spans())
        collector.wait_for_requests(1)
        for _ in range(10):
            outlet.put(spans())
        assert counts.dropped == 10
        assert not run_bounded([outlet.shutdown], 0)


def test_shutdown_is_bounded() -> None:
    """A task that never ends is left behind; one that does is waited for."""
    never, done = threading.Event(), []
    assert not run_bounded([never.wait, lambda: done.append(1)], 0.05)
    assert run_bounded([lambda: done.append(2)], 60)
    assert done == [1, 2]
    never.set()


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, True, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, True, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_METRICS_EXPORTER": "none"}, True, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, False, False),
    ],
)
def test_nothing_is_exported_unless_an_endpoint_is_named(environ: dict[str, str], traces: bool, metrics: bool) -> None:
    """The SDK's default endpoint is not used; each signal may have its own."""
    assert (configured("traces", environ), configured("metrics", environ)) == (traces, metrics)


@pytest.mark.parametrize(
    ("environ", "protocol"),
    [
        ({}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            "http/protobuf",
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"}, "http/protobuf"),
    ],
)
def test_the_protocol_is_the_standard_variables(environ: dict[str, Any], protocol: str) -> None:
    """The signal's own variable beats the general one."""
    assert protocol_of("traces", environ) == protocol
