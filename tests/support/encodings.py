"""Content codings as a client or an upstream applies them."""

import gzip
import sys
import zlib
from functools import partial

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACK = {
    "gzip": partial(gzip.compress, mtime=0),
    "deflate": zlib.compress,
    "br": partial(brotli.compress, quality=5),  # servers do not take the default, which is 100 times slower
    "zstd": zstd.compress,
}
"""A whole body in one coding, by the coding's name."""


def packed(coding: str, body: bytes) -> bytes:
    """The body in these codings, in the order in which Content-Encoding lists them."""
    for name in coding.split(", "):
        body = PACK[name](body)
    return body


def unpacked(coding: str, body: bytes) -> bytes:
    """The body without these codings."""
    for name in reversed([name for name in coding.lower().split(", ") if name not in {"", "identity"}]):
        body = {
            "gzip": gzip.decompress,
            "deflate": zlib.decompress,
            "br": brotli.decompress,
            "zstd": zstd.decompress,
        }[name](body)
    return body
