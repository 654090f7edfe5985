"""What every dialect does with an answer: parse an event or a body, find its head, its error and its counts.

Layer: wire (sans-io). No function here raises on any value.

Source: OpenAI API reference, `CompletionUsage`, `ResponseUsage`, `ErrorResponse`; DeepSeek `prompt_cache_hit_tokens`.
"""

from typing import Any

import orjson

from proxy.record import Usage
from proxy.wire.dialects.base import Reading, error_identifier, parse_json, plain_name, plain_word, whole_number
from proxy.wire.sse import Event

__all__ = [
    "is_text",
    "openai_usage",
    "parsed_body",
    "parsed_event",
    "read_error",
    "read_head",
    "text_of",
    "token_count",
]


def parsed_event(event: Event, reading: Reading) -> dict[str, Any] | None:
    """The object in an event; None for any other. `[DONE]` ends the reading, an error event without an object is an error."""
    name, data = event
    if data == b"[DONE]":
        reading.done = True
        return None
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        chunk = _second_reading(data, reading)
    if type(chunk) is dict:
        return chunk
    if name == b"error" and reading.error_type is None:
        reading.error_type = error_identifier()
    return None


def parsed_body(body: bytes, reading: Reading) -> dict[str, Any] | None:
    """The object that a whole answer is; None, and `degraded`, for any other."""
    try:
        answer = parse_json(body)
    except ValueError:
        reading.degraded = reading.degraded or "invalid_json"
        return None
    if type(answer) is dict:
        return answer
    reading.degraded = reading.degraded or "not_object"
    return None


def _second_reading(data: bytes, reading: Reading) -> Any:
    """Parse what orjson refused; an event that nobody can parse sets `degraded`, an empty one or a spaced `[DONE]` does not."""
    text = data.strip()
    if text == b"[DONE]":
        reading.done = True
        return None
    try:
        return parse_json(data) if text else None
    except ValueError:
        reading.degraded = reading.degraded or "invalid_event"
        return None


def read_head(chunk: dict[str, Any], reading: Reading) -> None:
    """Note who answered; what is known already stays."""
    if reading.response_id is None:
        reading.response_id = plain_name(chunk.get("id"))
    if reading.response_model is None:
        reading.response_model = plain_name(chunk.get("model"))
    if reading.service_tier is None:
        reading.service_tier = plain_word(chunk.get("service_tier"))
    if reading.system_fingerprint is None:
        reading.system_fingerprint = plain_name(chunk.get("system_fingerprint"))


def read_error(chunk: dict[str, Any], reading: Reading) -> None:
    """Note the error in `chunk["error"]`, or that `chunk` itself is; the first one stays."""
    if reading.error_type is None:
        error = chunk.get("error")
        if type(error) is not dict:
            error = chunk
        code, kind = error.get("code"), error.get("type")
        reading.error_type = error_identifier(
            code, None if kind == "error" else kind, str(code) if type(code) is int else None
        )


def openai_usage(usage: object, input_name: str, output_name: str) -> Usage | None:
    """Token counts of a usage object; None for none, and for the zeros that some servers send before they have counted."""
    if type(usage) is not dict:
        return None
    get = usage.get
    input_tokens, output_tokens = token_count(get(input_name)), token_count(get(output_name))
    if not input_tokens and not output_tokens:
        return None
    cached = written = reasoning = None
    if type(details := get(input_name + "_details")) is dict:
        cached, written = token_count(details.get("cached_tokens")), token_count(details.get("cache_write_tokens"))
    if type(details := get(output_name + "_details")) is dict:
        reasoning = token_count(details.get("reasoning_tokens"))
    if cached is None:
        cached = token_count(get("prompt_cache_hit_tokens"))
    if reasoning is None:
        reasoning = token_count(get("reasoning_tokens"))
    return Usage(input_tokens, cached, written, output_tokens, reasoning)


def token_count(value: object) -> int | None:
    """A count; None for what is none."""
    number = whole_number(value)
    return number if number is not None and 0 <= number < 1 << 53 else None


def text_of(value: object, names: tuple[str, ...], depth: int = 4) -> str:
    """All text in a value: itself, or what the objects in it hold under these names; not what is nested deeper than any answer is."""
    if type(value) is str:
        return value
    if depth == 0:
        return ""
    if type(value) is list:
        return "".join([text_of(item, names, depth - 1) for item in value])
    if type(value) is dict:
        return "".join([text_of(value[name], names, depth - 1) for name in names if name in value])
    return ""


def is_text(value: object) -> bool:
    """True for a text that says something."""
    return type(value) is str and value != ""
