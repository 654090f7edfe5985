"""The demo's words: each sentence says what the run shows, and no more."""

import pytest

from proxy.evidence.paired import Comparison, LimitArm
from proxy.evidence.report import Group, build
from proxy.evidence.sources.query import Window
from proxy.evidence.verdict import Verdict
from proxy.evidence.wording import UNKNOWN
from proxy.lab.demo_story import answers, cells, picture
from proxy.lab.traffic import Summary
from tests.support.exchanges import exchanges_of
from tests.support.ledgers import make_row

ARMS = (
    LimitArm(64, 30, 1.0, "A", 64.0, 0.12, 0.004, 0.38),
    LimitArm(512, 30, 0.0, "B", 160.0, 0.12, 0.004, 0.76),
    LimitArm(4096, 30, 0.0, "B", 160.0, 0.12, 0.004, 0.76),
)


def group() -> Group:
    """A model whose time is exactly 0.2 s and 10 ms for each token, whatever its limits."""
    lengths = ((10, 512), (10, 4096), (100, 512), (100, 4096), (50, 1024))
    rows = [
        make_row(
            output_tokens=tokens,
            decoded_tokens=tokens,
            last_token_s=0.2 + 0.01 * (tokens - 1),
            e2e_s=0.2 + 0.01 * (tokens - 1),
            requested_max_tokens=limit,
            forwarded_max_tokens=limit,
        )
        for tokens, limit in lengths
    ]
    return build(exchanges_of(rows), Window(), by_app=False).groups[0]


def against(arm: int, outcome: str, difference_s: float, reach_s: float, verdict: Verdict) -> Comparison:
    """A comparison with the largest limit."""
    interval = (difference_s - reach_s, difference_s + reach_s)
    return Comparison(arm, 4096, outcome, difference_s, interval, verdict, 0.010)  # type: ignore[arg-type]


def summary(**changes: object) -> Summary:
    """The summary of a class of two requests."""
    values = {
        "name": "x",
        "model": "m",
        "requests": 2,
        "complete": 2,
        "requested_max_tokens": 512,
        "forwarded_max_tokens": 512,
    }
    values |= {"generated_tokens": 120.0, "ttft_s": 0.13, "tpot_s": 0.004, "e2e_s": 0.6, "cut": 0, "rule": None}
    return Summary(**values | changes)  # type: ignore[arg-type]


LARGE = summary(requested_max_tokens=8192, forwarded_max_tokens=8192, ttft_s=1.02)
CLEAR = [
    against(64, "e2e", -0.38, 0.01, Verdict.DIFFERENT),
    against(512, "ttft", 0.001, 0.004, Verdict.EQUIVALENT),
    against(512, "e2e", -0.001, 0.004, Verdict.EQUIVALENT),
]


def test_a_clear_run_is_told_with_its_figures() -> None:
    """Case A, case B and the queue, each with its own numbers."""
    first, second, third = answers(group(), ARMS, CLEAR, summary(), LARGE)
    assert first == (
        "The limit cuts (case A): time falls with the tokens.",
        (
            "With max_tokens 64 instead of 4,096, all of the answers were cut: 64 tokens instead of 160, and the answer was there "
            "380 ms sooner (95%: -390 ms to -370 ms). All traffic has one law, which explains R² 1.000 of the time: "
            "E2E = 200 ms + 10.00 ms x (tokens - 1)."
        ),
    )
    assert second == (
        "The limit is not reached (case B): it changes nothing.",
        (
            "With max_tokens 512 instead of 4,096, none of the answers were cut: the first token came equally soon (95%: -3.0 ms to "
            "+5.0 ms, within 10 ms), the answer equally soon (95%: -5.0 ms to +3.0 ms, within 10 ms). In all traffic max_tokens "
            "explains R² 0.000 of the time."
        ),
    )
    assert third == (
        "What remains is a queue.",
        (
            "On a provider that reserves the limit, with max_tokens 8,192 instead of 512 for the same 120 tokens, the first one came "
            "after 1.02 s instead of 130 ms (p50 of 2 and 2, in turns): each request waited until its whole limit was free."
        ),
    )


@pytest.mark.parametrize(
    ("ttft", "e2e", "said"),
    [
        (Verdict.EQUIVALENT, Verdict.UNDECIDED, "the first token does not notice it"),
        (Verdict.UNDECIDED, Verdict.EQUIVALENT, "what it changes is undecided"),
        (Verdict.DIFFERENT, Verdict.EQUIVALENT, "it changes something here"),
        (Verdict.EQUIVALENT, Verdict.DIFFERENT, "it changes something here"),
    ],
)
def test_what_a_run_does_not_show_is_not_said(ttft: Verdict, e2e: Verdict, said: str) -> None:
    """The word of case B is that of its verdicts."""
    compared = [CLEAR[0], against(512, "ttft", 0.001, 0.02, ttft), against(512, "e2e", 0.001, 0.02, e2e)]
    assert answers(group(), ARMS, compared, summary(), LARGE)[1][0] == f"The limit is not reached (case B): {said}."


def test_a_run_without_effect_or_queue_says_so() -> None:
    """No time saved by the cut, no wait beyond the usual, no comparison at all."""
    said = [word for word, _ in answers(group(), ARMS, [], summary(), summary(ttft_s=0.14))]
    assert said == [
        "The limit cuts (case A): this run does not tell what that saves.",
        "The limit is not reached (case B): what it changes is undecided.",
        "What remains is a queue, of which this run shows nothing.",
    ]


def test_cells_show_unknown_as_unknown() -> None:
    """A time that no row has is a dash, no limit is named so, a cap shows both limits and whose it is."""
    unknown = summary(requested_max_tokens=None, forwarded_max_tokens=None, generated_tokens=None, ttft_s=None, cut=1)
    assert cells(unknown) == ("x", "m", "2", "no limit", UNKNOWN, UNKNOWN, "600 ms", "1")
    capped = summary(requested_max_tokens=2000, forwarded_max_tokens=96, cut=1, rule="r")
    assert cells(capped) == ("x", "m", "2", "2,000 > 96", "120", "130 ms", "600 ms", "1 (rule)")


def test_the_picture_needs_no_typeface_from_elsewhere() -> None:
    """An image with the figures, whose only addresses are names."""
    image = picture([summary()], answers(group(), ARMS, CLEAR, summary(), LARGE))
    assert image.startswith("<svg")
    assert "@font-face" not in image
    assert "url(http" not in image
    assert "380&#160;ms&#160;sooner" in image
