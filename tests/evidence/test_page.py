"""A page is whole in itself, and text in it is text."""

import re

import orjson

from proxy.evidence.page import Chart, Table, document, heading, label, paragraph, stat, stats

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


def test_text_is_never_markup() -> None:
    """In prose, figures, tables, captions, and in the data of plots."""
    chart = Chart(EVIL, EVIL, [{"type": "scatter", "name": EVIL, "x": [1], "y": [1]}])
    page = document(
        EVIL,
        [
            heading(EVIL, EVIL),
            paragraph(EVIL, "quiet"),
            stats([stat(EVIL, EVIL, EVIL)]),
            chart,
            Table([EVIL], [[EVIL]], 0),
        ],
    )
    assert "<script>alert" not in page
    assert "<img" not in page.replace("'<img", "")  # plotly has the text in its own strings
    assert page.count("<script") - page.count('"<script') == 3


def test_what_a_plot_is_told_is_data() -> None:
    """It can be read back, whatever it says."""
    page = document("t", [Chart("a", "b", [{"name": EVIL}], {"x": 1})])
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL).group(1)
    assert orjson.loads(data) == [{"data": [{"name": EVIL}], "layout": {"x": 1}}]


def test_a_label_in_a_plot_shows_its_signs() -> None:
    """A tag or an entity in a title would be read by plotly."""
    assert label("<b>&amp;") == "&lt;b&gt;&amp;amp;"


def test_charts_stand_together_and_tables_between() -> None:
    """Neighbouring charts share a row of the page, in the order in which they were given."""
    chart = Chart("c", "", [])
    page = document("t", [chart, chart, Table(["h"], [["1"]]), chart])
    body = page[page.index("<main>") : page.index("</main>")]
    assert re.findall(r'class="charts"|data-chart="\d"|<table>', body) == [
        *('class="charts"', 'data-chart="0"', 'data-chart="1"', "<table>", 'class="charts"', 'data-chart="2"'),
    ]


def test_without_charts_a_page_is_small() -> None:
    """plotly.js is there only for plots; every request is forbidden in either case."""
    page = document("t", [paragraph("x")])
    assert len(page) < 20_000
    assert "default-src 'none'" in page
