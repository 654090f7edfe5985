"""A cap of the slider as a rule."""

import pytest
import yaml

from proxy.policy.rules import parse
from proxy.recorder.page.caps import CAPS_TOKENS, Outcomes, outcomes_of
from proxy.recorder.page.rule import UnnamedError, rule
from proxy.recorder.page.view import Filter
from tests.support.ledgers import make_row
from tests.support.page_rows import columns_of, page_rows

SINCE_S = 1_790_000_000.0


def _outcomes(**changes: object) -> Outcomes:
    columns, words = columns_of(
        page_rows(*(make_row(output_tokens=n, decoded_tokens=n, **changes) for n in (64, 100, 128)))
    )
    return outcomes_of(columns, words.kinds)


def test_the_rule_is_whole_with_its_evidence() -> None:
    """A file that can be saved as it is."""
    text = rule(96, Filter("gpt-4o", "search", None, None), _outcomes(), SINCE_S, SINCE_S + 900)
    assert text == (
        "version: 1\n"
        "rules:\n"
        "  # Tried on Lengthwise's live page: 3 whole answers (n), 2026-09-21 14:13 to 2026-09-21 14:28 UTC. In\n"
        "  #   shadow a rule changes nothing; it records what it would have done. Look at that for some days\n"
        "  #   before you write mode: enforce.\n"
        "  # Risk: 2 of 3 answers newly cut (66.7%).\n"
        "  # Saving: 36 tokens; 0.4 s of waiting in all, known for 2 of 2 longer answers.\n"
        "  - name: tried-gpt-4o-search-96\n"
        '    match: {model: ["gpt-4o"], app: ["search"]}\n'
        "    do: cap\n"
        "    max_tokens: 96\n"
        "    mode: shadow\n"
    )


@pytest.mark.parametrize(
    "chosen",
    [
        Filter(),
        Filter(stream=True),
        Filter(stream=False, upstream="openai"),
        Filter(model="<script>*[a]", app='a"b: {c}'),
        Filter(model="é" * 300),
    ],
)
def test_every_rule_is_accepted_in_shadow(chosen: Filter) -> None:
    """Whatever names there are; it matches what was looked at."""
    text = rule(512, chosen, _outcomes(forwarded_max_tokens=None), SINCE_S, SINCE_S + 60)
    (found,) = parse(yaml.safe_load(text)).rules
    assert (found.mode, found.do, found.max_tokens, found.when_absent) == ("shadow", "cap", 512, "insert")


def test_no_answer_is_no_evidence() -> None:
    """The rule is one all the same; its comments say of how many."""
    assert "Risk: 0 of 0 answers newly cut.\n" in rule(CAPS_TOKENS[0], Filter(), Outcomes(), SINCE_S, SINCE_S)


@pytest.mark.parametrize("chosen", [Filter(model=""), Filter(app="_other"), Filter(upstream="a\nb")])
def test_what_no_pattern_can_name_gets_no_rule(chosen: Filter) -> None:
    """And is told which name it is."""
    key = next(name for name, value in chosen._asdict().items() if value is not None)
    with pytest.raises(UnnamedError, match=f"no rule can name this {key}"):
        rule(512, chosen, _outcomes(), SINCE_S, SINCE_S)
