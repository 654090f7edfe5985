"""`lengthwise demo`: the simulated provider, Lengthwise in front of it, some dozens of requests, and what the ledger says.

Layer: lab. Both are started as a user starts them, as processes of their own on free ports of the loopback interface, in a
temporary folder, without anything of the user's configuration. Every number in the table is read from the ledger that
Lengthwise wrote; the client that sends the requests measures nothing. Needs no network.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp

import proxy
from proxy.errors import LengthwiseError
from proxy.lab.traffic import Summary, interleaved, rows_of, send_all, summarise

__all__ = ["DemoError", "add_arguments", "run"]

_CAP_TOKENS = 96
_POLICIES = f"""version: 1
rules:
  - name: demo-cap
    match: {{model: sim-large}}
    do: cap
    max_tokens: {_CAP_TOKENS}
    mode: enforce
"""
_START_S = 20.0
_STOP_S = 6.0
_WHOLE_S = 90.0


class DemoError(LengthwiseError):
    """The demo could not be carried out; the message says what happened."""


# -- command --------------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `lengthwise demo`."""
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="keep ledger, policies and logs in this new folder (default: nothing is kept)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 when every request passed and is in the ledger, 1 when not, 2 when it cannot start here."""
    if importlib.util.find_spec("rich") is None:
        print('The demo draws its table with rich: pip install "lengthwise[report]"', file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        if arguments.keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lengthwise-demo-")))
        else:
            folder = arguments.keep.absolute()
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                print(f"--keep: {error}", file=sys.stderr)
                return 2
        try:
            return asyncio.run(_demo(folder, kept=arguments.keep is not None))
        except DemoError as error:
            print(f"demo: {error}", file=sys.stderr)
        except TimeoutError:
            print(f"demo: not done after {_WHOLE_S:.0f} s{_log_tails(folder)}", file=sys.stderr)
        except (KeyboardInterrupt, asyncio.CancelledError):
            print("demo: interrupted", file=sys.stderr)
        return 1


async def _demo(folder: Path, *, kept: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    (folder / "policies.yaml").write_text(_POLICIES, encoding="utf-8")
    ledger = folder / "lengthwise.sqlite"
    simulate = ["simulate", "--listen", "127.0.0.1:0", "--ttft-ms", "150", "--tpot-ms", "6", "--jitter", "0.1"]
    print("Starting a simulated provider and Lengthwise in front of it. Nothing leaves this machine.")
    async with asyncio.timeout(_WHOLE_S), _child(folder, simulate, ["simulated provider on"]) as (provider,):
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
        async with _child(folder, serve, ["listening on", "admin on"]) as (base_url, admin_url):
            await _ready(admin_url, folder)
            sent = len(interleaved())
            failures = await _send_with_progress(base_url, sent)
            rows = await rows_of(ledger, sent)
            summaries = summarise(rows)
            _print_table(summaries)
            _print_findings([summary for summary in summaries if summary.title.startswith("same prompt")])
            good = _print_account(summaries, sent, len(rows), failures)
            if not good:
                print(_log_tails(folder))
    _print_next(folder if kept else None)
    return 0 if good else 1


# -- processes ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _child(folder: Path, arguments: Sequence[str], announced: Sequence[str]) -> AsyncIterator[list[str]]:
    """Run one of our commands while the block lasts; yields the addresses that it prints after each of `announced`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LENGTHWISE_"))}
    # The folder is no place of ours: a source tree that is not installed is found by its path.
    paths = [str(Path(proxy.__file__).parents[1]), *filter(None, [environ.get("PYTHONPATH")])]
    environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    with _log(folder, arguments).open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "proxy.cli",
            *arguments,
            cwd=folder,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # a Ctrl-C reaches the demo alone, which ends the others in their order
        )
    reading: asyncio.Task[None] | None = None
    try:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                addresses = await _addresses(process.stdout, announced)
        except TimeoutError:
            addresses = []
        if len(addresses) < len(announced):
            raise DemoError(f"`lengthwise {arguments[0]}` did not start{_log_tails(folder)}")
        reading = asyncio.create_task(_drain(process.stdout))
        yield addresses
    finally:
        try:
            await _stop(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever is left of it and of what it started
            if reading is not None:
                reading.cancel()


async def _addresses(stdout: asyncio.StreamReader, announced: Sequence[str]) -> list[str]:
    found: dict[str, str] = {}
    async for line in stdout:
        for words in announced:
            match = re.search(rf"{words} (http://\S+)", line.decode(errors="replace"))
            if match:
                found[words] = match.group(1).rstrip("/")
        if len(found) == len(announced):
            break
    return [found[words] for words in announced if words in found]


async def _drain(stdout: asyncio.StreamReader) -> None:
    while await stdout.read(65536):
        pass


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STOP_S):
            await process.wait()


def _log(folder: Path, arguments: Sequence[str]) -> Path:
    return folder / f"{arguments[0]}.log"


def _log_tails(folder: Path) -> str:
    tails = []
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        tails += [f"\n--- {log.name}", *lines] if lines else []
    return "\n".join(tails)


async def _ready(admin_url: str, folder: Path) -> None:
    """Wait until Lengthwise says that it is ready."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_S), aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{admin_url}/readyz") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.05)
    raise DemoError(f"Lengthwise did not get ready{_log_tails(folder)}")


async def _send_with_progress(base_url: str, total: int) -> list[str]:
    from rich.progress import (  # noqa: PLC0415 -- an extra
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        bar = progress.add_task(f"requests through {base_url}", total=total)
        return await send_all(base_url, lambda: progress.advance(bar))


# -- report ---------------------------------------------------------------------------------------------------------------


def _print_table(summaries: Sequence[Summary]) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 -- an extra
    from rich.console import Console  # noqa: PLC0415 -- an extra
    from rich.table import Table  # noqa: PLC0415 -- an extra

    title = "What the ledger says (simulated provider; figures are p50 of count requests)"
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )
    table.add_column("class", no_wrap=True)
    for name in ("count", "allowed", "generated", "TTFT\n(ms)", "TPOT\n(ms)", "E2E\n(s)"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ended", no_wrap=True)
    for summary in summaries:
        table.add_row(*_cells(summary))
    console = Console()
    console.print()
    console.print(table)


def _cells(summary: Summary) -> tuple[str, ...]:
    requested, forwarded = summary.requested_max_tokens, summary.forwarded_max_tokens
    allowed = "no limit" if requested is None else str(requested)
    if forwarded != requested:
        allowed += f"->{forwarded}"
    natural = summary.requests - summary.cut
    cut = f"cut {summary.cut} (rule)" if summary.rule else f"cut {summary.cut}"
    return (
        summary.title,
        str(summary.requests),
        allowed,
        _figure(summary.generated_tokens, 1, 0),
        _figure(summary.ttft_s, 1e3, 0),
        _figure(summary.tpot_s, 1e3, 1),
        _figure(summary.e2e_s, 1, 2),
        ", ".join(filter(None, (cut if summary.cut else "", f"natural {natural}" if natural else ""))),
    )


def _figure(value: float | None, factor: float, digits: int) -> str:
    return "-" if value is None else f"{value * factor:.{digits}f}"


def _print_findings(same: Sequence[Summary]) -> None:
    """Say what the table shows about one prompt with different limits, as far as it does."""
    measured = [
        (summary.requested_max_tokens, summary.generated_tokens, summary.e2e_s, summary.cut)
        for summary in same
        if summary.generated_tokens is not None and summary.e2e_s is not None
    ]
    print("\nThe same prompt with different limits:")
    for limit, tokens, e2e_s, _ in measured:
        print(f"  max_tokens {limit:>5}: {tokens:.0f} tokens in {e2e_s:.2f} s")
    natural = [e2e_s for *_, e2e_s, cut in measured if not cut]
    cut_short = [e2e_s for *_, e2e_s, cut in measured if cut]
    if natural and cut_short and max(natural) <= 1.15 * min(natural) and max(cut_short) < min(natural):
        print("The limit that cut the answer shortened the wait; limits never reached did not.")


def _print_account(summaries: Sequence[Summary], sent: int, rows: int, failures: Sequence[str]) -> bool:
    """Say whether everything that was sent is accounted for; True when it is."""
    complete = sum(summary.complete for summary in summaries)
    print(f"\n{sent} requests sent, {rows} rows in the ledger, {complete} complete.")
    for failure in failures:
        print(f"failed: {failure}")
    good = rows == sent == complete and not failures
    if not good:
        print("These numbers should be equal and nothing should fail.")
    return good


def _print_next(folder: Path | None) -> None:
    print(
        """
The provider was simulated; lengths and paces are settings of `lengthwise simulate`.
With a real one:

    make serve ARGS="--upstream https://api.openai.com"

    from openai import OpenAI
    client = OpenAI(base_url="http://127.0.0.1:8080/v1")  # the one line that changes

Ledger:  lengthwise.sqlite, where serve was started
Metrics: http://127.0.0.1:9464/metrics    State: http://127.0.0.1:9464/status
Spans:   wherever OTEL_EXPORTER_OTLP_ENDPOINT points
Caps:    policies.yaml; `lengthwise check` says what is wrong with it"""
    )
    if folder is not None:
        print(f"This run's ledger, policies and logs: {folder}")
