"""The data: what was asked, what was decided, what came, and when; and every derived time, defined once.

Layer: above errors only. Made by the relay worker, read by the recorder; `to_line` and
`from_line` are the only form in which a record crosses between them.

Numbers carry their unit: `_ns` are raw stamps of one monotonic clock, `_s` are derived. `None` is unknown, 0 is a
measured zero. No field holds content or a credential.

These are named tuples, not frozen dataclasses: the relay makes seven for each exchange, and a frozen dataclass pays some
100 ns for each field (80 of them, a third of what nginx spends on a whole request), a tuple a few.

Source: ARCHITECTURE.md 7 "Times and tokens", "Ledger", "Spans".
"""

from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

__all__ = [
    "LEDGER_VERSION",
    "OPAQUE",
    "Action",
    "Decision",
    "End",
    "ExchangeRecord",
    "RequestFacts",
    "ResponseFacts",
    "ShadowDecision",
    "Usage",
    "cut_by",
    "end_of_refusal",
    "from_line",
    "to_line",
]

OPAQUE = "opaque"
"""Dialect of an exchange whose body Lengthwise does not read."""

LEDGER_VERSION: Final = 1
"""The ledger's schema, `PRAGMA user_version`: what the recorder writes and the evidence reads."""


class End(StrEnum):
    """How an exchange ended; exactly one for each (ARCHITECTURE.md 5.5)."""

    COMPLETE = "complete"
    BROKEN = "broken"
    UPSTREAM_ERROR = "upstream_error"
    CLIENT_DISCONNECT = "client_disconnect"
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    SHED = "shed"
    ABORTED = "aborted"


class Action(StrEnum):
    """What the policy did to the limit."""

    NONE = "none"
    CAPPED = "capped"
    INSERTED = "inserted"
    REJECTED = "rejected"
    CONFLICT = "conflict"
    UNDECIDED = "undecided"


def end_of_refusal(status: int) -> End:
    """How an exchange ends that we answered ourselves with this status (ARCHITECTURE.md 5.5)."""
    return {502: End.UPSTREAM_ERROR, 503: End.SHED, 504: End.TIMEOUT}.get(status, End.REJECTED)


class RequestFacts(NamedTuple):
    """What a dialect read in a request body."""

    dialect: str
    """Name of the dialect, `opaque` for none."""
    model: str | None = None
    stream: bool = False
    """True when the client asked for a stream."""
    limits: tuple[tuple[str, int | None], ...] = ()
    """Every limit field that was sent with a number, in the order in which the provider reads them; null is absent.

    None is a number that asks for no limit (llama.cpp `n_predict: -1`)."""
    choices: int | None = 1
    """Answers asked for (`n`, `best_of`, prompts). None when unreadable."""
    include_usage: bool | None = None
    """The client's own `stream_options.include_usage`; None when it did not say."""
    degraded: str | None = None
    """Why the body could not be read (bounded vocabulary, never content)."""
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    service_tier: str | None = None
    output_type: str | None = None
    """`text` or `json`, from `response_format`."""
    degraded_field: str | None = None
    """The member that `degraded` is about, one of those that we know; None when it is about the whole body."""
    floors: tuple[tuple[str, int], ...] = ()
    """Least lengths that were sent (`min_tokens`)."""
    thinking_budget_tokens: int | None = None
    """`thinking.budget_tokens`: the limit must stay above it."""

    @property
    def limit_field(self) -> str | None:
        """The sent limit field that the provider reads first."""
        return self.limits[0][0] if self.limits else None

    @property
    def requested_max_tokens(self) -> int | None:
        """The limit in force as the client sent it; None when it sent none, or asked for none."""
        return self.limits[0][1] if self.limits else None


class ShadowDecision(NamedTuple):
    """What a matching shadow rule would have done."""

    rule: str
    action: Action
    forwarded: int | None
    """The limit that would have been forwarded; None for none."""


class Decision(NamedTuple):
    """What the policy did with one request."""

    action: Action = Action.NONE
    rule: str | None = None
    """The enforcing rule that decided; None when none did."""
    forwarded_max_tokens: int | None = None
    """The limit that the upstream is asked to keep; None when it is asked for none."""
    limit_field: str | None = None
    """The field that carries the forwarded limit."""
    arm: str | None = None
    """Experiment arm, a number of tokens or `none`; None outside experiments."""
    shadow: tuple[ShadowDecision, ...] = ()
    cap_tokens: int | None = None
    """What every limit above it is lowered to; None where nothing is."""
    unit: str | None = None
    """What was randomised, where it was not the single request: a bucket of header values, or `block:N` of time."""


class Usage(NamedTuple):
    """Token counts as the provider reported them; None where it did not."""

    input_tokens: int | None = None
    """Including cached ones."""
    cached_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None
    """Including reasoning ones, summed over choices."""
    reasoning_tokens: int | None = None


class ResponseFacts(NamedTuple):
    """What the observer read in a response body. Stamps are the arrival of the read that completed the event."""

    response_id: str | None = None
    response_model: str | None = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    finish_reasons: tuple[str, ...] = ()
    """The provider's own words, one for each choice that ended, by choice index."""
    usage: Usage | None = None
    """None when the provider reported none."""
    error_type: str | None = None
    """Type of an error event inside a 2xx answer (bounded, never its message)."""
    terminal_seen: bool = False
    """True when the stream said itself that it was over (`[DONE]`, a finish reason for every choice, an error event)."""
    degraded: str | None = None
    """Why the observer stopped reading (bounded vocabulary)."""
    events: int = 0
    """SSE events with data."""
    generated_events: int = 0
    """Events that carried generated tokens."""
    reasoning_streamed: bool = False
    first_chunk_ns: int | None = None
    """First body byte."""
    first_token_ns: int | None = None
    """First generated token: content, reasoning, tool call, refusal, audio."""
    first_answer_ns: int | None = None
    """First visible answer token: generated and not reasoning."""
    last_token_ns: int | None = None
    end_ns: int | None = None
    """Last body byte that arrived; the moment of the end when none did."""
    max_gap_ns: int | None = None
    """Longest pause between two reads of a streamed body."""
    checkpoints: tuple[tuple[int, int], ...] = ()
    """(generated events so far, stamp), every 64 events, thinned to at most 256."""


class ExchangeRecord(NamedTuple):
    """The finished, measured facts of one exchange. Every `_ns` is of the worker's monotonic clock."""

    id: str
    started_unix_ns: int
    """Wall time of `accepted_ns`; the only wall clock reading of an exchange."""
    accepted_ns: int
    """First byte of the request."""
    end: End
    ended_ns: int
    """When the exchange was over for us."""
    trace_id: str
    parent_span_id: str | None
    """The client's span; None when it sent no valid traceparent."""
    server_span_id: str
    client_span_id: str
    sampled: bool
    trace_state: str | None
    method: str
    route: str | None
    """Route template such as `/v1/chat/completions`; None for opaque exchanges."""
    scheme: str
    upstream: str | None
    """Name of the upstream; None when none was chosen."""
    provider: str | None
    server_address: str | None
    server_port: int | None
    app: str | None
    key_name: str | None
    request: RequestFacts
    decision: Decision
    response: ResponseFacts
    streamed: bool
    """True when the response was an event stream."""
    status: int | None
    """Status that the client got, or that the upstream sent before the client left; None when there was none."""
    error_type: str | None
    """Our TYPE, an upstream's status as text, or the type of an in-stream error; bounded; None without error."""
    upstream_tried: bool
    """True when a connection was attempted: a CLIENT span exists."""
    resend_count: int
    sdk_retry_count: int | None
    """`x-stainless-retry-count` of the client; None when absent."""
    request_bytes: int
    response_bytes: int
    """Body bytes relayed to the client."""
    usage_source: str
    """provider, estimated or none: who counted the output tokens."""
    degraded: str | None
    request_complete_ns: int | None
    """Last request byte received from the client."""
    connected_ns: int | None
    """Connection of the final attempt ready; None when a pooled one was used or none was made."""
    connect_started_ns: int | None
    request_sent_ns: int | None
    """Last request byte handed to the transport of the final attempt; None if the response began before."""
    headers_ns: int | None
    """Upstream's response head complete."""
    first_write_ns: int | None
    """First response byte handed to the client's transport."""
    client_blocked_ns: int
    """Time during which the client did not take bytes that we had."""
    estimated_output_tokens: int | None = None
    """The recorder's own count of what was streamed, where the provider gave none; None until then."""
    repeated_ns: int | None = None
    """When the final attempt became due; None when it was the first."""

    # -- derived, each defined once (ARCHITECTURE.md 7 "Times and tokens") --------------------------------------------------

    def _since_start_s(self, at_ns: int | None) -> float | None:
        return None if at_ns is None or self.request_sent_ns is None else (at_ns - self.request_sent_ns) / 1e9

    @property
    def started_at_s(self) -> float:
        """Unix time of the first request byte."""
        return self.started_unix_ns / 1e9

    @property
    def ttfc_s(self) -> float | None:
        """Start to first body byte."""
        return self._since_start_s(self.response.first_chunk_ns)

    @property
    def ttft_s(self) -> float | None:
        """Start to first generated token; None for an answer that was not streamed."""
        return self._since_start_s(self.response.first_token_ns)

    @property
    def ttfa_s(self) -> float | None:
        """Start to first visible answer token; None for an answer that was not streamed."""
        return self._since_start_s(self.response.first_answer_ns)

    @property
    def last_token_s(self) -> float | None:
        """Start to last generated token; None for an answer that was not streamed."""
        return self._since_start_s(self.response.last_token_ns)

    @property
    def e2e_s(self) -> float | None:
        """Start to the last byte that arrived, also of an answer that broke off; `duration_s` has the wait after it."""
        return self._since_start_s(self.response.end_ns)

    @property
    def duration_s(self) -> float:
        """First request byte to the end of the exchange, upstream or not."""
        return (self.ended_ns - self.accepted_ns) / 1e9

    @property
    def output_tokens(self) -> int | None:
        """Generated tokens as the provider counted them, else as estimated: `usage_source` says which."""
        usage = self.response.usage
        if usage is None or usage.output_tokens is None:
            return self.estimated_output_tokens
        return usage.output_tokens

    @property
    def decoded_tokens(self) -> int | None:
        """Output tokens that the stream could show: less reasoning that was not streamed; None when choices are not 1."""
        usage, tokens = self.response.usage, self.output_tokens
        if tokens is None or self.request.choices != 1:
            return None
        if usage is None or self.usage_source == "estimated" or self.response.reasoning_streamed:
            return tokens  # an estimate counts only what was streamed
        return max(tokens - (usage.reasoning_tokens or 0), 0)

    @property
    def tpot_s(self) -> float | None:
        """(last token - first token) / (decoded tokens - 1); None below 2 tokens or without a stream."""
        tokens, first, last = self.decoded_tokens, self.response.first_token_ns, self.response.last_token_ns
        if not self.streamed or tokens is None or tokens < 2 or first is None or last is None:
            return None
        return (last - first) / 1e9 / (tokens - 1)

    @property
    def cut(self) -> bool | None:
        """True when any choice was ended by the limit; None when no finish reason came."""
        if not self.response.finish_reasons:
            return None
        return "length" in self.finish_words

    @property
    def finish_words(self) -> tuple[str, ...]:
        """Finish reasons in the ledger's words: stop, length, tool_calls, content_filter, other."""
        return tuple(FINISH_WORDS.get(reason, "other") for reason in self.response.finish_reasons)

    @property
    def truncated_by(self) -> str | None:
        """`policy` when a cap or an inserted limit cut the answer, `client` when the client's own limit did."""
        decision = self.decision
        return cut_by(self.cut, decision.action, self.request.requested_max_tokens, decision.forwarded_max_tokens)

    @property
    def utilization(self) -> float | None:
        """Output tokens / forwarded limit, for one choice of an answer that came whole."""
        limit, tokens = self.decision.forwarded_max_tokens, self.output_tokens
        return tokens / limit if limit and tokens is not None and self._is_one_whole else None

    @property
    def slack_tokens(self) -> int | None:
        """Forwarded limit - output tokens, for one choice of an answer that came whole."""
        limit, tokens = self.decision.forwarded_max_tokens, self.output_tokens
        return limit - tokens if limit is not None and tokens is not None and self._is_one_whole else None

    @property
    def _is_one_whole(self) -> bool:
        return self.request.choices == 1 and self.end is End.COMPLETE

    @property
    def checkpoints_s(self) -> tuple[tuple[int, float], ...]:
        """(tokens, seconds since start): event counts scaled so that the last generated event is the last token."""
        tokens, events, start = self.decoded_tokens, self.response.generated_events, self.request_sent_ns
        if not tokens or not events or start is None:
            return ()
        return tuple((round(n * tokens / events), (at - start) / 1e9) for n, at in self.response.checkpoints)

    @property
    def client_blocked_s(self) -> float:
        """Time during which the client did not take bytes that we had."""
        return self.client_blocked_ns / 1e9

    @property
    def overhead_request_s(self) -> float | None:
        """Last request byte received to last request byte sent, less connecting: our own time before the upstream's.

        Of a request that was sent again it is that of the final attempt: before it, an upstream had its time.
        """
        due_ns = self.request_complete_ns if self.repeated_ns is None else self.repeated_ns
        if self.request_sent_ns is None or due_ns is None:
            return None
        return max(self.request_sent_ns - due_ns - (self._connect_ns or 0), 0) / 1e9

    @property
    def overhead_first_chunk_s(self) -> float | None:
        """First body byte received to first byte handed to the client's transport."""
        if self.first_write_ns is None or self.response.first_chunk_ns is None:
            return None
        return max(self.first_write_ns - self.response.first_chunk_ns, 0) / 1e9

    @property
    def overhead_s(self) -> float | None:
        """Our own time in both directions, as far as it is known."""
        parts = [part for part in (self.overhead_request_s, self.overhead_first_chunk_s) if part is not None]
        return sum(parts) if parts else None

    @property
    def _connect_ns(self) -> int | None:
        if self.connected_ns is None or self.connect_started_ns is None:
            return None
        return self.connected_ns - self.connect_started_ns

    @property
    def connect_time_s(self) -> float | None:
        """Name resolution, TCP and TLS of the final attempt; None when a pooled connection was used."""
        return None if self._connect_ns is None else self._connect_ns / 1e9

    @property
    def time_to_headers_s(self) -> float | None:
        """Start to complete response head."""
        return self._since_start_s(self.headers_ns)

    def unix_ns(self, at_ns: int) -> int:
        """Wall time of a stamp, by the one wall clock reading of this exchange."""
        return self.started_unix_ns + at_ns - self.accepted_ns


def cut_by(cut: bool | None, action: Action, requested: int | None, forwarded: int | None) -> str | None:
    """`policy` when the limit that ended an answer was the policy's, `client` when it was the client's own; None when none did."""
    if not cut:
        return None
    # A cap may have lowered only a field that the provider reads after the one in force.
    lowered = action is Action.CAPPED and (requested is None or forwarded is None or forwarded < requested)
    return "policy" if lowered or action is Action.INSERTED else "client"


FINISH_WORDS = {
    # chat_completions, completions
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    # responses: its status, the reason of an incomplete one, or the call with which its output ends
    "completed": "stop",
    "max_output_tokens": "length",
    "custom_tool_call": "tool_calls",
    "computer_call": "tool_calls",
    "local_shell_call": "tool_calls",
    "shell_call": "tool_calls",
    "apply_patch_call": "tool_calls",
    "mcp_approval_request": "tool_calls",
    # messages; some servers of responses say max_tokens too
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Finish reasons of every dialect in the ledger's words; any other is `other`."""


def to_line(record: ExchangeRecord) -> bytes:
    """Encode a record as one JSON line without its newline: arrays in the order of the fields."""
    return orjson.dumps(record, default=tuple)


def from_line(line: bytes | list[Any]) -> ExchangeRecord:
    """Decode what `to_line` made, or its parsed form.

    Raises:
        TypeError, ValueError: `line` is no record.
    """
    values = orjson.loads(line) if isinstance(line, bytes) else list(line)
    record: ExchangeRecord = _take(ExchangeRecord, values)
    request, decision, response = (
        _take(RequestFacts, record.request),
        _take(Decision, record.decision),
        _take(ResponseFacts, record.response),
    )
    usage = None if response.usage is None else _take(Usage, response.usage)
    return record._replace(
        end=End(record.end),
        request=request._replace(
            limits=tuple((name, tokens) for name, tokens in request.limits),
            floors=tuple((name, tokens) for name, tokens in request.floors),
        ),
        decision=decision._replace(
            action=Action(decision.action),
            shadow=tuple(ShadowDecision(rule, Action(action), limit) for rule, action, limit in decision.shadow),
        ),
        response=response._replace(
            usage=usage,
            finish_reasons=tuple(response.finish_reasons),
            checkpoints=tuple((events, at_ns) for events, at_ns in response.checkpoints),
        ),
    )


def _take(kind: type[Any], values: Any) -> Any:
    if not isinstance(values, list) or len(values) != len(kind._fields):
        raise ValueError(f"not the fields of {kind.__name__}")
    return kind._make(values)
