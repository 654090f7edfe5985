"""Completions, responses and messages requests as the simulated provider reads them: each as the chat request that asks for the same.

Layer: lab; pure: no I/O, no clock, no state. What a directive is and what is refused is said in `chat_request`.

Source: the OpenAI API description: CreateCompletionRequest, CreateResponse; the Anthropic API reference, "Create a Message".
"""

from typing import Any

from proxy.lab.chat_request import RefusedError

__all__ = ["chat_of_completion", "chat_of_message", "chat_of_response"]

_ABSENT_COMPLETION_TOKENS = 16
_LEAST_RESPONSE_TOKENS = 16
_KEPT = ("model", "stream", "n")


def chat_of_completion(data: dict[str, Any]) -> dict[str, Any]:
    """A prompt is a user's message; of many prompts each is answered `n` times."""
    prompt = data.get("prompt", "")
    prompts = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    text = " ".join(
        one if isinstance(one, str) else "token " * len(one) for one in prompts if isinstance(one, str | list)
    )
    chat = _kept(data, text) | {"stream_options": data.get("stream_options")}
    chat["max_tokens"] = _ABSENT_COMPLETION_TOKENS if data.get("max_tokens") is None else data["max_tokens"]
    if type(data.get("n", 1)) is int:
        chat["n"] = data.get("n", 1) * len(prompts)
    return chat


def chat_of_response(data: dict[str, Any]) -> dict[str, Any]:
    """Instructions come first; messages of the input are messages, all other items are passed over."""
    given = data.get("input")
    items = given if isinstance(given, list) else [{"role": "user", "content": given}]
    messages = [item for item in items if isinstance(item, dict) and "role" in item]
    if isinstance(data.get("instructions"), str):
        messages = [{"role": "system", "content": data["instructions"]}, *messages]
    limit = data.get("max_output_tokens")
    if type(limit) is int and limit < _LEAST_RESPONSE_TOKENS:
        message = f"Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got {limit} instead."
        raise RefusedError(400, message, param="max_output_tokens", code="integer_below_min_value")
    chat = _kept(data, None) | {"messages": messages, "max_completion_tokens": limit, "n": None}
    return chat | {"tools": [{"function": tool} for tool in _objects(data.get("tools"))]}


def chat_of_message(data: dict[str, Any]) -> dict[str, Any]:
    """The limit is required; the system's text comes first."""
    if data.get("max_tokens") is None:
        raise RefusedError(400, "max_tokens: Field required", code=None)
    messages = data.get("messages")
    if data.get("system") is not None and isinstance(messages, list):
        messages = [{"role": "system", "content": data["system"]}, *messages]
    chat = _kept(data, None) | {"messages": messages, "max_tokens": data["max_tokens"], "n": None}
    return chat | {"tools": [{"function": tool} for tool in _objects(data.get("tools"))]}


def _kept(data: dict[str, Any], prompt: str | None) -> dict[str, Any]:
    kept = {name: data[name] for name in _KEPT if name in data}
    return kept if prompt is None else kept | {"messages": [{"role": "user", "content": prompt}]}


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
