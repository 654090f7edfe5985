"""Completions requests are read: a list of tokens is one prompt, a list of anything else is many."""

import json

import pytest

from proxy.record import RequestFacts
from proxy.wire.dialects import match
from proxy.wire.dialects.base import Reading

COMPLETIONS = match(b"/v1/completions")


def facts(**changes):
    """Facts of a completions request."""
    return RequestFacts("completions", **changes)


@pytest.mark.parametrize(
    ("request_", "choices"),
    [
        ({}, 1),
        ({"prompt": "a"}, 1),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": []}, 1),
        ({"prompt": None}, 1),
        ({"prompt": ["a", "b"], "n": 3}, 6),
        ({"prompt": ["a", "b"], "n": 3, "best_of": 5}, 10),
        ({"n": 3, "best_of": None}, 3),
        ({"n": 3, "best_of": 0}, 3),
        ({"n": 3, "best_of": 2}, 3),
        ({"best_of": 4}, 4),
        ({"n": 1e30, "prompt": ["a", "b"]}, 2**63 - 1),
    ],
)
def test_choices_are_the_candidates_of_all_prompts(request_, choices):
    """Every one of them is generated and counted."""
    assert COMPLETIONS.read_request(json.dumps(request_).encode()) == facts(choices=choices)


@pytest.mark.parametrize(
    ("request_", "field"),
    [({"n": "2"}, "n"), ({"n": 0}, "n"), ({"best_of": -1}, "best_of"), ({"best_of": [2], "n": 2}, "best_of")],
)
def test_candidates_that_cannot_be_counted_are_unknown(request_, field):
    """And the member is named that cannot be read."""
    assert COMPLETIONS.read_request(json.dumps(request_).encode()) == facts(
        choices=None, degraded="choices_type", degraded_field=field
    )


def test_a_limit_of_zero_is_that_of_an_echo():
    """The prompt with its log probabilities and nothing else; without an echo servers read 0 in two ways."""
    body = b'{"echo":true,"max_tokens":0,"logprobs":1}'
    assert COMPLETIONS.read_request(body) == facts(limits=(("max_tokens", 0),))
    assert COMPLETIONS.read_request(body.replace(b"true", b"false")) == facts(
        limits=(("max_tokens", 0),), degraded="limit_zero", degraded_field="max_tokens"
    )


def test_a_request_is_read():
    """An absent limit is absent, although the provider then generates 16 tokens at most."""
    body = b'{"model":"instruct","prompt":"a","max_tokens":7,"stream":true,"echo":true,"temperature":0.5,"seed":3}'
    assert COMPLETIONS.read_request(body) == facts(
        model="instruct", stream=True, limits=(("max_tokens", 7),), temperature=0.5, seed=3
    )
    assert COMPLETIONS.read_request(b'{"max_tokens":null}').limits == ()
    assert COMPLETIONS.read_request(b'{"max_completion_tokens":5}').limits == (("max_completion_tokens", 5),)


def test_an_echo_without_an_output_token_has_no_time():
    """The text that came is the prompt."""
    reading = Reading()
    assert COMPLETIONS.read_event(
        (None, b'{"choices":[{"index":0,"text":"prompt","finish_reason":"length"}]}'), reading
    )
    assert not reading.untimed
    COMPLETIONS.read_event((None, b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":0}}'), reading)
    assert reading.untimed
    COMPLETIONS.read_event((None, b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'), reading)
    assert not reading.untimed
