"""Whatever bytes a request's body has: judging never raises but a refusal, what passes a cap is capped for every reader, and edits are splices.

    python tests/fuzz/fuzz_bodies.py [--seconds 60] [--seed N]

Inputs are the ways around a cap and plain requests, damaged: bytes flipped, pieces cut out, doubled, spliced. Without a rule the body that goes
out differs from the one that came in by the question for usage alone.
"""

import asyncio
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from proxy.errors import RefusalError
from proxy.policy.refusal import refusal_of
from proxy.relay.judge import judge
from proxy.relay.route import Route
from proxy.relay.worker import Worker
from proxy.wire.json_edit import find_values
from tests.support.bypasses import BYPASSES, CAP, CHAT, COMPLETIONS, MESSAGES, RESPONSES
from tests.support.fuzzing import run
from tests.support.judging import post, route, worker
from tests.support.readers import worst_tokens

PATHS = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
BODIES = [way.body for way in BYPASSES if 2 <= len(way.body) < 2000] + [
    b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "\\u0041 \\"}{"}], "max_tokens": 5000}',
    b'{"model":"m","prompt":["a","b"],"max_tokens":16,"n":2,"stream":true,"stream_options":{"include_obfuscation":false}}',
    b'{"model":"m","input":"x","max_output_tokens":99999}',
    b'{"extra_body":{"max_tokens":7777},"options":{"num_predict":-1},"messages":[]}',
]
PIECES = [
    *(
        b'"max_tokens":99999',
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\",
        b",",
        b":",
        b"null",
        b"1e9",
        b"-0",
        b"\xef\xbb\xbf",
        b"\xff",
    ),
    *(b'"stream":true', b'"stream_options":{', b'"n":9', b'"model":', b'"extra_body":{', b"\\u006d", b"/**/", b"\0"),
]


def damaged(chance: random.Random) -> tuple[bytes, bytes]:
    """(path, body) after some random accidents."""
    body = bytearray(chance.choice(BODIES))
    for _ in range(chance.randrange(5)):
        at, end = sorted(chance.randrange(len(body) + 1) for _ in range(2))
        end = min(end, at + 40)
        match chance.randrange(5):
            case 0 if body:
                body[at % len(body)] = chance.randrange(256)
            case 1:
                del body[at:end]
            case 2:
                body[at:at] = body[at:end]
            case 3:
                body[at:at] = chance.choice(PIECES)
            case _:
                body[at:end] = chance.choice(BODIES)[1 : chance.randrange(2, 60)]
    return chance.choice(PATHS), bytes(body)


class _Target:
    """Workers with and without a cap, and the routes of each path."""

    def __init__(self) -> None:
        self.capped, self.free = worker(policy=[CAP]), worker()
        self.routes: dict[tuple[bool, bytes], Route] = {}
        for path in PATHS:
            self.routes[True, path] = route(self.capped, post(path))
            self.routes[False, path] = route(self.free, post(path))

    def sent(self, at: Worker, path: bytes, body: bytes) -> bytes | None:
        """What the upstream gets; None when it is refused."""
        try:
            judged = judge(body, self.routes[at is self.capped, path], at, "0" * 24, 0.0)
        except RefusalError:
            return None
        refused = refusal_of(judged.decision, judged.facts, at.policies) is not None
        return None if refused else judged.body

    def check(self, made: tuple[bytes, bytes], chance: random.Random) -> None:
        """Assert the invariants for one body."""
        del chance
        path, body = made
        spans = [edge for found in find_values(body, {"max_tokens", "n", "x"}) for edge in (found.start, found.end)]
        assert spans == sorted(spans)
        capped = self.sent(self.capped, path, body)
        if capped is not None:
            assert worst_tokens(capped, absent=16 if path == COMPLETIONS else float("inf")) <= float(CAP["max_tokens"])
        free = self.sent(self.free, path, body)
        assert free is not None
        if free is not body:
            asked, before = json.loads(free), json.loads(body)
            assert asked.pop("stream_options")["include_usage"] is True
            before.pop("stream_options", None)
            assert asked == before


async def main() -> int:
    """Run; workers belong to a loop."""
    return run(__doc__.splitlines()[0], damaged, _Target().check)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
