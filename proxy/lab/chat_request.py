"""Reads a chat request as OpenAI's API would, and the directives that tell the simulated provider what to do with it.

Layer: lab; pure: no I/O, no clock, no state.

Directives are read in the last user message, for example `Say something. [tokens=200] [tpot_ms=5]`:

    [tokens=N]       the answer is N tokens long by nature (without its reasoning)
    [reasoning=N]    N reasoning tokens come before the answer
    [tool]           the answer is a call of the first function in `tools`
    [ttft_ms=N]      time to the first token, exactly
    [tpot_ms=N]      time between tokens, exactly
    [error=STATUS]   an error answer with this status, 400 to 599, instead of an answer
    [error_after=N]  an error event inside the 200 stream after N tokens
    [stall_after=N]  silence after N tokens, until the client leaves
    [reset_after=N]  the connection is torn down after N tokens

Source: the OpenAI API description: CreateChatCompletionRequest, ErrorResponse.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.errors import LengthwiseError

__all__ = ["MAX_OUTPUT_TOKENS", "MODELS", "ChatRequest", "Fault", "Model", "RefusedError", "failure", "read_request"]

MAX_OUTPUT_TOKENS = 16_384
"""Longest natural answer, and what a request without a limit reserves."""

_DIRECTIVE = re.compile(
    r"\[(tool|(?:tokens|reasoning|ttft_ms|tpot_ms|error|error_after|stall_after|reset_after)=\d{1,6}(?:\.\d{1,3})?)\]"
)


@dataclass(frozen=True, slots=True)
class Model:
    """How one simulated model differs from the simulator's settings."""

    name: str
    slowdown: float = 1.0
    """Factor of both TTFT and TPOT."""
    reasons: bool = False
    """True when reasoning tokens are drawn for every request."""
    reserves: bool = False
    """True when requests wait for a reservation even if the simulator was started without one."""


MODELS: Mapping[str, Model] = {
    model.name: model
    for model in (
        Model("sim-small"),
        Model("sim-large", slowdown=2.0),
        Model("sim-reasoning", reasons=True),
        Model("sim-reserving", reserves=True),
    )
}
"""Every model that is listed and answers under its own name."""


class RefusedError(LengthwiseError):
    """A request that gets an error answer: OpenAI's status and envelope."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})
        """The answer's body."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in an answer that began well."""

    kind: str
    """`error_after`, `stall_after` or `reset_after`."""
    after_tokens: int


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What was asked, validated."""

    model: Model
    prompt_digest: bytes
    """Of model and messages; everything drawn for the answer comes from it."""
    input_tokens: int
    """Words of the messages, which is near enough for a simulation."""
    max_tokens: int | None
    """The limit per choice; None when none was sent."""
    choices: int
    stream: bool
    include_usage: bool
    tool: str | None
    """Function to call; None for an answer in words."""
    tokens: int | None
    reasoning_tokens: int | None
    ttft_s: float | None
    tpot_s: float | None
    error_status: int | None
    fault: Fault | None

    @property
    def reserved_tokens(self) -> int:
        """Tokens that a reserving provider sets aside at admission."""
        limit = MAX_OUTPUT_TOKENS if self.max_tokens is None else self.max_tokens
        return self.input_tokens + limit * self.choices


def read_request(
    body: bytes, *, any_model: bool, chat: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> ChatRequest:
    """Validate a request body and read its directives.

    Args:
        body: The request as it came.
        any_model: True: unknown model names are accepted.
        chat: Makes a chat request of what is none.

    Raises:
        RefusedError: with the answer that OpenAI's API would give.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RefusedError(400, "The JSON body of the request could not be parsed.", code=None) from None
    if not isinstance(data, dict):
        raise RefusedError(400, "The body of the request must be a JSON object.", code=None)
    if chat is not None:
        data = chat(data)
    model = _model(data, any_model=any_model)
    texts, last_user = _texts(data)
    stream = _typed(data, "stream", bool, "a boolean") or False
    given = _directives(last_user)
    faults = [Fault(kind, int(given[kind])) for kind in ("error_after", "stall_after", "reset_after") if kind in given]
    limit, deprecated_limit = _count(data, "max_completion_tokens"), _count(data, "max_tokens")
    return ChatRequest(
        model=model,
        prompt_digest=hashlib.sha256(
            orjson.dumps([model.name, data["messages"]], option=orjson.OPT_SORT_KEYS)
        ).digest(),
        input_tokens=max(sum(len(text.split()) for text in texts), 1),
        max_tokens=deprecated_limit if limit is None else limit,
        choices=_count(data, "n", maximum=128) or 1,
        stream=stream,
        include_usage=_include_usage(data, stream=stream),
        tool=_tool_name(data) if "tool" in given else None,
        tokens=max(int(given["tokens"]), 1) if "tokens" in given else None,
        reasoning_tokens=int(given["reasoning"]) if "reasoning" in given else None,
        ttft_s=given["ttft_ms"] / 1e3 if "ttft_ms" in given else None,
        tpot_s=given["tpot_ms"] / 1e3 if "tpot_ms" in given else None,
        error_status=int(given["error"]) if 400 <= given.get("error", 0) < 600 else None,
        fault=faults[0] if faults else None,
    )


def failure(status: int) -> RefusedError:
    """Make the error answer of a provider that fails with this status."""
    kind, code = {
        401: ("invalid_request_error", "invalid_api_key"),
        429: ("rate_limit_error", "rate_limit_exceeded"),
    }.get(status, ("invalid_request_error", None) if status < 500 else ("server_error", None))
    return RefusedError(status, f"A simulated failure with status {status}.", kind=kind, code=code)


def _directives(text: str) -> dict[str, float]:
    found = (item.partition("=") for item in _DIRECTIVE.findall(text))
    return {name: float(value or 1) for name, _, value in found}


def _model(data: dict[str, Any], *, any_model: bool) -> Model:
    name = data.get("model")
    if not isinstance(name, str) or not name:
        raise RefusedError(400, "You must provide a model parameter.", param="model", code=None)
    model = MODELS.get(name) or (Model(name) if any_model else None)
    if model is None:
        message = f"The model `{name}` does not exist: this provider is simulated and has {', '.join(MODELS)}."
        raise RefusedError(404, message, param="model", code="model_not_found")
    return model


def _texts(data: dict[str, Any]) -> tuple[list[str], str]:
    """All texts of the messages, and the last user's."""
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RefusedError(400, "'messages' must be an array with at least one message.", param="messages", code=None)
    texts, last_user = [], ""
    for position, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            param = f"messages[{position}]"
            raise RefusedError(400, f"'{param}' must be an object with a 'role'.", param=param, code="invalid_type")
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        found = [part.get("text") for part in parts if isinstance(part, dict)]
        text = " ".join(item for item in found if isinstance(item, str))
        texts.append(text)
        if message["role"] == "user":
            last_user = text
    return texts, last_user


def _typed(data: dict[str, Any], name: str, kind: type, wanted: str) -> Any:
    value = data.get(name)
    if value is None or type(value) is kind:  # a bool is no integer here
        return value
    raise RefusedError(400, f"Invalid type for '{name}': expected {wanted}.", param=name, code="invalid_type")


def _count(data: dict[str, Any], name: str, maximum: int | None = None) -> int | None:
    value: int | None = _typed(data, name, int, "an integer")
    if value is not None and value < 1:
        message = f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead."
        raise RefusedError(400, message, param=name, code="integer_below_min_value")
    if value is not None and maximum is not None and value > maximum:
        message = (
            f"Invalid '{name}': integer above maximum value. Expected a value <= {maximum}, but got {value} instead."
        )
        raise RefusedError(400, message, param=name, code="integer_above_max_value")
    return value


def _include_usage(data: dict[str, Any], *, stream: bool) -> bool:
    options = _typed(data, "stream_options", dict, "an object")
    if options is None:
        return False
    if not stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise RefusedError(400, message, param="stream_options", code=None)
    include: bool | None = _typed(options, "include_usage", bool, "a boolean")
    return include or False


def _tool_name(data: dict[str, Any]) -> str:
    tools = data.get("tools")
    first = tools[0] if isinstance(tools, list) and tools else None
    function = first.get("function") if isinstance(first, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else "look_up"
