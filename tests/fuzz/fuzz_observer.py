"""Whatever bytes come in whatever reads: observer and cutter never raise, their result does not depend on the reads, and the cutter loses nothing.

    python tests/fuzz/fuzz_observer.py [--seconds 60] [--seed N]

Inputs are the golden streams, damaged: bytes flipped, pieces cut out, doubled, swapped, line ends changed, other streams spliced in. A
finding prints the seed and the bytes, and exits 1.
"""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from proxy.observe.observer import Observer
from proxy.wire.dialects import DIALECTS
from proxy.wire.dialects.base import Dialect
from proxy.wire.sse import UsageCutter
from tests.support.answers import golden, without_stamps
from tests.support.fuzzing import run
from tests.support.sse import blocks, cut_at

SEEDS = [answer.body for each in DIALECTS for answer in golden(each.name, "sse") if len(answer.body) < 10_000]


def damaged(chance: random.Random) -> bytes:
    """A golden stream after some random accidents."""
    stream = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randrange(6)):
        at, end = sorted(chance.randrange(len(stream) + 1) for _ in range(2))
        end = min(end, at + 200)
        match chance.randrange(6):
            case 0 if stream:
                stream[at % len(stream)] = chance.choice([chance.randrange(256), 10, 13, 58, 34, 92, 0xEF])
            case 1:
                del stream[at:end]
            case 2:
                stream[at:at] = stream[at:end]
            case 3:
                stream[at:end] = stream[at:end].replace(b"\n", chance.choice([b"\r", b"\r\n", b"\n\n", b""]))
            case 4:
                other = chance.choice(SEEDS)
                stream[at:at] = other[: chance.randrange(len(other))]
            case _:
                stream[at:at] = chance.choice(
                    [
                        b"\xef\xbb\xbf",
                        b"\r\n",
                        b"event: error\n",
                        b"data: [DONE]\n\n",
                        b"null",
                        b"[",
                        b"{",
                        b"\xe2\x80\xa8",
                    ]
                )
    return bytes(stream)


def observed(dialect: Dialect, reads: list[bytes], bound: int):
    """Facts of these reads without their stamps."""
    reader = Observer(dialect, event_stream=True, content_encoding="", event_bytes=bound, body_bytes=bound)
    for at_ns, read in enumerate(reads):
        reader.feed(read, at_ns)
    return without_stamps(reader.finish(len(reads)))


def cut(dialect: Dialect, reads: list[bytes], bound: int) -> tuple[bytes, str | None]:
    """What the cutter lets through, and whether it gave up."""
    cutter = UsageCutter(dialect.is_extra_usage, bound)
    return b"".join([cutter.feed(read) for read in reads] + [cutter.finish()]), cutter.degraded


def check(stream: bytes, chance: random.Random) -> None:
    """Assert the invariant for one stream, whichever dialect it is taken for."""
    dialect = chance.choice(DIALECTS)
    places = [chance.randrange(len(stream) + 1) for _ in range(chance.randrange(30))]
    bound = chance.choice([1 << 20, chance.randrange(1, 600)])
    facts = observed(dialect, [stream], bound)
    assert facts.degraded != "internal"
    assert observed(dialect, cut_at(stream, places), bound) == facts
    passed = cut(dialect, [stream], bound)
    assert cut(dialect, cut_at(stream, places), bound) == passed
    if passed[1] is None:
        kept = [part.raw for part in blocks(stream) if not (part.event and dialect.is_extra_usage(part.event[1]))]
        assert passed[0] == b"".join(kept)


if __name__ == "__main__":
    sys.exit(run(__doc__.splitlines()[0], damaged, check))
