"""Exchanges without a file between, for tests of figures."""

from collections.abc import Iterable, Mapping
from typing import Any

from proxy.evidence.sources.exchanges import COLUMNS, Exchanges, collect
from tests.support.ledgers import make_row


def exchanges_of(rows: Iterable[Mapping[str, Any]]) -> Exchanges:
    """These rows as columns."""
    return collect([[tuple(row.get(name) for name in COLUMNS) for row in rows]])


def exchanges(*changes: Mapping[str, Any]) -> Exchanges:
    """A default row with each of these changes."""
    return exchanges_of([make_row(**each) for each in changes])


def close(value: Any) -> Any:
    """The same value with every float in it rounded to ten digits, so that whole records compare with `==`."""
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, Mapping):
        return {key: close(each) for key, each in value.items()}
    return [close(each) for each in value] if isinstance(value, list | tuple) else value
