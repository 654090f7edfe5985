"""Events are split as the standard says, at any chunking; the cutter takes the extra events and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.sse import EVENT_TOO_LARGE, EventSplitter, UsageCutter
from tests.support.sse import blocks, cut_at, one_by_one

PIECES = st.sampled_from(
    [
        b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"data", b"data:", b"data: ", b"data: x", b"data: EXTRA", b"data:EXTRA\n\n",
        b"data: a\n\n", b"data: EXTRA\r\r", b"event: e", b"event:", b":", b": c", b"id: 1", b"\xef\xbb\xbf", b"\xef", b"\xbb\xbf",
        b"\xe2\x80\xa8", b"\x85", b"\0", b" ", b"EXTRA",
    ]
)  # fmt: skip
STREAMS = st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=25).map(b"".join))
PLACES = st.lists(st.integers(0, 500), max_size=12)


def split(reads, event_bytes=10_000):
    """All events of these reads, the unterminated one too, and whether the splitter gave up."""
    splitter = EventSplitter(event_bytes)
    events = [event for read in reads for event in splitter.feed(read)]
    return events + splitter.finish(), splitter.overflow


def cut(reads, event_bytes=10_000):
    """All bytes that the cutter let through, and whether it gave up."""
    cutter = UsageCutter(lambda data: b"EXTRA" in data, event_bytes)
    return b"".join([cutter.feed(read) for read in reads] + [cutter.finish()]), cutter.degraded


def without_extra(stream):
    """What the plain reading leaves when it drops the extra events."""
    return b"".join(block.raw for block in blocks(stream) if not (block.event and b"EXTRA" in block.event[1]))


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [(None, b"a")]),
        (b"data:a\n\ndata:  b\n\n", [(None, b"a"), (None, b" b")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\r\n", [(None, b"a"), (None, b"b"), (None, b"c")]),
        (b"data: a\ndata: b\ndata\n\n", [(None, b"a\nb\n")]),
        (b"event: ping\n\ndata: a\n\n", [(None, b"a")]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [(b"error", b"a"), (None, b"b")]),
        (b": comment\n\n:\n\nid: 1\nretry: 2\nnonsense\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [(None, b"a")]),
        (b"data:\n\ndata\n\n", [(None, b""), (None, b"")]),
        (b"data: a\xe2\x80\xa8b\xc2\x85c\n\n", [(None, b"a\xe2\x80\xa8b\xc2\x85c")]),
        (b"data: a\n\ndata: tail", [(None, b"a"), (None, b"tail")]),
        (b"data: a\n\ndata: tail\n", [(None, b"a"), (None, b"tail")]),
        (b"Data: a\n\ndatax: b\n\n", []),
        (b"", []),
    ],
)
def test_events_are_those_of_the_standard(stream, events):
    """Each case of the format, whole, byte by byte and at every split point."""
    assert split([stream]) == (events, False)
    assert split(one_by_one(stream)) == (events, False)
    for at in range(len(stream)):
        assert split([stream[:at], stream[at:]]) == (events, False)


@given(STREAMS, PLACES)
def test_events_are_those_of_the_plain_reading_at_any_chunking(stream, places):
    """Arbitrary bytes in arbitrary reads give what the slow reading gives."""
    expected = [block.event for block in blocks(stream) if block.event]
    assert split(cut_at(stream, places)) == (expected, False)


@given(STREAMS, PLACES, st.integers(1, 12))
def test_what_overflows_does_not_depend_on_chunking(stream, places, event_bytes):
    """The splitter gives up at the same event however it is fed."""
    assert split(cut_at(stream, places), event_bytes) == split([stream], event_bytes)


def test_an_event_that_is_too_long_ends_the_reading_but_not_what_came_before():
    """`event_bytes` is the longest line; one more byte is too many."""
    assert split([b"data: a\n\ndata: 1234\n\n"], 10) == ([(None, b"a"), (None, b"1234")], False)
    assert split([b"data: a\n\ndata: 12345\n\ndata: b\n\n"], 10) == ([(None, b"a")], True)
    assert split([b"data: 12345\n\n"], 10) == ([], True)
    assert split([b"data: a\n\n", b"data: 12345\n\n"], 10) == ([(None, b"a")], True)
    assert split([b"data: 1234\n" * 3 + b"\n"], 10) == ([], True)


def test_what_is_held_is_bounded():
    """An endless line is let go as soon as it is longer than `event_bytes`."""
    splitter = EventSplitter(100)
    for _ in range(1000):
        splitter.feed(b"x" * 50)
    assert (splitter.overflow, len(splitter._line), splitter._data) == (True, 0, [])


class CountingBuffer(bytearray):
    """A buffer that counts the bytes which operations on it touch."""

    touched = 0

    def __iadd__(self, other):
        CountingBuffer.touched += len(other)
        return super().__iadd__(other)

    def find(self, sub, start=0, *rest):
        """Count what a search may read."""
        CountingBuffer.touched += len(self) - start
        return super().find(sub, start, *rest)


def test_byte_wise_feeding_is_linear():
    """A long event fed byte by byte touches each byte a bounded number of times."""
    cutter = UsageCutter(lambda _: False, 100_000)
    cutter.feed(b"data: ")
    cutter._held = CountingBuffer(cutter._held)
    CountingBuffer.touched = 0
    for _ in range(20_000):
        assert cutter.feed(b"x") == b""
    assert CountingBuffer.touched < 20_000 * 10
    assert cutter.feed(b"\n\n") == b"data: " + b"x" * 20_000 + b"\n\n"


@given(STREAMS, PLACES)
def test_the_cutter_takes_the_extra_events_and_nothing_else(stream, places):
    """What comes out is what went in, less the extra events; at any chunking."""
    assert cut(cut_at(stream, places)) == (without_extra(stream), None)


@given(STREAMS, PLACES, st.integers(1, 12))
def test_what_the_cutter_lets_through_does_not_depend_on_chunking(stream, places, event_bytes):
    """Giving up at an event that is too long happens at the same byte however it is fed."""
    assert cut(cut_at(stream, places), event_bytes) == cut([stream], event_bytes)


@given(STREAMS, PLACES)
def test_a_complete_event_is_never_held(stream, places):
    """After each read, what is held is the unfinished event and nothing more."""
    cutter = UsageCutter(lambda _: False, 10_000)
    fed = passed = b""
    for read in cut_at(stream, places):
        fed += read
        passed += cutter.feed(read)
        last = blocks(fed)[-1]
        held = fed[len(passed) :]
        if last.ended:
            assert held == b"" or b"\xef\xbb\xbf".startswith(held)
        elif last.raw.strip(b"\r\n") or len(fed) > 3:
            assert held in {last.raw, last.raw.lstrip(b"\r\n")}


def test_the_usual_read_passes_as_the_same_object():
    """Nothing is copied when nothing is held or cut."""
    cutter = UsageCutter(lambda data: b"EXTRA" in data, 1000)
    for read in (b"data: a\n\n", b"data: b\n\n", b"data: c\n\ndata: d\n\n", b": ping\n\n"):
        assert cutter.feed(read) is read


def test_an_event_that_is_too_long_is_let_go_and_nothing_is_cut_any_more():
    """From the long event on everything passes, and the reason is said."""
    assert cut([b"data: EXTRA\n\n", b"data: 0123456789", b"0\n\ndata: EXTRA\n\n"], 15) == (
        b"data: 01234567890\n\ndata: EXTRA\n\n",
        EVENT_TOO_LARGE,
    )
    assert cut([b"data: 0123456789\n\n", b"data: EXTRA\n\n"], 15) == (
        b"data: 0123456789\n\ndata: EXTRA\n\n",
        EVENT_TOO_LARGE,
    )
    assert cut([b"data: a\n\n", b"data: 0123456789\n\n", b"data: EXTRA\n\n"], 15) == (
        b"data: a\n\ndata: 0123456789\n\ndata: EXTRA\n\n",
        EVENT_TOO_LARGE,
    )
    cutter = UsageCutter(lambda _: False, 15)
    assert cutter.feed(b"data: 0123456789") == b"data: 0123456789"


def test_the_line_feed_of_a_cut_event_is_cut_when_it_comes_late():
    """CR LF CR ends an event at once; its LF belongs to it."""
    assert cut([b"data: EXTRA\r\n\r", b"\ndata: a\r\n\r\n"]) == (b"data: a\r\n\r\n", None)
    assert cut([b"data: a\r\n\r", b"\ndata: EXTRA\r\n\r\n"]) == (b"data: a\r\n\r\n", None)


def test_the_length_of_an_event_does_not_depend_on_where_its_last_line_end_is_cut():
    """The LF of the last CRLF is not counted, because it may come a read later."""
    stream = b"data: a\r\n\r\ndata: EXTRA\r\rdata: b\r\n\r\n"
    for at in range(len(stream)):
        assert cut([stream[:at], stream[at:]], 13) == (b"data: a\r\n\r\ndata: b\r\n\r\n", None)
    assert cut([b"data: abcd\r\n\r\n"], 13) == cut([b"data: abcd\r\n\r", b"\n"], 13) == (b"data: abcd\r\n\r\n", None)
    assert cut([b"data: abcde\r\n\r\n"], 13) == (b"data: abcde\r\n\r\n", EVENT_TOO_LARGE)


def test_only_the_first_byte_order_mark_is_one():
    """A second one is part of a field name, so its event is none and is not cut."""
    stream = b"\xef\xbb\xbf\xef\xbb\xbfdata: EXTRA\n\ndata: EXTRA\n\n"
    assert cut([stream]) == cut(one_by_one(stream)) == (b"\xef\xbb\xbf\xef\xbb\xbfdata: EXTRA\n\n", None)
