"""The plots of a group."""

import numpy as np
import orjson

from proxy.evidence.pictures import charts
from proxy.evidence.report import Group, build
from proxy.evidence.sources.query import Window
from tests.support.exchanges import exchanges, exchanges_of
from tests.support.traffic import ledger_rows

TITLES = [
    "Time against tokens that were generated",
    "Time against tokens that were allowed",
    "How long answers are",
    "What a cap would have saved and cut",
    "Time to first token over time",
    "Time to first token by limit",
    "How much of the limit answers use",
]


def _traffic(count: int) -> Group:
    rows = exchanges_of(ledger_rows(np.random.default_rng(4), exchanges=count, days=7))
    return build(rows, Window(), by_app=False).groups[0]


def test_a_group_has_all_its_plots() -> None:
    """In their order, each with the number of exchanges behind it."""
    found = charts(_traffic(1000))
    assert [chart.title for chart in found] == TITLES
    assert all(any(digit.isdigit() for digit in chart.note) for chart in found)


def test_a_plot_needs_data() -> None:
    """What there is none of is left out."""
    (group,) = build(exchanges({"end": "broken", "output_tokens": None}), Window(), by_app=False).groups
    assert charts(group) == []


def test_clouds_are_thinned_and_lines_are_not_of_the_thinned() -> None:
    """A plot holds so many points at most; counts are of all exchanges."""
    found = charts(_traffic(30_000))
    assert len(orjson.dumps([chart.traces for chart in found])) < 100_000
    lengths = found[2]
    outside = int(lengths.note.split(" longer ones")[0].split()[-1].replace(",", ""))
    assert sum(sum(trace["y"]) for trace in lengths.traces if trace["type"] == "bar") + outside == 30_000


def test_limits_are_classed_as_on_the_metrics() -> None:
    """A class includes its bound; no limit is a class of its own."""
    limits = (None, 256, 257, 1024, 4096, 4097, 16_384, 16_385)
    rows = exchanges(*({"forwarded_max_tokens": limit} for limit in limits))
    (group,) = build(rows, Window(), by_app=False).groups
    (chart,) = (chart for chart in charts(group) if chart.title == "Time to first token by limit")
    assert chart.traces[0]["x"] == [
        *(
            "none<br>n 1",
            "up to 256<br>n 1",
            "up to 1k<br>n 2",
            "up to 4k<br>n 1",
            "up to 16k<br>n 2",
            "above 16k<br>n 1",
        ),
    ]


def test_the_line_over_time_is_by_what_its_span_has_at_least_twelve_of() -> None:
    """Days of weeks, hours of days, seconds of a minute; never one point where there could be a line."""
    notes = {}
    for span_s in (30 * 86_400, 2 * 86_400, 3600, 60, 3):
        rows = exchanges(*({"started_at": 1_790_000_000 + span_s * part / 99} for part in range(100)))
        (group,) = build(rows, Window(), by_app=False).groups
        (chart,) = (chart for chart in charts(group) if chart.title == "Time to first token over time")
        notes[span_s] = (chart.note.partition(", by ")[2], len(chart.traces[0]["x"]))
    assert notes == {
        2_592_000: ("day (UTC).", 31),
        172_800: ("hour (UTC).", 49),
        3600: ("minute (UTC).", 61),
        60: ("second (UTC).", 61),
        3: ("second (UTC).", 4),
    }
