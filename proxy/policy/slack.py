"""Whether the arms of experiments are slack, as they should be: longer than nearly every answer.

Layer: policy. Pure. An arm that cuts answers changes what is compared: shorter answers, not a smaller number.
"""

from collections.abc import Sequence
from typing import NamedTuple

from proxy.policy.live import quantile
from proxy.policy.rules import PolicySet, Rule

__all__ = ["Length", "tight_arms"]

_SHARE = 0.99
_LEAST_ANSWERS = 100
"""Of fewer answers the longest in a hundred is not known."""


class Length(NamedTuple):
    """How long one answer was, and what rules look at."""

    upstream: str | None
    dialect: str
    model: str | None
    app: str | None
    output_tokens: int


def tight_arms(policies: PolicySet, lengths: Sequence[Length]) -> list[str]:
    """A warning for each experiment with an arm below the 99th percentile of the answers that its rule would match."""
    found = []
    for index, rule in enumerate(policies.rules):
        if rule.experiment is None:
            continue
        matching = sorted(each.output_tokens for each in lengths if _matches(rule, each))
        if len(matching) < _LEAST_ANSWERS:
            continue
        p99_tokens = quantile(matching, _SHARE)
        tight = [str(arm) for arm in rule.experiment.arms if type(arm) is int and arm < p99_tokens]
        if tight:
            found.append(
                f"rules[{index}].experiment.arms: {', '.join(tight)} would cut answers: the 99th percentile of the last "
                f"{len(matching)} is {p99_tokens:.0f} tokens; arms that cut compare shorter answers, not smaller limits"
            )
    return found


def _matches(rule: Rule, length: Length) -> bool:
    """As far as a finished answer tells: by upstream, dialect, model and application."""
    match = rule.match
    return (
        (match.upstream is None or length.upstream in match.upstream)
        and (match.dialect is None or length.dialect in match.dialect)
        and (match.model is None or (length.model is not None and match.model.match(length.model) is not None))
        and (match.app is None or (length.app is not None and match.app.match(length.app) is not None))
    )
