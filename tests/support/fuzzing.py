"""What every fuzz target does: inputs from seeds until the time is over, and the first finding with what is needed to see it again.

A target is two functions: `make` builds an input from a random generator, `check` asserts what holds for it.
"""

import argparse
import random
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["run"]

Input = TypeVar("Input")
SHOWN = 4000
"""Characters of a finding that are printed; the seed says the rest."""


def run(name: str, make: Callable[[random.Random], Input], check: Callable[[Input, random.Random], None]) -> int:
    """Run for the time that the command line says; 1 at the first finding."""
    options = argparse.ArgumentParser(description=name)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    until, seed = time.monotonic() + given.seconds, given.seed
    while time.monotonic() < until:
        chance = random.Random(seed)
        made = make(chance)
        try:
            check(made, chance)
        except Exception as error:  # noqa: BLE001 -- every kind of failure is a finding
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:SHOWN]}\n{repr(made)[:SHOWN]}")
            return 1
        seed += 1
    print(f"{seed - given.seed} inputs, no finding")
    return 0
