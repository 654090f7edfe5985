"""ClickHouse as a source, against a server that answers what a test says; the real engine is in tests/engines."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from proxy.evidence.sources.clickhouse import read
from proxy.evidence.sources.exchanges import COLUMNS, AbsentError, SourceError
from proxy.evidence.sources.query import Window, select
from tests.support.ledgers import make_row

SECRET = "sw0rdfish"


@contextlib.contextmanager
def _server(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An HTTP server that gives these answers one after the other; yields HOST:PORT and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            names = ("X-ClickHouse-User", "X-ClickHouse-Key")
            asked.append({"query": body, "url": self.path, "credential": [self.headers[name] for name in names]})
            status, answer = answers[len(asked) - 1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def _lines(*rows: list[object]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _row(**changes: object) -> list[object]:
    row = make_row(**changes)
    return [row.get(name) for name in COLUMNS]


NAMES = _lines([*COLUMNS, "id"])


def test_the_view_is_asked_for_its_columns_and_then_for_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The query is that of the ledger; the credential is in headers only."""
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", SECRET)
    with _server((200, NAMES), (200, _lines(_row(model="a"), _row(model=None)))) as (place, asked):
        exchanges = read(f"clickhouse://reader@{place}/fleet", Window(1.0))
    assert exchanges.model.texts() == ["a", None]
    assert [each["query"] for each in asked] == [
        'SELECT * FROM "lengthwise_exchange" LIMIT 0 FORMAT JSONCompactEachRowWithNames',
        select("lengthwise_exchange", [*COLUMNS, "id"], Window(1.0)) + " FORMAT JSONCompactEachRow",
    ]
    assert [each["credential"] for each in asked] == [["reader", SECRET]] * 2
    assert [parse_qs(urlsplit(each["url"]).query)["database"] for each in asked] == [["fleet"]] * 2
    assert SECRET not in asked[0]["url"]


def test_a_view_and_a_variable_of_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of the address."""
    monkeypatch.setenv("READER_PASSWORD", SECRET)
    with _server((200, NAMES), (200, b"")) as (place, asked):
        assert len(read(f"clickhouse://{place}/?view=mine&password_env=READER_PASSWORD", Window())) == 0
    assert ' FROM "mine" ' in asked[0]["query"]
    assert asked[0]["credential"] == ["default", SECRET]


@pytest.mark.parametrize(
    "answers",
    [
        [(403, b"Code: 516. reader: Authentication failed: sw0rdfish is wrong")],
        [(200, NAMES), (200, _lines(_row()) + b"Code: 241. Memory limit exceeded: sw0rdfish\n")],
    ],
)
def test_a_refusal_is_quoted_without_the_credential(
    monkeypatch: pytest.MonkeyPatch, answers: list[tuple[int, bytes]]
) -> None:
    """At once or in the middle of the rows: no half of the data is taken for the whole."""
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", SECRET)
    with _server(*answers) as (place, _), pytest.raises(SourceError, match=r"refuses .* Code: ") as caught:
        read(f"clickhouse://reader@{place}/fleet", Window())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "clickhouse://reader:sw0rdfish@host:8123/fleet",
        "clickhouse://reader@host:http/fleet",
        "clickhouse://",
        "clickhouse://host/fleet;drop",
        'clickhouse://host/fleet?view=x"y',
        "clickhouse://host/fleet?sw0rdfish",
        "clickhouse://host/fleet?colour=red",
    ],
)
def test_an_address_that_is_none_is_refused_unquoted(url: str) -> None:
    """A password in it would be printed with it."""
    with pytest.raises(SourceError) as caught:
        read(url, Window())
    assert SECRET not in str(caught.value)


def test_a_server_that_is_away_is_absent() -> None:
    """Nobody listens there."""
    with pytest.raises(AbsentError, match="does not answer: Connection refused"):
        read("clickhouse://reader@127.0.0.1:1/fleet", Window())
