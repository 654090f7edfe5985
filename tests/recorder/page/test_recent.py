"""The last exchanges, one by one."""

from typing import Any

import pytest

from proxy.record import Decision, End, ExchangeRecord, RequestFacts, ResponseFacts
from proxy.recorder.ledger import row, rows_of
from proxy.recorder.page.recent import KEPT, SHOWN, Recent
from tests.support.ledgers import make_row
from tests.support.page_rows import page_rows
from tests.support.records import STARTED_UNIX_NS, TRACE_ID, make_record

FACTS = {
    "id": "lw_0123456789abcdef",
    "started_at": STARTED_UNIX_NS / 1e9,
    "model": "gpt-4o",
    "app": "search",
    "upstream": "openai",
    "dialect": "chat_completions",
    "stream": 1,
    "status": 200,
    "end": "complete",
    "error_type": None,
    "finish": "stop",
    "cut": 0,
    "requested_max_tokens": 512,
    "forwarded_max_tokens": 512,
    "input_tokens": 100,
    "output_tokens": 128,
    "usage_source": "provider",
    "ttft_s": 0.287,
    "tpot_s": 0.01,
    "e2e_s": 1.567,
    "overhead_s": 0.00075,
    "client_blocked_s": 0.0,
    "rule": None,
    "action": "none",
    "arm": None,
    "degraded": None,
    "trace_id": TRACE_ID,
}


def _taken(*records: ExchangeRecord) -> Recent:
    recent = Recent()
    recent.take(rows_of(records), records)
    return recent


def _all(recent: Recent) -> list[dict[str, Any]]:
    return recent.last(lambda _: True)


def test_an_exchange_is_shown_by_its_facts() -> None:
    """The ledger's, but for keys; nothing that could hold content."""
    recent = _taken(make_record())
    assert _all(recent) == [FACTS]
    assert "team-a" not in str(recent.one(FACTS["id"]))  # the name of its key


def test_an_exchange_that_was_seen_has_its_whole_timeline() -> None:
    """From the first byte of the request, in seconds."""
    assert _taken(make_record()).one("lw_0123456789abcdef") == FACTS | {
        "marks": [
            ["accepted", 0.0],
            ["request complete", 0.001],
            ["connecting", 0.00125],
            ["connected", 0.00275],
            ["sent", 0.003],
            ["headers", 0.2],
            ["first byte", 0.21],
            ["first token", 0.29],
            ["first answer token", 0.29],
            ["last token", 1.56],
            ["last byte", 1.57],
            ["end", 1.571],
        ],
        "checkpoints": [[64, 0.92], [128, 1.56]],
    }


def test_an_exchange_from_the_ledger_has_what_the_ledger_keeps() -> None:
    """From the moment at which its request was sent."""
    recent = Recent()
    recent.restore([row(make_record())])
    assert recent.one("lw_0123456789abcdef") == FACTS | {
        "marks": [
            ["sent", 0.0],
            ["first byte", 0.207],
            ["first token", 0.287],
            ["first answer token", 0.287],
            ["last token", 1.557],
            ["last byte", 1.567],
        ],
        "checkpoints": [[64, 0.917], [128, 1.557]],
    }


def test_an_exchange_that_reached_no_upstream_has_a_timeline_of_its_own() -> None:
    """What did not happen is not in it."""
    refused = make_record(
        end=End.REJECTED,
        status=400,
        request=RequestFacts("chat_completions"),
        decision=Decision(),
        response=ResponseFacts(),
        upstream_tried=False,
        connected_ns=None,
        connect_started_ns=None,
        request_sent_ns=None,
        headers_ns=None,
    )
    found = _taken(refused).one(refused.id)
    assert found is not None
    assert (found["marks"], found["checkpoints"]) == (
        [["accepted", 0.0], ["request complete", 0.001], ["end", 1.571]],
        [],
    )


def test_the_latest_come_first_and_so_many_are_kept() -> None:
    """A filter finds some of its own among the kept ones."""
    recent = _taken(*(make_record(id=f"lw_{n}", app=f"app-{n % 10}") for n in range(KEPT + 50)))
    assert [each["id"] for each in _all(recent)] == [f"lw_{n}" for n in range(KEPT + 49, KEPT + 49 - SHOWN, -1)]
    fifth = recent.last(lambda found: "app-5" in found)
    assert [each["id"] for each in fifth] == [f"lw_{n}" for n in range(KEPT + 45, 50, -10)]
    assert (recent.one("lw_49"), recent.one("lw_50") is not None) == (None, True)


def test_older_ones_come_behind_as_long_as_there_is_room() -> None:
    """What is read from the ledger never drives out what was seen."""
    recent = _taken(*(make_record(id=f"lw_new_{n}") for n in range(3)))
    recent.restore(page_rows(*(make_row(id=f"lw_old_{n}") for n in range(KEPT))))
    found = [each["id"] for each in _all(recent)]
    assert found[:5] == ["lw_new_2", "lw_new_1", "lw_new_0", "lw_old_0", "lw_old_1"]
    assert recent.one(f"lw_old_{KEPT - 4}") is not None
    assert recent.one(f"lw_old_{KEPT - 3}") is None


def test_an_exchange_without_a_row_is_left_out() -> None:
    """What no ledger can hold is not shown either."""
    recent = Recent()
    recent.take([None, row(make_record())], [make_record(id="lw_bad"), make_record()])
    assert [each["id"] for each in _all(recent)] == ["lw_0123456789abcdef"]


@pytest.mark.parametrize("name", ["x" * 100_000, "<script>alert(1)</script>"])
def test_names_are_shown_as_they_are_but_not_without_end(name: str) -> None:
    """They come from clients; who shows them escapes them."""
    found = _all(_taken(make_record(app=name)))[0]["app"]
    assert found == (name if len(name) <= 200 else "x" * 200 + "…")
