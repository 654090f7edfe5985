"""Server-sent events on bytes: a splitter for observing, and a cutter that keeps one kind of event back.

Layer: wire (sans-io). Both are O(n) at any chunking, hold at most one unfinished event of `event_bytes`, and never raise. What they find does
not depend on how the bytes were cut into reads.

Source: WHATWG HTML 9.2.5 and 9.2.6 (line ends, one leading BOM, comments, one space after the colon, data lines joined by LF). UTF-8 is
never decoded: no byte of a multi-byte character is a line end.
"""

import re
from collections.abc import Callable

__all__ = ["EVENT_TOO_LARGE", "Event", "EventSplitter", "UsageCutter"]

Event = tuple[bytes | None, bytes]
"""One dispatched event: its name (None when it has none) and its data. A plain tuple, because one is made for each token."""

EVENT_TOO_LARGE = "event_too_large"
"""`UsageCutter.degraded` after an event longer than `event_bytes`."""

_BOM = b"\xef\xbb\xbf"
_BLANK_LINES = re.compile(rb"[\r\n]+")
# Two line ends in a row. The CR of a CRLF is no line end of its own, neither at once nor after backtracking.
_END_OF_EVENT = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LF, _CR = b"\n\r"
_LINE_ENDS = frozenset(b"\r\n")
_SPLIT_END_BYTES = 3
"""So much of an end may lie in an earlier read: CR LF CR."""


class EventSplitter:
    """Splits a stream into events. After an event longer than `event_bytes` it is in `overflow` and finds no more."""

    __slots__ = ("_data", "_line", "_name", "_size", "_skip_lf", "_started", "event_bytes", "idle", "overflow")

    def __init__(self, event_bytes: int) -> None:
        self.overflow = False
        self.idle = False
        """True between events: what comes next is the beginning of one."""
        self.event_bytes = event_bytes
        self._started = False  # the first line, which may begin with a BOM, is complete
        self._skip_lf = False  # the last read ended with CR
        self._line = bytearray()  # the unfinished line
        self._name: bytes | None = None
        self._data: list[bytes] = []  # data lines of the unfinished event
        self._size = 0  # and their bytes

    def feed(self, data: bytes) -> list[Event]:
        """Events that these bytes complete, in order."""
        # The usual read is one whole event of one `data:` line.
        end = len(data) - 2
        if (
            self.idle
            and data.find(_LF) == end
            and data[-1] == _LF
            and data.startswith(b"data: ")
            and _CR not in data
            and end <= self.event_bytes
        ):
            return [(None, data[6:end])]
        return self._feed(data)

    def finish(self) -> list[Event]:
        """The event that the stream's end left without its blank line. Clients drop it; it is for observing only."""
        events: list[Event] = []
        if self._line and not self.overflow:
            self._take_line(bytes(self._line), events)
            self._line.clear()
        if not self.overflow:
            self._dispatch(events)
        return events

    def _feed(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if self.overflow or not data:
            return events
        if self._skip_lf and data.startswith(b"\n"):
            data = data[1:]
        self._skip_lf = data.endswith(b"\r")
        if _CR in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._line:
            self._line += lines[0]
            lines[0] = bytes(self._line)
            self._line.clear()
        for line in lines:
            self._take_line(line, events)
            if self.overflow:
                return events
        self._line += rest
        if len(self._line) > self.event_bytes:
            self._overflow()
            return events
        self.idle = self._started and not (self._skip_lf or self._line or self._data or self._name)
        return events

    def _take_line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            self._started = True
            self._dispatch(events)
            return
        if len(line) > self.event_bytes:
            self._overflow()
            return
        if not self._started:
            self._started = True
            line = line.removeprefix(_BOM)
            if not line:
                return
        if line.startswith(b"data: "):
            value = line[6:]
        else:
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"event":
                self._name = value or None
            if name != b"data":
                return
        self._size += len(value) + 1
        if self._size > self.event_bytes:
            self._overflow()
        else:
            self._data.append(value)

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            events.append((self._name, self._data[0] if len(self._data) == 1 else b"\n".join(self._data)))
            self._data = []
            self._size = 0
        self._name = None

    def _overflow(self) -> None:
        self.overflow = True
        self.idle = False
        self._line = bytearray()
        self._data = []


class UsageCutter:
    """Passes a stream on event by event and keeps the extra events back.

    An extra event is one whose joined data `is_extra` accepts; it is cut with all its lines and its blank line, and nothing else is. After an
    event longer than `event_bytes`, `degraded` is set and everything passes.
    """

    __slots__ = ("_event_bytes", "_events", "_held", "_is_extra", "_skip_lf", "_started", "degraded", "idle")

    def __init__(self, is_extra: Callable[[bytes], bool], event_bytes: int) -> None:
        self.degraded: str | None = None
        self.idle = False
        """True between events, and while any is kept back: a whole one that is no extra one may pass without being fed."""
        self._is_extra = is_extra
        self._events = EventSplitter(event_bytes)
        self._events.feed(b"\n")  # a BOM belongs to the stream, not to an event
        self._event_bytes = event_bytes
        self._held = bytearray()  # an unfinished event, or a beginning that may be a BOM
        self._started = False
        self._skip_lf = False  # a cut event ended with CR: its LF, if it comes, is cut too

    def feed(self, data: bytes) -> bytes:
        """What is to be forwarded now; the same object when nothing is held or cut."""
        end = len(data) - 2
        if (
            self.idle
            and data.find(_LF) == end
            and data[-1] == _LF
            and data.startswith(b"data: ")
            and _CR not in data
            and end + 2 <= self._event_bytes
        ):
            return b"" if self._is_extra(data[6:end]) else data
        return self._feed(data)

    def finish(self) -> bytes:
        """The held rest; nothing when it is an extra event that lacks only its blank line."""
        rest = bytes(self._held)
        self._held = bytearray()
        return b"" if rest and self._cuts(rest) else rest

    def _feed(self, data: bytes) -> bytes:
        if self.degraded is not None or not data:
            return data
        if self._skip_lf:
            self._skip_lf = False
            data = data.removeprefix(b"\n")
        scan = begin = 0
        if self._held:
            scan = max(len(self._held) - _SPLIT_END_BYTES, 0)
            self._held += data
            # Copied out only when an event is complete, so that byte-wise feeding stays O(n).
            if self._started and _end_of_event(self._held, scan, self._held.find(b"\r", scan) >= 0) < 0:
                return self._hold_or_let_go()
            data = bytes(self._held)
            self._held = bytearray()
        if not self._started:
            scan = 0
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._held += data
                return b""
            self._started = True
            begin = len(_BOM) if data.startswith(_BOM) else 0
        return self._pass_events(data, begin, scan)

    def _pass_events(self, data: bytes, begin: int, scan: int) -> bytes:
        """All that is complete in `data`, without the extra events; the rest is held. No event ends before `scan`."""
        has_cr = _CR in data
        out: list[bytes] = []
        kept = 0
        while begin < len(data):
            if data[begin] in _LINE_ENDS:
                begin = _next_line(data, begin)
                continue
            end = _end_of_event(data, max(begin, scan), has_cr)
            if end < 0:
                if len(data) - begin > self._event_bytes:
                    self.degraded = EVENT_TOO_LARGE
                    begin = len(data)
                break
            # Judged without the LF of a last CRLF, which may come in the next read.
            if end - begin - data.endswith(b"\r\n", begin, end) > self._event_bytes:
                self.degraded = EVENT_TOO_LARGE
                begin = len(data)
                break
            if self._cuts(data[begin:end]):
                out.append(data[kept:begin])
                kept = end
                self._skip_lf = end == len(data) and data.endswith(b"\r")
            begin = end
        if begin < len(data):
            self._held += data[begin:]
        self.idle = not (self._held or self._skip_lf or self.degraded)
        if not out:
            return data[:begin]
        out.append(data[kept:begin])
        return b"".join(out)

    def _hold_or_let_go(self) -> bytes:
        self.idle = False
        if len(self._held) <= self._event_bytes:
            return b""
        self.degraded = EVENT_TOO_LARGE
        rest = bytes(self._held)
        self._held = bytearray()
        return rest

    def _cuts(self, raw: bytes) -> bool:
        events = self._events.feed(raw) or self._events.finish()
        return bool(events) and self._is_extra(events[0][1])


def _end_of_event(data: bytes | bytearray, start: int, has_cr: bool) -> int:
    """One past the blank line that ends an event; -1 when it is not there yet."""
    if has_cr:
        found = _END_OF_EVENT.search(data, start)
        return found.end() if found else -1
    at = data.find(b"\n\n", start)
    return -1 if at < 0 else at + 2


def _next_line(data: bytes, begin: int) -> int:
    """End of the line ends that begin here."""
    found = _BLANK_LINES.match(data, begin)
    return found.end() if found else begin + 1
