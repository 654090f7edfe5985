"""Tallies: the report's laws and the metrics' counts, without numpy and in parts."""

from collections import Counter

import numpy as np
import pytest

from proxy.evidence.blocks import quantile
from proxy.evidence.cases import cases_of
from proxy.evidence.law import law_of, law_rows
from proxy.evidence.survival import lengths_of
from proxy.recorder.page.sketch import EMPTY, RELATIVE_ERROR, Sketch
from proxy.recorder.page.tally import Fit, Sums, Tally, tally_of, total
from tests.support.exchanges import close, exchanges_of
from tests.support.ledgers import make_row
from tests.support.page_rows import columns_of, messy_rows, page_rows


def _tally(*rows: dict[str, object]) -> Tally:
    columns, words = columns_of(page_rows(*rows))
    return tally_of(columns, words.kinds)


@pytest.mark.parametrize("seed", range(4))
def test_a_tally_says_what_the_report_says(seed: int) -> None:
    """Counts are equal, sums and lines to ten digits, quantiles to within 1% of the ranks beside them."""
    rows = list(messy_rows(np.random.default_rng(seed), 1500))
    found, exchanges = _tally(*rows), exchanges_of(rows)
    law, cases, lengths = law_of(exchanges), cases_of(exchanges), lengths_of(exchanges)
    assert (found.exchanges, found.complete, found.law_n) == (1500, int(exchanges.complete.sum()), law.n)
    assert found.cases == Counter(
        cut=int(cases.cut.sum()), ended=int(cases.ended_by_model.sum()), unknown=int(cases.unknown.sum())
    )
    assert found.ends == Counter(exchanges.end.texts())
    assert (found.ended_tokens.count, found.ended_tokens.count + found.other_tokens.count) == (
        lengths.n - lengths.censored,
        lengths.n,
    )
    assert close(found.tpot_law_s) == close(law.tpot_s)
    assert close(found.on_output.fit()) == close(law.on_output_tokens)
    assert close(found.on_limit.fit()) == close(law.on_max_tokens)
    ttft_s = exchanges.ttft_s[law_rows(exchanges)]
    for share in (0.5, 0.95):
        low, high = (float(np.quantile(ttft_s, share, method=method)) for method in ("lower", "higher"))
        assert low * (1 - RELATIVE_ERROR) <= (found.ttft_s.quantile(share) or 0) <= high * (1 + RELATIVE_ERROR)
    assert quantile(ttft_s, 0.5) == law.ttft_p50_s


def test_tallies_of_parts_add_up_to_that_of_the_whole() -> None:
    """However the exchanges are divided; also with nothing among the parts."""
    rows = list(messy_rows(np.random.default_rng(7), 600))
    columns, words = columns_of(page_rows(*rows))
    whole = tally_of(columns, words.kinds)
    parts = [tally_of(columns.part(start, start + 150), words.kinds) for start in range(0, 600, 150)]
    added = total([Tally(), total(parts[:1]), total(parts[1:])])
    for name in Tally.__slots__:
        one, other = getattr(added, name), getattr(whole, name)
        assert (close(one), name) == (close(other), name) if isinstance(one, float | Sums) else one == other
    assert total([]) == Tally()


def test_reserved_tokens_and_cuts_are_the_metrics() -> None:
    """One choice that came whole has slack; a cut is the policy's when the policy's limit cut it."""
    found = _tally(
        make_row(output_tokens=100, forwarded_max_tokens=512),
        make_row(output_tokens=100, forwarded_max_tokens=512, choices=2),
        make_row(output_tokens=100, forwarded_max_tokens=512, end="broken"),
        make_row(output_tokens=520, forwarded_max_tokens=512),
        make_row(output_tokens=512, cut=1, finish="length"),
        make_row(output_tokens=256, cut=1, finish="length", action="capped", forwarded_max_tokens=256),
        make_row(output_tokens=256, cut=1, finish="length", action="inserted", requested_max_tokens=None),
    )
    assert found.reserved_unused_tokens == 412 + 256
    assert found.truncations == Counter(client=1, policy=2)


def test_a_client_that_blocked_stays_out_of_the_law() -> None:
    """It shows its own pace, not the model's; a hundredth of the time is the border."""
    slow, fast = make_row(client_blocked_s=0.0148), make_row(client_blocked_s=0.0146)
    assert [_tally(row).law_n for row in (slow, fast)] == [0, 1]


def test_a_line_needs_points_that_differ() -> None:
    """Fewer than three, or all of one x or of one y, draw none."""
    assert Sums.of([(1, 1), (2, 2)]).fit() is None
    assert Sums.of([(512, 1.1), (512, 1.2), (512, 1.5)]).fit() is None
    assert Sums.of([(1, 0.3), (2, 0.3), (7, 0.3)]).fit() is None
    assert Sums.of([(1, 3), (2, 5), (3, 7)]).fit() == Fit(3, 2.0, 1.0, 1.0)


def test_what_is_unknown_is_in_no_sketch() -> None:
    """An answer that was not streamed has no first token; it has an end."""
    found = _tally(make_row(stream=0, ttft_s=None, last_token_s=None, tpot_s=None))
    assert (found.ttft_s, found.tpot_s, found.e2e_s) == (EMPTY, EMPTY, Sketch.of([1.47]))
