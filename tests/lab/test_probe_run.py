"""The probe as a user runs it: figures on stdout, talk on stderr, exit codes."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.lab.simulator import SimulatorOptions, make_app, serving

ROOT = Path(__file__).resolve().parents[2]
QUICK = SimulatorOptions(ttft_s=0.0, tpot_s=0.0, sigma=0.1)
SMALL = ["--model", "sim-small", "--limits", "16,64,4096", "--blocks", "4"]


async def start(*flags: str, stdin: int = asyncio.subprocess.DEVNULL, **environ: str) -> asyncio.subprocess.Process:
    """Run the command, by default without a terminal, with these variables and no credential of the machine's."""
    inherited = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proxy.cli",
        "probe",
        *flags,
        cwd=ROOT,
        env=inherited | {"COLUMNS": "200"} | environ,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(*flags: str, **environ: str) -> tuple[int | None, str, str]:
    """Exit code, stdout and stderr."""
    process = await start(*flags, **environ)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def figures(text: str) -> Any:
    """What the JSON says of each arm, as far as it does not depend on the clock."""
    data = orjson.loads(text)
    assert list(data) == ["schema", "arms", "comparisons"]
    compared = sorted((each["outcome"], each["arm"], each["reference"]) for each in data["comparisons"])
    return (
        data["schema"],
        [(each["max_tokens"], each["n"], each["cut_share"], each["case"]) for each in data["arms"]],
        compared,
    )


EXPECTED = (
    1,
    [(16, 4, 1.0, "A"), (64, 4, 1.0, "A"), (4096, 4, 0.0, "B")],
    [(outcome, arm, 4096) for outcome in ("e2e", "tpot", "ttft") for arm in (16, 64)],
)


async def test_figures_are_alone_on_stdout(tmp_path: Path) -> None:
    """`--json -` is JSON and nothing else; a file has the same; the budget was told before on stderr."""
    async with serving(make_app(QUICK)) as origin:
        code, out, err = await ended("--base-url", f"{origin}/v1", *SMALL, "--json", "-")
        assert (code, figures(out)) == (0, EXPECTED)
        code, shown, _ = await ended("--base-url", f"{origin}/v1", *SMALL, "--json", str(tmp_path / "f.json"))
    assert (code, figures((tmp_path / "f.json").read_text())) == (0, EXPECTED)
    assert "Budget, never exceeded: 18 requests" in err
    assert "4 blocks" in err
    for word in (
        "A, cut",
        "B, natural",
        "against 4,096",
        "max_tokens 16 cuts 100.0% of the answers (case A)",
        "Spent: 16",
    ):
        assert word in shown


async def test_the_picture_is_a_page(tmp_path: Path) -> None:
    """`--html` writes it beside the figures."""
    async with serving(make_app(QUICK)) as origin:
        code, _, _ = await ended("--base-url", f"{origin}/v1", *SMALL, "--html", str(tmp_path / "p.html"))
    assert code == 0
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")


async def test_a_credential_is_used_and_never_shown() -> None:
    """The right one is let in; a wrong one is refused, with the variable's name and without its value."""
    async with serving(make_app(SimulatorOptions(ttft_s=0, tpot_s=0, api_key="sk-right"))) as origin:
        flags = ["--base-url", f"{origin}/v1", *SMALL]
        assert (await ended(*flags, "--api-key-env", "MY_KEY", MY_KEY="sk-right"))[0] == 0
        wrong = await ended(*flags, OPENAI_API_KEY="sk-wrong-one")
        none = await ended(*flags)
    assert wrong[0] == none[0] == 1
    assert "status 401" in wrong[2]
    assert "OPENAI_API_KEY" in wrong[2]
    assert "sk-wrong-one" not in wrong[1] + wrong[2]
    assert "which is not set" in none[2]


@pytest.mark.parametrize(
    ("flags", "environ", "named"),
    [
        (["--api-key-env", "NO_SUCH"], {}, "--api-key-env: the variable NO_SUCH is not set"),
        ([], {"OPENAI_API_KEY": "a\nb"}, "the variable OPENAI_API_KEY holds what no header takes"),
        (["--prompt-file", "no-such-file"], {}, "--prompt-file"),
        (["--budget-requests", "6"], {}, "--budget-requests: 4 warm-up requests and one block need at least 7"),
        (["--budget-tokens", "10"], {}, "--budget-tokens: the first request may need"),
    ],
)
async def test_what_cannot_start_is_a_usage_error(flags: list[str], environ: dict[str, str], named: str) -> None:
    """Exit 2, before anything is asked."""
    async with serving(make_app(QUICK)) as origin:
        code, out, err = await ended("--base-url", f"{origin}/v1", *SMALL, *flags, **environ)
    assert (code, out) == (2, "")
    assert named in err


async def test_a_budget_that_ends_in_the_warm_up_is_told() -> None:
    """There is no answer to compare, which is no finding."""
    async with serving(make_app(QUICK)) as origin:
        code, out, err = await ended("--base-url", f"{origin}/v1", *SMALL, "--budget-tokens", "1000")
    assert (code, out) == (2, "")
    assert re.search(r"--budget-tokens: the warm-up cost \d+, and a block may need 4,\d+ more", err)


async def test_nobody_there_is_a_failure() -> None:
    """Exit 1, and whom it asked."""
    async with serving(make_app(QUICK)) as origin:
        pass
    code, out, err = await ended("--base-url", f"{origin}/v1", *SMALL, "--json", "-")
    assert (code, out) == (1, "")
    assert f"lengthwise: no answer from {origin}/v1" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interruption_keeps_what_was_answered(number: signal.Signals) -> None:
    """Exit 1, with the figures until then: fewer than were planned."""
    async with serving(make_app(SimulatorOptions(ttft_s=0.005, tpot_s=0.0))) as origin:
        flags = ["--base-url", f"{origin}/v1", *SMALL, "--blocks", "100000", "--json", "-"]
        process = await start(*flags)
        async with aiohttp.ClientSession() as http:
            while True:
                async with http.get(f"{origin}/sim/stats") as response:
                    if (await response.json())["requests"] > 40:
                        break
        process.send_signal(number)
        out, err = await process.communicate()
    assert process.returncode == 1
    assert "interrupted" in err.decode()
    arms = orjson.loads(out)["arms"]
    assert all(5 <= arm["n"] < 100_000 for arm in arms)


@pytest.mark.parametrize(("flag", "place"), [("--json", "none/f.json"), ("--html", "none/f.html"), ("--json", ".")])
async def test_a_place_that_cannot_be_written_costs_nothing(flag: str, place: str, tmp_path: Path) -> None:
    """Exit 2 with the name of the file, before a request is spent."""
    async with serving(make_app(QUICK)) as origin:
        code, out, err = await ended("--base-url", f"{origin}/v1", *SMALL, flag, str(tmp_path / place))
        async with aiohttp.ClientSession() as http, http.get(f"{origin}/sim/stats") as response:
            sent = (await response.json())["requests"]
    assert (code, out, sent) == (2, "", 0)
    assert err == f"lengthwise: {tmp_path / place} cannot be written; nothing was sent\n"


async def test_a_disk_that_fills_meanwhile_leaves_the_figures_on_the_terminal() -> None:
    """Exit 2, but what was paid for is seen."""
    async with serving(make_app(QUICK)) as origin:
        code, out, err = await ended("--base-url", f"{origin}/v1", *SMALL, "--json", "/dev/full")
    assert code == 2
    assert "Spent: 16 requests" in out
    assert "No space left on device" in err


@pytest.mark.parametrize(
    ("flags", "answer", "code", "requests"), [([], b"n\n", 1, 0), ([], b"y\n", 0, 16), (["--yes"], b"", 0, 16)]
)
async def test_somebody_at_a_terminal_is_asked_first(flags: list[str], answer: bytes, code: int, requests: int) -> None:
    """No is nothing sent; yes, or --yes, goes on."""
    terminal, stdin = os.openpty()
    try:
        os.write(terminal, answer)
        async with serving(make_app(QUICK)) as origin:
            process = await start("--base-url", f"{origin}/v1", *SMALL, *flags, stdin=stdin)
            _, err = await process.communicate()
            async with aiohttp.ClientSession() as http, http.get(f"{origin}/sim/stats") as response:
                sent = (await response.json())["requests"]
    finally:
        os.close(terminal)
        os.close(stdin)
    assert (process.returncode, sent) == (code, requests)
    assert (b"Go? [y/N]" in err) is (not flags)
