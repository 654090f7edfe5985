"""A mistake of ours outside asyncio's protocol callbacks ends one exchange, and nothing else."""

import asyncio
from typing import Any

from proxy.relay.guard import guarded, report


class Side:
    """Keeps how it was ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def abort(self, error_type: str, /) -> None:
        """Keep the end."""
        self.ends.append(error_type)


def reports() -> list[dict[str, Any]]:
    """What the loop's handler is given from now on."""
    given: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: given.append(context))
    return given


async def test_a_step_that_raises_ends_its_side_as_internal():
    """Once, with the error given to the loop's handler."""
    side, given, error = Side(), reports(), LookupError("text")

    def step(*arguments: object) -> None:
        assert arguments == (1, "a")
        raise error

    guarded(side, step, 1, "a")
    assert side.ends == ["internal"]
    assert [context["exception"] for context in given] == [error]


async def test_a_step_that_succeeds_ends_nothing():
    """It runs with its arguments."""
    side, given, done = Side(), reports(), []
    guarded(side, done.append, 7)
    assert (side.ends, given, done) == ([], [], [7])


async def test_a_report_is_what_the_handler_gets():
    """The handler decides what of it may be logged."""
    given, error = reports(), ValueError("sk-secret")
    report(error)
    assert given == [{"message": "internal error", "exception": error}]
