"""Content codings of an observed copy: gzip, deflate, br and zstd, decoded as the bytes come, up to two of them on top of each other.

Layer: wire (sans-io). Only a copy is decoded; what is forwarded stays as it came. A decoder never raises: corrupt bytes and bombs set `failed`,
after which it returns nothing more. What came out until then does not depend on the reads: everything before the first bad byte.

Output is bounded for each slice of the input and in total. The libraries of br and zstd are loaded when a body needs them; one that is not there
leaves its coding unknown.

Source: RFC 9110 8.4 (codings in the order in which they were applied; `x-gzip` is `gzip`; `deflate` is zlib, though raw deflate is met), RFC 1952
2.2 (several members), RFC 7932 (br), RFC 8878 3.1 (several frames of zstd), RFC 9659 3 (their window).
"""

import sys
import zlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Protocol

__all__ = ["Decoder", "decoder"]

_SLICE_BYTES = 4096
"""Input is judged at every multiple of this, whatever the reads were."""
_SLICE_OUTPUT_BYTES = 4 << 20
"""A bomb: more output than this from one slice. A zstd block of 4 bytes can hold 128 KiB, a br command 16 MiB."""
_FREE_BYTES = 1 << 20
_RATIO = 200
"""A bomb: more output than `_FREE_BYTES` and more than this multiple of the input. Events that differ in a word alone reach 70 in zstd."""
_MAX_MEMBERS = 10_000
"""A bomb of time: members of a body. A frame of zstd has 9 bytes and costs as many microseconds."""
_MAX_CODINGS = 2
_WINDOW_LOG = 23
"""RFC 9659 3: a zstd body needs no window over 8 MiB."""
_BEHIND_BYTES = 1 << 16
_ANY_BYTES = 1 << 30


class Decoder(Protocol):
    """Decodes one body incrementally."""

    failed: bool
    """True after bytes that could not be decoded or expanded too far."""

    def decode(self, data: bytes) -> bytes:
        """Output of these input bytes, bounded to about 200 times all input plus 5 MiB; empty after a failure."""
        ...  # pragma: no cover

    def finish(self) -> None:
        """No input follows: sets `failed` when the body is not whole. For a reader to whom half a body says nothing."""
        ...  # pragma: no cover


def decoder(content_encoding: str, max_bytes: int = sys.maxsize) -> Decoder | None:
    """New decoder for a Content-Encoding value; None for a coding that cannot be read. Empty and `identity` decode to their input.

    A body of more than `max_bytes` of output fails, unless it is not encoded at all.
    """
    names = [name for part in content_encoding.lower().split(",") if (name := part.strip()) not in {"", "identity"}]
    if not names:
        return _Identity()
    codings = [_coding(name) for name in reversed(names[: _MAX_CODINGS + 1])]
    if len(codings) > _MAX_CODINGS:
        return None
    feeders: list[_Feeder] = [_Exact(coding) for coding in codings if coding is not None]
    if len(feeders) < len(codings):
        return None
    if len(feeders) == 1:
        return _Bounded(feeders[0], max_bytes)
    return _Bounded(_Chain(*(_Bounded(feeder, sys.maxsize) for feeder in feeders)), max_bytes)


class _Stream(Protocol):
    """One member, as zlib and zstd have it. `decompress` raises its library's error; output below the limit is all there is."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Coding(NamedTuple):
    begin: Callable[[], _Stream]
    error: type[Exception]
    members: bool = False
    """True when another member may follow the end of one."""
    padding: bytes = b""
    """What may stand between and after members."""


@cache
def _coding(name: str) -> _Coding | None:
    if name in {"gzip", "x-gzip"}:
        return _Coding(lambda: zlib.decompressobj(16 + zlib.MAX_WBITS), zlib.error, members=True, padding=b"\0")
    if name == "deflate":
        return _Coding(_Deflate, zlib.error)
    try:
        if name == "br":
            return _brotli()
        if name == "zstd":
            return _zstd()
    except ImportError:
        return None
    return None


def _brotli() -> _Coding:
    import brotli  # noqa: PLC0415 -- 2 ms and 5 MB that most workers never need

    class Stream:
        """A br stream under the names of the others; its library fails when anything follows the end."""

        __slots__ = ("_failure", "_stream")
        unused_data = b""

        def __init__(self) -> None:
            self._stream = brotli.Decompressor()
            self._failure: Exception | None = None

        @property
        def eof(self) -> bool:
            return bool(self._stream.is_finished())

        def decompress(self, data: bytes, max_length: int, /) -> bytes:
            if self._failure is not None:
                raise self._failure
            output = bytes(self._stream.process(data, output_buffer_limit=max_length))
            try:
                # A call may leave output behind that the next one gives, whatever it brings.
                while output and len(output) < max_length and not self._stream.is_finished():
                    more = self._stream.process(b"", output_buffer_limit=max_length - len(output))
                    if not more:
                        break
                    output += more
            except brotli.error as error:
                self._failure = error  # at the next call: what came before it is good
            return output

    return _Coding(Stream, brotli.error)


def _zstd() -> _Coding:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415 -- 10 ms that most workers never need
    else:
        from backports import zstd  # noqa: PLC0415 -- likewise
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    return _Coding(lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError, members=True)


class _Deflate:
    """zlib or raw deflate, which the second byte tells."""

    __slots__ = ("_head", "_stream")
    unused_data = b""

    def __init__(self) -> None:
        self._head = b""
        self._stream: _Stream | None = None

    @property
    def eof(self) -> bool:
        return self._stream is not None and self._stream.eof

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        if self._stream is None:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return b""
            is_zlib = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
        output = self._stream.decompress(data, max_length)
        if self._stream.unused_data:
            raise zlib.error("bytes follow the end")
        return output


class _Members:
    """One coding, member after member; raises the coding's error."""

    __slots__ = ("_coding", "_count", "_stream")

    def __init__(self, coding: _Coding) -> None:
        self._coding = coding
        self._stream: _Stream | None = None
        self._count = 0

    @property
    def whole(self) -> bool:
        return self._stream is not None and self._stream.eof

    def read(self, piece: bytes, limit: int) -> bytes:
        """Output of these bytes, about `limit` at most; less than that is all there is."""
        coding, stream = self._coding, self._stream
        output = b""
        while piece and len(output) < limit:
            if stream is not None and not stream.eof:
                output += stream.decompress(piece, limit - len(output))
                piece = stream.unused_data
                continue
            if stream is not None:
                piece = piece.lstrip(coding.padding) if coding.padding else piece
                if not piece:
                    break
                if not coding.members:
                    raise coding.error("bytes follow the end")
            if self._count == _MAX_MEMBERS:
                raise coding.error("too many members")
            stream = self._stream = coding.begin()
            self._count += 1
            # Alone: libzstd takes a frame that is there whole in one go, and is then less strict about its window.
            output += stream.decompress(piece[:1], limit - len(output))
            piece = piece[1:]
        return output


class _Feeder(Protocol):
    """Decodes without bounds of its own, about `limit` at most of each piece."""

    @property
    def failed(self) -> bool: ...
    @property
    def whole(self) -> bool: ...
    def feed(self, piece: bytes, limit: int) -> bytes: ...


class _Exact:
    """One coding whose output before a failure is that of its bytes one by one.

    A library that raises keeps the output of that call to itself. So a second reader stays up to 64 KiB behind, and
    reads the bytes of the failing call singly.
    """

    __slots__ = ("_behind", "_coding", "_kept", "_reader", "failed")

    def __init__(self, coding: _Coding) -> None:
        self.failed = False
        self._coding = coding
        self._reader = _Members(coding)
        self._behind: _Members | None = None
        self._kept = bytearray()  # what the one behind has not read

    @property
    def whole(self) -> bool:
        return self._reader.whole

    def feed(self, piece: bytes, limit: int) -> bytes:
        try:
            output = self._reader.read(piece, limit)
        except self._coding.error:
            return self._before_failure(piece, limit)
        self._kept += piece
        if len(self._kept) >= _BEHIND_BYTES:
            self._catch_up()
        return output

    def _catch_up(self) -> _Members:
        behind = self._behind = self._behind or _Members(self._coding)
        for at in range(0, len(self._kept), _SLICE_BYTES):
            behind.read(bytes(self._kept[at : at + _SLICE_BYTES]), _ANY_BYTES)
        self._kept.clear()
        return behind

    def _before_failure(self, piece: bytes, limit: int) -> bytes:
        self.failed = True
        behind = self._catch_up()
        output = bytearray()
        try:
            for at in range(len(piece)):
                output += behind.read(piece[at : at + 1], limit)
                if len(output) >= limit:
                    break
        except self._coding.error:
            pass
        return bytes(output)


class _Chain:
    """Two codings, the one that was applied last first."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, outer: "_Bounded", inner: "_Bounded") -> None:
        self._outer = outer
        self._inner = inner

    @property
    def failed(self) -> bool:
        return self._outer.failed or self._inner.failed

    @property
    def whole(self) -> bool:
        return self._outer.whole and self._inner.whole

    def feed(self, piece: bytes, limit: int) -> bytes:
        between = self._outer.decode(piece)
        output = bytearray()
        for at in range(0, len(between), _SLICE_BYTES):
            output += self._inner.decode(between[at : at + _SLICE_BYTES])
            if len(output) >= limit:
                break
        return bytes(output)


class _Bounded:
    """Decodes in slices, and fails a body that expands too far."""

    __slots__ = ("_feeder", "_in_bytes", "_max_bytes", "_out_bytes", "_slice_out_bytes", "failed")

    def __init__(self, feeder: _Feeder, max_bytes: int) -> None:
        self.failed = False
        self._feeder = feeder
        self._max_bytes = max_bytes
        self._in_bytes = self._out_bytes = self._slice_out_bytes = 0

    @property
    def whole(self) -> bool:
        return self._feeder.whole

    def decode(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        at = 0
        while at < len(data) and not self.failed:
            end = min(at + _SLICE_BYTES - self._in_bytes % _SLICE_BYTES, len(data))
            parts.append(self._slice(data[at:end]))
            at = end
        return b"".join(parts)

    def finish(self) -> None:
        self.failed = self.failed or not self.whole

    def _slice(self, piece: bytes) -> bytes:
        left_bytes = min(_SLICE_OUTPUT_BYTES - self._slice_out_bytes, self._max_bytes - self._out_bytes)
        output = self._feeder.feed(piece, left_bytes + 1)
        self.failed = self._feeder.failed
        if len(output) > left_bytes:
            output = output[:left_bytes]
            self.failed = True
        self._in_bytes += len(piece)
        self._out_bytes += len(output)
        self._slice_out_bytes += len(output)
        if self._in_bytes % _SLICE_BYTES == 0:
            self._slice_out_bytes = 0
            if self._out_bytes > max(_FREE_BYTES, _RATIO * self._in_bytes):
                self.failed = True
        return output


class _Identity:
    __slots__ = ("failed",)

    def __init__(self) -> None:
        self.failed = False

    def decode(self, data: bytes) -> bytes:
        return data

    def finish(self) -> None:
        """Any end is one."""
