"""What an instrument holds."""

from proxy.recorder.series import Counter, Exemplar, Histogram, Observed

NAMES = ("model", "stream")


def test_a_measurement_is_in_the_bucket_whose_bound_it_does_not_exceed() -> None:
    """Upper bounds are inclusive; what exceeds all of them is in the last bucket."""
    histogram = Histogram("h", "s", "", NAMES, (1, 2.5))
    for value in (0, 1, 1.5, 2.5, 2.6, 100):
        histogram.record(value, ("m", True))
    (spread,) = histogram.series.values()
    assert (spread.counts, spread.total, spread.least, spread.most) == ([2, 2, 2], 107.6, 0, 100)
    assert spread.exemplars == {}


def test_the_last_exemplar_of_each_bucket_is_kept() -> None:
    """A measurement whose span is not sampled leaves the one before it."""
    histogram = Histogram("h", "s", "", NAMES, (1,))
    histogram.record(0.5, ("m", True), (10, 1, 2))
    histogram.record(0.6, ("m", True), (11, 3, 4))
    histogram.record(0.7, ("m", True))
    histogram.record(5, ("m", True), (12, 5, 6))
    (spread,) = histogram.series.values()
    assert spread.exemplars == {0: Exemplar(0.6, 11, 3, 4), 1: Exemplar(5, 12, 5, 6)}


def test_a_label_that_a_series_does_not_have_is_left_out() -> None:
    """None is absent; False and 0 are values."""
    assert Counter("c", "1", "", NAMES).named((None, False)) == {"stream": False}
    assert Counter("c", "1", "", NAMES).named(("m", 0)) == {"model": "m", "stream": 0}


def test_series_beyond_the_limit_count_together() -> None:
    """2,000 of their own, then one for the rest; those that are there go on counting."""
    counter, histogram = Counter("c", "1", "", ("n",)), Histogram("h", "1", "", ("n",), (1,))
    for number in range(2100):
        counter.add(1, (number,))
        histogram.record(number, (number,))
    counter.add(5, (0,))
    counted = dict(counter.values())
    assert (len(counted), counted[0,], counted[None]) == (2001, 6, 100)
    assert counter.named(None) == {"otel.metric.overflow": True}
    assert len(histogram.series) == 2001
    assert sum(histogram.series[None].counts) == 100


def test_what_somebody_else_counts_is_read_when_it_is_asked_for() -> None:
    """Each look sees the present."""
    values = {("a",): 1.0}
    observed = Observed("o", "1", "", ("n",), lambda: list(values.items()), monotonic=False)
    assert list(observed.values()) == [(("a",), 1.0)]
    values["a",] = 3.0
    assert list(observed.values()) == [(("a",), 3.0)]
