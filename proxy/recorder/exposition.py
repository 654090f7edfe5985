"""The instruments as Prometheus scrapes them: names and units by its conventions, text and escaping by its own client library.

Layer: recorder. Dots become underscores, seconds are a suffix, things in braces and ratios are none (the convention appends
`_ratio` to gauges only, and ours are histograms), counters end in `_total`. No label is an id, so exemplars stay in OTLP.

Source: opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics; prometheus.io/docs/practices/naming.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from proxy.recorder.series import Counter, Histogram, Instrument, Observed

__all__ = ["Exposition"]

_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]")
_UNITS = {"s": "seconds"}


class Exposition(Collector):
    """Register it with a `CollectorRegistry`; each scrape reads the instruments as they are."""

    def __init__(self, instruments: Sequence[Instrument], resource: Mapping[str, object]) -> None:
        self._instruments = instruments
        self._resource = {_name(key): str(value) for key, value in resource.items()}

    def collect(self) -> Iterator[Metric]:
        """What is scraped: `target_info` with the resource, then every instrument that counted something."""
        yield InfoMetricFamily("target", "What these metrics are of.", value=self._resource)
        for instrument in self._instruments:
            family = _histogram(instrument) if isinstance(instrument, Histogram) else _sum(instrument)
            if family.samples:
                yield family


def _histogram(instrument: Histogram) -> Metric:
    family = HistogramMetricFamily(
        _name(instrument.name), instrument.description, unit=_UNITS.get(instrument.unit, ""), labels=()
    )
    bounds = [*map(floatToGoString, instrument.bounds), "+Inf"]
    for key, spread in instrument.series.items():
        labels = _labels(instrument.named(key).items())
        for bound, count in zip(bounds, accumulate(spread.counts), strict=True):
            family.add_sample(f"{family.name}_bucket", labels | {"le": bound}, count)
        family.add_sample(f"{family.name}_count", labels, sum(spread.counts))
        family.add_sample(f"{family.name}_sum", labels, spread.total)
    return family


def _sum(instrument: Counter | Observed) -> Metric:
    kind = CounterMetricFamily if instrument.monotonic else GaugeMetricFamily
    family = kind(_name(instrument.name), instrument.description, unit=_UNITS.get(instrument.unit, ""))
    sample = f"{family.name}_total" if instrument.monotonic else family.name
    for key, value in instrument.values():
        family.add_sample(sample, _labels(instrument.named(key).items()), value)
    return family


def _labels(named: Iterable[tuple[str, object]]) -> dict[str, str]:
    return {_name(key): str(value).lower() if isinstance(value, bool) else str(value) for key, value in named}


def _name(name: str) -> str:
    return _NOT_IN_A_NAME.sub("_", name)
