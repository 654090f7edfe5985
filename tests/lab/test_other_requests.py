"""Requests of the other dialects, as the chat requests that ask for the same."""

from typing import Any

import orjson
import pytest

from proxy.lab.chat_request import RefusedError, read_request
from proxy.lab.other_requests import chat_of_completion, chat_of_message, chat_of_response

SMALL = {"model": "sim-small"}
USER = {"role": "user", "content": "Go on. [tokens=5]"}


def read(chat: Any, **members: Any) -> Any:
    """The request as the provider sees it."""
    return read_request(orjson.dumps(SMALL | members), any_model=False, chat=chat)


@pytest.mark.parametrize(
    ("members", "limit", "choices", "words"),
    [
        ({"prompt": "Go on. [tokens=5]"}, 16, 1, 3),
        ({"prompt": "Go on.", "max_tokens": 7, "n": 2}, 7, 2, 2),
        ({"prompt": ["a", "b", "c"], "n": 2}, 16, 6, 3),
        ({"prompt": [4, 5, 6]}, 16, 1, 3),
        ({"prompt": [[4, 5], [6]]}, 16, 2, 3),
        ({}, 16, 1, 1),
    ],
)
def test_a_completions_request_has_a_limit_and_answers_each_prompt(
    members: dict[str, Any], limit: int, choices: int, words: int
) -> None:
    """16 tokens without a limit."""
    request = read(chat_of_completion, **members)
    assert (request.max_tokens, request.choices, request.input_tokens) == (limit, choices, words)


def test_a_completions_stream_may_ask_for_usage() -> None:
    """As a chat stream may."""
    asked = {"prompt": "a", "stream": True, "stream_options": {"include_usage": True}}
    assert read(chat_of_completion, **asked).include_usage
    assert not read(chat_of_completion, prompt="a", stream=True).include_usage


def test_a_responses_request_is_an_input_with_instructions() -> None:
    """A text or a list; what is no message is passed over."""
    text = read(chat_of_response, input="Go on. [tokens=5]", instructions="Be kind.", max_output_tokens=16)
    items = read(chat_of_response, input=[{"type": "function_call_output", "output": "x"}, USER], stream=True)
    assert (text.tokens, text.max_tokens, text.input_tokens, text.stream) == (5, 16, 5, False)
    assert (items.tokens, items.max_tokens, items.stream, items.choices) == (5, None, True, 1)
    called = read(chat_of_response, input="[tool]", tools=[{"type": "function", "name": "weather"}])
    assert called.tool == "weather"


def test_a_messages_request_has_a_system_and_a_limit() -> None:
    """Its text comes before the messages."""
    request = read(chat_of_message, messages=[USER], system="Be kind.", max_tokens=1)
    assert (request.tokens, request.max_tokens, request.input_tokens, request.choices) == (5, 1, 5, 1)
    called = read(
        chat_of_message, messages=[{"role": "user", "content": "[tool]"}], max_tokens=9, tools=[{"name": "weather"}]
    )
    assert called.tool == "weather"


@pytest.mark.parametrize(
    ("chat", "members", "param"),
    [
        (chat_of_completion, {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        (chat_of_completion, {"prompt": "a", "n": "2"}, "n"),
        (chat_of_response, {"input": "a", "max_output_tokens": 15}, "max_output_tokens"),
        (chat_of_response, {"input": []}, "messages"),
        (chat_of_message, {"messages": [USER]}, None),
        (chat_of_message, {"max_tokens": 5}, "messages"),
    ],
)
def test_what_is_no_request_is_refused(chat: Any, members: dict[str, Any], param: str | None) -> None:
    """Least limits and required members are those of each dialect."""
    with pytest.raises(RefusedError) as refused:
        read(chat, **members)
    assert (refused.value.status, orjson.loads(refused.value.body)["error"]["param"]) == (400, param)
