"""How much a request asks for, as four JSON readers understand it: judges of what reached an upstream that share no line with the product.

Servers differ in which of two equal names they take and in whether case matters. `most_tokens` is the largest limit that a reader finds at any
place where some server looks for one; a body is capped when it is low enough for every reader.
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import orjson

_PATHS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n_predict",
    "num_predict",
    "max_new_tokens",
    "max_tokens_to_sample",
    "max_gen_len",
    "options.num_predict",
    "parameters.max_new_tokens",
    "parameters.max_tokens",
    "sampling_params.max_new_tokens",
    "sampling_params.max_tokens",
    "generationConfig.maxOutputTokens",
    "generation_config.max_output_tokens",
    "generation_config.max_new_tokens",
    "inferenceConfig.maxTokens",
)
LIMITS = (*_PATHS, *(f"extra_body.{path}" for path in _PATHS))
"""Where some server reads a limit, whatever the dialect."""

FLOORS = ("min_tokens", "min_new_tokens", "extra_body.min_tokens", "parameters.min_new_tokens")
"""Where some server reads a least length."""

Pairs = list[tuple[str, Any]]
Find = Callable[[str], Iterator[Any]]
"""A dotted path to the values that a reader sees there."""


def _in_dicts(document: Any) -> Find:
    def find(path: str) -> Iterator[Any]:
        value = document
        for step in path.split("."):
            if type(value) is not dict or step not in value:
                return
            value = value[step]
        yield value

    return find


def by_orjson(body: bytes) -> Find:
    """Strict; the last of two names counts."""
    return _in_dicts(orjson.loads(body))


def by_last_name(body: bytes) -> Find:
    """Python's own, with NaN, a byte order mark and control characters taken; the last of two names counts."""
    return _in_dicts(json.loads(body.decode("utf-8-sig"), strict=False))


def by_first_name(body: bytes) -> Find:
    """The first of two names counts."""

    def first(pairs: Pairs) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            found.setdefault(name, value)
        return found

    return _in_dicts(json.loads(body.decode("utf-8-sig"), strict=False, object_pairs_hook=first))


class _Object(Pairs):
    """An object with all its members; a list in JSON is a plain list."""


def by_any_case(body: bytes) -> Find:
    """As Go does it, and then some: names without case, and all of them count."""
    document = json.loads(body.decode("utf-8-sig"), strict=False, object_pairs_hook=_Object)

    def walk(value: Any, steps: list[str]) -> Iterator[Any]:
        if not steps:
            yield value
        elif isinstance(value, _Object):
            for name, inner in value:
                # Kelvin sign and long s are letters that Go folds and `casefold` too.
                if name.casefold() == steps[0].casefold():
                    yield from walk(inner, steps[1:])

    return lambda path: walk(document, path.split("."))


READERS = (by_orjson, by_last_name, by_first_name, by_any_case)


def most_tokens(find: Find, *, absent: float) -> float:
    """The largest limit anywhere; `absent` when there is none. What is no number from 0 up could be anything: infinity."""
    found = [value for path in LIMITS for value in find(path) if value is not None]
    return max(map(_tokens, found), default=absent)


def least_tokens(find: Find) -> float:
    """The largest least length anywhere; 0 when there is none."""
    return max((_tokens(value) for path in FLOORS for value in find(path) if value is not None), default=0)


def _tokens(value: Any) -> float:
    return value if type(value) in {int, float} and value >= 0 else math.inf


def readings(body: bytes) -> list[Find]:
    """Those of the readers that can read the body; one that cannot does not answer it either."""
    finds = []
    for reader in READERS:
        try:
            finds.append(reader(body))
        except ValueError:
            continue
    assert finds, body[:200]
    return finds


def worst_tokens(body: bytes, *, absent: float = math.inf) -> float:
    """The largest limit by any reader.

    Raises:
        AssertionError: no reader can read the body.
    """
    return max(most_tokens(find, absent=absent) for find in readings(body))


def worst_least_tokens(body: bytes) -> float:
    """The largest least length by any reader; a server refuses one above its limit."""
    return max(least_tokens(find) for find in readings(body))
