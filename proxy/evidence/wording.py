"""Figures and sentences that the terminal and the page share, so that both say the same.

Layer: evidence. An unknown figure is a dash, never a nought. Names come from clients: what cannot be printed in them is
replaced, and long ones are shortened.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from proxy.evidence.blocks import Interval
from proxy.evidence.report import Group, Report

__all__ = [
    "UNKNOWN",
    "count",
    "days",
    "law_sentence",
    "milliseconds",
    "moment",
    "name",
    "notes",
    "percent",
    "questions",
    "seconds",
    "span",
    "title",
    "tokens",
    "why_naive",
]

UNKNOWN = "-"
_LONGEST_NAME = 64


def name(text: str | None) -> str:
    """A name as it may be shown."""
    if text is None:
        return "(unknown)"
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "…"


def title(group: Group, *, by_app: bool) -> str:
    """What a group is called."""
    model = "no model known" if group.model is None else name(group.model)
    return f"{model} · {'no app named' if group.app is None else name(group.app)}" if by_app else model


def count(value: float | None) -> str:
    """A whole number with separators."""
    return UNKNOWN if value is None else f"{value:,.0f}"


tokens = count


def days(number: int) -> str:
    """So many days."""
    return f"{number:,} day{'' if number == 1 else 's'}"


def percent(share: float | None) -> str:
    """A share; small ones keep their digits."""
    if share is None:
        return UNKNOWN
    return f"{share:.2%}" if 0 < share < 0.001 else f"{share:.1%}"


def seconds(value: float | None) -> str:
    """A duration, in the unit in which it is readable."""
    if value is None:
        return UNKNOWN
    if value < 1:
        return f"{value * 1000:,.0f} ms"
    if value < 120:
        return f"{value:.2f} s"
    return f"{value / 60:,.1f} min" if value < 7200 else f"{value / 3600:,.1f} h"


def milliseconds(value: float | None) -> str:
    """A pace."""
    return UNKNOWN if value is None else f"{value * 1000:.2f} ms"


def moment(unix_s: float) -> str:
    """A time of the day, UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")


def span(interval: Interval | None, show: Callable[[float | None], str] = seconds) -> str:
    """An interval, or that there is none."""
    return "this sample only" if interval is None else f"{show(interval.low)} to {show(interval.high)}"


def law_sentence(group: Group) -> str:
    """The law with its figures; what is missing where there is none."""
    law = group.law
    if law.tpot_s is None:
        return "no law: no streamed whole answer of two tokens or more"
    return f"E2E = {seconds(law.ttft_p50_s)} + {milliseconds(law.tpot_s)} x (tokens - 1)"


def why_naive(group: Group) -> str:
    """What the slope on max_tokens is, and why it is no effect; empty without one."""
    on_max = group.law.on_max_tokens
    if on_max is None:
        return ""
    return (
        f"Taken naively, 1,000 more max_tokens go with {on_max.slope * 1e6:+,.0f} ms. That is no effect: nobody drew these limits "
        "by lot. Whoever chose them knew the task, and the task decides the length. The effect of a limit needs an experiment."
    )


def notes(group: Group) -> list[str]:
    """What a reader must know about a group's figures."""
    said = []
    if group.opaque:
        said.append(
            f"{group.opaque:,} exchanges are of routes whose bodies Lengthwise does not read: no model, no tokens."
        )
    if group.estimated:
        said.append(f"{group.estimated:,} whole answers came without usage; their tokens are estimated.")
    if group.reasoning:
        said.append(
            f"{group.reasoning:,} whole answers hold reasoning. A limit can change what such a model does (case C), "
            "so what a cap would have done is told as if it did not."
        )
    if group.app is None and group.apps > 1:
        said.append(
            f"{group.apps} apps are pooled here. Where their limits differ, lengths and the naive slope mislead: --by model,app."
        )
    longer = [outcome for outcome in group.what_if if outcome.timed < outcome.longer]
    if longer:
        said.append(
            f"Time saved is known for {longer[0].timed:,} of {longer[0].longer:,} answers longer than "
            f"{longer[0].cap_tokens:,} tokens; the others were not streamed and count as unchanged."
        )
    if group.in_arms:
        said.append(
            f"{group.in_arms:,} exchanges were drawn into arms of an experiment: these can tell the effect of a limit."
        )
    return said


def questions(report: Report) -> str:
    """What this report does not answer, and what would."""
    arms = sum(group.in_arms for group in report.groups)
    start = "Only the exchanges in arms were randomised" if arms else "Nobody randomised max_tokens in this traffic"
    return (
        f"{start}: the report makes no claim about what max_tokens causes. What a cap would have done assumes the same "
        "requests, the same load and no retries; less load can only make the real saving larger, retries smaller."
    )
