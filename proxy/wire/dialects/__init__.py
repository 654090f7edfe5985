"""The dialects: one file each, one entry in `DIALECTS`."""

import re

from proxy.wire.dialects.base import Dialect
from proxy.wire.dialects.chat_completions import ChatCompletions
from proxy.wire.dialects.completions import Completions
from proxy.wire.dialects.messages import Messages
from proxy.wire.dialects.responses import Responses

__all__ = ["DIALECTS", "match"]

DIALECTS: tuple[Dialect, ...] = (ChatCompletions(), Completions(), Responses(), Messages())
"""Every dialect that Lengthwise reads; all else is opaque. The first whose suffix fits is the one."""

_STORED_MESSAGE = re.compile(rb"/threads/[^/]+/messages$")
"""A message that is put into a thread of OpenAI's Assistants: nothing is generated."""


def match(canonical_path: bytes) -> Dialect | None:
    """Dialect whose endpoint a canonical path names; whatever base it has (`/v1`, `/openai/v1`, a deployment, none)."""
    for dialect in DIALECTS:
        if canonical_path.endswith(dialect.suffix):
            return None if _STORED_MESSAGE.search(canonical_path) else dialect
    return None
