"""Every derived time is what its definition says, and a record survives the way to the recorder."""

import orjson
import pytest

from proxy.record import (
    Action,
    Decision,
    End,
    ExchangeRecord,
    RequestFacts,
    ResponseFacts,
    ShadowDecision,
    Usage,
    end_of_refusal,
    from_line,
    to_line,
)
from tests.support.records import START_NS, STARTED_UNIX_NS, at, make_record

BARE = {
    "request": RequestFacts("opaque"),
    "decision": Decision(),
    "response": ResponseFacts(),
    "request_complete_ns": None,
    "connected_ns": None,
    "connect_started_ns": None,
    "request_sent_ns": None,
    "headers_ns": None,
    "first_write_ns": None,
}


def response(**changes):
    """A record whose response differs."""
    return make_record(response=changes)


def test_each_time_is_counted_from_the_sent_request():
    """The story of the default record: sent at 3 ms."""
    record = make_record()
    record = record._replace(
        request_sent_ns=at(3),
        headers_ns=at(200),
        response=record.response._replace(
            first_chunk_ns=at(210),
            first_token_ns=at(290),
            first_answer_ns=at(400),
            last_token_ns=at(1560),
            end_ns=at(1570),
        ),
    )
    times = (record.ttfc_s, record.ttft_s, record.ttfa_s, record.last_token_s, record.e2e_s, record.time_to_headers_s)
    assert times == (0.207, 0.287, 0.397, 1.557, 1.567, 0.197)
    unsent = record._replace(request_sent_ns=None)
    assert (unsent.ttfc_s, unsent.ttft_s, unsent.e2e_s, unsent.time_to_headers_s) == (None, None, None, None)


def test_a_duration_is_from_the_first_byte_to_the_end():
    """Upstream or not."""
    record = make_record(ended_ns=at(1571))
    assert (record.duration_s, record.started_at_s) == (1.571, STARTED_UNIX_NS / 1e9)
    assert record.unix_ns(START_NS + 5) == STARTED_UNIX_NS + 5


@pytest.mark.parametrize(
    ("usage", "reasoning_streamed", "choices", "decoded"),
    [
        (Usage(output_tokens=101), False, 1, 101),
        (Usage(output_tokens=101, reasoning_tokens=40), False, 1, 61),
        (Usage(output_tokens=101, reasoning_tokens=40), True, 1, 101),
        (Usage(output_tokens=5, reasoning_tokens=9), False, 1, 0),
        (Usage(output_tokens=101), False, 2, None),
        (Usage(output_tokens=101), False, None, None),
        (Usage(input_tokens=4), False, 1, None),
        (None, False, 1, None),
    ],
)
def test_decoded_tokens_are_those_that_the_stream_could_show(usage, reasoning_streamed, choices, decoded):
    """Less hidden reasoning; unknown for several choices."""
    record = make_record(
        request={"choices": choices}, response={"usage": usage, "reasoning_streamed": reasoning_streamed}
    )
    assert record.decoded_tokens == decoded


def test_time_per_output_token_needs_two_tokens_and_a_stream():
    """(last - first) / (decoded - 1)."""
    stamps = {"first_token_ns": at(100), "last_token_ns": at(1100), "usage": Usage(output_tokens=101)}
    assert response(**stamps).tpot_s == 0.01
    assert response(**stamps | {"usage": Usage(output_tokens=101, reasoning_tokens=50)}).tpot_s == 0.02
    assert response(**stamps | {"usage": Usage(output_tokens=1)}).tpot_s is None
    assert response(**stamps | {"usage": None}).tpot_s is None
    assert response(**stamps | {"first_token_ns": None}).tpot_s is None
    assert response(**stamps | {"last_token_ns": None}).tpot_s is None
    assert make_record(streamed=False, response=stamps).tpot_s is None


@pytest.mark.parametrize(
    ("reasons", "action", "words", "cut", "by"),
    [
        ((), Action.CAPPED, (), None, None),
        (("stop",), Action.CAPPED, ("stop",), False, None),
        (("stop", "length"), Action.CAPPED, ("stop", "length"), True, "policy"),
        (("length",), Action.INSERTED, ("length",), True, "policy"),
        (("length",), Action.NONE, ("length",), True, "client"),
        (("length",), Action.UNDECIDED, ("length",), True, "client"),
        (("function_call", "weird"), Action.NONE, ("tool_calls", "other"), False, None),
        (("max_output_tokens",), Action.CAPPED, ("length",), True, "policy"),
        (("max_tokens",), Action.NONE, ("length",), True, "client"),
        (("completed",), Action.CAPPED, ("stop",), False, None),
        (
            ("end_turn", "tool_use", "refusal", "pause_turn"),
            Action.NONE,
            ("stop", "tool_calls", "content_filter", "other"),
            False,
            None,
        ),
    ],
)
def test_an_answer_is_cut_when_any_choice_ended_at_the_limit(reasons, action, words, cut, by):
    """By the policy when it set the limit, else by the client's own."""
    request = {"limits": (("max_tokens", 900),)}
    decision = {"action": action, "forwarded_max_tokens": 512}
    record = make_record(response={"finish_reasons": reasons}, request=request, decision=decision)
    assert (record.finish_words, record.cut, record.truncated_by) == (words, cut, by)


def test_a_cap_of_a_field_that_is_not_in_force_cuts_nothing():
    """The client's own smaller limit did, although the policy lowered the larger one beside it."""
    request = {"limits": (("max_completion_tokens", 10), ("max_tokens", 9999))}
    decision = {"action": Action.CAPPED, "forwarded_max_tokens": 10}
    record = make_record(response={"finish_reasons": ("length",)}, request=request, decision=decision)
    assert record.truncated_by == "client"


def test_utilization_and_slack_are_of_the_forwarded_limit():
    """For one choice only."""
    used = {"usage": Usage(output_tokens=128)}
    record = make_record(decision={"forwarded_max_tokens": 512}, response=used)
    assert (record.output_tokens, record.utilization, record.slack_tokens) == (128, 0.25, 384)
    several = make_record(decision={"forwarded_max_tokens": 512}, response=used, request={"choices": 2})
    assert (several.utilization, several.slack_tokens) == (None, None)
    without = make_record(decision={"forwarded_max_tokens": None}, response=used)
    assert (without.utilization, without.slack_tokens) == (None, None)
    silent = make_record(decision={"forwarded_max_tokens": 512}, response={"usage": None})
    assert (silent.output_tokens, silent.utilization, silent.slack_tokens) == (None, None, None)
    assert make_record(decision={"forwarded_max_tokens": 0}, response=used).utilization is None


def test_checkpoints_are_scaled_to_tokens():
    """The last generated event is the last token."""
    record = make_record(
        request_sent_ns=at(0),
        response={
            "generated_events": 128,
            "usage": Usage(output_tokens=256),
            "checkpoints": ((64, at(500)), (128, at(1000))),
        },
    )
    assert record.checkpoints_s == ((128, 0.5), (256, 1.0))
    assert record._replace(request_sent_ns=None).checkpoints_s == ()
    assert record._replace(response=record.response._replace(usage=None)).checkpoints_s == ()


def test_our_own_time_is_request_and_first_chunk_without_connecting():
    """Both directions as far as they are known, never negative."""
    record = make_record(
        request_complete_ns=at(1),
        connect_started_ns=at(1),
        connected_ns=at(2.5),
        request_sent_ns=at(3),
        response={"first_chunk_ns": at(210)},
        first_write_ns=at(210.25),
        client_blocked_ns=5_000_000,
    )
    assert (record.overhead_request_s, record.overhead_first_chunk_s, record.overhead_s) == (0.0005, 0.00025, 0.00075)
    assert (record.connect_time_s, record.client_blocked_s) == (0.0015, 0.005)
    pooled = record._replace(connected_ns=None)
    assert (pooled.overhead_request_s, pooled.connect_time_s) == (0.002, None)
    assert record._replace(request_sent_ns=at(2)).overhead_request_s == 0
    assert pooled._replace(repeated_ns=at(2.5)).overhead_request_s == 0.0005  # of the final attempt alone
    assert record._replace(first_write_ns=None).overhead_s == 0.0005
    assert record._replace(first_write_ns=None, request_sent_ns=None).overhead_s is None


def test_an_estimate_stands_in_where_the_provider_counted_nothing():
    """For every derived number; reasoning that was not streamed is not in it, so nothing is taken off."""
    estimated = {"usage_source": "estimated", "estimated_output_tokens": 100}
    silent = make_record(response={"usage": None}, **estimated)
    assert (silent.output_tokens, silent.decoded_tokens) == (100, 100)
    assert (silent.slack_tokens, silent.utilization, silent.tpot_s) == (412, 100 / 512, 1.27 / 99)
    assert silent.checkpoints_s[-1][0] == 100
    half_told = {"usage": Usage(input_tokens=5, reasoning_tokens=7)}
    assert make_record(response=half_told, **estimated).decoded_tokens == 100
    assert silent._replace(request=silent.request._replace(choices=2)).decoded_tokens is None
    assert make_record(estimated_output_tokens=5).output_tokens == 128


def test_nothing_is_derived_from_nothing():
    """A refused exchange has a duration and no other time."""
    record = make_record(**BARE)
    derived = [
        name
        for name in vars(ExchangeRecord)
        if (name.endswith("_s") and name[0] != "_") or name in {"cut", "utilization", "slack_tokens"}
    ]
    known = {name: getattr(record, name) for name in derived if getattr(record, name) not in {None, ()}}
    assert known == {
        "started_at_s": record.started_at_s,
        "duration_s": record.duration_s,
        "client_blocked_s": record.client_blocked_s,
    }


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (400, End.REJECTED),
        (431, End.REJECTED),
        (505, End.REJECTED),
        (502, End.UPSTREAM_ERROR),
        (503, End.SHED),
        (504, End.TIMEOUT),
    ],
)
def test_a_refusal_ends_by_its_status(status, end):
    """Ours and the upstream's faults are told apart."""
    assert end_of_refusal(status) == end


def test_the_limit_in_force_is_the_one_that_is_read_first():
    """None without any."""
    facts = RequestFacts("chat_completions", limits=(("max_completion_tokens", 5), ("max_tokens", 9)))
    assert (facts.limit_field, facts.requested_max_tokens) == ("max_completion_tokens", 5)
    assert (RequestFacts("x").limit_field, RequestFacts("x").requested_max_tokens) == (None, None)


FULL = make_record(
    estimated_output_tokens=7,
    decision=Decision(Action.CAPPED, "r", 64, "max_tokens", "a", (ShadowDecision("s", Action.INSERTED, None),)),
    request={"limits": (("max_completion_tokens", 9), ("max_tokens", 5))},
    response={"checkpoints": ((64, 5),), "finish_reasons": ("stop", "length"), "usage": Usage(1, 2, 3, 4, 5)},
)


@pytest.mark.parametrize("record", [make_record(), make_record(**BARE), FULL], ids=["default", "bare", "full"])
def test_a_record_survives_the_way_to_the_recorder(record):
    """Equal, with the same types, as a line and as its parsed form."""
    line = to_line(record)
    assert b"\n" not in line
    assert from_line(line) == record
    assert from_line(orjson.loads(line)) == record
    assert repr(from_line(line)) == repr(record)


@pytest.mark.parametrize("position", range(len(ExchangeRecord._fields)))
def test_a_line_without_one_of_its_fields_is_no_record(position):
    """It raises what it says, so that one bad line is counted and not more."""
    values = orjson.loads(to_line(FULL))
    del values[position]
    with pytest.raises((TypeError, ValueError)):
        from_line(values)


@pytest.mark.parametrize("name", ["request", "decision", "response"])
def test_a_line_with_a_stray_value_inside_is_no_record(name):
    """What a record does not name cannot be carried by it."""
    values = orjson.loads(to_line(FULL))
    values[ExchangeRecord._fields.index(name)].append("stray")
    with pytest.raises((TypeError, ValueError)):
        from_line(values)


def test_an_answer_that_did_not_come_whole_used_no_share_of_its_limit():
    """How much of the limit it would have used is unknown."""
    record = make_record(end=End.CLIENT_DISCONNECT)
    assert (make_record().utilization, make_record().slack_tokens) == (0.25, 384)
    assert (record.utilization, record.slack_tokens) == (None, None)
