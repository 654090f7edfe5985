"""Arms that would cut answers are warned about; those that would not, and those nothing is known of, are not."""

from typing import Any

import pytest

from proxy.policy.rules import parse
from proxy.policy.slack import Length, tight_arms

LENGTHS = [Length("up", "chat_completions", "m-1", "search", tokens) for tokens in range(1, 201)]


def warned(lengths: list[Length], match: dict[str, Any], *arms: int | str) -> list[str]:
    """Warnings about an experiment behind another rule."""
    rules = [
        {"name": "cap", "do": "cap", "max_tokens": 5},
        {"name": "trial", "match": match, "do": "cap", "experiment": {"arms": list(arms)}},
    ]
    return tight_arms(parse({"version": 1, "rules": rules}), lengths)


def test_an_arm_below_the_longest_in_a_hundred_is_tight():
    """198.01 of 1 to 200; the arm and what it is measured by are named."""
    assert warned(LENGTHS, {}, 198, 199, "none") == [
        (
            "rules[1].experiment.arms: 198 would cut answers: the 99th percentile of the last 200 is 198 tokens; "
            "arms that cut compare shorter answers, not smaller limits"
        )
    ]
    assert warned(LENGTHS, {}, 199, "none") == []


@pytest.mark.parametrize("match", [{"model": "m-2"}, {"app": "chat"}, {"upstream": "other"}, {"dialect": "responses"}])
def test_answers_of_others_say_nothing(match: dict[str, Any]):
    """Only what the rule would match counts, and it has to be enough."""
    assert warned(LENGTHS, match, 1, 2) == []
    assert warned(LENGTHS[:99], {"model": "m-*", "app": "s*", "upstream": "up"}, 1, 2) == []
    assert len(warned(LENGTHS[:100], {"model": "m-*", "app": "s*", "upstream": "up"}, 1, 2)) == 1
