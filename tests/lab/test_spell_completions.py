"""What the simulated provider spells as completions."""

from tests.support.simulated import spelled, streamed


def test_a_stream_adds_up_to_the_answer() -> None:
    """Every token is one event; the end has a reason of its own for each choice."""
    spelling = spelled("/v1/completions", prompt=["a [tokens=4]", "b"], max_tokens=3)
    chunks = streamed(spelling)
    whole = spelled("/v1/completions", prompt=["a [tokens=4]", "b"], max_tokens=3).body()
    assert chunks[-1] == "[DONE]"
    for choice in whole["choices"]:
        pieces = [each for chunk in chunks[:-1] for each in chunk["choices"] if each["index"] == choice["index"]]
        assert "".join(each["text"] for each in pieces) == choice["text"]
        assert (
            [each["finish_reason"] for each in pieces]
            == [None] * 3 + ["length"]
            == [None] * 3 + [choice["finish_reason"]]
        )
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}


def test_usage_comes_where_it_was_asked_for() -> None:
    """In one extra chunk, with null on the others."""
    asked = {"prompt": "a [tokens=2]", "stream": True}
    assert all("usage" not in chunk for chunk in streamed(spelled("/v1/completions", **asked))[:-1])
    chunks = streamed(spelled("/v1/completions", **asked, stream_options={"include_usage": True}))[:-1]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 3
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 2)
