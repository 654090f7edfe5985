"""Codings are decoded as they come; bombs and corrupt bytes fail without raising."""

import gzip
import random
import subprocess
import sys
import tracemalloc
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.coding import decoder
from tests.support.encodings import PACK, packed, zstd
from tests.support.sse import cut_at, one_by_one

TEXT = b"".join(b"data: %d\n\n" % number for number in range(300))


def raw_deflate(data):
    """Deflate without the zlib frame."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def decoded(coding, reads):
    """Everything that comes out, and whether it failed; the end says nothing about a body that is only cut short."""
    content = decoder(coding)
    return b"".join(content.decode(read) for read in reads), content.failed


def frame(*blocks, window=0x58):
    """A zstd frame of (kind, size, content) blocks: raw is 0, RLE is 1; the window is 2 MiB."""
    parts = [b"\x28\xb5\x2f\xfd\x00", bytes([window])]
    for number, (kind, size, content) in enumerate(blocks, 1):
        parts.append((size << 3 | kind << 1 | (number == len(blocks))).to_bytes(3, "little") + content)
    return b"".join(parts)


PACKED = [
    ("gzip", gzip.compress(TEXT)),
    ("x-gzip", gzip.compress(TEXT)),
    (" GZIP , identity", gzip.compress(TEXT)),
    ("gzip", gzip.compress(TEXT[:90]) + gzip.compress(b"") + gzip.compress(TEXT[90:]) + b"\0\0"),
    ("deflate", zlib.compress(TEXT)),
    ("deflate", raw_deflate(TEXT)),
    ("br", brotli.compress(TEXT)),
    ("zstd", zstd.compress(TEXT)),
    ("zstd", zstd.compress(TEXT[:90]) + zstd.compress(b"") + zstd.compress(TEXT[90:])),
    ("zstd", b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd.compress(TEXT)),
    ("zstd", frame((0, 90, TEXT[:90]), (0, len(TEXT) - 90, TEXT[90:]))),
    ("gzip, br", brotli.compress(gzip.compress(TEXT))),
    ("br, identity, gzip", gzip.compress(brotli.compress(TEXT))),
    ("gzip, gzip", gzip.compress(gzip.compress(TEXT))),
    ("deflate,zstd", zstd.compress(zlib.compress(TEXT))),
    ("identity", TEXT),
    ("", TEXT),
]


@pytest.mark.parametrize(("coding", "body"), PACKED)
def test_a_coding_is_decoded_at_any_chunking(coding, body):
    """Whole, byte by byte and at each split point; at its end it is whole."""
    assert decoded(coding, [body]) == (TEXT, False)
    assert decoded(coding, one_by_one(body)) == (TEXT, False)
    for at in range(0, len(body), 7):
        assert decoded(coding, [body[:at], body[at:]]) == (TEXT, False)
    content = decoder(coding)
    content.decode(body)
    content.finish()
    assert not content.failed


EVENTS = (b"data: a\n\n", b"data: b\n\n")


def flushed_gzip():
    """What a server sends that flushes after each event."""
    packer = zlib.compressobj(wbits=31)
    return [packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in EVENTS]


def flushed_zstd():
    """The same in blocks of zstd."""
    packer = zstd.ZstdCompressor()
    return [packer.compress(event, packer.FLUSH_BLOCK) for event in EVENTS]


def flushed_br():
    """The same in meta-blocks of br."""
    packer = brotli.Compressor()
    return [packer.process(event) + packer.flush() for event in EVENTS]


@pytest.mark.parametrize(
    ("coding", "reads"), [("gzip", flushed_gzip()), ("zstd", flushed_zstd()), ("br", flushed_br())]
)
def test_what_was_flushed_comes_out_at_once(coding, reads):
    """A stream's events are not held until the body ends."""
    content = decoder(coding)
    assert [content.decode(read) for read in reads] == list(EVENTS)
    assert not content.failed


@pytest.mark.parametrize("coding", ["compress", "gzip;q=1", "x", "gzip, x", "x, gzip", "gzip, gzip, gzip", "dcz"])
def test_an_unknown_coding_has_no_decoder(coding):
    """None, not a guess; nor are there three of them."""
    assert decoder(coding) is None


@pytest.mark.parametrize(("coding", "missing"), [("br", "brotli"), ("zstd", "backports.zstd"), ("zstd", "compression")])
def test_a_missing_library_leaves_its_coding_unknown(coding, missing):
    """It costs that coding, neither the start nor another coding."""
    if missing != "brotli" and (missing == "compression") != (sys.version_info >= (3, 14)):
        pytest.skip("of another version of Python")
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from proxy.wire.coding import decoder\n"
        f"assert decoder({coding!r}) is None and decoder('gzip, ' + {coding!r}) is None and decoder('gzip')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_library_is_loaded_before_a_body_needs_it():
    """A worker that never meets br or zstd does not pay for them."""
    code = (
        "import sys; from proxy.relay.worker import Worker; from proxy.wire.coding import decoder; decoder('gzip')\n"
        "assert not [name for name in sys.modules if 'brotli' in name or 'zstd' in name]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


ZEROS = bytes(64 << 20)
ONES = (1, 1 << 17, b"\0")  # an RLE block of 128 KiB in four bytes
BOMBS = {
    "gzip": ("gzip", gzip.compress(ZEROS)),
    "deflate": ("deflate", zlib.compress(ZEROS, 9)),
    "br": ("br", brotli.compress(ZEROS, quality=5)),
    "zstd": ("zstd", zstd.compress(ZEROS)),
    "zstd in many blocks": ("zstd", frame(*[ONES] * 10_000)),
    "zstd in frames": ("zstd", frame(ONES) * 10_000),
    "gzip twice": ("gzip, gzip", gzip.compress(gzip.compress(ZEROS))),
    "br in gzip": ("br, gzip", gzip.compress(brotli.compress(ZEROS))),
    "empty frames": ("zstd", zstd.compress(b"") * 20_000),
    "empty members": ("gzip", gzip.compress(b"") * 20_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_fails_with_bounded_output(name):
    """Too much for the input is too much, and not much of it is made; how much does not depend on the reads."""
    coding, bomb = BOMBS[name]
    decoder(coding)  # loads the library
    outputs = []
    for reads in ([bomb], cut_at(bomb, list(range(0, len(bomb), 997)))):
        tracemalloc.start()
        out, failed = decoded(coding, reads)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert failed
        assert len(out) < 6 << 20
        assert peak < 40 << 20
        outputs.append(out)
    assert outputs[0] == outputs[1]
    content = decoder(coding)
    content.decode(bomb)
    assert content.decode(bomb) == b""
    content.finish()
    assert content.failed


@pytest.mark.parametrize("coding", list(PACK))
def test_more_than_a_reader_can_take_fails(coding):
    """Exactly `max_bytes` come out of a longer body, and a body of exactly so many is whole."""
    body = packed(coding, TEXT)
    for limit, out, failed in ((len(TEXT), TEXT, False), (len(TEXT) - 1, TEXT[:-1], True), (0, b"", True)):
        content = decoder(coding, limit)
        assert content.decode(body) == out
        content.finish()
        assert content.failed is failed


@pytest.mark.parametrize("coding", [*PACK, "gzip, br"])
def test_dense_text_is_no_bomb(coding):
    """A long stream of similar events passes."""
    text = b"".join(b'data: {"id":"chatcmpl-1","choices":[{"delta":{"content":" %x"}}]}\n\n' % n for n in range(60_000))
    assert decoded(coding, [packed(coding, text)]) == (text, False)


def test_a_window_that_no_content_coding_needs_fails():
    """RFC 9659: over 8 MiB, however small the frame is and however it comes."""
    small = frame((0, 1, b"a"), window=0x68)
    assert decoded("zstd", [small]) == (b"a", False)
    wide = frame((0, 1, b"a"), window=0x70)
    assert decoded("zstd", [wide]) == decoded("zstd", one_by_one(wide)) == (b"", True)
    sized = b"\x28\xb5\x2f\xfd\x40\x70\0\0" + (256 << 3 | 1).to_bytes(3, "little") + bytes(256)  # says its size: 256
    assert decoded("zstd", [sized]) == decoded("zstd", one_by_one(sized)) == (b"", True)


@pytest.mark.parametrize("coding", [*PACK, "gzip, br"])
def test_a_truncated_body_fails_at_its_end(coding):
    """Until then it is only unfinished; so is a body without a byte."""
    body = packed(coding, TEXT)
    for at in (0, 1, 2, 12, len(body) // 2, len(body) - 1):
        content = decoder(coding)
        assert TEXT.startswith(content.decode(body[:at]))
        assert not content.failed
        content.finish()
        assert content.failed


@pytest.mark.parametrize("coding", [*PACK, "raw", "gzip, br", "br, zstd"])
def test_bytes_after_the_end_fail(coding):
    """Everything before them is read."""
    body = raw_deflate(TEXT) if coding == "raw" else packed(coding, TEXT)
    coding = "deflate" if coding == "raw" else coding
    for reads in ([body + b"rest"], [body, b"rest"], one_by_one(body + b"rest")):
        assert decoded(coding, reads) == (TEXT, True)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5), st.sampled_from([*PACK, "gzip, br"]))
def test_no_bytes_make_it_raise(data, places, coding):
    """Arbitrary bytes give something or fail, the same in any reads."""
    assert decoded(coding, cut_at(data, places)) == decoded(coding, [data])
    data = packed(coding, b"a") + data
    assert decoded(coding, cut_at(data, places)) == decoded(coding, [data])


@given(
    st.sampled_from([*PACK, "gzip, br", "zstd, gzip"]),
    st.integers(0, 1 << 32),
    st.integers(1, 255),
    st.lists(st.integers(0, 1 << 32), max_size=5),
)
def test_what_is_read_before_a_failure_does_not_depend_on_the_reads(coding, at, flip, places):
    """A body with one wrong byte gives what its bytes one by one would."""
    body = bytearray(packed(coding, TEXT * 3))
    body[at % len(body)] ^= flip
    singly = decoded(coding, one_by_one(body))
    assert decoded(coding, [bytes(body)]) == singly
    assert decoded(coding, cut_at(bytes(body), places)) == singly


LONG = bytes(random.Random(1).choices(b"0123456789abcdef", k=600_000))


@pytest.mark.parametrize(
    ("coding", "body", "wrong"),
    [
        ("gzip", gzip.compress(LONG), -8),
        ("deflate", zlib.compress(LONG), -1),
        ("zstd", frame(*((0, 100_000, LONG[at : at + 100_000]) for at in range(0, 600_000, 100_000)), (0, 0, b"")), -3),
    ],
)
def test_a_failure_far_inside_a_body_loses_nothing_before_it(coding, body, wrong):
    """A check, or a block of a kind that does not exist, after long input; the read that brings it may bring all."""
    body = bytearray(body)
    body[wrong] ^= 6
    for reads in ([bytes(body)], cut_at(bytes(body), list(range(0, len(body), 1009)))):
        assert decoded(coding, reads) == (LONG, True)


def test_a_few_bytes_of_long_output_give_all_of_it():
    """How much comes of a run does not depend on the number of reads: brotli's library gives 32 KiB with a call."""
    damaged = bytes.fromhex("5b0af80e4002201e0b8400de201e0b8400de01")  # a megabyte of zeros, a piece of it doubled
    singly = decoded("br", one_by_one(damaged))
    assert singly == (bytes(456_779), True)
    for places in ([], [3, 8, 15, 16], [15], [8, 15]):
        assert decoded("br", cut_at(damaged, places)) == singly


def test_corrupt_bytes_fail_and_nothing_follows():
    """After a failure nothing comes out, whatever goes in."""
    content = decoder("gzip")
    assert (content.decode(b"no gzip at all"), content.failed) == (b"", True)
    assert content.decode(gzip.compress(TEXT)) == b""
