"""Whatever bytes a client or an upstream sends: what is accepted has one meaning, in any segments, and nothing raises but a refusal.

    python tests/fuzz/fuzz_heads.py [--seconds 60] [--seed N]

Inputs are the messages of tests/conformance, damaged and spliced. A request head that is accepted and written as the upstream gets it must
be read again as the same head; a chunked body must be decoded alike in any segments; an upstream's answer must come to the same end.
"""

import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from proxy.errors import RefusalError
from proxy.relay.upstream import Upstream
from proxy.wire.http1 import ChunkedReader, HeadParser, KnownHead, RequestHead, serialise
from tests.conformance.answers import ANSWERS
from tests.conformance.requests import CASES
from tests.support.fuzzing import run
from tests.support.sse import cut_at

REQUESTS = [case.sent for case in CASES if len(case.sent) < 5000]
RESPONSES = [case.sent for case in ANSWERS if len(case.sent) < 5000]
INTERESTING = frozenset((b"x", b"content-encoding"))
PIECES = [
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b"\0", b":", b"\x80", b"0\r\n\r\n", b"5\r\nhello\r\n", b";a=b"),
    *(
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Host: b\r\n",
        b"HTTP/1.1",
    ),
    *(
        b"Upgrade: websocket\r\n",
        b"Connection: upgrade\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"Proxy-Connection: close\r\n",
    ),
]


def damaged(chance: random.Random) -> tuple[bool, bytes]:
    """(True for a request, its bytes) after some random accidents."""
    is_request = chance.random() < 0.6
    seeds = REQUESTS if is_request else RESPONSES
    message = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(5)):
        at, end = sorted(chance.randrange(len(message) + 1) for _ in range(2))
        end = min(end, at + 30)
        match chance.randrange(6):
            case 0 if message:
                message[at % len(message)] = chance.choice([chance.randrange(256), 10, 13, 32, 58, 0])
            case 1:
                del message[at:end]
            case 2:
                message[at:at] = message[at:end]
            case 3:
                message[at:at] = chance.choice(seeds)[: chance.randrange(200)]
            case 4:
                message += chance.choice(seeds)
            case _:
                message[at:at] = chance.choice(PIECES)
    return is_request, bytes(message)


def read_head(raw: bytes, segments: list[bytes]) -> RequestHead | str:
    """A head as a client connection reads it, or the type of its refusal."""
    parser = HeadParser()
    try:
        for segment in segments:
            parser.feed(segment)
        return parser.head(raw, INTERESTING) if parser.complete else "incomplete"
    except RefusalError as error:
        return error.error_type


def decoded(body: bytes, segments: list[bytes]) -> tuple[bytes, bytes] | str:
    """(content, what follows) of a chunked body; what it is instead."""
    reader = ChunkedReader(65536)
    content, rest = b"", b""
    try:
        for segment in segments:
            if reader.complete:
                rest += segment
            else:
                more, behind = reader.feed(segment)
                content, rest = content + more, rest + behind
    except RefusalError:
        return "refused"
    assert len(content) <= len(body)
    return (content, rest) if reader.complete else "incomplete"


def check_request(message: bytes, chance: random.Random) -> None:
    """Assert what holds for a request."""
    end = message.find(b"\r\n\r\n") + 4
    if end < 4:
        return
    raw, body = message[:end], message[end:]
    head = read_head(raw, [raw])
    places = [chance.randrange(len(raw) + 1) for _ in range(chance.randrange(8))]
    assert read_head(raw, cut_at(raw, places)) == head
    if isinstance(head, str):
        return
    lines = [(b"Host", b"upstream"), *head.headers]
    if head.chunked:
        lines.append((b"Transfer-Encoding", b"chunked"))
    elif head.content_length is not None:
        lines.append((b"Content-Length", b"%d" % head.content_length))
    written = serialise(b"%b %b HTTP/1.1" % (head.method, head.target), lines)
    again = read_head(written, [written])
    assert isinstance(again, RequestHead), (written, again)
    told = (head.method, head.target, head.content_length, head.chunked, [n for n, _ in head.headers])
    assert told == (again.method, again.target, again.content_length, again.chunked, [n for n, _ in again.headers])
    assert not any(byte in value for _, value in head.headers for byte in (b"\r", b"\n", b"\0"))
    known = KnownHead.of(raw, head.content_length, traced=False)
    if known is not None and not head.chunked and (head.content_length or 0) < 10**15:  # longer ones are read anew
        assert known.matches(message) == (len(raw), head.content_length, None)
    if head.chunked:
        whole = decoded(body, [body])
        places = [chance.randrange(len(body) + 1) for _ in range(chance.randrange(8))]
        assert decoded(body, cut_at(body, places)) == whole


class _Peer:
    """What an upstream's connection talks to: pool, transport and exchange, without any of their work."""

    header_bytes = 65536
    tunnel = None

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.body = b""
        self.closed = False

    def abort(self) -> None:
        """As a transport."""
        self.closed = True

    def interim(self, status: int, reason: bytes, headers: Any) -> None:
        """As an exchange."""
        self.got.append((status, reason, headers))

    def response_head(self, head: Any, at_ns: int) -> None:
        """As an exchange."""
        del at_ns
        self.got.append(head)

    def response_data(self, body: bytes, complete: bool, at_ns: int) -> None:
        """As an exchange, which lets go of the connection behind a complete answer."""
        del at_ns
        self.body += body
        if complete:
            self.got.append("complete")
            self.closed = True

    def switched(self, head: Any, following: bytes) -> None:
        """As an exchange without a tunnel."""
        del head, following
        self.got.append("failed")
        self.closed = True

    def upstream_failed(self, error: RefusalError, at_ns: int) -> None:
        """As an exchange."""
        del at_ns
        self.got.append(error.error_type if not self.body else "failed")
        self.closed = True


def answered(segments: list[bytes]) -> tuple[list[Any], bytes]:
    """What an exchange gets of these bytes."""
    peer = _Peer()
    upstream = Upstream(peer)
    upstream.transport = peer
    upstream.lend(peer, to_head=False)
    for segment in segments:
        if segment and not peer.closed:
            upstream.data_received(segment)
    return peer.got, peer.body


def check_response(message: bytes, chance: random.Random) -> None:
    """Assert what holds for an answer: heads and body in any segments; how much of a broken body came may differ, its end not."""
    got, body = answered([message])
    places = [chance.randrange(len(message) + 1) for _ in range(chance.randrange(8))]
    other, other_body = answered(cut_at(message, places))
    assert [_kind(each) for each in other] == [_kind(each) for each in got], (other, got)
    assert other_body == body


def _kind(event: Any) -> Any:
    return "failed" if event == "upstream_reset" else event


def check(made: tuple[bool, bytes], chance: random.Random) -> None:
    """Assert the invariant for one message."""
    is_request, message = made
    (check_request if is_request else check_response)(message, chance)


if __name__ == "__main__":
    sys.exit(run(__doc__.splitlines()[0], damaged, check))
