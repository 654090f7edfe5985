"""The account of the demo; what it shows is tested as a whole in `test_demo`."""

import sys
from pathlib import Path

import pytest

from proxy.lab import demo_run
from proxy.lab.traffic import Summary


def summary(complete: int) -> Summary:
    """The summary of two requests, of which so many were complete."""
    return Summary("x", "m", 2, complete, 8, 8, 5.0, 0.1, 0.01, 1.0, 0, None)


@pytest.mark.parametrize(
    ("complete", "wanted", "rows", "failures", "good"),
    [
        (2, 98, 98, [], True),
        (2, 98, 97, [], False),
        (2, 98, 99, [], False),
        (1, 98, 98, [], False),
        (2, 98, 98, ["x: status 500"], False),
    ],
)
def test_the_account_is_good_only_when_everything_agrees(
    complete: int, wanted: int, rows: int, failures: list[str], good: bool
) -> None:
    """Two requests and the probe's 96: a missing or doubled row, an incomplete exchange or a failure ends the demo with 1."""
    assert demo_run._accounted([summary(complete)], wanted, rows, failures) is good


@pytest.mark.parametrize(
    ("called", "command"),
    [
        ("bin/lengthwise", "bin/lengthwise"),
        ("{elsewhere}/lengthwise", "{elsewhere}/lengthwise"),
        ("proxy/cli.py", f"{sys.executable} -m proxy"),
    ],
)
def test_the_next_command_is_one_that_works_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str, command: str
) -> None:
    """As this one was called: from a folder below, from elsewhere, or as a module."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    place = Path(called.format(elsewhere=elsewhere))
    monkeypatch.setattr(sys, "argv", [str(place if place.is_absolute() else here / place)])
    assert demo_run._command() == command.format(elsewhere=elsewhere)
