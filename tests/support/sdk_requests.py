"""What applications really send: bytes that the official clients make of many combinations of parameters.

`sdk_requests(count)` is the same list each time. The clients write into a transport that keeps what they would have sent; nothing is
simulated but the answer. A cut emoji, which the Python clients cannot write, stands there as the JavaScript ones write it.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai

CUT_EMOJI = "CUT-EMOJI"
"""What becomes half a surrogate pair."""
_SCHEMA = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "max_tokens": {"type": "integer", "default": 99999},
        "MAX_TOKENS": {"type": ["integer", "null"]},
        "n": {"type": "number", "exclusiveMaximum": 1e300},
        "stream": {"type": "string", "enum": ["true", "\u212a", "\\u006dax_tokens"]},
        "options": {"type": "object", "properties": {"num_predict": {"const": -1}}},
    },
    "required": ["model", "max_tokens"],
    "additionalProperties": False,
}
_IMAGE = "data:image/png;base64," + "iVBORw0KGgo" * 40


class SdkRequest(NamedTuple):
    """One request as a client would write it."""

    path: bytes
    headers: tuple[bytes, ...]
    body: bytes


def _text(draw: random.Random) -> str:
    return draw.choice(
        [
            "Hello",
            "line one\nline two\t\u2028 \u00e9\u4e2d\U0001f600",
            f"an emoji that was cut: {CUT_EMOJI}",
            '{"max_tokens": 99999, "model": "x", "n": 1000}',
            'He said "max_tokens":5, "stream":true and \\u006dax_tokens',
            "word " * 400,
        ]
    )


def _some(draw: random.Random, options: dict[str, list[Any]], share: float = 0.3) -> dict[str, Any]:
    """Each of these parameters with this probability, with one of its values."""
    return {name: draw.choice(values) for name, values in options.items() if draw.random() < share}


def _chat(draw: random.Random) -> dict[str, Any]:
    user: Any = _text(draw)
    if draw.random() < 0.3:
        image = {"type": "image_url", "image_url": {"url": _IMAGE, "detail": "low"}}
        user = [{"type": "text", "text": user}, image]
    messages = [{"role": "system", "content": _text(draw)}, {"role": "user", "content": user}]
    function = {"name": "f", "description": _text(draw), "parameters": _SCHEMA, "strict": True}
    if draw.random() < 0.2:
        call = {
            "id": "c",
            "type": "function",
            "function": {"name": "f", "arguments": '{"max_tokens":1,"max_tokens":2}'},
        }
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": _text(draw)},
        ]
    limits = [
        {},
        {"max_tokens": draw.randint(1, 10**6)},
        {"max_completion_tokens": draw.randint(1, 10**6)},
        {"max_tokens": 1024.0},
        {"max_tokens": None},
        {"max_tokens": 5, "max_completion_tokens": 7},
    ]
    return (
        {"model": draw.choice(["gpt-4o", "o3-mini", "meta-llama/Llama-3.1-8B-Instruct"]), "messages": messages}
        | draw.choice(limits)
        | _some(
            draw,
            {
                "tools": [[{"type": "function", "function": function}], []],
                "tool_choice": ["auto", "none", {"type": "function", "function": {"name": "f"}}],
                "parallel_tool_calls": [True, False],
                "response_format": [
                    {"type": "text"},
                    {"type": "json_object"},
                    {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA, "strict": True}},
                ],
                "n": [1, 2, None],
                "temperature": [0, 0.7, 1e-8, None],
                "top_p": [1, 0.95],
                "seed": [7, 2**60, -1],
                "stop": ["max_tokens", ["a", "b"], None],
                "logit_bias": [{"50256": -100}],
                "logprobs": [True],
                "top_logprobs": [20],
                "user": ["max_tokens", "\u017ftream"],
                "metadata": [{"model": "x", "max_tokens": "9", "N": "1"}],
                "reasoning_effort": ["low", "xhigh"],
                "service_tier": ["auto", "flex"],
                "store": [True, False],
                "prediction": [{"type": "content", "content": "max_tokens"}],
                "modalities": [["text", "audio"]],
                "audio": [{"voice": "alloy", "format": "wav"}],
                "web_search_options": [{"search_context_size": "low"}],
                "functions": [[{"name": "f", "parameters": _SCHEMA}]],
                "extra_body": [
                    {"top_k": 5, "repetition_penalty": 1.1, "min_p": 0.1, "guided_json": _SCHEMA},
                    {"ignore_eos": False, "min_tokens": 1, "stop_token_ids": [1, 2], "skip_special_tokens": True},
                    {
                        "chat_template_kwargs": {"enable_thinking": False, "max_tokens": 1},
                        "add_generation_prompt": True,
                    },
                    {"n_predict": 256, "cache_prompt": True, "samplers": ["top_k"], "grammar": "root ::= max_tokens"},
                    {"options": {"num_ctx": 8192, "num_predict": 128}, "keep_alive": "5m", "think": False},
                    {"provider": {"order": ["a"], "max_price": {"prompt": 1}}, "models": ["b"], "route": "fallback"},
                    {"transforms": ["middle-out"], "plugins": [{"id": "web", "max_results": 5}]},
                    {"generation_config": {"max_output_tokens": 64}, "safety_settings": []},
                    {"thinking": {"type": "disabled"}, "enable_thinking": True, "thinking_budget": 100},
                ],
            },
        )
        | draw.choice(
            [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}, {"stream": False}]
        )
    )


def _completions(draw: random.Random) -> dict[str, Any]:
    return (
        {
            "model": "gpt-3.5-turbo-instruct",
            "prompt": draw.choice([_text(draw), ["a", "b"], [1, 2, 3], [[1], [2, 3]], ""]),
        }
        | draw.choice(
            [{}, {"max_tokens": draw.randint(1, 10**6)}, {"max_tokens": 0, "echo": True}, {"max_tokens": None}]
        )
        | _some(
            draw,
            {
                "n": [1, 2],
                "best_of": [2, 3],
                "logprobs": [5],
                "suffix": ["max_tokens"],
                "stream": [True, False],
                "seed": [1],
                "frequency_penalty": [0.5],
                "extra_body": [{"use_beam_search": False}, {"n_predict": 5}, {"min_tokens": 0, "prompt_logprobs": 1}],
            },
        )
    )


def _responses(draw: random.Random) -> dict[str, Any]:
    content = [
        {"type": "input_text", "text": _text(draw)},
        {"type": "input_image", "image_url": _IMAGE, "detail": "auto"},
    ]
    tools = [
        {"type": "function", "name": "f", "parameters": _SCHEMA, "strict": True},
        {"type": "web_search", "search_context_size": "low"},
        {"type": "file_search", "vector_store_ids": ["v"], "max_num_results": 3},
        {"type": "mcp", "server_label": "s", "server_url": "https://mcp.example", "require_approval": "never"},
        {"type": "code_interpreter", "container": {"type": "auto"}},
    ]
    return {
        "model": draw.choice(["gpt-4.1", "o4-mini"]),
        "input": draw.choice([_text(draw), [{"role": "user", "content": content}]]),
    } | _some(
        draw,
        {
            "max_output_tokens": [16, 4096, None, 2048.0],
            "max_tool_calls": [3],
            "tools": [draw.sample(tools, 2), tools],
            "tool_choice": ["auto", "required"],
            "instructions": [_text(draw)],
            "text": [
                {"format": {"type": "json_schema", "name": "s", "schema": _SCHEMA, "strict": True}, "verbosity": "low"},
                {"format": {"type": "text"}},
            ],
            "reasoning": [{"effort": "high", "summary": "auto"}],
            "previous_response_id": ["resp_1"],
            "background": [True],
            "store": [False],
            "truncation": ["auto"],
            "include": [["reasoning.encrypted_content"]],
            "metadata": [{"max_output_tokens": "1"}],
            "stream": [True, False],
            "temperature": [0.1],
            "top_logprobs": [2],
            "prompt_cache_key": ["k"],
        },
    )


def _messages(draw: random.Random) -> dict[str, Any]:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo" * 40}}
    text = {"type": "text", "text": _text(draw), "cache_control": {"type": "ephemeral"}}
    return {
        "model": "claude",
        "max_tokens": draw.choice([1, 1024, 8192, 64000, 4096.0]),
        "messages": [
            {"role": "user", "content": draw.choice([_text(draw), [text, image]])},
            {"role": "assistant", "content": "max_tokens"},
        ],
    } | _some(
        draw,
        {
            "system": [_text(draw), [text]],
            "tools": [[{"name": "f", "description": "d", "input_schema": _SCHEMA}]],
            "tool_choice": [{"type": "auto", "disable_parallel_tool_use": True}],
            "stop_sequences": [["max_tokens", "\n\nHuman:"]],
            "metadata": [{"user_id": "model"}],
            "thinking": [{"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}],
            "service_tier": ["auto"],
            "stream": [True, False],
            "extra_body": [{"context_management": {"edits": []}}, {"temperature": 0.0, "top_k": 5}, {"top_p": 0.9}],
        },
    )


def _kept(into: list[httpx2.Request]) -> httpx2.Client:
    def answer(request: httpx2.Request) -> httpx2.Response:
        into.append(request)
        return httpx2.Response(200, json={})

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def _makers(
    into: list[httpx2.Request],
) -> Iterator[tuple[Callable[..., Any], Callable[[random.Random], dict[str, Any]]]]:
    """(a client's method, what makes its parameters), as often as it is to be used."""
    client = openai.OpenAI(api_key="k", base_url="http://h/v1", http_client=_kept(into))
    azure = openai.AzureOpenAI(
        api_key="k",
        azure_endpoint="http://h",
        api_version="2024-10-21",
        azure_deployment="d-1",
        http_client=_kept(into),
    )
    claude = anthropic.Anthropic(api_key="k", base_url="http://h", timeout=60, http_client=_kept(into))
    chat, raw = client.chat.completions, claude.messages
    yield from ((chat.create, _chat),) * 4
    yield azure.chat.completions.create, _chat
    yield client.completions.create, _completions
    yield from ((client.responses.create, _responses),) * 2
    yield from ((raw.create, _messages),) * 2
    yield claude.beta.messages.create, _messages


def sdk_requests(count: int) -> list[SdkRequest]:
    """So many different requests."""
    draw, kept = random.Random(4), []
    makers = list(_makers(kept))
    found: dict[tuple[bytes, bytes], SdkRequest] = {}
    while len(found) < count:
        call, parameters = makers[len(kept) % len(makers)]
        call(**parameters(draw))
        request = kept[-1]
        body = request.content.replace(CUT_EMOJI.encode(), b"\\ud83d")
        json.loads(body)
        headers = tuple(
            b"%b: %b" % (name, value)
            for name, value in request.headers.raw
            if name.lower() not in {b"host", b"content-length", b"connection"}
        )
        found[request.url.raw_path, body] = SdkRequest(request.url.raw_path, headers, body)
    return list(found.values())
