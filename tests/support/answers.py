"""The golden answers of a dialect: bytes as providers send them, and the facts that are in them."""

import json
from pathlib import Path
from typing import NamedTuple

from proxy.record import ResponseFacts, Usage

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


class Golden(NamedTuple):
    """One fixture."""

    name: str
    body: bytes
    facts: ResponseFacts
    """Without stamps."""
    extra_events: int
    """Events that are there only because usage was asked for."""


def golden(dialect: str, suffix: str) -> list[Golden]:
    """Every fixture of a dialect: `sse` for streams, `json` for whole answers."""
    return [_read(path) for path in sorted((FIXTURES / dialect).glob(f"*.{suffix}")) if ".facts" not in path.name]


def without_stamps(facts: ResponseFacts) -> ResponseFacts:
    """What must not depend on how the bytes were cut into reads."""
    stamps = ("first_chunk_ns", "first_token_ns", "first_answer_ns", "last_token_ns", "end_ns", "max_gap_ns")
    return facts._replace(**dict.fromkeys(stamps), checkpoints=tuple((events, 0) for events, _ in facts.checkpoints))


def _read(path: Path) -> Golden:
    expected = json.loads(path.with_suffix(".facts.json").read_text())
    response = expected["response"]
    response["finish_reasons"] = tuple(response.get("finish_reasons", ()))
    if response.get("usage"):
        response["usage"] = Usage(**response["usage"])
    return Golden(path.stem, path.read_bytes(), ResponseFacts(**response), expected.get("extra_events", 0))
