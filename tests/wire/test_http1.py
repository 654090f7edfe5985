"""Heads as they are read, filtered and written; chunked bodies and where they end."""

import sys
from itertools import pairwise

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import RefusalError
from proxy.wire.http1 import (
    LAST_CHUNK,
    ChunkedReader,
    Headers,
    HeadParser,
    KnownHead,
    RequestHead,
    ResponseHead,
    chunk,
    read_request_head,
    read_response_head,
    serialise,
    without,
)

INTERESTING = frozenset((b"x-app", b"content-encoding", b"traceparent"))
HOST = (b"Host", b"a")


def request(
    *headers: tuple[bytes, bytes], method: bytes = b"POST", target: bytes = b"/x", version: str = "1.1"
) -> RequestHead:
    """Read a request head that has a Host."""
    return read_request_head(method, target, version, [HOST, *headers], INTERESTING)


def response(
    *headers: tuple[bytes, bytes], status: int = 200, version: str = "1.1", to_head: bool = False
) -> ResponseHead:
    """Read a response head."""
    return read_response_head(status, version, b"OK", list(headers), to_head=to_head)


def parse(raw: bytes) -> RequestHead:
    """A whole head as a client connection reads it."""
    parser = HeadParser()
    parser.feed(raw)
    assert parser.complete
    return parser.head(raw, INTERESTING)


def refused(raw: bytes) -> str:
    """The type of the refusal of a head."""
    with pytest.raises(RefusalError) as caught:
        parse(raw)
    return caught.value.error_type


# -- requests ---------------------------------------------------------------------------------------------------------


def test_a_request_head_keeps_what_is_end_to_end():
    """Names, values, order and duplicates; Host and Content-Length are taken out, the interesting ones are named too."""
    pairs = [(b"X-B", b"1"), (b"x-APP", b"one"), (b"X-B", b"2"), (b"X-App", b"two"), (b"Cookie", b"c")]
    assert request(*pairs, (b"Content-Length", b"7")) == RequestHead(
        method=b"POST",
        target=b"/x",
        http10=False,
        headers=pairs,
        named={b"x-app": b"two"},
        content_length=7,
        chunked=False,
        keep_alive=True,
        expect_continue=False,
        upgrade=None,
    )


@pytest.mark.parametrize(
    "name",
    [
        *(b"Connection", b"Keep-Alive", b"Proxy-Connection", b"TE", b"Trailer", b"Upgrade", b"Proxy-Authenticate"),
        *(b"Proxy-Authorization", b"HTTP2-Settings", b"EXPECT", b"keep-alive"),
    ],
)
def test_hop_by_hop_request_headers_are_taken_out(name: bytes):
    """RFC 9110 7.6.1, in any case."""
    value = b"100-continue" if name == b"EXPECT" else b"x"
    assert request((name, value), (b"X-Kept", b"1")).headers == [(b"X-Kept", b"1")]


def test_nominated_headers_are_neither_forwarded_nor_judged():
    """Whatever Connection lists, over several lines and in any case."""
    head = request(
        *((b"X-One", b"1"), (b"x-app", b"me"), (b"X-Two", b"2"), (b"Content-Encoding", b"gzip"), (b"X-Three", b"3")),
        *((b"Connection", b" X-one ,, content-ENCODING"), (b"connection", b"X-APP,x-two")),
    )
    assert (head.headers, head.named) == ([(b"X-Three", b"3")], {})


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", [], True),
        ("1.1", [b"close"], False),
        ("1.1", [b"x, Close"], False),
        ("1.1", [b"keep-alive"], True),
        ("1.0", [], False),
        ("1.0", [b"Keep-Alive"], True),
        ("1.0", [b"keep-alive", b"close"], False),
        ("1.1", [b"closed"], True),
    ],
)
def test_who_keeps_the_connection(version: str, connection: list[bytes], kept: bool):
    """RFC 9112 9.3."""
    assert request(*((b"Connection", value) for value in connection), version=version).keep_alive == kept


@pytest.mark.parametrize(
    ("headers", "upgrade"),
    [
        ([(b"Connection", b"Upgrade"), (b"Upgrade", b" WebSocket ")], b"websocket"),
        ([(b"Connection", b"keep-alive"), (b"Upgrade", b"websocket")], None),
        ([(b"Upgrade", b"websocket")], None),
        ([(b"Connection", b"Upgrade")], None),
        ([(b"Connection", b"upgrade"), (b"Upgrade", b"h2c")], b"h2c"),
    ],
)
def test_an_upgrade_is_asked_for_by_both_headers(headers: Headers, upgrade: bytes | None):
    """RFC 9110 7.8: Upgrade alone means nothing, and in HTTP/1.0 neither do both."""
    assert request(*headers).upgrade == upgrade
    assert request(*headers, version="1.0").upgrade is None


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        (b"/a//b/%2e%2e/c%2Fd?x=%41", b"/a//b/%2e%2e/c%2Fd?x=%41"),
        (b"//evil.example/x", b"//evil.example/x"),
        (b"http://evil.example/v1/x?y", b"/v1/x?y"),
        (b"HTTPS://evil.example:443/v1", b"/v1"),
        (b"http://evil.example", b"/"),
        (b"http://evil.example?q=/", b"/?q=/"),
        (b"http://evil.example/?http://other//", b"/?http://other//"),
        (b"http:///x", b"/x"),
    ],
)
def test_only_the_path_of_a_target_counts(target: bytes, kept: bytes):
    """The authority of an absolute-form target is dropped, the rest stays as it is."""
    assert request(target=target).target == kept


def test_an_asterisk_is_for_options():
    """RFC 9112 3.2.4."""
    assert request(method=b"OPTIONS", target=b"*").target == b"*"
    with pytest.raises(RefusalError):
        request(target=b"*")


@pytest.mark.parametrize(
    "value", [b"gzip, chunked", b"chunked, gzip", b"identity", b"", b"chunked;q=1", b"\x0bchunked", b"x"]
)
def test_any_other_transfer_coding_is_refused(value: bytes):
    """RFC 9112 6.1: what is not understood cannot be framed."""
    with pytest.raises(RefusalError) as caught:
        request((b"Transfer-Encoding", value))
    assert caught.value.error_type == "malformed_request"


def test_chunked_is_understood_in_any_case_once_and_in_http11_only():
    """Twice is two codings; HTTP/1.0 has none."""
    assert request((b"transfer-encoding", b" Chunked ")).chunked
    for headers, version in (
        ([(b"Transfer-Encoding", b"chunked")] * 2, "1.1"),
        ([(b"Transfer-Encoding", b"chunked")], "1.0"),
    ):
        with pytest.raises(RefusalError):
            request(*headers, version=version)


@pytest.mark.parametrize("version", ["2.0", "0.9", "1.2", ""])
def test_other_versions_are_named_as_such(version: str):
    """`http_version`, not `malformed_request`."""
    with pytest.raises(RefusalError) as caught:
        request(version=version)
    assert caught.value.error_type == "http_version"


@pytest.mark.parametrize("host", [b"", b"a", b"a.example:8080", b"[::1]:80", b"a_b~c", b"%C3%BC"])
def test_hosts_that_are_authorities_are_taken(host: bytes):
    """Whatever a name may be spelled with; the value is used for nothing."""
    assert read_request_head(b"GET", b"/", "1.1", [(b"Host", host)], ()).headers == []


@pytest.mark.parametrize("host", [b"a/b", b"a?b", b"a#b", b"u@a", b"a b", b"a,b", b"a\\b", b"\xc3\xbc"])
def test_hosts_that_are_none_are_refused(host: bytes):
    """What another implementation could take for a path or a second host."""
    with pytest.raises(RefusalError):
        read_request_head(b"GET", b"/", "1.1", [(b"Host", host)], ())


def test_the_http2_preface_is_an_http_version():
    """The one malformed request that says clearly what it wants."""
    assert refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") == "http_version"
    assert refused(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n") == "http_version"


HEAD = (
    b"POST /v1/x?y HTTP/1.1\r\nHost: a\r\nX-App: s\r\nContent-Length: 12\r\ntraceparent: 00-%b-%b-01\r\nX: \xe9\r\n\r\n"
    % (
        b"ab" * 16,
        b"cd" * 8,
    )
)


@given(st.lists(st.integers(0, len(HEAD)), max_size=5))
def test_a_head_is_the_same_in_any_segments(cuts: list[int]):
    """A parser fed in pieces reads what a parser fed at once reads."""
    marks = [0, *sorted(cuts), len(HEAD)]
    parser = HeadParser()
    for start, end in pairwise(marks):
        parser.feed(HEAD[start:end])
    assert parser.complete
    assert parser.head(HEAD, INTERESTING) == parse(HEAD)


# -- known heads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [True, False])
def test_a_known_head_is_recognised_with_another_length(traced: bool):
    """And with another traceparent, where that is not forwarded as it is."""
    known = KnownHead.of(HEAD, 12, traced=traced)
    assert known is not None
    parent = b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01"
    assert known.matches(HEAD + b"body") == (len(HEAD), 12, parent if traced else None)
    longer = HEAD.replace(b": 12", b": 12345")
    assert known.matches(longer) == (len(HEAD) + 3, 12345, parent if traced else None)
    other = HEAD.replace(b"cd" * 8, b"ef" * 8)
    matched = (len(HEAD), 12, parent.replace(b"cd" * 8, b"ef" * 8))
    assert known.matches(other) == (matched if traced else None)


@pytest.mark.parametrize("spelled", [b"12 ", b"12\t", b" \t12 "])
def test_an_unusual_length_is_not_known(spelled: bytes):
    """It is a number to the parser; a second such head is parsed again, never taken for one without a body."""
    raw = HEAD.replace(b" 12", spelled)
    assert KnownHead.of(raw, parse(raw).content_length, traced=True) is None


@pytest.mark.parametrize("spelled", [b"+5", b"-5", b"0x5", b"1_0", b"5.0", b"", b"\xd9\xa5", b"5, 5", b"5" * 17])
def test_a_length_that_is_none_is_not_recognised(spelled: bytes):
    """It is read anew, and refused there: what numbers mean to Python is not what they mean to HTTP."""
    known = KnownHead.of(HEAD, 12, traced=True)
    assert known is not None
    assert known.matches(HEAD.replace(b": 12", b": " + spelled)) is None


_HEADS = [
    HEAD,
    HEAD.replace(b"Content-Length: 12\r\n", b""),
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\ncontent-length:0\r\nHost: a\r\nX: \r\ncontent-length-x: 1\r\n\r\n",
    HEAD.replace(b"X-App: s", b"traceparent: 00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-00"),
]


@given(
    raw=st.sampled_from(_HEADS),
    traced=st.booleans(),
    edits=st.lists(
        st.tuples(
            st.integers(0, len(HEAD)),
            st.integers(0, 3),
            st.one_of(
                st.binary(max_size=2),
                st.text("0123456789", max_size=18).map(str.encode),
                st.sampled_from([b"\r\n", b" ", b"\r\nHost: b", b"\r\nContent-Length: 3", b"\r\n\r\n", b"-", b"f"]),
            ),
        ),
        max_size=2,
    ),
    behind=st.binary(max_size=5),
)
@example(raw=HEAD, traced=True, edits=[(HEAD.index(b"12\r"), 2, b"5")], behind=b"hello")
def test_what_is_recognised_means_what_parsing_it_would_say(
    raw: bytes, traced: bool, edits: list[tuple[int, int, bytes]], behind: bytes
):
    """No head is taken for another: the short way and the long way agree on every field, or the short way declines."""
    head = parse(raw)
    known = KnownHead.of(raw, head.content_length, traced=traced)
    assert known is not None
    data = raw
    for at, length, new in edits:
        data = data[:at] + new + data[at + length :]
    found = known.matches(data + behind)
    if found is None:
        assert data != raw
        return
    head_bytes, content_length, traceparent = found
    again = (data + behind)[:head_bytes]
    read = parse(again)
    named = dict(read.named)
    if traceparent is not None:
        assert named[b"traceparent"] == traceparent
        named[b"traceparent"] = head.named[b"traceparent"]
    assert content_length == read.content_length
    others = without(read.headers, {b"traceparent"} if traced else ())
    assert read._replace(content_length=None, headers=others, named=named) == head._replace(
        content_length=None, headers=without(head.headers, {b"traceparent"} if traced else ())
    )


# -- responses --------------------------------------------------------------------------------------------------------


def test_a_response_head_keeps_what_is_end_to_end():
    """Framing and hop-by-hop headers are taken out, the rest stays in order."""
    head = response(
        *((b"Server", b"s"), (b"Set-Cookie", b"a"), (b"Content-Type", b"Text/Event-Stream; charset=utf-8")),
        *((b"Connection", b"X-Hop"), (b"Set-Cookie", b"b"), (b"x-hop", b"1"), (b"Keep-Alive", b"max=5, Timeout=7")),
        *(
            (b"Content-Encoding", b" GZIP"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Trailer", b"x"),
            (b"Upgrade", b"h2c"),
        ),
    )
    assert head == ResponseHead(
        status=200,
        reason=b"OK",
        headers=[
            *((b"Server", b"s"), (b"Set-Cookie", b"a"), (b"Content-Type", b"Text/Event-Stream; charset=utf-8")),
            *((b"Set-Cookie", b"b"), (b"Content-Encoding", b" GZIP")),
        ],
        content_length=None,
        chunked=True,
        bodyless=False,
        keep_alive=True,
        keep_alive_timeout_s=7.0,
        event_stream=True,
        content_encoding="gzip",
    )


@pytest.mark.parametrize(
    ("headers", "status", "version", "to_head", "expected"),
    [
        ([(b"Content-Length", b"5")], 200, "1.1", False, (False, False, True)),
        ([(b"Transfer-Encoding", b"chunked")], 200, "1.1", False, (False, False, True)),
        ([], 200, "1.1", False, (False, True, False)),
        ([], 200, "1.1", True, (True, False, True)),
        ([], 204, "1.1", False, (True, False, True)),
        ([], 304, "1.1", False, (True, False, True)),
        ([(b"Content-Length", b"5")], 200, "1.0", False, (False, False, False)),
        ([(b"Content-Length", b"5"), (b"Connection", b"keep-alive")], 200, "1.0", False, (False, False, True)),
        ([(b"Content-Length", b"5"), (b"Connection", b"close")], 200, "1.1", False, (False, False, False)),
        ([(b"Connection", b"keep-alive")], 200, "1.1", False, (False, True, False)),
        (
            [(b"Transfer-Encoding", b"chunked"), (b"Connection", b"keep-alive")],
            200,
            "1.0",
            False,
            (False, False, False),
        ),
        ([(b"Content-Length", b"5"), (b"Proxy-Connection", b"Close")], 200, "1.1", False, (False, False, False)),
    ],
)
def test_how_a_body_ends(headers: Headers, status: int, version: str, to_head: bool, expected: tuple[bool, bool, bool]):
    """(bodyless, close-delimited, keep-alive): RFC 9112 6.3."""
    head = response(*headers, status=status, version=version, to_head=to_head)
    assert (head.bodyless, head.close_delimited, head.keep_alive) == expected


@pytest.mark.parametrize("version", ["2.0", "0.9"])
def test_a_response_in_another_version_cannot_be_kept(version: str):
    """Nobody knows how it is framed."""
    with pytest.raises(RefusalError) as caught:
        response(version=version)
    assert caught.value.error_type == "upstream_reset"


@pytest.mark.parametrize("value", [b"gzip, chunked", b"gzip", b"identity", b""])
def test_a_response_in_another_transfer_coding_cannot_be_kept(value: bytes):
    """It would have to be forwarded in a framing that is not understood."""
    with pytest.raises(RefusalError) as caught:
        response((b"Transfer-Encoding", value))
    assert caught.value.error_type == "upstream_reset"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5", 5.0),
        (b"max=1,timeout=5", 5.0),
        (b"TIMEOUT=05", 5.0),
        (b"timeout=x", None),
        (b"5", None),
        (b"", None),
    ],
)
def test_a_keep_alive_timeout_is_a_number_or_unknown(value: bytes, seconds: float | None):
    """Anything else is not an error of the answer."""
    assert response((b"Keep-Alive", value)).keep_alive_timeout_s == seconds


@pytest.mark.parametrize(("value", "coding"), [(b"identity", ""), (b"br", "br"), (b" GZip ", "gzip"), (b"", "")])
def test_identity_is_no_content_coding(value: bytes, coding: str):
    """Lower-case, empty for none."""
    assert response((b"Content-Encoding", value)).content_encoding == coding


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_head_is_written_as_it_was_read():
    """Order, case and bytes; one blank line."""
    headers = [(b"X-B", b"1"), (b"x-a", b""), (b"X-B", b"\xe9")]
    assert serialise(b"HTTP/1.1 200 OK", headers) == b"HTTP/1.1 200 OK\r\nX-B: 1\r\nx-a: \r\nX-B: \xe9\r\n\r\n"
    assert serialise(b"HTTP/1.1 200 OK", []) == b"HTTP/1.1 200 OK\r\n\r\n"


def test_without_compares_names_in_lower_case():
    """Values and order stay."""
    assert without([(b"A", b"1"), (b"b", b"2"), (b"a", b"3")], {b"a"}) == [(b"b", b"2")]


# -- chunked bodies ---------------------------------------------------------------------------------------------------


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    extension=st.sampled_from([b"", b";a", b";a=b", b';a="b c"']),
    trailers=st.sampled_from([b"", b"X: y\r\n", b"Host: evil\r\nCookie: 0\r\n"]),
    zeros=st.integers(1, 4),
    upper=st.booleans(),
    behind=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_a_chunked_body_is_decoded_and_ends_where_it_ends(  # noqa: PLR0917 -- hypothesis gives each by name
    pieces: list[bytes], extension: bytes, trailers: bytes, zeros: int, upper: bool, behind: bytes, cuts: list[int]
):
    """In any segments: the same bytes, and what follows is handed back untouched."""
    size = b"%X" if upper else b"%x"
    data = b"".join(size % len(piece) + extension + b"\r\n" + piece + b"\r\n" for piece in pieces)
    data += b"0" * zeros + extension + b"\r\n" + trailers + b"\r\n"
    whole = data + behind
    marks = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    reader = ChunkedReader(10_000)
    body, rest = b"", b""
    for start, end in pairwise(marks):
        if reader.complete:
            rest += whole[start:end]
            continue
        got, rest = reader.feed(whole[start:end])
        body += got
        assert not rest or reader.complete
    assert (body, rest, reader.complete) == (b"".join(pieces), behind, True)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5))
def test_what_is_framed_can_be_decoded(pieces: list[bytes]):
    """`chunk` and `LAST_CHUNK` against the reader."""
    reader = ChunkedReader(10_000)
    assert reader.feed(b"".join(map(chunk, pieces)) + LAST_CHUNK + b"x") == (b"".join(pieces), b"x")
    assert reader.complete


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"zz\r\n",
            b"-1\r\n",
            b"0x5\r\nhello\r\n",
            b"5\nhello\r\n",
            b"5\r\nhello\n",
            b"5\r\nhelloX\r\n",
            b" 5\r\nhello\r\n",
        ),
        *(b"\r\n5\r\nhello\r\n", b"5;\0\r\n", b"10000000000000000\r\n", b"5_0\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\n\n"),
        *(b"5 \r\nhello\r\n", b"5\rhello\r\n", b"0\n\n"),
    ],
)
def test_a_chunked_body_that_two_readers_could_read_differently_is_refused(data: bytes):
    """RFC 9112 7.1, to the letter."""
    reader = ChunkedReader(10_000)
    with pytest.raises(RefusalError) as caught:
        reader.feed(data + b"\r\n\r\n")
    assert caught.value.error_type == "malformed_request"


@pytest.mark.parametrize(
    "data",
    [b"1;" + b"x" * 2000 + b"\r\na\r\n", b"0\r\n" + b"X: y\r\n" * 400, b"1\r\na\r\n" * 800, b"1;" + b"x" * 2000],
)
@pytest.mark.parametrize("step", [100, 1_000_000])
def test_more_framing_than_content_is_refused(data: bytes, step: int):
    """Extensions, trailers and tiny chunks are bounded, in one read or in many."""
    reader = ChunkedReader(1000)

    def feed() -> None:
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])

    with pytest.raises(RefusalError):
        feed()


def test_a_client_that_sends_a_chunk_with_each_write_is_not_refused():
    """Some bytes of framing with each read are what a streaming upload has."""
    reader = ChunkedReader(1000)
    for _ in range(10_000):
        assert reader.feed(chunk(b"some words")) == (b"some words", b"")


def test_a_chunk_of_line_ends_is_read_as_a_whole():
    """Content is sliced by its length: a chunk of a million line ends is no work for each of them."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    reader, content = ChunkedReader(1000), b"\n" * 1_000_000
    data = chunk(content) + LAST_CHUNK
    sys.setprofile(count)
    try:
        fed = reader.feed(data)
    finally:
        sys.setprofile(None)
    assert (fed, reader.complete, calls < 100) == ((content, b""), True, True)


def test_a_line_that_never_ends_is_refused_even_byte_by_byte():
    """What is held of an unfinished line is bounded by itself."""
    reader = ChunkedReader(1000)
    assert [reader.feed(byte) for byte in (b"1", b";", *[b"x"] * 998)] == [(b"", b"")] * 1000
    with pytest.raises(RefusalError):
        reader.feed(b"x")


class _Llhttp:
    """The other reader of chunked bodies at hand."""

    def __init__(self) -> None:
        self.body = b""
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """A piece of content."""
        self.body += data

    def feed(self, data: bytes) -> bytes:
        """Content so far."""
        self._parser.feed_data(data)
        return self.body


_FRAMING = st.sampled_from(
    [
        b"\r\n",
        b"1\r\na\r\n",
        b"2",
        b"0",
        b"A",
        b"\n",
        b"\r",
        b";",
        b"=",
        b'"',
        b"\\",
        b" ",
        b"\t",
        b"x",
        b":",
        b"\0",
        b"0\r\n",
    ]
)


@given(
    st.lists(_FRAMING, max_size=8), st.sampled_from([b"0\r\n\r\n", b"\r\n\r\n", b"\r\n0\r\n\r\n"]), st.integers(1, 30)
)
@example([b"2", b";", b"x", b"=", b'"', b" ", b"\\", b'"', b'"', b"\r\n", b"xx"], b"\r\n0\r\n\r\n", 30)
@example([b"0\r\n", b"x", b":", b" ", b"\t", b'"'], b"\r\n\r\n", 1)
def test_what_is_accepted_has_one_meaning(parts: list[bytes], tail: bytes, step: int):
    """Whatever passes, in any segments, llhttp reads as the same content."""
    data = b"".join(parts) + tail
    reader, body, rest, at = ChunkedReader(10_000), b"", b"", 0
    try:
        while at < len(data) and not reader.complete:
            piece, rest = reader.feed(data[at : at + step])
            body, at = body + piece, min(at + step, len(data))
    except RefusalError:
        return
    if reader.complete:
        assert _Llhttp().feed(data[: at - len(rest)]) == body


def test_every_line_of_a_list_header_counts():
    """What the policy judges is what the upstream reads; of other headers the last line is taken."""
    headers = [
        (b"Host", b"a"),
        (b"Content-Encoding", b"br"),
        (b"X-App", b"one"),
        (b"content-encoding", b"identity"),
        (b"X-App", b"two"),
    ]
    head = read_request_head(b"POST", b"/", "1.1", headers, frozenset((b"content-encoding", b"x-app")))
    assert head.named == {b"content-encoding": b"br, identity", b"x-app": b"two"}
