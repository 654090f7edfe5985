"""Moments as they are typed."""

import pytest

from proxy.evidence.moments import unix_s

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24h", NOW - 86_400),
        ("7d", NOW - 604_800),
        ("90s", NOW - 90),
        ("1.5h", NOW - 5400),
        ("2w", NOW - 1_209_600),
        ("30m", NOW - 1800),
        ("2026-09-22", 1_790_035_200.0),
        ("2026-09-22T02:00:00+02:00", 1_790_035_200.0),
        ("2026-09-22 00:00Z", 1_790_035_200.0),
    ],
)
def test_a_moment_is_a_date_a_time_or_a_span(text: str, expected: float) -> None:
    """Without a zone it is UTC."""
    assert unix_s(text, NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "yesterday", "24", "-1d", "7y", "2026-13-01", "h", "999999d", "99999999999d", f"{10**30}w"]
)
def test_anything_else_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises((ValueError, OverflowError), match=r"."):
        unix_s(text, NOW)
