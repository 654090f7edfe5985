"""Every attribute, event and metric name that Lengthwise emits, in one place.

Layer: recorder; imports nothing of ours. Names outside `lengthwise.` are those of OpenTelemetry semantic conventions
1.41, the last version that defines `gen_ai.*` in the core repository; a test pins each of them to the published package.

Source: ARCHITECTURE.md 7 "Spans", "Metrics"; semantic-conventions v1.41.1 docs/gen-ai, docs/http.
"""

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"
"""Schema that the standard names follow."""
SCOPE: Final = "lengthwise"
"""Instrumentation scope of every span and metric."""

# -- standard attributes ----------------------------------------------------------------------------------------------
ERROR_TYPE: Final = "error.type"
HTTP_REQUEST_HEADER_TEMPLATE: Final = "http.request.header"
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_REQUEST_RESEND_COUNT: Final = "http.request.resend_count"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
URL_FULL: Final = "url.full"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
URL_TEMPLATE: Final = "url.template"

GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_OUTPUT_TYPE: Final = "gen_ai.output.type"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
GEN_AI_REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 -- an attribute name
GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"

OPENAI_API_TYPE: Final = "openai.api.type"
OPENAI_REQUEST_SERVICE_TIER: Final = "openai.request.service_tier"
OPENAI_RESPONSE_SERVICE_TIER: Final = "openai.response.service_tier"
OPENAI_RESPONSE_SYSTEM_FINGERPRINT: Final = "openai.response.system_fingerprint"

SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"

# -- standard metrics -------------------------------------------------------------------------------------------------
GEN_AI_CLIENT_OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
GEN_AI_CLIENT_TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105 -- a metric name

# -- read by backends that look for the first token elsewhere (settings `telemetry.compat`) ----------------------------
COMPAT_FIRST_TOKEN_EVENT: Final = "First Token Stream Event"  # noqa: S105 -- an event name
"""Event of OpenInference, read by LangWatch and shown by Phoenix; always emitted."""
COMPAT_LANGFUSE_COMPLETION_START: Final = "langfuse.observation.completion_start_time"
COMPAT_SIGNOZ_TTFT: Final = "gen_ai.server.ttft"

# -- our own attributes -----------------------------------------------------------------------------------------------
LENGTHWISE_ID: Final = "lengthwise.id"
LENGTHWISE_APP: Final = "lengthwise.app"
LENGTHWISE_KEY: Final = "lengthwise.key"
LENGTHWISE_MAX_TOKENS_REQUESTED: Final = "lengthwise.max_tokens.requested"
LENGTHWISE_MAX_TOKENS_FORWARDED: Final = "lengthwise.max_tokens.forwarded"
LENGTHWISE_MAX_TOKENS_FIELD: Final = "lengthwise.max_tokens.field"
LENGTHWISE_MAX_TOKENS_ACTION: Final = "lengthwise.max_tokens.action"
LENGTHWISE_MAX_TOKENS_UTILIZATION: Final = "lengthwise.max_tokens.utilization"
LENGTHWISE_MAX_TOKENS_SLACK: Final = "lengthwise.max_tokens.slack"
LENGTHWISE_POLICY_RULE: Final = "lengthwise.policy.rule"
LENGTHWISE_POLICY_ARM: Final = "lengthwise.policy.arm"
LENGTHWISE_POLICY_SHADOW: Final = "lengthwise.policy.shadow"
LENGTHWISE_USAGE_SOURCE: Final = "lengthwise.usage.source"
LENGTHWISE_USAGE_ESTIMATED_OUTPUT_TOKENS: Final = "lengthwise.usage.estimated_output_tokens"
LENGTHWISE_TRUNCATED: Final = "lengthwise.truncated"
LENGTHWISE_TRUNCATED_BY: Final = "lengthwise.truncated_by"
LENGTHWISE_TIME_TO_FIRST_TOKEN: Final = "lengthwise.time_to_first_token"  # noqa: S105 -- a name, also of a metric
LENGTHWISE_TIME_TO_FIRST_ANSWER_TOKEN: Final = "lengthwise.time_to_first_answer_token"  # noqa: S105 -- likewise
LENGTHWISE_TIME_PER_OUTPUT_TOKEN: Final = "lengthwise.time_per_output_token"  # noqa: S105 -- a name, also of a metric
LENGTHWISE_DECODED_TOKENS: Final = "lengthwise.decoded_tokens"
LENGTHWISE_STREAM_END: Final = "lengthwise.stream.end"
LENGTHWISE_STREAM_EVENTS: Final = "lengthwise.stream.events"
LENGTHWISE_STREAM_MAX_GAP: Final = "lengthwise.stream.max_gap"
LENGTHWISE_CLIENT_BLOCKED: Final = "lengthwise.client_blocked"
LENGTHWISE_OVERHEAD_REQUEST: Final = "lengthwise.overhead.request"
LENGTHWISE_OVERHEAD_FIRST_CHUNK: Final = "lengthwise.overhead.first_chunk"
LENGTHWISE_UPSTREAM_CONNECT_TIME: Final = "lengthwise.upstream.connect_time"
LENGTHWISE_UPSTREAM_TIME_TO_HEADERS: Final = "lengthwise.upstream.time_to_headers"
LENGTHWISE_DEGRADED: Final = "lengthwise.degraded"

# -- our own metrics (max_tokens.requested, max_tokens.utilization and the two times share their attribute's name) -----
LENGTHWISE_OVERHEAD_DURATION: Final = "lengthwise.overhead.duration"
LENGTHWISE_POLICY_DECISIONS: Final = "lengthwise.policy.decisions"
LENGTHWISE_POLICY_RULE_ARMED: Final = "lengthwise.policy.rule.armed"
LENGTHWISE_POLICY_ERROR: Final = "lengthwise.policy.error"
LENGTHWISE_TRUNCATIONS: Final = "lengthwise.truncations"
LENGTHWISE_RESERVED_UNUSED_TOKENS: Final = "lengthwise.reserved_unused_tokens"
LENGTHWISE_USAGE_MISSING: Final = "lengthwise.usage.missing"
LENGTHWISE_STREAM_ENDS: Final = "lengthwise.stream.ends"
LENGTHWISE_RECORDS_DROPPED: Final = "lengthwise.records.dropped"
LENGTHWISE_CONNECTIONS_MALFORMED: Final = "lengthwise.connections.malformed"
LENGTHWISE_EXCHANGES_ACTIVE: Final = "lengthwise.exchanges.active"
LENGTHWISE_WORKERS_READY: Final = "lengthwise.workers.ready"
LENGTHWISE_EXPORT_ITEMS: Final = "lengthwise.export.items"
LENGTHWISE_LEDGER_ROWS: Final = "lengthwise.ledger.rows"

_TEXT_COMPLETION = "text_completion"


def operation_name(dialect: str) -> str:
    """Value of `gen_ai.operation.name` for a dialect."""
    return _TEXT_COMPLETION if dialect == "completions" else "chat"
