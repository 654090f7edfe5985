"""A short soak: after some thousand exchanges of every outcome the service has kept nothing. Longer: `python -m tests.bench.soak`."""

from proxy.recorder.page.recent import KEPT
from tests.bench.soak import kept, report, soak

EXCHANGES = 3000
PAGE_MIB = (KEPT * 2 + EXCHANGES) / 1024
"""What the recorder keeps for the live page by intent: a line of at most 2 KiB for each of the last, at most 1 KiB of each exchange."""
GROWTH_MIB = {"worker": 2.5, "recorder": 5.0 + PAGE_MIB, "supervisor": 1.0}
"""Allocators and caches fill in the first thousands, a leak of 1 KiB for each exchange would be 2.3; a long soak fits a slope."""


async def test_the_service_keeps_nothing_of_what_is_over():
    """Descriptors are those of before, nothing is active, rows and drops account for all, and memory hardly grew."""
    result = await soak(seconds=None, exchanges=EXCHANGES, concurrency=16)
    assert kept(result) == [], report(result)
    grown = {part: result.growth_mib(part) for part in GROWTH_MIB}
    assert all(grown[part] <= most for part, most in GROWTH_MIB.items()), report(result)
