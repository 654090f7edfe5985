"""The dialects: one file each, one entry in `DIALECTS`."""

from proxy.wire.dialects.base import Dialect
from proxy.wire.dialects.chat_completions import ChatCompletions

__all__ = ["DIALECTS", "match"]

DIALECTS: tuple[Dialect, ...] = (ChatCompletions(),)
"""Every dialect that Lengthwise reads; all else is opaque."""


def match(canonical_path: bytes) -> Dialect | None:
    """Dialect whose endpoint a canonical path names; whatever base it has (`/v1`, `/openai/v1`, a deployment, none)."""
    for dialect in DIALECTS:
        if canonical_path.endswith(dialect.suffix):
            return dialect
    return None
