"""Carries the demo out: starts provider and proxy, sends traffic and a probe, and tells what came of it.

Layer: lab.
"""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from proxy.evidence import report_page, report_text
from proxy.evidence.effect_text import terminal
from proxy.evidence.paired import comparisons, limit_arms
from proxy.evidence.report import build
from proxy.evidence.sources.query import Window
from proxy.evidence.sources.source import read
from proxy.lab import browser, demo_story
from proxy.lab.asking import Provider
from proxy.lab.budget import Budget
from proxy.lab.children import child, log_tails, ready
from proxy.lab.probe_page import page
from proxy.lab.probing import Outcome, Plan, probe
from proxy.lab.traffic import BATCHES, CLASSES, Summary, rows_of, send_all, sent, summarise

__all__ = ["WHOLE_S", "demo"]

_CAP_TOKENS = 96
_POLICIES = f"""version: 1
rules:
  - name: demo-cap
    match: {{model: sim-large}}
    do: cap
    max_tokens: {_CAP_TOKENS}
    mode: enforce
"""
_PACE = ("--ttft-ms", "120", "--tpot-ms", "4", "--jitter", "0.05")
_PROBE = Plan(
    limits=(64, 512, 4096),
    prompt="Does the limit change the wait? [tokens=160]",
    cache="warm",
    blocks=30,
    concurrency=6,
)
_QUESTION = """\
Same input, different max_tokens: what happens to latency? We shall see in half a minute.
A simulated provider, Lengthwise in front of it, applications that ask; nothing leaves this machine.
"""
WHOLE_S = 90.0
"""After this the demo gives up."""


async def demo(folder: Path) -> int:
    """Run the demo in this folder; 0 when every request passed and is in the ledger, 1 when not.

    Raises:
        ChildError, AskError: it could not be carried out.
        TimeoutError: it was not done in time.
    """
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    (folder / "policies.yaml").write_text(_POLICIES, encoding="utf-8")
    ledger = folder / "lengthwise.sqlite"
    console = terminal()
    console.print(_QUESTION)
    simulate = ["simulate", "--listen", "127.0.0.1:0", *_PACE]
    async with asyncio.timeout(WHOLE_S), child(folder, simulate, ["simulated provider on"]) as (provider,):
        serve = [
            "serve",
            "--upstream",
            provider.removesuffix("/v1"),
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ]
        serve += ["--policies", str(folder / "policies.yaml"), "--ledger", str(ledger)]
        async with child(folder, serve, ["listening on", "admin on"]) as (base_url, admin_url):
            await ready(admin_url, folder)
            live_page = f"{admin_url}/?window=60"
            shown = browser.show(live_page, os.environ)
            said = "Your browser opens the live page, if it can" if shown else "Watch the live page"
            console.print(f"{said}; it fills as long as this runs:\n\n  [bold]{live_page}[/bold]\n", soft_wrap=True)
            outcome, failures = await _asked(console, base_url)
            rows = await rows_of(ledger, sent() + _PROBE.requests)
    return _told(console, folder, rows, outcome, failures)


async def _asked(console: Console, base_url: str) -> tuple[Outcome, list[str]]:
    """Send the traffic, then the probe; what the probe found, and what failed of the traffic."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    outcome, budget = Outcome(), Budget(_PROBE.requests, _PROBE.tokens, _PROBE.input_tokens)
    provider = Provider(base_url, "sim-small", "", "max_tokens", field_is_settled=True)
    with Progress(*columns, console=console) as progress:
        apps = len({kind.name for kind in (*CLASSES, *BATCHES)})
        traffic = progress.add_task(f"traffic of {apps} applications", total=sent())
        probing = progress.add_task("same input, limits in turns", total=_PROBE.requests, start=False)
        failures = await send_all(base_url, lambda: progress.advance(traffic))
        progress.start_task(probing)
        await probe(_PROBE, provider, budget, outcome, lambda: progress.advance(probing))
    return outcome, failures


def _told(
    console: Console, folder: Path, rows: Sequence[Mapping[str, Any]], outcome: Outcome, failures: Sequence[str]
) -> int:
    """Show what came of it, write the pages; the exit code."""
    summaries = summarise(rows)
    arms, compared = limit_arms(outcome.samples, _PROBE.limits), comparisons(outcome.samples)
    console.print()
    demo_story.show_traffic(console, summaries)
    good = _accounted(summaries, sent() + _PROBE.requests, len(rows), [*failures, *outcome.failures])
    if not good or len(outcome.samples) < _PROBE.blocks * len(arms):
        print(log_tails(folder))
        return 1
    report = build(read(str(folder / "lengthwise.sqlite")), Window(), by_app=False)
    group = next(each for each in report.groups if each.model == "sim-small")
    report_text.show(replace(report, groups=(group,)), console)
    (folder / "report.html").write_text(report_page.page(report), encoding="utf-8")
    (folder / "probe.html").write_text(page(arms, compared, outcome.samples, "sim-small"), encoding="utf-8")
    batches = sorted(
        (summary for summary in summaries if summary.model == "sim-reserving"),
        key=lambda summary: summary.requested_max_tokens or 0,
    )
    answers = demo_story.answers(group, arms, compared, batches[0], batches[-1])
    console.print()
    demo_story.show_answers(console, answers)
    (folder / "answer.svg").write_text(demo_story.picture(summaries, answers), encoding="utf-8")
    _print_next(console, folder)
    return 0


def _accounted(summaries: Sequence[Summary], wanted: int, rows: int, failures: Sequence[str]) -> bool:
    """Say whether everything that was sent is accounted for; True when it is."""
    complete = sum(summary.complete for summary in summaries) + _PROBE.requests
    print(f"\n{wanted} requests sent, {rows} rows in the ledger, {complete} complete.")
    for failure in failures:
        print(f"failed: {failure}")
    good = rows == wanted == complete and not failures
    if not good:
        print("These numbers should be equal and nothing should fail.")
    return good


def _print_next(console: Console, folder: Path) -> None:
    command = _command()
    console.print(
        f"""
The provider was simulated, the measurements are real. To look around, and then to ask about your own traffic:

  {folder / "report.html"}
  {folder / "probe.html"}
  {command} report --source {folder / "lengthwise.sqlite"} --by model,app
  {command} advise --source {folder / "lengthwise.sqlite"}

  {command} serve --upstream https://api.openai.com      # then in your apps: base_url = http://127.0.0.1:8080/v1
  {command} probe --base-url https://api.openai.com/v1 --model gpt-4o-mini --limits 64,512,4096""",
        markup=False,
        soft_wrap=True,
    )


def _command() -> str:
    """How this installation's command is called from here."""
    called = Path(sys.argv[0])
    if called.name != "lengthwise":
        return f"{sys.executable} -m proxy"
    if shutil.which("lengthwise") == str(called):
        return "lengthwise"
    return os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called)
