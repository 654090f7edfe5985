"""Every field that limits an output, in any dialect, on any server behind one; and the other members that a rule is judged by.

Layer: wire. Data, compiled once for each dialect and configuration.

A server that speaks one dialect may read the limits of another: vLLM reads `max_completion_tokens` and `max_tokens`, llama.cpp
`n_predict` before both, Ollama `options.num_predict`. So a cap lowers all of them wherever they were sent. A dotted path is a member
of an object that is a member.

Source: OpenAI and Anthropic API references; vLLM `protocol.py`; llama.cpp `tools/server`; Ollama `api/types.go`; SGLang and Text Generation
Inference `/generate`; Gemini `GenerationConfig`; Bedrock `InferenceConfiguration`.
"""

import unicodedata
from functools import cache
from typing import NamedTuple

__all__ = ["LIMIT_FIELDS", "Judged", "folded", "judged"]

_PATHS = (
    "max_completion_tokens",
    "max_tokens",
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

LIMIT_FIELDS: tuple[str, ...] = (
    *_PATHS,
    *(f"extra_body.{path}" for path in _PATHS),  # the Python SDK merges it, but some gateways read it from the wire
)
"""Paths that are lowered in every dialect; `limits.limit_fields` of the settings adds to them."""

FLOORS = ("min_tokens", "min_new_tokens", "extra_body.min_tokens", "parameters.min_new_tokens")
"""Least lengths: a server refuses one above its limit, so they are lowered with it (vLLM, Text Generation Inference)."""

UNLIMITED_BELOW_ZERO = frozenset(("n_predict", "num_predict"))
"""Fields in which a negative number is a way to ask for no limit (llama.cpp: -1; Ollama: -1, -2)."""

_NAME_CHARS = 256
"""No separators that a server passes over make the name of a limit longer; compatibility characters grow up to 18 times."""

_FOLDED_ASCII = {code: chr(code).lower() if chr(code).isalnum() else None for code in range(128)}

_PLAIN = ("model", "stream", "n", "best_of")


class Judged(NamedTuple):
    """The members of one dialect's requests that rules and caps depend on."""

    top: tuple[str, ...]
    """Limits that are members of the top level, in the order in which the provider reads them."""
    dotted: tuple[str, ...]
    """Limits inside objects."""
    names: frozenset[str]
    """Members of the top level by which a request is judged: limits, the objects that hold some, model, stream, multipliers."""
    nested: frozenset[str]
    """The objects of the top level that hold limits or least lengths."""
    inner_objects: tuple[str, ...]
    """The objects inside these that hold limits."""
    steps: frozenset[str]
    """What these paths are made of, and `names`: all members that are looked for in a body."""
    spellings: dict[str, frozenset[str]]
    """Folded path to the members that a lenient server might take it for, the objects on the way to a limit included."""


@cache
def judged(own: tuple[str, ...], multipliers: tuple[str, ...], fields: tuple[str, ...]) -> Judged:
    """The judged members of a dialect.

    Args:
        own: Its own limit fields, in the order in which its provider reads them.
        multipliers: Members besides `n` and `best_of` that multiply the output.
        fields: Every limit field, dotted paths included.
    """
    limits = (*own, *(path for path in fields if path not in own))
    top = tuple(path for path in limits if "." not in path)
    plain = (*_PLAIN, *multipliers)
    nested = frozenset(path.partition(".")[0] for path in (*limits, *FLOORS) if "." in path)
    objects = dict.fromkeys(path[:dot] for path in limits for dot, char in enumerate(path) if char == ".")
    spellings: dict[str, set[str]] = {}
    for path in (*limits, *plain, *objects):
        spellings.setdefault(".".join(map(folded, path.split("."))), set()).add(path)
    for name in plain:  # whoever merges extra_body reads another model, or more choices, than was judged
        spellings.setdefault(f"{folded('extra_body')}.{folded(name)}", set()).add(name)
    names = frozenset((*top, *plain, *nested))
    return Judged(
        top,
        tuple(path for path in limits if "." in path),
        names,
        nested,
        tuple(path for path in objects if "." in path),
        names.union(*(path.split(".") for path in limits)),
        {path: frozenset(names) for path, names in spellings.items()},
    )


def folded(name: str) -> str:
    """A member's name as the most lenient server might compare it: without case, separators, marks and compatibility characters.

    It ends where a reader of C strings sees its end. Only the beginning of a long name is looked at: a body may be one name.
    """
    name = name[:_NAME_CHARS]
    if name.isascii():
        return name.partition("\0")[0].translate(_FOLDED_ASCII)
    name = unicodedata.normalize("NFKC", name.partition("\0")[0].encode("utf-8", "replace").decode())
    return "".join(filter(str.isalnum, name.casefold()))
