"""A probe's budget by hand."""

from proxy.lab.budget import Budget


def test_a_block_is_held_whole_or_not_at_all() -> None:
    """Two requests of 10 + 20 and 10 + 30 tokens fit into 70, and a third does not."""
    budget = Budget(requests=3, tokens=70, input_tokens=10)
    assert budget.hold((20, 31)) is False
    assert (budget.held_requests, budget.held_tokens) == (0, 0)
    assert budget.hold((20, 30)) is True
    assert budget.hold((1,)) is False


def test_requests_are_counted_beside_tokens() -> None:
    """What is under way counts, and so does what is over."""
    budget = Budget(requests=2, tokens=1000, input_tokens=1)
    assert budget.hold((1, 1)) is True
    budget.spend(2, 2)
    assert budget.hold((1,)) is False


def test_what_did_not_come_is_there_again() -> None:
    """An answer that ended early costs what it was; one of unknown cost costs all; one that was not asked for, nothing."""
    budget = Budget(requests=10, tokens=90, input_tokens=10)
    assert budget.hold((20, 20, 20)) is True
    budget.spend(30, 12)
    budget.spend(30, None)
    budget.give_back(30)
    assert budget == Budget(10, 90, 10, spent_requests=2, spent_tokens=42, held_requests=0, held_tokens=0)
    assert budget.hold((38,)) is True
