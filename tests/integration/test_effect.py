"""`lengthwise effect` on ledgers as the recorder makes them."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.cli import main
from tests.support.ledgers import STARTED_AT, make_row, write_ledger


def ledger(path: Path, **changes: Any) -> Path:
    """An experiment of two hundred exchanges, a minute apart: the arm 512 is 40 ms sooner."""
    rows = [
        make_row(
            started_at=STARTED_AT + 60 * number,
            rule="chat-cap",
            arm=("512", "none")[number % 2],
            ttft_s=0.2 + 0.04 * (number % 2) + 0.001 * (number % 5),
            **changes,
        )
        for number in range(200)
    ]
    return write_ledger(path, rows)


def ended(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    code = main(["effect", *flags])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_an_experiment_is_read_from_the_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json -` is JSON alone; a file has the same beside the tables."""
    source = str(ledger(tmp_path / "l.sqlite"))
    code, out, err = ended(capsys, "--source", source, "--json", "-")
    assert (code, err) == (0, "")
    data = orjson.loads(out)
    assert {name: data[name] for name in ("schema", "exchanges", "since", "until")} == {
        "schema": 1,
        "exchanges": 200,
        "since": "2026-09-22T00:00:00+00:00",
        "until": "2026-09-22T03:19:00+00:00",
    }
    (group,) = data["groups"]
    assert list(group) == ["by", "unit", "estimand", "arms", "comparisons", "warnings"]
    assert group["by"] == {"rule": "chat-cap", "model": "gpt-4o", "upstream": "openai"}
    assert (group["unit"], group["estimand"], group["warnings"]) == ("request", "own", [])
    assert [list(arm) for arm in group["arms"]] == [
        ["arm", "n", "units", "cut_share", "lost_share", "output_tokens_mean", "ttft_p50_s", "tpot_s", "e2e_p50_s"]
    ] * 2
    ttft = group["comparisons"][0]
    assert (ttft["arm"], ttft["reference"], ttft["outcome"], ttft["verdict"], ttft["n"]) == (
        "512",
        "none",
        "ttft",
        "different",
        200,
    )
    assert ttft["difference_s"] == pytest.approx(-0.04, abs=0.001)
    assert ttft["ci95"][0] < -0.04 < ttft["ci95"][1]
    code, out, _ = ended(capsys, "--source", source, "--json", str(tmp_path / "f.json"))
    assert (code, orjson.loads((tmp_path / "f.json").read_bytes())) == (0, data)
    assert "TTFT  512" in out


def test_units_are_read_where_the_ledger_has_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Blocks are an experiment of their own; NULL, or a ledger without the column, is a request alone."""
    source = ledger(tmp_path / "l.sqlite")
    with contextlib.closing(sqlite3.connect(source)) as database, database:
        database.execute("UPDATE exchange SET arm_unit = 'block:' || (rowid % 40) WHERE rowid <= 100")
    found = []
    for _ in range(2):
        _, out, _ = ended(capsys, "--source", str(source), "--json", "-")
        found.append([(group["unit"], group["arms"][0]["n"]) for group in orjson.loads(out)["groups"]])
        with contextlib.closing(sqlite3.connect(source)) as database, database, contextlib.suppress(sqlite3.Error):
            database.execute("ALTER TABLE exchange DROP COLUMN arm_unit")
    assert found == [[("request", 50), ("switchback", 50)], [("request", 100)]]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rule", "other"], "nothing to compare: none of 200 exchanges belongs to an experiment of rule other"),
        (["--until", "2026-09-22T00:01"], "nothing to compare: no two arms"),
        (["--since", "2027-01-01"], "holds no exchange in this window of time"),
    ],
)
def test_nothing_to_compare_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    """Exit 1, and why."""
    code, _, err = ended(capsys, "--source", str(ledger(tmp_path / "l.sqlite")), *flags)
    assert code == 1
    assert words in err


def test_a_source_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Absent: exit 1, and nothing is made there. Of another schema: exit 2, naming both versions."""
    absent = tmp_path / "absent.sqlite"
    assert ended(capsys, "--source", str(absent))[0] == 1
    assert not absent.exists()
    source = ledger(tmp_path / "l.sqlite")
    with contextlib.closing(sqlite3.connect(source)) as database:
        database.execute("PRAGMA user_version = 7")
    code, _, err = ended(capsys, "--source", str(source))
    assert code == 2
    assert "version 7" in err
    assert "version 1" in err


def test_traffic_without_arms_gets_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Limits that somebody chose say nothing of what they cause."""
    source = write_ledger(
        tmp_path / "l.sqlite", [make_row(forwarded_max_tokens=64 << number % 5) for number in range(50)]
    )
    code, out, err = ended(capsys, "--source", str(source))
    assert (code, out) == (1, "")
    assert "none of 50 exchanges belongs to an experiment; one is a rule with experiment: {arms: [512, none]}" in err
