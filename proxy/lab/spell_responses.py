"""Spells what the simulated provider answers as OpenAI's responses.

Layer: lab; pure: no I/O, no clock.

Source: the OpenAI API description: Response, ResponseStreamEvent.
"""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson

from proxy.lab.answers import Answer
from proxy.lab.chat_request import ChatRequest

__all__ = ["ResponseSpelling"]


@dataclass(frozen=True, slots=True)
class ResponseSpelling:
    """The JSON of one answer."""

    id: str
    created_unix_s: int
    request: ChatRequest
    answers: tuple[Answer, ...]
    _numbers: "count[int]" = field(default_factory=count)
    """Of the events of a stream."""

    def first_event(self) -> bytes:
        """The response without any output: no token yet."""
        response = self._response("in_progress", [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def step_events(self, position: int) -> bytes:
        """Token `position`, with the start of its item; after the last token the end of the item."""
        answer = self._answer
        if position == answer.tokens:
            return self._item_end(position - 1)
        events = b""
        if position in {0, answer.reasoning_tokens}:
            events = (self._item_end(position - 1) if position else b"") + self._item_start(position)
        delta = answer.delta(position)
        if "reasoning_content" in delta:
            kind, text = "response.reasoning_summary_text.delta", delta["reasoning_content"]
        elif "content" in delta:
            kind, text = "response.output_text.delta", delta["content"]
        else:
            kind, text = "response.function_call_arguments.delta", delta["tool_calls"][0]["function"]["arguments"]
        # A call's name is a token too; the start of its item carries it.
        return events + (self._event(kind, **self._place(position), delta=text) if text else b"")

    def last_events(self) -> bytes:
        """The whole response."""
        response = self._whole()
        return self._event(f"response.{response['status']}", response=response)

    def body(self) -> bytes:
        """The answer that is not streamed."""
        return orjson.dumps(self._whole())

    @property
    def _answer(self) -> Answer:
        return self.answers[0]

    def _whole(self) -> dict[str, Any]:
        answer = self._answer
        output = [self._item(0)]
        if answer.reasoning_tokens and answer.answer_tokens:
            output.append(self._item(answer.reasoning_tokens))
        return self._response("incomplete" if answer.cut else "completed", output) | {
            "incomplete_details": {"reason": "max_output_tokens"} if answer.cut else None,
            "usage": {
                "input_tokens": self.request.input_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": answer.tokens,
                "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
                "total_tokens": self.request.input_tokens + answer.tokens,
            },
        }

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_unix_s,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": self.request.max_tokens,
            "model": self.request.model.name,
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "metadata": {},
            "usage": None,
        }

    def _kind(self, position: int) -> str:
        """What kind of item token `position` belongs to."""
        answer = self._answer
        if position < answer.reasoning_tokens:
            return "reasoning"
        return "message" if answer.tool is None else "function_call"

    def _item(self, position: int) -> dict[str, Any]:
        """The whole item to which token `position` belongs."""
        message, kind = self._answer.message(), self._kind(position)
        item: dict[str, Any] = {"id": f"{kind}_simulated", "type": kind, "status": "completed"}
        if kind == "reasoning":
            return item | {"summary": [{"type": "summary_text", "text": message["reasoning_content"]}]}
        if kind == "message":
            return item | {"role": "assistant", "content": [_text(message["content"])]}
        function = message["tool_calls"][0]["function"]
        return item | {"call_id": "call_simulated", "name": function["name"], "arguments": function["arguments"]}

    def _place(self, position: int) -> dict[str, Any]:
        """Where token `position` belongs, as its events say it."""
        kind = self._kind(position)
        place: dict[str, Any] = {
            "item_id": f"{kind}_simulated",
            "output_index": int(0 < self._answer.reasoning_tokens <= position),
        }
        part: dict[str, dict[str, Any]] = {
            "reasoning": {"summary_index": 0},
            "message": {"content_index": 0, "logprobs": []},
        }
        return place | part.get(kind, {})

    def _item_start(self, position: int) -> bytes:
        kind, place = self._kind(position), self._place(position)
        empty: dict[str, dict[str, Any]] = {
            "reasoning": {"summary": []},
            "message": {"content": []},
            "function_call": {"arguments": ""},
        }
        item = self._item(position) | empty[kind] | {"status": "in_progress"}
        events = self._event("response.output_item.added", output_index=place["output_index"], item=item)
        if kind == "reasoning":
            part = {"type": "summary_text", "text": ""}
            events += self._event("response.reasoning_summary_part.added", **place, part=part)
        elif kind == "message":
            events += self._event("response.content_part.added", **_without_logprobs(place), part=_text(""))
        return events

    def _item_end(self, position: int) -> bytes:
        kind, place, item = self._kind(position), self._place(position), self._item(position)
        if kind == "reasoning":
            part = item["summary"][0]
            events = self._event("response.reasoning_summary_text.done", **place, text=part["text"])
            events += self._event("response.reasoning_summary_part.done", **place, part=part)
        elif kind == "message":
            part = item["content"][0]
            events = self._event("response.output_text.done", **place, text=part["text"])
            events += self._event("response.content_part.done", **_without_logprobs(place), part=part)
        else:
            done = {"name": item["name"], "arguments": item["arguments"]}
            events = self._event("response.function_call_arguments.done", **place, **done)
        return events + self._event("response.output_item.done", output_index=place["output_index"], item=item)

    def _event(self, kind: str, **members: Any) -> bytes:
        data = orjson.dumps({"type": kind, "sequence_number": next(self._numbers)} | members)
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _without_logprobs(place: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in place.items() if name != "logprobs"}
