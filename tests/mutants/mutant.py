"""One mutant: a change of one line that no test may overlook."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A line, what a mistake would make of it, and the tests that see the mistake."""

    what: str
    file: str
    was: str
    """Stands in the file exactly once."""
    becomes: str
    tests: str
    """A test file that is red with the mutant and green without."""
