"""What caps would have done: the report's figures."""

import numpy as np
import pytest

from proxy.evidence.cases import is_single
from proxy.evidence.report import CAPS_TOKENS as REPORTED
from proxy.evidence.what_if import what_if
from proxy.recorder.page.caps import CAPS_TOKENS, Outcomes, outcomes_of, total
from tests.support.exchanges import exchanges_of
from tests.support.ledgers import make_row
from tests.support.page_rows import columns_of, messy_rows, page_rows

COUNTS = ("governed", "longer", "timed", "newly_cut", "tokens_saved")


def _outcomes(*rows: dict[str, object]) -> Outcomes:
    columns, words = columns_of(page_rows(*rows))
    return outcomes_of(columns, words.kinds)


@pytest.mark.parametrize("seed", range(4))
def test_every_cap_does_what_the_report_says(seed: int) -> None:
    """Counts and tokens are equal, seconds to the rounding of their sum; with and without checkpoints, shown or hidden tokens."""
    rows = list(messy_rows(np.random.default_rng(seed), 1500))
    found, exchanges = _outcomes(*rows), exchanges_of(rows)
    reported = what_if(exchanges, CAPS_TOKENS)
    assert {found.complete} == {each.complete for each in reported}
    for name in COUNTS:
        assert list(getattr(found, name)) == [getattr(each, name) for each in reported], name
    assert found.latency_saved_s == pytest.approx([each.latency_saved_s or 0 for each in reported], rel=1e-6)
    single = exchanges.complete & is_single(exchanges)
    assert found.output_tokens == np.nansum(exchanges.output_tokens[single])
    assert found.e2e_s == pytest.approx(np.nansum(exchanges.e2e_s[single]))
    assert found.unlimited == int((exchanges.complete & np.isnan(exchanges.forwarded_max_tokens)).sum())


def test_the_slider_has_every_cap_of_the_report() -> None:
    """So that both can be laid side by side."""
    assert set(REPORTED) <= set(CAPS_TOKENS)
    assert list(CAPS_TOKENS) == sorted(set(CAPS_TOKENS))


def test_outcomes_of_parts_add_up_to_those_of_the_whole() -> None:
    """However the exchanges are divided."""
    columns, words = columns_of(page_rows(*messy_rows(np.random.default_rng(9), 400)))
    whole = outcomes_of(columns, words.kinds)
    parts = total(outcomes_of(columns.part(start, start + 130), words.kinds) for start in range(0, 400, 130))
    assert [getattr(parts, name) for name in COUNTS] == [getattr(whole, name) for name in COUNTS]
    assert parts.latency_saved_s == pytest.approx(whole.latency_saved_s)
    assert (parts.complete, parts.output_tokens) == (whole.complete, whole.output_tokens)


def test_an_answer_as_long_as_the_cap_is_not_longer() -> None:
    """The cap's own token is still generated."""
    place = CAPS_TOKENS.index(128)
    found = _outcomes(make_row(output_tokens=128), make_row(output_tokens=129, decoded_tokens=129))
    assert (found.longer[place], found.newly_cut[place], found.tokens_saved[place]) == (1, 1, 1)


@pytest.mark.parametrize(
    "text", ["[[64", "{}", "[[64]]", '[["a", 1]]', '[[64, "b"]]', "[[300, 1.0], [64, 2.0]]", "[[64, 2.0], [100, 1.0]]"]
)
def test_checkpoints_that_are_none_are_unknown(text: str) -> None:
    """The answer's own pace is what is left, as in the report."""
    row = make_row(output_tokens=400, decoded_tokens=400, last_token_s=4.19, e2e_s=4.2, tpot_s=0.01)
    assert _outcomes(row | {"checkpoints": text}) == _outcomes(row)
