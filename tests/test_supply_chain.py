"""The audit fails where something is known against a package, and claims nothing where it could not ask."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import supply_chain

FOUND = {"id": "PYSEC-1", "fix_versions": ["2"]}


def tools(folder: Path, listed: dict[str, str], audited: list[dict[str, Any]] | None) -> Path:
    """Programs that answer as cyclonedx-py and pip-audit do; None is a pip-audit that fails."""
    parts = [{"name": name, "version": version} for name, version in listed.items()]
    answers = {
        "cyclonedx-py": {"components": parts},
        "pip-audit": None if audited is None else {"dependencies": audited},
    }
    for name, answer in answers.items():
        write = (
            "raise SystemExit('no network')"
            if answer is None
            else f"open(sys.argv[-1], 'w').write({json.dumps(answer)!r})"
        )
        (folder / name).write_text(f"#!{sys.executable}\nimport sys\n{write}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("audited", "code", "said"),
    [
        ([{"name": "aiohttp", "version": "1", "vulns": []}], 0, "1 packages asked for"),
        ([{"name": "aiohttp", "version": "1", "vulns": [FOUND]}], 1, "aiohttp 1: PYSEC-1, fixed in 2"),
        ([{"name": "aiohttp", "skip_reason": "not found"}], 0, "skipped for 1 of 1"),
        (None, 0, "skipped, no network"),
    ],
    ids=["nothing known", "something known", "nobody asked", "no network"],
)
def test_what_is_known_is_an_error_and_what_is_not_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    audited: list[dict[str, Any]] | None,
    code: int,
    said: str,
) -> None:
    """pip-audit alone reports none where the database could not be asked."""
    monkeypatch.setattr(supply_chain, "BILL", tmp_path / "bill.json")
    assert supply_chain.main(tools(tmp_path, supply_chain.locked(), audited)) == code
    assert said in capsys.readouterr().out


def test_a_bill_of_something_else_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lists what is locked, no less and no more."""
    monkeypatch.setattr(supply_chain, "BILL", tmp_path / "bill.json")
    assert supply_chain.main(tools(tmp_path, {"aiohttp": "1"}, [])) == 1
    assert "differ" in capsys.readouterr().out
