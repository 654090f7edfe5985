"""Rows as columns."""

import math

import pytest

from proxy.recorder.page.columns import Columns, Decided, Group, Kind, Words, kind_of
from tests.support.ledgers import make_row
from tests.support.page_rows import columns_of, page_rows

COMPLETE = Kind(
    end="complete",
    fault=None,
    complete=True,
    case="ended",
    cut=False,
    action="none",
    whole=True,
    single=True,
    judged=True,
    stream=True,
)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("complete", 200, "stop", 0, "none", 1, "messages", 1), COMPLETE),
        (("complete", 200, "length", 1, "none", 1, "messages", 1), COMPLETE._replace(case="cut", cut=True)),
        (("complete", 200, "stop", 1, "none", 2, "messages", 1), COMPLETE._replace(case="cut", cut=True, whole=False, single=False)),
        (("complete", 200, "content_filter", 0, "none", None, "opaque", 0), COMPLETE._replace(case="unknown", whole=False, judged=False, stream=False)),
        (("complete", 404, None, None, "none", 1, "messages", 0), COMPLETE._replace(fault="client", complete=False, case="unknown", stream=False)),
        (("complete", 429, None, None, "none", 1, "messages", 0), COMPLETE._replace(fault="upstream", complete=False, case="unknown", stream=False)),
        (("complete", 500, None, None, "none", 1, "messages", 0), COMPLETE._replace(fault="upstream", complete=False, case="unknown", stream=False)),
    ],
)  # fmt: skip
def test_a_kind_is_what_the_evidence_makes_of_the_words(words: tuple[object, ...], expected: Kind) -> None:
    """Cases are the report's; whose fault it was follows from the end and the status."""
    assert kind_of(*words) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("end", "fault"),
    [
        ("rejected", "client"),
        ("shed", "proxy"),
        ("aborted", "proxy"),
        ("broken", "upstream"),
        ("upstream_error", "upstream"),
        ("timeout", "upstream"),
        ("client_disconnect", None),
    ],
)
def test_every_end_has_somebody_at_fault_but_a_client_that_leaves(end: str, fault: str | None) -> None:
    """Also when a 2xx status had been sent before."""
    assert kind_of(end, 200, None, None, "none", 1, "messages", 1).fault == fault


def test_unknown_numbers_are_not_noughts() -> None:
    """NaN stands for NULL, 0 for 0."""
    columns, words = columns_of(
        page_rows(make_row(output_tokens=None, client_blocked_s=0.0), make_row(output_tokens=0))
    )
    assert math.isnan(columns["output_tokens"][0])
    assert (columns["output_tokens"][1], list(columns["client_blocked_s"])) == (0.0, [0.0, 0.0])
    assert [words.kinds[number].case for number in columns.kinds] == ["ended", "ended"]


def test_decisions_have_rule_action_and_mode() -> None:
    """What enforced and what was tried, each shadow rule on its own."""
    shadow = '[{"rule":"a","action":"capped","forwarded":64},{"rule":"b","action":"none","forwarded":null}]'
    rows = page_rows(
        make_row(rule="cap", action="capped"), make_row(shadow=shadow), make_row(shadow=shadow), make_row()
    )
    columns, _ = columns_of(rows)
    tried = (Decided("a", "capped", "shadow"), Decided("b", "none", "shadow"))
    assert columns.decided == [(Decided("cap", "capped", "enforce"),), tried, tried, ()]


def test_what_is_no_row_is_not_taken_in_part() -> None:
    """The columns stay as long as each other."""
    columns, words = columns_of(page_rows(make_row()))
    for change in ({"e2e_s": "soon"}, {"status": "fine"}, {"shadow": "{"}):
        with pytest.raises((LookupError, TypeError, ValueError)):
            columns.append(page_rows(make_row(), make_row(**change)), words, 1)
    assert (len(columns), {len(column) for column in columns.numbers.values()}, len(columns.checkpoints)) == (1, {1}, 1)


def test_parts_and_sums_have_the_same_rows() -> None:
    """Cut in two and put together again, nothing changes."""
    rows = page_rows(*(make_row(output_tokens=tokens, checkpoints=f"[[{tokens},1.0]]") for tokens in range(2, 12)))
    whole, _ = columns_of(rows)
    again = Columns()
    for part in (whole.part(0, 4), whole.part(4, 10)):
        again.extend(part)
    assert (again.kinds, again.numbers.keys(), again.order, again.checkpoints) == (
        whole.kinds,
        whole.numbers.keys(),
        whole.order,
        whole.checkpoints,
    )
    assert list(again["output_tokens"]) == list(range(2, 12))
    for places in ([3], [7, 0, 3]):
        assert list(whole.pick(places)["output_tokens"]) == [place + 2 for place in places]


def test_groups_are_bounded_whatever_clients_call_themselves() -> None:
    """The first names keep their own; the rest is one."""
    words = Words()
    found = {
        words.said(row).group
        for row in page_rows(
            *(make_row(app=f"app-{n % 40}", model=f"model-{n // 40}", upstream=None) for n in range(5000))
        )
    }
    assert len(found) <= 65
    assert Group(None, "model-0", "app-0", stream=True) in found
    assert Group("_other", "_other", "_other", stream=True) in found


def test_words_are_bounded_whatever_comes() -> None:
    """Numbers of choices and statuses come from outside, and make few kinds; what was seen is forgotten when it is too much."""
    words = Words()
    for row in page_rows(*(make_row(status=200 + n % 100, choices=n, finish="stop") for n in range(20_000))):
        words.said(row)
    assert len(words.kinds) == 2
    assert len(words._said) <= 10_001
