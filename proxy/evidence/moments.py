"""Moments as they are typed: an ISO date or time, or a span back from now.

Layer: evidence. Without a zone a time is UTC, as every time is that the report shows.
"""

import re
from datetime import UTC, datetime
from typing import Final

__all__ = ["unix_s"]

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def unix_s(text: str, now_unix_s: float) -> float:
    """Unix time of `2026-05-31`, `2026-05-31T18:00+02:00`, or of `24h`, `7d` before now (s, m, h, d, w).

    A date is its first moment. A moment is one that a calendar has.

    Raises:
        ValueError: it is none of these, or a span that is longer than the calendar.
        OverflowError: likewise.
    """
    span = _SPAN.fullmatch(text.strip())
    if span:
        return datetime.fromtimestamp(now_unix_s - float(span[1]) * _UNIT_S[span[2]], UTC).timestamp()
    moment = datetime.fromisoformat(text.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
