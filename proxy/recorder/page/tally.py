"""Figures of some exchanges that can be added up: counts, sums and sketches.

Layer: recorder. Pure, and a value: a tally is made of columns once, and those of parts add up to the one of the whole. Its counts are the
metrics' and its laws the report's, by the same definitions (`proxy/recorder/metrics.py`, `proxy/evidence/law.py`).

Source: ARCHITECTURE.md 7 "Times and tokens", "Evidence".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from operator import mul, truediv
from typing import Any, Final, NamedTuple

from proxy.record import Action, cut_by
from proxy.recorder.page.columns import Columns, Kind
from proxy.recorder.page.sketch import EMPTY, Sketch

__all__ = ["Fit", "Sums", "Tally", "tally_of", "total"]

_TALLIED: Final = (
    "output_tokens",
    "decoded_tokens",
    "forwarded_max_tokens",
    "ttft_s",
    "last_token_s",
    "e2e_s",
    "client_blocked_s",
)
_BLOCKED_SHARE: Final = 0.01
"""An exchange whose client blocked for more of its time says nothing of the upstream."""


class Fit(NamedTuple):
    """A least-squares line."""

    n: int
    slope: float
    intercept: float
    r2: float


class Sums(NamedTuple):
    """What a least-squares line needs of its points."""

    n: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> "Sums":
        """The sums of these points."""
        xs, ys = zip(*points, strict=True) if points else ((), ())
        return cls(len(points), sum(xs), sum(ys), sum(map(mul, xs, xs)), sum(map(mul, xs, ys)), sum(map(mul, ys, ys)))

    def fit(self) -> Fit | None:
        """The line; None when there is no telling one: fewer than three points, or all of one x or of one y."""
        if self.n < 3:
            return None
        xx, yy = self.xx - self.x * self.x / self.n, self.yy - self.y * self.y / self.n
        xy = self.xy - self.x * self.y / self.n
        if xx <= 1e-9 * self.xx or yy <= 1e-9 * self.yy:  # what rounding leaves of nought
            return None
        slope = xy / xx
        return Fit(self.n, slope, (self.y - slope * self.x) / self.n, xy * xy / (xx * yy))


_NO_POINTS: Final = Sums()


@dataclass(frozen=True, slots=True)
class Tally:
    """The figures of some exchanges."""

    exchanges: int = 0
    streamed: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """client, proxy, upstream: exchanges that went wrong, by whose fault."""
    cases: Counter[str] = field(default_factory=Counter)
    """cut, ended, unknown: the evidence's, of all exchanges."""
    complete: int = 0
    """Whole answers with a 2xx status."""
    truncations: Counter[str] = field(default_factory=Counter)
    """client, policy: answers that a limit cut, by whose limit."""
    reserved_unused_tokens: int = 0
    law_n: int = 0
    """Exchanges behind the law."""
    decoding_s: float = 0.0
    steps: float = 0.0
    """Tokens after the first of these."""
    on_output: Sums = _NO_POINTS
    """E2E on output tokens."""
    on_limit: Sums = _NO_POINTS
    """E2E on the forwarded limit."""
    ttft_s: Sketch = EMPTY
    """Of the exchanges behind the law, as tpot is."""
    tpot_s: Sketch = EMPTY
    e2e_s: Sketch = EMPTY
    """Of whole answers."""
    overhead_s: Sketch = EMPTY
    ended_tokens: Sketch = EMPTY
    """Lengths of answers of one choice that the model ended."""
    other_tokens: Sketch = EMPTY
    """Lengths of those that ended otherwise: the limit cut them, or they broke off."""
    limits_tokens: Sketch = EMPTY
    """Forwarded limits."""
    utilization: Sketch = EMPTY
    """Output tokens by forwarded limit."""

    @property
    def tpot_law_s(self) -> float | None:
        """The law's time per output token; None when nothing says it."""
        return self.decoding_s / self.steps if self.steps else None


def total(tallies: Sequence[Tally]) -> Tally:
    """The tally of all exchanges of these."""
    whole: dict[str, Any] = {}
    for each in fields(Tally):
        parts = [getattr(part, each.name) for part in tallies]
        if each.type is Sketch:
            whole[each.name] = Sketch.total(parts)
        elif each.type is Sums:
            whole[each.name] = Sums(*map(sum, zip(Sums(), *parts, strict=True)))
        elif each.type in {int, float}:
            whole[each.name] = sum(parts)
        else:
            counts = whole[each.name] = Counter[str]()
            for part in parts:
                counts.update(part)
    return Tally(**whole)


def tally_of(columns: Columns, known: Sequence[Kind]) -> Tally:
    """The tally of these exchanges; `known` are the kinds by their numbers."""
    ends: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    cases: Counter[str] = Counter()
    complete = streamed = 0
    for number, times in Counter(columns.kinds).items():
        kind = known[number]
        ends[kind.end] += times
        cases[kind.case] += times
        complete += times * kind.complete
        streamed += times * kind.stream
        if kind.fault is not None:
            faults[kind.fault] += times
    flags = [(kind.complete, kind.single, kind.stream, kind.whole, kind.case == "ended") for kind in known]
    law: list[tuple[float, float, float]] = []
    on_output: list[tuple[float, float]] = []
    on_limit: list[tuple[float, float]] = []
    slack: list[tuple[float, float]] = []
    e2es_s: list[float] = []
    ended_tokens: list[float] = []
    other_tokens: list[float] = []
    # A NaN is no more and no less than anything, so that each comparison below drops what is unknown.
    for number, tokens, decoded, limit, first_s, last_s, e2e_s, blocked_s in zip(
        columns.kinds, *map(columns.numbers.__getitem__, _TALLIED), strict=True
    ):
        is_complete, single, stream, whole, ended = flags[number]
        if is_complete:
            if e2e_s >= 0:
                e2es_s.append(e2e_s)
            if not blocked_s > _BLOCKED_SHARE * e2e_s:
                if single and e2e_s >= 0:
                    if tokens >= 0:
                        on_output.append((tokens, e2e_s))
                    if limit >= 0:
                        on_limit.append((limit, e2e_s))
                if stream and decoded >= 2 and last_s >= first_s:
                    law.append((first_s, last_s - first_s, decoded - 1))
        if tokens >= 0:
            if whole and limit >= 0:
                slack.append((tokens, limit))
            if single:
                (ended_tokens if ended else other_tokens).append(tokens)
    firsts_s, decodings_s, steps = zip(*law, strict=True) if law else ((), (), ())
    return Tally(
        exchanges=len(columns),
        streamed=streamed,
        ends=ends,
        faults=faults,
        cases=cases,
        complete=complete,
        truncations=_truncations(columns, known),
        reserved_unused_tokens=int(sum(limit - tokens for tokens, limit in slack if limit > tokens)),
        law_n=len(law),
        decoding_s=sum(decodings_s),
        steps=sum(steps),
        on_output=Sums.of(on_output),
        on_limit=Sums.of(on_limit),
        ttft_s=Sketch.of(firsts_s),
        tpot_s=Sketch.of(list(map(truediv, decodings_s, steps))),
        e2e_s=Sketch.of(e2es_s),
        overhead_s=Sketch.of(columns["overhead_s"]),
        ended_tokens=Sketch.of(ended_tokens),
        other_tokens=Sketch.of(other_tokens),
        limits_tokens=Sketch.of(columns["forwarded_max_tokens"]),
        utilization=Sketch.of([tokens / limit for tokens, limit in slack if limit > 0]),
    )


def _truncations(columns: Columns, known: Sequence[Kind]) -> Counter[str]:
    found: Counter[str] = Counter()
    for number, requested, forwarded in zip(
        columns.kinds, columns["requested_max_tokens"], columns["forwarded_max_tokens"], strict=True
    ):
        if (kind := known[number]).cut:
            by = cut_by(kind.cut, Action(kind.action), _known(requested), _known(forwarded))
            assert by is not None
            found[by] += 1
    return found


def _known(value: float) -> int | None:
    return int(value) if value == value else None  # noqa: PLR0124 -- NaN is not itself
