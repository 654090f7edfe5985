"""What the simulated provider answers: draws the answer to a request, and spells it as OpenAI's JSON.

Layer: lab; pure: no I/O, no clock, no state. `simulator` serves and paces what is drawn here.

Same model, same messages, same seed: same answer, whatever the limit. Only the limit decides whether it is cut.

Source: the OpenAI API description: CreateChatCompletionResponse, CreateChatCompletionStreamResponse.
"""

import math
import random
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.lab.chat_request import MAX_OUTPUT_TOKENS, ChatRequest

__all__ = ["Answer", "Spelling", "draw_answers", "word"]

_WORDS = ("tok ", "tik ", "tak ", "tuk ", "tek ", "tyk ")


def word(position: int) -> str:
    """Token `position` as a text."""
    return _WORDS[position * position % 7 % len(_WORDS)]


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of an answer, as it will come."""

    reasoning_tokens: int
    answer_tokens: int
    cut: bool
    """True when the limit ends it."""
    tool: str | None

    @property
    def tokens(self) -> int:
        """Generated tokens, one event each."""
        return self.reasoning_tokens + self.answer_tokens

    @property
    def finish_reason(self) -> str:
        """Why it ends, in OpenAI's words."""
        if self.cut:
            return "length"
        return "stop" if self.tool is None else "tool_calls"

    def delta(self, position: int) -> dict[str, Any]:
        """Token `position` of this choice, from 0, as a delta of a stream."""
        text = word(position)
        answered = position - self.reasoning_tokens
        if answered < 0:
            return {"reasoning_content": text}
        if self.tool is None:
            return {"content": text}
        call: dict[str, Any] = {"index": 0, "function": {"arguments": self._argument(answered, text)}}
        if answered == 0:
            call |= {"id": "call_simulated", "type": "function", "function": {"name": self.tool, "arguments": ""}}
        return {"tool_calls": [call]}

    def _argument(self, answered: int, text: str) -> str:
        # The whole is JSON, the pieces are not: a call that is cut has broken arguments, as a real one.
        if answered == 1:
            return '{"query":"'
        return '"}' if not self.cut and answered == self.answer_tokens - 1 else text

    def message(self) -> dict[str, Any]:
        """Everything at once, as the message of an answer that is not streamed."""
        deltas = [self.delta(position) for position in range(self.tokens)]
        content = "".join(delta.get("content", "") for delta in deltas)
        message: dict[str, Any] = {"role": "assistant", "content": None if self.tool else content, "refusal": None}
        if self.reasoning_tokens:
            message["reasoning_content"] = "".join(delta.get("reasoning_content", "") for delta in deltas)
        calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
        if calls:
            arguments = "".join(call["function"]["arguments"] for call in calls)
            function = {"name": self.tool, "arguments": arguments}
            message["tool_calls"] = [{"id": calls[0]["id"], "type": "function", "function": function}]
        return message


def draw_answers(request: ChatRequest, *, median_tokens: float, sigma: float, seed: int) -> tuple[Answer, ...]:
    """Draw the natural answer of every choice from the prompt, then cut it at the limit.

    Natural lengths are lognormal around `median_tokens`; a model that reasons draws its reasoning around one and a half times that.
    """
    answers = []
    for choice in range(request.choices):
        source = random.Random(b"%b %d %d" % (request.prompt_digest, seed, choice))  # noqa: S311 -- a simulation
        drawn = _length(source, median_tokens, sigma)
        drawn_reasoning = _length(source, median_tokens * 1.5, sigma) if request.model.reasons else 0
        natural = request.tokens or drawn
        if request.tool is not None:
            natural = max(natural, 3)  # its name, an opening and a closing piece
        reasoning = drawn_reasoning if request.reasoning_tokens is None else request.reasoning_tokens
        allowed = reasoning + natural if request.max_tokens is None else min(reasoning + natural, request.max_tokens)
        answers.append(
            Answer(
                reasoning_tokens=min(reasoning, allowed),
                answer_tokens=max(allowed - reasoning, 0),
                cut=allowed < reasoning + natural,
                tool=request.tool,
            )
        )
    return tuple(answers)


@dataclass(frozen=True, slots=True)
class Spelling:
    """The JSON of one answer: what all its chunks share."""

    id: str
    created_unix_s: int
    request: ChatRequest
    answers: tuple[Answer, ...]

    def first_event(self) -> bytes:
        """Role-only chunks, one for each choice: no token yet."""
        return b"".join(
            self._event(choice, {"role": "assistant", "content": "", "refusal": None})
            for choice in range(len(self.answers))
        )

    def step_events(self, position: int) -> bytes:
        """Token `position` of every choice that has one, and the end of those whose last token was the one before."""
        events = []
        for choice, answer in enumerate(self.answers):
            if position < answer.tokens:
                events.append(self._event(choice, answer.delta(position)))
            elif position == answer.tokens:
                events.append(self._event(choice, {}, answer.finish_reason))
        return b"".join(events)

    def last_events(self) -> bytes:
        """The extra usage chunk where it was asked for, and the end mark."""
        usage = _sse(self._head() | {"choices": [], "usage": self.usage()}) if self.request.include_usage else b""
        return usage + b"data: [DONE]\n\n"

    def body(self) -> bytes:
        """The answer that is not streamed."""
        choices = [
            {"index": choice, "message": answer.message(), "logprobs": None, "finish_reason": answer.finish_reason}
            for choice, answer in enumerate(self.answers)
        ]
        head = self._head() | {"object": "chat.completion"}
        return orjson.dumps(head | {"choices": choices, "usage": self.usage()})

    def usage(self) -> dict[str, Any]:
        """Token counts, summed over the choices."""
        output = sum(answer.tokens for answer in self.answers)
        reasoning = sum(answer.reasoning_tokens for answer in self.answers)
        return {
            "prompt_tokens": self.request.input_tokens,
            "completion_tokens": output,
            "total_tokens": self.request.input_tokens + output,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
        }

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created_unix_s,
            "model": self.request.model.name,
            "system_fingerprint": "simulated",
        }

    def _event(self, choice: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        chunk = self._head()
        chunk["choices"] = [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]
        if self.request.include_usage:
            chunk["usage"] = None
        return _sse(chunk)


def _sse(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _length(source: random.Random, median_tokens: float, sigma: float) -> int:
    return min(max(round(source.lognormvariate(math.log(median_tokens), sigma)), 1), MAX_OUTPUT_TOKENS)
