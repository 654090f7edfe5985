"""Content codings of an observed copy: gzip and deflate, decoded as the bytes come.

Layer: wire (sans-io). Only a copy is decoded; what is forwarded stays as it came. A decoder never raises: corrupt bytes and bombs set
`failed`, after which it returns nothing more.

Source: RFC 9110 8.4.1 (`x-gzip` is `gzip`; `deflate` is zlib, though raw deflate is met), RFC 1952 2.2 (several members).
"""

import zlib
from typing import Protocol

__all__ = ["Decoder", "decoder"]

_SLICE_BYTES = 4096
"""Input is judged at every multiple of this, whatever the reads were, and a slice can hold at most 4 MiB of output."""
_FREE_BYTES = 1 << 20
_RATIO = 100
"""A bomb: more output than `_FREE_BYTES` and more than this multiple of the input. Deflate itself allows 1032."""


class Decoder(Protocol):
    """Decodes one body incrementally."""

    failed: bool
    """True after bytes that could not be decoded or expanded too far."""

    def decode(self, data: bytes) -> bytes:
        """Output of these input bytes, bounded to about 100 times all input plus 5 MiB; empty after a failure."""
        ...  # pragma: no cover


def decoder(content_encoding: str) -> Decoder | None:
    """New decoder for a Content-Encoding value; None for a coding that cannot be read. Empty and `identity` decode to their input."""
    codings = [name for part in content_encoding.lower().split(",") if (name := part.strip()) not in {"", "identity"}]
    if not codings:
        return _Identity()
    if codings in (["gzip"], ["x-gzip"]):
        return _Inflate(gzip=True)
    return _Inflate(gzip=False) if codings == ["deflate"] else None


class _Identity:
    __slots__ = ("failed",)

    def __init__(self) -> None:
        self.failed = False

    def decode(self, data: bytes) -> bytes:
        return data


class _Inflate:
    __slots__ = ("_gzip", "_head", "_in_bytes", "_member", "_out_bytes", "failed")

    def __init__(self, *, gzip: bool) -> None:
        self.failed = False
        self._gzip = gzip
        self._head = b""  # the first byte of a deflate body, until the second tells zlib from raw
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS) if gzip else None
        self._in_bytes = 0
        self._out_bytes = 0

    def decode(self, data: bytes) -> bytes:
        if self._member is None:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return b""
            self._member = zlib.decompressobj(zlib.MAX_WBITS if _is_zlib(data) else -zlib.MAX_WBITS)
        parts: list[bytes] = []
        at = 0
        while at < len(data) and not self.failed:
            end = min(at + _SLICE_BYTES - self._in_bytes % _SLICE_BYTES, len(data))
            self._inflate(data[at:end], parts)
            self._in_bytes += end - at
            at = end
            if self._in_bytes % _SLICE_BYTES == 0 and self._out_bytes > max(_FREE_BYTES, _RATIO * self._in_bytes):
                self.failed = True
        return b"".join(parts)

    def _inflate(self, piece: bytes, parts: list[bytes]) -> None:
        while piece and self._member is not None:
            if self._member.eof:
                if not self._gzip:
                    return  # what follows a deflate body is no part of it
                piece = piece.lstrip(b"\0")  # padding between or after members
                if not piece:
                    return
                self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
            try:
                output = self._member.decompress(piece)
            except zlib.error:
                self.failed = True
                return
            self._out_bytes += len(output)
            parts.append(output)
            piece = self._member.unused_data


def _is_zlib(head: bytes) -> bool:
    return head[0] & 0x0F == 8 and (head[0] << 8 | head[1]) % 31 == 0
