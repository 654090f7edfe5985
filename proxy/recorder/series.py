"""Instruments: what was counted for each combination of labels, kept once for every reader of it.

Layer: recorder. Pure: no clock, no I/O, one thread. The SDK's own instruments aggregate again for each reader, with a hash of
every attribute: some 30 us a measurement, where an exchange makes ten. Here a measurement is a dictionary look-up.

Labels are tuples in the order of the instrument's label names; None is a label that this series does not have. An instrument
has at most 2,000 series, as the SDK has; what comes later counts together, as `otel.metric.overflow`.

Source: opentelemetry.io/docs/specs/otel/metrics/sdk, "Cardinality limits", "Exemplar"; ARCHITECTURE.md 7 "Metrics".
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

__all__ = ["Counter", "Exemplar", "Histogram", "Instrument", "Label", "Labels", "Observed", "Spread"]

Label = str | int | bool | None
Labels = tuple[Label, ...]

_MOST_SERIES = 2000
_OVERFLOW = {"otel.metric.overflow": True}


class Exemplar(NamedTuple):
    """One measurement and the sampled span that it was made for."""

    value: float
    at_unix_ns: int
    trace_id: int
    span_id: int


class Spread:
    """What a histogram holds of one series."""

    __slots__ = ("counts", "exemplars", "least", "most", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        """Measurements in each bucket; the last is above every bound."""
        self.total: float = 0
        self.begin_range()
        self.exemplars: dict[int, Exemplar] = {}
        """The last one of each bucket; whoever exports them takes them away."""

    def begin_range(self) -> None:
        """Look for the least and the most from here on: those of a delta are of its interval."""
        self.least = float("inf")
        self.most = float("-inf")


class _Named:
    def __init__(self, name: str, unit: str, description: str, label_names: Sequence[str]) -> None:
        self.name = name
        self.unit = unit
        """`s`, `1`, or a thing in braces."""
        self.description = description
        self.label_names = tuple(label_names)

    def named(self, labels: Labels | None) -> dict[str, str | int | bool]:
        """The labels of a series by their names; None is the series of the rest."""
        if labels is None:
            return dict(_OVERFLOW)
        return {name: label for name, label in zip(self.label_names, labels, strict=True) if label is not None}


class Histogram(_Named):
    """Measurements by buckets with explicit upper bounds."""

    def __init__(
        self, name: str, unit: str, description: str, label_names: Sequence[str], bounds: Sequence[float]
    ) -> None:
        super().__init__(name, unit, description, label_names)
        self.bounds = tuple(bounds)
        self.series: dict[Labels | None, Spread] = {}

    def record(self, value: float, labels: Labels, exemplar: tuple[int, int, int] | None = None) -> None:
        """Count a measurement; `exemplar` is its time, trace and span, None where the span is not sampled."""
        spread = self.series.get(labels) or self._begin(labels)
        bucket = bisect_left(self.bounds, value)
        spread.counts[bucket] += 1
        spread.total += value
        spread.least = min(spread.least, value)
        spread.most = max(spread.most, value)
        if exemplar is not None:
            spread.exemplars[bucket] = Exemplar(value, *exemplar)

    def _begin(self, labels: Labels) -> Spread:
        key = labels if len(self.series) < _MOST_SERIES else None
        return self.series.setdefault(key, Spread(len(self.bounds) + 1))


class Counter(_Named):
    """A sum that only grows."""

    monotonic = True

    def __init__(self, name: str, unit: str, description: str, label_names: Sequence[str]) -> None:
        super().__init__(name, unit, description, label_names)
        self._series: dict[Labels | None, float] = {}

    def add(self, amount: float, labels: Labels) -> None:
        """Count."""
        if labels in self._series:
            self._series[labels] += amount
        elif len(self._series) < _MOST_SERIES:
            self._series[labels] = amount
        else:
            self._series[None] = self._series.get(None, 0) + amount

    def values(self) -> Iterable[tuple[Labels | None, float]]:
        """Each series and its sum."""
        return self._series.items()


class Observed(_Named):
    """A sum that somebody else keeps, read when it is asked for."""

    def __init__(
        self,
        name: str,
        unit: str,
        description: str,
        label_names: Sequence[str],
        read: Callable[[], Iterable[tuple[Labels, float]]],
        *,
        monotonic: bool = True,
    ) -> None:
        super().__init__(name, unit, description, label_names)
        self.monotonic = monotonic
        self._read = read

    def values(self) -> Iterable[tuple[Labels | None, float]]:
        """Each series and its present value."""
        return self._read()


Instrument = Histogram | Counter | Observed
