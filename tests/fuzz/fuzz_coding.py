"""Whatever bytes come in whatever reads: a decoder never raises, its output and failure are those of the bytes one by one, and both stay bounded.

    python tests/fuzz/fuzz_coding.py [--seconds 60] [--seed N]

Inputs are bodies in one or two codings, damaged: bytes flipped, pieces cut out, doubled, other bodies spliced in. An undamaged body must give
its text. A finding prints the seed and the bytes, and exits 1.
"""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from proxy.wire.coding import decoder
from tests.support.encodings import PACK
from tests.support.fuzzing import run
from tests.support.sse import cut_at, one_by_one

WORDS = [b"data: ", b'{"choices":[{"delta":{"content":"', b'"}}]}', b"\n\n", b"\0" * 50, b"token"]


def text(chance: random.Random) -> bytes:
    """Something that a provider might send, or not."""
    if chance.randrange(20) == 0:
        return bytes(chance.randrange(1 << 20))
    if chance.randrange(10) == 0:
        return chance.randbytes(chance.randrange(100_000))
    return b"".join(chance.choice([*WORDS, chance.randbytes(3)]) for _ in range(chance.randrange(200)))


def packed(chance: random.Random, names: list[str], plain: bytes) -> bytes:
    """The text in these codings; in members where the coding has them."""
    for name in names:
        at = chance.randrange(len(plain) + 1) if name in {"gzip", "zstd"} else 0
        plain = b"".join(PACK[name](part) for part in ((plain[:at], plain[at:]) if at else (plain,)))
    return plain


def damaged(chance: random.Random, body: bytes) -> bytes:
    """The body after some random accidents."""
    stream = bytearray(body)
    for _ in range(chance.randrange(1, 4)):
        at, end = sorted(chance.randrange(len(stream) + 1) for _ in range(2))
        end = min(end, at + 50)
        match chance.randrange(4):
            case 0 if stream:
                stream[at % len(stream)] ^= 1 << chance.randrange(8)
            case 1:
                del stream[at:end]
            case 2:
                stream[at:at] = stream[at:end]
            case _:
                stream[at:at] = packed(chance, [chance.choice(list(PACK))], b"other")
    return bytes(stream)


def decoded(coding: str, reads: list[bytes], limit: int) -> tuple[bytes, bool, bool]:
    """Output, failure before the end, failure at it."""
    content = decoder(coding, limit)
    assert content is not None
    output = b"".join(content.decode(read) for read in reads)
    before = content.failed
    content.finish()
    return output, before, content.failed


def make(chance: random.Random) -> tuple[list[str], bytes, bytes]:
    """Codings, a text, and the body that it is in them, mostly damaged."""
    names = [chance.choice(list(PACK)) for _ in range(chance.choice([1, 1, 2]))]
    plain = text(chance)
    body = packed(chance, names, plain)
    return names, plain, damaged(chance, body) if chance.randrange(8) else body


def check(made: tuple[list[str], bytes, bytes], chance: random.Random) -> None:
    """Assert the invariant for one body."""
    names, plain, body = made
    coding = ", ".join(names)
    limit = chance.choice([1 << 24, chance.randrange(1, len(plain) + 2)])
    whole = decoded(coding, [packed(chance, names, plain)], 1 << 24)
    assert whole == (plain, False, False) or len(plain) > 200_000
    found = decoded(coding, [body], limit)
    assert len(found[0]) <= min(limit, 200 * len(body) + (5 << 20))
    places = [chance.randrange(len(body) + 1) for _ in range(chance.randrange(20))]
    assert decoded(coding, cut_at(body, places), limit) == found
    if len(body) < 20_000:
        assert decoded(coding, one_by_one(body), limit) == found


if __name__ == "__main__":
    sys.exit(run(__doc__.splitlines()[0], make, check))
