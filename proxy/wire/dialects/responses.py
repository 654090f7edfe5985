"""Responses: `POST …/responses`, streamed and not.

Layer: wire (sans-io). A generated token is a delta that says something: text, refusal, reasoning or its summary, arguments or input or code of a
call, audio; the name with which a call begins; a partial image; or a log probability without text. What a tool puts out is none, and neither
are the events that frame items and parts or tell how a tool is running.

Finish reasons are the provider's words: the reason of an incomplete response, the type of the call with which the output of a completed one
ends, else its status. A response in the background is generated whether or not somebody listens, so no token of it has a time. Usage is
always there: it is never asked for.

Source: OpenAI API reference "Responses", all `ResponseStreamEvent`s; Azure's error events, whose error is an object of its own.
"""

from typing import Any

from proxy.record import Decision, RequestFacts
from proxy.wire.dialects.base import Reading, never_asked, never_extra, openai_error_body, plain_word
from proxy.wire.dialects.limit_fields import LIMIT_FIELDS
from proxy.wire.dialects.request_body import output_type, parsed_request, request_facts, unreadable, with_limit
from proxy.wire.dialects.response_body import (
    is_text,
    openai_usage,
    parsed_body,
    parsed_event,
    read_error,
    read_head,
    text_of,
)
from proxy.wire.sse import Event

__all__ = ["Responses"]

_TEXT_DELTA = "response.output_text.delta"
_REASONING = ("response.reasoning_text.", "response.reasoning_summary_text.")
_OF_TOOLS = "response.shell_call_output_content."
"""Deltas with this beginning are what a tool put out."""
_PARTIAL_IMAGE = "response.image_generation_call.partial_image"
_ITEM_ADDED = "response.output_item.added"
_COMMAND_ADDED = "response.shell_call_command.added"
_TERMINAL = frozenset({"completed", "incomplete", "failed", "cancelled"})
"""Statuses of a response that is over; each has an event of its name."""
_CALLS = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "computer_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "mcp_approval_request",
    }
)
"""Items with which an output ends when it is the client's turn to run something."""


_SAID = ("summary", "content", "text", "refusal", "name", "arguments", "input", "code")
"""Where the items of an output hold generated text."""


class Responses:
    """The responses dialect."""

    __slots__ = ()

    name = "responses"
    operation = "chat"
    suffix = b"/responses"
    route = "/v1/responses"
    limit_fields = ("max_output_tokens",)

    may_ask_usage = staticmethod(never_asked)
    is_extra_usage = staticmethod(never_extra)

    def read_request(self, body: bytes, fields: tuple[str, ...] = LIMIT_FIELDS) -> RequestFacts:
        """Facts of a request body."""
        request, degraded = parsed_request(body)
        if request is None:
            return unreadable(self.name, degraded)
        text = request.get("text")
        kind = output_type(text.get("format")) if isinstance(text, dict) else None
        return request_facts(
            self.name, self.limit_fields, body, request, fields=fields, degraded=degraded, output_type=kind
        )

    def insert_field(self, preferred: str) -> str:
        """Always `max_output_tokens`."""
        return "max_output_tokens"

    def rewrite(self, body: bytes, facts: RequestFacts, decision: Decision, *, ask_usage: bool) -> bytes:
        """Body as the upstream gets it."""
        return with_limit(body, facts, decision)

    def read_event(self, event: Event, reading: Reading) -> bool:
        """Read one event; True when it carried generated tokens."""
        chunk = parsed_event(event, reading)
        if chunk is None:
            return False
        kind = chunk.get("type")
        if type(kind) is not str:
            kind = (event[0] or b"").decode("latin-1")
        if kind.endswith(".delta"):
            return _read_delta(kind, chunk, reading)
        if kind == "error" or (chunk.get("error") and not kind.startswith("response.")):
            read_error(chunk, reading)
            return False
        response = chunk.get("response")
        if type(response) is dict:
            _read_response(response, reading, kind.removeprefix("response."))
            return False
        if _is_beginning(kind, chunk):
            reading.answered = True
            reading.keep(text_of(chunk.get("item", chunk.get("command")), ("name",)), _item(chunk))
            return True
        return False

    def read_body(self, body: bytes, reading: Reading) -> None:
        """Read a whole response, or the error in its place."""
        answer = parsed_body(body, reading)
        if answer is None:
            return
        if "output" not in answer and answer.get("error"):
            read_error(answer, reading)
            return
        _read_response(answer, reading, answer.get("status"))
        reading.keep(text_of(answer.get("output"), _SAID))

    def error_body(self, status: int, envelope_type: str, error_type: str, message: str) -> bytes:
        """OpenAI's error envelope."""
        return openai_error_body(envelope_type, error_type, message)


def _read_delta(kind: str, chunk: dict[str, Any], reading: Reading) -> bool:
    """True when a delta carries a generated token."""
    if kind.startswith(_OF_TOOLS):
        return False
    if not is_text(chunk.get("delta")):
        return kind == _TEXT_DELTA and bool(chunk.get("logprobs"))  # a token whose text is withheld
    if kind.startswith(_REASONING):
        reading.reasoned = True
    else:
        reading.answered = True
    if "audio.delta" not in kind:  # that is sound; what it says comes as its transcript
        reading.keep(chunk["delta"], _item(chunk))
    return True


def _item(chunk: dict[str, Any]) -> int:
    """The item of the output that an event belongs to."""
    index = chunk.get("output_index")
    return index if type(index) is int else 0


def _is_beginning(kind: str, chunk: dict[str, Any]) -> bool:
    """True for the beginning of a call, which the model has generated up to its name, and for a picture that is not ready."""
    if kind == _ITEM_ADDED:
        item = chunk.get("item")
        return type(item) is dict and str(item.get("type")).endswith("_call") and is_text(item.get("name"))
    if kind == _COMMAND_ADDED:
        return is_text(chunk.get("command"))
    return kind == _PARTIAL_IMAGE and is_text(chunk.get("partial_image_b64"))


def _read_response(response: dict[str, Any], reading: Reading, status: object) -> None:
    read_head(response, reading)
    if response.get("background") is True:
        reading.untimed = True
    if type(status) is not str or status not in _TERMINAL:
        reading.open_choices.add(0)
        return
    reading.done = True
    usage = openai_usage(response.get("usage"), "input_tokens", "output_tokens")
    if usage is not None:
        reading.usage = usage
    if isinstance(response.get("service_tier"), str):  # the tier that was used, after the one that was asked for
        reading.service_tier = plain_word(response["service_tier"])
    if status == "failed":
        read_error(response, reading)
        return
    word = plain_word(_finish_reason(response, status))
    if word is not None:
        reading.finish_reasons[0] = word
        reading.open_choices.discard(0)


def _finish_reason(response: dict[str, Any], status: str) -> object:
    """Why a response ended, in the provider's word."""
    output = response.get("output")
    if status == "incomplete":
        details = response.get("incomplete_details")
        return (details.get("reason") if type(details) is dict else None) or status
    last = output[-1] if type(output) is list and output else None
    kind = last.get("type") if type(last) is dict else None
    return kind if status == "completed" and type(kind) is str and kind in _CALLS else status
