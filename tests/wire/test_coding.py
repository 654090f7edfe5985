"""Codings are decoded as they come; bombs and corrupt bytes fail without raising."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.coding import decoder
from tests.support.sse import cut_at, one_by_one

TEXT = b"".join(b"data: %d\n\n" % number for number in range(300))


def raw_deflate(data):
    """Deflate without the zlib frame."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def decoded(coding, reads):
    """Everything that comes out, and whether it failed."""
    content = decoder(coding)
    return b"".join(content.decode(read) for read in reads), content.failed


PACKED = [
    ("gzip", gzip.compress(TEXT)),
    ("x-gzip", gzip.compress(TEXT)),
    (" GZIP , identity", gzip.compress(TEXT)),
    ("gzip", gzip.compress(TEXT[:90]) + gzip.compress(b"") + gzip.compress(TEXT[90:]) + b"\0\0"),
    ("deflate", zlib.compress(TEXT)),
    ("deflate", raw_deflate(TEXT)),
    ("deflate", zlib.compress(TEXT) + b"rest"),
    ("identity", TEXT),
    ("", TEXT),
]


@pytest.mark.parametrize(("coding", "packed"), PACKED)
def test_a_coding_is_decoded_at_any_chunking(coding, packed):
    """Whole, byte by byte and at each split point."""
    assert decoded(coding, [packed]) == (TEXT, False)
    assert decoded(coding, one_by_one(packed)) == (TEXT, False)
    for at in range(0, len(packed), 7):
        assert decoded(coding, [packed[:at], packed[at:]]) == (TEXT, False)


def test_what_was_flushed_comes_out_at_once():
    """A stream's events are not held until the body ends."""
    packer = zlib.compressobj(wbits=31)
    content = decoder("gzip")
    for event in (b"data: a\n\n", b"data: b\n\n"):
        assert content.decode(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)) == event


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip;q=1", "x"])
def test_an_unknown_coding_has_no_decoder(coding):
    """None, not a guess."""
    assert decoder(coding) is None


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_fails_with_bounded_output(coding):
    """1000 times the input is too much, and not much of it is made."""
    packer = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    bomb = packer.compress(bytes(64 << 20)) + packer.flush()
    for reads in ([bomb], cut_at(bomb, list(range(0, len(bomb), 997)))):
        out, failed = decoded(coding, reads)
        assert failed
        assert len(out) < 8 << 20
        assert decoder(coding).failed is False
    content = decoder(coding)
    content.decode(bomb)
    assert content.decode(bomb) == b""


def test_dense_text_is_no_bomb():
    """A long stream of similar events passes."""
    text = b"".join(b'data: {"id":"chatcmpl-1","choices":[{"delta":{"content":" %x"}}]}\n\n' % n for n in range(60_000))
    assert decoded("gzip", [gzip.compress(text)]) == (text, False)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5), st.sampled_from(["gzip", "deflate"]))
def test_no_bytes_make_it_raise(data, places, coding):
    """Arbitrary bytes give something or fail."""
    decoded(coding, cut_at(data, places))
    decoded("gzip", cut_at(gzip.compress(b"a") + data, places))


def test_corrupt_bytes_fail_and_nothing_follows():
    """After a failure nothing comes out, whatever goes in."""
    content = decoder("gzip")
    assert (content.decode(b"no gzip at all"), content.failed) == (b"", True)
    assert content.decode(gzip.compress(TEXT)) == b""
