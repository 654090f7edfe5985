"""The seeded bugs fit the code: each is a change of a place that is there once, by tests that exist."""

from pathlib import Path

import pytest

from tests.mutants import policy, seeded
from tests.mutants.mutant import Mutant

MUTANTS = (*seeded.MUTANTS, *policy.MUTANTS)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_seeded_bug_has_its_place(mutant: Mutant):
    """When code changes, so must the bug in it: `python -m tests.mutants` shows whether tests still notice."""
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.before) == 1
    compile(text.replace(mutant.before, mutant.after), mutant.file, "exec")
    assert (ROOT / mutant.tests[0]).exists()


def test_each_has_a_name_of_its_own():
    """By which `--only` finds it."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 15
