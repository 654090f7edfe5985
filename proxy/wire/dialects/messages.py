"""Messages: `POST …/messages`, Anthropic's interface, streamed and not.

Layer: wire (sans-io). A generated token is a text, thinking or input delta that says something, the name with which a tool's use begins, or a
block of thinking that comes encrypted. Signatures, citations, pings and the frames of messages and blocks are none.

Usage is cumulative and split over two events: the input's counts come first, the output's at the end. The first count of the output is no
result and is passed over, so that the record of a stream that broke does not claim to know it. `input_tokens` of this interface leaves out
what was read from and written to the cache; `Usage.input_tokens` counts all.

Source: Anthropic API reference "Messages", "Streaming messages", "Errors".
"""

from typing import Any

import orjson

from proxy.record import Decision, RequestFacts, Usage
from proxy.wire.dialects.base import Reading, never_asked, never_extra, plain_word
from proxy.wire.dialects.limit_fields import LIMIT_FIELDS
from proxy.wire.dialects.request_body import parsed_request, request_facts, unreadable, with_limit
from proxy.wire.dialects.response_body import (
    is_text,
    parsed_body,
    parsed_event,
    read_error,
    read_head,
    text_of,
    token_count,
)
from proxy.wire.sse import Event

__all__ = ["Messages"]

_DELTAS = {"text_delta": "text", "input_json_delta": "partial_json", "thinking_delta": "thinking"}
"""Kinds of delta to where their token is."""
_SAID = ("thinking", "text", "name")
"""Where blocks hold generated text."""
_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Messages:
    """The messages dialect."""

    __slots__ = ()

    name = "messages"
    operation = "chat"
    suffix = b"/messages"
    route = "/v1/messages"
    limit_fields = ("max_tokens",)

    may_ask_usage = staticmethod(never_asked)
    is_extra_usage = staticmethod(never_extra)

    def read_request(self, body: bytes, fields: tuple[str, ...] = LIMIT_FIELDS) -> RequestFacts:
        """Facts of a request body."""
        request, degraded = parsed_request(body)
        if request is None:
            return unreadable(self.name, degraded)
        return request_facts(self.name, self.limit_fields, body, request, fields=fields, degraded=degraded)

    def insert_field(self, preferred: str) -> str:
        """Always `max_tokens`."""
        return "max_tokens"

    def rewrite(self, body: bytes, facts: RequestFacts, decision: Decision, *, ask_usage: bool) -> bytes:
        """Body as the upstream gets it."""
        return with_limit(body, facts, decision)

    def read_event(self, event: Event, reading: Reading) -> bool:
        """Read one event; True when it carried generated tokens."""
        chunk = parsed_event(event, reading)
        if chunk is None:
            return False
        kind = chunk.get("type")
        if kind == "content_block_delta":
            return _read_delta(chunk.get("delta"), reading)
        if kind == "content_block_start":
            block = chunk.get("content_block")
            reading.keep(text_of(block, _SAID))
            return _read_block(block, reading)
        if kind == "message_start":
            reading.open_choices.add(0)
            message = chunk.get("message")
            if type(message) is dict:
                _read_message(message, reading, output=False)
        elif kind == "message_delta":
            _read_usage(chunk.get("usage"), reading)
            _read_stop(chunk.get("delta"), reading)
        elif kind == "message_stop":
            reading.done = True
        elif kind == "error" or event[0] == b"error":
            read_error(chunk, reading)
        return False

    def read_body(self, body: bytes, reading: Reading) -> None:
        """Read a whole message, or the error in its place."""
        answer = parsed_body(body, reading)
        if answer is None:
            return
        if answer.get("type") == "error" or answer.get("error"):
            read_error(answer, reading)
            return
        _read_message(answer, reading, output=True)
        reading.keep(text_of(answer.get("content"), _SAID))
        _read_stop(answer, reading)

    def error_body(self, status: int, envelope_type: str, error_type: str, message: str) -> bytes:
        """Anthropic's error envelope, whose types are other ones than OpenAI's."""
        kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})


def _read_delta(delta: object, reading: Reading) -> bool:
    if type(delta) is not dict:
        return False
    kind = delta.get("type")
    place = _DELTAS.get(kind) if type(kind) is str else None
    if place is None or not is_text(delta.get(place)):
        return False
    if kind == "thinking_delta":
        reading.reasoned = True
    else:
        reading.answered = True
    reading.keep(delta[place])
    return True


def _read_block(block: object, reading: Reading) -> bool:
    """True when the beginning of a block is generated already."""
    if type(block) is not dict:
        return False
    kind = block.get("type")
    if kind in {"thinking", "redacted_thinking"}:
        reasoning = is_text(block.get("thinking")) or is_text(block.get("data"))
        reading.reasoned = reading.reasoned or reasoning
        return reasoning
    answer = (
        is_text(block.get("text")) if kind == "text" else str(kind).endswith("tool_use") and is_text(block.get("name"))
    )
    reading.answered = reading.answered or answer
    return answer


def _read_message(message: dict[str, Any], reading: Reading, *, output: bool) -> None:
    read_head(message, reading)
    usage = message.get("usage")
    if type(usage) is dict:
        if not output:
            usage = {name: value for name, value in usage.items() if not name.startswith("output_tokens")}
        _read_usage(usage, reading)
        reading.service_tier = reading.service_tier or plain_word(usage.get("service_tier"))


def _read_stop(part: object, reading: Reading) -> None:
    word = plain_word(part.get("stop_reason")) if type(part) is dict else None
    if word is not None:
        reading.finish_reasons[0] = word
        reading.open_choices.discard(0)


def _read_usage(usage: object, reading: Reading) -> None:
    """Cumulative counts: what a later event leaves out or has as zero stays."""
    if type(usage) is not dict:
        return
    before = reading.usage or Usage()
    read, written = before.cached_input_tokens, before.cache_creation_input_tokens
    fresh = None if before.input_tokens is None else before.input_tokens - (read or 0) - (written or 0)
    details = usage.get("output_tokens_details")
    fresh = _larger(fresh, usage.get("input_tokens"))
    read = _larger(read, usage.get("cache_read_input_tokens"))
    written = _larger(written, usage.get("cache_creation_input_tokens"))
    output = _larger(before.output_tokens, usage.get("output_tokens"))
    thinking = _larger(before.reasoning_tokens, details.get("thinking_tokens") if type(details) is dict else None)
    parts = [part for part in (fresh, read, written) if part is not None]
    if any(parts) or output:
        reading.usage = Usage(sum(parts) if parts else None, read, written, output, thinking)


def _larger(before: int | None, value: object) -> int | None:
    now = token_count(value)
    return before if now is None else max(now, before or 0)
