"""The shapes that event streams have in the wild, and a provider that sends them.

A shape takes the events of a stream and writes them its own way, event by event. What is between two events is written as
a piece of its own, so that one event can be left out and nothing else.
"""

import asyncio
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

from tests.support.provider import EVENT_STREAM, Link, Script
from tests.support.sse import blocks

_BIG_BYTES = 20_000
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"

Frame = tuple[bytes | None, bytes]
"""Name and data of one event."""
Write = Callable[[list[Frame]], list[bytes]]


@dataclass(frozen=True, slots=True)
class Shape:
    """One way to write an event stream."""

    write: Write
    ending: str = "whole"
    """Or `fin` or `reset`: the body breaks off before its end."""
    coding: str = ""
    """Content-Encoding of the body."""
    uncut: bool = False
    """The usage event that only Lengthwise asked for stays in it: it cannot be read, and passes."""

    def pieces(self, frames: list[Frame], *, without: bytes | None = None) -> list[bytes]:
        """The stream as it is sent, less the event that has these bytes in it."""
        pieces = [piece for piece in self.write(frames) if without is None or without not in piece]
        return [gzip.compress(b"".join(pieces), mtime=0)] if self.coding else pieces


# -- events -----------------------------------------------------------------------------------------------------------


def _chunk(choices: str, more: str = "") -> Frame:
    text = f'{{"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{choices}]{more}}}'
    return None, text.encode()


def _delta(text: str) -> Frame:
    return _chunk(f'{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}')


ROLE = _chunk('{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}')
FINISH = _chunk('{"index":0,"delta":{},"finish_reason":"stop"}')
EXTRA_MARK = b'"completion_tokens":4242'
COUNTED = ',"usage":{"prompt_tokens":5,"completion_tokens":4242,"total_tokens":4247}'
EXTRA = _chunk("", COUNTED)
DONE: Frame = (None, b"[DONE]")


def chat(*, asked: bool) -> list[Frame]:
    """A chat completion; with the usage event when the request asked for it."""
    return [ROLE, _delta("Hel"), _delta("lo"), FINISH, *([EXTRA] if asked else []), DONE]


def recorded(dialect: str) -> list[Frame]:
    """The stream of a dialect that was documented by its provider."""
    return [block.event for block in blocks((FIXTURES / dialect / "text.sse").read_bytes()) if block.event is not None]


# -- ways to write them -----------------------------------------------------------------------------------------------


def written(frame: Frame, end: bytes = b"\n", colon: bytes = b": ") -> bytes:
    """One event."""
    name, data = frame
    named = b"event" + colon + name + end if name else b""
    return named + b"data" + colon + data + end + end


def _each(write: Callable[[Frame], bytes]) -> Write:
    return lambda frames: [write(frame) for frame in frames]


def _with(*pieces: bytes, at: int) -> Write:
    """The usual form with these in it."""

    def write(frames: list[Frame]) -> list[bytes]:
        usual = [written(frame) for frame in frames]
        return [*usual[:at], *pieces, *usual[at:]]

    return write


def _before_each(piece: bytes) -> Write:
    return lambda frames: [each for frame in frames for each in (piece, written(frame))]


def _without_done(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame != DONE]


def _mixed(frames: list[Frame]) -> list[bytes]:
    ends = (b"\n", b"\r\n", b"\r")
    return [written(frame, ends[number % 3]) for number, frame in enumerate(frames)]


def _in_lines(frame: Frame) -> bytes:
    name, data = frame
    return written((name, data.replace(b',"', b',\ndata:"').replace(b"{}", b"{\ndata:  }")))


def _short_by(count: int, *, done: bool = True) -> Write:
    def write(frames: list[Frame]) -> list[bytes]:
        pieces = [written(frame) for frame in (frames if done else _without_done(frames))]
        return [*pieces[:-1], pieces[-1][:-count]]

    return write


def _for(found: Frame, *instead: Frame) -> Write:
    """The usual form with these events for one, and no usage event."""

    def write(frames: list[Frame]) -> list[bytes]:
        kept = [frame for frame in frames if frame != EXTRA]
        return [written(each) for frame in kept for each in (instead if frame == found else (frame,))]

    return write


def _broken_off(frames: list[Frame]) -> list[bytes]:
    """Ends within the third event."""
    first, second, third = (written(frame) for frame in frames[:3])
    return [first, second, third[: len(third) // 2]]


ERROR = b'{"error":{"message":"The engine is gone.","type":"server_error","param":null,"code":"engine_dead"}}'
NUMBERED = b'{"error":{"message":"The engine is gone.","type":"InternalServerError","param":null,"code":500}}'
HIGH = "\u2028\u2029\u0085\ufeff\U0001f600\\u2028"

SHAPES = {
    "LF": Shape(_each(written)),
    "CRLF": Shape(_each(lambda frame: written(frame, b"\r\n"))),
    "CR": Shape(_each(lambda frame: written(frame, b"\r"))),
    "line ends mixed": Shape(_mixed),
    "no space after the colon": Shape(_each(lambda frame: written(frame, colon=b":"))),
    "data in several lines": Shape(_each(_in_lines)),
    "comments between events": Shape(_before_each(b": OPENROUTER PROCESSING\n\n")),
    "comments in events": Shape(_each(lambda frame: b": keep-alive\n" + written(frame)[:-1] + b":\n\n")),
    "blank lines": Shape(_before_each(b"\n\r\n\r")),
    "BOM": Shape(_with(b"\xef\xbb\xbf", at=0)),
    "two BOMs": Shape(_with(b"\xef\xbb\xbf\xef\xbb\xbf", at=0)),
    "BOM in the middle": Shape(_with(b"\xef\xbb\xbf\n\n", at=2)),
    "no [DONE]": Shape(lambda frames: [written(frame) for frame in _without_done(frames)]),
    "events after [DONE]": Shape(_with(written(_delta("late")), written(DONE), at=99)),
    "ping without data": Shape(_with(b"event: ping\n\n", at=2)),
    "ping with data": Shape(_with(b'event: ping\ndata: {"type":"ping"}\n\n', at=2)),
    "empty data": Shape(_with(b"data:\n\n", at=2)),
    "data without a colon": Shape(_with(b"data\n\n", at=2)),
    "data that is no JSON": Shape(_with(b"data: {not JSON\n\n", at=2)),
    "fields nobody knows": Shape(_each(lambda frame: b"foo: bar\nnothing\nda\x00ta: {}\n" + written(frame))),
    "error": Shape(_with(written((None, ERROR)), at=2)),
    "error with its name": Shape(_with(written((b"error", ERROR)), at=2)),
    "error, then [DONE]": Shape(_for(_delta("lo"), (None, NUMBERED), DONE)),
    "error without an envelope": Shape(_with(written((b"error", b'{"type":"error","message":"gone"}')), at=2)),
    "error in a choice": Shape(
        _for(FINISH, _chunk('{"index":0,"delta":{"content":""},"finish_reason":"error"}', "," + ERROR[1:-1].decode()))
    ),
    "usage with the finish": Shape(
        _for(FINISH, _chunk('{"index":0,"delta":{},"finish_reason":"stop"}', ',"usage":{"completion_tokens":3}'))
    ),
    "usage with every event": Shape(
        _for(
            _delta("lo"), _chunk('{"index":0,"delta":{"content":"lo"}}', ',"usage":{"completion_tokens":2}'), _delta("")
        )
    ),
    "prompt filter first": Shape(_with(written(_chunk("", ',"prompt_filter_results":[{"prompt_index":0}]')), at=0)),
    "huge event": Shape(_with(written(_delta("x" * 600_000)), at=2)),
    "event beyond the limit": Shape(_with(written(_delta("x" * 1_100_000)), at=2), uncut=True),
    "line ends of Unicode in JSON": Shape(_with(written(_delta(HIGH)), at=2)),
    "id and retry": Shape(_each(lambda frame: b"id: 7\nretry: 10\n" + written(frame))),
    "id and retry after data": Shape(_each(lambda frame: written(frame)[:-1] + b"retry: 10\nid: 7\n\n")),
    "id, then a comment": Shape(_with(b"id: 1\n" + written(_delta("a")), b": keep-alive\n\n", at=2)),
    "id alone": Shape(_with(b"id: 1\n\n", at=2)),
    "retry alone": Shape(_with(b"retry: 3000\n\n", at=0)),
    "last blank line missing": Shape(_short_by(1)),
    "last line unfinished": Shape(_short_by(2)),
    "no [DONE], last blank line missing": Shape(_short_by(1, done=False)),
    "no [DONE], last line unfinished": Shape(_short_by(2, done=False)),
    "no [DONE], last event broken off": Shape(_short_by(20, done=False), uncut=True),
    "nothing": Shape(lambda _frames: []),
    "gzip": Shape(_each(written), coding="gzip", uncut=True),
    "closed within an event": Shape(_broken_off, ending="fin"),
    "reset within an event": Shape(_broken_off, ending="reset"),
    "closed between events": Shape(lambda frames: [written(frame) for frame in frames[:2]], ending="fin"),
}


# -- the provider -----------------------------------------------------------------------------------------------------


def in_bits(pieces: list[bytes]) -> list[bytes]:
    """The same bytes one by one; a big stream in some hundred parts."""
    whole = b"".join(pieces)
    size = 1 if len(whole) < _BIG_BYTES else len(whole) // 300
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def asks(body: bytes) -> bool:
    """True when this request asks for the usage event."""
    options = orjson.loads(body).get("stream_options") or {}
    return bool(options.get("include_usage"))


def wanted(shape: Shape, usage: str, *, asked: bool) -> list[bytes]:
    """What the client of a chat completion gets: the provider's own, less the usage event that only Lengthwise asked for."""
    if usage == "observe" or asked:
        return shape.pieces(chat(asked=asked))
    return shape.pieces(chat(asked=True), without=None if shape.uncut else EXTRA_MARK)


async def answer(
    link: Link, shape: Shape, pieces: list[bytes], heard: asyncio.Event, *, hold_fin: bool = False
) -> bool:
    """Sends a stream, one chunk for each piece, and ends it as the shape does; False when the connection is over.

    A reset waits until `heard`, because it may overtake what was sent before it; so does an early end with `hold_fin`, for
    clients that drop what they have not read yet when the connection ends.
    """
    lines = [b"HTTP/1.1 200 OK", EVENT_STREAM, b"Transfer-Encoding: chunked"]
    if shape.coding:
        lines.append(b"Content-Encoding: " + shape.coding.encode())
    await link.send(b"\r\n".join(lines) + b"\r\n\r\n")
    for piece in pieces:
        await link.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    if shape.ending == "whole":
        await link.send(b"0\r\n\r\n")
        return True
    if shape.ending == "reset" or hold_fin:
        await heard.wait()
    if shape.ending == "reset":
        await link.reset()
    else:
        await link.fin()
    return False


def sending(shape: Shape, pieces: Callable[[bool], list[bytes]], heard: asyncio.Event) -> Script:
    """Answers each request with the pieces for (asked for usage)."""

    async def script(link: Link) -> None:
        while True:
            request = await link.request()
            if not await answer(link, shape, pieces(asks(request.body)), heard):
                return

    return script
