"""Distributions in little room: counts in buckets that grow by 2%, so that a quantile is right to within 1%.

Layer: recorder. Pure, and a value: a sketch is made of numbers once, and two are added into a third. Which bucket a number is in depends
on the number alone, so the sum of two sketches is the sketch of all their numbers, in whatever order they came together.

Bounded: numbers from a microsecond (or a millionth of a token) to ten million have some 1,500 buckets, of which those that hold something
take six bytes each; smaller numbers, nought among them, are counted as nought, larger ones as the largest.

Source: Masson, Rim and Lee, "DDSketch", VLDB 2019 (the logarithmic mapping).
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import mul
from typing import Final

__all__ = ["EMPTY", "RELATIVE_ERROR", "Sketch"]

RELATIVE_ERROR: Final = 0.01
_GROWTH: Final = 1.02
"""A bucket is around a power of this, which stands for all its numbers: none is further from it than the root of this."""
_PER_LOG: Final = 1 / math.log2(_GROWTH)
_LEAST: Final = 1e-6
_MOST: Final = 1e7


class Sketch:
    """How many numbers there are in each bucket."""

    __slots__ = ("buckets", "count", "counts", "zeros")

    def __init__(self, buckets: Iterable[int], counts: Iterable[int], zeros: int) -> None:
        """`buckets` rise; use `of` and `total`."""
        self.buckets = array("h", buckets)
        """Those that hold something, rising."""
        self.counts = array("I", counts)
        """How many numbers each of these holds."""
        self.zeros = zeros
        """Numbers that are nought, or as good as."""
        self.count = sum(self.counts) + zeros
        """All numbers."""

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Sketch":
        """The sketch of these numbers, none of which is negative; NaN is none."""
        seen = [number for number in numbers if number >= _LEAST]
        zeros = 0 if len(seen) == len(numbers) else sum(number < _LEAST for number in numbers)
        if seen and max(seen) > _MOST:
            seen = [min(number, _MOST) for number in seen]
        # the nearest power, without a step of Python for each number; these two are the quickest of their kind
        found = Counter(map(float.__round__, map(mul, map(math.log2, seen), repeat(_PER_LOG))))
        return cls._made(found, zeros)

    @classmethod
    def total(cls, sketches: Iterable["Sketch"]) -> "Sketch":
        """The sketch of all numbers of these."""
        found: dict[int, int] = {}
        known, zeros = found.get, 0
        for sketch in sketches:
            zeros += sketch.zeros
            for bucket, count in zip(sketch.buckets, sketch.counts, strict=True):
                found[bucket] = known(bucket, 0) + count
        return cls._made(found, zeros)

    @classmethod
    def _made(cls, found: Mapping[int, int], zeros: int) -> "Sketch":
        buckets = sorted(found)
        return cls(buckets, map(found.__getitem__, buckets), zeros)

    def quantile(self, share: float) -> float | None:
        """A number within 1% of the one that this share of the numbers does not exceed; None without numbers."""
        if not self.count:
            return None
        before = math.floor(share * (self.count - 1)) - self.zeros
        if before < 0:
            return 0.0
        for bucket, count in zip(self.buckets, self.counts, strict=True):
            before -= count
            if before < 0:
                return _number(bucket)
        raise AssertionError("a rank is below the count")

    def above(self, bounds: Sequence[float]) -> list[int]:
        """How many numbers are above each of the rising bounds; a number within 1% of a bound may be on either side."""
        found = [0] * len(bounds)
        place = 0
        passed = self.zeros
        for bucket, count in zip(self.buckets, self.counts, strict=True):
            number = _number(bucket)
            while place < len(bounds) and bounds[place] < number:
                found[place] = self.count - passed
                place += 1
            passed += count
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sketch):
            return NotImplemented
        return (self.buckets, self.counts, self.zeros) == (other.buckets, other.counts, other.zeros)

    def __hash__(self) -> int:
        return hash((self.count, self.zeros))


def _number(bucket: int) -> float:
    return float(_GROWTH**bucket)


EMPTY: Final = Sketch((), (), 0)
