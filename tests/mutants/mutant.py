"""One mutant: a change of one place that no test may overlook."""

from typing import NamedTuple

__all__ = ["Mutant"]


class Mutant(NamedTuple):
    """One seeded bug."""

    name: str
    """What it does wrong."""
    file: str
    """Path below the repository's root."""
    before: str
    """Text that is there exactly once."""
    after: str
    tests: tuple[str, ...]
    """Arguments of pytest that select the tests that must fail; they pass without the change."""
