"""The page's paths over a real socket."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest
import yaml
from aiohttp import web

from proxy.policy.rules import parse
from proxy.record import ExchangeRecord
from proxy.recorder.ledger import rows_of
from proxy.recorder.page.endpoints import Page
from tests.support.page_rows import messy_rows, page_rows
from tests.support.records import make_record

NOW_S = 1_790_000_000.0
STATUS = {
    "version": "1.2.3",
    "listen": "http://127.0.0.1:8080",
    "settings": {"digest": "d"},
    "policy": {"digest": "p", "loaded_at": 1.0, "error": None, "rules": []},
    "workers": [{"index": 0, "pid": 7, "alive": True, "active": 3}, {"index": 1, "pid": 8, "alive": True, "active": 1}],
    "drops": {"records": 0, "failed_records": 0},
    "ledger": None,
    "export": {"not": "shown"},
}
PATHS = ("state", "figures", "points", "caps", "rule?cap=512", "exchanges", "exchanges/lw_1")


class Clock:
    """A time that a test lets pass."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        """Unix time."""
        return self.now_s


class Asked:
    """A served page and who asks it."""

    def __init__(self, page: Page, clock: Clock, session: aiohttp.ClientSession) -> None:
        self.page, self.clock, self.session = page, clock, session

    def take(self, *records: ExchangeRecord) -> None:
        """These exchanges ended now."""
        self.page.take(rows_of(records), records)

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Status and body."""
        async with self.session.get(path, headers=headers) as answer:
            return answer.status, await (answer.json() if answer.content_type == "application/json" else answer.text())

    async def ok(self, path: str) -> Any:
        """The body of an answer that is one."""
        status, body = await self.get(path)
        assert status == 200, body
        return body


@asynccontextmanager
async def _served(folder: Path, token: str | None = None) -> AsyncIterator[Asked]:
    clock = Clock()
    page = Page(lambda: STATUS, token, clock)
    application = web.Application()
    page.add_to(application)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "p.sock"))
        listening.listen()
        await web.SockSite(runner, listening).start()
        connector = aiohttp.UnixConnector(str(folder / "p.sock"))
        async with aiohttp.ClientSession("http://page", connector=connector) as session:
            yield Asked(page, clock, session)
        await runner.cleanup()


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    """A page without a token."""
    async with _served(tmp_path) as asked:
        yield asked


async def test_the_page_asks_nobody_else_for_anything(asked: Asked) -> None:
    """Every file that it names is served, with a policy that allows nothing from elsewhere and nothing inline."""
    seen, waiting = set(), ["/"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        async with asked.session.get(path) as answer:
            text = await answer.text()
            assert answer.status == 200, path
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';")
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (
            re.findall(r"""(?:src|href|from|url\()\s*=?\s*["']?(?:https?:)?//""", text.replace("http://www.w3.org", ""))
            == []
        )
        assert " style=" not in text
        found = re.findall(r'(?:src|href)="(page/[^"]+)"', text) + re.findall(r'from "\./([^"]+)"', text)
        waiting += [each for name in found if (each := f"/page/{name.removeprefix('page/')}") not in {*seen, *waiting}]
    assert {"/page/page.css", "/page/page.js", "/page/charts.js"} <= seen


async def test_state_is_what_status_says_of_the_page(asked: Asked) -> None:
    """And when this recorder began."""
    shown = {name: STATUS[name] for name in ("version", "listen", "settings", "policy", "workers", "drops", "ledger")}
    assert await asked.ok("/api/state") == shown | {"started_at_s": NOW_S, "restored": 0, "active": 4}


async def test_figures_are_of_the_window_and_the_filters(asked: Asked) -> None:
    """A quarter of an hour where none is asked for."""
    asked.take(make_record(app="old"))
    asked.clock.now_s += 1200
    asked.take(make_record(), make_record(app="<script>", streamed=False))
    counts = {
        query: (await asked.ok(f"/api/figures?{query}"))["exchanges"]
        for query in (
            "",
            "window=900",
            "window=3600",
            "window=3600&app=old",
            "app=old",
            "app=%3Cscript%3E",
            "stream=false",
            "model=",
        )
    }
    assert counts == {
        "": 2,
        "window=900": 2,
        "window=3600": 3,
        "window=3600&app=old": 1,
        "app=old": 0,
        "app=%3Cscript%3E": 1,
        "stream=false": 1,
        "model=": 0,
    }
    assert (await asked.ok("/api/figures"))["names"]["apps"] == ["<script>", "search"]


async def test_caps_rule_points_and_exchanges_are_of_the_same_filters(asked: Asked) -> None:
    """Each answers for what was chosen."""
    asked.take(make_record(id="lw_1"), make_record(id="lw_2", app="other"))
    assert (await asked.ok("/api/caps?app=other"))["complete"] == 1
    assert (await asked.ok("/api/points?app=other"))["output_tokens"] == [128]
    assert [each["id"] for each in (await asked.ok("/api/exchanges?app=other"))["exchanges"]] == ["lw_2"]
    assert (await asked.ok("/api/exchanges/lw_1"))["marks"][0] == ["accepted", 0.0]
    (rule,) = parse(yaml.safe_load(await asked.ok("/api/rule?cap=96&app=other"))).rules
    assert (rule.name, rule.max_tokens, rule.mode) == ("tried-other-96", 96, "shadow")


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("figures?window=7", 400, "window is one of 60, 300, 900, 3600, 21600, 86400: seconds"),
        ("caps?window=x", 400, "window is one of 60, 300, 900, 3600, 21600, 86400: seconds"),
        ("exchanges?stream=1", 400, "stream is true or false"),
        ("rule?cap=100", 400, "cap is one of 16, 24, 32"),
        ("rule", 400, "cap is one of 16, 24, 32"),
        ("rule?cap=96&app=", 400, "no rule can name this app; choose another one, or all"),
        ("exchanges/lw_9", 404, "this exchange is not among the last ones any more"),
    ],
)
async def test_a_question_that_has_no_answer_is_told_what_has(asked: Asked, path: str, status: int, error: str) -> None:
    """What was asked is not repeated."""
    found, body = await asked.get(f"/api/{path}")
    assert found == status
    assert body["error"].startswith(error)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_written(asked: Asked, method: str) -> None:
    """No path takes anything."""
    for path in ("/", *(f"/api/{path}" for path in PATHS)):
        async with asked.session.request(method, path) as answer:
            assert answer.status == 405


async def test_with_a_token_data_is_for_who_has_it(tmp_path: Path) -> None:
    """The page itself holds none, and asks for it."""
    async with _served(tmp_path, "s3cret") as asked:
        asked.take(make_record(id="lw_1"))
        for path in PATHS:
            for given in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Bearer ü"},
                {"Authorization": "s3cret"},
                {"Authorization": "Basic s3cret"},
                {"Authorization": "Bearer"},
            ):
                status, body = await asked.get(f"/api/{path}", **given)
                assert (status, body) == (401, {"error": "this page wants the token of LW_PAGE_TOKEN"})
            for scheme in ("Bearer", "bearer"):
                assert (await asked.get(f"/api/{path}", Authorization=f"{scheme} s3cret"))[0] == 200
        assert (await asked.get("/"))[0] == 200


async def test_a_token_that_is_no_text_is_a_wrong_one(tmp_path: Path) -> None:
    """A header is bytes."""
    async with _served(tmp_path, "s3cret"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "p.sock")
        writer.write(b"GET /api/state HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 401 Unauthorized\r\n"
        writer.close()
        await writer.wait_closed()


async def test_an_answer_that_did_not_change_is_not_sent_again(asked: Asked) -> None:
    """Until an exchange ends, or time moves the window."""
    asked.take(make_record())
    for path in ("figures", "caps", "points", "exchanges"):
        async with asked.session.get(f"/api/{path}") as answer:
            known = {"If-None-Match": answer.headers["ETag"]}
        assert await asked.get(f"/api/{path}", **known) == (304, "")
        asked.take(make_record())
        assert (await asked.get(f"/api/{path}", **known))[0] == 200


async def test_who_asks_the_same_at_the_same_time_costs_once(asked: Asked) -> None:
    """Ten pages on one screen each."""
    asked.take(make_record())
    before = await asked.ok("/api/figures?app=search")
    answers = await asyncio.gather(*(asked.ok("/api/figures?app=search") for _ in range(10)))
    assert answers == [before] * 10
    for number in range(100):
        await asked.ok(f"/api/caps?app={number}")
    assert len(asked.page._answers) == 64


async def test_the_past_that_was_restored_is_shown_with_the_present(asked: Asked) -> None:
    """As one; and said how many they were."""
    asked.take(make_record(id="lw_new"))
    rows = page_rows(*messy_rows(np.random.default_rng(2), 40))
    asked.page.restore([(NOW_S - 60.0 * number, row) for number, row in enumerate(rows)])
    assert (await asked.ok("/api/state"))["restored"] == 40
    assert (await asked.ok("/api/figures?window=3600"))["exchanges"] == 41
    exchanges = (await asked.ok("/api/exchanges"))["exchanges"]
    assert [each["id"] for each in exchanges][:2] == ["lw_new", "lw_00000000"]


async def test_no_answer_holds_content_or_a_key(asked: Asked) -> None:
    """Nor where the key is from; of a record there is what the ledger has, less than that."""
    asked.take(make_record(id="lw_1", key_name="k3y-name", trace_state="tr4ce-state"))
    answers = [orjson.dumps(await asked.ok(f"/api/{path}")) for path in PATHS]
    assert [text for text in answers if b"k3y-name" in text or b"tr4ce-state" in text] == []


async def test_while_nobody_looks_as_many_are_kept_as_a_look_shows(asked: Asked) -> None:
    """Of each second; from the first look on every exchange, until a minute after the last one. All are counted."""

    def batch(name: str) -> list[ExchangeRecord]:
        return [make_record(id=f"lw_{name}_{number}") for number in range(150)]

    asked.take(*batch("a"))
    asked.take(*batch("b"))
    asked.clock.now_s += 1
    asked.take(*batch("c"))
    found = [each["id"] for each in (await asked.ok("/api/exchanges"))["exchanges"]]
    assert found[::50] == ["lw_c_149", "lw_c_99", "lw_c_49", "lw_b_49"]
    asked.take(*batch("d"), *batch("e"))
    assert (await asked.ok("/api/exchanges"))["exchanges"][-1]["id"] == "lw_d_100"
    asked.clock.now_s += 61
    asked.take(*batch("f"), *batch("g"))
    assert (await asked.ok("/api/exchanges"))["exchanges"][0]["id"] == "lw_g_49"
    assert (await asked.ok("/api/figures"))["exchanges"] == 1050
