"""Ledgers for tests: files that the recorder's own `Ledger` made, with rows that a test writes down.

    write_ledger(path, [make_row(), make_row(model="other", output_tokens=None)])

The default row is a streamed, natural, whole answer: 128 of at most 512 tokens, first one after 0.2 s, then 10 ms each.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from proxy.recorder.ledger import COLUMNS, Ledger

DAY_S = 86_400.0
STARTED_AT = 1_790_035_200.0
"""2026-09-22 00:00 UTC."""

_DEFAULT: dict[str, Any] = {
    "started_at": STARTED_AT,
    "upstream": "openai",
    "provider": "openai",
    "dialect": "chat_completions",
    "model": "gpt-4o",
    "app": "search",
    "stream": 1,
    "status": 200,
    "end": "complete",
    "finish": "stop",
    "cut": 0,
    "requested_max_tokens": 512,
    "forwarded_max_tokens": 512,
    "limit_field": "max_tokens",
    "action": "none",
    "choices": 1,
    "input_tokens": 100,
    "output_tokens": 128,
    "reasoning_tokens": 0,
    "decoded_tokens": 128,
    "usage_source": "provider",
    "ttfc_s": 0.2,
    "ttft_s": 0.2,
    "ttfa_s": 0.2,
    "last_token_s": 1.47,
    "e2e_s": 1.47,
    "tpot_s": 0.01,
    "client_blocked_s": 0.0,
    "overhead_s": 0.001,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}


def make_row(**changes: Any) -> dict[str, Any]:
    """The default row with changes, by the ledger's columns."""
    unknown = set(changes) - set(COLUMNS)
    assert not unknown, unknown
    return _DEFAULT | changes


def write_ledger(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A new ledger of these rows, closed; rows without an id are numbered."""
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            f"INSERT INTO exchange VALUES ({', '.join('?' * len(COLUMNS))})",
            (
                tuple(f"lw_{number:08d}" if name == "id" and not row.get("id") else row.get(name) for name in COLUMNS)
                for number, row in enumerate(rows)
            ),
        )
    return path
