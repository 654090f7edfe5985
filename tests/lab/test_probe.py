"""The flags of the probe: what is accepted, and what is named when it is not."""

import argparse

import pytest

from proxy.lab import probe

LEAST = ["--base-url", "http://127.0.0.1:1/v1", "--model", "m", "--limits", "64,16"]


def parsed(*flags: str) -> argparse.Namespace:
    """The flags as the command reads them; a later one beats an earlier."""
    parser = argparse.ArgumentParser(prog="probe")
    probe.add_arguments(parser)
    return parser.parse_args([*LEAST, *flags])


def test_the_least_that_is_needed_has_sensible_company() -> None:
    """A URL, a model and limits, which are sorted."""
    given = vars(parsed("--base-url", "https://api.example.test/v1/"))
    assert given.pop("prompt")
    assert given == {
        "base_url": "https://api.example.test/v1",
        "model": "m",
        "limits": (16, 64),
        "prompt_file": None,
        "blocks": 30,
        "concurrency": 4,
        "cache": "bust",
        "budget_requests": None,
        "budget_tokens": None,
        "field": "auto",
        "api_key_env": None,
        "json": None,
        "html": None,
        "yes": False,
    }


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--limits", "64,x"], "--limits: expected whole numbers from 1 to 10,000,000 such as 64,256,1024, found 'x'"),
        (["--limits", "64,none"], "found 'none'"),
        (["--limits", "64,0"], "found '0'"),
        (["--limits", "64,-1"], "found '-1'"),
        (["--limits", "64,1.5"], "found '1.5'"),
        (["--limits", "64,²"], "found '²'"),
        (["--limits", "64,99999999999"], "found '99999999999'"),
        (["--limits", "64,"], "found ''"),
        (["--limits", "64"], "--limits: expected at least two different limits"),
        (["--limits", "64,16,64"], "--limits: a limit occurs twice"),
        (["--base-url", "api.openai.com/v1"], "--base-url: expected a URL such as https://api.openai.com/v1"),
        (["--base-url", "http://a:b/v1"], "--base-url: expected a URL"),
        (["--base-url", "http://a/v1?key=1"], "--base-url: expected a URL"),
        (["--blocks", "0"], "--blocks: expected a whole number of at least 1, found '0'"),
        (["--concurrency", "two"], "--concurrency"),
        (["--budget-tokens", "-5"], "--budget-tokens"),
        (["--cache", "cold"], "--cache"),
        (["--field", "max_output_tokens"], "--field"),
        (["--prompt", "a", "--prompt-file", "b"], "--prompt-file: not allowed with argument --prompt"),
    ],
)
def test_what_cannot_be_meant_is_named(capsys: pytest.CaptureFixture[str], flags: list[str], named: str) -> None:
    """Exit 2, the flag, and what was found."""
    with pytest.raises(SystemExit) as end:
        parsed(*flags)
    assert end.value.code == 2
    assert named in capsys.readouterr().err


def test_a_credential_in_the_address_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused, and said where it belongs."""
    with pytest.raises(SystemExit):
        parsed("--base-url", "https://user:sk-secret@api.example.test/v1")
    said = capsys.readouterr().err
    assert "--api-key-env" in said
    assert "sk-secret" not in said
