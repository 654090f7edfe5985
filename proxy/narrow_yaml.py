"""YAML, narrowed to what JSON can say.

Layer: below settings, above policy. Known are null, true, false and decimal numbers; whatever else YAML has a type for is text, and aliases,
tags, keys that are no text and keys that occur twice are mistakes.

Source: YAML 1.2 core schema.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from proxy.errors import Mistake
from proxy.policy.document import refuse, sub_path

__all__ = ["read", "read_value"]


class _StrictLoader(yaml.SafeLoader):
    """Knows null, true, false and decimal numbers; 1e3, 1:30, 010, on, yes, dates and << are text, aliases errors."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- PyYAML's class attribute

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"-?(0|[1-9]\d*)", list("-0123456789")),
    ("float", r"-?(0|[1-9]\d*)\.\d+([eE][-+]?\d+)?", list("-0123456789")),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z", re.ASCII), _first)

_SCALARS: dict[str, Callable[[str], Any]] = {
    "tag:yaml.org,2002:null": lambda _: None,
    "tag:yaml.org,2002:bool": lambda word: word == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:str": str,
}


def read(path: Path, mistakes: list[Mistake]) -> Any:
    """The file's document; mistakes of the file as a whole have the path ''."""
    try:
        return _parse(path.read_bytes().decode("utf-8-sig"), "", mistakes)
    except OSError as error:
        return refuse(f"cannot be read: {error.strerror}", "", mistakes)
    except UnicodeDecodeError:
        return refuse("is not UTF-8 text", "", mistakes)
    except RecursionError:
        return refuse("is nested too deeply", "", mistakes)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return refuse(f"{where}{error.problem or error.context}", "", mistakes)
    except yaml.YAMLError:
        return refuse("contains characters that YAML does not allow", "", mistakes)


def read_value(text: str, path: str, mistakes: list[Mistake]) -> Any:
    """What a text stands for; the text itself where YAML cannot read it, such as [::1]:8080."""
    found: list[Mistake] = []
    try:
        value = _parse(text, path, found)
    except (yaml.YAMLError, RecursionError):
        return text
    mistakes += found
    return value


def _parse(document: str, path: str, mistakes: list[Mistake]) -> Any:
    loader = _StrictLoader(document)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    return None if node is None else _value(node, path, mistakes)


def _value(node: yaml.Node, path: str, mistakes: list[Mistake]) -> Any:
    """What a node stands for; every key of a mapping is text and appears once."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str" or not isinstance(key_node, yaml.ScalarNode):
                refuse(f"line {line}: a key must be text", path, mistakes)
                continue
            key = key_node.value
            at = sub_path(path, key)
            if key in lines:
                refuse(f"duplicate key, in lines {lines[key]} and {line}", at, mistakes)
            lines[key], before = line, len(mistakes)
            found[key] = _value(value_node, at, mistakes)
            if found[key] is None and len(mistakes) > before:
                del found[key]  # reported; its null is not a second mistake
        return found
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [_value(each, sub_path(path, index), mistakes) for index, each in enumerate(node.value)]
    try:
        return _SCALARS[node.tag](node.value)
    except (KeyError, TypeError, ValueError):
        return refuse(f"line {line}: this tag or value is not allowed", path, mistakes)
