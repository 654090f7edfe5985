"""The observer: reads a copy of a response as it passes, and says at the end what was in it.

Layer: observe (pure, above wire). `feed` and `finish` never raise, read no clock, hold no writer; they are O(bytes) at any chunking and keep
at most one event, or one body of `body_bytes`, and of a stream's text what a count is worth. Trouble sets `degraded`, and the stamps go on. Facts do not depend on chunking; stamps do: an
event has the stamp of the read that completed it.

Source: ARCHITECTURE.md 5.4, 7 "Times and tokens".
"""

from collections import defaultdict

from proxy.record import ResponseFacts
from proxy.wire.coding import Decoder, decoder
from proxy.wire.dialects.alike import Alike
from proxy.wire.dialects.base import Dialect, Reading
from proxy.wire.sse import EventSplitter

__all__ = ["Observer"]

_CHECKPOINT_EVENTS = 64
_MAX_CHECKPOINTS = 256
_MOST_TEXT = 262_144
"""Characters of generated text that are kept for counting."""
_MOST_CHOICES = 1024
"""Choices of which text is kept."""
_MEASURED_BYTES = 65_536
"""The text is measured, and its pieces made one, each time that so much has been read."""


class Observer:
    """Reader of one response. Without a dialect it only keeps stamps; so it does after `degraded`.

    `degraded` is one of content_encoding, event_too_large, body_too_large, internal (it stopped reading), invalid_event, invalid_json,
    not_object (something could not be read).
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_checkpoints",
        "_decoder",
        "_degraded",
        "_dialect",
        "_end_ns",
        "_event_stream",
        "_events",
        "_facts",
        "_first_answer_ns",
        "_first_chunk_ns",
        "_first_token_ns",
        "_generated",
        "_last_token_ns",
        "_max_gap_ns",
        "_next_checkpoint",
        "_reading",
        "_splitter",
        "_stride",
        "_unmeasured_bytes",
        "usual",
    )

    def __init__(
        self,
        dialect: Dialect | None,
        *,
        event_stream: bool,
        content_encoding: str,
        event_bytes: int,
        body_bytes: int,
        choices: int | None = None,
    ) -> None:
        self._dialect = dialect
        """None once nothing more is read."""
        self.usual: Alike | None = None
        """While the stream is between events: the bytes of one that does nothing but bring a text."""
        self._event_stream = event_stream
        self._body_bytes = body_bytes
        self._body = bytearray()
        self._reading = Reading()
        self._reading.choices = choices
        self._reading.texts = None if dialect is None else defaultdict(list)
        self._unmeasured_bytes = 0
        self._splitter = EventSplitter(event_bytes)
        self._decoder: Decoder | None = None
        self._degraded: str | None = None
        self._facts: ResponseFacts | None = None
        self._events = self._generated = 0
        self._stride = self._next_checkpoint = _CHECKPOINT_EVENTS
        self._checkpoints: list[tuple[int, int]] = []
        self._first_chunk_ns: int | None = None
        self._first_token_ns: int | None = None
        self._first_answer_ns: int | None = None
        self._last_token_ns: int | None = None
        self._end_ns: int | None = None
        self._max_gap_ns: int | None = None
        if dialect is not None and content_encoding:
            self._decoder = decoder(content_encoding)
            if self._decoder is None:
                self._stop("content_encoding")

    def take(self, text: str, size: int, at_ns: int) -> None:
        """What `feed` does with a usual event of `size` bytes, for who knows its text already."""
        # As `_stamp` and `_count_token`, without calling them for each token; an event like this one was read before.
        before_ns = self._end_ns
        if before_ns is not None and (self._max_gap_ns is None or at_ns - before_ns > self._max_gap_ns):
            self._max_gap_ns = at_ns - before_ns
        self._end_ns = self._last_token_ns = at_ns
        self._events += 1
        self._generated = generated = self._generated + 1
        if generated == self._next_checkpoint:
            self._add_checkpoint(at_ns)
        reading = self._reading
        if reading.texts is not None:
            reading.texts[reading.alike_choice].append(text)
            self._unmeasured_bytes += size
            if self._unmeasured_bytes > _MEASURED_BYTES:
                self._measure_text()

    def feed(self, data: bytes, at_ns: int) -> None:
        """Take the body bytes of one read that arrived at `at_ns`."""
        if not data:
            return
        if self.usual is not None and (text := self.usual.text_of(data)) is not None:
            self.take(text, len(data), at_ns)
            return
        self._stamp(at_ns)
        dialect, reading = self._dialect, self._reading
        if dialect is None:
            return
        try:
            if self._decoder is not None:
                data = self._decoder.decode(data)
            if self._event_stream:
                for event in self._splitter.feed(data):
                    self._events += 1
                    if dialect.read_event(event, reading):
                        self._count_token(at_ns)
                self._unmeasured_bytes += len(data)
                if self._unmeasured_bytes > _MEASURED_BYTES:
                    self._measure_text()
                if self._splitter.overflow:
                    self._stop("event_too_large")
                self._find_usual()
            else:
                self._read_body(data)
            if self._decoder is not None and self._decoder.failed:
                self._stop("content_encoding")
        except Exception:  # noqa: BLE001 -- the observer cannot hurt: a mistake of ours costs facts, never the stream
            self._stop("internal")

    def finish(self, at_ns: int) -> ResponseFacts:
        """What was in the response; the first call decides, `at_ns` is the end when no byte came."""
        if self._facts is None:
            try:
                self._finish_reading()
            except Exception:  # noqa: BLE001 -- as in `feed`
                self._stop("internal")
            self._facts = self._made_facts(at_ns)
        return self._facts

    def texts(self) -> list[str] | None:
        """After `finish`, and once: the generated text by choices, to be counted because the provider counted nothing.

        Empty where there were tokens and their text was too long or withheld; None where nothing is to be counted.
        """
        facts, texts = self._facts, self._reading.texts
        self._reading.texts = None
        if facts is None or self._degraded is not None or (facts.usage and facts.usage.output_tokens is not None):
            return None
        joined = [] if texts is None or _is_too_much(texts) else [_sound("".join(pieces)) for pieces in texts.values()]
        return joined if joined or facts.generated_events else None

    def _stamp(self, at_ns: int) -> None:
        """Something came at `at_ns`."""
        before_ns, self._end_ns = self._end_ns, at_ns
        if before_ns is None:
            self._first_chunk_ns = at_ns
        elif self._event_stream:
            gap_ns = at_ns - before_ns
            if self._max_gap_ns is None or gap_ns > self._max_gap_ns:
                self._max_gap_ns = gap_ns

    def _find_usual(self) -> None:
        alike, splitter = self._reading.alike, self._splitter
        self.usual = alike if splitter.idle and self._decoder is None else None
        if alike is not None:
            alike.most_bytes = splitter.event_bytes

    def _measure_text(self) -> None:
        self._unmeasured_bytes = 0
        texts = self._reading.texts
        if texts is not None and _is_too_much(texts):
            self._reading.texts = None

    def _count_token(self, at_ns: int) -> None:
        if self._first_token_ns is None:
            self._first_token_ns = at_ns
        if self._first_answer_ns is None and self._reading.answered:
            self._first_answer_ns = at_ns
        self._last_token_ns = at_ns
        self._generated = generated = self._generated + 1
        if generated == self._next_checkpoint:
            self._add_checkpoint(at_ns)

    def _add_checkpoint(self, at_ns: int) -> None:
        self._checkpoints.append((self._generated, at_ns))
        if len(self._checkpoints) > _MAX_CHECKPOINTS:
            self._checkpoints = self._checkpoints[1::2]
            self._stride *= 2
        self._next_checkpoint = self._checkpoints[-1][0] + self._stride

    def _read_body(self, data: bytes) -> None:
        if len(self._body) + len(data) > self._body_bytes:
            self._stop("body_too_large")
        else:
            self._body += data

    def _finish_reading(self) -> None:
        dialect, reading = self._dialect, self._reading
        if dialect is None:
            return
        if not self._event_stream:
            if self._body:
                dialect.read_body(bytes(self._body), reading)
            return
        degraded = reading.degraded
        for event in self._splitter.finish():
            self._events += 1
            if dialect.read_event(event, reading) and self._end_ns is not None:
                self._count_token(self._end_ns)
        reading.degraded = degraded  # a last event that the end cut in two is no trouble of the stream's form

    def _stop(self, degraded: str) -> None:
        self._degraded = self._degraded or degraded
        self._dialect = self.usual = None
        self._body = bytearray()
        self._reading.texts = None

    def _made_facts(self, at_ns: int) -> ResponseFacts:
        reading = self._reading
        facts = ResponseFacts(
            response_id=reading.response_id,
            response_model=reading.response_model,
            service_tier=reading.service_tier,
            system_fingerprint=reading.system_fingerprint,
            finish_reasons=tuple(reason for _, reason in sorted(reading.finish_reasons.items())),
            usage=reading.usage or reading.fallback_usage,
            error_type=reading.error_type,
            terminal_seen=reading.terminal_seen,
            degraded=self._degraded or reading.degraded,
            events=self._events,
            generated_events=self._generated,
            reasoning_streamed=reading.reasoned,
            first_chunk_ns=self._first_chunk_ns,
            first_token_ns=self._first_token_ns,
            first_answer_ns=self._first_answer_ns,
            last_token_ns=self._last_token_ns,
            end_ns=at_ns if self._end_ns is None else self._end_ns,
            max_gap_ns=self._max_gap_ns,
            checkpoints=tuple(self._checkpoints),
        )
        if reading.untimed:
            return facts._replace(first_token_ns=None, first_answer_ns=None, last_token_ns=None, checkpoints=())
        return facts


def _is_too_much(texts: dict[int, list[str]]) -> bool:
    """True for more text than is kept; the pieces of each choice become one."""
    for pieces in texts.values():
        pieces[:] = ["".join(pieces)]
    return len(texts) > _MOST_CHOICES or sum([len(pieces[0]) for pieces in texts.values()]) > _MOST_TEXT


def _sound(text: str) -> str:
    """A text without lone surrogates, which cannot be sent on; pairs that two events had divided are one character again."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
