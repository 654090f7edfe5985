"""A ClickHouse view as a source, over its HTTP interface.

Layer: evidence. `clickhouse://USER@HOST:PORT/DATABASE`; after `?` may follow `view` (default `lengthwise_exchange`),
`secure=1` (https) and `password_env`, the variable that holds the password (default `CLICKHOUSE_PASSWORD`). A
password in the address is refused: it would be in the shell's history. The credential is sent in a header and quoted nowhere.

Source: clickhouse.com/docs "HTTP interface", "JSONCompactEachRow".
"""

import contextlib
import http.client
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import orjson

from proxy.evidence.sources.exchanges import AbsentError, Exchanges, SourceError, collect
from proxy.evidence.sources.query import Window, select

__all__ = ["read"]

_BATCH_ROWS: Final = 10_000
_SILENCE_S: Final = 60.0
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SETTINGS: Final = {
    "output_format_json_quote_64bit_integers": "0",  # numbers are numbers
    "output_format_json_quote_denormals": "0",  # NaN and infinities are null
    "http_write_exception_in_output_format": "0",  # a failure on the way is no row
}


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int
    secure: bool
    user: str
    password: str
    database: str
    view: str


def read(url: str, window: Window) -> Exchanges:
    """The exchanges of a view that has the ledger's columns, `started_at` in unix seconds; may be none.

    Raises:
        AbsentError: nobody answers there.
        SourceError: the address is none, the server refuses, or the view lacks what a row needs.
    """
    address = _address(url)
    try:
        with _answer(address, f'SELECT * FROM "{address.view}" LIMIT 0', "JSONCompactEachRowWithNames") as lines:  # noqa: S608 -- a checked name
            present: list[str] = next(lines, [])
        with _answer(address, select(address.view, present, window), "JSONCompactEachRow") as lines:
            return collect(_batches(lines))
    except (OSError, http.client.HTTPException) as error:
        raise AbsentError(f"ClickHouse at {address.host}:{address.port} does not answer: {_reason(error)}") from error


def _address(url: str) -> _Address:
    try:
        parts = urlsplit(url)
        port = parts.port
        options = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError:
        raise SourceError("the source is no address such as clickhouse://user@host:8123/database") from None
    if parts.password is not None:
        raise SourceError("no password in the address: put it into the variable CLICKHOUSE_PASSWORD")
    if unknown := sorted(set(options) - {"view", "secure", "password_env"}):
        raise SourceError(f"the source's address has an unknown option {unknown[0]!r}: view, secure, password_env")
    values = {name: texts[-1] for name, texts in options.items()}
    secure = values.get("secure", "0") not in {"0", "false"}
    database, view = unquote(parts.path.strip("/")) or "default", values.get("view", "lengthwise_exchange")
    if not parts.hostname or not _NAME.fullmatch(database) or not _NAME.fullmatch(view):
        raise SourceError("the source is no address such as clickhouse://user@host:8123/database")
    return _Address(
        parts.hostname,
        port or (8443 if secure else 8123),
        secure,
        unquote(parts.username or "default"),
        os.environ.get(values.get("password_env", "CLICKHOUSE_PASSWORD"), ""),
        database,
        view,
    )


@contextlib.contextmanager
def _answer(address: _Address, query: str, form: str) -> Iterator[Iterator[Any]]:
    """The parsed lines of an answer; no redirection is followed, so the credential goes to this host alone."""
    kind = http.client.HTTPSConnection if address.secure else http.client.HTTPConnection
    with contextlib.closing(kind(address.host, address.port, timeout=_SILENCE_S)) as connection:
        connection.request(
            "POST",
            "/?" + urlencode({"database": address.database, **_SETTINGS}),
            f"{query} FORMAT {form}".encode(),
            {"X-ClickHouse-User": address.user, "X-ClickHouse-Key": address.password},
        )
        with connection.getresponse() as response:
            if response.status != 200:
                raise SourceError(_refusal(response.status, response.read(2000), address))
            yield (_parsed(line, address) for line in response)


def _parsed(line: bytes, address: _Address) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # the status was sent before it failed
        raise SourceError(_refusal(200, line[:2000], address)) from None


def _batches(lines: Iterator[Any]) -> Iterator[Sequence[Sequence[object]]]:
    while rows := list(itertools.islice(lines, _BATCH_ROWS)):
        yield rows


def _refusal(status: int, body: bytes, address: _Address) -> str:
    said = " ".join(body.decode(errors="replace").split())
    if address.password:
        said = said.replace(address.password, "***")
    return f"ClickHouse at {address.host}:{address.port} refuses (status {status}): {said[:300]}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
