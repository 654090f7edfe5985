"""Chat completions: `POST …/chat/completions`, streamed and not, as OpenAI and compatible servers speak it.

Layer: wire (sans-io). A generated token is text, reasoning, a tool call's name or arguments, a refusal, audio; or only its log probability or
id when the server withholds the text. A role, an empty text, usage, filter results and comments are none.

Source: OpenAI API reference "Chat"; vLLM, SGLang and DeepSeek `reasoning_content`; OpenRouter `reasoning`, `reasoning_details` and errors inside
a stream; Groq `x_groq`; Azure `prompt_filter_results`; Mistral content parts.
"""

import re
from typing import Any

import orjson

from proxy.record import Action, Decision, RequestFacts, Usage
from proxy.wire.dialects.base import (
    MAX_INTEGER,
    UNREADABLE,
    Reading,
    clamped,
    error_identifier,
    openai_error_body,
    parse_json,
    whole_number,
)
from proxy.wire.json_edit import Found, find_values, insert_member, replace
from proxy.wire.sse import Event

__all__ = ["ChatCompletions"]

_MAX_CHOICES = 1024
"""More choice indexes than this in one answer are not followed; the API allows 128."""

_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
_NUMBER_MEMBER = re.compile(rb'"[ \t\r\n]*:[ \t\r\n]*(-?[0-9.eE+-]+)')
"""Rest of a member after its name, when the value is a number."""
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_CHOICES_KEY = b'"choices"'
_WITH_CHOICES = (b":[{", b": [{")
_OF_VALUE = ("prompt_filter_results", "prompt_annotations", "content_filter_results", "moderation", "error")
"""Payloads that may ride on an event without choices; such an event is never an extra one."""


class ChatCompletions:
    """The chat completions dialect."""

    __slots__ = ()

    name = "chat_completions"
    operation = "chat"
    suffix = b"/chat/completions"
    route = "/v1/chat/completions"
    limit_fields = ("max_completion_tokens", "max_tokens")

    def read_request(self, body: bytes) -> RequestFacts:
        """Facts of a request body.

        `degraded` is `not_utf8`, `invalid_json` or `not_object` when nothing could be read, `limit_type` when a limit is no whole number from
        0 up, `limit_twice` when a limit field occurs more than once (then the largest counts).
        """
        try:
            if b"\0" in body[:4]:  # UTF-16 or UTF-32, which JSON forbids between systems and some servers read
                return RequestFacts(self.name, degraded="not_utf8", choices=None)
            request = parse_json(body)
        except UnicodeDecodeError:
            return RequestFacts(self.name, degraded="not_utf8", choices=None)
        except ValueError:
            return RequestFacts(self.name, degraded="invalid_json", choices=None)
        if type(request) is not dict:
            return RequestFacts(self.name, degraded="not_object", choices=None)
        limits, degraded = self._limits(body, request)
        get = request.get
        return RequestFacts(
            dialect=self.name,
            model=clamped(get("model")),
            stream=get("stream") is True,
            limits=limits,
            choices=_choices(get("n")),
            include_usage=_include_usage(get("stream_options")),
            degraded=degraded,
            temperature=_number(get("temperature")),
            top_p=_number(get("top_p")),
            frequency_penalty=_number(get("frequency_penalty")),
            presence_penalty=_number(get("presence_penalty")),
            seed=_seed(get("seed")),
            service_tier=clamped(get("service_tier")),
            output_type=_output_type(get("response_format")),
        )

    def _limits(self, body: bytes, request: dict[str, Any]) -> tuple[tuple[tuple[str, int], ...], str | None]:
        """Limits in force and what is wrong with them. The body's bytes are searched only when a name could be there twice."""
        sent: list[tuple[str, Any]] = [(name, request[name]) for name in self.limit_fields if name in request]
        degraded = None
        if not all(_is_spelled_once(body, name) for name, _ in sent):
            spans = find_values(body, self.limit_fields)
            if len(spans) > len(sent):
                degraded = "limit_twice"
                sent = [
                    (name, _scalar(body[found.start : found.end]))
                    for name in self.limit_fields
                    for found in spans
                    if found.key == name
                ]
        limits: dict[str, int] = {}
        for name, value in sent:
            if value is None:
                continue
            tokens = whole_number(value)
            if tokens is None or tokens < 0:
                degraded = degraded or "limit_type"
            else:
                limits[name] = max(min(tokens, MAX_INTEGER), limits.get(name, 0))
        return tuple(limits.items()), degraded

    def rewrite(
        self, body: bytes, facts: RequestFacts, decision: Decision, *, ask_usage: bool, insert_field: str
    ) -> bytes:
        """Body as the upstream gets it; the same object when nothing is to be changed.

        A cap lowers every occurrence of every limit field above it. A limit is inserted as `insert_field` (else as `decision.limit_field`),
        in the place of a null one. A cap is inserted too when `decision.limit_field` names a limit field that the client did not send.
        """
        cap = decision.forwarded_max_tokens
        if cap is not None and decision.action in {Action.CAPPED, Action.INSERTED}:
            body = self._with_limit(body, facts, decision, cap, insert_field)
        return _with_usage(body) if ask_usage and self.may_ask_usage(facts) else body

    def _with_limit(self, body: bytes, facts: RequestFacts, decision: Decision, cap: int, insert_field: str) -> bytes:
        digits = b"%d" % cap
        spans = self._limit_spans(body, facts)
        edits: list[tuple[int, int, bytes]] = []
        for found in spans:
            value = _scalar(body[found.start : found.end])
            if type(value) in {int, float} and not value <= cap:
                edits.append((found.start, found.end, digits))
        field = decision.limit_field
        if decision.action is Action.INSERTED:
            field = insert_field or field
        if field is None or field not in self.limit_fields:
            return replace(body, edits)
        same = [found for found in spans if found.key == field]
        edits += [(found.start, found.end, digits) for found in same if body[found.start : found.end] == b"null"]
        body = replace(body, edits)
        return body if same else insert_member(body, b'"%b":%b' % (field.encode(), digits))

    def _limit_spans(self, body: bytes, facts: RequestFacts) -> list[Found]:
        """Where the limits stand. A name that is known to be a member and is spelled once can only stand there."""
        sent = dict(facts.limits)
        found: list[Found] = []
        for name in self.limit_fields:
            if name in sent and _is_spelled_once(body, name):
                value = _NUMBER_MEMBER.match(body, body.find(b'"%b"' % name.encode()) + len(name) + 1)
                if value is not None:
                    found.append(Found(name, *value.span(1)))
                    continue
            elif name.encode() not in body and b"\\u00" not in body:
                continue
            return find_values(body, self.limit_fields)
        return found

    def may_ask_usage(self, facts: RequestFacts) -> bool:
        """True for a readable request for a stream whose client did not say whether it wants usage."""
        return facts.stream and facts.include_usage is None and facts.degraded not in UNREADABLE

    def is_extra_usage(self, data: bytes) -> bool:
        """True for an event with no choices, a usage object and nothing else of value."""
        at = data.find(_CHOICES_KEY) + len(_CHOICES_KEY)
        if data.startswith(_WITH_CHOICES, at) or _NO_CHOICES.search(data) is None:
            return False
        try:
            chunk = parse_json(data)
        except ValueError:
            return False
        return (
            type(chunk) is dict
            and chunk.get("choices") == []
            and type(chunk.get("usage")) is dict
            and not any(chunk.get(name) for name in _OF_VALUE)
        )

    def read_event(self, event: Event, reading: Reading) -> bool:
        """Read one chunk; True when it carried generated tokens of any choice."""
        name, data = event
        if data == b"[DONE]":
            reading.done = True
            return False
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            chunk = _second_reading(data, reading)
        if type(chunk) is not dict:
            if name == b"error" and reading.error_type is None:
                reading.error_type = error_identifier()
            return False
        if reading.response_id is None or reading.response_model is None:
            _read_head(chunk, reading)
        if (usage := chunk.get("usage")) is not None:
            _read_usage(usage, reading)
            _read_head(chunk, reading)
        if "x_groq" in chunk:
            _read_x_groq(chunk["x_groq"], reading)
        if name == b"error" or chunk.get("error"):
            _read_error(chunk, reading)
        choices = chunk.get("choices")
        if type(choices) is not list:
            return False
        generated = False
        for choice in choices:
            if type(choice) is not dict:
                continue
            index = choice.get("index")
            if type(index) is not int or index not in reading.open_choices:
                index = _open(index, reading)
            if choice.get("finish_reason"):
                _finish(index, choice, reading)
                _read_head(chunk, reading)
            delta = choice.get("delta")
            if type(delta) is dict:
                if len(delta) == 1 and type(content := delta.get("content")) is str and content:
                    generated = reading.answered = True
                    continue
                if _read_delta(delta, reading):
                    generated = True
                    continue
            if _is_text(choice.get("text")):
                generated = reading.answered = True
            elif not generated and (_has_withheld(choice) or (type(delta) is dict and _has_withheld(delta))):
                generated = True
        return generated

    def read_body(self, body: bytes, reading: Reading) -> None:
        """Read a whole answer: identity, usage, finish reasons, or its error."""
        try:
            answer = parse_json(body)
        except ValueError:
            reading.degraded = reading.degraded or "invalid_json"
            return
        if type(answer) is not dict:
            reading.degraded = reading.degraded or "not_object"
            return
        _read_head(answer, reading)
        _read_usage(answer.get("usage"), reading)
        _read_x_groq(answer.get("x_groq"), reading)
        if answer.get("error"):
            _read_error(answer, reading)
        choices = answer.get("choices")
        for position, choice in enumerate(choices[:_MAX_CHOICES] if type(choices) is list else ()):
            if type(choice) is dict:
                index = choice.get("index")
                _finish(_open(position if index is None else index, reading), choice, reading)

    def error_body(self, status: int, envelope_type: str, error_type: str, message: str) -> bytes:
        """OpenAI's error envelope."""
        return openai_error_body(envelope_type, error_type, message)


# -- requests ---------------------------------------------------------------------------------------------------------------


def _number(value: object) -> float | None:
    return float(value) if type(value) in {int, float} and abs(value) < 1e18 else None  # type: ignore[arg-type]


def _choices(value: object) -> int | None:
    if value is None:
        return 1
    number = whole_number(value)
    return min(number, MAX_INTEGER) if number is not None and number >= 1 else None


def _seed(value: object) -> int | None:
    number = whole_number(value)
    return number if number is not None and abs(number) <= MAX_INTEGER else None


def _include_usage(options: object) -> bool | None:
    """What the client said; a value of the wrong type is a "no" that stays as it is for the upstream to refuse."""
    if options is None:
        return None
    if type(options) is not dict:
        return False
    value = options.get("include_usage")
    return value if value is None or type(value) is bool else False


def _output_type(value: object) -> str | None:
    kind = value.get("type") if type(value) is dict else None
    return {"text": "text", "json_object": "json", "json_schema": "json"}.get(kind) if type(kind) is str else None


def _scalar(text: bytes) -> Any:
    """Parsed value of a member; True, which is no limit, for what cannot be parsed."""
    try:
        return parse_json(text)
    except ValueError:
        return True


def _is_spelled_once(body: bytes, name: str) -> bool:
    """True when a member name occurs once, nested ones included, and no escape could spell it another way."""
    return body.count(b'"%b"' % name.encode()) == 1 and (b"\\u00" not in body or _ESCAPED_ASCII.search(body) is None)


def _with_usage(body: bytes) -> bytes:
    if b"stream_options" not in body and b"\\u00" not in body:
        return insert_member(body, b'"stream_options":{"include_usage":true}')
    spans = find_values(body, {"stream_options"})
    if not spans:
        return insert_member(body, b'"stream_options":{"include_usage":true}')
    edits: list[tuple[int, int, bytes]] = []
    for found in spans:
        options = body[found.start : found.end]
        if options == b"null":
            edits.append((found.start, found.end, b'{"include_usage":true}'))
            continue
        said = find_values(options, {"include_usage"})
        merged = replace(options, [(item.start, item.end, b"true") for item in said])
        if not said:
            merged = insert_member(options, b'"include_usage":true')
        edits.append((found.start, found.end, merged))
    return replace(body, edits)


# -- responses --------------------------------------------------------------------------------------------------------------


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


def _read_head(chunk: dict[str, Any], reading: Reading) -> None:
    if reading.response_id is None:
        reading.response_id = clamped(chunk.get("id"))
    if reading.response_model is None:
        reading.response_model = clamped(chunk.get("model"))
    if reading.service_tier is None:
        reading.service_tier = clamped(chunk.get("service_tier"))
    if reading.system_fingerprint is None:
        reading.system_fingerprint = clamped(chunk.get("system_fingerprint"))


def _read_usage(usage: object, reading: Reading) -> None:
    if (read := _usage(usage)) is not None:
        reading.usage = read


def _usage(usage: object) -> Usage | None:
    """Token counts of a usage object; None for none, and for the zeros that some servers send before they have counted."""
    if type(usage) is not dict:
        return None
    get = usage.get
    input_tokens, output_tokens = _tokens(get("prompt_tokens")), _tokens(get("completion_tokens"))
    if not input_tokens and not output_tokens:
        return None
    cached = written = reasoning = None
    if type(details := get("prompt_tokens_details")) is dict:
        cached, written = _tokens(details.get("cached_tokens")), _tokens(details.get("cache_write_tokens"))
    if type(details := get("completion_tokens_details")) is dict:
        reasoning = _tokens(details.get("reasoning_tokens"))
    if cached is None:
        cached = _tokens(get("prompt_cache_hit_tokens"))
    if reasoning is None:
        reasoning = _tokens(get("reasoning_tokens"))
    return Usage(input_tokens, cached, written, output_tokens, reasoning)


def _tokens(value: object) -> int | None:
    number = whole_number(value)
    return number if number is not None and 0 <= number < 1 << 53 else None


def _read_x_groq(extra: object, reading: Reading) -> None:
    if type(extra) is not dict:
        return
    if (usage := _usage(extra.get("usage"))) is not None:
        reading.fallback_usage = usage
    if extra.get("error") and reading.error_type is None:
        reading.error_type = error_identifier()


def _read_error(chunk: dict[str, Any], reading: Reading) -> None:
    if reading.error_type is None:
        error = chunk.get("error")
        if type(error) is not dict:
            error = chunk
        code, kind = error.get("code"), error.get("type")
        reading.error_type = error_identifier(
            code, None if kind == "error" else kind, str(code) if type(code) is int else None
        )


def _open(index: object, reading: Reading) -> int:
    """Note a choice that has not ended; its index, 0 when it has none."""
    number = index if type(index) is int else 0
    if number not in reading.finish_reasons and len(reading.open_choices) < _MAX_CHOICES:
        reading.open_choices.add(number)
    return number


def _finish(index: int, choice: dict[str, Any], reading: Reading) -> None:
    word = clamped(choice.get("finish_reason"))
    if word is None or (index not in reading.finish_reasons and len(reading.finish_reasons) >= _MAX_CHOICES):
        return
    reading.finish_reasons[index] = word
    reading.open_choices.discard(index)
    if word == "error":
        _read_error(choice, reading)


def _read_delta(delta: dict[str, Any], reading: Reading) -> bool:
    """True when a delta carries more than a text: the rarer kinds of token."""
    get = delta.get
    content = get("content")
    reasoning = _is_text(get("reasoning_content")) or _is_text(get("reasoning"))
    reasoning = reasoning or _is_filled(get("reasoning_details"), ("text", "summary", "data"))
    answer = bool(content) and type(content) is str
    if type(content) is list:
        for part in content:
            if type(part) is dict and part.get("type") == "thinking":
                reasoning = reasoning or bool(part.get("thinking"))
            else:
                answer = answer or bool(part)
    answer = (
        answer
        or _is_text(get("refusal"))
        or _is_call(get("tool_calls"))
        or _is_filled([get("function_call")], ("name", "arguments"))
        or _is_filled([get("audio")], ("data", "transcript"))
    )
    if reasoning:
        reading.reasoned = True
    if answer:
        reading.answered = True
    return reasoning or answer


def _is_text(value: object) -> bool:
    return type(value) is str and value != ""


def _is_filled(items: object, names: tuple[str, ...]) -> bool:
    """True when any object of a list has a text under any of these names."""
    if type(items) is not list:
        return False
    return any(type(item) is dict and any(_is_text(item.get(name)) for name in names) for item in items)


def _is_call(calls: object) -> bool:
    if type(calls) is not list:
        return False
    functions = [call.get("function") or call.get("custom") for call in calls if type(call) is dict]
    return _is_filled(functions, ("name", "arguments", "input"))


def _has_withheld(part: dict[str, Any]) -> bool:
    """True when a token was produced whose text the server keeps back: only its id or its log probability came."""
    if part.get("token_ids"):
        return True
    logprobs = part.get("logprobs")
    return type(logprobs) is dict and any(type(value) is list and value != [] for value in logprobs.values())
