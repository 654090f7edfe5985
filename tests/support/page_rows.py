"""Rows of the ledger as the recorder hands them to the live page: tuples in the order of the columns.

rows = page_rows(make_row(), make_row(model="other"))
rows = page_rows(*messy_rows(numpy.random.default_rng(1), 500))
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from proxy.recorder.ledger import COLUMNS, Row
from proxy.recorder.page.columns import Columns, Words
from tests.support.ledgers import make_row
from tests.support.traffic import ledger_rows

_CHANGES: tuple[dict[str, Any], ...] = (
    {"end": "broken", "finish": None, "cut": None},
    {"end": "client_disconnect", "status": None, "finish": None, "cut": None, "output_tokens": None},
    {"end": "complete", "status": 429, "finish": None, "cut": None, "output_tokens": None, "decoded_tokens": None},
    {"end": "complete", "status": 503, "finish": None, "cut": None, "output_tokens": None},
    {"end": "rejected", "status": 400, "e2e_s": None, "output_tokens": None, "ttft_s": None},
    {"stream": 0, "ttft_s": None, "last_token_s": None, "tpot_s": None, "checkpoints": None},
    {"stream": 0, "ttft_s": None, "checkpoints": None},
    {"choices": 3, "decoded_tokens": None},
    {"choices": None},
    {"dialect": "opaque", "model": None, "finish": None, "cut": None},
    {"client_blocked_s": 5.0},
    {"finish": "tool_calls"},
    {"finish": "content_filter"},
    {"forwarded_max_tokens": None, "requested_max_tokens": None},
    {"rule": "cap", "action": "capped", "requested_max_tokens": 100_000},
    {"shadow": '[{"rule":"tried","action":"capped","forwarded":64}]'},
    {"checkpoints": None},
    {"output_tokens": 1, "decoded_tokens": 1, "tpot_s": None, "checkpoints": None},
    {"output_tokens": 900},  # more than the stream showed
    {},
)


def page_rows(*rows: Mapping[str, Any]) -> list[Row]:
    """The same rows as tuples; those without an id are numbered."""
    return [
        tuple(f"lw_{number:08d}" if name == "id" and not row.get("id") else row.get(name) for name in COLUMNS)
        for number, row in enumerate(rows)
    ]


def messy_rows(rng: np.random.Generator, count: int, days: float = 1) -> Iterator[dict[str, Any]]:
    """Simulated traffic in which half of the exchanges went some other way than usual."""
    for row in ledger_rows(rng, exchanges=count, days=days):
        change = _CHANGES[rng.integers(len(_CHANGES))] if rng.random() < 0.5 else {}
        yield make_row(**row | change)


def columns_of(rows: list[Row]) -> tuple[Columns, Words]:
    """All rows in one place, and what was said in words."""
    columns, words = Columns(), Words()
    columns.append(rows, words, 0)
    return columns, words
