"""One group's exchanges in one span of time: exact while they are held, and as figures that add up.

Layer: recorder. Pure. Figures are made when they are asked for and kept until an exchange is added; when the columns are given up, the
tally is made if it was not. What caps would have done takes the longest to compute, so it is known only of exchanges that were held when
somebody looked.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Final, NamedTuple

from proxy.recorder.page import caps, tally
from proxy.recorder.page.caps import Outcomes
from proxy.recorder.page.columns import Columns, Decided, Words
from proxy.recorder.page.tally import Tally

__all__ = ["Cell", "Figures"]

_FIGURED_TOGETHER: Final = 1000


class Figures(NamedTuple):
    """What is known of some exchanges."""

    tally: Tally = Tally()
    outcomes: Outcomes = Outcomes()
    decided: Mapping[Decided, int] = MappingProxyType({})
    """What rules did to them."""

    @classmethod
    def total(cls, parts: Sequence["Figures"]) -> "Figures":
        """The figures of all exchanges of these."""
        if len(parts) == 1:
            return parts[0]
        decided: Counter[Decided] = Counter()
        for part in parts:
            decided.update(part.decided)
        return cls(tally.total([part.tally for part in parts]), caps.total([part.outcomes for part in parts]), decided)


class Cell:
    """Exchanges of one group."""

    __slots__ = ("_figured", "_figures", "_words", "columns")

    def __init__(self, words: Words, columns: Columns) -> None:
        self._words = words
        self._figures = Figures()
        self._figured = 0
        """How many of the columns' rows are in the figures."""
        self.columns: Columns | None = columns
        """None when they were given up."""

    def __len__(self) -> int:
        """Exchanges that are held."""
        return 0 if self.columns is None else len(self.columns)

    @property
    def is_figured(self) -> bool:
        """True when all exchanges are in the figures."""
        return self._figured == len(self)

    def extend(self, other: "Cell") -> None:
        """Take all that another has, which is used up by it."""
        if self.columns is None or other.columns is None:
            self.give_up()
            other.give_up()
        if self.columns is None or (self.is_figured and other.is_figured and other._figured):  # noqa: SLF001 -- one of us
            self._figures = Figures.total([self._figures, other._figures])  # noqa: SLF001 -- likewise
            self._figured += len(other)
        if self.columns is not None and other.columns is not None:
            self.columns.extend(other.columns)

    def figure(self) -> None:
        """Put some more exchanges into the figures, so many that it takes some milliseconds."""
        if self.columns is not None:
            stop = min(self._figured + _FIGURED_TOGETHER, len(self))
            part = self.columns.part(self._figured, stop)
            self._add(part, caps.outcomes_of(part, self._words.kinds))
            self._figured = stop

    def figures(self) -> Figures:
        """The figures of all exchanges."""
        while not self.is_figured:
            self.figure()
        return self._figures

    def give_up(self) -> None:
        """Hold the exchanges no longer."""
        if self.columns is not None:
            if not self.is_figured:
                self._add(self.columns.part(self._figured, len(self)), Outcomes())
            self.columns, self._figured = None, 0

    def _add(self, part: Columns, outcomes: Outcomes) -> None:
        decided = Counter(chain.from_iterable(part.decided))
        made = Figures(tally.tally_of(part, self._words.kinds), outcomes, decided)
        self._figures = Figures.total([self._figures, made]) if self._figures.tally.exchanges else made
