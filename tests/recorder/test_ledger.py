"""Whole rows, and a ledger that cannot be written."""

import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.policy.disarm import Answer, cut_by_rule
from proxy.policy.slack import Length
from proxy.record import Action, Decision, End, ExchangeRecord, RequestFacts, ResponseFacts, ShadowDecision
from proxy.recorder.ledger import COLUMNS, Ledger, LedgerError, recent_lengths, row, rows_of
from tests.support.records import STARTED_UNIX_NS, TRACE_ID, make_record

ROW = {
    "id": "lw_0123456789abcdef",
    "started_at": STARTED_UNIX_NS / 1e9,
    "upstream": "openai",
    "provider": "openai",
    "dialect": "chat_completions",
    "model": "gpt-4o",
    "response_model": "gpt-4o-2024-08-06",
    "app": "search",
    "key_name": "team-a",
    "stream": 1,
    "status": 200,
    "end": "complete",
    "finish": "stop",
    "cut": 0,
    "requested_max_tokens": 512,
    "forwarded_max_tokens": 512,
    "limit_field": "max_tokens",
    "rule": None,
    "action": "none",
    "arm": None,
    "shadow": None,
    "choices": 1,
    "input_tokens": 100,
    "cached_input_tokens": 64,
    "output_tokens": 128,
    "reasoning_tokens": 0,
    "decoded_tokens": 128,
    "usage_source": "provider",
    "ttfc_s": 0.207,
    "ttft_s": 0.287,
    "ttfa_s": 0.287,
    "last_token_s": 1.557,
    "e2e_s": 1.567,
    "tpot_s": 0.01,
    "checkpoints": "[[64,0.917],[128,1.557]]",
    "client_blocked_s": 0.0,
    "overhead_s": 0.00075,
    "degraded": None,
    "error_type": None,
    "trace_id": TRACE_ID,
    "arm_unit": None,
}
NOTHING = {
    name: None
    for name in ROW
    if name in {"finish", "cut", "response_model", "checkpoints", "decoded_tokens"}
    or (name.endswith(("_s", "_tokens")) and name not in {"client_blocked_s", "requested_max_tokens"})
}


def write(ledger: Ledger, records: list[ExchangeRecord]) -> bool:
    """Commit the rows of records."""
    return ledger.write(rows_of(records))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a ledger may be."""
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    """A new ledger."""
    ledger = Ledger(path)
    yield ledger
    ledger.close()


def _rows(path: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as connection:
        cursor = connection.execute("SELECT * FROM exchange ORDER BY rowid")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, values, strict=True)) for values in cursor]


def test_a_streamed_chat_is_this_row(ledger: Ledger, path: Path) -> None:
    """Every column, in the contract's order, read back by another connection while the ledger is open."""
    assert write(ledger, [make_record()])
    assert [list(found.items()) for found in _rows(path)] == [list(ROW.items())]
    assert (ledger.written, ledger.failed, ledger.error) == (1, 0, None)


def test_a_rejected_request_is_a_row_of_unknowns(ledger: Ledger, path: Path) -> None:
    """What was not measured is NULL, not zero."""
    record = make_record(
        upstream_tried=False,
        end=End.REJECTED,
        status=400,
        error_type="policy_rejected",
        decision=Decision(Action.REJECTED, "no-novels", shadow=(ShadowDecision("s", Action.CAPPED, 64),)),
        response=ResponseFacts(),
        streamed=False,
        usage_source="none",
        degraded="body_unreadable",
        request_sent_ns=None,
        first_write_ns=None,
    )
    write(ledger, [record])
    assert _rows(path) == [
        ROW
        | NOTHING
        | {
            "stream": 0,
            "status": 400,
            "end": "rejected",
            "forwarded_max_tokens": None,
            "rule": "no-novels",
            "action": "rejected",
            "shadow": '[{"rule":"s","action":"capped","forwarded":64}]',
            "usage_source": "none",
            "degraded": "body_unreadable",
            "error_type": "policy_rejected",
        }
    ]


@pytest.mark.parametrize(
    ("reasons", "finish", "cut"),
    [
        ((), None, None),
        (("stop",), "stop", 0),
        (("length",), "length", 1),
        (("stop", "length"), "stop", 1),
        (("function_call",), "tool_calls", 0),
        (("content_filter",), "content_filter", 0),
        (("eos",), "other", 0),
    ],
)
def test_finish_is_the_first_choices_word_and_cut_is_any(
    reasons: tuple[str, ...], finish: str | None, cut: int | None
) -> None:
    """Five words; a later choice that was cut shows in `cut`."""
    values = dict(zip(COLUMNS, row(make_record(response={"finish_reasons": reasons})), strict=True))
    assert (values["finish"], values["cut"]) == (finish, cut)


def test_a_number_that_sqlite_cannot_hold_is_unknown() -> None:
    """A limit beyond int64 is NULL, and costs no row."""
    record = make_record(request={"limits": (("max_tokens", 2**63),)})
    assert dict(zip(COLUMNS, row(record), strict=True)) == ROW | {"requested_max_tokens": None}


def test_a_record_that_is_no_row_costs_only_itself(ledger: Ledger, path: Path) -> None:
    """One poisoned record among good ones, and one that is there already."""
    poisoned = make_record(id="lw_2", app={"not": "text"})
    unusable = make_record(id="lw_3", ended_ns=None, request={"limits": "x"})
    write(ledger, [make_record(id="lw_1"), poisoned, unusable, make_record(id="lw_1"), make_record(id="lw_4")])
    assert [found["id"] for found in _rows(path)] == ["lw_1", "lw_4"]
    assert (ledger.written, ledger.failed) == (2, 3)


def test_only_its_owner_reads_a_new_ledger(ledger: Ledger, path: Path) -> None:
    """The file and its write-ahead log have mode 0600."""
    write(ledger, [make_record()])
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {path.name: 0o600, path.name + "-wal": 0o600, path.name + "-shm": 0o600}


def test_a_ledger_is_continued(path: Path) -> None:
    """Schema version 1, WAL, an index on started_at; a second start adds rows."""
    for number in (1, 2):
        ledger = Ledger(path)
        write(ledger, [make_record(id=f"lw_{number}")])
        ledger.close()
    with closing(sqlite3.connect(path)) as connection:
        pragmas = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "journal_mode")]
        plan = str(connection.execute("EXPLAIN QUERY PLAN SELECT * FROM exchange WHERE started_at < 1").fetchall())
    assert pragmas == [1, "wal"]
    assert "exchange_started_at" in plan
    assert [found["id"] for found in _rows(path)] == ["lw_1", "lw_2"]


def test_a_ledger_without_the_newer_columns_gets_them(path: Path) -> None:
    """Columns are added at the end; rows that are there have nothing in them."""
    ledger = Ledger(path)
    write(ledger, [make_record(id="lw_1")])
    ledger.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE exchange DROP COLUMN arm_unit")
        connection.commit()
    ledger = Ledger(path)
    write(ledger, [make_record(id="lw_2", decision={"arm": "512", "unit": "block:7"})])
    ledger.close()
    assert [(found["id"], found["arm"], found["arm_unit"]) for found in _rows(path)] == [
        ("lw_1", None, None),
        ("lw_2", "512", "block:7"),
    ]


def test_the_last_answers_of_a_rule_are_read_back_as_they_were_counted(ledger: Ledger) -> None:
    """Decided by it or in its shadow, oldest first, not before it was as it is, and no other rule's."""
    usage = make_record().response.usage
    records = [
        make_record(id=f"lw_{number}", started_unix_ns=STARTED_UNIX_NS + number * 10**9, **changes)
        for number, changes in enumerate(
            [
                {"decision": {"rule": "cap"}},
                {"decision": {"rule": "cap-2"}},
                {
                    "decision": {"rule": "cap", "action": Action.CAPPED, "forwarded_max_tokens": 100},
                    "response": {"finish_reasons": ("length",)},
                },
                {"decision": {"shadow": (ShadowDecision("cap", Action.CAPPED, 64),)}},
                {"decision": {"shadow": (ShadowDecision("cap-2", Action.CAPPED, 64),)}},
                {"decision": {"rule": "cap"}, "status": 429},
                {"decision": {"rule": "cap"}, "end": End.BROKEN, "response": {"usage": usage, "finish_reasons": ()}},
            ]
        )
    ]
    write(ledger, records)
    expected = [Answer.of(records[number]) for number in (2, 3, 6)]
    assert ledger.answers("cap", STARTED_UNIX_NS / 1e9 + 1, 10) == expected
    assert ledger.answers("cap", 0.0, 2) == expected[1:]
    assert [cut_by_rule(answer, "cap") for answer in ledger.answers("cap", 0.0, 10)] == [False, True, True, None]
    ledger.close()
    assert ledger.answers("cap", 0.0, 10) == []


def test_recent_lengths_are_read_beside_the_writer(ledger: Ledger, path: Path) -> None:
    """Of whole answers whose tokens are known, latest first; no ledger has none, and none is made."""
    later = STARTED_UNIX_NS + 10**9
    write(
        ledger,
        [
            make_record(id="lw_1"),
            make_record(id="lw_2", end=End.BROKEN),
            make_record(id="lw_3", status=500),
            make_record(id="lw_4", response={"usage": None}, usage_source="none"),
            make_record(id="lw_5", started_unix_ns=later, app=None),
        ],
    )
    assert recent_lengths(path) == [
        Length("openai", "chat_completions", "gpt-4o", app, 128) for app in (None, "search")
    ]
    missing = path.parent / "missing.sqlite"
    assert (recent_lengths(missing), missing.exists()) == ([], False)


def test_a_ledger_of_another_version_is_refused_untouched(path: Path) -> None:
    """An old Lengthwise does not write into a newer one's file."""
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="schema is version 2, this Lengthwise writes version 1"):
        Ledger(path)
    assert path.read_bytes() == before


def test_another_applications_database_is_refused(path: Path) -> None:
    """Version 0 with tables is not ours."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(LedgerError, match="version 0"):
        Ledger(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """Its bytes stay."""
    path.write_text("a shopping list, much longer than any header of a database would be" * 10)
    with pytest.raises(LedgerError, match="file is not a database"):
        Ledger(path)


def test_a_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    """The system's reason, once."""
    with pytest.raises(LedgerError, match="No such file or directory"):
        Ledger(tmp_path / "missing" / "ledger.sqlite")


def test_two_recorders_write_side_by_side(path: Path) -> None:
    """While one supervisor succeeds another: each row of both is there, and each counts its own."""

    def write_some(number: int) -> tuple[int, int]:
        ledger = Ledger(path)
        for batch in range(100):
            write(ledger, [make_record(id=f"lw_{number}_{batch}_{row}") for row in range(20)])
        ledger.close()
        return ledger.written, ledger.failed

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write_some, range(2))) == [(2000, 0)] * 2
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM exchange").fetchone() == (4000,)


def test_a_new_file_that_another_recorder_begins_too_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite does not wait for the lock that a change of the journal needs; a recorder without a ledger keeps nothing."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("proxy.recorder.ledger.time.sleep", lambda _: other.execute("COMMIT"))
        ledger = Ledger(path)
    assert write(ledger, [make_record()])
    ledger.close()


def test_columns_of_a_later_version_are_no_hindrance(ledger: Ledger, path: Path) -> None:
    """A successor may add some while its predecessor still writes, and be taken back afterwards."""
    with closing(sqlite3.connect(path, isolation_level=None)) as later:
        later.execute("ALTER TABLE exchange ADD COLUMN later TEXT")
    assert write(ledger, [make_record(id="lw_1")])
    again = Ledger(path)
    assert write(again, [make_record(id="lw_2")])
    again.close()


def test_a_locked_ledger_counts_its_rows_and_goes_on(ledger: Ledger, path: Path) -> None:
    """Another writer costs rows while it holds the lock, and no more."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not write(ledger, [make_record(id="lw_1"), make_record(id="lw_2")])
        assert (ledger.written, ledger.failed, ledger.error) == (0, 2, "database is locked")
        other.execute("ROLLBACK")
    assert write(ledger, [make_record(id="lw_3")])
    assert (ledger.written, ledger.failed, ledger.error) == (1, 2, None)


def test_a_full_disk_counts_its_rows_and_goes_on(ledger: Ledger) -> None:
    """SQLite's own limit stands for the disk's."""
    connection = ledger._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    records = [make_record(id=f"lw_{number}") for number in range(200)]
    assert not write(ledger, records)
    assert (ledger.written, ledger.failed, ledger.error) == (0, 200, "database or disk is full")
    connection.execute("PRAGMA max_page_count = 1000000")
    assert write(ledger, records)
    assert (ledger.written, ledger.failed) == (200, 200)


def test_old_rows_are_forgotten_in_slices(ledger: Ledger, path: Path) -> None:
    """At most 2000 rows at once; what is younger stays."""

    def aged(number: int, days: int) -> ExchangeRecord:
        return make_record(id=f"lw_{number}", started_unix_ns=STARTED_UNIX_NS - days * 86_400 * 10**9)

    write(ledger, [aged(number, 31) for number in range(2500)] + [aged(5000, 29), aged(5001, 0)])
    oldest_unix_s = STARTED_UNIX_NS / 1e9 - 30 * 86_400
    assert [ledger.forget(oldest_unix_s), len(_rows(path))] == [True, 502]
    assert ledger.forget(oldest_unix_s) is False
    assert [found["id"] for found in _rows(path)] == ["lw_5000", "lw_5001"]


def test_an_opaque_exchange_is_a_row_too(ledger: Ledger, path: Path) -> None:
    """Its dialect says so; nothing else is claimed."""
    write(ledger, [make_record(request=RequestFacts("opaque"), decision=Decision(), response=ResponseFacts())])
    (found,) = _rows(path)
    assert (found["dialect"], found["model"], found["action"], found["requested_max_tokens"]) == (
        "opaque",
        None,
        "none",
        None,
    )


def test_what_was_there_before_is_read_from_the_latest_on(path: Path) -> None:
    """In slices, with the moment at which each exchange ended; what is written meanwhile is not among it."""
    earlier = Ledger(path)
    started_ns = [STARTED_UNIX_NS + number // 2 * 1_000_000_000 for number in range(4500)]
    write(earlier, [make_record(id=f"lw_{n}", started_unix_ns=at_ns) for n, at_ns in enumerate(started_ns)])
    earlier.close()
    ledger = Ledger(path)
    write(ledger, [make_record(id="lw_new", started_unix_ns=STARTED_UNIX_NS)])
    slices = list(ledger.before(0.0, 100_000))
    assert [len(rows) for rows in slices] == [2000, 2000, 500]
    found = [row for rows in slices for row in rows]
    assert [row[0] for _, row in found] == [f"lw_{n}" for n in range(4499, -1, -1)]
    assert found[0] == (started_ns[-1] / 1e9 + 1.567, row(make_record(id="lw_4499", started_unix_ns=started_ns[-1])))
    assert [len(rows) for rows in ledger.before(started_ns[4000] / 1e9, 100_000)] == [500]
    assert [len(rows) for rows in ledger.before(0.0, 2100)] == [2000, 100]
    ledger.close()


def test_a_ledger_of_somebody_elses_rows_is_read_as_far_as_it_goes(path: Path) -> None:
    """A start that is no time ends the reading, and nothing else."""
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            'INSERT INTO exchange (id, started_at, dialect, stream, "end", action, usage_source, trace_id, e2e_s) '
            "VALUES ('a', 1790000000, 'opaque', 0, 'complete', 'none', 'none', 'x', 'soon')"
        )
    ledger = Ledger(path)
    assert list(ledger.before(0.0, 10)) == []
    ledger.close()
