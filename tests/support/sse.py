"""A slow, plain reading of the event stream format: the oracle that the fast one is compared with.

It works line by line on the whole stream, as WHATWG HTML 9.2.6 is written, and remembers which bytes belong to which event.
"""

import re
from itertools import pairwise
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"


class Block(NamedTuple):
    """Bytes from one blank line to the next; `event` is None when they dispatch nothing."""

    raw: bytes
    event: tuple[bytes | None, bytes] | None
    ended: bool
    """False for what the end of the stream left without its blank line."""


def blocks(stream: bytes) -> list[Block]:
    """The stream in pieces; a leading BOM and blank lines without an event are blocks of their own."""
    found = []
    if stream.startswith(BOM):
        found.append(Block(BOM, None, ended=True))
        stream = stream[len(BOM) :]
    raw, name, data = b"", None, []
    for line in re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", stream):
        raw += line
        text = line.rstrip(b"\r\n")
        if text:
            name, data = _field(text, name, data)
            continue
        found.append(Block(raw, (name, b"\n".join(data)) if data else None, ended=True))
        raw, name, data = b"", None, []
    if raw:
        found.append(Block(raw, (name, b"\n".join(data)) if data else None, ended=False))
    return found


def _field(text, name, data):
    field, _, value = text.partition(b":")
    value = value[1:] if value[:1] == b" " else value
    if field == b"event":
        return value or None, data
    return name, [*data, value] if field == b"data" else data


def cut_at(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in reads that begin at these places."""
    edges = [0, *sorted({place % (len(stream) + 1) for place in places}), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges) if start < end]


def one_by_one(stream: bytes) -> list[bytes]:
    """The stream in reads of one byte."""
    return [stream[at : at + 1] for at in range(len(stream))]
