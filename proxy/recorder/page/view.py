"""What is asked for: a window of time and a filter, read from the history step by step.

Layer: recorder. Pure. A step that is over does not change, so its figures are added up once for each window and filter that somebody
looks at; a reading adds what was over since the last one, and the step that runs.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

from proxy.recorder.page.cell import Figures
from proxy.recorder.page.columns import Columns, Group
from proxy.recorder.page.history import History

__all__ = ["WINDOWS", "Filter", "Views", "Window"]

_VIEWS: Final = 16


class Window(NamedTuple):
    """A length of time up to now, and the steps in which it is shown."""

    length_s: int
    step_s: int

    def since_s(self, now_s: float) -> int:
        """Unix time of its begin: that of a step."""
        return int(now_s // self.step_s + 1) * self.step_s - self.length_s


WINDOWS: Final = {
    each.length_s: each
    for each in (
        Window(60, 5),
        Window(300, 5),
        Window(900, 15),
        Window(3600, 60),
        Window(21_600, 720),
        Window(86_400, 1440),
    )
}
"""By their length; each step is some whole slots of the history."""


class Filter(NamedTuple):
    """Which groups are asked for; the empty text asks for those whose name is unknown, None for all."""

    model: str | None = None
    app: str | None = None
    upstream: str | None = None
    stream: bool | None = None

    def takes(self, group: Group) -> bool:
        """True when a group is asked for."""
        return (
            (self.model is None or self.model == (group.model or ""))
            and (self.app is None or self.app == (group.app or ""))
            and (self.upstream is None or self.upstream == (group.upstream or ""))
            and (self.stream is None or self.stream == group.stream)
        )


class _View:
    """The steps of one window and filter that are over."""

    def __init__(self, restored: int) -> None:
        self.restored = restored
        self.steps: dict[int, Figures] = {}
        """By the step's number since the beginning of time."""
        self.until_s = -math.inf
        """Slots that begin before this are in the steps."""


class Views:
    """The readings of a history."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._views: OrderedDict[tuple[Window, Filter], _View] = OrderedDict()

    def steps(self, window: Window, chosen: Filter) -> list[Figures]:
        """The figures of each step of a window; the last is not over."""
        view, now_s, step_s = self._view(window, chosen), self._history.now_s, window.step_s
        first = window.since_s(now_s) // step_s
        parts = {number: [step] for number, step in view.steps.items() if number >= first}
        running: list[Figures] = []
        for slot in self._history.slots(max(first * step_s, view.until_s)):
            found = [cell.figures() for group, cell in slot.cells.items() if chosen.takes(group)]
            if slot.end_s > now_s:
                running = found
            else:
                view.until_s = slot.end_s
                parts.setdefault(int(slot.start_s // step_s), []).extend(found)
        view.steps = {number: Figures.total(found) for number, found in parts.items()}
        numbers = range(first, first + window.length_s // step_s)
        steps = [view.steps.get(number, Figures()) for number in numbers]
        return [*steps[:-1], Figures.total([steps[-1], *running])]

    def groups(self, window: Window) -> set[Group]:
        """Whose exchanges there are in a window."""
        slots = self._history.slots(window.since_s(self._history.now_s))
        return {group for slot in slots for group in slot.cells}

    def columns(self, window: Window, chosen: Filter) -> Iterator[Columns]:
        """The exchanges of a window that are held exactly, the oldest first."""
        for slot in self._history.slots(window.since_s(self._history.now_s)):
            for group, cell in slot.cells.items():
                if cell.columns is not None and chosen.takes(group):
                    yield cell.columns

    def _view(self, window: Window, chosen: Filter) -> _View:
        view = self._views.get((window, chosen))
        # Nobody looked for so long that slots on both sides of where this view stopped are one by now.
        if view is not None and any(slot.start_s < view.until_s < slot.end_s for slot in self._history.slots(0)):
            view = None
        if view is None or view.restored != self._history.restored:
            view = self._views[window, chosen] = _View(self._history.restored)
            if len(self._views) > _VIEWS:
                self._views.popitem(last=False)
        self._views.move_to_end((window, chosen))
        return view
