"""What a probe says in words."""

import pytest

from proxy.evidence.paired import Comparison, LimitArm
from proxy.evidence.verdict import Verdict
from proxy.lab.budget import Budget
from proxy.lab.probe_text import sentences, show
from proxy.lab.probing import Outcome

CUT = LimitArm(64, 30, 1.0, "A", 64.0, 0.1, 0.01, 0.73)
SOME = LimitArm(128, 30, 0.25, "B", 120.0, 0.1, 0.01, 1.29)
NATURAL = LimitArm(1024, 30, 0.0, "B", 180.0, 0.1, 0.01, 1.89)
LARGE = LimitArm(4096, 30, 0.0, "B", 181.0, 0.13, 0.01, 1.92)


def against(arm: int, outcome: str, difference_s: float, reach_s: float, verdict: Verdict) -> Comparison:
    """A comparison with the largest limit."""
    interval = (difference_s - reach_s, difference_s + reach_s)
    return Comparison(arm, 4096, outcome, difference_s, interval, verdict, 0.010)  # type: ignore[arg-type]


COMPARED = [
    against(64, "ttft", -0.001, 0.002, Verdict.EQUIVALENT),
    against(128, "ttft", 0.0, 0.002, Verdict.EQUIVALENT),
    against(1024, "ttft", -0.030, 0.005, Verdict.DIFFERENT),
    against(64, "e2e", -1.170, 0.020, Verdict.DIFFERENT),
    against(128, "e2e", -0.6, 0.1, Verdict.DIFFERENT),
    against(1024, "e2e", -0.030, 0.050, Verdict.UNDECIDED),
]


def test_each_limit_is_told_by_what_it_did() -> None:
    """Case A by the whole answer, case B by both times; what is undecided is said to be."""
    cut, some, natural = sentences([CUT, SOME, NATURAL, LARGE], COMPARED)
    assert cut == (
        "max_tokens 64 cuts 100.0% of the answers (case A): 64 tokens instead of 181; against 4,096 the whole answer comes "
        "1.17 s sooner (95%: -1,190 ms to -1,150 ms)."
    )
    assert some == (
        "max_tokens 128 cuts 25.0% of the answers (a mixture: most end by themselves): 120 tokens instead of 181; "
        "against 4,096 the whole answer comes 600 ms sooner (95%: -700 ms to -500 ms)."
    )
    assert natural == (
        "max_tokens 1,024 cuts nothing (case B): against 4,096 the first token comes 30 ms sooner "
        "(95%: -35.0 ms to -25.0 ms), the whole answer 30 ms sooner or not, undecided (95%: -80.0 ms to +20.0 ms)."
    )


def test_trouble_is_shown_beside_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Failures by their reason, a cache that was met, answers that nobody counted, an early end, and the bill."""
    outcome = Outcome([], ["a", "b", "b"], "the budget is spent", 2, 3)
    show([CUT, LARGE], [], outcome, Budget(10, 100, 1, spent_requests=9, spent_tokens=1234))
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "Ended before its plan did: the budget is spent.",
        "2 requests failed: b 1 requests failed: a",
        "2 answers read input from the provider's cache",
        "3 answers came without usage",
        "Spent: 9 requests, 1,234 tokens.",
    ):
        assert words in shown
