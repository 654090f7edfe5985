"""A source by its name: a file's path, or an address of ClickHouse.

Layer: evidence.
"""

from pathlib import Path

from proxy.evidence.sources import clickhouse, sqlite
from proxy.evidence.sources.exchanges import AbsentError, Exchanges, SourceError
from proxy.evidence.sources.query import Window

__all__ = ["read"]


def read(source: str, window: Window = Window()) -> Exchanges:  # noqa: B008 -- immutable
    """The exchanges of a source, at least one.

    Args:
        source: A path, or `clickhouse://USER@HOST:PORT/DATABASE`.
        window: Which exchanges are meant.

    Raises:
        AbsentError: there is nothing to read.
        SourceError: this is no source that can be read.
    """
    if source.startswith("clickhouse://"):
        exchanges = clickhouse.read(source, window)
    elif "://" in source:
        raise SourceError(
            f"{source.partition('://')[0]}:// is no kind of source; a ledger's file and clickhouse:// are"
        )
    else:
        exchanges = sqlite.read(Path(source).expanduser(), window)
    if not len(exchanges):
        within = " in this window of time" if window != Window() else ""
        raise AbsentError(f"{source} holds no exchange{within}")
    return exchanges
