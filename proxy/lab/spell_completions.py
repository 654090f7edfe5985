"""Spells what the simulated provider answers as completions.

Layer: lab; pure: no I/O, no clock. Every token is a text: there is neither reasoning nor a call of a tool.

Source: the OpenAI API description: CreateCompletionResponse.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from proxy.lab.answers import Answer, word
from proxy.lab.chat_request import ChatRequest

__all__ = ["CompletionSpelling"]


@dataclass(frozen=True, slots=True)
class CompletionSpelling:
    """The JSON of one answer: what all its chunks share."""

    id: str
    created_unix_s: int
    request: ChatRequest
    answers: tuple[Answer, ...]

    def first_event(self) -> bytes:
        """Nothing comes before the first token."""
        return b""

    def step_events(self, position: int) -> bytes:
        """Token `position` of every choice that has one, and the end of those whose last token was the one before."""
        events = []
        for index, answer in enumerate(self.answers):
            if position < answer.tokens:
                events.append(self._event([_choice(index, word(position), None)]))
            elif position == answer.tokens:
                events.append(self._event([_choice(index, "", _finish_reason(answer))]))
        return b"".join(events)

    def last_events(self) -> bytes:
        """The extra usage chunk where it was asked for, and the end mark."""
        usage = self._event([], self._usage()) if self.request.include_usage else b""
        return usage + b"data: [DONE]\n\n"

    def body(self) -> bytes:
        """The answer that is not streamed."""
        choices = [
            _choice(index, "".join(word(position) for position in range(answer.tokens)), _finish_reason(answer))
            for index, answer in enumerate(self.answers)
        ]
        return orjson.dumps(self._head() | {"choices": choices, "usage": self._usage()})

    def _usage(self) -> dict[str, int]:
        output = sum(answer.tokens for answer in self.answers)
        given = self.request.input_tokens
        return {"prompt_tokens": given, "completion_tokens": output, "total_tokens": given + output}

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created_unix_s,
            "model": self.request.model.name,
            "system_fingerprint": "simulated",
        }

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        chunk = self._head() | {"choices": choices}
        if self.request.include_usage:
            chunk["usage"] = usage
        return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}


def _finish_reason(answer: Answer) -> str:
    return "length" if answer.cut else "stop"
