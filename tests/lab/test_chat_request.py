"""Requests as the simulated provider reads them: directives, limits, and what is refused."""

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.lab.chat_request import ChatRequest, Fault, Model, RefusedError, failure, read_request


def body(prompt: str = "Tell me something.", **changes: Any) -> bytes:
    """A chat request's body; a change to None leaves the field out."""
    data = {"model": "sim-small", "messages": [{"role": "user", "content": prompt}]} | changes
    return orjson.dumps({name: value for name, value in data.items() if value is not None})


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
    assert read_request(body(model="gpt-4o"), any_model=True).model == Model("gpt-4o")


@pytest.mark.parametrize(
    ("prompt", "field", "value"),
    [
        ("[tokens=200]", "tokens", 200),
        ("[tokens=0]", "tokens", 1),
        ("[reasoning=0]", "reasoning_tokens", 0),
        ("[ttft_ms=0.5]", "ttft_s", 0.0005),
        ("[tpot_ms=20]", "tpot_s", 0.02),
        ("[error=429]", "error_status", 429),
        ("[error=200]", "error_status", None),
        ("[error=999]", "error_status", None),
        ("[error_after=0]", "fault", Fault("error_after", 0)),
        ("[stall_after=7]", "fault", Fault("stall_after", 7)),
        ("[reset_after=7]", "fault", Fault("reset_after", 7)),
        ("[tool]", "tool", "look_up"),
        ("[tool=1]", "tool", None),
        ("[tokens=many]", "tokens", None),
        ("tokens=5", "tokens", None),
    ],
)
def test_a_directive_is_read_wherever_it_stands(prompt: str, field: str, value: Any) -> None:
    """Each directive sets one field; what is spelled otherwise is a prompt like any other."""
    request = read_request(body(f"Say {prompt} something."), any_model=False)
    assert getattr(request, field) == value


def test_a_reservation_is_input_and_limit_for_every_choice() -> None:
    """Without a limit the longest answer is reserved."""
    assert read_request(body("one two", max_tokens=10, n=3), any_model=False).reserved_tokens == 32
    assert read_request(body("one two"), any_model=False).reserved_tokens == 2 + 16_384


def test_a_failure_has_the_type_that_clients_map() -> None:
    """Too many requests is a rate limit, 5xx the server's fault, the rest the request's."""
    found = {status: orjson.loads(failure(status).body)["error"]["type"] for status in (400, 401, 429, 500, 503)}
    assert found == {
        400: "invalid_request_error",
        401: "invalid_request_error",
        429: "rate_limit_error",
        500: "server_error",
        503: "server_error",
    }
