"""The `lengthwise` command: what it prints, and the exit codes that scripts rely on."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from proxy import __version__
from proxy.cli import main
from proxy.lab.simulator import SimulatorOptions, make_app
from proxy.lab.simulator import serving as simulating
from tests.support.serve import ROOT, Served

BROKEN_SETTINGS = """\
listen: 8080
upstreams:
  - {name: a, url: ftp://a}
timeouts: {idle_s: 0}
polices: policies.yaml
policies: rules.yaml
"""
BROKEN_POLICIES = """\
version: 1
rules:
  - {name: a, do: cap, max_tokens: -1}
  - {name: a, do: observe}
"""
REPORT = """\
error: listen: expected host:port such as 127.0.0.1:8080 or [::1]:8080, got a whole number
error: upstreams[0].url: expected an http or https URL such as https://api.openai.com
error: timeouts.idle_s: expected a number greater than 0 or null
error: polices: unknown key; did you mean "policies"?
error: rules.yaml: rules[0].max_tokens: expected a whole number of at least 1 or null, got -1
error: rules.yaml: rules[1].name: rules[0] has this name already
lengthwise: 6 mistakes in the configuration
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty current directory, without settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("OTEL_", "LENGTHWISE_"))]:
        monkeypatch.delenv(name)
    return tmp_path


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    try:
        code: Any = main(arguments)
    except SystemExit as end:  # argparse leaves so
        code = end.code
    said = capsys.readouterr()
    return code, said.out, said.err


@contextlib.contextmanager
def running(folder: Path, *arguments: str, env: Mapping[str, str]) -> Iterator[Served]:
    """`lengthwise serve` with these arguments, until the block ends; it must leave with exit code 0."""
    with (folder / "stderr.txt").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with process:
        try:
            assert process.stdout is not None
            addresses = [process.stdout.readline().split()[-1] for _ in range(2)]
            yield Served(addresses[0], addresses[1], None, process, folder)
        finally:
            process.terminate()
            code = process.wait(60)
    assert code == 0


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["serve"],
        ["check"],
        ["status"],
        ["fetch-encodings"],
        ["demo"],
        ["simulate"],
        ["report"],
        ["effect"],
        ["advise"],
        ["probe"],
    ],
)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    """`--help` is a success, on stdout, and starts with how to call it."""
    code, out, err = ended(capsys, *command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(" ".join(["usage: lengthwise", *command]))


def test_the_general_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with a few words."""
    _, out, _ = ended(capsys, "--help")
    for command in (
        "serve",
        "check",
        "status",
        "fetch-encodings",
        "report",
        "effect",
        "advise",
        "probe",
        "demo",
        "simulate",
    ):
        assert re.search(rf"\n    {command}\s+\w", out)


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    """One version, in one place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert ended(capsys, "--version") == (0, f"lengthwise {__version__}\n", "")
    assert project["version"] == __version__


def test_the_module_is_the_command() -> None:
    """`python -m proxy` runs what the distribution installs as `lengthwise`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"lengthwise": "proxy.cli:main"}
    for arguments in (["--help"], ["--version"], ["check", "--config", "missing.yaml"]):
        said = [
            subprocess.run(
                [sys.executable, *start, *arguments],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                check=False,
            )
            for start in (["-m", "proxy"], ["-c", "import sys; from proxy.cli import main; sys.exit(main())"])
        ]
        first, second = [(each.returncode, each.stdout, each.stderr) for each in said]
        assert first == second


@pytest.mark.parametrize(
    "arguments",
    [[], ["sing"], ["--verbose"], ["serve", "--polices", "a"], ["check", "--listne", "a:1"], ["serve", "a"]],
)
def test_a_wrong_call_is_a_usage_error(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Exit code 2, and how it is called on stderr."""
    code, out, err = ended(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: lengthwise")


@pytest.mark.parametrize("command", ["check", "serve"])
def test_every_mistake_is_reported_at_once(capsys: pytest.CaptureFixture[str], folder: Path, command: str) -> None:
    """Settings and policies, each mistake at its key path; serve says the same as check, and starts nothing."""
    (folder / "broken.yaml").write_text(BROKEN_SETTINGS)
    (folder / "rules.yaml").write_text(BROKEN_POLICIES)
    assert ended(capsys, command, "--config", "broken.yaml") == (2, "", REPORT)


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_file_that_is_not_there_is_a_mistake(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """A file named explicitly must exist."""
    report = (
        "error: missing.yaml: cannot be read: No such file or directory\nlengthwise: 1 mistake in the configuration\n"
    )
    assert ended(capsys, command, "--config", "missing.yaml") == (2, "", report)


def test_a_mistake_in_a_flag_is_reported_at_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """Not at the key that it replaces."""
    code, out, err = ended(capsys, "serve", "--workers", "many", "--upstream", "api.openai.com")
    assert (code, out) == (2, "")
    assert [line.split(": ")[:2] for line in err.splitlines()[:-1]] == [["error", "--upstream"], ["error", "--workers"]]


@pytest.mark.parametrize(
    "file",
    ["config/lengthwise.yaml", *sorted(map(str, (ROOT / "config" / "examples").glob("*.yaml")))],
)
def test_the_shown_configurations_are_sound(capsys: pytest.CaptureFixture[str], file: str) -> None:
    """No mistake, no warning, and a summary."""
    code, out, err = ended(capsys, "check", "--config", str(ROOT / file))
    assert (code, err) == (0, "")
    assert out.startswith("ok: ")


def test_check_sums_up_what_it_read(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """The default files of the current folder; warnings go to stderr and are no failure."""
    assert ended(capsys, "check") == (0, "ok: 1 upstream(s), 0 rule(s)\n", "")
    (folder / "lengthwise.yaml").write_text(
        "upstreams: [{name: a, url: 'http://a/v1'}, {name: b, url: 'http://b', prefix: /b}]"
    )
    (folder / "policies.yaml").write_text("version: 1\nrules: [{name: r, do: cap, max_tokens: 5}]")
    code, out, err = ended(capsys, "check")
    assert (code, out) == (0, "ok: 2 upstream(s), 1 rule(s)\n")
    assert err.startswith("warning: upstreams[0].url: ends in /v1")
    assert err.count("\n") == 1


def test_check_explains_what_would_be_done(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """The rule that decides and what would be sent; exit 1 when the request would be refused, 2 when there is none."""
    (folder / "policies.yaml").write_text(
        "version: 1\nrules:\n"
        "- {name: team, match: {header: {x-team: a}}, do: cap, max_tokens: 5, experiment: {arms: [3, 3000]}}\n"
        "- {name: no-novels, match: {requested: {over: 100}}, do: reject}\n"
    )
    (folder / "r.json").write_text('{"model": "m", "max_tokens": 500}')
    explain = ("check", "--explain", "r.json")
    code, out, err = ended(capsys, *explain)
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        "ok: 1 upstream(s), 2 rule(s)",
        "request  POST /v1/chat/completions, upstream openai, dialect chat_completions",
        "         model m, not streamed, max_tokens 500",
        "rule     team       enforce  does not match: header",
        "rule     no-novels  enforce  decides: rejected",
        (
            "refused  400 policy_rejected: The policy rule 'no-novels' allows at most 100 tokens, this request asks for 500. "
            "Send max_tokens of at most 100."
        ),
    ]
    code, out, _ = ended(capsys, *explain, "--header", "X-Team: a", "--path", "/v1/responses")
    assert code == 0
    assert out.splitlines()[1] == "request  POST /v1/responses, upstream openai, dialect responses"
    assert out.splitlines()[-2].startswith("arm      3")
    assert out.splitlines()[-1] in {"sent     max_tokens: 500 -> 16", "sent     max_tokens: 500 -> 5"}
    for wrong in (("--header", "x-team"), ("--path", "v1"), ("--explain", "missing.json")):
        code, _, err = ended(capsys, *explain, *wrong)
        assert (code, wrong[0] in err) == (2, True)
    (folder / "policies.yaml").write_text("version: 1\nrules: []\n")
    (folder / "r.json").write_text('{"max_tokens": 500, "max_tokens": 5}')
    code, out, _ = ended(capsys, *explain)
    assert code == 0
    assert out.splitlines()[2:] == [
        "         no model, not streamed, max_tokens 500",
        "         not sure to be read alike everywhere: limit_twice (max_tokens)",
        "sent     as it came",
    ]


async def test_flags_beat_variables_which_beat_the_file(folder: Path) -> None:
    """Through `serve`: the upstream that answers, the ledger that is not there, the workers that are counted."""
    (folder / "lengthwise.yaml").write_text(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nworkers: 3\nupstreams: [{name: file, url: 'http://127.0.0.1:1'}]\n"
    )
    env = {
        "LENGTHWISE_WORKERS": "1",
        "LENGTHWISE_UPSTREAMS__0__URL": "http://127.0.0.1:2",
        "LENGTHWISE_APP_HEADER": "x-a",
    }
    async with simulating(make_app(SimulatorOptions())) as url, ClientSession() as session:
        with running(folder, "--upstream", url, "--ledger", "none", "--workers", "2", env=env) as served:
            async with session.get(f"{served.base_url}/models") as answer:
                assert answer.status == 200
            async with session.get(f"{served.admin_url}/readyz") as answer:
                assert (await answer.json())["workers"] == 2
            async with session.get(f"{served.admin_url}/status") as answer:
                assert (await answer.json())["ledger"] is None
    assert not (folder / "lengthwise.sqlite").exists()


def test_an_interrupt_before_anything_runs_says_nothing(folder: Path) -> None:
    """Ctrl-C while the settings are read: the shell's code for it, no traceback."""
    os.mkfifo(folder / "slow.yaml")
    with (
        subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", "--config", "slow.yaml"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
        (folder / "slow.yaml").open("wb"),  # opens as soon as the command reads it
    ):
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)
    assert (process.returncode, *said) == (130, b"", b"")


def test_fetching_encodings_without_a_network_fails_and_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Exit 1, one sentence, no file."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, nobody)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for arguments in ([], ["--dir", str(folder / "vocabularies")]):
        code, out, err = ended(capsys, "fetch-encodings", *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("lengthwise: o200k_base could not be fetched into ")
    assert list(folder.iterdir()) == []
