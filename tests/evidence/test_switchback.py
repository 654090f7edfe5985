"""Blocks of time: what of them is measured, and when they are too short."""

import numpy as np
import pytest

from proxy.evidence.sources.exchanges import Words
from proxy.evidence.switchback import block_numbers, runs, settled
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


@pytest.mark.parametrize(
    ("arms", "blocks"),
    [
        (["512"] * 60 + ["none"] * 90, [0] * 60 + [1] * 90),
        (["512", "none"] * 100, None),  # as often as chance, or more
        (["512"] * 40 + ["none"] * 40, None),  # too few to tell
        (["512"] * 300, None),
        ([], None),
    ],
)
def test_runs_of_an_arm_are_blocks_where_chance_would_change_it_more_often(
    arms: list[str], blocks: list[int] | None
) -> None:
    """One block for each run."""
    found = runs(columns(len(arms), arm=arms).arm)
    assert (None if found is None else block_numbers(found).tolist()) == blocks


def test_arms_drawn_one_by_one_are_no_runs() -> None:
    """A thousand experiments, arms of equal and of unequal shares."""
    source = np.random.default_rng(1)
    for share in (0.5, 0.05):
        drawn = (source.random((500, 1200)) < share).astype(np.int32)
        assert all(runs(Words(codes, ("512", "none"))) is None for codes in drawn)
