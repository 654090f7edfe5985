"""What an experiment shows, in a terminal: the arms, the differences with their verdicts, and what must be known beside them.

Layer: evidence. Draws with rich; every text is data to it, never markup.
"""

import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from proxy.evidence import wording
from proxy.evidence.effect import Arm, Comparison, Experiment, Unit
from proxy.evidence.verdict import Verdict

__all__ = ["STYLES", "show", "signed", "terminal"]

_WIDEST = 110
STYLES = {Verdict.DIFFERENT: "bold yellow", Verdict.EQUIVALENT: "bold green", Verdict.UNDECIDED: "dim"}
"""How a verdict stands out."""
_UNITS = {
    Unit.REQUEST: ("request", "requests"),
    Unit.HEADER: ("value of the header", "values of the header"),
    Unit.SWITCHBACK: ("block of time", "blocks of time"),
}
_OWN = (
    "This is what a limit does to its own exchange. Where exchanges wait in one queue (self-hosted engines, reserved "
    "capacity), arms also make each other wait, and a comparison beside each other hides that: unit: switchback shows it."
)


def show(experiments: Sequence[Experiment]) -> None:
    """Print every experiment."""
    console = terminal()
    for experiment in experiments:
        title = f"rule {wording.name(experiment.rule)} · {wording.name(experiment.model)} · {wording.name(experiment.upstream)}"
        console.print()
        console.print(Rule(Text(title, style="bold cyan"), align="left", characters="─", style="dim"))
        one, _ = _UNITS[experiment.unit]
        lines: list[Table | Text] = [Text(f"an arm for each {one}", style="dim"), _arms(experiment.arms)]
        if experiment.comparisons:
            lines.append(_comparisons(experiment))
        lines += [Text.assemble(("warning: ", "bold red"), warning) for warning in experiment.warnings]
        lines += [Text(_OWN, style="dim")] if experiment.unit.estimand == "own" and experiment.comparisons else []
        for line in lines:
            console.print(Padding(line, (0, 0, 0 if isinstance(line, Text) else 1, 2)))


def terminal() -> Console:
    """Where figures are shown: as wide as the terminal, and no wider than is readable."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a sign shows the rest
    console = Console(highlight=False)
    console.width = min(console.width, _WIDEST)
    return console


def signed(seconds: float) -> str:
    """A difference, with as many digits as it has to say."""
    digits = 0 if abs(seconds) >= 0.1 else 1 if abs(seconds) >= 0.001 else 3
    ms = round(seconds * 1e3, digits)
    return f"{ms:+,.{digits}f} ms" if ms else "0 ms"


def _table(left: Sequence[str], right: Sequence[str], last: str | None = None) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    if last is not None:
        table.add_column(last)
    return table


def _arms(arms: Sequence[Arm]) -> Table:
    table = _table(["arm"], ["exchanges", "cut", "lost", "tokens mean", "TTFT p50", "TPOT", "E2E p50"])
    for arm in arms:
        table.add_row(
            arm.arm,
            wording.count(arm.n),
            wording.percent(arm.cut_share),
            wording.percent(arm.lost_share),
            wording.tokens(arm.output_tokens_mean),
            wording.seconds(arm.ttft_p50_s),
            wording.milliseconds(arm.tpot_s),
            wording.seconds(arm.e2e_p50_s),
        )
    return table


def _comparisons(experiment: Experiment) -> Table:
    table = _table(["", "arm"], ["difference", "95%, at every look"], f"against {experiment.comparisons[0].reference}")
    for each in experiment.comparisons:
        interval = "too few" if each.ci95 is None else f"{signed(each.ci95[0])} to {signed(each.ci95[1])}"
        table.add_row(
            each.outcome.upper(), each.arm, signed(each.difference_s), interval, _verdict(each, experiment.unit)
        )
    return table


def _verdict(each: Comparison, unit: Unit) -> Text:
    text = Text(each.verdict.value, style=STYLES[each.verdict])
    margin = f"{each.margin_s * 1e3:.3g} ms"
    if each.verdict is Verdict.EQUIVALENT:
        text.append(f", within {margin}", style="dim")
    elif each.units_needed is not None:
        text.append(f", needs about {each.units_needed:,} more {_UNITS[unit][each.units_needed > 1]}", style="dim")
    elif each.ci95 is not None and max(map(abs, each.ci95)) <= each.margin_s:
        text.append(f", yet by less than {margin}", style="dim")
    return text
