"""The report in a terminal."""

import io

import numpy as np
import pytest
from rich.console import Console

from proxy.evidence.report import Report, build
from proxy.evidence.report_text import show
from proxy.evidence.sources.query import Window
from tests.support.exchanges import exchanges, exchanges_of
from tests.support.traffic import ledger_rows


def _shown(report: Report, width: int = 100) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=width, highlight=False))
    return out.getvalue()


def _traffic(**options: bool) -> Report:
    return build(exchanges_of(ledger_rows(np.random.default_rng(4), exchanges=2000, days=7)), Window(), **options)


def test_every_figure_shows_its_number() -> None:
    """Law, explained shares, slack, lengths: each with its n; the window and the reservations about causes."""
    shown = " ".join(_shown(_traffic(by_app=False)).split())
    for part in (
        "2,000 exchanges, 2026-09-22",
        "7 days, n 2,000",
        "on output tokens (n 2,000)",
        "That is no effect",
        "reserved tokens unused; n 1,9",
        "cut short; identified up to",
        "6 apps are pooled here",
        "the report makes no claim about what max_tokens causes",
    ):
        assert part in shown, part


@pytest.mark.parametrize("width", [40, 60, 80, 106, 112])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """And at 80 columns no figure is shortened."""
    lines = _shown(_traffic(by_app=True), width).splitlines()
    assert max(len(line) for line in lines) <= width
    if width >= 80:
        assert not any("…" in line for line in lines)


def test_a_name_is_text_and_never_markup_or_control() -> None:
    """A client that names its app may not paint on the terminal."""
    shown = _shown(build(exchanges({"model": "[bold red]x[/]\x1b[2J", "app": ":smile:"}), Window(), by_app=True))
    assert "[bold red]x[/]\ufffd[2J · :smile:" in shown
    assert "\x1b" not in shown


def test_what_is_not_known_is_not_shown_as_nought() -> None:
    """An answer without any figure."""
    shown = _shown(
        build(
            exchanges({"end": "rejected", "status": 400, "finish": None, "output_tokens": None}), Window(), by_app=False
        )
    )
    assert "no law: no streamed whole answer of two tokens or more" in shown
    assert "slack" not in shown
    assert "lengths" not in shown
