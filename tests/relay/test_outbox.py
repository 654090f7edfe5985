"""Records on their way to the recorder: a recorder's end that acknowledges, dies, hangs or is away."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.relay import outbox as module
from proxy.relay.outbox import Outbox
from tests.support.intake import Intake
from tests.support.provider import PATIENCE_S
from tests.support.records import make_record

HELLO = {"worker": 3, "pid": 77}


async def settle(holds: Any) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0)


@pytest.fixture
async def recorder(tmp_path: Path) -> AsyncIterator[Intake]:
    """A recorder that listens."""
    one = Intake(tmp_path / "intake")
    await one.start()
    yield one
    await one.stop()


@pytest.fixture
async def outbox(recorder: Intake) -> AsyncIterator[Outbox]:
    """A worker's outbox, connected."""
    one = Outbox(str(recorder.path), lambda: HELLO, lambda: {"exchanges": 5})
    one.tick()
    await recorder.until(lambda: recorder.connections)
    yield one
    one._closed = True
    if one._transport is not None:
        one._transport.abort()
    await settle(lambda: one._transport is None)


async def test_records_are_numbered_from_one_and_arrive_whole(recorder: Intake, outbox: Outbox):
    """Greeting first, then each record under its number, the same record at the other end."""
    sent = [make_record(id=f"{number:024x}") for number in range(5)]
    for record in sent:
        outbox.put(record)
    await recorder.until(lambda: len(recorder.numbers) == 5)
    assert recorder.lines[0] == {"hello": HELLO}
    assert recorder.numbers == [1, 2, 3, 4, 5]
    assert recorder.records == sent
    assert outbox.unacknowledged == 5


@pytest.mark.parametrize(("method", "texts"), [("\ud800", None), ("m", ["\ud800"]), (object(), None)])
async def test_a_record_that_cannot_be_encoded_costs_itself_only(
    recorder: Intake, outbox: Outbox, method: Any, texts: list[str] | None
):
    """It is counted; those before and after it arrive, and no number is left out."""
    sent = [make_record(id=f"{number:024x}") for number in range(2)]
    outbox.put(sent[0])
    outbox.put(make_record(method=method), texts)
    outbox.put(sent[1])
    await recorder.until(lambda: len(recorder.numbers) == 2)
    assert recorder.numbers == [1, 2]
    assert recorder.records == sent
    assert (outbox.records_dropped, outbox.unacknowledged) == (1, 2)


async def test_an_acknowledgement_covers_all_up_to_its_number(recorder: Intake, outbox: Outbox):
    """In pieces, several at once, or older than one before."""
    for _ in range(5):
        outbox.put(make_record())
    await recorder.until(lambda: len(recorder.numbers) == 5)
    assert recorder._writer is not None
    recorder._writer.write(b'{"ack":2}\n{"ack"')
    await settle(lambda: outbox.unacknowledged == 3)
    recorder._writer.write(b':4}\n{"ack":1}\n')
    await settle(lambda: outbox.unacknowledged == 1)
    recorder.say({"ack": 5})
    await settle(lambda: outbox.unacknowledged == 0)
    assert outbox.records_dropped == 0


async def test_what_a_dead_recorder_had_not_acknowledged_is_dropped(recorder: Intake, outbox: Outbox):
    """Counted once, never sent again; the next recorder gets what comes later, under later numbers."""
    for _ in range(5):
        outbox.put(make_record())
    await recorder.until(lambda: len(recorder.numbers) == 5)
    recorder.say({"ack": 2})
    await settle(lambda: outbox.unacknowledged == 3)
    await recorder.stop()
    await settle(lambda: outbox._transport is None)
    assert (outbox.records_dropped, outbox.unacknowledged) == (3, 0)
    outbox.put(make_record())  # waits for the next one
    recorder.lines.clear()
    await recorder.start()
    outbox.tick()
    await recorder.until(lambda: len(recorder.numbers) == 1)
    assert recorder.lines[0] == {"hello": HELLO}
    assert recorder.numbers == [6]
    assert outbox.records_dropped == 3
    outbox.tick()
    await recorder.until(lambda: "totals" in recorder.lines[-1])
    assert recorder.lines[-1] == {"totals": {"exchanges": 5, "records_dropped": 3}}


async def test_what_waits_for_a_recorder_that_is_away_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The oldest wait, the newest are counted; none of it is an error or a wait for traffic."""
    monkeypatch.setattr(module, "_HELD_RECORDS", 10)
    outbox = Outbox(str(tmp_path / "nobody"), lambda: HELLO, dict)
    outbox.tick()
    await settle(lambda: not outbox._connecting)
    for number in range(25):
        outbox.put(make_record(id=f"{number:024x}"))
    assert outbox.records_dropped == 15
    recorder = Intake(tmp_path / "nobody")
    await recorder.start()
    outbox.tick()
    await recorder.until(lambda: len(recorder.numbers) == 10)
    assert [int(record.id, 16) for record in recorder.records] == list(range(10))
    outbox.put(make_record())
    assert outbox.records_dropped == 16  # sent and unacknowledged ones count too
    recorder.say({"ack": 10})
    await settle(lambda: outbox.unacknowledged == 0)
    outbox.put(make_record())
    await recorder.until(lambda: recorder.numbers[-1] == 11)
    await outbox.close(0)
    await settle(lambda: outbox._transport is None)
    await recorder.stop()


async def test_a_recorder_that_hangs_costs_a_bounded_amount(recorder: Intake, outbox: Outbox):
    """It is connected and does not read: records stop at their bound, totals at theirs."""
    await recorder.until(lambda: recorder.lines)
    recorder.reading.clear()
    for _ in range(9000):
        outbox.put(make_record())
    outbox._flush()
    assert outbox.records_dropped == 9000 - 8192
    assert outbox._transport is not None
    size = outbox._transport.get_write_buffer_size()
    for _ in range(10_000):
        outbox.tick()
    assert outbox._transport.get_write_buffer_size() <= size + 1000
    recorder.reading.set()
    await recorder.until(lambda: len(recorder.numbers) == 8192)


async def test_closing_sends_the_rest_and_waits_for_its_acknowledgement(recorder: Intake, outbox: Outbox):
    """A worker that drains loses nothing to a recorder that is there."""
    outbox.put(make_record())
    outbox.put(make_record())
    closing = asyncio.create_task(outbox.close(PATIENCE_S))
    await recorder.until(lambda: len(recorder.numbers) == 2)
    assert not closing.done()
    recorder.say({"ack": 2})
    await closing
    await recorder.until(lambda: "totals" in recorder.lines[-1])
    assert recorder.lines[-1]["totals"]["records_dropped"] == 0
    await settle(lambda: outbox._transport is None)
    assert outbox.records_dropped == 0


async def test_closing_counts_what_was_not_acknowledged_in_time(recorder: Intake, outbox: Outbox):
    """The last totals say what may be lost, once."""
    outbox.put(make_record())
    await outbox.close(0.01)
    await recorder.until(lambda: "totals" in recorder.lines[-1])
    assert recorder.lines[-1]["totals"]["records_dropped"] == 1
    await settle(lambda: outbox._transport is None)
    assert outbox.records_dropped == 1


async def test_closing_does_not_wait_for_a_recorder_that_dies_meanwhile(recorder: Intake, outbox: Outbox):
    """Its end settles the matter."""
    outbox.put(make_record())
    closing = asyncio.create_task(outbox.close(1000))
    await recorder.until(lambda: recorder.numbers)
    await recorder.stop()
    await closing
    assert outbox.records_dropped == 1


async def test_closing_without_a_recorder_counts_everything(tmp_path: Path):
    """Nothing to wait for."""
    outbox = Outbox(str(tmp_path / "nobody"), lambda: HELLO, dict)
    outbox.put(make_record())
    await outbox.close(1000)
    assert outbox.records_dropped == 1


async def test_other_messages_reach_whoever_listens(recorder: Intake, outbox: Outbox):
    """Live state and acknowledgements share the connection."""
    heard: list[dict[str, Any]] = []
    outbox.on_message = heard.append
    recorder.say({"laws": {"m": 1}})
    recorder.say({"ack": 0})
    await settle(lambda: heard)
    assert heard == [{"laws": {"m": 1}}]


async def test_a_recorder_that_talks_nonsense_is_one_that_died(recorder: Intake, outbox: Outbox, caplog: Any):
    """The connection ends, unacknowledged records are counted, the next attempt is a new one."""
    outbox.put(make_record())
    await recorder.until(lambda: recorder.numbers)
    assert recorder._writer is not None
    recorder._writer.write(b"nonsense\n")
    await settle(lambda: outbox._transport is None)
    assert outbox.records_dropped == 1
    outbox.tick()
    await recorder.until(lambda: recorder.connections == 2)


async def test_texts_go_beside_the_record_and_no_further(recorder: Intake, outbox: Outbox):
    """Where something is to be counted; an empty list says that it must be counted without."""
    for texts in (None, [], ["a", "é\n"]):
        outbox.put(make_record(), texts)
    await recorder.until(lambda: len(recorder.numbers) == 3)
    assert [line.get("texts") for line in recorder.lines[1:]] == [None, [], ["a", "é\n"]]
    assert recorder.records == [make_record()] * 3


async def test_texts_that_wait_are_bounded(recorder: Intake, outbox: Outbox, monkeypatch: pytest.MonkeyPatch):
    """The records go on without them: while too much text waits for the next flush, and while the recorder does not read."""
    monkeypatch.setattr(module, "_HELD_TEXT", 10)
    await recorder.until(lambda: recorder.lines)
    for texts in (["abcdef"], ["abcde"], ["abcd"], None):
        outbox.put(make_record(), texts)
    outbox._flush()
    outbox.put(make_record(), ["abcdefghij"])
    await recorder.until(lambda: len(recorder.numbers) == 5)
    assert [line.get("texts") for line in recorder.lines[1:]] == [["abcdef"], [], ["abcd"], None, ["abcdefghij"]]
    recorder.reading.clear()
    assert outbox._transport is not None
    while outbox._transport.get_write_buffer_size() <= 65536:
        outbox.put(make_record())
        outbox._flush()
    outbox.put(make_record(), ["a"])
    outbox._flush()
    recorder.reading.set()
    await recorder.until(lambda: recorder.numbers[-1] == outbox._number)
    assert recorder.lines[-1]["texts"] == []


async def test_records_move_to_another_recorder_once_the_first_has_acknowledged(
    recorder: Intake, outbox: Outbox, tmp_path: Path
):
    """What was sent is acknowledged where it was sent, what came later arrives at the next: none twice, none dropped."""
    following = Intake(tmp_path / "next")
    await following.start()
    outbox.put(make_record(id="first"))
    await settle(lambda: len(recorder.records) == 1)
    outbox.move(str(following.path))
    outbox.put(make_record(id="second"))
    outbox.tick()
    await settle(lambda: outbox._flush_due is False)
    assert following.connections == 0
    recorder.say({"ack": 1})
    await settle(lambda: len(following.records) == 1)
    following.say({"ack": 2})
    await settle(lambda: outbox.unacknowledged == 0)
    assert [record.id for record in recorder.records + following.records] == ["first", "second"]
    assert outbox.records_dropped == 0
    await following.stop()


async def test_closing_waits_for_a_move(recorder: Intake, outbox: Outbox, tmp_path: Path):
    """A worker that had nothing left to do when it was told still hands over its last record to the next recorder."""
    following = Intake(tmp_path / "next")
    await following.start()
    outbox.put(make_record(id="first"))
    await settle(lambda: len(recorder.records) == 1)
    outbox.move(str(following.path))
    outbox.put(make_record(id="last"))
    closing = asyncio.create_task(outbox.close(PATIENCE_S))
    recorder.say({"ack": 1})
    await settle(lambda: len(following.records) == 1)
    following.say({"ack": 2})
    await asyncio.wait_for(closing, PATIENCE_S)
    assert outbox.records_dropped == 0
    await following.stop()


async def test_what_waits_for_a_recorder_that_is_away_moves_too(recorder: Intake, tmp_path: Path):
    """A worker that was told to leave meanwhile hands it over to the next recorder, before it goes."""
    outbox = Outbox(str(tmp_path / "nobody"), lambda: HELLO, dict)
    outbox.tick()
    await settle(lambda: not outbox._connecting)
    outbox.put(make_record(id="waited"))
    outbox.move(str(recorder.path))
    closing = asyncio.create_task(outbox.close(PATIENCE_S))
    await settle(lambda: closing.done() or recorder.records)
    assert [record.id for record in recorder.records] == ["waited"]
    recorder.say({"ack": 1})
    await asyncio.wait_for(closing, PATIENCE_S)
    assert outbox.records_dropped == 0


async def test_closing_does_not_wait_for_a_move_that_never_comes(recorder: Intake, outbox: Outbox):
    """A recorder that acknowledges nothing any more: what it has, and what waits for the next, is dropped and counted."""
    outbox.put(make_record(id="first"))
    await settle(lambda: len(recorder.records) == 1)
    outbox.move("/nowhere")
    outbox.put(make_record(id="last"))
    await outbox.close(0.05)
    assert outbox.records_dropped == 2
