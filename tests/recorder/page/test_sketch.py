"""Sketches: right to within 1%, whatever is added to what."""

import math
import random

import pytest

from proxy.recorder.page.sketch import EMPTY, RELATIVE_ERROR, Sketch

SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0)


def _numbers(seed: int, count: int = 5000) -> list[float]:
    draw = random.Random(seed)
    return [
        draw.choice((draw.lognormvariate(-2, 2), draw.expovariate(0.001), draw.randint(0, 5))) for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_quantile_is_within_one_percent(seed: int) -> None:
    """Of the number of that rank, over nine decades; nought is nought."""
    numbers = _numbers(seed)
    sketch, ordered = Sketch.of(numbers), sorted(numbers)
    for share in SHARES:
        exact = ordered[math.floor(share * (len(ordered) - 1))]
        found = sketch.quantile(share)
        assert found is not None
        assert abs(found - exact) <= RELATIVE_ERROR * exact + 1e-9, (share, exact, found)


def test_the_sum_of_sketches_is_the_sketch_of_all_their_numbers() -> None:
    """In whatever order and parts they come together."""
    parts = [_numbers(seed, 300) for seed in range(6)]
    whole = Sketch.of([number for part in parts for number in part])
    sketches = [Sketch.of(part) for part in parts]
    assert Sketch.total(sketches) == Sketch.total([Sketch.total(sketches[3:]), Sketch.total(sketches[:3])]) == whole


def test_one_has_itself_for_its_bucket() -> None:
    """A share that is whole is not shown as more than that."""
    assert Sketch.of([1.0] * 3).quantile(0.5) == 1.0


def test_nothing_has_no_quantile() -> None:
    """None, and not nought."""
    assert (EMPTY.count, EMPTY.quantile(0.5), EMPTY.above([1.0])) == (0, None, [0])
    assert Sketch.of([]) == EMPTY


def test_what_is_unknown_is_not_counted() -> None:
    """NaN is no nought."""
    assert Sketch.of([math.nan, 0.0, 1.0, math.nan]) == Sketch.of([0.0, 1.0])


def test_it_counts_what_is_above_bounds() -> None:
    """Exactly, where no number is near a bound."""
    assert Sketch.of([0, 0, 1, 10, 100, 1000]).above([0.5, 5, 50, 500, 5000]) == [4, 3, 2, 1, 0]


def test_numbers_that_are_out_of_range_keep_to_bounded_buckets() -> None:
    """However far they are, and however many."""
    sketch = Sketch.of([1e-300, 1e-7, 1e7, 1e300, math.inf])
    assert (sketch.zeros, sketch.count, len(sketch.buckets)) == (2, 5, 1)
    wide = Sketch.of([10 ** (draw / 1000) for draw in range(-6000, 7000)])
    assert len(wide.buckets) < 1600
