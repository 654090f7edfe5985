"""The budget that a reserving provider gives out."""

import asyncio

from proxy.lab.reservations import Reservations


async def test_reservations_are_given_in_order_and_given_back() -> None:
    """A request larger than the whole budget waits for all of it; one that gives up waiting leaves no hole."""
    queue = Reservations(10)
    order: list[str] = []
    go = {name: asyncio.Event() for name in ("six", "huge", "four", "gone")}

    async def hold(name: str, tokens: int) -> None:
        async with queue.hold(tokens):
            order.append(name)
            await go[name].wait()

    tasks = {}
    for name, tokens in (("six", 6), ("gone", 9), ("huge", 999), ("four", 4)):
        tasks[name] = asyncio.create_task(hold(name, tokens))
        await asyncio.sleep(0)
    assert (order, queue.waiting) == (["six"], 3)
    tasks["gone"].cancel()
    await asyncio.wait([tasks["gone"]])
    assert (order, queue.waiting) == (["six"], 2)
    for name in ("six", "huge", "four"):
        go[name].set()
        await tasks[name]
    assert order == ["six", "huge", "four"]
    async with asyncio.timeout(5), queue.hold(10):
        assert queue.waiting == 0
