"""Responses requests are read, and each event of their streams starts the right clocks."""

import json

import pytest

from proxy.record import FINISH_WORDS, RequestFacts
from proxy.wire.dialects import match
from proxy.wire.dialects.base import Reading

RESPONSES = match(b"/v1/responses")


def read(kind, **members):
    """What one event says: (carries tokens, of reasoning, of the answer)."""
    reading = Reading()
    data = json.dumps({"type": kind} | members).encode()
    return RESPONSES.read_event((kind.encode(), data), reading), reading.reasoned, reading.answered


NOTHING, ANSWER, REASONING = (False, False, False), (True, False, True), (True, True, False)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", {}),
        (
            b'{"model":"gpt-4.1","input":"x","stream":true,"max_output_tokens":99,"top_p":0.5,"service_tier":"flex"}',
            {"model": "gpt-4.1", "stream": True, "limits": (("max_output_tokens", 99),), "top_p": 0.5, "service_tier": "flex"},
        ),
        (
            b'{"max_tokens":5,"max_completion_tokens":6,"max_output_tokens":null,"n":3}',
            {"limits": (("max_completion_tokens", 6), ("max_tokens", 5))},
        ),
        (b'{"max_completion_tokens":5,"max_output_tokens":9}', {"limits": (("max_output_tokens", 9), ("max_completion_tokens", 5))}),
        (b'{"text":{"format":{"type":"json_schema"}}}', {"output_type": "json"}),
        (b'{"text":{"format":{"type":"text"}}}', {"output_type": "text"}),
        (b'{"text":"x"}', {}),
        (b'{"stream":true,"stream_options":{"include_obfuscation":false}}', {"stream": True}),
    ],
)  # fmt: skip
def test_a_request_is_read(body, expected):
    """One answer, one limit field, and no word of usage."""
    assert RESPONSES.read_request(body) == RequestFacts("responses", **expected)


@pytest.mark.parametrize(
    "kind",
    ["output_text", "refusal", "function_call_arguments", "custom_tool_call_input", "mcp_call_arguments", "code_interpreter_call_code",
     "shell_call_command", "audio", "audio.transcript", "something_new"],
)  # fmt: skip
def test_a_delta_that_says_something_is_an_answer(kind):
    """Text, refusal, what a call is given, audio; and kinds that are not known yet."""
    assert read(f"response.{kind}.delta", delta="a") == ANSWER
    assert read(f"response.{kind}.delta", delta="") == NOTHING
    assert read(f"response.{kind}.done", text="a", arguments="a") == NOTHING


@pytest.mark.parametrize("kind", ["reasoning_text", "reasoning_summary_text"])
def test_reasoning_is_no_answer(kind):
    """Neither its text nor its summary."""
    assert read(f"response.{kind}.delta", delta="a") == REASONING


@pytest.mark.parametrize(
    ("kind", "members", "expected"),
    [
        ("response.output_text.delta", {"delta": "", "logprobs": [{"token": "x"}]}, (True, False, False)),
        ("response.output_text.delta", {"delta": "", "logprobs": []}, NOTHING),
        ("response.output_item.added", {"item": {"type": "function_call", "name": "f", "arguments": ""}}, ANSWER),
        ("response.output_item.added", {"item": {"type": "custom_tool_call", "name": "f"}}, ANSWER),
        ("response.output_item.added", {"item": {"type": "function_call", "name": ""}}, NOTHING),
        ("response.output_item.added", {"item": {"type": "web_search_call", "status": "in_progress"}}, NOTHING),
        ("response.output_item.added", {"item": {"type": "message", "name": "f"}}, NOTHING),
        ("response.output_item.done", {"item": {"type": "function_call", "name": "f"}}, NOTHING),
        ("response.shell_call_command.added", {"command": "ls"}, ANSWER),
        ("response.shell_call_command.added", {"command": ""}, NOTHING),
        ("response.image_generation_call.partial_image", {"partial_image_b64": "AAAA"}, ANSWER),
        ("response.shell_call_output_content.delta", {"delta": {"stdout": "a"}}, NOTHING),
        ("response.shell_call_output_content.delta", {"delta": "a"}, NOTHING),
        ("response.web_search_call.searching", {}, NOTHING),
        ("response.queued", {"response": {"status": "queued"}}, NOTHING),
        ("error", {"message": "x"}, NOTHING),
    ],
)
def test_what_the_model_generated_is_told_from_frames_and_tools(kind, members, expected):
    """A call begins with its name; what a tool puts out is none of the model's."""
    assert read(kind, **members) == expected


@pytest.mark.parametrize(
    ("response", "own", "word"),
    [
        ({"status": "completed"}, "completed", "stop"),
        ({"status": "completed", "output": [{"type": "message"}]}, "completed", "stop"),
        ({"status": "completed", "output": [{"type": "message"}, {"type": "function_call"}]}, "function_call", "tool_calls"),
        ({"status": "completed", "output": [{"type": "custom_tool_call"}]}, "custom_tool_call", "tool_calls"),
        ({"status": "completed", "output": [{"type": "shell_call"}, {"type": "message"}]}, "completed", "stop"),
        ({"status": "completed", "output": [{"type": "web_search_call"}]}, "completed", "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "max_output_tokens", "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_tokens"}}, "max_tokens", "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter", "content_filter"),
        ({"status": "incomplete", "output": [{"type": "function_call"}]}, "incomplete", "other"),
        ({"status": "cancelled"}, "cancelled", "other"),
    ],
)  # fmt: skip
def test_why_a_response_ended_is_said_in_its_own_word(response, own, word):
    """The ledger's word follows from it."""
    for event in (True, False):
        reading = Reading()
        if event:
            data = json.dumps({"type": f"response.{response['status']}", "response": response}).encode()
            RESPONSES.read_event((None, data), reading)
        else:
            RESPONSES.read_body(json.dumps(response).encode(), reading)
        assert (reading.finish_reasons, reading.terminal_seen) == ({0: own}, True)
        assert FINISH_WORDS.get(own, "other") == word


def test_a_terminal_event_says_its_status_even_when_its_response_does_not():
    """Some servers leave the member out."""
    reading = Reading()
    RESPONSES.read_event((None, b'{"type":"response.completed","response":{"id":"r"}}'), reading)
    assert (reading.finish_reasons, reading.done) == ({0: "completed"}, True)


def test_a_response_that_is_not_over_has_no_end():
    """Queued and in progress, streamed or not."""
    for status in ("queued", "in_progress"):
        reading = Reading()
        RESPONSES.read_body(json.dumps({"status": status, "background": True}).encode(), reading)
        assert (reading.finish_reasons, reading.terminal_seen, reading.untimed) == ({}, False, True)
