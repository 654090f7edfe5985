"""The observer finds the facts of every golden answer at any chunking, stamps them with the right read, and cannot hurt."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.observer import Observer
from proxy.record import ResponseFacts, Usage
from proxy.wire.dialects import DIALECTS, match
from tests.support.answers import golden, without_stamps
from tests.support.encodings import PACK
from tests.support.records import START_NS, make_record
from tests.support.sse import cut_at, one_by_one

CHAT = match(b"/v1/chat/completions")
STREAMS = [(dialect, answer) for dialect in DIALECTS for answer in golden(dialect.name, "sse")]
ANSWERS = [(dialect, answer) for dialect in DIALECTS for answer in golden(dialect.name, "json")]
ROLE = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TOKEN = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
REASONING = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"reasoning_content":"a"}}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


def each(goldens):
    """One case for each golden answer, named after it."""
    names = [f"{dialect.name}-{answer.name}" for dialect, answer in goldens]
    return pytest.mark.parametrize(("dialect", "answer"), goldens, ids=names)


def observer(dialect=CHAT, *, event_stream=True, content_encoding="", event_bytes=1 << 20, body_bytes=1 << 20):
    """An observer with roomy bounds."""
    return Observer(
        dialect,
        event_stream=event_stream,
        content_encoding=content_encoding,
        event_bytes=event_bytes,
        body_bytes=body_bytes,
    )


def observed(reads, **kinds):
    """Facts of these reads, which arrive at 10, 20, 30 …; the end is at 1000000."""
    reader = observer(**kinds)
    for number, read in enumerate(reads, 1):
        reader.feed(read, number * 10)
    return reader.finish(1_000_000)


@each(STREAMS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_a_golden_stream_has_its_facts_at_any_chunking(dialect, answer, line_end):
    """Whole, byte by byte, and at every split point; in every line end."""
    stream = answer.body.replace(b"\n", line_end)
    splits = range(0, len(stream), max(len(stream) // 2000, 1))
    for reads in ([stream], one_by_one(stream), *([stream[:at], stream[at:]] for at in splits)):
        assert without_stamps(observed(reads, dialect=dialect)) == answer.facts


@each(ANSWERS)
def test_a_golden_answer_has_its_facts_at_any_chunking(dialect, answer):
    """Without a stream there is no first token and no pause."""
    for reads in ([answer.body], one_by_one(answer.body)):
        facts = observed(reads, dialect=dialect, event_stream=False)
        assert facts == answer.facts._replace(first_chunk_ns=10, end_ns=len(reads) * 10)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@each(STREAMS + ANSWERS)
def test_a_packed_answer_has_the_same_facts(dialect, answer, coding):
    """A copy is decoded, whatever the reads."""
    packed = answer.body
    for name in coding.split(", "):
        packed = PACK[name](packed)
    for reads in ([packed], one_by_one(packed)):
        stream = (dialect, answer) in STREAMS
        facts = observed(reads, dialect=dialect, event_stream=stream, content_encoding=coding)
        assert without_stamps(facts) == answer.facts


def test_a_role_is_no_token_and_stamps_are_those_of_the_completing_read():
    """The role-only event starts no clock; an event split over reads has the stamp of its last one."""
    facts = observed([ROLE, b": ping\n\n", TOKEN[:20], TOKEN[20:], TOKEN, STOP, b"data: [DONE]\n\n"])
    assert facts == ResponseFacts(
        response_id="c",
        response_model="m",
        finish_reasons=("stop",),
        terminal_seen=True,
        events=5,
        generated_events=2,
        first_chunk_ns=10,
        first_token_ns=40,
        first_answer_ns=40,
        last_token_ns=50,
        end_ns=70,
        max_gap_ns=10,
    )


def test_the_first_answer_is_the_first_token_that_is_no_reasoning():
    """Reasoning starts the one clock, the answer the other."""
    facts = observed([ROLE, REASONING, REASONING, TOKEN, TOKEN])
    assert (facts.first_token_ns, facts.first_answer_ns, facts.last_token_ns) == (20, 40, 50)
    assert facts.reasoning_streamed
    facts = observed([REASONING])
    assert (facts.first_token_ns, facts.first_answer_ns, facts.last_token_ns) == (10, None, 10)


def test_a_token_without_text_starts_the_clock_but_is_no_visible_answer():
    """Only its id or log probability came."""
    reads = [b'data: {"choices":[{"index":0,"delta":{},"token_ids":[5]}]}\n\n', TOKEN]
    facts = observed(reads)
    assert (facts.first_token_ns, facts.first_answer_ns, facts.generated_events) == (10, 20, 2)


@pytest.mark.parametrize(
    ("delta", "answers"),
    [
        ({"content": "a"}, True),
        ({"role": "assistant", "content": "a"}, True),
        ({"reasoning_content": "a"}, False),
        ({"reasoning": "a", "content": ""}, False),
        ({"reasoning": "a", "content": "b"}, True),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, False),
        ({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}, True),
        ({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}, True),
        ({"tool_calls": [{"index": 0, "type": "custom", "custom": {"input": "{"}}]}, True),
        ({"function_call": {"arguments": "{"}}, True),
        ({"refusal": "no"}, True),
        ({"audio": {"data": "AA"}}, True),
        ({"audio": {"transcript": "a"}}, True),
        ({"content": [{"type": "text", "text": "a"}]}, True),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]}, False),
    ],
)
def test_each_kind_of_token_starts_the_right_clocks(delta, answers):
    """Every generated token starts the first; all but reasoning start the second."""
    event = b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"
    facts = observed([ROLE, event])
    assert (facts.first_token_ns, facts.first_answer_ns) == (20, 20 if answers else None)


@pytest.mark.parametrize(
    "delta",
    [
        {},
        {"role": "assistant"},
        {"role": "assistant", "content": None, "refusal": None},
        {"content": "", "reasoning_content": "", "reasoning": None, "reasoning_details": []},
        {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "", "arguments": ""}}]},
        {"tool_calls": []},
        {"function_call": None, "audio": {"id": "audio_1", "expires_at": 1}},
        {"content": []},
        {"token_ids": [], "logprobs": {"content": []}},
    ],
)
def test_what_was_not_generated_is_no_token(delta):
    """Roles, empty texts, ids and placeholders."""
    event = b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "logprobs": None}]}).encode() + b"\n\n"
    facts = observed([event])
    assert (facts.events, facts.generated_events, facts.first_token_ns, facts.last_token_ns) == (1, 0, None, None)


def test_an_event_of_several_tokens_counts_once():
    """Two choices in one event are one event."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}]}\n\n'
    assert observed([event]).generated_events == 1


def test_any_choice_starts_the_clock():
    """Not only the first one."""
    facts = observed([ROLE, b'data: {"choices":[{"index":0,"delta":{}},{"index":3,"delta":{"content":"b"}}]}\n\n'])
    assert (facts.first_token_ns, facts.first_answer_ns) == (20, 20)


def test_the_last_usage_that_says_something_wins():
    """Nulls and placeholder zeros never replace counts, and counts are never summed."""
    usages = ["null", '{"prompt_tokens":3,"completion_tokens":1}', '{"prompt_tokens":3,"completion_tokens":2}', "null"]
    usages.append('{"prompt_tokens":0,"completion_tokens":0}')
    facts = observed([b'data: {"choices":[],"usage":%b}\n\n' % usage.encode() for usage in usages])
    assert facts.usage == Usage(input_tokens=3, output_tokens=2)


def test_checkpoints_are_every_64_events_and_thinned_to_256():
    """Every second one goes and the stride doubles."""
    assert observed([TOKEN] * 200).checkpoints == ((64, 640), (128, 1280), (192, 1920))
    at_limit = observed([TOKEN] * 64 * 256).checkpoints
    assert at_limit == tuple((64 * n, 640 * n) for n in range(1, 257))
    thinned = observed([TOKEN] * 64 * 260).checkpoints
    assert thinned == tuple((128 * n, 1280 * n) for n in range(1, 131))
    assert len(observed([TOKEN] * 64 * 600).checkpoints) <= 256


def test_the_longest_pause_is_between_two_reads_of_a_stream():
    """One read has no pause; an empty read is none."""
    reader = observer()
    for data, at_ns in ((TOKEN, 5), (b"", 7), (TOKEN, 30), (TOKEN, 40)):
        reader.feed(data, at_ns)
    facts = reader.finish(999)
    assert (facts.max_gap_ns, facts.first_chunk_ns, facts.end_ns) == (25, 5, 40)
    assert observed([TOKEN]).max_gap_ns is None


def test_finishing_twice_gives_the_first_facts():
    """What comes after the end changes nothing."""
    reader = observer()
    reader.feed(TOKEN, 1)
    first = reader.finish(2)
    reader.feed(TOKEN, 3)
    assert reader.finish(4) is first
    assert (first.events, first.end_ns) == (1, 1)


def test_without_a_byte_the_end_is_the_moment_of_the_end():
    """Nothing else is known."""
    for kinds in ({}, {"event_stream": False}, {"dialect": None}, {"content_encoding": "gzip"}):
        assert observer(**kinds).finish(7) == ResponseFacts(end_ns=7)


def test_without_a_dialect_there_are_only_stamps():
    """Opaque answers are timed, not read, whatever their coding."""
    facts = observed([TOKEN, TOKEN], dialect=None, content_encoding="br")
    assert facts == ResponseFacts(first_chunk_ns=10, end_ns=20, max_gap_ns=10)
    facts = observed([TOKEN, TOKEN], dialect=None, event_stream=False)
    assert facts == ResponseFacts(first_chunk_ns=10, end_ns=20)


@pytest.mark.parametrize(
    ("reads", "kinds", "degraded"),
    [
        ([TOKEN], {"content_encoding": "x"}, "content_encoding"),
        ([b"no gzip", TOKEN], {"content_encoding": "gzip"}, "content_encoding"),
        ([b"data: " + b"x" * 200, TOKEN], {"event_bytes": 100}, "event_too_large"),
        ([b"data: " + b"x" * 200 + b"\n\n", TOKEN], {"event_bytes": 100}, "event_too_large"),
        ([b"{" * 60, b"{" * 60], {"event_stream": False, "body_bytes": 100}, "body_too_large"),
        ([b"{" * 60], {"event_stream": False}, "invalid_json"),
        ([b"[]"], {"event_stream": False}, "not_object"),
        ([b"data: {\n\n"], {}, "invalid_event"),
    ],
)
def test_trouble_is_said_and_the_stamps_go_on(reads, kinds, degraded):
    """Reading stops, or goes on without the part; nothing raises, nothing is kept."""
    facts = observed([*reads, b" "], **kinds)
    assert (facts.degraded, facts.first_chunk_ns, facts.end_ns) == (degraded, 10, 10 * len(reads) + 10)
    assert facts.generated_events == 0


def test_what_was_read_before_trouble_stays():
    """Facts up to the long event count."""
    facts = observed([ROLE, TOKEN, b"data: " + b"x" * 200 + b"\n\n", TOKEN], event_bytes=100)
    assert (facts.events, facts.generated_events, facts.first_token_ns, facts.degraded) == (2, 1, 20, "event_too_large")


def test_an_event_that_nobody_can_read_does_not_end_the_reading():
    """The next ones are read."""
    facts = observed([b"data: oops\n\n", TOKEN])
    assert (facts.degraded, facts.events, facts.generated_events) == ("invalid_event", 2, 1)


def test_an_event_that_the_end_cut_in_two_is_no_trouble():
    """A broken stream is known by its missing end, not by `degraded`."""
    facts = observed([TOKEN, TOKEN[:30]])
    assert (facts.degraded, facts.terminal_seen, facts.generated_events) == (None, False, 1)


@pytest.mark.parametrize(
    ("path", "name"),
    [(b"/v1/responses", "in_the_background"), (b"/v1/completions", "echo_of_nothing_generated")],
)
def test_tokens_that_do_not_come_as_they_are_generated_have_no_time(path, name):
    """A response in the background, an echo: the tokens are counted, the bytes are timed."""
    dialect = match(path)
    (answer,) = (answer for answer in golden(dialect.name, "sse") if answer.name == name)
    facts = observed([answer.body, b": \n\n"], dialect=dialect)
    assert facts == answer.facts._replace(first_chunk_ns=10, end_ns=20, max_gap_ns=10)


class BrokenDialect:
    """A dialect with a mistake in it."""

    def __getattr__(self, name):
        """Whatever is asked for fails."""
        raise RuntimeError(name)


@pytest.mark.parametrize("event_stream", [True, False])
def test_a_mistake_of_ours_costs_facts_and_never_the_stream(event_stream):
    """`feed` and `finish` return, and say so."""
    facts = observed([TOKEN, TOKEN], dialect=BrokenDialect(), event_stream=event_stream)
    assert (facts.degraded, facts.first_chunk_ns, facts.end_ns) == ("internal", 10, 20)


def test_what_is_held_is_bounded():
    """Endless lines and bodies are let go."""
    for kinds in ({"event_bytes": 1000}, {"event_stream": False, "body_bytes": 1000}):
        reader = observer(**kinds)
        for at_ns in range(1000):
            reader.feed(b"x" * 100, at_ns)
        assert len(reader._body) + len(reader._splitter._line) == 0


@given(
    st.binary(max_size=80)
    | st.lists(st.sampled_from([ROLE, TOKEN, REASONING, STOP, b"data: [DONE]\n\n", b"\r", b"data: {}\n"])).map(
        b"".join
    ),
    st.lists(st.integers(0, 500), max_size=8),
    st.sampled_from(["", "gzip", "deflate", "br", "zstd", "x"]),
    st.booleans(),
    st.integers(1, 200),
)
def test_no_bytes_make_it_raise_and_facts_do_not_depend_on_chunking(stream, places, coding, event_stream, bound):
    """Arbitrary bytes in arbitrary reads, with tight bounds."""
    kinds = {"content_encoding": coding, "event_stream": event_stream, "event_bytes": bound, "body_bytes": bound}
    cut, whole = observed(cut_at(stream, places), **kinds), observed([stream], **kinds)
    assert without_stamps(cut) == without_stamps(whole)
    assert whole.degraded != "internal"


def told(reads, **kinds):
    """What the observer of these reads has for counting."""
    reader = observer(**kinds)
    for read in reads:
        reader.feed(read, 1)
    reader.finish(1)
    return reader.texts()


TEXTS = {
    "chat_completions-broken_in_the_middle": ["Hi"],
    "chat_completions-content_parts": ["HmYes"],
    "chat_completions-error_in_stream": ["Hel"],
    "chat_completions-function_call_refusal_audio_text": ["fI canHilegacy"],
    "chat_completions-one_of_two_choices_broken": ["a", "bb"],
    "chat_completions-role_first_usage_last": None,
    "chat_completions-tool_calls": ['get_weather{"city":"Paris"}'],
    "completions-one_of_two_prompts_broken": ["a", "b"],
    "completions-usage_last": None,
    "completions-without_usage": ["Once upon"],
    "responses-broken_in_the_middle": ["Hi th"],
    "responses-failed_at_once": None,
    "responses-text": None,
    "messages-broken_in_the_middle": ["Hello you"],
    "messages-text": None,
}


@each([(dialect, answer) for dialect, answer in STREAMS if f"{dialect.name}-{answer.name}" in TEXTS])
def test_the_text_of_a_stream_is_kept_where_the_provider_counted_nothing(dialect, answer):
    """By choices, in order, at any chunking, and given away once."""
    expected = TEXTS[f"{dialect.name}-{answer.name}"]
    for reads in ([answer.body], one_by_one(answer.body)):
        assert told(reads, dialect=dialect) == expected
    reader = observer(dialect)
    reader.feed(answer.body, 1)
    assert reader.texts() is None
    reader.finish(1)
    reader.texts()
    assert not reader.texts()


@pytest.mark.parametrize(
    ("dialect", "body", "texts"),
    [
        ("chat", {"choices": [{"message": {"content": "a", "reasoning": "b"}}, {"message": {"refusal": "c"}}]}, ["ba", "c"]),
        ("chat", {"choices": [{"message": {"content": "a"}}], "usage": {"completion_tokens": 1}}, None),
        ("chat", {"choices": [{"message": {"content": ""}}]}, None),
        ("chat", {"choices": [{"message": "a"}, 1, {"text": 5}]}, None),
        ("", {"choices": [{"text": "a"}, {"text": "b"}]}, ["a", "b"]),
        ("responses", {"status": "completed", "output": [{"content": [{"text": "a"}]}, {"name": "f", "arguments": "b"}]}, ["afb"]),
        ("messages", {"content": [{"type": "thinking", "thinking": "a"}, {"type": "text", "text": "b"}]}, ["ab"]),
    ],
)  # fmt: skip
def test_so_is_that_of_a_whole_answer(dialect, body, texts):
    """Where it could be read."""
    path = b"/v1/" + {"chat": b"chat/completions", "": b"completions"}.get(dialect, dialect.encode())
    assert told([json.dumps(body).encode()], dialect=match(path), event_stream=False) == texts


def test_tokens_without_text_are_left_to_the_events():
    """Withheld text, and text beyond the bound, in one piece or in many: there were tokens, and nothing to count them by."""
    withheld = b'data: {"choices":[{"index":0,"delta":{},"token_ids":[5]}]}\n\n'
    assert told([withheld]) == []
    assert told([TOKEN.replace(b'"a"', b'"%b"' % (b"a" * 262_144))]) == ["a" * 262_144]
    assert told([TOKEN.replace(b'"a"', b'"%b"' % (b"a" * 262_145))]) == []
    long = TOKEN.replace(b'"a"', b'"%b"' % (b"a" * 100))
    assert told([long] * 2621) == ["a" * 262_100]
    assert told([long] * 2622) == []


def test_what_is_kept_of_a_text_is_bounded():
    """At any time: pieces become one, a stream that is too long is let go, and choices cost too."""
    reader = observer()
    for _ in range(10_000):
        reader.feed(TOKEN, 1)
        assert len(reader._reading.texts[0]) < 1000
    for _ in range(20_000):
        reader.feed(TOKEN.replace(b'"a"', b'"%b"' % (b"a" * 100)), 1)
    assert reader._reading.texts is None
    many = observer()
    for index in range(10_000):
        many.feed(TOKEN.replace(b'"index":0', b'"index":%d' % index), 1)
    assert many._reading.texts is None


@pytest.mark.parametrize("trouble", [b"data: " + b"x" * (1 << 20) + b"\n\n"])
def test_an_observer_that_stopped_reading_has_nothing_to_count(trouble):
    """A part of a text would be a wrong count."""
    assert told([TOKEN, trouble, TOKEN]) is None
    assert told([TOKEN], content_encoding="unknown") is None
    assert told([TOKEN], dialect=None) is None


def test_a_character_that_two_events_divide_is_whole_in_the_text():
    """JSON may spell half of a surrogate pair; what stays half cannot be sent on and is replaced."""
    halves = [TOKEN.replace(b'"a"', half) for half in (b'"\\ud83d"', b'"\\ude00"', b'"\\ud83d"')]
    assert told(halves) == ["\U0001f600\ufffd"]


def test_ttft_and_tpot_of_a_scripted_stream_are_those_computed_by_hand():
    """Sent at 3 ms; the role at 100, tokens at 180, 200, 240 and 300 ms: TTFT 177 ms, not 97, and 40 ms for each further token."""
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":4,"total_tokens":6}}\n\n'
    script = [(100, ROLE), (180, TOKEN), (200, TOKEN), (240, TOKEN), (300, TOKEN), (310, STOP), (320, usage)]
    reader = observer()
    for at_ms, event in script:
        reader.feed(event, START_NS + at_ms * 1_000_000)
    record = make_record(request_sent_ns=START_NS + 3_000_000, response=reader.finish(START_NS + 330_000_000))
    assert (record.ttfc_s, record.ttft_s, record.last_token_s, record.e2e_s) == (0.097, 0.177, 0.297, 0.317)
    assert record.tpot_s == 0.12 / 3


@pytest.mark.parametrize("event_stream", [True, False])
@pytest.mark.parametrize("piece", [b"data: " + b"x" * 8186, b"x" * 8192, b": c\n" * 2048, b"data:\n" * 1365])
def test_endless_bytes_are_not_kept(piece, event_stream):
    """16 MiB of a line, a body, comments or empty data that never end: no more than a few times the bound is held."""
    reader = observer(event_stream=event_stream, event_bytes=1 << 16, body_bytes=1 << 16)
    tracemalloc.start()
    try:
        for number in range(2048):
            reader.feed(piece, number)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20
