"""The endpoints of the simulated provider that generate: how each reads its requests, spells its answers, and refuses.

Layer: lab; pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from proxy.lab.answers import Answer, Spelling
from proxy.lab.chat_request import ChatRequest, RefusedError
from proxy.lab.other_requests import chat_of_completion, chat_of_message, chat_of_response
from proxy.lab.spell_completions import CompletionSpelling
from proxy.lab.spell_messages import MessageSpelling, message_error
from proxy.lab.spell_responses import ResponseSpelling

__all__ = ["CHAT", "ENDPOINTS", "AnySpelling", "Endpoint"]


class AnySpelling(Protocol):
    """The JSON of one answer in one dialect. Token n of a stream is in `step_events(n)`, the end in those after the last."""

    @property
    def answers(self) -> tuple[Answer, ...]:
        """Every choice."""
        ...  # pragma: no cover

    def first_event(self) -> bytes:
        """What comes before the first token."""
        ...  # pragma: no cover

    def step_events(self, position: int) -> bytes:
        """Token `position` of every choice."""
        ...  # pragma: no cover

    def last_events(self) -> bytes:
        """What comes after the end of every choice."""
        ...  # pragma: no cover

    def body(self) -> bytes:
        """The answer that is not streamed."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint that generates."""

    path: str
    id_prefix: str
    """Of the answers' ids."""
    chat: Callable[[dict[str, Any]], dict[str, Any]]
    """The chat request that asks for the same."""
    spelling: Callable[[str, int, ChatRequest, tuple[Answer, ...]], AnySpelling]
    """Makes the JSON of an answer from its id, its time in Unix seconds, the request and the choices."""
    error: Callable[[RefusedError], Any]
    """The body of a refusal."""
    error_event: Callable[[RefusedError], Any]
    """The data of an error inside a stream."""
    error_event_name: bytes = b""

    def error_body(self, refused: RefusedError) -> bytes:
        """A refusal in this endpoint's envelope."""
        return orjson.dumps(self.error(refused))

    def error_in_stream(self, refused: RefusedError) -> bytes:
        """An error event."""
        name = b"event: " + self.error_event_name + b"\n" if self.error_event_name else b""
        return name + b"data: " + orjson.dumps(self.error_event(refused)) + b"\n\n"


def _openai_error(refused: RefusedError) -> Any:
    return orjson.loads(refused.body)


def _response_error(refused: RefusedError) -> dict[str, Any]:
    error = _openai_error(refused)["error"]
    code = error["code"] or error["type"]
    return {"type": "error", "sequence_number": 0, "code": code, "message": error["message"], "param": error["param"]}


def _same(data: dict[str, Any]) -> dict[str, Any]:
    return data


CHAT = Endpoint("/v1/chat/completions", "chatcmpl", _same, Spelling, _openai_error, _openai_error)
ENDPOINTS = (
    CHAT,
    Endpoint("/v1/completions", "cmpl", chat_of_completion, CompletionSpelling, _openai_error, _openai_error),
    Endpoint("/v1/responses", "resp", chat_of_response, ResponseSpelling, _openai_error, _response_error, b"error"),
    Endpoint("/v1/messages", "msg", chat_of_message, MessageSpelling, message_error, message_error, b"error"),
)
"""Every endpoint that generates."""
