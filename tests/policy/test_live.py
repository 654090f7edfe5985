"""Laws and disarmed rules: how many tokens fit into a time, and that all of it crosses to the workers."""

import dataclasses

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.live import Law, Live


def test_live_is_one_immutable_value() -> None:
    """It is replaced as a whole, never changed under a decision."""
    assert Live() == Live()
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        Live().laws = {}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("law", "deadline_s", "tokens"),
    [
        (Law(0.5, 0.1), 0.4, 0),
        (Law(0.5, 0.1), 0.5, 1),
        (Law(0.5, 0.1), 0.59, 1),
        (Law(0.5, 0.1), 0.6, 2),
        (Law(0.5, 0.1), 1.5, 11),
        (Law(0.0, 0.1), 1.0, 11),
        (Law(0.0, 0.3), 0.9, 4),
        (Law(0.2, 0.0), 0.1, 0),
        (Law(0.2, 0.0), 0.2, 2**53),
        (Law(1.0, 0.02), 600.0, 29951),
    ],
)
def test_the_tokens_of_a_time_are_counted_from_the_first_on(law: Law, deadline_s: float, tokens: int) -> None:
    """The first token takes the time to it, each other one step; not even the first is 0, no step at all is no limit."""
    assert law.tokens_within(deadline_s) == tokens


@given(st.floats(0, 100), st.floats(1e-4, 10), st.integers(1, 10**6))
def test_what_fits_takes_no_longer_than_the_time(ttft_s: float, tpot_s: float, tokens: int) -> None:
    """The law run forwards and backwards agrees but for rounding."""
    assert abs(Law(ttft_s, tpot_s).tokens_within(ttft_s + tpot_s * (tokens - 1)) - tokens) <= 1


def test_live_state_crosses_as_json() -> None:
    """With models that were not named, and quantiles as the rules write them."""
    live = Live(
        {("openai", "gpt-4o", 0.95): Law(0.25, 0.0125), ("vllm", None, 0.5): Law(1.0, 0.0)}, frozenset({"b", "a"})
    )
    line = orjson.dumps(live.to_json())
    assert line == b'{"laws":[["openai","gpt-4o",0.95,0.25,0.0125],["vllm",null,0.5,1.0,0.0]],"disarmed":["a","b"]}'
    assert Live.from_json(orjson.loads(line)) == live
    assert Live.from_json(Live().to_json()) == Live()


@pytest.mark.parametrize(
    "document",
    [{}, {"laws": [], "disarmed": None}, {"laws": [["a", "b"]], "disarmed": []}, {"laws": 5, "disarmed": []}],
)
def test_what_is_no_live_state_is_not_taken_for_one(document: dict[str, object]) -> None:
    """The receiver keeps what it has."""
    with pytest.raises((LookupError, TypeError, ValueError)):
        Live.from_json(document)
