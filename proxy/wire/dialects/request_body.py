"""What every dialect does with a request: parse it, read the limits and parameters in it, and splice a limit.

Layer: wire (sans-io). No function here raises on any bytes. A rewritten body differs from the client's in the spliced bytes only.

Source: RFC 8259 (duplicate names, escaped names); ARCHITECTURE.md 5.6.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

from proxy.record import Action, Decision, RequestFacts
from proxy.wire.dialects.base import MAX_INTEGER, clamped, parse_json, plain_word, whole_number
from proxy.wire.json_edit import Found, find_values, insert_member, replace

__all__ = ["count", "output_type", "parsed_request", "request_facts", "unreadable", "with_limit"]

_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
_NUMBER_MEMBER = re.compile(rb'"[ \t\r\n]*:[ \t\r\n]*(-?[0-9.eE+-]+)')
"""Rest of a member after its name, when the value is a number."""

Limits = tuple[tuple[str, int], ...]


def parsed_request(body: bytes) -> dict[str, Any] | str:
    """The object that a request is; else why it cannot be read: `not_utf8`, `invalid_json` or `not_object`."""
    try:
        if b"\0" in body[:4]:  # UTF-16 or UTF-32, which JSON forbids between systems and some servers read
            return "not_utf8"
        request = parse_json(body)
    except UnicodeDecodeError:
        return "not_utf8"
    except ValueError:
        return "invalid_json"
    return request if type(request) is dict else "not_object"


def unreadable(dialect: str, reason: str) -> RequestFacts:
    """Facts of a request of which nothing is known but why."""
    return RequestFacts(dialect, degraded=reason, choices=None)


def request_facts(
    dialect: str,
    limit_fields: tuple[str, ...],
    body: bytes,
    request: dict[str, Any],
    *,
    choices: int | None = 1,
    include_usage: bool | None = None,
    output_type: str | None = None,
) -> RequestFacts:
    """Facts of a request; what is read here has the same name in every dialect.

    `degraded` is `limit_type` when a limit is no whole number from 0 up, `limit_twice` when a limit field occurs more than once (then the
    largest counts), `ambiguous_key` when an upstream might read another limit, model or `stream` than is read here: it occurs twice, or
    there is a member whose name differs in case, `-`, `_` or compatibility characters only, which some servers take for the same.
    """
    judged = (*limit_fields, *_JUDGED)
    spans = None if _are_spelled_once(judged, body, request) else find_values(body, judged)
    limits, degraded = _limits(limit_fields, body, request, spans)
    if degraded is None and (
        (spans is not None and any(sum(found.key == name for found in spans) > 1 for name in _JUDGED))
        or not (
            _USUAL.issuperset(request)
            or _lookalikes(limit_fields).isdisjoint(map(_folded, (request.keys() - _USUAL).difference(limit_fields)))
        )
    ):
        degraded = "ambiguous_key"
    # A request has five members of the fifty that it may have, so go by what is there.
    read = {name: reader(request[name]) for name, reader in _READERS.items() if name in request}
    return RequestFacts(
        dialect=dialect,
        model=clamped(request.get("model")),
        stream=request.get("stream") is True,
        limits=limits,
        choices=choices,
        include_usage=include_usage,
        degraded=degraded,
        output_type=output_type,
        **read,
    )


def with_limit(
    fields: tuple[str, ...], body: bytes, facts: RequestFacts, decision: Decision, insert_field: str
) -> bytes:
    """Body with the decided limit; the same object when nothing is to be changed.

    A cap lowers every occurrence of every limit field above it. A limit is inserted as `insert_field` (else as `decision.limit_field`),
    in the place of a null one. A cap is inserted too when `decision.limit_field` names a limit field that the client did not send.
    """
    cap = decision.forwarded_max_tokens
    if cap is None or decision.action not in {Action.CAPPED, Action.INSERTED}:
        return body
    digits = b"%d" % cap
    spans = _limit_spans(fields, body, facts)
    edits: list[tuple[int, int, bytes]] = []
    for found in spans:
        value = _scalar(body[found.start : found.end])
        if type(value) in {int, float} and not value <= cap:
            edits.append((found.start, found.end, digits))
    field = decision.limit_field
    if decision.action is Action.INSERTED:
        field = insert_field or field
    if field is None or field not in fields:
        return replace(body, edits)
    same = [found for found in spans if found.key == field]
    edits += [(found.start, found.end, digits) for found in same if body[found.start : found.end] == b"null"]
    body = replace(body, edits)
    return body if same else insert_member(body, b'"%b":%b' % (field.encode(), digits))


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


def _limits(
    fields: tuple[str, ...], body: bytes, request: dict[str, Any], spans: list[Found] | None
) -> tuple[Limits, str | None]:
    """Limits in force and what is wrong with them; `spans` are given when a name could be there twice."""
    sent: list[tuple[str, Any]] = [(name, request[name]) for name in fields if name in request]
    degraded = None
    if spans is not None:
        found = [(name, each) for name in fields for each in spans if each.key == name]
        if len(found) > len(sent):
            degraded = "limit_twice"
            sent = [(name, _scalar(body[each.start : each.end])) for name, each in found]
    limits: dict[str, int] = {}
    for name, value in sent:
        if value is None:
            continue
        tokens = whole_number(value)
        if tokens is None or tokens < 0:
            degraded = degraded or "limit_type"
        else:
            limits[name] = max(min(tokens, MAX_INTEGER), limits.get(name, 0))
    return tuple(limits.items()), degraded


def _limit_spans(fields: tuple[str, ...], body: bytes, facts: RequestFacts) -> list[Found]:
    """Where the limits stand. A name that is known to be a member and is spelled once can only stand there."""
    sent = dict(facts.limits)
    found: list[Found] = []
    for name in fields:
        if name in sent and _is_spelled_once(body, name):
            value = _NUMBER_MEMBER.match(body, body.find(_quoted(name)) + len(name) + 1)
            if value is not None:
                found.append(Found(name, *value.span(1)))
                continue
        elif name.encode() not in body and b"\\u00" not in body:
            continue
        return find_values(body, fields)
    return found


def _number(value: object) -> float | None:
    return float(value) if type(value) in {int, float} and abs(value) < 1e18 else None  # type: ignore[arg-type]


def _seed(value: object) -> int | None:
    number = whole_number(value)
    return number if number is not None and abs(number) <= MAX_INTEGER else None


def _scalar(text: bytes) -> Any:
    """Parsed value of a member; True, which is no limit, for what cannot be parsed."""
    try:
        return parse_json(text)
    except ValueError:
        return True


def _are_spelled_once(names: tuple[str, ...], body: bytes, request: dict[str, Any]) -> bool:
    """True when each of these members that is there can only be there once."""
    if b"\\u00" in body and _ESCAPED_ASCII.search(body) is not None:
        return False
    for name in names:  # noqa: SIM110 -- a generator costs as much as the search
        if name in request and body.count(_quoted(name)) != 1:
            return False
    return True


def _folded(name: str) -> str:
    """A member's name as the most lenient server might compare it."""
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name.encode("utf-8", "replace").decode())
    return name.casefold().replace("_", "").replace("-", "")


@cache
def _lookalikes(fields: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(_folded, (*fields, *_JUDGED)))


def _is_spelled_once(body: bytes, name: str) -> bool:
    """True when a member name occurs once, nested ones included, and no escape could spell it another way."""
    return body.count(_quoted(name)) == 1 and (b"\\u00" not in body or _ESCAPED_ASCII.search(body) is None)


@cache
def _quoted(name: str) -> bytes:
    return b'"%b"' % name.encode()


_JUDGED = ("model", "stream")
"""Members besides the limits that rules are matched by."""

_USUAL = frozenset(
    """
    model stream max_tokens max_completion_tokens max_output_tokens messages prompt input system instructions temperature top_p top_k n
    stop stop_sequences seed user metadata store tools tool_choice parallel_tool_calls functions function_call response_format text
    stream_options logprobs top_logprobs logit_bias frequency_penalty presence_penalty reasoning reasoning_effort thinking verbosity
    modalities audio prediction service_tier safety_identifier prompt_cache_key prompt_cache_retention previous_response_id include
    truncation background conversation best_of echo suffix extra_body provider models route plugins transforms usage
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
