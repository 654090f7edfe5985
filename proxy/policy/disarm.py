"""When a rule stops enforcing by itself, and when it begins again: how many of its last answers it cut, or would have.

Layer: policy. Pure: finished records in, state out. The recorder feeds it, and rebuilds it from the ledger.

A rule disarms when more of its last `of_last` answers than its budget were cut by it. Disarmed it acts as shadow, and an answer counts as
cut when it is longer than the limit would have been. It is armed again when a whole window holds at most half the budget.

Source: ARCHITECTURE.md 7 "Policies".
"""

from collections import deque

from proxy.policy.rules import Disarm
from proxy.record import Action, End, ExchangeRecord

__all__ = ["Window", "cut_by_rule"]

_LIMITING = frozenset((Action.CAPPED, Action.INSERTED))


class Window:
    """The last answers of one rule."""

    __slots__ = ("_answers", "_cut", "armed", "disarm")

    def __init__(self, disarm: Disarm, *, armed: bool = True) -> None:
        self.disarm = disarm
        self.armed = armed
        self._answers: deque[bool] = deque(maxlen=disarm.of_last)
        self._cut = 0

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
        elif len(self._answers) == self.disarm.of_last and self._cut <= self.disarm.budget / 2:
            self.armed = True
        return self.armed is not before


def cut_by_rule(record: ExchangeRecord, rule: str) -> bool | None:
    """Whether this rule cut the answer, or would have while it was disarmed; None when that says nothing: another rule's, or not whole."""
    decision = record.decision
    answered = record.status is not None and 200 <= record.status < 300 and record.upstream_tried
    if not answered:
        return None
    whole = record.end is End.COMPLETE and record.cut is not None
    if decision.rule == rule:
        return record.truncated_by == "policy" if whole else None
    for shadow in decision.shadow:
        if shadow.rule == rule:
            tokens = record.output_tokens
            if tokens is None:
                return None
            limit = shadow.forwarded if shadow.action in _LIMITING else None
            if limit is not None and tokens > limit * (record.request.choices or 1):
                return True  # also of an answer that was left or broke: it had come so far
            return False if whole else None
    return None
