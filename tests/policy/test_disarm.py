"""A rule that cuts too much stops by itself, and begins again when it would cut little."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.disarm import Answer, Window, cut_by_rule
from proxy.policy.rules import Disarm
from proxy.record import Action, Decision, End, ShadowDecision
from tests.support.records import make_record


def fed(window: Window, cuts: str) -> str:
    """What each answer did, `x` cut and `.` not: `-` disarmed, `+` armed, `.` nothing."""
    return "".join(("+" if window.armed else "-") if window.add(each == "x") else "." for each in cuts)


@pytest.mark.parametrize(
    ("disarm", "cuts", "changes"),
    [
        # of the last 10 it may cut 2: the third disarms, also when only three came so far
        (Disarm(0.2, 10), "xx.......", "........."),
        (Disarm(0.2, 10), "xxx", "..-"),
        (Disarm(0.2, 10), "x....x...xx", ".........-."),
        # what has left the window is forgotten
        (Disarm(0.2, 10), "xx........xx", "............"),
        # armed again when a whole window has at most half the budget
        (Disarm(0.2, 10), "xxx.........", "..-........+"),
        (Disarm(0.2, 10), "xxx" + "." * 8, "..-" + "." * 8),
        (Disarm(0.4, 10), "xxxxx........", "....-.......+"),
        (Disarm(0.2, 10), "xxx.........xxx", "..-........+..-"),
        # none at all
        (Disarm(0.0, 3), "x...", "-..+"),
        (Disarm(1.0, 3), "xxxxxx", "......"),
        (Disarm(0.0, 1), "x.x.", "-+-+"),
    ],
)  # fmt: skip
def test_a_rule_is_disarmed_above_its_budget_and_armed_again_at_half_of_it(
    disarm: Disarm, cuts: str, changes: str
) -> None:
    """Each change is told once, with the answer that made it."""
    assert fed(Window(disarm), cuts) == changes


def test_a_window_knows_its_answers() -> None:
    """How many there are and how many were cut; it may begin disarmed, when state is rebuilt."""
    window = Window(Disarm(0.5, 4), armed=False)
    fed(window, "xx")
    assert (len(window), window.cut, window.armed) == (2, 2, False)
    assert fed(window, "xx....") == "....+."
    assert (len(window), window.cut) == (4, 0)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 12), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_state_is_that_of_the_last_answers(cuts: list[bool], of_last: int, share: float) -> None:
    """The count is never off, and above the budget a rule is never armed."""
    window = Window(Disarm(share, of_last))
    for number, cut in enumerate(cuts, 1):
        window.add(cut)
        last = cuts[max(number - of_last, 0) : number]
        assert (len(window), window.cut) == (len(last), Counter(last)[True])
        assert not (window.armed and window.cut > share * of_last)
        assert window.armed or not (len(last) == of_last and window.cut <= share * of_last / 2)


CAPPED = Decision(Action.CAPPED, "r", 100, "max_tokens", cap_tokens=100)
CUT = {"finish_reasons": ("length",)}
WOULD = Decision(shadow=(ShadowDecision("other", Action.CAPPED, 1), ShadowDecision("r", Action.CAPPED, 100)))
TOKENS = make_record().response.usage


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # it decided: what counts is whether its limit cut
        ({"decision": CAPPED, "response": CUT}, True),
        ({"decision": CAPPED}, False),
        ({"decision": CAPPED._replace(action=Action.INSERTED), "response": CUT}, True),
        ({"decision": CAPPED._replace(action=Action.NONE, forwarded_max_tokens=512), "response": CUT}, False),
        ({"decision": CAPPED, "response": {"finish_reasons": ()}}, None),
        ({"decision": CAPPED, "response": CUT, "end": End.BROKEN}, None),
        ({"decision": CAPPED, "response": CUT, "end": End.CLIENT_DISCONNECT}, None),
        ({"decision": CAPPED, "response": CUT, "status": 429}, None),
        ({"decision": CAPPED, "response": CUT, "status": None}, None),
        ({"decision": Decision(Action.REJECTED, "r"), "status": 400, "upstream_tried": False}, None),
        # it was disarmed: 128 tokens came
        ({"decision": WOULD}, True),
        ({"decision": WOULD, "response": {"usage": TOKENS._replace(output_tokens=101)}}, True),
        ({"decision": WOULD, "response": {"usage": TOKENS._replace(output_tokens=100)}}, False),
        ({"decision": WOULD, "response": {"usage": TOKENS._replace(output_tokens=100)}, "end": End.BROKEN}, None),
        ({"decision": WOULD, "end": End.BROKEN}, True),
        ({"decision": WOULD, "end": End.CLIENT_DISCONNECT}, True),
        ({"decision": WOULD, "request": {"choices": 2}}, False),
        ({"decision": WOULD, "response": {"usage": None}}, None),
        ({"decision": WOULD, "response": {"usage": None}, "estimated_output_tokens": 101}, True),
        ({"decision": Decision(shadow=(ShadowDecision("r", Action.NONE, None),))}, False),
        ({"decision": Decision(shadow=(ShadowDecision("r", Action.NONE, 100),))}, False),
        ({"decision": Decision(shadow=(ShadowDecision("r", Action.INSERTED, 100),))}, True),
        # another's
        ({}, None),
        ({"decision": CAPPED._replace(rule="other"), "response": CUT}, None),
    ],
)
def test_an_answer_counts_for_the_rule_that_limited_it_or_would_have(
    changes: dict[str, object], expected: bool | None
) -> None:
    """None says nothing: neither way does it enter the window."""
    answer = Answer.of(make_record(**changes))
    assert (None if answer is None else cut_by_rule(answer, "r")) is expected
