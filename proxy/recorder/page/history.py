"""The last 24 hours in slots of time.

Layer: recorder. Pure: callers say what time it is, and a step back is no time that passed. An exchange belongs to the moment at which its
record came; that is when it had ended.

A slot is 5 s long, and part of longer ones as it grows older, as long as the windows that still have it allow: their steps are whole
slots. While nobody looks, rows wait to be filed together: into columns, which costs a fiftieth of what the ledger does with them. When
more than 100,000 are held, the oldest become figures.

Bounded: some 240 slots, 64 groups in each, figures of bounded size, the columns of 100,000 exchanges, and 8,192 rows that wait. Measured
with two days of 300,000 exchanges each, memory grows until 100,000 are held and the day is full: by 27 MiB with five groups (35 when
somebody looks at the whole day), by 40 (95) with 51, as many as one upstream's applications can be.

Source: ARCHITECTURE.md 5.10.
"""

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from proxy.recorder.ledger import Row
from proxy.recorder.page.cell import Cell
from proxy.recorder.page.columns import Columns, Group, Words

__all__ = ["MOST_ROWS", "History", "Slot"]

MOST_ROWS: Final = 100_000
_TIERS: Final = ((5, 300), (15, 900), (60, 3600), (720, 21_600), (1440, 87_840))
"""Length of a slot, and the age from which it is part of a longer one, in seconds; each length divides the next."""
_FRESH: Final = 64
"""Rows are taken into columns while the processor's cache still has them."""
_MOST_WAITING: Final = 8192
_FILED_TOGETHER: Final = 2048
"""The longer rows wait, the longer are the slots that they go into, and the more of them into one cell at once."""


class Slot(NamedTuple):
    """A span of time and what ended in it."""

    start_s: float
    """Unix time."""
    end_s: float
    cells: Mapping[Group, Cell]


class _Waiting:
    """Exchanges that are in no slot yet."""

    def __init__(self) -> None:
        self.columns = Columns()
        self.at_s = array("d")
        """When each ended."""
        self.groups: list[Group] = []
        """Whose each is."""

    def after(self, count: int) -> "_Waiting":
        """Those but for the first so many."""
        rest = _Waiting()
        if count < len(self.columns):
            rest.columns = self.columns.part(count, len(self.columns))
            rest.at_s, rest.groups = self.at_s[count:], self.groups[count:]
        return rest


class History:
    """All that the page knows of exchanges that ended."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        """Unix time, as far as it was told."""
        self.taken = 0
        """Exchanges that were taken as they ended."""
        self.restored = 0
        """Rises when the past changes."""
        self.held = 0
        """Exchanges that are held exactly."""
        self.words = Words()
        self._slots: tuple[dict[int, dict[Group, Cell]], ...] = tuple({} for _ in _TIERS)
        """For each tier its slots by their number since the beginning of time."""
        self._numbered = 0
        self._fresh: list[Row] = []
        self._fresh_s: list[float] = []
        self._waiting = _Waiting()

    def take(self, rows: Iterable[Row | None], now_s: float) -> None:
        """Take rows of exchanges that just ended; None is one that no row could hold."""
        self.now_s = now_s = max(now_s, self.now_s)
        found = [row for row in rows if row is not None]
        self.taken += len(found)
        self._fresh += found
        self._fresh_s += [now_s] * len(found)
        if len(self._fresh) >= _FRESH:
            self._gather()
            if len(self._waiting.columns) >= _MOST_WAITING:
                self._settle(_FILED_TOGETHER)

    def advance(self, now_s: float) -> None:
        """Let time pass up to now, and take account of all that was taken."""
        self.now_s = max(now_s, self.now_s)
        self._gather()
        self._settle(len(self._waiting.columns))

    def restore(self, rows: Iterable[tuple[float, Row]]) -> None:
        """Take rows of exchanges that ended at these times in the past; those of which there is no telling are left out.

        Raises:
            LookupError, TypeError, ValueError: they are no rows that a recorder wrote; some may have been taken.
        """
        self.restored += 1
        past = _Waiting()
        found = list(rows)
        self._take_into(past, [row for _, row in found], [min(at_s, self.now_s) for at_s, _ in found])
        self._file(past, len(past.columns))

    def slots(self, since_s: float) -> Iterator[Slot]:
        """The slots that begin at this unix time or later, in their order."""
        for (length_s, _), slots in zip(reversed(_TIERS), reversed(self._slots), strict=True):
            for number in sorted(slots):
                if number * length_s >= since_s:
                    yield Slot(number * length_s, (number + 1) * length_s, slots[number])

    def prepare(self, since_s: float) -> Iterator[None]:
        """Make the figures that are not made yet, some in each step."""
        for slot in list(self.slots(since_s)):
            for cell in list(slot.cells.values()):
                while not cell.is_figured:
                    cell.figure()
                    yield

    def _gather(self) -> None:
        rows, at_s, self._fresh, self._fresh_s = self._fresh, self._fresh_s, [], []
        self._take_into(self._waiting, rows, at_s)

    def _take_into(self, waiting: "_Waiting", rows: Sequence[Row], at_s: Iterable[float]) -> None:
        if rows:
            waiting.groups += waiting.columns.append(rows, self.words, self._numbered)
            waiting.at_s.extend(at_s)
            self._numbered += len(rows)

    def _settle(self, count: int) -> None:
        """Let time pass over the slots, and put so many of the waiting rows into those of their times."""
        for tier in range(len(_TIERS)):
            self._roll(tier)
        self._file(self._waiting, count)
        self._waiting = self._waiting.after(count)

    def _roll(self, tier: int) -> None:
        """Make slots that are old enough part of longer ones, or forget them."""
        slots, length_s, kept_since_s = self._slots[tier], _TIERS[tier][0], self._kept_since_s(tier)
        for number in [number for number in slots if number * length_s < kept_since_s]:
            cells = slots.pop(number)
            if tier + 1 == len(_TIERS):
                self.held -= sum(map(len, cells.values()))
                continue
            longer = self._slots[tier + 1].setdefault(number * length_s // _TIERS[tier + 1][0], {})
            for group, cell in cells.items():
                self._merge(longer, group, cell)

    def _kept_since_s(self, tier: int) -> float:
        """A tier's first slot begins at this time at the earliest: whole slots of the next tier take what is older."""
        whole_s = _TIERS[min(tier + 1, len(_TIERS) - 1)][0]
        return (self.now_s - _TIERS[tier][1]) // whole_s * whole_s

    def _file(self, waiting: "_Waiting", count: int) -> None:
        kept_since_s = [self._kept_since_s(tier) for tier in range(len(_TIERS))]
        placed: defaultdict[tuple[int, int], defaultdict[Group, list[int]]] = defaultdict(lambda: defaultdict(list))
        before_s, places = math.nan, None
        for place, (at_s, group) in enumerate(zip(waiting.at_s[:count], waiting.groups, strict=False)):
            if at_s != before_s:  # those that came together go to the same slot
                before_s = at_s
                tier = next((tier for tier, since_s in enumerate(kept_since_s) if at_s >= since_s), None)
                places = None if tier is None else placed[tier, int(at_s // _TIERS[tier][0])]
            if places is not None:
                places[group].append(place)
        for (tier, number), groups in placed.items():
            cells = self._slots[tier].setdefault(number, {})
            for group, found in groups.items():
                self._merge(cells, group, Cell(self.words, waiting.columns.pick(found)))
                self.held += len(found)
        self._give_up()

    def _merge(self, cells: dict[Group, Cell], group: Group, cell: Cell) -> None:
        known = cells.setdefault(group, cell)
        if known is not cell:
            held = len(known) + len(cell)
            known.extend(cell)
            self.held += len(known) - held

    def _give_up(self) -> None:
        """Hold no more exchanges than may be: the oldest become figures."""
        if self.held <= MOST_ROWS:
            return
        for slot in self.slots(0):
            for cell in slot.cells.values():
                self.held -= len(cell)
                cell.give_up()
            if self.held <= MOST_ROWS:
                return
