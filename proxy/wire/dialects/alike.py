"""Events that differ from an earlier one in their text alone: told by their bytes, at a quarter of what parsing them costs.

Layer: wire (sans-io). Nearly every event of a stream repeats all of the one before but its token's text, and OpenAI's `obfuscation`, which
pads it to a length that says nothing. Bytes that are the same around a JSON string without escapes mean the same but for that string.

Source: RFC 8259 7 (strings); OpenAI API reference, `stream_options.include_obfuscation`.
"""

from typing import Any

import orjson

__all__ = ["Alike", "alike_to"]

_PADDING = "obfuscation"
_PROBE = "lengthwise"
_LF = b"\n"


class Alike:
    """Bytes around the text of an event as servers mostly send one, in one `data:` line."""

    __slots__ = ("_after", "_before", "_begin", "_between", "_end", "most_bytes")

    def __init__(self, before: bytes, between: str, after: bytes) -> None:
        """Make it of what stands before the text, between it and the padding (empty without one), and after them; quotes included."""
        self._before, self._between, self._after = b"data: " + before, between, after + b"\n\n"
        self._begin, self._end = len(self._before), -len(self._after)
        self.most_bytes = 0
        """Of an event whose text is told; whoever bounds events says it. Of all bounds that of the cutter, which must see what it lets go of."""

    def text_of(self, data: bytes) -> str | None:
        """The text in `data`, when that is one such event; None for what has to be parsed, among it every text with escapes."""
        begin, end = self._begin, self._end
        if data[:begin] != self._before or data[end:] != self._after or len(data) > self.most_bytes:
            return None
        try:
            text = data[begin:end].decode()
        except UnicodeDecodeError:
            return None
        if self._between:
            text, _, padding = text.partition(self._between)
            if not padding.isalnum():
                return None
        # What is printable has none of the control characters that JSON writes as escapes, nor a line's end.
        return text if text and text.isprintable() and '"' not in text and "\\" not in text else None


def alike_to(data: bytes, chunk: dict[str, Any], holder: dict[str, Any], name: str) -> Alike | None:
    """What is alike in events like this one; None when its bytes do not show where its text stands.

    Args:
        data: The event's data.
        chunk: The same, parsed; it is another meanwhile.
        holder: The object in it whose member `name` is the text.
        name: See there.
    """
    text, padding = holder[name], chunk.get(_PADDING)
    if type(padding) is not str:
        padding = ""
    if _LF in data:  # of several `data:` lines
        return None
    before, _, after = data.partition(_string(text))
    between = b""
    if padding:
        between, _, after = after.partition(_string(padding))
        between = b'"%b"' % between
    before, after = before + b'"', b'"' + after
    # Put another text there, whatever it is, and see that nothing else is another.
    other = _bytes(text + _PROBE)
    holder[name] = text + _PROBE
    if padding:
        chunk[_PADDING] = padding + _PROBE
        other += between + _bytes(padding + _PROBE)
    try:
        is_alike = orjson.loads(before + other + after) == chunk
    except (orjson.JSONDecodeError, RecursionError):  # orjson nests deeper than Python compares
        is_alike = False
    holder[name] = text
    if padding:
        chunk[_PADDING] = padding
    return Alike(before, between.decode(), after) if is_alike else None


def _string(text: str) -> bytes:
    """A JSON string that needs no escapes; what needs some, or has no bytes, is found nowhere."""
    return b'"%b"' % _bytes(text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
