"""What a dialect is: the stateless reader and rewriter of one endpoint's bodies; and the parts that every dialect shares.

Layer: wire (sans-io). No function here or in a dialect raises on any bytes.

Source: ARCHITECTURE.md 7 "Headers and errors"; the OpenAI error envelope (`openai.APIError`: message, type, param, code).
"""

import json
import re
from collections import defaultdict
from typing import Any, Protocol

import orjson

from proxy.record import Decision, RequestFacts, Usage
from proxy.wire.dialects.alike import Alike
from proxy.wire.sse import Event

__all__ = [
    "MAX_INTEGER",
    "MAX_TEXT_CHARS",
    "UNREADABLE",
    "Dialect",
    "Reading",
    "clamped",
    "error_identifier",
    "never_asked",
    "never_extra",
    "openai_error_body",
    "parse_json",
    "plain_name",
    "plain_word",
    "whole_number",
]

MAX_TEXT_CHARS = 128
"""Longest text of a client or provider that a record keeps."""

MAX_INTEGER = 2**63 - 1
"""Largest number that a record keeps (orjson, SQLite and OTLP take no larger one); larger ones count as this."""

UNREADABLE = frozenset({"not_utf8", "invalid_json", "not_object"})
"""Values of `RequestFacts.degraded` that mean: nothing is known of the body, and nothing can be spliced into it."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NAME = re.compile(r"[!-~]{1,128}")


class Reading:
    """What a dialect has read in one response so far; the observer owns it and adds the stamps."""

    __slots__ = (
        "alike",
        "alike_choice",
        "alike_tries",
        "answered",
        "choices",
        "degraded",
        "done",
        "error_type",
        "fallback_usage",
        "finish_reasons",
        "open_choices",
        "reasoned",
        "response_id",
        "response_model",
        "service_tier",
        "system_fingerprint",
        "texts",
        "untimed",
        "usage",
    )

    def __init__(self) -> None:
        self.alike: Alike | None = None
        """The usual event, which does nothing but bring one more text of the answer to `alike_choice`."""
        self.alike_choice = 0
        self.alike_tries = 4
        """So often may an event become the usual one: a stream without any must not pay for looking."""
        self.response_id: str | None = None
        self.response_model: str | None = None
        self.service_tier: str | None = None
        self.system_fingerprint: str | None = None
        self.finish_reasons: dict[int, str] = {}
        """By choice index."""
        self.choices: int | None = None
        """Choices that the request asked for; None when unknown."""
        self.open_choices: set[int] = set()
        """Choices that were seen and have no finish reason yet."""
        self.usage: Usage | None = None
        self.fallback_usage: Usage | None = None
        """Usage from a place that counts only when the usual one is empty."""
        self.error_type: str | None = None
        self.done = False
        """True after the dialect's own word for the end."""
        self.reasoned = False
        """True once a reasoning token came."""
        self.answered = False
        """True once a visible answer token came."""
        self.untimed = False
        """True when tokens do not arrive as they are generated: a response in the background, an echo. Then no token has a time."""
        self.degraded: str | None = None
        self.texts: defaultdict[int, list[str]] | None = None
        """Generated text in its order, by choice; None where nobody counts it."""

    def keep(self, text: object, choice: int = 0) -> None:
        """Keep a generated text where texts are kept; anything else is none."""
        if self.texts is not None and type(text) is str and text:
            self.texts[choice].append(text)

    @property
    def terminal_seen(self) -> bool:
        """True when the response said itself that it was over."""
        if self.done or self.error_type is not None:
            return True
        return len(self.finish_reasons) >= (self.choices or 1) and not self.open_choices


class Dialect(Protocol):
    """Wire format of one endpoint. Stateless: all state is in the `Reading` that is passed in."""

    @property
    def name(self) -> str:
        """Name in records and rules."""
        ...  # pragma: no cover

    @property
    def operation(self) -> str:
        """`gen_ai.operation.name`."""
        ...  # pragma: no cover

    @property
    def suffix(self) -> bytes:
        """End of the canonical path, beginning with `/`."""
        ...  # pragma: no cover

    @property
    def route(self) -> str:
        """Route template of spans."""
        ...  # pragma: no cover

    @property
    def limit_fields(self) -> tuple[str, ...]:
        """Its own fields that limit the output, in the order in which its provider reads them."""
        ...  # pragma: no cover

    def read_request(self, body: bytes, fields: tuple[str, ...] = ...) -> RequestFacts:
        """Facts of a request body; `degraded` says what could not be read. `fields` are all limit fields, of whatever server."""
        ...  # pragma: no cover

    def insert_field(self, preferred: str) -> str:
        """The field in which a limit is inserted, where the upstream prefers `preferred` of those of chat completions."""
        ...  # pragma: no cover

    def rewrite(self, body: bytes, facts: RequestFacts, decision: Decision, *, ask_usage: bool) -> bytes:
        """Body as the upstream gets it: the same object when nothing is to be changed, else with byte splices only."""
        ...  # pragma: no cover

    def may_ask_usage(self, facts: RequestFacts) -> bool:
        """True when usage may be asked for: a stream, readable, whose client did not say."""
        ...  # pragma: no cover

    def is_extra_usage(self, data: bytes) -> bool:
        """True for the data of the event that exists only because usage was asked for."""
        ...  # pragma: no cover

    def read_event(self, event: Event, reading: Reading) -> bool:
        """Read one event of a streamed answer; True when it carried generated tokens."""
        ...  # pragma: no cover

    def read_body(self, body: bytes, reading: Reading) -> None:
        """Read an answer that was not streamed."""
        ...  # pragma: no cover

    def error_body(self, status: int, envelope_type: str, error_type: str, message: str) -> bytes:
        """Body of an answer that Lengthwise gives itself, in the envelope that this endpoint's clients expect."""
        ...  # pragma: no cover


def never_asked(facts: RequestFacts) -> bool:  # noqa: ARG001 -- the signature is the protocol's
    """`may_ask_usage` of a dialect whose usage comes without being asked for."""
    return False


def never_extra(data: bytes) -> bool:  # noqa: ARG001 -- likewise
    """`is_extra_usage` of such a dialect."""
    return False


def openai_error_body(envelope_type: str, error_type: str, message: str) -> bytes:
    """OpenAI's error envelope; for opaque exchanges too."""
    return orjson.dumps({"error": {"message": message, "type": envelope_type, "param": None, "code": error_type}})


def parse_json(body: bytes) -> Any:
    """Parsed JSON, read as leniently as any upstream might: what orjson refuses (lone surrogates, NaN, 1e400) the standard library may take.

    Raises:
        ValueError: neither takes it (`UnicodeDecodeError` when it is not UTF-8).
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body.decode("utf-8-sig")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def clamped(value: object) -> str | None:
    """A non-empty text, cut to what records keep and free of control characters and lone surrogates, which no sink takes; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    text = value[:MAX_TEXT_CHARS]
    if not text.isprintable():
        text = "".join(filter(str.isprintable, text.encode("utf-8", "replace").decode()))
    return text or None


def plain_word(value: object) -> str | None:
    """A word of a provider's vocabulary, at most 64 characters, such as a finish reason; `other` for any other text, which could quote
    content; None for what is no text.
    """
    if not isinstance(value, str) or not value:
        return None
    return value if _WORD.fullmatch(value) else "other"


def plain_name(value: object) -> str | None:
    """An id or the name of a model: visible ASCII without spaces, at most 128; None for anything else, which could quote content."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def whole_number(value: object) -> int | None:
    """A JSON number without fraction (1024, 1024.0); None for anything else, booleans included."""
    if type(value) is int:
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def error_identifier(*candidates: object) -> str:
    """The first candidate that is a short identifier, which cannot quote content; else `stream_error`."""
    for candidate in candidates:
        if isinstance(candidate, str) and _IDENTIFIER.fullmatch(candidate):
            return candidate
    return "stream_error"
