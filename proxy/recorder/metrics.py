"""Records become metrics: every instrument of the contract, with bounded labels and explicit buckets.

Layer: recorder. Every exchange counts, sampled or not; the trace's sampling decides about exemplars only. Labels are
bounded by configuration or by the first names seen; ids, keys, paths and raw limits are never labels.

Source: ARCHITECTURE.md 7 "Metrics"; semantic-conventions v1.41.1 docs/gen-ai/gen-ai-metrics.md.
"""

from collections.abc import Callable, Iterable, Sequence

from proxy.record import OPAQUE, End, ExchangeRecord
from proxy.recorder import semconv as names
from proxy.recorder.series import Counter, Histogram, Instrument, Label, Labels, Observed
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

_MODEL = (names.GEN_AI_REQUEST_MODEL, names.GEN_AI_PROVIDER_NAME)
_OPERATION = (
    *_MODEL,
    names.GEN_AI_OPERATION_NAME,
    names.GEN_AI_RESPONSE_MODEL,
    names.SERVER_ADDRESS,
    names.SERVER_PORT,
)
_PACED = (*_MODEL, "stream", "limit")

_Exemplar = tuple[int, int, int]


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
        workers: Workers,
        models: Iterable[str] = (),
        policy: Callable[[], tuple[bool, Sequence[tuple[str, bool]]]] = lambda: (False, ()),
    ) -> None:
        """Make the instruments.

        Args:
            workers: Their totals.
            models: Models that may be labels; empty: the first seen.
            policy: Whether the rules on disk are broken, and (rule, armed) of every enforcing rule.
        """
        self._models = Names(models)
        self._response_models = Names()
        self._error_types = Names(other="_OTHER")
        self._duration = Histogram(
            names.GEN_AI_CLIENT_OPERATION_DURATION,
            "s",
            "Duration of the operation at the upstream.",
            (*_OPERATION, names.ERROR_TYPE),
            DURATION_BUCKETS_S,
        )
        self._first_chunk = Histogram(
            names.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK,
            "s",
            "Start to first body byte of a stream.",
            _OPERATION,
            DURATION_BUCKETS_S,
        )
        self._usage = Histogram(
            names.GEN_AI_CLIENT_TOKEN_USAGE,
            "{token}",
            "Tokens as the provider counted them.",
            (*_OPERATION, names.GEN_AI_TOKEN_TYPE),
            TOKEN_BUCKETS,
        )
        self._first_token = Histogram(
            names.LENGTHWISE_TIME_TO_FIRST_TOKEN, "s", "Start to first generated token.", _PACED, DURATION_BUCKETS_S
        )
        self._per_token = Histogram(
            names.LENGTHWISE_TIME_PER_OUTPUT_TOKEN,
            "s",
            "Pace of the tokens after the first.",
            _PACED,
            PER_TOKEN_BUCKETS_S,
        )
        self._requested = Histogram(
            names.LENGTHWISE_MAX_TOKENS_REQUESTED, "{token}", "Limits as clients sent them.", _MODEL, LIMIT_BUCKETS
        )
        self._utilization = Histogram(
            names.LENGTHWISE_MAX_TOKENS_UTILIZATION,
            "1",
            "Output tokens by forwarded limit.",
            _MODEL,
            UTILIZATION_BUCKETS,
        )
        self._overhead = Histogram(
            names.LENGTHWISE_OVERHEAD_DURATION,
            "s",
            "Time that Lengthwise itself added.",
            (*_MODEL, "phase"),
            OVERHEAD_BUCKETS_S,
        )
        self._decisions = Counter(
            names.LENGTHWISE_POLICY_DECISIONS,
            "{decision}",
            "Decisions of enforcing and shadow rules.",
            (*_MODEL, "rule", "action", "mode"),
        )
        self._truncations = Counter(
            names.LENGTHWISE_TRUNCATIONS, "{exchange}", "Answers that their limit ended.", (*_MODEL, "by")
        )
        self._reserved_unused = Counter(
            names.LENGTHWISE_RESERVED_UNUSED_TOKENS, "{token}", "Tokens that were allowed and not generated.", _MODEL
        )
        self._usage_missing = Counter(
            names.LENGTHWISE_USAGE_MISSING,
            "{exchange}",
            "Complete answers for which the provider reported no usage.",
            _MODEL,
        )
        self._ends = Counter(
            names.LENGTHWISE_STREAM_ENDS, "{exchange}", "Exchanges by how they ended.", (*_MODEL, "end")
        )
        self.instruments: tuple[Instrument, ...] = (
            self._duration,
            self._first_chunk,
            self._usage,
            self._first_token,
            self._per_token,
            self._requested,
            self._utilization,
            self._overhead,
            self._decisions,
            self._truncations,
            self._reserved_unused,
            self._usage_missing,
            self._ends,
            Observed(
                names.LENGTHWISE_RECORDS_DROPPED,
                "{record}",
                "Records that workers could not hand over.",
                (),
                lambda: [((), workers.totals.records_dropped)],
            ),
            Observed(
                names.LENGTHWISE_CONNECTIONS_MALFORMED,
                "{connection}",
                "Client connections without a parsable request.",
                (),
                lambda: [((), workers.totals.connections_malformed)],
            ),
            Observed(
                names.LENGTHWISE_EXCHANGES_ACTIVE,
                "{exchange}",
                "Exchanges in progress.",
                (),
                lambda: [((), workers.totals.exchanges_active)],
                monotonic=False,
            ),
            Observed(
                names.LENGTHWISE_WORKERS_READY,
                "{worker}",
                "Relay workers that are connected to the recorder.",
                (),
                lambda: [((), workers.ready)],
                monotonic=False,
            ),
            Observed(
                names.LENGTHWISE_POLICY_RULE_ARMED,
                "{rule}",
                "1 while an enforcing rule enforces, 0 while it is disarmed.",
                ("rule",),
                lambda: [((rule,), int(armed)) for rule, armed in policy()[1]],
                monotonic=False,
            ),
            Observed(
                names.LENGTHWISE_POLICY_ERROR,
                "{error}",
                "1 while the rules on disk are broken and the last good ones stay.",
                (),
                lambda: [((), int(policy()[0]))],
                monotonic=False,
            ),
        )

    def record(self, record: ExchangeRecord) -> None:
        """Count one exchange."""
        exemplar = _exemplar(record)
        labels = self._labels(record)
        self._ends.add(1, (*labels, record.end.value))
        if (overhead_s := record.overhead_request_s) is not None:
            self._overhead.record(overhead_s, (*labels, "request"), exemplar)
        if (overhead_s := record.overhead_first_chunk_s) is not None:
            self._overhead.record(overhead_s, (*labels, "first_chunk"), exemplar)
        if record.request.dialect == OPAQUE:
            return
        self._record_policy(record, labels, exemplar)
        if record.upstream_tried:
            self._record_operation(record, labels, exemplar)
            self._record_answer(record, labels, exemplar)

    def _labels(self, record: ExchangeRecord) -> Labels:
        model = record.request.model
        return (None if model is None else self._models.bound(model), record.provider)

    def _record_policy(self, record: ExchangeRecord, labels: Labels, exemplar: _Exemplar | None) -> None:
        decision, requested = record.decision, record.request.requested_max_tokens
        if requested is not None:
            self._requested.record(requested, labels, exemplar)
        if decision.rule is not None:
            self._decisions.add(1, (*labels, decision.rule, decision.action.value, "enforce"))
        for shadow in decision.shadow:
            self._decisions.add(1, (*labels, shadow.rule, shadow.action.value, "shadow"))

    def _record_operation(self, record: ExchangeRecord, labels: Labels, exemplar: _Exemplar | None) -> None:
        response_model = record.response.response_model
        labels = (
            *labels,
            names.operation_name(record.request.dialect),
            None if response_model is None else self._response_models.bound(response_model),
            record.server_address,
            record.server_port,
        )
        error_type: Label = client_error_type(record)
        if error_type is not None:
            error_type = self._error_types.bound(str(error_type))
        self._duration.record((record.ended_ns - client_start_ns(record)) / 1e9, (*labels, error_type), exemplar)
        if record.streamed and (ttfc_s := record.ttfc_s) is not None:
            self._first_chunk.record(ttfc_s, labels, exemplar)
        usage = record.response.usage
        if usage is not None:
            if usage.input_tokens is not None:
                self._usage.record(usage.input_tokens, (*labels, "input"), exemplar)
            if usage.output_tokens is not None:
                self._usage.record(usage.output_tokens, (*labels, "output"), exemplar)

    def _record_answer(self, record: ExchangeRecord, labels: Labels, exemplar: _Exemplar | None) -> None:
        paced = (*labels, record.streamed, limit_label(record.decision.forwarded_max_tokens))
        if (ttft_s := record.ttft_s) is not None:
            self._first_token.record(ttft_s, paced, exemplar)
        if (tpot_s := record.tpot_s) is not None:
            self._per_token.record(tpot_s, paced, exemplar)
        if (utilization := record.utilization) is not None:
            self._utilization.record(utilization, labels, exemplar)
        if (slack_tokens := record.slack_tokens) is not None and slack_tokens > 0:
            self._reserved_unused.add(slack_tokens, labels)
        if (truncated_by := record.truncated_by) is not None:
            self._truncations.add(1, (*labels, truncated_by))
        answered = record.end is End.COMPLETE and record.status is not None and 200 <= record.status < 300
        if answered and record.response.usage is None:
            self._usage_missing.add(1, labels)


def _exemplar(record: ExchangeRecord) -> _Exemplar | None:
    """What links a measurement to its span; of an unsampled trace it makes no exemplar."""
    if not record.sampled:
        return None
    span_id = record.client_span_id if record.upstream_tried else record.server_span_id
    return record.unix_ns(record.ended_ns), int(record.trace_id, 16), int(span_id, 16)
