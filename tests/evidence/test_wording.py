"""The same words for the same figures, wherever they are shown."""

import pytest

from proxy.evidence import wording
from proxy.evidence.blocks import Interval
from proxy.evidence.report import build
from proxy.evidence.sources.query import Window
from tests.support.exchanges import exchanges


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (wording.seconds(None), "-"),
        (wording.seconds(0.0), "0 ms"),
        (wording.seconds(0.3456), "346 ms"),
        (wording.seconds(119.0), "119.00 s"),
        (wording.seconds(600.0), "10.0 min"),
        (wording.seconds(36_000.0), "10.0 h"),
        (wording.milliseconds(0.01821), "18.21 ms"),
        (wording.percent(None), "-"),
        (wording.percent(0.0), "0.0%"),
        (wording.percent(0.0005), "0.05%"),
        (wording.percent(0.125), "12.5%"),
        (wording.count(None), "-"),
        (wording.count(1234567), "1,234,567"),
        (wording.days(1), "1 day"),
        (wording.days(0), "0 days"),
        (wording.days(2000), "2,000 days"),
        (wording.moment(1_790_035_200.0), "2026-09-22 00:00"),
        (wording.span(None), "this sample only"),
        (wording.span(Interval(0.0, 3.0)), "0 ms to 3.00 s"),
        (wording.name(None), "(unknown)"),
        (wording.name("\x1b[31mred\n"), "\ufffd[31mred\ufffd"),
        (wording.name("x" * 100), "x" * 63 + "…"),
    ],
)
def test_a_figure_is_shown_so(shown: str, expected: str) -> None:
    """Unknown is a dash, nought is nought."""
    assert shown == expected


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ([{"dialect": "opaque", "model": None}], "1 exchanges are of routes whose bodies Lengthwise does not read"),
        ([{"usage_source": "estimated"}], "1 whole answers came without usage; their tokens are estimated"),
        ([{"reasoning_tokens": 9}], "1 whole answers hold reasoning"),
        ([{"app": "a"}, {"app": "b"}], "2 apps are pooled here"),
        ([{"arm": "512"}], "1 exchanges were drawn into arms of an experiment"),
        (
            [{"stream": 0, "ttft_s": None, "last_token_s": None, "tpot_s": None}],
            "Time saved is known for 0 of 1 answers longer than 64 tokens",
        ),
    ],
)
def test_what_a_reader_must_know_is_said(changes: list[dict[str, object]], note: str) -> None:
    """Once each; a plain group needs no note."""
    (group,) = build(exchanges(*changes), Window(), by_app=False).groups
    assert [said[: len(note)] for said in wording.notes(group)] == [note]
    (plain,) = build(exchanges({}), Window(), by_app=False).groups
    assert wording.notes(plain) == []


def test_nobody_claims_a_cause() -> None:
    """The naive slope comes with why it misleads; randomised exchanges are named where there are some."""
    limits = [{"forwarded_max_tokens": limit, "e2e_s": e2e_s} for limit, e2e_s in ((100, 1.0), (200, 1.5), (300, 1.8))]
    report = build(exchanges(*limits), Window(), by_app=False)
    assert wording.why_naive(report.groups[0]).startswith(
        "Taken naively, 1,000 more max_tokens go with +4,000 ms. That is no effect"
    )
    assert wording.questions(report).startswith(
        "Nobody randomised max_tokens in this traffic: the report makes no claim"
    )
    drawn = build(exchanges(*limits, {"arm": "512"}), Window(), by_app=False)
    assert wording.questions(drawn).startswith("Only the exchanges in arms were randomised: ")
