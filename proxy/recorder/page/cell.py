"""One group's exchanges in one span of time: exact while they are held, and as figures that add up.

Layer: recorder. Pure. Figures are made when they are asked for and kept until an exchange is added; when the columns are given up, the
tally is made if it was not. What caps would have done takes the longest to compute, so it is known only of exchanges that were held when
somebody looked.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from proxy.recorder.ledger import Row
from proxy.recorder.page import caps, tally
from proxy.recorder.page.caps import Outcomes
from proxy.recorder.page.columns import Columns, Decided, Kinds
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

    __slots__ = ("_figured", "_figures", "_kinds", "columns")

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._figures = Figures()
        self._figured = 0
        """How many of the columns' rows are in the figures."""
        self.columns: Columns | None = Columns()
        """None when they were given up."""

    def __len__(self) -> int:
        """Exchanges that are held."""
        return 0 if self.columns is None else len(self.columns)

    @property
    def is_figured(self) -> bool:
        """True when all exchanges are in the figures."""
        return self._figured == len(self)

    def append(self, rows: Sequence[Row], first: int) -> None:
        """Take rows of the ledger, numbered from `first`.

        Raises:
            LookupError, TypeError, ValueError: they are no rows that a recorder wrote; nothing is taken.
        """
        if self.columns is None:
            late = Cell(self._kinds)
            late.append(rows, first)
            self.extend(late)
        else:
            self.columns.append(rows, self._kinds, first)

    def extend(self, other: "Cell") -> None:
        """Take all that another has."""
        if self.columns is None or other.columns is None:
            self.give_up()
            other.give_up()
        if self.is_figured and other.is_figured:
            self._figures = Figures.total([self._figures, other._figures])  # noqa: SLF001 -- one of us
            self._figured += len(other)
        else:
            self._figures, self._figured = Figures(), 0
        if self.columns is not None and other.columns is not None:
            self.columns.extend(other.columns)

    def figure(self) -> None:
        """Put some more exchanges into the figures, so many that it takes some milliseconds."""
        if self.columns is not None:
            known, stop = self._kinds.known, min(self._figured + _FIGURED_TOGETHER, len(self))
            part = self.columns.part(self._figured, stop)
            made = Figures(tally.tally_of(part, known), caps.outcomes_of(part, known))
            self._figures = Figures.total([self._figures, made]) if self._figured else made
            self._figured = stop

    def figures(self) -> Figures:
        """The figures of all exchanges."""
        while not self.is_figured:
            self.figure()
        if self.columns is None:
            return self._figures
        return self._figures._replace(decided=self.columns.decided)

    def give_up(self) -> None:
        """Hold the exchanges no longer."""
        if self.columns is not None:
            parts = [self._figures] if self._figured else []
            if not self.is_figured:
                rest = self.columns.part(self._figured, len(self))
                parts.append(Figures(tally.tally_of(rest, self._kinds.known)))
            self._figures = Figures.total(parts)._replace(decided=self.columns.decided)
            self.columns, self._figured = None, 0
