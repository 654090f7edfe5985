"""Blocks of time: what of them is measured, and when they are too short."""

import numpy as np
import pytest

from proxy.evidence.switchback import block_numbers, settled
from tests.support.experiment_traffic import STARTED_AT, columns

BLOCK_S = 300.0


def _blocks(ttft_s: float, starts_s: list[float]) -> list[bool]:
    """Which exchanges of two blocks count, each with starts like these."""
    made = columns(
        2 * len(starts_s),
        started_at=STARTED_AT + np.array([block * BLOCK_S + start for block in (0, 1) for start in starts_s]),
        arm_unit=["block:70"] * len(starts_s) + ["block:71"] * len(starts_s),
        ttft_s=ttft_s,
    )
    return settled(made)[0].tolist()


def test_a_block_is_known_by_its_number() -> None:
    """Anything else is no block."""
    words = columns(4, arm_unit=["block:7", None, "3fa9", "block:x"]).arm_unit
    assert block_numbers(words).tolist() == [7, -1, -1, -1]


@pytest.mark.parametrize(
    ("ttft_s", "counted"),
    [
        (0.5, [False, False, True, True, True]),
        (100.0, [False, False, False, True, True]),
        (999.0, [False, False, False, True, True]),
    ],
)
def test_the_beginning_of_a_block_is_not_counted(ttft_s: float, counted: list[bool]) -> None:
    """The first minute; with longer waits as long as they last; at most half of a block of 300 s."""
    assert _blocks(ttft_s, [0.0, 59.0, 60.0, 150.0, 299.0]) == counted * 2


def test_waits_that_last_for_a_part_of_a_block_are_told() -> None:
    """14 s of 300 s pass; 16 s do not, for they are still there when the next block is measured."""
    units = [f"block:{number}" for number in range(10) for _ in range(10)]
    started_at = STARTED_AT + np.arange(100) * 30.0
    said = [settled(columns(100, started_at=started_at, arm_unit=units, ttft_s=wait_s))[1] for wait_s in (14.0, 16.0)]
    assert said[0] is None
    assert said[1] is not None
    assert said[1].startswith("overload, or blocks too short")


def test_a_single_block_is_taken_as_it_is() -> None:
    """There is nothing before it that is known."""
    mask, said = settled(columns(3, arm_unit="block:1", ttft_s=1.0))
    assert (mask.tolist(), said) == ([True] * 3, None)
