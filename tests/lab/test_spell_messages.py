"""What the simulated provider spells as messages."""

from typing import Any

import pytest

from proxy.lab.chat_request import RefusedError
from proxy.lab.spell_messages import message_error
from tests.support.simulated import spelled, streamed


def asked(prompt: str, limit: int = 50) -> dict[str, Any]:
    """A request of this prompt."""
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": limit}


@pytest.mark.parametrize(
    ("prompt", "limit", "blocks", "stop_reason", "tokens"),
    [
        ("[tokens=4]", 50, ["text"], "end_turn", 4),
        ("[tokens=4]", 3, ["text"], "max_tokens", 3),
        ("[tokens=4] [reasoning=2]", 50, ["thinking", "text"], "end_turn", 6),
        ("[tokens=4] [reasoning=9]", 5, ["thinking"], "max_tokens", 5),
        ("[tokens=5] [tool]", 50, ["tool_use"], "tool_use", 5),
        ("[tokens=5] [tool] [reasoning=2]", 50, ["thinking", "tool_use"], "tool_use", 7),
        ("[tokens=5] [tool]", 3, ["tool_use"], "max_tokens", 3),
    ],
)
def test_a_stream_adds_up_to_the_answer(
    prompt: str, limit: int, blocks: list[str], stop_reason: str, tokens: int
) -> None:
    """Blocks start and stop in turn, and usage is that of the whole."""
    events = streamed(spelled("/v1/messages", **asked(prompt, limit)))
    whole = spelled("/v1/messages", **asked(prompt, limit)).body()
    starts = [event for event in events if event["type"] == "content_block_start"]
    assert (
        [start["content_block"]["type"] for start in starts] == blocks == [block["type"] for block in whole["content"]]
    )
    assert [start["index"] for start in starts] == list(range(len(blocks)))
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert stops == list(range(len(blocks)))
    said = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    for kind, place in (("text", "text"), ("thinking", "thinking")):
        streamed_text = "".join(delta.get(place, "") for delta in said)
        assert streamed_text == "".join(block[place] for block in whole["content"] if block["type"] == kind)
    named = sum(start["content_block"]["type"] == "tool_use" for start in starts)
    assert len(said) + named == tokens == whole["usage"]["output_tokens"]
    assert (events[0]["type"], events[-1]) == ("message_start", {"type": "message_stop"})
    assert (events[-2]["delta"]["stop_reason"], events[-2]["usage"]) == (stop_reason, {"output_tokens": tokens})
    assert whole["stop_reason"] == stop_reason


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_a_refusal_is_anthropics_envelope(status: int, kind: str) -> None:
    """Type and message."""
    error = {"type": "error", "error": {"type": kind, "message": "No."}}
    assert message_error(RefusedError(status, "No.", code=None)) == error
