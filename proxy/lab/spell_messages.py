"""Spells what the simulated provider answers as Anthropic's messages.

Layer: lab; pure: no I/O, no clock.

Source: the Anthropic API reference: "Create a Message", "Streaming Messages", "Errors".
"""

from dataclasses import dataclass
from typing import Any

import orjson

from proxy.lab.answers import Answer
from proxy.lab.chat_request import ChatRequest, RefusedError

__all__ = ["MessageSpelling", "message_error"]

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "overloaded_error"}


@dataclass(frozen=True, slots=True)
class MessageSpelling:
    """The JSON of one answer."""

    id: str
    created_unix_s: int
    request: ChatRequest
    answers: tuple[Answer, ...]

    def first_event(self) -> bytes:
        """The start of the message and a ping: no token yet."""
        message = self._message([], None) | {"usage": self._usage(1)}
        return _event("message_start", message=message) + _event("ping")

    def step_events(self, position: int) -> bytes:
        """Token `position`, with the start of its block; after the last token the reason and the usage."""
        answer = self._answer
        if position == answer.tokens:
            usage = {"output_tokens": answer.tokens}
            stop = {"stop_reason": _STOP_REASONS[answer.finish_reason], "stop_sequence": None}
            return self._block_stop(position - 1) + _event("message_delta", delta=stop, usage=usage)
        events = b""
        if position in {0, answer.reasoning_tokens}:
            events = self._block_stop(position - 1) if position else b""
            events += _event("content_block_start", index=self._index(position), content_block=self._block(position))
        delta = _delta(answer, position)
        return (
            events
            if delta is None
            else events + _event("content_block_delta", index=self._index(position), delta=delta)
        )

    def last_events(self) -> bytes:
        """The end mark."""
        return _event("message_stop")

    def body(self) -> bytes:
        """The answer that is not streamed."""
        answer = self._answer
        message = answer.message()
        content: list[dict[str, Any]] = []
        if answer.reasoning_tokens:
            content.append({"type": "thinking", "thinking": message["reasoning_content"], "signature": "simulated"})
        if answer.answer_tokens and answer.tool is None:
            content.append({"type": "text", "text": message["content"]})
        for call in message.get("tool_calls", ()):
            function = call["function"]
            try:
                given = orjson.loads(function["arguments"])
            except orjson.JSONDecodeError:  # it was cut
                given = {}
            content.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": given})
        stop_reason = _STOP_REASONS[answer.finish_reason]
        return orjson.dumps(self._message(content, stop_reason) | {"usage": self._usage(answer.tokens)})

    @property
    def _answer(self) -> Answer:
        return self.answers[0]

    def _index(self, position: int) -> int:
        return int(0 < self._answer.reasoning_tokens <= position)

    def _block(self, position: int) -> dict[str, Any]:
        answer = self._answer
        if position < answer.reasoning_tokens:
            return {"type": "thinking", "thinking": "", "signature": ""}
        if answer.tool is None:
            return {"type": "text", "text": ""}
        return {"type": "tool_use", "id": "toolu_simulated", "name": answer.tool, "input": {}}

    def _block_stop(self, position: int) -> bytes:
        return _event("content_block_stop", index=self._index(position))

    def _message(self, content: list[dict[str, Any]], stop_reason: str | None) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.request.model.name,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
        }

    def _usage(self, output_tokens: int) -> dict[str, int]:
        return {
            "input_tokens": self.request.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
        }


def message_error(refused: RefusedError) -> dict[str, Any]:
    """Anthropic's error envelope."""
    kind = _ERROR_TYPES.get(refused.status, "invalid_request_error" if refused.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(refused)}}


def _delta(answer: Answer, position: int) -> dict[str, Any] | None:
    """A token as a delta; None for a tool's name, which the start of its block carries."""
    delta = answer.delta(position)
    if "reasoning_content" in delta:
        return {"type": "thinking_delta", "thinking": delta["reasoning_content"]}
    if "content" in delta:
        return {"type": "text_delta", "text": delta["content"]}
    arguments = delta["tool_calls"][0]["function"]["arguments"]
    return {"type": "input_json_delta", "partial_json": arguments} if arguments else None


def _event(kind: str, **members: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind} | members))
