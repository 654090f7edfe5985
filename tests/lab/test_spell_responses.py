"""What the simulated provider spells as responses."""

import pytest

from tests.support.simulated import spelled, streamed


@pytest.mark.parametrize(
    ("prompt", "limit", "items", "ended", "tokens"),
    [
        ("[tokens=20]", 50, ["message"], "completed", 20),
        ("[tokens=20]", 16, ["message"], "incomplete", 16),
        ("[tokens=20] [reasoning=2]", 50, ["reasoning", "message"], "completed", 22),
        ("[tokens=20] [reasoning=30]", 16, ["reasoning"], "incomplete", 16),
        ("[tokens=5] [tool]", None, ["function_call"], "completed", 5),
        ("[tokens=5] [tool] [reasoning=2]", None, ["reasoning", "function_call"], "completed", 7),
    ],
)
def test_a_stream_adds_up_to_the_answer(
    prompt: str, limit: int | None, items: list[str], ended: str, tokens: int
) -> None:
    """Items are added and done in turn, the last event has the whole response, and the events are numbered."""
    events = streamed(spelled("/v1/responses", input=prompt, max_output_tokens=limit))
    whole = spelled("/v1/responses", input=prompt, max_output_tokens=limit).body()
    assert events[-1]["response"] == whole
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["item"]["type"] for event in events if event["type"].endswith("item.added")] == items
    done = [event["item"] for event in events if event["type"].endswith("item.done")]
    assert done == whole["output"]
    assert (events[-1]["type"], whole["status"], whole["usage"]["output_tokens"]) == (
        f"response.{ended}",
        ended,
        tokens,
    )
    assert whole["incomplete_details"] == ({"reason": "max_output_tokens"} if ended == "incomplete" else None)
    deltas = [event for event in events if event["type"].endswith(".delta")]
    assert all(event["delta"] for event in deltas)
    assert len(deltas) + ("function_call" in items) == tokens
    final = done[-1]
    text = final.get("arguments") or (final.get("content") or final.get("summary"))[0]["text"]
    assert "".join(event["delta"] for event in deltas if event["output_index"] == len(items) - 1) == text
