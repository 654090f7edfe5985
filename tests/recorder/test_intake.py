"""The intake against a worker's real socket."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.record import ExchangeRecord
from proxy.recorder.intake import Intake
from proxy.recorder.tokens import TokenCounter
from proxy.recorder.workers import Totals, Workers
from tests.support.recorder import PATIENCE_S
from tests.support.records import make_record


@dataclass
class Side:
    """A served intake and what it was given."""

    path: Path
    batches: list[list[ExchangeRecord]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loading = threading.Event()
        self.loading.set()
        self.intake = Intake(self.process, Workers(), TokenCounter(self.load))

    def load(self, name: str) -> None:
        """No encoding, after as long as a test wants: events are counted."""
        self.loading.wait(PATIENCE_S)

    def process(self, records: Sequence[ExchangeRecord]) -> None:
        """Keep a batch."""
        self.batches.append(list(records))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A worker's end."""
        return await asyncio.open_unix_connection(self.path)


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Side]:
    """An intake on a socket that stays bound."""
    side = Side(tmp_path / "i.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(side.path))
        listening.listen()
        listening.setblocking(False)
        await side.intake.serve(listening.dup())
        yield side
        await side.intake.drain(0)


def _line(message: Any) -> bytes:
    return orjson.dumps(message, default=tuple) + b"\n"


def _record(seq: int) -> bytes:
    return _line({"seq": seq, "record": make_record(id=f"lw_{seq}")})


async def _ack(reader: asyncio.StreamReader) -> Any:
    return orjson.loads(await reader.readline())


async def test_one_read_is_one_batch_and_one_acknowledgement(side: Side) -> None:
    """Three records that arrive together are processed together; the last number is acknowledged."""
    reader, writer = await side.connect()
    writer.write(_line({"hello": {"worker": 0, "pid": 7}}) + _record(1) + _record(2) + _record(3))
    assert await _ack(reader) == {"ack": 3}
    assert side.batches == [[make_record(id=f"lw_{seq}") for seq in (1, 2, 3)]]
    writer.close()


async def test_a_record_may_arrive_in_pieces(side: Side) -> None:
    """A line cut anywhere is one record; the whole lines before it are acknowledged at once."""
    reader, writer = await side.connect()
    data = _record(1) + _record(2)
    writer.write(data[:-40])
    assert await _ack(reader) == {"ack": 1}
    writer.write(data[-40:])
    assert await _ack(reader) == {"ack": 2}
    assert [[record.id for record in batch] for batch in side.batches] == [["lw_1"], ["lw_2"]]
    writer.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"{\n",
        b"[1]\n",
        b"null\n",
        b"7\n",
        b'"record"\n',
        b"\xff\xfe\n",
        b"{}\n",
        b'{"seq":1}\n',
        b'{"record":{}}\n',
        b'{"seq":"x","record":{}}\n',
        b'{"seq":true,"record":{}}\n',
        b'{"seq":1,"record":{"end":"complete"}}\n',
        b'{"seq":1,"record":null}\n',
        b'{"seq":1,"record":[1]}\n',
        _line({"seq": 1, "record": make_record(), "texts": "one"}),
        _line({"seq": 1, "record": make_record(), "texts": ["one", 2]}),
        b'{"totals":{}}\n',
        b'{"hello":{}}\n',
        b'{"hello":{"worker":"a","pid":[]}}\n',
    ],
)
async def test_garbage_is_counted_and_costs_nothing_else(side: Side, garbage: bytes) -> None:
    """The records around a line that is none are taken and acknowledged."""
    reader, writer = await side.connect()
    writer.write(_record(1) + garbage + _record(2))
    assert await _ack(reader) == {"ack": 2}
    assert [record.id for batch in side.batches for record in batch] == ["lw_1", "lw_2"]
    assert (side.intake.counts.records, side.intake.counts.malformed_lines) == (2, 1)
    writer.close()


async def test_a_numbered_line_that_is_no_record_is_acknowledged(side: Side) -> None:
    """It is dealt with: the worker need not hold it."""
    reader, writer = await side.connect()
    writer.write(_line({"seq": 9, "record": {"end": "nonsense"}}))
    assert await _ack(reader) == {"ack": 9}
    assert (side.batches, side.intake.counts.malformed_lines) == ([], 1)
    writer.close()


async def test_only_the_link_waits_whose_texts_are_counted(side: Side) -> None:
    """Its batch is processed and acknowledged in one piece after counting, in order; others go on; then it is read again."""
    side.loading.clear()
    reader, writer = await side.connect()
    uncounted = make_record(id="lw_2", response={"usage": None}, usage_source="none")
    writer.write(_record(1) + _line({"seq": 2, "record": uncounted, "texts": ["a b"]}) + _record(3))
    other_reader, other_writer = await side.connect()
    while side.intake.counts.records < 3:
        await asyncio.sleep(0)
    writer.write(_record(4))
    other_writer.write(_record(5))
    assert await _ack(other_reader) == {"ack": 5}
    assert [[record.id for record in batch] for batch in side.batches] == [["lw_5"]]
    side.loading.set()
    assert [await _ack(reader), await _ack(reader)] == [{"ack": 3}, {"ack": 4}]
    estimated = uncounted._replace(usage_source="estimated", estimated_output_tokens=128)
    assert side.batches[1:] == [[make_record(id="lw_1"), estimated, make_record(id="lw_3")], [make_record(id="lw_4")]]
    writer.close()
    other_writer.close()


async def test_an_endless_line_is_let_go(side: Side) -> None:
    """Memory is bounded: 9 MB without an end count once, and the next line is read."""
    reader, writer = await side.connect()
    for _ in range(9):
        writer.write(b"x" * 1_000_000)
        await writer.drain()
    writer.write(b"\n" + _record(1))
    assert await _ack(reader) == {"ack": 1}
    assert (side.intake.counts.malformed_lines, [len(batch) for batch in side.batches]) == (1, [1])
    writer.close()


async def test_totals_belong_to_the_worker_that_said_hello(side: Side) -> None:
    """Two workers report; one leaves."""
    links = []
    for index in (0, 1):
        reader, writer = await side.connect()
        totals = {"exchanges": 10, "exchanges_active": 2, "records_dropped": 1, "policy_digest": "abc"}
        writer.write(_line({"hello": {"worker": index, "pid": 7}}) + _line({"totals": totals}) + _record(1))
        await _ack(reader)
        links.append((reader, writer))
    assert side.intake.workers.totals == Totals(20, 4, 2, 0)
    links[0][1].write_eof()
    assert await links[0][0].read() == b""
    assert side.intake.workers.totals == Totals(20, 2, 2, 0)
    assert [(worker.index, worker.alive, worker.policy_digest) for worker in side.intake.workers] == [
        (0, False, "abc"),
        (1, True, "abc"),
    ]
    for _, writer in links:
        writer.close()


async def test_draining_waits_for_workers_to_close(side: Side) -> None:
    """What a worker still sends is taken; with its end the drain ends."""
    reader, writer = await side.connect()
    writer.write(_record(1))
    await _ack(reader)
    drained = asyncio.create_task(side.intake.drain(60))
    await asyncio.sleep(0)
    writer.write(_record(2))
    assert await _ack(reader) == {"ack": 2}
    assert not drained.done()
    writer.close()
    await drained
    assert [record.id for batch in side.batches for record in batch] == ["lw_1", "lw_2"]


async def test_a_worker_is_told_what_it_says_it_holds_and_what_all_are_told(side: Side) -> None:
    """The first line answers its greeting; later ones go to every worker."""
    greeted: list[list[str]] = []

    def greet(disarmed: list[str]) -> bytes:
        greeted.append(disarmed)
        return _line({"live": len(greeted)})

    side.intake.greet = greet
    first, second = await side.connect(), await side.connect()
    for number, (reader, writer) in enumerate((first, second), 1):
        writer.write(_line({"hello": {"worker": number, "pid": number, "disarmed": ["a", 5][:number]}}))
        assert await _ack(reader) == {"live": number}
    assert greeted == [["a"], ["a"]]
    side.intake.tell(_line({"live": "both"}))
    assert [await _ack(reader) for reader, _ in (first, second)] == [{"live": "both"}] * 2
    for _, writer in (first, second):
        writer.close()


async def test_a_worker_that_does_not_read_misses_lines_and_never_gets_half_of_one(side: Side) -> None:
    """Its socket fills in the middle of a line: the rest comes before the next line that it gets."""
    side.intake.greet = lambda _: b""
    with socket.socket(socket.AF_UNIX) as worker:
        worker.connect(str(side.path))
        worker.sendall(_line({"hello": {"worker": 0, "pid": 1}}) + _record(1))
        worker.setblocking(False)
        loop = asyncio.get_running_loop()
        received = bytearray()
        while not received.endswith(b"\n"):
            received += await loop.sock_recv(worker, 4096)
        for number in range(2000):
            side.intake.tell(_line({"live": str(number) * 500}))
        received.clear()
        while b'"last"' not in received:
            side.intake.tell(_line({"live": "last"}))
            received += await loop.sock_recv(worker, 1 << 20)
    lines = [orjson.loads(line)["live"] for line in received.split(b"\n")[:-1]]
    assert lines[0] == "0" * 500
    assert 10 < len(lines) < 2000
