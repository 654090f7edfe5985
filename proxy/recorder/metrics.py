"""Records become metrics: every instrument of the contract, with bounded labels and explicit buckets.

Layer: recorder. Every exchange counts, sampled or not; the trace's sampling decides about exemplars only. Labels are
bounded by configuration or by the first names seen; ids, keys, paths and raw limits are never labels.

Source: ARCHITECTURE.md 7 "Metrics"; semantic-conventions v1.41.1 docs/gen-ai/gen-ai-metrics.md.
"""

from collections.abc import Callable, Iterable, Sequence

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from proxy.record import OPAQUE, End, ExchangeRecord
from proxy.recorder import semconv as names
from proxy.recorder.spans import client_error_type, client_start_ns
from proxy.recorder.workers import Workers

__all__ = ["Metrics", "Names", "limit_label"]

DURATION_BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 600.0)  # fmt: skip
"""The convention's boundaries and three more: long generations outlive its 82 s."""
PER_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)  # fmt: skip
OVERHEAD_BUCKETS_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
"""The convention's boundaries."""
LIMIT_BUCKETS = (1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
UTILIZATION_BUCKETS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

_LIMIT_LABELS = ((256, "le_256"), (1024, "le_1k"), (4096, "le_4k"), (16384, "le_16k"))
_MOST_NAMES = 50
_LONGEST_NAME = 200

_Labels = dict[str, str | int | bool]


def limit_label(max_tokens: int | None) -> str:
    """The size class of a forwarded limit: none, le_256, le_1k, le_4k, le_16k, gt_16k."""
    if max_tokens is None:
        return "none"
    return next((label for most, label in _LIMIT_LABELS if max_tokens <= most), "gt_16k")


class Names:
    """A bounded set of label values: the allowed ones where any are named, else the first 50 seen; one for the rest."""

    def __init__(self, allowed: Iterable[str] = (), *, other: str = "_other") -> None:
        self._known = set(allowed)
        self._most = len(self._known) or _MOST_NAMES
        self._other = other

    def bound(self, name: str) -> str:
        """The name itself, or the label of the rest."""
        if name in self._known:
            return name
        if len(self._known) >= self._most or len(name) > _LONGEST_NAME:
            return self._other
        self._known.add(name)
        return name


class Metrics:
    """The instruments of one recorder."""

    def __init__(
        self,
        readers: Sequence[MetricReader],
        resource: Resource,
        version: str,
        workers: Workers,
        models: Iterable[str] = (),
        *,
        policy: Callable[[], tuple[bool, Sequence[tuple[str, bool]]]] | None = None,
    ) -> None:
        """Make the instruments.

        Args:
            readers: Who collects them.
            resource: Whose they are.
            version: Of Lengthwise.
            workers: Their totals.
            models: Models that may be labels; empty: the first seen.
            policy: Whether the rules on disk are broken, and (rule, armed) of every enforcing rule; called by the reader's
                thread. None: neither is a metric.
        """
        # this process decides when to shut down: the SDK's own exit handler waits 30 s for a collector that is away
        self._provider = MeterProvider(readers, resource, shutdown_on_exit=False)
        self._models = Names(models)
        self._response_models = Names()
        self._error_types = Names(other="_OTHER")
        self._workers = workers
        meter = self._provider.get_meter(names.SCOPE, version, names.SCHEMA_URL)

        def histogram(name: str, unit: str, description: str, buckets: Sequence[float]):  # type: ignore[no-untyped-def] # noqa: ANN202 -- the API's Histogram
            return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=buckets)

        self._duration = histogram(
            names.GEN_AI_CLIENT_OPERATION_DURATION,
            "s",
            "Duration of the operation at the upstream.",
            DURATION_BUCKETS_S,
        )
        self._first_chunk = histogram(
            names.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK,
            "s",
            "Start to first body byte of a stream.",
            DURATION_BUCKETS_S,
        )
        self._usage = histogram(
            names.GEN_AI_CLIENT_TOKEN_USAGE, "{token}", "Tokens as the provider counted them.", TOKEN_BUCKETS
        )
        self._first_token = histogram(
            names.LENGTHWISE_TIME_TO_FIRST_TOKEN, "s", "Start to first generated token.", DURATION_BUCKETS_S
        )
        self._per_token = histogram(
            names.LENGTHWISE_TIME_PER_OUTPUT_TOKEN,
            "s",
            "Pace of the tokens after the first.",
            PER_TOKEN_BUCKETS_S,
        )
        self._requested = histogram(
            names.LENGTHWISE_MAX_TOKENS_REQUESTED, "{token}", "Limits as clients sent them.", LIMIT_BUCKETS
        )
        self._utilization = histogram(
            names.LENGTHWISE_MAX_TOKENS_UTILIZATION, "1", "Output tokens by forwarded limit.", UTILIZATION_BUCKETS
        )
        self._overhead = histogram(
            names.LENGTHWISE_OVERHEAD_DURATION, "s", "Time that Lengthwise itself added.", OVERHEAD_BUCKETS_S
        )
        self._decisions = meter.create_counter(
            names.LENGTHWISE_POLICY_DECISIONS, "{decision}", "Decisions of enforcing and shadow rules."
        )
        self._truncations = meter.create_counter(
            names.LENGTHWISE_TRUNCATIONS, "{exchange}", "Answers that their limit ended."
        )
        self._reserved_unused = meter.create_counter(
            names.LENGTHWISE_RESERVED_UNUSED_TOKENS, "{token}", "Tokens that were allowed and not generated."
        )
        self._usage_missing = meter.create_counter(
            names.LENGTHWISE_USAGE_MISSING, "{exchange}", "Complete answers for which the provider reported no usage."
        )
        self._ends = meter.create_counter(names.LENGTHWISE_STREAM_ENDS, "{exchange}", "Exchanges by how they ended.")
        meter.create_observable_counter(
            names.LENGTHWISE_RECORDS_DROPPED,
            [self._observe("records_dropped")],
            "{record}",
            "Records that workers could not hand over.",
        )
        meter.create_observable_counter(
            names.LENGTHWISE_CONNECTIONS_MALFORMED,
            [self._observe("connections_malformed")],
            "{connection}",
            "Client connections without a parsable request.",
        )
        meter.create_observable_up_down_counter(
            names.LENGTHWISE_EXCHANGES_ACTIVE,
            [self._observe("exchanges_active")],
            "{exchange}",
            "Exchanges in progress.",
        )
        meter.create_observable_gauge(
            names.LENGTHWISE_WORKERS_READY,
            [lambda _: [Observation(self._workers.ready)]],
            "{worker}",
            "Relay workers that are connected to the recorder.",
        )

        if policy is not None:
            meter.create_observable_gauge(
                names.LENGTHWISE_POLICY_RULE_ARMED,
                [lambda _: [Observation(int(armed), {"rule": rule}) for rule, armed in policy()[1]]],
                "{rule}",
                "1 while an enforcing rule enforces, 0 while it is disarmed.",
            )
            meter.create_observable_gauge(
                names.LENGTHWISE_POLICY_ERROR,
                [lambda _: [Observation(int(policy()[0]))]],
                "{error}",
                "1 while the rules on disk are broken and the last good ones stay.",
            )

    def record(self, record: ExchangeRecord) -> None:
        """Count one exchange."""
        context = _exemplar_context(record)
        labels = self._labels(record)
        self._ends.add(1, labels | {"end": record.end.value}, context)
        for phase, overhead_s in (
            ("request", record.overhead_request_s),
            ("first_chunk", record.overhead_first_chunk_s),
        ):
            if overhead_s is not None:
                self._overhead.record(overhead_s, labels | {"phase": phase}, context)
        if record.request.dialect == OPAQUE:
            return
        self._record_policy(record, labels, context)
        if record.upstream_tried:
            self._record_operation(record, labels, context)
            self._record_answer(record, labels, context)

    def shutdown(self, timeout_ms: float) -> None:
        """Collect and export a last time."""
        self._provider.shutdown(timeout_millis=timeout_ms)

    def _labels(self, record: ExchangeRecord) -> _Labels:
        labels: _Labels = {}
        if record.request.model is not None:
            labels[names.GEN_AI_REQUEST_MODEL] = self._models.bound(record.request.model)
        if record.provider is not None:
            labels[names.GEN_AI_PROVIDER_NAME] = record.provider
        return labels

    def _record_policy(self, record: ExchangeRecord, labels: _Labels, context: Context) -> None:
        decision = record.decision
        if record.request.requested_max_tokens is not None:
            self._requested.record(record.request.requested_max_tokens, labels, context)
        if decision.rule is not None:
            enforced: _Labels = {"rule": decision.rule, "action": decision.action.value, "mode": "enforce"}
            self._decisions.add(1, labels | enforced, context)
        for shadow in decision.shadow:
            shadowed: _Labels = {"rule": shadow.rule, "action": shadow.action.value, "mode": "shadow"}
            self._decisions.add(1, labels | shadowed, context)

    def _record_operation(self, record: ExchangeRecord, labels: _Labels, context: Context) -> None:
        labels = labels | {names.GEN_AI_OPERATION_NAME: names.operation_name(record.request.dialect)}
        if record.response.response_model is not None:
            labels[names.GEN_AI_RESPONSE_MODEL] = self._response_models.bound(record.response.response_model)
        if record.server_address is not None:
            labels[names.SERVER_ADDRESS] = record.server_address
        if record.server_port is not None:
            labels[names.SERVER_PORT] = record.server_port
        error_type = client_error_type(record)
        outcome: _Labels = {} if error_type is None else {names.ERROR_TYPE: self._error_types.bound(error_type)}
        self._duration.record((record.ended_ns - client_start_ns(record)) / 1e9, labels | outcome, context)
        if record.streamed and record.ttfc_s is not None:
            self._first_chunk.record(record.ttfc_s, labels, context)
        if record.response.usage is not None:
            counts = (("input", record.response.usage.input_tokens), ("output", record.response.usage.output_tokens))
            for kind, tokens in counts:
                if tokens is not None:
                    self._usage.record(tokens, labels | {names.GEN_AI_TOKEN_TYPE: kind}, context)

    def _record_answer(self, record: ExchangeRecord, labels: _Labels, context: Context) -> None:
        paced = labels | {"stream": record.streamed, "limit": limit_label(record.decision.forwarded_max_tokens)}
        if record.ttft_s is not None:
            self._first_token.record(record.ttft_s, paced, context)
        if record.tpot_s is not None:
            self._per_token.record(record.tpot_s, paced, context)
        if record.utilization is not None:
            self._utilization.record(record.utilization, labels, context)
        if record.slack_tokens is not None and record.slack_tokens > 0:
            self._reserved_unused.add(record.slack_tokens, labels, context)
        if record.truncated_by is not None:
            self._truncations.add(1, labels | {"by": record.truncated_by}, context)
        answered = record.end is End.COMPLETE and record.status is not None and 200 <= record.status < 300
        if answered and record.response.usage is None:
            self._usage_missing.add(1, labels, context)

    def _observe(self, total: str):  # type: ignore[no-untyped-def] # noqa: ANN202 -- the API's callback
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(getattr(self._workers.totals, total))

        return callback


def _exemplar_context(record: ExchangeRecord) -> Context:
    """The context that links a measurement to its span; of an unsampled trace it makes no exemplar."""
    span_id = record.client_span_id if record.upstream_tried else record.server_span_id
    flags = TraceFlags(TraceFlags.SAMPLED if record.sampled else TraceFlags.DEFAULT)
    return set_span_in_context(
        NonRecordingSpan(SpanContext(int(record.trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=flags)),
        Context(),
    )
