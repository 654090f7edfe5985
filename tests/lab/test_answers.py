"""What the simulated provider draws and spells, without a socket."""

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.lab import answers
from proxy.lab.answers import Answer, ChatRequest, RefusedError, draw_answers, read_request


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


def test_max_completion_tokens_counts_before_max_tokens() -> None:
    """Of two limits the newer field is the one in force."""
    request = read_request(body(max_completion_tokens=7, max_tokens=9), any_model=False)
    assert request.max_tokens == 7
    assert read_request(body(max_tokens=9), any_model=False).max_tokens == 9
    assert read_request(body(), any_model=False).max_tokens is None


def test_only_the_last_user_message_carries_directives() -> None:
    """A directive in an earlier turn, in the system's message or in an answer says nothing."""
    messages = [
        {"role": "system", "content": "[error=500]"},
        {"role": "user", "content": "[tokens=3]"},
        {"role": "assistant", "content": "[stall_after=1]"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "now [tokens=12]"}, {"type": "text", "text": "[ttft_ms=2.5]"}],
        },
    ]
    request = read_request(body(messages=messages), any_model=False)
    assert (request.tokens, request.ttft_s, request.error_status, request.fault) == (12, 0.0025, None, None)


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


@pytest.mark.parametrize(
    ("sent", "status", "param", "code"),
    [
        (b"{", 400, None, None),
        (b"[]", 400, None, None),
        (b"\xff", 400, None, None),
        (body(model=None), 400, "model", None),
        (body(model=""), 400, "model", None),
        (body(model="gpt-4o"), 404, "model", "model_not_found"),
        (body(messages=[]), 400, "messages", None),
        (body(messages="hello"), 400, "messages", None),
        (body(messages=[{"content": "x"}]), 400, "messages[0]", "invalid_type"),
        (body(max_tokens=0), 400, "max_tokens", "integer_below_min_value"),
        (body(max_tokens=-5), 400, "max_tokens", "integer_below_min_value"),
        (body(max_tokens=1.5), 400, "max_tokens", "invalid_type"),
        (body(max_tokens=True), 400, "max_tokens", "invalid_type"),
        (body(max_completion_tokens="9"), 400, "max_completion_tokens", "invalid_type"),
        (body(n=0), 400, "n", "integer_below_min_value"),
        (body(n=129), 400, "n", "integer_above_max_value"),
        (body(stream="yes"), 400, "stream", "invalid_type"),
        (body(stream_options={"include_usage": True}), 400, "stream_options", None),
        (body(stream=True, stream_options=[]), 400, "stream_options", "invalid_type"),
        (body(stream=True, stream_options={"include_usage": 1}), 400, "include_usage", "invalid_type"),
    ],
)
def test_what_is_no_request_gets_an_envelope(sent: bytes, status: int, param: str | None, code: str | None) -> None:
    """Status, parameter and code are those of OpenAI's API; all four fields of the envelope are there."""
    with pytest.raises(RefusedError) as caught:
        read_request(sent, any_model=False)
    error = orjson.loads(caught.value.body)["error"]
    assert (caught.value.status, error["type"], error["param"], error["code"]) == (
        status,
        "invalid_request_error",
        param,
        code,
    )
    assert error["message"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "model",
                        "messages",
                        "role",
                        "content",
                        "text",
                        "n",
                        "max_tokens",
                        "stream",
                        "stream_options",
                        "tools",
                    ]
                ),
                inner,
                max_size=6,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_read_or_refused(document: Any) -> None:
    """Nothing but a refusal is raised, whatever was sent."""
    try:
        sent = orjson.dumps(document)
    except TypeError:  # beyond 64 bits: no JSON that orjson writes
        return
    with contextlib.suppress(RefusedError):
        assert isinstance(read_request(sent, any_model=True), ChatRequest)


def test_an_unknown_model_answers_only_where_that_was_allowed() -> None:
    """With any_model another name is the small model's equal."""
    assert read_request(body(model="gpt-4o"), any_model=True).model == answers.Model("gpt-4o")
