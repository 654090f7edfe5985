"""When a rule stops enforcing by itself, and when it begins again: how many of its last answers it cut, or would have.

Layer: policy. Pure: finished records in, state out. The recorder feeds it, and rebuilds it from the ledger.

A rule disarms when more of its last `of_last` answers than its budget were cut by it. Disarmed it acts as shadow, and an answer counts as
cut when it is longer than the limit would have been. It is armed again when a whole window holds at most half the budget.

Source: ARCHITECTURE.md 7 "Policies".
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from proxy.policy.rules import Disarm
from proxy.record import Action, End, ExchangeRecord, ShadowDecision

__all__ = ["Answer", "Window", "cut_by_rule"]

_LIMITING = frozenset((Action.CAPPED, Action.INSERTED))


class Answer(NamedTuple):
    """What counts of one exchange; a ledger's row has it too."""

    rule: str | None
    cut_by_policy: bool
    """True when the limit that ended it was the policy's."""
    whole: bool
    """True when it came whole and said how it ended."""
    output_tokens: int | None
    choices: int | None
    shadow: tuple[ShadowDecision, ...]

    @classmethod
    def of(cls, record: ExchangeRecord) -> "Answer | None":
        """The answer of an exchange; None when the upstream gave none."""
        if record.status is None or not 200 <= record.status < 300 or not record.upstream_tried:
            return None
        return cls(
            record.decision.rule,
            record.truncated_by == "policy",
            record.end is End.COMPLETE and record.cut is not None,
            record.output_tokens,
            record.request.choices,
            record.decision.shadow,
        )


class Window:
    """The last answers of one rule."""

    __slots__ = ("_answers", "_cut", "armed", "disarm")

    def __init__(self, disarm: Disarm, *, armed: bool = True) -> None:
        self.disarm = disarm
        self.armed = armed
        self._answers: deque[bool] = deque(maxlen=disarm.of_last)
        self._cut = 0

    @classmethod
    def rebuilt(cls, disarm: Disarm, rule: str, answers: Sequence[Answer]) -> "Window":
        """The window after these answers, oldest first; where they decide nothing, the last one tells what the rule was then."""
        window = cls(disarm)
        for answer in answers:
            cut = cut_by_rule(answer, rule)
            if cut is not None:
                window.add(cut)
        if answers and answers[-1].rule != rule and not window._may_be_armed:
            window.armed = False
        return window

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def cut(self) -> int:
        """How many of them the rule cut, or would have."""
        return self._cut

    def add(self, cut: bool) -> bool:
        """Take one answer; True when the rule was disarmed or armed by it. O(1)."""
        if len(self._answers) == self.disarm.of_last:
            self._cut -= self._answers[0]
        self._answers.append(cut)
        self._cut += cut
        before = self.armed
        if self._cut > self.disarm.budget:
            self.armed = False
        elif self._may_be_armed:
            self.armed = True
        return self.armed is not before

    @property
    def _may_be_armed(self) -> bool:
        return len(self._answers) == self.disarm.of_last and self._cut <= self.disarm.budget / 2


def cut_by_rule(answer: Answer, rule: str) -> bool | None:
    """Whether this rule cut the answer, or would have while it was disarmed; None when that says nothing: another rule's, or not whole."""
    if answer.rule == rule:
        return answer.cut_by_policy if answer.whole else None
    for shadow in answer.shadow:
        if shadow.rule == rule:
            if answer.output_tokens is None:
                return None
            limit = shadow.forwarded if shadow.action in _LIMITING else None
            if limit is not None and answer.output_tokens > limit * (answer.choices or 1):
                return True  # also of an answer that was left or broke: it had come so far
            return False if answer.whole else None
    return None
