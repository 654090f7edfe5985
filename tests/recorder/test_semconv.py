"""The names are those that OpenTelemetry published, and ours are in our own namespace."""

import importlib
from pathlib import Path

import pytest
from opentelemetry import semconv as published
from opentelemetry.semconv.schemas import Schemas

from proxy.recorder import semconv

OURS = [name for name in vars(semconv) if name.isupper() and not name.startswith("_")]
STANDARD = [
    name for name in OURS if not name.startswith(("LENGTHWISE_", "COMPAT_")) and name not in {"SCOPE", "SCHEMA_URL"}
]


def _published() -> dict[str, str]:
    """All constants; the incubating modules are in a package without __init__, so files are walked, not packages."""
    constants: dict[str, str] = {}
    for folder in map(Path, published.__path__):
        for file in sorted(folder.rglob("*_attributes.py")) + sorted(folder.rglob("*_metrics.py")):
            name = ".".join((published.__name__, *file.relative_to(folder).with_suffix("").parts))
            found = vars(importlib.import_module(name))
            constants |= {name: value for name, value in found.items() if isinstance(value, str)}
    return constants


PUBLISHED = _published()


@pytest.mark.parametrize("name", STANDARD)
def test_each_standard_name_is_the_published_one(name: str) -> None:
    """A constant that is not ours has the spelling of the constant of the same name in the published package."""
    assert getattr(semconv, name) == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("LENGTHWISE_")])
def test_each_own_name_is_in_our_namespace(name: str) -> None:
    """An own constant spells its own value, in `lengthwise.` and nowhere else."""
    value = getattr(semconv, name)
    assert value.startswith("lengthwise.")
    assert value.upper().replace(".", "_") == name
    assert value not in PUBLISHED.values()


def test_the_schema_is_the_last_that_defines_gen_ai() -> None:
    """The schema URL that spans and metrics claim is that of 1.41."""
    assert Schemas.V1_41_0.value == semconv.SCHEMA_URL


def test_operations_are_named_as_the_convention_does() -> None:
    """Only the completions dialect is a text completion."""
    dialects = ("chat_completions", "responses", "messages", "completions")
    assert [semconv.operation_name(dialect) for dialect in dialects] == ["chat", "chat", "chat", "text_completion"]
