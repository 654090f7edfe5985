"""What the simulated provider draws and spells, without a socket."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.lab.answers import Answer, draw_answers
from proxy.lab.chat_request import read_request


def body(prompt: str = "Tell me something.", **changes: Any) -> bytes:
    """A chat request's body; a change to None leaves the field out."""
    data = {"model": "sim-small", "messages": [{"role": "user", "content": prompt}]} | changes
    return orjson.dumps({name: value for name, value in data.items() if value is not None})


def draw(prompt: str = "Tell me something.", **changes: Any) -> tuple[Answer, ...]:
    """The answers to such a request."""
    return draw_answers(read_request(body(prompt, **changes), any_model=True), median_tokens=100, sigma=0.5, seed=1)


def test_the_same_prompt_has_the_same_natural_length_whatever_the_limit() -> None:
    """A limit decides only whether the answer is cut, never how long it would have been."""
    (free,) = draw()
    assert draw(max_tokens=10_000, temperature=1.5) == (free,)
    (cut,) = draw(max_tokens=free.tokens - 1)
    assert cut == Answer(reasoning_tokens=0, answer_tokens=free.tokens - 1, cut=True, tool=None)
    assert draw(max_tokens=free.tokens) == (free,)


def test_lengths_differ_by_prompt_model_choice_and_seed() -> None:
    """Everything that is no limit draws anew."""
    lengths = [draw()[0].tokens, draw("Tell me more.")[0].tokens, draw(model="sim-large")[0].tokens]
    lengths += [draw(n=2)[1].tokens]
    request = read_request(body(), any_model=False)
    lengths += [draw_answers(request, median_tokens=100, sigma=0.5, seed=2)[0].tokens]
    assert len(set(lengths)) == 5


def test_natural_lengths_have_the_median_that_was_set() -> None:
    """Half of the prompts are answered below it, half above."""
    lengths = sorted(draw(f"Question {number}.")[0].tokens for number in range(400))
    assert 90 < lengths[200] < 110
    assert lengths[40] < 70
    assert lengths[360] > 140


def test_the_limit_covers_reasoning_first() -> None:
    """A limit inside the reasoning leaves no token for the answer."""
    prompt = "Think. [reasoning=30] [tokens=20]"
    assert draw(prompt) == (Answer(30, 20, cut=False, tool=None),)
    assert draw(prompt, max_tokens=40) == (Answer(30, 10, cut=True, tool=None),)
    assert draw(prompt, max_tokens=10) == (Answer(10, 0, cut=True, tool=None),)
    assert draw("Think. [tokens=20]", model="sim-reasoning")[0].reasoning_tokens > 0


def test_a_whole_tool_call_is_json_and_a_cut_one_is_not() -> None:
    """Pieces of arguments add up to JSON only when all of them came."""
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    (whole,) = draw("Look. [tool] [tokens=8]", tools=tools)
    call = whole.message()["tool_calls"][0]
    assert whole.finish_reason == "tool_calls"
    assert call["function"]["name"] == "weather"
    assert list(orjson.loads(call["function"]["arguments"])) == ["query"]
    (cut,) = draw("Look. [tool] [tokens=8]", tools=tools, max_tokens=5)
    assert cut.finish_reason == "length"
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(cut.message()["tool_calls"][0]["function"]["arguments"])


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 100), st.booleans())
def test_every_generated_token_is_one_delta_that_says_something(
    tokens: int, reasoning: int, limit: int, calls: bool
) -> None:
    """Deltas are never empty, so whoever counts events counts tokens."""
    prompt = f"[tokens={tokens}] [reasoning={reasoning}]" + " [tool]" * calls
    (answer,) = draw(prompt, max_tokens=limit)
    for position in range(answer.tokens):
        delta = answer.delta(position)
        said = delta.get("content") or delta.get("reasoning_content")
        if "tool_calls" in delta:
            function = delta["tool_calls"][0]["function"]
            said = function["arguments"] or function.get("name")
        assert said
