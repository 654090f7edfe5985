"""One record becomes one SERVER span and, when an upstream was tried, its CLIENT child.

Layer: recorder. Pure: a record in, finished spans out, with the ids and the times that the worker measured; nothing is
started, sampled or clocked here.

Raw paths, queries, messages and header values (but a count of retries) are in no record, so they can be on no span.
Integers that do not fit OTLP's int64 are left out: one of them would cost its whole span.

Source: ARCHITECTURE.md 7 "Spans"; semantic-conventions v1.41.1 docs/gen-ai/gen-ai-spans.md, docs/http/http-spans.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from opentelemetry.trace import SpanKind, TraceState

from proxy.record import OPAQUE, End, ExchangeRecord, RequestFacts, Usage
from proxy.recorder import semconv as names
from proxy.recorder.ledger import shadow_json

__all__ = ["Span", "SpanForm", "Value", "client_error_type", "client_start_ns", "spans_of"]

Value = str | int | float | bool | list[str]
_Values = Iterator[tuple[str, Value | None]]

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_INT64 = range(-(2**63), 2**63)
_LONGEST_VALUE = 1024
_SDK_RETRY_COUNT = f"{names.HTTP_REQUEST_HEADER_TEMPLATE}.x-stainless-retry-count"
"""How often an official client tried before; like our own resends it is there only when it did."""


@dataclass(frozen=True, slots=True)
class SpanForm:
    """What the settings decide about every span."""

    genai: str = "full"
    """`full`, `no_usage` (without `gen_ai.usage.*`) or `off` (CLIENT is a plain HTTP span with `lengthwise.*`)."""
    compat: frozenset[str] = frozenset()
    """`langfuse`, `signoz`: where these backends look for the first token."""
    upstream_urls: Mapping[str, str] = field(default_factory=dict)
    """Name of an upstream to its URL, without a slash at its end."""


class Span(NamedTuple):
    """One finished span."""

    name: str
    kind: SpanKind
    trace_id: str
    """32 hex digits, as ids of spans are 16."""
    span_id: str
    parent_span_id: str | None
    parent_is_remote: bool
    trace_state: str
    """As a `tracestate` header; empty without one."""
    start_unix_ns: int
    end_unix_ns: int
    failed: bool
    """True: status ERROR; else it is left unset."""
    attributes: dict[str, Value]
    events: tuple[tuple[str, int], ...] = ()
    """Name and unix time in ns."""


def spans_of(record: ExchangeRecord, form: SpanForm) -> list[Span]:
    """The spans of one exchange, child first; empty when the trace is not sampled."""
    if not record.sampled:
        return []
    state = TraceState.from_header([record.trace_state]).to_header() if record.trace_state else ""
    server = _server_span(record, state)
    return [_client_span(record, form, state), server] if record.upstream_tried else [server]


def client_start_ns(record: ExchangeRecord) -> int:
    """Stamp at which the CLIENT span starts: the final attempt's connect, its request on a pooled connection."""
    if record.connect_started_ns is not None:
        return record.connect_started_ns
    return record.accepted_ns if record.request_sent_ns is None else record.request_sent_ns


def client_error_type(record: ExchangeRecord) -> str | None:
    """Value of `error.type` on CLIENT; None when the upstream's part of the exchange was no error.

    A client that leaves, or one that broke its own request, makes no error of it.
    """
    answered_badly = record.status is not None and record.status >= 400 and record.end is End.COMPLETE
    if record.response.error_type is None and not answered_badly and record.end not in _FAILED_ENDS:
        return None
    if record.error_type or record.response.error_type:
        return record.error_type or record.response.error_type
    return str(record.status) if answered_badly else record.end.value


_FAILED_ENDS = frozenset({End.UPSTREAM_ERROR, End.BROKEN, End.TIMEOUT, End.ABORTED})
_CUT_SHORT = frozenset({End.BROKEN, End.TIMEOUT, End.ABORTED})


def _server_span(record: ExchangeRecord, state: str) -> Span:
    # a 4xx leaves a SERVER span unset; a 2xx that stopped short of its end is an error all the same
    failed = record.end in _CUT_SHORT or (record.status is not None and record.status >= 500)
    refused = record.status is not None and record.status >= 400
    attributes = _present(_server_values(record))
    if (failed or refused) and record.end is not End.CLIENT_DISCONNECT:
        attributes[names.ERROR_TYPE] = record.error_type or (str(record.status) if refused else record.end.value)
    if not record.upstream_tried:
        attributes |= _present(_own_values(record))
    return Span(
        name=_http_name(record),
        kind=SpanKind.SERVER,
        trace_id=record.trace_id,
        span_id=record.server_span_id,
        parent_span_id=record.parent_span_id,
        parent_is_remote=record.parent_span_id is not None,
        trace_state=state,
        start_unix_ns=record.started_unix_ns,
        end_unix_ns=record.unix_ns(record.ended_ns),
        failed=failed,
        attributes=attributes,
    )


def _client_span(record: ExchangeRecord, form: SpanForm, state: str) -> Span:
    generative = record.request.dialect != OPAQUE and form.genai != "off"
    error_type = client_error_type(record)
    attributes = _present(_client_values(record, form))
    if generative:
        attributes |= _present(_generative_values(record, form))
    attributes |= _present(_own_values(record))
    if error_type is not None:
        attributes[names.ERROR_TYPE] = error_type
    first_token_ns = record.response.first_token_ns
    return Span(
        name=_generative_name(record.request) if generative else _http_name(record),
        kind=SpanKind.CLIENT,
        trace_id=record.trace_id,
        span_id=record.client_span_id,
        parent_span_id=record.server_span_id,
        parent_is_remote=False,
        trace_state=state,
        start_unix_ns=record.unix_ns(client_start_ns(record)),
        end_unix_ns=record.unix_ns(record.ended_ns),
        failed=error_type is not None,
        attributes=attributes,
        events=() if first_token_ns is None else ((names.COMPAT_FIRST_TOKEN_EVENT, record.unix_ns(first_token_ns)),),
    )


def _present(values: _Values) -> dict[str, Value]:
    present: dict[str, Value] = {}
    for name, value in values:
        if value is None or (type(value) is int and value not in _INT64):
            continue
        present[name] = value[:_LONGEST_VALUE] if type(value) is str else value
    return present


def _method(record: ExchangeRecord) -> str:
    return record.method if record.method in _METHODS else "_OTHER"


def _http_name(record: ExchangeRecord) -> str:
    method = record.method if record.method in _METHODS else "HTTP"
    return method if record.route is None else f"{method} {record.route}"


def _generative_name(request: RequestFacts) -> str:
    operation = names.operation_name(request.dialect)
    return operation if request.model is None else f"{operation} {request.model[:_LONGEST_VALUE]}"


def _server_values(record: ExchangeRecord) -> _Values:
    yield names.HTTP_REQUEST_METHOD, _method(record)
    yield names.HTTP_ROUTE, record.route
    # the template, never the path as sent: a path can carry a key, and a deployment's name
    yield names.URL_PATH, record.route
    yield names.URL_SCHEME, record.scheme
    yield names.HTTP_RESPONSE_STATUS_CODE, record.status
    yield _SDK_RETRY_COUNT, _sdk_retry_count(record)


def _client_values(record: ExchangeRecord, form: SpanForm) -> _Values:
    yield names.HTTP_REQUEST_METHOD, _method(record)
    yield names.URL_FULL, _url(record, form)
    yield names.URL_TEMPLATE, record.route
    yield names.SERVER_ADDRESS, record.server_address
    yield names.SERVER_PORT, record.server_port
    # without a response head the status is our own answer's, not the upstream's
    yield names.HTTP_RESPONSE_STATUS_CODE, None if record.headers_ns is None else record.status
    yield names.HTTP_REQUEST_RESEND_COUNT, record.resend_count or None
    yield _SDK_RETRY_COUNT, _sdk_retry_count(record)


def _url(record: ExchangeRecord, form: SpanForm) -> str | None:
    """Where the request went, without its query; None where its path is not known, or holds what a client named."""
    base = form.upstream_urls.get(record.upstream or "")
    return None if base is None or record.route is None or "{" in record.route else base + record.route


def _sdk_retry_count(record: ExchangeRecord) -> list[str] | None:
    return [str(record.sdk_retry_count)] if record.sdk_retry_count else None


def _generative_values(record: ExchangeRecord, form: SpanForm) -> _Values:
    request, response = record.request, record.response
    yield names.GEN_AI_OPERATION_NAME, names.operation_name(request.dialect)
    yield names.GEN_AI_PROVIDER_NAME, record.provider
    yield names.GEN_AI_REQUEST_MODEL, request.model
    yield names.GEN_AI_REQUEST_STREAM, request.stream or None
    yield names.GEN_AI_REQUEST_MAX_TOKENS, record.decision.forwarded_max_tokens
    yield names.GEN_AI_REQUEST_CHOICE_COUNT, None if request.choices == 1 else request.choices
    yield names.GEN_AI_REQUEST_TEMPERATURE, _double(request.temperature)
    yield names.GEN_AI_REQUEST_TOP_P, _double(request.top_p)
    yield names.GEN_AI_REQUEST_FREQUENCY_PENALTY, _double(request.frequency_penalty)
    yield names.GEN_AI_REQUEST_PRESENCE_PENALTY, _double(request.presence_penalty)
    yield names.GEN_AI_REQUEST_SEED, request.seed
    yield names.GEN_AI_OUTPUT_TYPE, request.output_type
    yield names.GEN_AI_RESPONSE_ID, response.response_id
    yield names.GEN_AI_RESPONSE_MODEL, response.response_model
    yield names.GEN_AI_RESPONSE_FINISH_REASONS, list(response.finish_reasons) or None
    if record.streamed:
        yield names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, record.ttfc_s
    if response.usage is not None and form.genai == "full":
        yield from _usage_values(response.usage)
    # semconv docs/gen-ai/openai.md: these names belong to provider openai alone
    if record.provider == "openai":
        if request.dialect in {"chat_completions", "responses"}:
            yield names.OPENAI_API_TYPE, request.dialect
        yield names.OPENAI_REQUEST_SERVICE_TIER, None if request.service_tier == "auto" else request.service_tier
        yield names.OPENAI_RESPONSE_SERVICE_TIER, response.service_tier
        yield names.OPENAI_RESPONSE_SYSTEM_FINGERPRINT, response.system_fingerprint
    if response.first_token_ns is not None and "langfuse" in form.compat:
        at = datetime.fromtimestamp(record.unix_ns(response.first_token_ns) / 1e9, UTC)
        yield names.COMPAT_LANGFUSE_COMPLETION_START, at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if "signoz" in form.compat:
        yield names.COMPAT_SIGNOZ_TTFT, record.ttft_s


def _double(value: float | None) -> float | None:
    return None if value is None else float(value)


def _usage_values(usage: Usage) -> _Values:
    yield names.GEN_AI_USAGE_INPUT_TOKENS, usage.input_tokens
    yield names.GEN_AI_USAGE_OUTPUT_TOKENS, usage.output_tokens
    yield names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, usage.cached_input_tokens
    yield names.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS, usage.cache_creation_input_tokens
    yield names.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS, usage.reasoning_tokens


def _own_values(record: ExchangeRecord) -> _Values:
    response = record.response
    yield names.LENGTHWISE_ID, record.id
    yield names.LENGTHWISE_APP, record.app
    yield names.LENGTHWISE_KEY, record.key_name
    if record.request.dialect != OPAQUE:
        yield from _allowance_values(record)
    yield names.LENGTHWISE_STREAM_END, record.end.value
    if record.streamed:
        yield names.LENGTHWISE_STREAM_EVENTS, response.events
        yield names.LENGTHWISE_STREAM_MAX_GAP, None if response.max_gap_ns is None else response.max_gap_ns / 1e9
    yield names.LENGTHWISE_CLIENT_BLOCKED, record.client_blocked_s
    yield names.LENGTHWISE_OVERHEAD_REQUEST, record.overhead_request_s
    yield names.LENGTHWISE_OVERHEAD_FIRST_CHUNK, record.overhead_first_chunk_s
    yield names.LENGTHWISE_UPSTREAM_CONNECT_TIME, record.connect_time_s
    yield names.LENGTHWISE_UPSTREAM_TIME_TO_HEADERS, record.time_to_headers_s
    yield names.LENGTHWISE_DEGRADED, record.degraded


def _allowance_values(record: ExchangeRecord) -> _Values:
    decision = record.decision
    yield names.LENGTHWISE_MAX_TOKENS_REQUESTED, record.request.requested_max_tokens
    yield names.LENGTHWISE_MAX_TOKENS_FORWARDED, decision.forwarded_max_tokens
    yield names.LENGTHWISE_MAX_TOKENS_FIELD, decision.limit_field or record.request.limit_field
    yield names.LENGTHWISE_MAX_TOKENS_ACTION, decision.action.value
    yield names.LENGTHWISE_MAX_TOKENS_UTILIZATION, record.utilization
    yield names.LENGTHWISE_MAX_TOKENS_SLACK, record.slack_tokens
    yield names.LENGTHWISE_POLICY_RULE, decision.rule
    yield names.LENGTHWISE_POLICY_ARM, decision.arm
    yield names.LENGTHWISE_POLICY_SHADOW, shadow_json(record)
    yield names.LENGTHWISE_USAGE_SOURCE, record.usage_source
    yield names.LENGTHWISE_USAGE_ESTIMATED_OUTPUT_TOKENS, record.estimated_output_tokens
    yield names.LENGTHWISE_TRUNCATED, record.cut
    yield names.LENGTHWISE_TRUNCATED_BY, record.truncated_by
    yield names.LENGTHWISE_TIME_TO_FIRST_TOKEN, record.ttft_s
    yield names.LENGTHWISE_TIME_TO_FIRST_ANSWER_TOKEN, record.ttfa_s
    yield names.LENGTHWISE_TIME_PER_OUTPUT_TOKEN, record.tpot_s
    yield names.LENGTHWISE_DECODED_TOKENS, record.decoded_tokens
