"""A page that is whole in itself: prose, tables and plots in one HTML file that asks nobody for anything.

Layer: evidence. plotly.js comes out of the installed plotly package and into the page; its content policy forbids every
request. Text is escaped here, once: callers hand over plain text, and a name from a ledger is never markup, neither in
HTML nor in the plots (plotly reads tags in titles and labels).

Colours and type are the page's (light or dark, as the reader's system is); a figure names roles: `ink`, `quiet`, `line`,
`accent`, which the page turns into colours.
"""

import html
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

__all__ = ["Chart", "Table", "document", "heading", "label", "paragraph", "stat", "stats"]


@dataclass(frozen=True, slots=True)
class Chart:
    """One plot: plotly's traces and layout, in which colours are roles such as `$accent`."""

    title: str
    note: str
    """What it shows and of how many exchanges; below the title."""
    traces: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    wide: bool = False
    """Takes the whole row."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of plain text; all columns but the first are numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None
    """The row that is pointed at."""


def label(text: str) -> str:
    """Text as it may stand in a plot, where plotly reads tags and entities."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def heading(text: str, note: str = "") -> str:
    """The heading of a section."""
    small = f"<small>{html.escape(note)}</small>" if note else ""
    return f"<h2>{html.escape(text)} {small}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """Prose; `lead`, `advice` and `quiet` are kinds of it."""
    return f'<p class="{html.escape(kind)}">{html.escape(text)}</p>'


def stat(name: str, value: str, note: str) -> str:
    """A figure with its name and what stands behind it."""
    return (
        f'<div class="stat"><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>'
        f"<small>{html.escape(note)}</small></div>"
    )


def stats(parts: Sequence[str]) -> str:
    """Figures beside each other."""
    return f"<dl>{''.join(parts)}</dl>"


def document(title: str, parts: Sequence[str | Chart | Table]) -> str:
    """The page: HTML made by the functions above, tables and charts, in their order."""
    body: list[str] = []
    charts: list[dict[str, Any]] = []
    row: list[str] = []
    for part in parts:
        if isinstance(part, Chart):
            row.append(_place(part, len(charts)))
            charts.append({"data": part.traces, "layout": part.layout})
            continue
        if row:
            body.append(f'<div class="charts">{"".join(row)}</div>')
            row = []
        body.append(_table(part) if isinstance(part, Table) else part)
    if row:
        body.append(f'<div class="charts">{"".join(row)}</div>')
    plotly = importlib.resources.files("plotly").joinpath("package_data", "plotly.min.js") if charts else None
    return _PAGE.format(
        title=html.escape(title),
        style=_STYLE,
        body="\n".join(body),
        plotly=_in_script(plotly.read_text(encoding="utf-8")) if plotly else "",
        charts=_in_data(orjson.dumps(charts).decode()),
        script=_SCRIPT,
    )


def _place(chart: Chart, number: int) -> str:
    wide = " wide" if chart.wide else ""
    return (
        f'<figure class="chart{wide}"><figcaption><b>{html.escape(chart.title)}</b>{html.escape(chart.note)}</figcaption>'
        f'<div class="plot" data-chart="{number}" role="img" aria-label="{html.escape(chart.title)}"></div></figure>'
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in table.headings)
    rows = []
    for at, row in enumerate(table.rows):
        mark = ' class="marked"' if at == table.marked else ""
        rows.append(f"<tr{mark}>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>")
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _in_data(text: str) -> str:
    """JSON that cannot end the element it stands in."""
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _in_script(text: str) -> str:
    """A library's text, which must not end its element either."""
    return text.replace("</script", r"<\/script").replace("<!--", r"<\!--")


_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="charts">{charts}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""

_STYLE: Final = """
:root {
  --paper: #fcfcfa; --card: #ffffff; --ink: #1d2127; --quiet: #6a7280; --line: #e4e5e0; --accent: #c2410c; --wash: #fff4ec;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #14161a; --card: #1b1e24; --ink: #e8eaed; --quiet: #979fac; --line: #2d323b; --accent: #fb923c; --wash: #2a211a; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-font-smoothing: antialiased; }
main { max-width: 1120px; margin: 0 auto; padding: 48px 28px 80px; }
h1 { font-size: 28px; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 6px; font-weight: 650; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 48px 0 12px; padding-top: 28px; border-top: 1px solid var(--line);
  font-weight: 620; overflow-wrap: anywhere; }
h2 small { color: var(--quiet); font-size: 14px; font-weight: 400; letter-spacing: 0; margin-left: 6px; white-space: nowrap; }
p { margin: 0 0 10px; max-width: 78ch; overflow-wrap: anywhere; }
p.lead { font-size: 22px; letter-spacing: -0.015em; margin: 4px 0 14px; font-weight: 560; }
p.quiet { color: var(--quiet); font-size: 13.5px; }
p.advice { background: var(--wash); border-left: 3px solid var(--accent); padding: 12px 16px; border-radius: 0 8px 8px 0;
  margin: 18px 0; max-width: none; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px; margin: 18px 0; }
.stat { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px 13px; }
.stat dt { color: var(--quiet); font-size: 12.5px; }
.stat dd { margin: 2px 0 1px; font-size: 20px; font-weight: 600; letter-spacing: -0.015em; }
.stat small { color: var(--quiet); font-size: 12px; line-height: 1.4; display: block; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px; margin: 18px 0; }
.chart { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 14px 6px; }
.chart.wide { grid-column: 1 / -1; }
figcaption { font-size: 12.5px; line-height: 1.45; color: var(--quiet); min-height: 54px; }
figcaption b { display: block; color: var(--ink); font-size: 14.5px; font-weight: 600; }
.plot { height: 300px; }
.table { overflow-x: auto; margin: 18px 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; white-space: nowrap; }
th { color: var(--quiet); font-weight: 500; font-size: 12.5px; }
th, td { text-align: right; padding: 7px 16px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
tr.marked td { background: var(--wash); color: var(--accent); font-weight: 600; }
@media (max-width: 760px) { .charts { grid-template-columns: 1fr; } main { padding: 28px 16px 56px; } figcaption { min-height: 0; } }
@media print { .chart, .stat, .table { break-inside: avoid; } }
"""

_SCRIPT: Final = """
"use strict";
const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const role = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const inked = (value) => typeof value === "string" && value.startsWith("$") ? role(value.slice(1))
  : Array.isArray(value) ? (value.length && typeof value[0] === "object" ? value.map(inked) : value)
  : value && typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([key, part]) => [key, inked(part)])) : value;
const axis = (given) => ({ gridcolor: "$line", linecolor: "$line", zeroline: false, ticks: "", tickfont: { size: 11 }, automargin: true,
  title: { font: { size: 12 }, standoff: 10 }, ...given, ...(given && given.title ? { title: { font: { size: 12 }, standoff: 10, text: given.title } } : {}) });
function draw(place) {
  const chart = charts[Number(place.dataset.chart)];
  const layout = { margin: { l: 50, r: 14, t: 8, b: 42 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: "$quiet", family: getComputedStyle(document.body).fontFamily, size: 12 }, showlegend: chart.data.length > 1,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11.5 }, bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: { bgcolor: "$card", bordercolor: "$line", font: { color: "$ink", size: 12 } }, bargap: 0.06,
    ...chart.layout, xaxis: axis(chart.layout.xaxis), yaxis: axis(chart.layout.yaxis) };
  if (chart.layout.yaxis2) layout.yaxis2 = axis(chart.layout.yaxis2);
  Plotly.react(place, inked(chart.data), inked(layout), { displayModeBar: false, responsive: true, displaylogo: false });
}
const places = [...document.querySelectorAll("[data-chart]")];
// One after the other, so that the page answers the reader while the later ones are drawn.
const draw_from = (at) => { if (at < places.length) { draw(places[at]); setTimeout(draw_from, 0, at + 1); } };
draw_from(0);
dark.addEventListener("change", () => places.forEach(draw));
"""
