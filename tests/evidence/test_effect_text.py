"""An experiment in words."""

import pytest

from proxy.evidence.effect import Arm, Comparison, Experiment, Unit
from proxy.evidence.effect_text import show, signed
from proxy.evidence.verdict import Verdict
from proxy.evidence.wording import UNKNOWN


def experiment(unit: Unit) -> Experiment:
    """Three verdicts and a warning."""
    shared = {"arm": "512", "reference": "none", "n": 4000, "units": 400}
    return Experiment(
        rule="chat-cap",
        model="gpt-4o",
        upstream=None,
        unit=unit,
        arms=(
            Arm("512", 2000, 200, 0.012, 0.0, 180.0, 0.412, 0.0118, 2.54),
            Arm("none", 2000, 200, None, 0.1, None, None, None, None),
        ),
        comparisons=(
            Comparison(**shared, outcome="ttft", difference_s=-0.030, ci95=(-0.040, -0.020), verdict=Verdict.DIFFERENT, margin_s=0.010, units_needed=None),
            Comparison(**shared, outcome="tpot", difference_s=0.0, ci95=(-0.0001, 0.0001), verdict=Verdict.EQUIVALENT, margin_s=0.000236, units_needed=None),
            Comparison(**shared, outcome="e2e", difference_s=-0.2, ci95=None, verdict=Verdict.UNDECIDED, margin_s=0.05, units_needed=1200),
        ),
        warnings=("arm 512 cuts 1.2% of its answers",),
    )  # fmt: skip


def shown(unit: Unit, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed, with its blanks made one."""
    show([experiment(unit)])
    return " ".join(capsys.readouterr().out.split())


def test_arms_differences_and_verdicts_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """What is unknown is a dash; what is undecided says what it needs."""
    text = shown(Unit.REQUEST, capsys)
    for words in (
        "rule chat-cap · gpt-4o · (unknown)",
        "512 2,000 1.2% 0.0% 180 412 ms 11.80 ms 2.54 s",
        f"none 2,000 {UNKNOWN} 10.0% {UNKNOWN} {UNKNOWN} {UNKNOWN} {UNKNOWN}",
        "TTFT 512 -30.0 ms -40.0 ms to -20.0 ms different",
        "TPOT 512 0 ms -0.100 ms to +0.100 ms equivalent, within 0.236 ms",
        "E2E 512 -200 ms too few undecided, needs about 1,200 more requests",
        "warning: arm 512 cuts 1.2% of its answers",
    ):
        assert words in text


def test_only_blocks_of_time_show_what_a_queue_does(capsys: pytest.CaptureFixture[str]) -> None:
    """Arms beside each other hide it, which is said; of blocks it is not."""
    said = {unit: "unit: switchback shows it" in shown(unit, capsys) for unit in Unit}
    assert said == {Unit.REQUEST: True, Unit.HEADER: True, Unit.SWITCHBACK: False}


def test_a_difference_has_the_digits_that_it_needs() -> None:
    """And its sign; a thousandth of a millisecond is none."""
    assert [signed(value) for value in (1.2345, -0.1, 0.0123, 0.000123, -0.0000001)] == [
        "+1,234 ms",
        "-100 ms",
        "+12.3 ms",
        "+0.123 ms",
        "0 ms",
    ]
