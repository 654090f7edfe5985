"""The pure parts of the bench: which rounds count, what is compared with what, what a target says, and that the picture is one."""

import xml.etree.ElementTree as ET

import pytest

from tests.bench import chart
from tests.bench.candidates import CANDIDATES
from tests.bench.figures import Column, Spread, compared, percentile, rows, short, spreads, steady, table
from tests.bench.targets import HEAD, TARGETS, Target, Verdict, judge
from tests.bench.trials import COLUMNS, SLOW, TRIALS

CPU = Target("CPU of a request", "plain", "cpu_us/nginx", 1.8, "x nginx")
TTFT = Target("TTFT over nginx", "plain", "ttft_us-nginx", 0.15, "ms", 1e-3)
GOODPUT = Target("goodput", "overload", "good_pct", 90, "%", at_least=True)


def spread(middle: float) -> Spread:
    """Of three rounds."""
    return Spread.of([middle - 1, middle, middle + 1])


def test_a_spread_interpolates_between_neighbours() -> None:
    """Quartiles of four values lie between them; one value is all of its spread."""
    assert Spread.of([4, 1, 3, 2]) == Spread(1, 1.75, 2.5, 3.25, 4)
    assert Spread.of([7]) == Spread(7, 7, 7, 7, 7)


def test_a_percentile_is_one_of_the_values() -> None:
    """As the load generator takes it, whatever their order."""
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([3, 1, 2], 0.99) == 3
    assert percentile([5], 0.99) == 5


def test_a_round_in_which_a_guard_drifts_does_not_count() -> None:
    """By more than 30% from its median, up or down; what is no guard may, and a guard that nobody measured guards nothing."""
    calm = [
        {"direct": {"per_s": value}, "nginx": {"cpu_us": 10.0, "wild": value * value}} for value in (99.0, 100.0, 129.0)
    ]
    fast, slow = ({"direct": {"per_s": value}, "nginx": {"cpu_us": 10.0}} for value in (131.0, 69.0))
    dear = {"direct": {"per_s": 100.0}, "nginx": {"cpu_us": 14.0}}
    guards = [("direct", "per_s"), ("nginx", "cpu_us"), ("absent", "per_s"), ("nginx", "absent")]
    assert steady([*calm, fast, slow, dear], guards) == calm


def test_of_two_rounds_none_is_the_odd_one() -> None:
    """Both count."""
    two = [{"direct": {"per_s": 1.0}}, {"direct": {"per_s": 9.0}}]
    assert steady(two, [("direct", "per_s")]) == two


def test_comparisons_are_made_inside_a_round() -> None:
    """Ratio and difference to each yardstick of what both have; none to nothing, and none of a yardstick to itself."""
    rounds = [
        {"direct": {"a": 0.0}, "nginx": {"a": 2.0, "b": 1.0}, "ours": {"a": 5.0}},
        {"direct": {"a": 1.0}, "ours": {"a": 7.0}},
    ]
    assert compared(rounds, ("direct", "nginx")) == [
        {
            "direct": {"a": 0.0, "a-nginx": -2.0, "a/nginx": 0.0},
            "nginx": {"a": 2.0, "b": 1.0, "a-direct": 2.0},
            "ours": {"a": 5.0, "a-direct": 5.0, "a-nginx": 3.0, "a/nginx": 2.5},
        },
        {"direct": {"a": 1.0}, "ours": {"a": 7.0, "a-direct": 6.0, "a/direct": 7.0}},
    ]


def test_a_spread_is_of_the_rounds_that_have_the_figure() -> None:
    """A candidate that sat rounds out has fewer, and no zeros."""
    found = spreads([{"fast": {"a": 1.0}, "slow": {"a": 8.0}}, {"fast": {"a": 3.0}}])
    assert found == {"fast": {"a": Spread(1, 1.5, 2, 2.5, 3)}, "slow": {"a": Spread(8, 8, 8, 8, 8)}}


def test_a_table_has_the_columns_that_say_something() -> None:
    """The yardstick's name stands in head and figure; what a candidate lacks is a dash, what all lack no column."""
    columns = (
        Column("us", ("a",)),
        Column("x {}", ("a/{}",), ("q1", "median", "q3")),
        Column("50/99", ("b", "c")),
        Column("none", ("z",)),
    )
    found = {"nginx": {"a": spread(2.0), "b": spread(1234.5)}, "ours": {"a": spread(30.0), "a/nginx": spread(15.0)}}
    assert rows(found, columns, "nginx") == [
        ["", "us", "x nginx", "50/99"],
        ["nginx", "2.00", "-", "-"],
        ["ours", "30.0", "14.5/15.0/15.5", "-"],
    ]
    assert table([["", "us"], ["nginx", "2.00"], ["ours", "1,234"]]) == "          us\nnginx   2.00\nours   1,234"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.123, "0.12"), (9.99, "9.99"), (12.34, "12.3"), (-12.34, "-12.3"), (12345.6, "12,346")],
)
def test_numbers_have_the_digits_that_matter(value: float, text: str) -> None:
    """Three, or all before the point."""
    assert short(value) == text


def test_a_target_is_met_by_the_median_in_its_own_unit() -> None:
    """At most, or at least where it says so; trials that were not run are not judged, a figure that is missing is not met."""
    measured = {"plain": {"lengthwise": {"cpu_us/nginx": spread(1.8), "ttft_us-nginx": spread(151.0)}}}
    cpu, ttft = judge(measured, (CPU, TTFT, GOODPUT))
    assert (cpu.met, cpu.share) == (True, 1.0)
    assert cpu.row == ["CPU of a request", "<= 1.80 x nginx", "1.80", "1.30 to 2.30", "met"]
    assert ttft.measured is not None
    assert (ttft.met, round(ttft.measured.median, 9)) == (False, 0.151)
    (good,) = judge({"overload": {"lengthwise": {"good_pct": spread(91.0)}}}, (GOODPUT,))
    assert good.met
    assert good.share == 90 / 91
    assert Verdict(GOODPUT, spread(89.0)).met is False
    (missing,) = judge({"overload": {}}, (GOODPUT,))
    assert (missing.met, missing.share, missing.row[-1]) == (None, None, "not measured")
    assert {len(verdict.row) for verdict in (cpu, ttft, good, missing)} == {len(HEAD)}


def test_targets_and_trials_name_what_there_is() -> None:
    """A target of a trial or candidate that does not exist would never be judged, and nobody would notice."""
    trials = {trial.name: trial for trial in TRIALS}
    assert len(trials) == len(TRIALS)
    for target in TARGETS:
        assert target.candidate in trials[target.trial].candidates
    for trial in TRIALS:
        assert set(trial.candidates) <= set(CANDIDATES)
        assert trial.yardstick in trial.candidates
    assert {row[1] for row in chart.ROWS} <= set(trials)
    assert set(SLOW) <= set(CANDIDATES)
    assert len({column.head for column in COLUMNS}) == len(COLUMNS)


def test_the_picture_shows_every_ratio_and_every_target() -> None:
    """A well-formed SVG with a dot for each candidate of each figure, a bar for each target, and nothing outside of its box."""
    found = {
        "plain": {"lengthwise": {"cpu_us/nginx": spread(2.5)}, "aiohttp": {"cpu_us/nginx": spread(700.0)}, "nginx": {}},
        "fresh": {"lengthwise": {"first_answer_s": Spread.of([0.0004])}},
    }
    verdicts = judge(found)
    picture = ET.fromstring(chart.svg(found, verdicts, "a < b & c"))
    space = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in picture.iter(f"{space}text")]
    assert {"2.50", "700", "CPU of a request", "a < b & c; median and quartiles of the rounds; less is better"} <= set(
        texts
    )
    assert len(list(picture.iter(f"{space}circle"))) == 2 + 2  # and those of the legend
    assert len(list(picture.iter(f"{space}rect"))) == sum(verdict.share is not None for verdict in verdicts) == 2
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    for one in picture.iter():
        for name, most in (
            ("x", width),
            ("x1", width),
            ("x2", width),
            ("cx", width),
            ("y", height),
            ("y1", height),
            ("y2", height),
        ):
            assert 0 <= float(one.attrib.get(name, 0)) <= most


def test_a_picture_of_nothing_is_one_too() -> None:
    """A run of other trials."""
    assert ET.fromstring(chart.svg({}, [], "")).tag.endswith("svg")
