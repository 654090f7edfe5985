"""A mistake of ours outside asyncio's protocol callbacks ends one exchange, and nothing else.

Layer: relay. asyncio closes a connection whose callback raised; for tasks, timers and the end of a connection nobody
does, so that the other side would wait for ever.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

__all__ = ["guarded", "report"]


class _Side(Protocol):
    def abort(self, error_type: str, /) -> None: ...


def guarded(side: _Side, step: Callable[..., None], *arguments: object) -> None:
    """Run a step of an exchange, or of its client; when it raises, that side ends as `internal`."""
    try:
        step(*arguments)
    except Exception as error:  # noqa: BLE001 -- whatever it is, nobody may wait for an end that does not come
        report(error)
        side.abort("internal")


def report(error: Exception) -> None:
    """Give a mistake to the loop's handler, which logs it without its text."""
    asyncio.get_running_loop().call_exception_handler({"message": "internal error", "exception": error})
