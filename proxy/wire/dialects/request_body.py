"""What every dialect does with a request: parse it, read the limits and parameters in it, and splice a limit.

Layer: wire (sans-io). No function here raises on any bytes. A rewritten body differs from the client's in the spliced bytes only.

Source: RFC 8259 (duplicate names, escaped names); ARCHITECTURE.md 5.6.
"""

import json
import re
from collections.abc import Callable, Container, Iterable
from functools import cache
from typing import Any

import orjson

from proxy.record import Action, Decision, RequestFacts
from proxy.wire.dialects.base import MAX_INTEGER, clamped, plain_word, whole_number
from proxy.wire.dialects.limit_fields import FLOORS, LIMIT_FIELDS, UNLIMITED_BELOW_ZERO, Judged, folded, judged
from proxy.wire.json_edit import Found, find_values, insert_member, replace

__all__ = ["count", "output_type", "parsed_request", "request_facts", "unreadable", "with_limit"]

_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
_NUMBER_MEMBER = re.compile(rb'"[ \t\r\n]*:[ \t\r\n]*(-?[0-9.eE+-]+)')
"""Rest of a member after its name, when the value is a number."""

LENIENT = "lenient_json"
"""`degraded` of a body that some readers take and RFC 8259 does not: NaN, Infinity, a byte order mark."""

_Limits = list[tuple[str, int | None]]
_Fault = tuple[str, str | None]
"""(`degraded`, `degraded_field`)."""


def parsed_request(body: bytes) -> tuple[dict[str, Any] | None, str | None]:
    """The object that a request is, and what is wrong with it.

    Read as leniently as any upstream might. (None, `not_utf8` | `invalid_json` | `not_object`) when it cannot be read; (object, `LENIENT`)
    when RFC 8259 forbids it and some server may read it all the same.
    """
    degraded = None
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"\0" in body[:4]:  # UTF-16 or UTF-32, which JSON forbids between systems and some servers read
            return None, "not_utf8"
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return None, "not_utf8"
        constants: list[str] = []
        try:
            request = json.loads(text.removeprefix("\ufeff"), parse_constant=_float_into(constants))
        except (ValueError, RecursionError):
            return None, "invalid_json"
        if constants or text.startswith("\ufeff"):
            degraded = LENIENT
    return (request, degraded) if type(request) is dict else (None, "not_object")


def unreadable(dialect: str, reason: str | None) -> RequestFacts:
    """Facts of a request of which nothing is known but why."""
    return RequestFacts(dialect, degraded=reason, choices=None)


def request_facts(
    dialect: str,
    own: tuple[str, ...],
    body: bytes,
    request: dict[str, Any],
    *,
    fields: tuple[str, ...] = LIMIT_FIELDS,
    degraded: str | None = None,
    choices: int | None = 1,
    multipliers: tuple[str, ...] = (),
    include_usage: bool | None = None,
    output_type: str | None = None,
) -> RequestFacts:
    """Facts of a request; what is read here has the same name in every dialect.

    `degraded` says why the body could be read in two ways, `degraded_field` in which member: `limit_twice` when a limit occurs more than
    once (then the largest counts), `limit_type` when one is no whole number from 0 up, `limit_zero` when it is 0 where that means no answer
    to one server and no limit to another, `model_type`, `stream_type`, `choices_type` alike, `ambiguous_key` when another judged member
    occurs twice or there is one whose name a lenient server might take for it.

    Args:
        dialect: Its name.
        own: Its limit fields, in the order in which its provider reads them.
        body: The request.
        request: The same, parsed.
        fields: Every limit field, of all servers.
        degraded: What is wrong with the body as a whole.
        choices: Answers asked for; None when that could not be read.
        multipliers: Members besides `n` and `best_of` by which the answers multiply.
        include_usage: What the client said of usage.
        output_type: `text` or `json`.
    """
    known = judged(own, multipliers, fields)
    present = known.names.intersection(request)
    places, once = _Places(body, known.steps), _are_spelled_once(present, body)
    limits, fault = _limits(known, present, request, places, once=once)
    fault = fault or _other_fault(known, present, request, places, once=once, choices=choices)
    if fault is None and any(tokens == 0 for _, tokens in limits) and not _allows_zero(dialect, request):
        fault = "limit_zero", next(path for path, tokens in limits if tokens == 0)
    # A request has five members of the fifty that it may have, so go by what is there.
    read = {name: reader(request[name]) for name, reader in _READERS.items() if name in request}
    if "thinking" in request:
        read["thinking_budget_tokens"] = _budget(request["thinking"])
    if degraded is None and fault is not None:
        degraded, read["degraded_field"] = fault
    return RequestFacts(
        dialect=dialect,
        model=clamped(request.get("model")),
        stream=request.get("stream") is True,
        limits=tuple(limits),
        choices=choices,
        include_usage=include_usage,
        degraded=degraded,
        output_type=output_type,
        floors=() if _FLOORED.isdisjoint(request) else _floors(request),
        **read,
    )


def with_limit(body: bytes, facts: RequestFacts, decision: Decision) -> bytes:
    """Body with the decided limit; the same object when nothing is to be changed.

    Every occurrence of every limit field above `decision.cap_tokens` is lowered to it, every least length above the forwarded limit to
    that. Where `decision.limit_field` names a field without a limit, the forwarded limit is put there: in the place of null, else as the
    first member.
    """
    forwarded = decision.forwarded_max_tokens
    if forwarded is None or decision.action not in {Action.CAPPED, Action.INSERTED}:
        return body
    edits: list[tuple[int, int, bytes]] = []
    cap = forwarded if decision.cap_tokens is None else decision.cap_tokens
    lowered = (*((path, cap) for path, _ in facts.limits), *((path, forwarded) for path, _ in facts.floors))
    places = _Places(body, {step for path, _ in lowered for step in path.split(".")})
    for path, most in lowered:
        digits = b"%d" % most
        alone = None if "." in path else _number_spelled_once(body, path)
        for found in places.of(path) if alone is None else (alone,):
            value = _scalar(body[found.start : found.end])
            if type(value) in {int, float} and (not value <= most or (value < 0 and _is_unlimited(path, value))):
                edits.append((found.start, found.end, digits))
    field = decision.limit_field
    if field is None or any(path == field for path, _ in facts.limits):
        return replace(body, edits)
    digits = b"%d" % forwarded
    nulls = [found for found in find_values(body, {field}) if body[found.start : found.end] == b"null"]
    edits += [(found.start, found.end, digits) for found in nulls]
    body = replace(body, edits)
    return body if nulls else insert_member(body, b'"%b":%b' % (field.encode(), digits))


def count(value: object) -> int | None:
    """How many of something; 1 when absent, None for what is no number from 1 up."""
    if value is None:
        return 1
    number = whole_number(value)
    return min(number, MAX_INTEGER) if number is not None and number >= 1 else None


def output_type(value: object) -> str | None:
    """`text` or `json`, of an object that names a format."""
    kind = value.get("type") if type(value) is dict else None
    return {"text": "text", "json_object": "json", "json_schema": "json"}.get(kind) if type(kind) is str else None


# -- what is judged -------------------------------------------------------------------------------------------------


def _limits(
    known: Judged, present: frozenset[str], request: dict[str, Any], places: "_Places", *, once: bool
) -> tuple[_Limits, _Fault | None]:
    """Limits in the provider's order, each path once, and what is wrong with them.

    Args:
        known: The judged members.
        present: Those of the top level that are there.
        request: The parsed body.
        places: Where members stand in it.
        once: True when each of `present` can only be there once.
    """
    limits: _Limits = []
    fault: _Fault | None = None
    for path in known.top if present.isdisjoint(known.nested) else (*known.top, *known.dotted):
        first = path.partition(".")[0]
        if first not in present:
            continue
        # of a member that is there once, the parsed value is all of them
        values = [request[path]] if once and path == first else places.values(path)
        if len(values) > 1:
            fault = fault or ("limit_twice", path)
        found: list[int | None] = []
        for value in values:
            tokens = whole_number(value)
            if tokens is not None and (tokens >= 0 or _is_unlimited(path, tokens)):
                found.append(min(tokens, MAX_INTEGER) if tokens >= 0 else None)
            elif value is not None:
                fault = fault or ("limit_type", path)
        if found:
            limits.append((path, None if None in found else max(tokens for tokens in found if tokens is not None)))
    return limits, fault


def _other_fault(
    known: Judged,
    present: frozenset[str],
    request: dict[str, Any],
    places: "_Places",
    *,
    once: bool,
    choices: int | None,
) -> _Fault | None:
    if not once:
        for name in present:
            if len(places.of(name)) > 1:
                return "ambiguous_key", name
    if not _USUAL.issuperset(request):
        meant = _lookalike(known, request)
        if meant is not None:
            return "ambiguous_key", meant
        if not present.isdisjoint(known.nested):
            for path in known.inner_objects:
                if len(places.of(path)) > 1:
                    return "ambiguous_key", path
    if choices is None:
        return "choices_type", "best_of" if request.get("best_of") is not None else "n"
    if not isinstance(request.get("model", ""), str | None):
        return "model_type", "model"
    if not isinstance(request.get("stream"), bool | None):
        return "stream_type", "stream"
    return None


def _lookalike(known: Judged, members: dict[str, Any], above: str = "", alike_above: str = "") -> str | None:
    """The judged member that a lenient server might take one of these for, or one inside them; None when there is none."""
    spellings = known.spellings
    for name, value in members.items():
        alike = alike_above + folded(name)
        if alike not in spellings:
            continue
        path = above + name
        if path not in spellings[alike]:
            return min(spellings[alike])
        if type(value) is dict and (meant := _lookalike(known, value, f"{path}.", f"{alike}.")) is not None:
            return meant
    return None


def _allows_zero(dialect: str, request: dict[str, Any]) -> bool:
    """True where a limit of 0 has one meaning: an echo without completion, a prompt that fills the cache (Anthropic).

    Elsewhere OpenAI refuses it and Ollama generates without end.
    """
    return dialect == "messages" or (dialect == "completions" and request.get("echo") is True)


def _floors(request: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for path in FLOORS:
        value: Any = request
        for step in path.split("."):
            value = value.get(step) if type(value) is dict else None
        tokens = whole_number(value)
        if tokens is not None and tokens > 0:
            found.append((path, min(tokens, MAX_INTEGER)))
    return tuple(found)


def _is_unlimited(path: str, tokens: float) -> bool:
    """True for a number that asks for no limit."""
    return tokens < 0 and path.rpartition(".")[2] in UNLIMITED_BELOW_ZERO


# -- where it stands ------------------------------------------------------------------------------------------------


class _Places:
    """Where members of a body stand, duplicates included; every object is looked through once, whatever is asked for in it."""

    __slots__ = ("_body", "_members", "_names")

    def __init__(self, body: bytes, names: Container[str]) -> None:
        """`names` are all that paths which are asked for may be made of."""
        self._body = body
        self._names = names
        self._members: dict[str, list[Found]] = {}
        """Members of the objects at a path, of all of them."""

    def of(self, path: str) -> list[Found]:
        """Where the values of a path stand."""
        above, _, name = path.rpartition(".")
        members = self._members.get(above)
        if members is None:
            body = self._body
            members = self._members[above] = [
                Found(inner.key, outer.start + inner.start, outer.start + inner.end)
                for outer in (self.of(above) if above else [Found("", 0, len(body))])
                for inner in find_values(body[outer.start : outer.end], self._names)
            ]
        return [found for found in members if found.key == name]

    def values(self, path: str) -> list[Any]:
        """The values themselves."""
        return [_scalar(self._body[found.start : found.end]) for found in self.of(path)]


def _number_spelled_once(body: bytes, name: str) -> Found | None:
    """Where the number of a member of the top level that is there stands; None when it is no number, or may be there twice."""
    if not _are_spelled_once((name,), body):
        return None
    value = _NUMBER_MEMBER.match(body, body.find(_quoted(name)) + len(name) + 1)
    return None if value is None else Found(name, *value.span(1))


def _are_spelled_once(names: Iterable[str], body: bytes) -> bool:
    """True when each of these members can only be there once."""
    if b"\\u00" in body and _ESCAPED_ASCII.search(body) is not None:
        return False
    for name in names:  # noqa: SIM110 -- a generator costs as much as the search
        if body.count(_quoted(name)) != 1:
            return False
    return True


@cache
def _quoted(name: str) -> bytes:
    return b'"%b"' % name.encode()


def _scalar(text: bytes) -> Any:
    """Parsed value of a member; True, which is no limit, for what cannot be parsed."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return True


def _float_into(seen: list[str]) -> Callable[[str], float]:
    """A reader of NaN and Infinity that says that it was needed."""

    def read(constant: str) -> float:
        seen.append(constant)
        return float(constant)

    return read


# -- what is a fact under its own name ------------------------------------------------------------------------------


def _number(value: object) -> float | None:
    return float(value) if type(value) in {int, float} and abs(value) < 1e18 else None  # type: ignore[arg-type]


def _seed(value: object) -> int | None:
    number = whole_number(value)
    return number if number is not None and abs(number) <= MAX_INTEGER else None


def _budget(value: object) -> int | None:
    enabled = type(value) is dict and value.get("type") != "disabled"
    number = whole_number(value.get("budget_tokens")) if enabled and type(value) is dict else None
    return min(number, MAX_INTEGER) if number is not None and number > 0 else None


_FLOORED = frozenset(path.partition(".")[0] for path in FLOORS)

_USUAL = frozenset(
    """
    model stream max_tokens max_completion_tokens max_output_tokens messages prompt input system instructions temperature top_p top_k n
    stop stop_sequences seed user metadata store tools tool_choice parallel_tool_calls functions function_call response_format text
    stream_options logprobs top_logprobs logit_bias frequency_penalty presence_penalty reasoning reasoning_effort thinking verbosity
    modalities audio prediction service_tier safety_identifier prompt_cache_key prompt_cache_retention previous_response_id include
    truncation background conversation best_of echo suffix provider models route plugins transforms usage
    """.split()  # noqa: SIM905 -- sixty lines otherwise
)
"""Names that are looked at no further, because most requests have no others."""

_READERS: dict[str, Callable[[object], Any]] = {
    "temperature": _number,
    "top_p": _number,
    "frequency_penalty": _number,
    "presence_penalty": _number,
    "seed": _seed,
    "service_tier": plain_word,
}
"""Members that are facts under their own name."""
