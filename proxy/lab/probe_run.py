"""Carries out what the flags of `lengthwise probe` ask for: announces, asks, shows and writes.

Layer: lab.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from proxy.evidence.paired import as_json, comparisons, limit_arms
from proxy.lab.asking import AskError, Provider
from proxy.lab.budget import Budget
from proxy.lab.probe_page import page
from proxy.lab.probe_text import show
from proxy.lab.probing import Outcome, Plan, probe

__all__ = ["run"]

_OTHER_WAYS: Final = 2
"""Requests more that may be needed to find out how the provider wants to be asked."""
_INTERRUPTED: Final = "interrupted; what follows is of the answers until then"


def run(arguments: argparse.Namespace) -> int:
    """Ask, show, write."""
    key_env = arguments.api_key_env or "OPENAI_API_KEY"
    if arguments.api_key_env and not os.environ.get(key_env):
        return _failed(f"--api-key-env: the variable {key_env} is not set", 2)
    if not (os.environ.get(key_env, "").isascii() and os.environ.get(key_env, "x").isprintable()):
        return _failed(f"the variable {key_env} holds what no header takes (a line break?)", 2)
    try:
        prompt = arguments.prompt if arguments.prompt_file is None else arguments.prompt_file.read_text("utf-8")
    except OSError as error:
        return _failed(f"--prompt-file: {error.filename}: {error.strerror}", 2)
    except UnicodeDecodeError as error:
        return _failed(f"--prompt-file: {arguments.prompt_file}: {error}", 2)
    for place in _places(arguments):
        if place.is_dir() or not os.access(place if place.exists() else place.parent, os.W_OK):
            return _failed(f"{place} cannot be written; nothing was sent", 2)
    plan, budget = _planned(arguments, prompt)
    if plan.blocks < 1:
        need = plan.warm_ups + len(plan.limits)
        return _failed(f"--budget-requests: {plan.warm_ups} warm-up requests and one block need at least {need}", 2)
    first_tokens = budget.cost_tokens(plan.warm_up_limits[0])
    if budget.tokens < first_tokens:
        return _failed(f"--budget-tokens: the first request may need {first_tokens:,}", 2)
    provider = Provider(
        base_url=arguments.base_url,
        model=arguments.model,
        api_key_env=key_env,
        field="max_tokens" if arguments.field == "auto" else arguments.field,
        field_is_settled=arguments.field != "auto",
    )
    said = Console(stderr=True, highlight=False)
    _announce(said, plan, provider, budget)
    if (
        not arguments.yes
        and sys.stdin.isatty()
        and said.input("Go? [y/N] ", markup=False).strip().lower() not in {"y", "yes"}
    ):
        return _failed("nothing was sent", 1)
    outcome = Outcome()
    trouble = _probed(said, plan, provider, budget, outcome)
    if trouble is not None:
        print(f"lengthwise: {trouble}", file=sys.stderr)
        if trouble is not _INTERRUPTED and not outcome.samples:
            return 1
    if trouble is None and not outcome.samples and not outcome.failures:
        need = sum(map(budget.cost_tokens, plan.limits))
        return _failed(
            f"--budget-tokens: the warm-up cost {budget.spent_tokens:,}, and a block may need {need:,} more", 2
        )
    code = _told(arguments, plan, outcome, budget)
    return max(code, 1) if trouble is not None or _failing(outcome) else code


def _planned(arguments: argparse.Namespace, prompt: str) -> tuple[Plan, Budget]:
    """As many blocks as are asked for and the budget of requests holds."""
    plan = Plan(arguments.limits, prompt, arguments.cache, arguments.blocks, arguments.concurrency)
    if arguments.budget_requests is not None:
        affordable = (arguments.budget_requests - plan.warm_ups) // len(plan.limits)
        plan = Plan(plan.limits, prompt, plan.cache, min(plan.blocks, affordable), plan.concurrency)
    spare = _OTHER_WAYS if arguments.field == "auto" else 0
    tokens = plan.tokens + spare * (plan.input_tokens + plan.limits[0])
    return plan, Budget(
        requests=arguments.budget_requests or plan.requests + spare,
        tokens=arguments.budget_tokens or tokens,
        input_tokens=plan.input_tokens,
    )


def _announce(said: Console, plan: Plan, provider: Provider, budget: Budget) -> None:
    cache = (
        "a nonce in front of each, so that no cache knows it" if plan.cache == "bust" else "the same bytes each time"
    )
    said.print(
        f"Asking {provider.model} at {provider.base_url} the same thing with limits {_listed(plan.limits)}.",
        markup=False,
    )
    said.print(
        f"{plan.blocks} blocks, each limit once in each, in random order; {plan.concurrency} at a time; "
        f"{plan.warm_ups} warm-up requests are discarded; cache {plan.cache}: {cache}.",
        markup=False,
    )
    said.print(
        f"Budget, never exceeded: {budget.requests:,} requests, {budget.tokens:,} tokens (input and output; "
        f"the most that the limits allow, answers that end earlier cost less).",
        markup=False,
    )


def _probed(said: Console, plan: Plan, provider: Provider, budget: Budget, outcome: Outcome) -> str | None:
    """Carry it out with a progress bar; what went wrong, or None."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=said) as progress:
            bar = progress.add_task("requests", total=plan.requests)

            def advance() -> None:
                progress.update(bar, advance=1, description=f"requests ({budget.spent_tokens:,} tokens)")

            asyncio.run(_cancellable(plan, provider, budget, outcome, advance))
    except AskError as error:
        return str(error)
    except asyncio.CancelledError:
        return _INTERRUPTED
    return None


async def _cancellable(
    plan: Plan, provider: Provider, budget: Budget, outcome: Outcome, advance: Callable[[], None]
) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await probe(plan, provider, budget, outcome, advance)


def _failing(outcome: Outcome) -> bool:
    """True when it ended for its failures."""
    return len(outcome.failures) > len(outcome.samples)


def _places(arguments: argparse.Namespace) -> list[Path]:
    """The files that are to be written."""
    page_place = [] if arguments.html is None else [arguments.html]
    return page_place if arguments.json in {None, "-"} else [*page_place, Path(arguments.json)]


def _told(arguments: argparse.Namespace, plan: Plan, outcome: Outcome, budget: Budget) -> int:
    arms, compared = limit_arms(outcome.samples, plan.limits), comparisons(outcome.samples)
    if arguments.json != "-":  # first: what was paid for is seen, even where the disk is full
        show(arms, compared, outcome, budget)
    try:
        if arguments.json is not None:
            text = orjson.dumps(as_json(arms, compared), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
            if arguments.json == "-":
                sys.stdout.write(text.decode())
            else:
                Path(arguments.json).write_bytes(text)
        if arguments.html is not None:
            arguments.html.write_text(page(arms, compared, outcome.samples, arguments.model), encoding="utf-8")
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}", 2)
    return 0


def _failed(message: str, code: int) -> int:
    print(f"lengthwise: {message}", file=sys.stderr)
    return code


def _listed(limits: tuple[int, ...]) -> str:
    return ", ".join(map(str, limits))
