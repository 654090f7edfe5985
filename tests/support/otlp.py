"""An OTLP collector on a real socket that can be as bad as a collector gets; HTTP (protobuf) and gRPC.

    with HttpCollector() as collector:
        ... environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint} ...
        spans = collector.wait_for_spans(2)

Modes, changeable at any time: `ok`; `hang` (takes the request, never answers); `500` (refuses each request: HTTP 500, gRPC
INTERNAL); `garbage` (HTTP only: answers with bytes that are no HTTP); `endless` (HTTP only: 200 with a body of 1 TB); `refuse` (HTTP only: nobody listens on the port).
What arrives in mode `ok` is kept as plain dicts in `spans` and `metrics`, ids as hex, times in ns, enums by their names;
the headers of each request in `headers`. With `tls`, a folder of certificates, it speaks TLS and wants the client's certificate.
"""

import contextlib
import gzip
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from pathlib import Path
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support.certificates import server_context

PATIENCE_S = 60.0

Document = dict[str, Any]


class _Collected:
    """What arrived, and the means to wait for it."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.spans: list[Document] = []
        self.metrics: list[Document] = []
        self.headers: list[dict[str, str]] = []
        self.requests = 0
        self.closed = threading.Event()
        self._changed = threading.Condition()

    def wait_for(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of what arrived."""
        with self._changed:
            assert self._changed.wait_for(holds, PATIENCE_S), (self.mode, self.requests, len(self.spans))

    def wait_for_spans(self, count: int) -> list[Document]:
        """Wait for at least so many spans; all that arrived."""
        self.wait_for(lambda: len(self.spans) >= count)
        return self.spans

    def wait_for_requests(self, count: int) -> None:
        """Wait until at least so many requests arrived, however they were answered."""
        self.wait_for(lambda: self.requests >= count)

    def wait_for_metric(self, name: str) -> Document:
        """Wait for a metric; its latest collection."""
        self.wait_for(lambda: any(metric["name"] == name for metric in self.metrics))
        return next(metric for metric in reversed(self.metrics) if metric["name"] == name)

    def arrived(self, headers: Iterable[tuple[str, Any]]) -> str:
        """Count a request; the mode in which it is answered."""
        with self._changed:
            self.requests += 1
            self.headers.append({name.lower(): value for name, value in headers})
            self._changed.notify_all()
            return self.mode

    def keep(self, message: Any) -> None:
        """Keep a decoded export request."""
        with self._changed:
            if isinstance(message, ExportTraceServiceRequest):
                self.spans += _spans(message)
            else:
                self.metrics += _metrics(message)
            self._changed.notify_all()


class HttpCollector(_Collected):
    """OTLP over HTTP with protobuf bodies."""

    def __init__(self, mode: str = "ok", tls: Path | None = None) -> None:
        super().__init__(mode)
        self._tls = tls is not None
        self._server = _HttpServer(("127.0.0.1", 0), _Handler)
        if tls is not None:
            self._server.socket = server_context(tls, client_ca=True).wrap_socket(self._server.socket, server_side=True)
        self._server.collected = self
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        if mode == "refuse":
            self._server.server_close()
        else:
            self._thread.start()

    @property
    def endpoint(self) -> str:
        """Value of OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop; requests that hang are let go."""
        self.closed.set()
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _HttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    collected: HttpCollector

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Exporters that are killed leave broken connections; they are no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _HttpServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        collected = self.server.collected
        body = self.rfile.read(int(self.headers["Content-Length"]))
        mode = collected.arrived(self.headers.items())
        if mode == "hang":
            collected.closed.wait()
            self.close_connection = True
        elif mode == "garbage":
            self.wfile.write(b"\x00\xffnot a response\r\n\r\n")
            self.close_connection = True
        elif mode == "500":
            self._answer(500, b"")
        elif mode == "endless":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
            with contextlib.suppress(OSError):
                while not collected.closed.is_set():
                    self.wfile.write(b"x" * 65536)
            self.close_connection = True
        else:
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            kind = ExportTraceServiceRequest if self.path.endswith("/v1/traces") else ExportMetricsServiceRequest
            collected.keep(kind.FromString(body))
            self._answer(200, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing to the test's output."""


class GrpcCollector(_Collected):
    """OTLP over gRPC."""

    def __init__(self, mode: str = "ok", tls: Path | None = None) -> None:
        super().__init__(mode)
        self._tls = tls is not None
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        servicer = _Servicer(self)
        add_TraceServiceServicer_to_server(servicer.traces, self._server)
        add_MetricsServiceServicer_to_server(servicer.metrics, self._server)
        if tls is None:
            self.port: int = self._server.add_insecure_port("127.0.0.1:0")
        else:
            pairs = [((tls / "localhost.key").read_bytes(), (tls / "localhost.pem").read_bytes())]
            authority = (tls / "ca.pem").read_bytes()
            credentials = grpc.ssl_server_credentials(pairs, authority, require_client_auth=True)
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    @property
    def endpoint(self) -> str:
        """Value of OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop; requests that hang are let go."""
        self.closed.set()
        self._server.stop(None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Servicer:
    def __init__(self, collected: GrpcCollector) -> None:
        def export(request: Any, context: Any, response: Any) -> Any:
            mode = collected.arrived(context.invocation_metadata())
            if mode == "hang":
                collected.closed.wait()
            elif mode == "500":
                context.abort(grpc.StatusCode.INTERNAL, "no")
            else:
                collected.keep(request)
            return response()

        class Traces(TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 -- the service's name
                return export(request, context, ExportTraceServiceResponse)

        class Metrics(MetricsServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 -- the service's name
                return export(request, context, ExportMetricsServiceResponse)

        self.traces, self.metrics = Traces(), Metrics()


def _spans(message: ExportTraceServiceRequest) -> list[Document]:
    return [
        {
            "name": span.name,
            "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            "trace_id": span.trace_id.hex(),
            "span_id": span.span_id.hex(),
            "parent_span_id": span.parent_span_id.hex() or None,
            "trace_state": span.trace_state,
            "start_ns": span.start_time_unix_nano,
            "end_ns": span.end_time_unix_nano,
            "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
            "attributes": _attributes(span.attributes),
            "events": [
                {"name": event.name, "at_ns": event.time_unix_nano, "attributes": _attributes(event.attributes)}
                for event in span.events
            ],
            "resource": _attributes(block.resource.attributes),
            "scope": {
                "name": scope.scope.name,
                "version": scope.scope.version,
                "schema_url": scope.schema_url,
            },
        }
        for block in message.resource_spans
        for scope in block.scope_spans
        for span in scope.spans
    ]


def _metrics(message: ExportMetricsServiceRequest) -> list[Document]:
    found = []
    for block in message.resource_metrics:
        for scope in block.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                document = {
                    "name": metric.name,
                    "unit": metric.unit,
                    "kind": kind,
                    "points": [_point(point, kind) for point in data.data_points],
                    "resource": _attributes(block.resource.attributes),
                }
                if kind != "gauge":
                    document["temporality"] = AggregationTemporality.Name(data.aggregation_temporality).rsplit("_")[-1]
                if kind == "sum":
                    document["monotonic"] = data.is_monotonic
                found.append(document)
    return found


def _point(point: Any, kind: str) -> Document:
    document: Document = {
        "attributes": _attributes(point.attributes),
        "exemplars": [
            {"trace_id": exemplar.trace_id.hex(), "span_id": exemplar.span_id.hex()} for exemplar in point.exemplars
        ],
    }
    if kind == "histogram":
        bounds, counts = list(point.explicit_bounds), list(point.bucket_counts)
        return document | {"count": point.count, "sum": point.sum, "bounds": bounds, "buckets": counts}
    return document | {"value": getattr(point, point.WhichOneof("value"))}


def _attributes(pairs: Any) -> Document:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)


def free_port() -> int:
    """A port on which nobody listens now."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
        return port


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for something that announces itself in no other way."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
