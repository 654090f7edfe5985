"""Totals over workers' lives."""

from typing import Any

import pytest

from proxy.recorder.workers import Totals, Workers


def _counts(exchanges: int, active: int, dropped: int, malformed: int) -> dict[str, int]:
    return {
        "exchanges": exchanges,
        "exchanges_active": active,
        "records_dropped": dropped,
        "connections_malformed": malformed,
    }


def test_totals_are_summed_over_workers() -> None:
    """Two workers count side by side."""
    workers = Workers()
    workers.report(workers.hello(0, 10), _counts(5, 1, 2, 3))
    workers.report(workers.hello(1, 11), _counts(7, 2, 0, 1))
    assert workers.totals == Totals(12, 3, 2, 4)


def test_a_restarted_worker_adds_to_what_its_predecessor_counted() -> None:
    """A new pid starts at zero; the sum does not go back, and only connected workers have active exchanges."""
    workers = Workers()
    first = workers.hello(0, 10)
    workers.report(first, _counts(5, 4, 2, 3))
    workers.gone(first)
    assert workers.totals == Totals(5, 0, 2, 3)
    second = workers.hello(0, 20)
    workers.report(second, _counts(1, 1, 1, 0))
    assert workers.totals == Totals(6, 1, 3, 3)
    assert [(worker.pid, worker.alive) for worker in workers] == [(20, True)]


def test_a_worker_that_connects_again_is_not_counted_twice() -> None:
    """The same pid goes on where it was."""
    workers = Workers()
    first = workers.hello(0, 10)
    workers.report(first, _counts(5, 0, 0, 0))
    workers.gone(first)
    workers.report(workers.hello(0, 10), _counts(6, 0, 0, 0))
    assert workers.totals == Totals(6, 0, 0, 0)


def test_two_generations_of_a_worker_may_be_alive() -> None:
    """While the old one drains, both count."""
    workers = Workers()
    workers.report(workers.hello(0, 10), _counts(5, 1, 0, 0))
    workers.report(workers.hello(0, 20), _counts(2, 1, 0, 0))
    assert workers.totals == Totals(7, 2, 0, 0)
    assert [worker.pid for worker in workers] == [10, 20]
    assert workers.ready == 2


@pytest.mark.parametrize("count", [-1, "5", 1.5, True, None, 2**63])
def test_a_count_that_is_none_is_refused(count: Any) -> None:
    """Bad totals change nothing."""
    workers = Workers()
    worker = workers.hello(0, 10)
    workers.report(worker, _counts(5, 0, 0, 0) | {"policy_digest": "abc"})
    with pytest.raises((TypeError, ValueError)):
        workers.report(worker, {"exchanges": count})
    assert (worker.totals, worker.policy_digest) == (Totals(5), "abc")
