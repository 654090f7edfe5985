"""A cap is advised when it saves something and its risk is bounded; else the reason is said."""

import numpy as np
import pytest

from proxy.evidence.advice import LARGEST_RISK, Advice, advise, candidates
from proxy.evidence.what_if import CapOutcome


def _outcome(
    cap: int, longer: int, tokens_saved: int, complete: int = 1000, newly_cut: int | None = None
) -> CapOutcome:
    newly = longer if newly_cut is None else newly_cut
    return CapOutcome(cap, complete, complete, longer, longer, newly, tokens_saved, 1.0, None, 9.0, 8.0)


def _advised(*outcomes: CapOutcome, known: int = 1000, reasoning: int = 0) -> Advice:
    return advise(outcomes, known, 100_000, 5000, reasoning)


def test_the_smallest_cap_within_the_risk_is_advised() -> None:
    """256 saves more but cuts 2%, whose upper end is above 2%; 512 is the next one."""
    found = _advised(_outcome(1024, 1, 200), _outcome(256, 20, 9000), _outcome(512, 5, 1500))
    assert found == Advice(
        512, 0.005, "would have saved 1,500 of 100,000 tokens (1.5%) and cut 5 of 1,000 answers, 5 of them newly"
    )


def test_an_answer_that_is_cut_already_may_not_be_cut_shorter() -> None:
    """A fifth of the answers ended at a limit above the cap: none is newly cut, and all of them would lose more."""
    found = _advised(_outcome(512, 200, 9000, newly_cut=0))
    assert (found.cap_tokens, "512 would have cut 200 of 1,000 answers, 0 of them newly" in found.reason) == (
        None,
        True,
    )


@pytest.mark.parametrize(
    ("outcomes", "known", "reason"),
    [
        (
            [_outcome(512, 0, 900)],
            100,
            "100 whole answers of known length are too few to bound the risk of a cap at 2%",
        ),
        ([_outcome(512, 0, 0)], 1000, "no cap that was judged would have shortened an answer: these end by themselves"),
        ([], 1000, "no cap that was judged"),
        (
            [_outcome(256, 200, 900), _outcome(512, 50, 900)],
            1000,
            "every cap that saves anything cuts too much: 512 would",
        ),
        (
            [_outcome(512, 2, 99)],
            1000,
            "nothing is worth it: 512, the smallest cap within the risk, would have saved 99 of 100,000 tokens",
        ),
    ],
)
def test_without_a_cap_there_is_a_reason(outcomes: list[CapOutcome], known: int, reason: str) -> None:
    """Too few answers, nothing to save, or too much risk."""
    found = _advised(*outcomes, known=known)
    assert (found.cap_tokens, found.risk, found.reason.startswith(reason)) == (None, None, True)


def test_a_reasoning_model_is_warned_of() -> None:
    """Case C: the cap may change more than the end of the answer."""
    found = _advised(_outcome(512, 5, 1500), reasoning=40)
    assert found.cap_tokens == 512
    assert ". Case C: 40 of these answers hold reasoning, and a limit can change how a model reasons" in found.reason


def test_candidates_are_round_numbers_near_the_end_of_the_lengths() -> None:
    """Each leaves about the share beyond it that it was chosen for."""
    lengths = np.exp(np.random.default_rng(2).normal(6, 0.5, 10_000)).astype(int).astype(float)
    found = candidates(lengths)
    assert found == sorted(set(found))
    assert all(cap % 64 == 0 for cap in found)
    assert 0 < (lengths > found[-1]).mean() < (lengths > found[0]).mean() < 1.5 * LARGEST_RISK


def test_small_lengths_have_candidates_too() -> None:
    """Down to one token; none for none."""
    assert (candidates(np.ones(500)), candidates(np.empty(0)), candidates(np.zeros(500))) == ([8], [], [8])
