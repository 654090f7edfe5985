"""Our commands as children: how they start, what is said when they do not, and that they are gone afterwards."""

from pathlib import Path

import aiohttp
import pytest

from proxy.lab.children import ChildError, child, log_tails, ready

SIMULATE = ["simulate", "--listen", "127.0.0.1:0"]


def running_in(folder: Path) -> list[str]:
    """Processes that work there."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink() == folder:
                found.append(link.parent.name)
        except OSError:
            continue
    return found


def environ_of(pid: str) -> bytes:
    """The variables with which a process was started."""
    return Path("/proc", pid, "environ").read_bytes()


async def test_a_child_runs_while_the_block_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address is handed over, it answers there, and nothing of it is left; the user's settings do not reach it."""
    monkeypatch.setenv("LENGTHWISE_LISTEN", "nonsense")
    async with child(tmp_path, SIMULATE, ["simulated provider on"]) as (base_url,):
        async with aiohttp.ClientSession() as http, http.get(f"{base_url}/models") as response:
            assert response.status == 200
        (pid,) = running_in(tmp_path)
        assert b"LENGTHWISE_LISTEN" not in environ_of(pid)
    assert running_in(tmp_path) == []


async def test_a_child_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    """A wrong flag: the command's name and what it said."""
    with pytest.raises(ChildError, match=r"(?s)`lengthwise simulate` did not start.*--nonsense"):
        async with child(tmp_path, [*SIMULATE, "--nonsense"], ["simulated provider on"]):
            pass
    assert running_in(tmp_path) == []


async def test_a_child_goes_with_an_error_in_the_block(tmp_path: Path) -> None:
    """Whatever happens, it is ended."""
    with pytest.raises(ZeroDivisionError):
        async with child(tmp_path, SIMULATE, ["simulated provider on"]):
            raise ZeroDivisionError
    assert running_in(tmp_path) == []


async def test_a_ready_admin_is_awaited(tmp_path: Path) -> None:
    """The served product gets ready; `ready` returns."""
    flags = [
        "serve",
        "--upstream",
        "http://127.0.0.1:9",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--ledger",
        "none",
    ]
    async with child(tmp_path, flags, ["listening on", "admin on"]) as (_, admin_url):
        await ready(admin_url, tmp_path)
    assert running_in(tmp_path) == []


def test_the_tail_of_every_log_is_shown(tmp_path: Path) -> None:
    """The last lines of those that have any, by name."""
    assert log_tails(tmp_path) == ""
    (tmp_path / "b.log").write_text("".join(f"{number}\n" for number in range(20)))
    (tmp_path / "a.log").write_text("")
    assert log_tails(tmp_path).splitlines() == ["", "--- b.log", *map(str, range(5, 20))]
