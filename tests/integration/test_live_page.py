"""The live page in a real browser, over real traffic: what it shows is what metrics, ledger and report say.

One service with a simulated provider for all tests that only look; those that stop something start their own.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (it is in tests/requirements.lock)")

from playwright.sync_api import Browser, Page, expect

from proxy.policy.rules import parse
from proxy.recorder.page.caps import CAPS_TOKENS
from tests.support.browser import browser, visit
from tests.support.ledgers import make_row, write_ledger
from tests.support.otlp import wait_until
from tests.support.serve import ROOT, Served, serving
from tests.support.traffic import ledger_rows

EVIL = '<script>document.title="broken"</script><img src=x onerror=alert(1)>'
POLICIES = {
    "version": 1,
    "rules": [
        {
            "name": "digest-cap",
            "match": {"app": ["digest"]},
            "do": "cap",
            "max_tokens": 40,
            "mode": "enforce",
            "disarm": {"truncated_share": 0.9, "of_last": 50},
        },
        {"name": "tried", "match": {"model": ["sim-large"]}, "do": "cap", "max_tokens": 64, "mode": "shadow"},
    ],
}
UNKNOWN = "\N{EN DASH}"
REQUESTS = 120
LONG_MS = 60_000
"""Patience."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser."""
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """A simulated provider that answers for any model name."""
    command = [sys.executable, "-m", "proxy.cli", "simulate", "--listen", "127.0.0.1:0", "--any-model"]
    command += ["--ttft-ms", "30", "--tpot-ms", "1", "--jitter", "0.1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield re.search(r"(http://\S+)/v1", process.stdout.readline()).group(1)
        process.terminate()


@pytest.fixture(scope="module")
def served(provider: str) -> Iterator[Served]:
    """Lengthwise after some traffic of three apps, two models and somebody with bad manners."""
    with serving(_settings(provider), policies=POLICIES) as served:
        with ThreadPoolExecutor(16) as pool:
            for sending in [pool.submit(_send, served, number) for number in range(REQUESTS)]:
                sending.result()
        served.rows(REQUESTS)
        wait_until(lambda: _api(served, "state")["active"] == 0)
        yield served


def _settings(provider: str, **changes: Any) -> dict[str, Any]:
    return {"upstreams": [{"name": "sim", "url": provider}]} | changes


def _send(served: Served, number: int) -> None:
    """One request of the traffic; what it is follows from its number."""
    body: dict[str, Any] = {
        "model": EVIL if number % 40 == 7 else ("sim-small", "sim-large", "sim-large")[number % 3],
        "messages": [{"role": "user", "content": f"Say it. [tokens={10 + number * 7 % 160}]"}],
        "stream": number % 5 > 0,
        "max_tokens": (64, 128, 512, 1024)[number // 3 % 4],
    }
    if number % 11 == 0:
        del body["max_tokens"]
    if number % 30 == 13:
        body["messages"] = "none"  # the provider refuses it
    app = EVIL if number % 40 == 9 else ("search", "support", "digest")[number % 3]
    headers = {"Content-Type": "application/json", "x-lengthwise-app": app}
    with closing(http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=60)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        connection.getresponse().read()


def _api(served: Served, path: str) -> Any:
    status, text = served.get(f"/api/{path}")
    assert status == 200, text
    return json.loads(text)


def _live(page: Page) -> None:
    """Wait for the page to have heard the recorder."""
    expect(page.locator("#pulse.live")).to_be_visible(timeout=LONG_MS)


def _figure(page: Page, name: str) -> tuple[str, str]:
    """The value of a figure by its name, and the note below it."""
    item = page.locator("dl > div", has=page.get_by_text(name, exact=True))
    note = item.locator("small").inner_text()
    return item.locator("dd").inner_text().removesuffix(note).strip(), note


def _recorder_pid(served: Served) -> int | None:
    listed = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text(encoding="ascii")
    for pid in map(int, listed.split()):
        with contextlib.suppress(OSError):
            if b"proxy.recorder" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


@pytest.mark.parametrize(
    "context",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    ],
    ids=["light", "dark", "phone"],
)
def test_the_page_draws_itself_and_asks_nobody_else(chromium: Browser, served: Served, context: dict[str, Any]) -> None:
    """No console message, no other origin, every chart drawn and labelled, nothing wider than the screen."""
    with visit(chromium, f"{served.admin_url}/", **context) as visited:
        _live(visited.page)
        charts = visited.page.locator("figure .plot > svg[role=img]")
        expect(charts).to_have_count(8)
        labels = [charts.nth(number).get_attribute("aria-label") or "" for number in range(8)]
        assert [label for label in labels if len(label) < 20] == []
        width, screen = visited.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert width <= screen
    assert (visited.complaints, visited.elsewhere) == ([], [])


def test_its_figures_are_those_of_metrics_and_ledger(chromium: Browser, served: Served) -> None:
    """Ends, faults, cuts, decisions and tokens, of the same traffic."""
    rows = served.rows(REQUESTS)
    _, text = served.get("/metrics")
    figures = _api(served, "figures")

    def metric(name: str, label: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for labels, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE):
            found[re.search(rf'(?:^|,){label}="([^"]*)"', labels).group(1)] += int(float(value))
        return found

    ends = Counter(row["end"] for row in rows)
    assert Counter(figures["ends"]) == metric("lengthwise_stream_ends_total", "end") == ends
    cuts = metric("lengthwise_truncations_total", "by")
    assert figures["truncations"] == {by: cuts[by] for by in ("client", "policy")}
    assert sum(cuts.values()) == sum(row["cut"] == 1 for row in rows) > 0
    unused = metric("lengthwise_reserved_unused_tokens_total", "gen_ai_provider_name")
    assert figures["reserved_unused_tokens"] == sum(unused.values()) > 0
    decided = Counter({(each["rule"], each["action"], each["mode"]): each["count"] for each in figures["decisions"]})
    assert Counter({rule: n for (rule, *_), n in decided.items() if rule == "digest-cap"}).keys() == {"digest-cap"}
    by_rule: Counter[str] = Counter()
    for (rule, *_), n in decided.items():
        by_rule[rule] += n
    assert by_rule == metric("lengthwise_policy_decisions_total", "rule")
    assert by_rule["digest-cap"] == sum(row["rule"] == "digest-cap" for row in rows) > 0
    assert figures["faults"] == {"client": sum(row["status"] >= 400 for row in rows), "proxy": 0, "upstream": 0}
    whole = [row for row in rows if row["status"] == 200]
    assert figures["complete"] == len(whole)
    assert figures["ttft_s"]["n"] == sum(row["tpot_s"] is not None for row in whole)
    with visit(chromium, f"{served.admin_url}/") as visited:
        _live(visited.page)
        assert _figure(visited.page, "requests")[1].startswith(f"{REQUESTS} since ")
        assert _figure(visited.page, "cut by a policy")[1] == f"{cuts['policy']} of {len(whole)} whole answers"
        assert (
            _figure(visited.page, "cut by the client's limit")[1] == f"{cuts['client']} of {len(whole)} whole answers"
        )
        assert _figure(visited.page, "lost")[0] == "0"
        rule = visited.page.locator("#rules tbody tr", has_text="digest-cap")
        expect(rule).to_contain_text("armed")
        expect(rule).to_contain_text("may be 90.0%")


def test_the_slider_says_what_the_report_says(chromium: Browser, served: Served, tmp_path: Path) -> None:
    """For each cap of the slider, on the same exchanges; and it is moved by keys."""
    caps = ",".join(map(str, CAPS_TOKENS))
    command = [
        sys.executable,
        "-m",
        "proxy.cli",
        "report",
        "--source",
        str(served.ledger_path),
        "--caps",
        caps,
        "--json",
        "-",
    ]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    groups = {group["by"]["model"]: group for group in json.loads(answer.stdout)["groups"]}
    for model in ("sim-large", "sim-small"):
        reported, found = groups[model], _api(served, f"caps?model={model}")
        assert found["complete"] == reported["complete"]
        shown = ("cap", "governed", "newly_cut", "newly_cut_share", "tokens_saved")
        assert [[each[name] for name in shown] for each in found["caps"]] == [
            [each[name] for name in shown] for each in reported["what_if"]
        ]
        assert [each["latency_saved_s"] for each in found["caps"]] == pytest.approx(
            [each["latency_saved_s"] for each in reported["what_if"]], rel=1e-6
        )
    with visit(chromium, f"{served.admin_url}/?model=sim-large&cap=64") as visited:
        _live(visited.page)
        expect(visited.page.locator("#cap-says")).to_contain_text("A cap of 64 tokens")
        visited.page.get_by_label("Cap in tokens").press("ArrowRight")
        expect(visited.page.locator("#cap-says")).to_contain_text("A cap of 96 tokens")
        expected = next(each for each in groups["sim-large"]["what_if"] if each["cap"] == 96)
        complete = groups["sim-large"]["complete"]
        newly, tokens = _figure(visited.page, "newly cut"), _figure(visited.page, "tokens saved")
        assert newly == (f"{expected['newly_cut_share']:.1%}", f"{expected['newly_cut']} of {complete} whole answers")
        assert tokens[0] == f"{expected['tokens_saved']:,}"
        assert "cap=96" in visited.page.url


def test_the_rule_that_is_copied_is_accepted(chromium: Browser, served: Served, tmp_path: Path) -> None:
    """By `lengthwise check`, for the model and the app that were looked at, in shadow."""
    permitted = {"permissions": ["clipboard-read", "clipboard-write"]}
    with visit(chromium, f"{served.admin_url}/?model=sim-large&app=support&cap=96", **permitted) as visited:
        _live(visited.page)
        visited.page.get_by_role("button", name="Copy as a rule in shadow").click()
        expect(visited.page.locator("#copied-rule")).to_contain_text("copied")
        text = visited.page.evaluate("navigator.clipboard.readText()")
    (tmp_path / "policies.yaml").write_text(text, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "proxy.cli",
        "check",
        "--upstream",
        "http://127.0.0.1:1",
        "--policies",
        "policies.yaml",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout) == (0, "ok: 1 upstream(s), 1 rule(s)\n"), done.stderr
    assert 'match: {model: ["sim-large"], app: ["support"]}' in text


def test_filters_choose_and_stay(chromium: Browser, served: Served) -> None:
    """Figures and table are of what was chosen, also after the page was loaded again; a name that is markup is text."""
    rows = served.rows(REQUESTS)
    of_app, evil = sum(row["app"] == "search" for row in rows), sum(row["model"] == EVIL for row in rows)
    with visit(chromium, f"{served.admin_url}/", permissions=["clipboard-read", "clipboard-write"]) as visited:
        page = visited.page
        _live(page)
        page.get_by_label("app", exact=True).select_option(label="search")
        expect(page.locator("#exchanges tbody tr[data-id]")).to_have_count(of_app)
        assert _figure(page, "requests")[1].startswith(f"{of_app} since ")
        page.get_by_label("1 minute").check(force=True)
        page.reload()
        _live(page)
        assert (page.get_by_label("app", exact=True).input_value(), page.get_by_label("1 minute").is_checked()) == (
            "=search",
            True,
        )
        page.get_by_label("15 minutes").check(force=True)
        page.get_by_label("app", exact=True).select_option(label="all apps")
        page.get_by_label("model", exact=True).select_option(label=EVIL)
        expect(page.locator("#exchanges tbody tr[data-id]")).to_have_count(evil)
        assert page.locator("#exchanges tbody td.name").first.inner_text() == EVIL
        page.get_by_role("button", name="Copy as a rule in shadow").click()
        expect(page.locator("#copied-rule")).to_contain_text("copied")
        (rule,) = parse(yaml.safe_load(page.evaluate("navigator.clipboard.readText()"))).rules
        assert rule.mode == "shadow"
        assert (page.title(), page.locator("main img, main script").count()) == ("Lengthwise", 0)
    assert (visited.complaints, visited.elsewhere) == ([], [])


def test_the_table_is_sorted_and_opens_timelines(chromium: Browser, served: Served) -> None:
    """By each heading, either way; a timeline has its phases, and its trace id is the ledger's."""
    rows = served.rows(REQUESTS)
    with visit(chromium, f"{served.admin_url}/", permissions=["clipboard-read", "clipboard-write"]) as visited:
        page = visited.page
        _live(page)
        body = page.locator("#exchanges tbody")
        expect(body.locator("tr[data-id]")).to_have_count(REQUESTS)
        heading = page.locator("th", has_text="tokens")
        known = sorted(row["output_tokens"] for row in rows if row["output_tokens"] is not None)
        for direction, expected in (("descending", known[::-1]), ("ascending", known)):
            heading.get_by_role("button").click()
            expect(heading).to_have_attribute("aria-sort", direction)
            found = [text.replace("≈ ", "") for text in body.locator("tr[data-id] td:nth-child(6)").all_inner_texts()]
            assert [int(text) for text in found if text != UNKNOWN] == expected
            assert UNKNOWN not in found[: len(expected)]
        longest = max((row for row in rows if row["stream"]), key=lambda row: row["output_tokens"] or 0)
        row = body.locator(f"tr[data-id='{longest['id']}']")
        row.get_by_role("button").press("Enter")
        story = body.locator("tr.detail .story")
        for phase in ("deciding", "waiting for headers", "tokens", "checkpoints"):
            expect(story.locator(".facts")).to_contain_text(phase)
        expect(story.get_by_role("img")).to_have_attribute("aria-label", re.compile("Timeline of .*tokens"))
        story.get_by_role("button", name="Copy trace id").click()
        expect(story.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == longest["trace_id"]
        row.get_by_role("button").press("Enter")
        expect(body.locator("tr.detail")).to_have_count(0)
    assert visited.complaints == []


def test_charts_are_read_with_arrow_keys(chromium: Browser, served: Served) -> None:
    """What a pointer would show is said."""
    with visit(chromium, f"{served.admin_url}/") as visited:
        _live(visited.page)
        chart = visited.page.locator("#c-used .plot svg[role=img]")
        chart.focus()
        chart.press("ArrowLeft")
        expect(visited.page.locator("#c-used .readout")).to_contain_text("95.0% to 100% of the limit")


def test_a_page_that_is_not_seen_asks_nothing(chromium: Browser, served: Served) -> None:
    """However long it is not seen; at once when it is again."""
    with visit(chromium, f"{served.admin_url}/") as visited:
        page = visited.page
        _live(page)
        page.clock.install()
        asked: list[str] = []
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {get: () => window.unseen !== false, configurable: true})"
        )
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#pulse")).to_have_text("paused while hidden")
        page.on("request", lambda request: asked.append(request.url))
        page.clock.run_for(600_000)
        assert asked == []
        with page.expect_request("**/api/figures*"):
            page.evaluate("window.unseen = false; document.dispatchEvent(new Event('visibilitychange'))")


def test_it_survives_a_restart_of_the_recorder_and_says_so(chromium: Browser, provider: str) -> None:
    """Meanwhile the old figures stay with their time; afterwards the ledger's exchanges are there again."""
    with serving(_settings(provider)) as served:
        for number in range(20):
            _send(served, number)
        served.rows(20)
        with visit(chromium, f"{served.admin_url}/") as visited:
            page = visited.page
            expect(page.locator("#exchanges tbody tr[data-id]")).to_have_count(20, timeout=LONG_MS)

            def says_so() -> bool:
                """As often as it comes back it is killed again, until the page has asked while it was away."""
                if pid := _recorder_pid(served):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return "restarting" in page.locator("#notice").inner_text()

            wait_until(says_so)
            expect(page.locator("#notice")).to_contain_text(
                "The recorder is restarting; requests pass meanwhile. Figures are of"
            )
            expect(page.locator("#pulse")).to_have_text("recorder away")
            expect(page.locator("main.old")).to_be_visible()
            expect(page.locator("#exchanges tbody tr[data-id]")).to_have_count(20)
            expect(page.locator("#notice")).to_contain_text(
                "20 exchanges were read again from the ledger", timeout=LONG_MS
            )
            _live(page)
            expect(page.locator("#exchanges tbody tr[data-id]")).to_have_count(20)
            assert _figure(page, "requests")[1].startswith("20 since ")
    assert [text for text in visited.complaints if "503" not in text] == []


def test_without_traffic_it_says_what_to_do_next(chromium: Browser, provider: str) -> None:
    """And when nobody answers any more."""
    with serving(_settings(provider)) as served, visit(chromium, f"{served.admin_url}/") as visited:
        page = visited.page
        _live(page)
        expect(page.locator("#healthy")).to_contain_text(
            "No exchange ended in the last 15 minutes. Send one: base_url is"
        )
        expect(page.locator("#no-rules")).to_contain_text("Move the slider")
        expect(page.locator("#no-exchanges")).to_be_visible()
        expect(page.locator(".plot .none")).to_have_count(8)
        assert visited.complaints == []
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(60)
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#notice")).to_contain_text("Is lengthwise serve running?")


def test_answers_longer_than_every_cap_are_shown(chromium: Browser, provider: str, tmp_path: Path) -> None:
    """Each of its caps would have cut them: it begins with the highest."""
    row = make_row(
        started_at=time.time() - 10,
        output_tokens=60_000,
        decoded_tokens=60_000,
        requested_max_tokens=None,
        forwarded_max_tokens=None,
    )
    ledger = write_ledger(tmp_path / "long.sqlite", [row])
    with serving(_settings(provider, ledger={"path": str(ledger)})) as served:
        wait_until(lambda: _api(served, "state")["restored"] == 1)
        with visit(chromium, f"{served.admin_url}/") as visited:
            _live(visited.page)
            expect(visited.page.locator("#cap-says")).to_contain_text(f"A cap of {max(CAPS_TOKENS):,} tokens")
        assert visited.complaints == []


def test_with_a_token_it_asks_for_it(chromium: Browser, provider: str) -> None:
    """A wrong one is said to be wrong; the right one is kept for this tab."""
    with (
        serving(_settings(provider), env={"LW_PAGE_TOKEN": "s3cret"}) as served,
        visit(chromium, f"{served.admin_url}/") as visited,
    ):
        page = visited.page
        for token, said in (("wrong", "This is not the token."), ("s3cret", "")):
            page.get_by_label("This page is kept with a token").fill(token)
            page.get_by_role("button", name="Show the page").click()
            if said:
                expect(page.locator("#notice")).to_have_text(said)
        _live(page)
        expect(page.locator("#key")).to_be_hidden()
        page.reload()
        _live(page)


def test_a_day_of_100_000_exchanges_stays_smooth(chromium: Browser, provider: str, tmp_path: Path) -> None:
    """What is sent and drawn does not grow with the traffic; the times are printed."""
    now_s = time.time()
    usual = ledger_rows(np.random.default_rng(8), exchanges=20_000, days=1)
    rows = [
        row | {"started_at": now_s - 86_000 * (number + copy / 5) / 20_000}
        for number, row in enumerate(usual)
        for copy in range(5)
    ]
    assert len(rows) == 100_000
    write_ledger(tmp_path / "day.sqlite", rows)
    with serving(_settings(provider, ledger={"path": str(tmp_path / "day.sqlite")})) as served:
        with closing(sqlite3.connect(tmp_path / "day.sqlite")) as connection:
            assert connection.execute("SELECT count(*) FROM exchange").fetchone() == (len(rows),)
        wait_until(lambda: _api(served, "state")["restored"] == len(rows))
        took_ms: dict[str, list[int]] = {}
        for path in ("figures", "caps", "points", "exchanges") * 2:
            began_s = time.monotonic()
            answer = _api(served, f"{path}?window=86400")
            took_ms.setdefault(path, []).append(round((time.monotonic() - began_s) * 1000))
            took_ms.setdefault(f"{path}, bytes", []).append(len(json.dumps(answer)))
        print(f"\nfirst and second asking, ms: {took_ms}")
        assert _api(served, "figures?window=86400")["exchanges"] == pytest.approx(len(rows), rel=0.03)
        assert len(_api(served, "points?window=86400")["e2e_s"]) <= 1200
        assert max(sizes[0] for name, sizes in took_ms.items() if "bytes" in name) < 200_000
        with visit(chromium, f"{served.admin_url}/?window=86400") as visited:
            _live(visited.page)
            for _ in range(5):
                _send(served, 1)
                with visited.page.expect_response("**/api/exchanges?*"):
                    visited.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            drawn_ms = visited.page.evaluate(
                "performance.getEntriesByName('refresh').map((each) => Math.round(each.duration))"
            )
            print(f"drawn in, ms: {drawn_ms}")
            assert drawn_ms
            expect(visited.page.locator("#exchanges tbody tr[data-id]")).to_have_count(200)
        assert visited.complaints == []
