"""The text that Prometheus scrapes."""

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy.recorder.exposition import Exposition
from proxy.recorder.series import Counter, Histogram, Instrument, Observed


def exposed(*instruments: Instrument, resource: dict[str, object] | None = None) -> str:
    """The exposition of instruments, without the lines about the resource."""
    registry = CollectorRegistry()
    registry.register(Exposition(instruments, resource or {}))
    return generate_latest(registry).decode()


def test_names_and_units_are_prometheus_own() -> None:
    """Seconds are a suffix, counters end in _total, things and ratios add nothing; labels lose their dots."""
    seconds = Histogram("a.time", "s", "Time.", ("gen_ai.request.model", "stream"), (0.00005, 1, 600))
    ratio = Histogram("a.share", "1", "Share.", (), (1,))
    counter = Counter("a.cuts", "{exchange}", "Cuts.", ("by",))
    gauge = Observed("a.active", "{exchange}", "Now.", (), lambda: [((), 5)], monotonic=False)
    seconds.record(0.5, ("gpt", True))
    seconds.record(1, ("gpt", True))
    ratio.record(0.25, ())
    counter.add(2, ("policy",))
    assert exposed(seconds, ratio, counter, gauge, resource={"service.name": "lengthwise"}).splitlines() == [
        "# HELP target_info What these metrics are of.",
        "# TYPE target_info gauge",
        'target_info{service_name="lengthwise"} 1.0',
        "# HELP a_time_seconds Time.",
        "# TYPE a_time_seconds histogram",
        'a_time_seconds_bucket{gen_ai_request_model="gpt",le="5e-05",stream="true"} 0.0',
        'a_time_seconds_bucket{gen_ai_request_model="gpt",le="1.0",stream="true"} 2.0',
        'a_time_seconds_bucket{gen_ai_request_model="gpt",le="600.0",stream="true"} 2.0',
        'a_time_seconds_bucket{gen_ai_request_model="gpt",le="+Inf",stream="true"} 2.0',
        'a_time_seconds_count{gen_ai_request_model="gpt",stream="true"} 2.0',
        'a_time_seconds_sum{gen_ai_request_model="gpt",stream="true"} 1.5',
        "# HELP a_share Share.",
        "# TYPE a_share histogram",
        'a_share_bucket{le="1.0"} 1.0',
        'a_share_bucket{le="+Inf"} 1.0',
        "a_share_count 1.0",
        "a_share_sum 0.25",
        "# HELP a_cuts_total Cuts.",
        "# TYPE a_cuts_total counter",
        'a_cuts_total{by="policy"} 2.0',
        "# HELP a_active Now.",
        "# TYPE a_active gauge",
        "a_active 5.0",
    ]


def test_an_instrument_that_counted_nothing_is_not_there() -> None:
    """No family without a sample."""
    assert "a_cuts" not in exposed(Counter("a.cuts", "{exchange}", "Cuts.", ()))


def test_what_a_client_named_is_escaped() -> None:
    """A model's name can hold anything; a parser reads it back."""
    counter = Counter("a.cuts", "{exchange}", 'A "quote".', ("model",))
    name = 'a"b\\c\nd{e="f"} 1'
    counter.add(1, (name,))
    families = {family.name: family for family in text_string_to_metric_families(exposed(counter))}
    (sample,) = families["a_cuts"].samples
    assert (sample.labels, sample.value) == ({"model": name}, 1.0)


def test_each_scrape_shows_the_present() -> None:
    """Nothing is kept from the scrape before."""
    counter = Counter("a.cuts", "{exchange}", "Cuts.", ())
    registry = CollectorRegistry()
    registry.register(Exposition([counter], {}))
    for expected in (1, 2):
        counter.add(1, ())
        assert registry.get_sample_value("a_cuts_total") == expected
