"""What an event brings can be told by its bytes only where parsing it would say the same."""

from collections.abc import Iterable

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.observe.observer import Observer
from proxy.record import ResponseFacts
from proxy.wire.dialects import match
from proxy.wire.dialects.alike import Alike, alike_to
from proxy.wire.sse import UsageCutter

CHAT, COMPLETIONS = match(b"/v1/chat/completions"), match(b"/v1/completions")


def learned(data: bytes) -> Alike | None:
    """What events like this one have in common."""
    chunk = orjson.loads(data)
    alike = alike_to(data, chunk, chunk["choices"][0]["delta"], "content")
    if alike is not None:
        alike.most_bytes = MOST_BYTES
    return alike


def chunk(content: str, **more: object) -> bytes:
    """An event of a chat completion."""
    return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": content}}], **more}) + b"\n\n"


MOST_BYTES = 200
ROOM = MOST_BYTES - len(chunk(""))


def data_of(event: bytes) -> bytes:
    """Its data."""
    return event[6:-2]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (chunk("two"), "two"),
        (chunk("héé 世界 😀"), "héé 世界 😀"),
        (chunk(""), None),  # no token
        (chunk("x" * ROOM), "x" * ROOM),
        (chunk("x" * (ROOM + 1)), None),  # longer than is read
        (chunk('a "quote"'), None),
        (chunk("a\\b"), None),
        (chunk("line\n"), None),
        (chunk("two").replace(b"two", b"two\x07"), None),  # no JSON
        (chunk("two").replace(b"two", b"tw\xff"), None),  # no UTF-8
        (chunk("two", usage=None), None),
        (chunk("two")[:-1], None),
        (chunk("two") + b"\n", None),
        (chunk("two") + chunk("three"), None),
        (b" " + chunk("two"), None),
        (chunk("two").replace(b"two", b'two"}},{"index":1,"delta":{"content":"x'), None),
    ],
)
def test_an_event_that_differs_in_its_text_alone_gives_it(event, text):
    """Anything else has to be parsed."""
    alike = learned(data_of(chunk("one")))
    assert alike is not None
    assert alike.text_of(event) == text


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (chunk("two", obfuscation="Zx81"), "two"),
        (chunk("two", obfuscation="q"), "two"),
        (chunk("two", obfuscation=""), None),
        (chunk("two", obfuscation='a"b'), None),
        (chunk("two", obfuscation="ab") + chunk("three", obfuscation="ab"), None),
        (chunk("two"), None),
    ],
)
def test_a_padding_may_differ_too(event, text):
    """OpenAI pads events with characters that mean nothing."""
    alike = learned(data_of(chunk("one", obfuscation="abc")))
    assert alike is not None
    assert alike.text_of(event) == text


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"\\u0069ndex"},"index":0}]}',  # the only "index" is a name
        b'{"choices":[{"delta":{"content":"content"}}]}',  # the name comes first
        b'{"choices":[{"delta":{"content":"a","content":"\\u0061"}}]}',  # the last of two counts
        b'{"id":"m","choices":[{"delta":{"content":"m"}}]}',
        b'{"choices":[{"delta":{"content":"\\n"}}]}',
        b'{"obfuscation":"ab","choices":[{"delta":{"content":"m"}}]}',  # the padding comes first
        b'{"choices":[{"delta":{"content":"\\ud800"}}]}',
        b'{"id":"lengthwise","choices":[{"delta":{"content":"lengthwise"}}]}',  # what is put there to try it
        b'{"choices":[{"delta":{"content":"a"}}],"model":"lengthwise","obfuscation":"lengthwise"}',
        b'{\n"choices":[{"delta":{"content":"a"}}]}',  # of two lines, which one line is not
    ],
)
def test_where_the_text_stands_has_to_be_sure(data):
    """A name, or another value, that reads the same is no text."""
    parsed = orjson.loads(data.replace(b"\\ud800", b"?"))
    if b"ud800" in data:
        parsed["choices"][0]["delta"]["content"] = "\ud800"
    before = orjson.dumps(parsed, default=str) if b"ud800" not in data else None
    assert alike_to(data, parsed, parsed["choices"][0]["delta"], "content") is None
    assert before is None or orjson.dumps(parsed) == before  # it is as it was


def test_a_padding_that_is_no_text_is_none():
    """It is as fixed as the rest."""
    alike = learned(data_of(chunk("one", obfuscation={"a": 1})))
    assert alike is not None
    assert alike.text_of(chunk("two", obfuscation={"a": 1})) == "two"


def test_what_was_parsed_is_left_as_it_was():
    """The probe is taken out again."""
    data = data_of(chunk("one", obfuscation="abc"))
    parsed = orjson.loads(data)
    alike_to(data, parsed, parsed["choices"][0]["delta"], "content")
    assert parsed == orjson.loads(data)


texts = st.text(st.sampled_from('ab"\\\n\x00é世😀 }{,:'), max_size=4)
kinds = st.fixed_dictionaries(
    {"index": st.sampled_from([0, 0, 0, 1]), "content": texts},
    optional={"finish": st.just("stop"), "usage": st.just({"completion_tokens": 3}), "pad": texts, "id": st.just("x")},
)


def event_of(kind: dict[str, object], path: str) -> bytes:
    """One event, with whatever it has of the rarer members."""
    choice: dict[str, object] = {"index": kind["index"], "finish_reason": kind.get("finish")}
    if path == "chat":
        choice["delta"] = {"content": kind["content"]}
    else:
        choice["text"] = kind["content"]
    data: dict[str, object] = {"choices": [choice]}
    data |= {"usage": kind["usage"]} if "usage" in kind else {}
    data |= {"obfuscation": kind["pad"]} if "pad" in kind else {}
    data |= {"id": kind["id"]} if "id" in kind else {}
    return b"data: " + orjson.dumps(data) + b"\n\n"


def read(
    events: Iterable[bytes], path: str = "chat", *, tries: int = 4, event_bytes: int = 1 << 20
) -> tuple[ResponseFacts, list[str] | None]:
    """Facts and texts of a stream, one event in each read; with no tries every event is parsed."""
    observer = Observer(
        CHAT if path == "chat" else COMPLETIONS,
        event_stream=True,
        content_encoding="",
        event_bytes=event_bytes,
        body_bytes=1 << 20,
    )
    observer._reading.alike_tries = tries
    for number, event in enumerate(events):
        observer.feed(event, number)
    return observer.finish(1000), observer.texts()


@given(st.lists(kinds, max_size=30), st.sampled_from(["chat", "completions"]), st.sampled_from([66, 80, 1 << 20]))
@example([{"index": 0, "content": "a"}, {"index": 0, "content": "a"}, {"index": 0, "content": "b" * 9}], "chat", 80)
def test_facts_and_texts_are_those_of_parsing_every_event(kinds, path, bound):
    """Whatever the events are, what is told by bytes is what parsing tells, stamps included."""
    events = [event_of(kind, path) for kind in kinds]
    assert read(events, path, event_bytes=bound) == read(events, path, event_bytes=bound, tries=0)


def test_so_are_those_of_more_choices_than_are_followed():
    """One that is not followed while others are open is so when they have ended: each of its events counts."""

    def event(index: int, **more: object) -> bytes:
        choice = {"index": index, "delta": {"content": "a"}} | more
        return b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"

    events = [event(index, delta={"role": "assistant"}) for index in range(1024)]
    events += [event(1024), *(event(index, finish_reason="stop") for index in range(1024)), event(1024)]
    assert read(events) == read(events, tries=0)


def test_so_are_those_of_an_event_that_is_nested_deeper_than_is_compared():
    """It is parsed, and so is every one like it."""
    events = [chunk(text, more=0).replace(b"0}\n", b"[" * 1000 + b"]" * 1000 + b"}\n") for text in ("one", "two")]
    facts, texts = read(events)
    assert (facts.degraded, facts.generated_events, texts) == (None, 2, ["onetwo"])
    assert (facts, texts) == read(events, tries=0)


def test_texts_with_escapes_take_nothing_away():
    """Many answers begin with a word and a line's end, and go on for long."""
    observer = Observer(CHAT, event_stream=True, content_encoding="", event_bytes=1 << 20, body_bytes=1 << 20)
    for event in (chunk("one"), *[chunk("\n")] * 9):
        observer.feed(event, 1)
    assert observer.usual is not None
    assert observer.usual.text_of(chunk("two")) == "two"


@pytest.mark.parametrize("more", range(-3, 4))
def test_what_a_cutter_lets_go_of_is_not_told_by_its_bytes(more):
    """It would pass the cutter, which would go on cutting or not as the reads happen to be."""
    first, event = chunk("a"), chunk("b" * 100)
    observer = Observer(CHAT, event_stream=True, content_encoding="", event_bytes=len(event) + more, body_bytes=1 << 20)
    cutter = UsageCutter(CHAT.is_extra_usage, len(event) + more)
    observer.feed(first, 1)
    assert cutter.feed(first) == first
    assert observer.usual is not None
    told = observer.usual.text_of(event) is not None
    assert cutter.feed(event) == event
    assert told == (cutter.degraded is None)
