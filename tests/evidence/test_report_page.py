"""The report as a page."""

import re

import numpy as np

from proxy.evidence.report import build
from proxy.evidence.report_page import page
from proxy.evidence.sources.query import Window
from tests.support.exchanges import exchanges, exchanges_of
from tests.support.ledgers import make_row
from tests.support.traffic import ledger_rows


def _body(text: str) -> str:
    return text[text.index("<main>") : text.index("</main>")]


def test_the_page_has_the_figures_of_the_report() -> None:
    """Law, cases, caps and reservations; the advised cap is marked in its table."""
    rows = exchanges_of(ledger_rows(np.random.default_rng(4), exchanges=2000, days=7))
    report = build(rows, Window(), by_app=False)
    body = _body(page(report))
    assert re.search(r"E2E = \d+ ms \+ \d\d\.\d\d ms x \(tokens - 1\)", body)
    assert "the report makes no claim about what max_tokens causes" in body
    assert "That is no effect" in body
    assert f'<tr class="marked"><td>{report.groups[0].advice.cap_tokens:,}</td>' in body
    assert body.count("data-chart=") == 7


def test_names_of_clients_are_text() -> None:
    """A model called <script> is shown as it is called."""
    text = page(build(exchanges({"model": "<script>alert(1)</script>", "app": "<b>"}), Window(), by_app=True))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; · &lt;b&gt;" in _body(text)
    assert "<script>alert(1)" not in text


def test_only_the_largest_groups_are_drawn() -> None:
    """A ledger of many models makes no endless page; every group has its figures."""
    rows = exchanges_of(make_row(model=f"m{at % 15:02}") for at in range(45))
    body = _body(page(build(rows, Window(), by_app=False)))
    drawn = [section.count("data-chart=") > 0 for section in body.split("<h2>")[1:]]
    assert drawn == [True] * 12 + [False] * 3


def test_a_group_without_a_whole_answer_says_so() -> None:
    """No law is written where there is none."""
    body = _body(page(build(exchanges({"end": "broken"}), Window(), by_app=False)))
    assert "1 exchanges: broken 1" in body
    assert "E2E =" not in body
