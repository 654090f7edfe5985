"""What the relay workers say of themselves, summed over their restarts.

Layer: recorder. Pure bookkeeping. A worker's totals are cumulative since its start; a restarted worker is a new
(index, pid), and what its predecessor had counted becomes a base, so the sums never go back.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Totals", "Worker", "Workers"]


@dataclass(frozen=True, slots=True)
class Totals:
    """One worker's counts since its start."""

    exchanges: int = 0
    exchanges_active: int = 0
    """Now, not cumulative."""
    records_dropped: int = 0
    connections_malformed: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.exchanges + other.exchanges,
            self.exchanges_active + other.exchanges_active,
            self.records_dropped + other.records_dropped,
            self.connections_malformed + other.connections_malformed,
        )


@dataclass(slots=True)
class Worker:
    """One relay worker process."""

    index: int
    pid: int
    connections: int = 0
    """Links that are open; 0 when it is away."""
    totals: Totals = field(default_factory=Totals)
    policy_digest: str | None = None

    @property
    def alive(self) -> bool:
        """True while it is connected."""
        return self.connections > 0


class Workers:
    """All workers of this recorder's life."""

    def __init__(self) -> None:
        self._workers: dict[tuple[int, int], Worker] = {}
        self._base = Totals()

    def hello(self, index: int, pid: int) -> Worker:
        """A worker connected, for the first time or again."""
        for key, worker in list(self._workers.items()):
            if worker.index == index and worker.pid != pid and not worker.alive:
                self._base += _without_active(worker.totals)
                del self._workers[key]
        worker = self._workers.setdefault((index, pid), Worker(index, pid))
        worker.connections += 1
        return worker

    def gone(self, worker: Worker) -> None:
        """One link of a worker closed."""
        worker.connections -= 1

    def report(self, worker: Worker, totals: dict[str, Any]) -> None:
        """Take a worker's cumulative totals; keys that it does not send keep their last value.

        Raises:
            TypeError, ValueError: a count is no natural number.
        """
        known = worker.totals
        worker.totals = Totals(
            *(_natural(totals.get(name, getattr(known, name))) for name in Totals.__dataclass_fields__),
        )
        digest = totals.get("policy_digest", worker.policy_digest)
        worker.policy_digest = digest if isinstance(digest, str) else None

    @property
    def totals(self) -> Totals:
        """Sum over all workers, those that are gone included; only connected ones have active exchanges.

        Read by the metric reader's thread: works on a copy of the list.
        """
        return sum(
            (w.totals if w.alive else _without_active(w.totals) for w in list(self._workers.values())), self._base
        )

    @property
    def ready(self) -> int:
        """Workers that are connected. Read by the metric reader's thread, as `totals` is."""
        return sum(worker.alive for worker in list(self._workers.values()))

    def __iter__(self) -> Iterator[Worker]:
        return iter(sorted(self._workers.values(), key=lambda worker: (worker.index, worker.pid)))


def _without_active(totals: Totals) -> Totals:
    return Totals(totals.exchanges, 0, totals.records_dropped, totals.connections_malformed)


def _natural(value: object) -> int:
    if type(value) is not int:
        raise TypeError("a count is a number")
    if not 0 <= value < 2**63:
        raise ValueError("a count is natural")
    return value
