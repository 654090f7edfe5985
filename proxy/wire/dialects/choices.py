"""Answers made of choices, as chat completions and completions share them; and asking their streams for usage.

Layer: wire (sans-io). A generated token is text, reasoning, a tool call's name or arguments, a refusal, audio; or only its log probability or
id when the server withholds the text. A role, an empty text, usage, filter results and comments are none.

Usage is asked for by merging into the `stream_options` that are there, so also into an empty object. OpenAI reads `{}` as no, vLLM as yes;
the request does not say which of them answers, so a client of vLLM that relies on `{}` loses the extra event: it must write `true`.

Source: OpenAI API reference "Chat", "Completions"; vLLM, SGLang and DeepSeek `reasoning_content`; OpenRouter `reasoning`, `reasoning_details`
and errors inside a stream; Groq `x_groq`; Azure `prompt_filter_results`, `data_sources`; Mistral content parts.
"""

import re
from collections.abc import Callable
from typing import Any

import orjson

from proxy.record import RequestFacts
from proxy.wire.dialects.alike import alike_to
from proxy.wire.dialects.base import UNREADABLE, Reading, error_identifier, parse_json, plain_word
from proxy.wire.dialects.request_body import count, output_type, parsed_request, request_facts, unreadable
from proxy.wire.dialects.response_body import (
    is_text,
    openai_usage,
    parsed_body,
    parsed_event,
    read_error,
    read_head,
    text_of,
)
from proxy.wire.json_edit import find_values, insert_member, replace
from proxy.wire.sse import Event

__all__ = ["candidates", "is_extra_usage", "may_ask_usage", "read_body", "read_event", "read_request", "with_usage"]

_MAX_CHOICES = 1024
"""More choice indexes than this in one answer are not followed; the API allows 128."""

_INPUT, _OUTPUT = "prompt_tokens", "completion_tokens"
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_CHOICES_KEY = b'"choices"'
_REASONING = ("reasoning_content", "reasoning", "reasoning_details")
"""One text under up to three names: the first that says something is counted."""
_SAYING = ("content", "refusal", "tool_calls", "function_call", "audio")
_SAID = ("thinking", "text", "summary", "function", "custom", "name", "arguments", "input", "transcript")
"""Where the objects in them hold generated text."""
_WITH_CHOICES = (b":[{", b": [{")
_MORE = ("usage", "x_groq", "error")
"""Members of an event that do more than bring a text."""
_OF_VALUE = ("prompt_filter_results", "prompt_annotations", "content_filter_results", "moderation", "error")
"""Payloads that may ride on an event without choices; such an event is never an extra one."""


# -- requests -------------------------------------------------------------------------------------------------------


def read_request(
    dialect: str,
    own: tuple[str, ...],
    body: bytes,
    fields: tuple[str, ...],
    choices_of: Callable[[dict[str, Any]], int | None],
    *,
    multipliers: tuple[str, ...] = (),
) -> RequestFacts:
    """Facts of a request body."""
    request, degraded = parsed_request(body)
    if request is None:
        return unreadable(dialect, degraded)
    return request_facts(
        dialect,
        own,
        body,
        request,
        fields=fields,
        degraded=degraded,
        multipliers=multipliers,
        choices=choices_of(request),
        include_usage=_include_usage(request),
        output_type=output_type(request.get("response_format")),
    )


def candidates(request: dict[str, Any]) -> int | None:
    """Answers that are generated for one prompt, whether or not all are returned; None when that cannot be read."""
    returned, generated = count(request.get("n")), count(request.get("best_of") or None)
    return None if returned is None or generated is None else max(returned, generated)


def _include_usage(request: dict[str, Any]) -> bool | None:
    """What the client said of usage in its stream.

    False also where asking would be refused: options of the wrong type, which stay as they are for the upstream to refuse, and Azure's
    `data_sources`.
    """
    if request.get("data_sources"):
        return False
    options = request.get("stream_options")
    if options is None:
        return None
    if type(options) is not dict:
        return False
    value = options.get("include_usage")
    return value if value is None or type(value) is bool else False


def may_ask_usage(facts: RequestFacts) -> bool:
    """True for a readable request for a stream whose client did not say whether it wants usage."""
    return facts.stream and facts.include_usage is None and facts.degraded not in UNREADABLE


def with_usage(body: bytes) -> bytes:
    """Body that asks for usage, merged into the stream options that are there."""
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


# -- answers ----------------------------------------------------------------------------------------------------------------


def is_extra_usage(data: bytes) -> bool:
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


def read_event(event: Event, reading: Reading) -> bool:
    """Read one chunk; True when it carried generated tokens of any choice."""
    name, data = event
    try:  # spares the usual event a call
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        chunk = None
    if type(chunk) is not dict:
        chunk = parsed_event(event, reading)
        if chunk is None:
            return False
    if reading.response_id is None or reading.response_model is None:
        read_head(chunk, reading)
    if (usage := chunk.get("usage")) is not None:
        _read_usage(usage, reading)
        read_head(chunk, reading)
    if "x_groq" in chunk:
        _read_x_groq(chunk["x_groq"], reading)
    if name == b"error" or chunk.get("error"):
        read_error(chunk, reading)
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
            read_head(chunk, reading)
        delta = choice.get("delta")
        if type(delta) is dict:
            if len(delta) == 1 and type(content := delta.get("content")) is str and content:
                generated = reading.answered = True
                if (texts := reading.texts) is not None:
                    texts[index].append(content)
                if reading.alike_tries and len(choices) == 1:
                    _learn(event, chunk, delta, "content", reading)
                continue
            if _read_delta(delta, reading):
                generated = True
                if reading.texts is not None:
                    reading.keep(_said(delta), index)
                continue
        if is_text(text := choice.get("text")):
            generated = reading.answered = True
            reading.keep(text, index)
            if reading.alike_tries and len(choices) == 1:
                _learn(event, chunk, choice, "text", reading)
        elif not generated and (_has_withheld(choice) or (type(delta) is dict and _has_withheld(delta))):
            generated = True
    return generated


def _learn(event: Event, chunk: dict[str, Any], holder: dict[str, Any], name: str, reading: Reading) -> None:
    """Make an event the usual one, if all that it did was to bring the text that stands in `holder`."""
    choice = chunk["choices"][0]
    if event[0] is not None or choice.get("finish_reason") or any(chunk.get(other) for other in _MORE):
        return
    reading.alike_tries -= 1
    alike, index = alike_to(event[1], chunk, holder, name), _open(choice.get("index"), reading)
    # Of a text with escapes nothing is learnt, and nothing forgotten; a choice that is not followed would have to be opened each time.
    if alike is not None and index in reading.open_choices:
        reading.alike, reading.alike_choice = alike, index


def read_body(body: bytes, reading: Reading) -> None:
    """Read a whole answer: identity, usage, finish reasons, or its error."""
    answer = parsed_body(body, reading)
    if answer is None:
        return
    read_head(answer, reading)
    _read_usage(answer.get("usage"), reading)
    _read_x_groq(answer.get("x_groq"), reading)
    if answer.get("error"):
        read_error(answer, reading)
    choices = answer.get("choices")
    for position, choice in enumerate(choices[:_MAX_CHOICES] if type(choices) is list else ()):
        if type(choice) is dict:
            index = choice.get("index")
            index = _open(position if index is None else index, reading)
            _finish(index, choice, reading)
            if reading.usage is not None and reading.usage.output_tokens is not None:
                continue  # counted by the provider: its text is not needed
            message = choice.get("message")
            reading.keep(_said(message) if type(message) is dict else choice.get("text"), index)


def _read_usage(usage: object, reading: Reading) -> None:
    if (read := openai_usage(usage, _INPUT, _OUTPUT)) is not None:
        reading.usage = read


def _read_x_groq(extra: object, reading: Reading) -> None:
    if type(extra) is not dict:
        return
    if (usage := openai_usage(extra.get("usage"), _INPUT, _OUTPUT)) is not None:
        reading.fallback_usage = usage
    if extra.get("error") and reading.error_type is None:
        reading.error_type = error_identifier()


def _open(index: object, reading: Reading) -> int:
    """Note a choice that has not ended; its index, 0 when it has none."""
    number = index if type(index) is int else 0
    if number not in reading.finish_reasons and len(reading.open_choices) < _MAX_CHOICES:
        reading.open_choices.add(number)
    return number


def _finish(index: int, choice: dict[str, Any], reading: Reading) -> None:
    word = plain_word(choice.get("finish_reason"))
    if word is None or (index not in reading.finish_reasons and len(reading.finish_reasons) >= _MAX_CHOICES):
        return
    reading.finish_reasons[index] = word
    reading.open_choices.discard(index)
    if word == "error":
        read_error(choice, reading)


def _read_delta(delta: dict[str, Any], reading: Reading) -> bool:
    """True when a delta carries more than a text: the rarer kinds of token."""
    get = delta.get
    content = get("content")
    reasoning = is_text(get("reasoning_content")) or is_text(get("reasoning"))
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
        or is_text(get("refusal"))
        or _is_call(get("tool_calls"))
        or _is_filled([get("function_call")], ("name", "arguments"))
        or _is_filled([get("audio")], ("data", "transcript"))
    )
    if reasoning:
        reading.reasoned = True
    if answer:
        reading.answered = True
    return reasoning or answer


def _said(part: dict[str, Any]) -> str:
    """The generated text of a delta or a message."""
    get = part.get
    reasoning = next((said for name in _REASONING if (said := text_of(get(name), _SAID))), "")
    return reasoning + "".join([text_of(value, _SAID) for name in _SAYING if (value := get(name))])


def _is_filled(items: object, names: tuple[str, ...]) -> bool:
    """True when any object of a list has a text under any of these names."""
    if type(items) is not list:
        return False
    return any(type(item) is dict and any(is_text(item.get(name)) for name in names) for item in items)


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
