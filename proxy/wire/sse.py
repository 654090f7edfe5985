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
_BLANK_LINES = re.compile(rb"[\r\n]*")
# Two line ends in a row. The CR of a CRLF is no line end of its own, neither at once nor after backtracking.
_END_OF_EVENT = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_SPLIT_END_BYTES = 3
"""So much of an end may lie in an earlier read: CR LF CR."""


class EventSplitter:
    """Splits a stream into events. After an event longer than `event_bytes` it is in `overflow` and finds no more."""

    __slots__ = ("_data", "_event_bytes", "_line", "_name", "_size", "_skip_lf", "_started", "overflow")

    def __init__(self, event_bytes: int) -> None:
        self.overflow = False
        self._event_bytes = event_bytes
        self._started = False  # the first line, which may begin with a BOM, is complete
        self._skip_lf = False  # the last read ended with CR
        self._line = bytearray()  # the unfinished line
        self._name: bytes | None = None
        self._data: list[bytes] = []  # data lines of the unfinished event
        self._size = 0  # and their bytes

    def feed(self, data: bytes) -> list[Event]:
        """Events that these bytes complete, in order."""
        # The usual read is whole events of one `data:` line each; nothing else is pending then.
        if data.startswith(b"data: ") and data.endswith(b"\n\n") and not self._line and not self._data:
            end = data.find(b"\n")
            if self._name is None and end <= self._event_bytes and not self.overflow and b"\r" not in data:
                self._started = True
                self._skip_lf = False
                if end == len(data) - 2:
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
        if b"\r" in data:
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
        if len(self._line) > self._event_bytes:
            self._overflow()
        return events

    def _take_line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            self._started = True
            self._dispatch(events)
            return
        if len(line) > self._event_bytes:
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
        if self._size > self._event_bytes:
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
        self._line = bytearray()
        self._data = []


class UsageCutter:
    """Passes a stream on event by event and keeps the extra events back.

    An extra event is one whose joined data `is_extra` accepts; it is cut with all its lines and its blank line, and nothing else is. After an
    event longer than `event_bytes`, `degraded` is set and everything passes.
    """

    __slots__ = ("_event_bytes", "_events", "_held", "_is_extra", "_skip_lf", "_started", "degraded")

    def __init__(self, is_extra: Callable[[bytes], bool], event_bytes: int) -> None:
        self.degraded: str | None = None
        self._is_extra = is_extra
        self._events = EventSplitter(event_bytes)
        self._events.feed(b"\n")  # a BOM belongs to the stream, not to an event
        self._event_bytes = event_bytes
        self._held = bytearray()  # an unfinished event, or a beginning that may be a BOM
        self._started = False
        self._skip_lf = False  # a cut event ended with CR: its LF, if it comes, is cut too

    def feed(self, data: bytes) -> bytes:
        """What is to be forwarded now; the same object when nothing is held or cut."""
        if data.startswith(b"data: ") and data.endswith(b"\n\n") and not self._held and b"\r" not in data:
            end = len(data) - 2
            if data.find(b"\n") == end and len(data) <= self._event_bytes and self.degraded is None:
                self._started = True
                self._skip_lf = False
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
        whole = data
        scan = max(len(self._held) - _SPLIT_END_BYTES, 0)
        if self._held:
            self._held += data
            # Only an event that has just been completed is copied out of the buffer, so byte-wise feeding stays O(n).
            if _END_OF_EVENT.search(self._held, scan) is None and self._started:
                return self._hold_or_let_go()
            whole = bytes(self._held)
            self._held.clear()
        out: list[bytes] = []
        kept = at = 0
        if not self._started:
            if len(whole) < len(_BOM) and _BOM.startswith(whole):
                self._held += whole
                return b""
            self._started = True
            at = len(_BOM) if whole.startswith(_BOM) else 0
            scan = 0
        while True:
            lead = _BLANK_LINES.match(whole, at)
            begin = lead.end() if lead else at
            end_found = _END_OF_EVENT.search(whole, max(begin, scan))
            if end_found is None:
                break
            at = end_found.end()
            if at - begin - whole.endswith(b"\r\n", begin, at) > self._event_bytes:  # as if the LF came later
                self.degraded = EVENT_TOO_LARGE
                return self._joined(out, whole, kept, len(whole))
            if self._cuts(whole[begin:at]):
                out.append(whole[kept:begin])
                kept = at
                self._skip_lf = at == len(whole) and whole.endswith(b"\r")
        if len(whole) - begin > self._event_bytes:
            self.degraded = EVENT_TOO_LARGE
            return self._joined(out, whole, kept, len(whole))
        if begin < len(whole):
            self._held += memoryview(whole)[begin:]
        return self._joined(out, whole, kept, begin)

    def _hold_or_let_go(self) -> bytes:
        if len(self._held) <= self._event_bytes:
            return b""
        self.degraded = EVENT_TOO_LARGE
        rest = bytes(self._held)
        self._held = bytearray()
        return rest

    @staticmethod
    def _joined(out: list[bytes], whole: bytes, kept: int, end: int) -> bytes:
        if not out:
            return whole if kept == 0 and end == len(whole) else whole[kept:end]
        out.append(whole[kept:end])
        return b"".join(out)

    def _cuts(self, raw: bytes) -> bool:
        events = self._events.feed(raw) or self._events.finish()
        return bool(events) and self._is_extra(events[0][1])
