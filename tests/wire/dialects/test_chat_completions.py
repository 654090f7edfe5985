"""Chat requests are read, and limits and usage are spliced into them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.record import Action, Decision, RequestFacts
from proxy.wire.dialects import match

CHAT = match(b"/v1/chat/completions")
FIELDS = ("max_completion_tokens", "max_tokens")


def facts(**changes):
    """Facts of a chat request."""
    return RequestFacts("chat_completions", **changes)


def rewritten(body, action=Action.NONE, tokens=None, field=None, *, ask_usage=False):
    """The body after a decision."""
    decision = Decision(action, "rule", tokens, field, cap_tokens=tokens)
    return CHAT.rewrite(body, CHAT.read_request(body), decision, ask_usage=ask_usage)


NO_NUMBER = facts(degraded="limit_type", degraded_field="max_tokens")
NO_COUNT = facts(choices=None, degraded="choices_type", degraded_field="n")
TWICE = facts(limits=(("max_tokens", 9),), degraded="limit_twice", degraded_field="max_tokens")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", facts()),
        (b'{"model":"gpt-4o","stream":true,"max_tokens":7}', facts(model="gpt-4o", stream=True, limits=(("max_tokens", 7),))),
        (b'{"stream":"true","n":null}', facts(degraded="stream_type", degraded_field="stream")),
        (b'{"stream":1}', facts(degraded="stream_type", degraded_field="stream")),
        (b'{"stream":null,"model":null}', facts()),
        (b'{"model":5}', facts(degraded="model_type", degraded_field="model")),
        (b'{"max_tokens":9,"max_completion_tokens":8}', facts(limits=(("max_completion_tokens", 8), ("max_tokens", 9)))),
        (b'{"max_tokens":null}', facts()),
        (b'{"max_tokens":1024.0}', facts(limits=(("max_tokens", 1024),))),
        (b'{"max_tokens":1e3}', facts(limits=(("max_tokens", 1000),))),
        (b'{"max_tokens":0}', facts(limits=(("max_tokens", 0),), degraded="limit_zero", degraded_field="max_tokens")),
        (b'{"max_tokens":-0.0}', facts(limits=(("max_tokens", 0),), degraded="limit_zero", degraded_field="max_tokens")),
        (b'{"max_tokens":-1}', NO_NUMBER),
        (b'{"max_tokens":true}', NO_NUMBER),
        (b'{"max_tokens":"5"}', NO_NUMBER),
        (b'{"max_tokens":5.5}', NO_NUMBER),
        (b'{"max_tokens":1e400}', NO_NUMBER),
        (b'{"max_tokens":NaN}', facts(degraded="lenient_json")),
        (b'{"temperature":-Infinity,"max_tokens":5}', facts(limits=(("max_tokens", 5),), degraded="lenient_json")),
        (b'{"n_predict":-1}', facts(limits=(("n_predict", None),))),
        (b'{"options":{"num_predict":-2}}', facts(limits=(("options.num_predict", None),))),
        (b'{"max_tokens":[5],"max_completion_tokens":6}', NO_NUMBER._replace(limits=(("max_completion_tokens", 6),))),
        (b'{"max_tokens":100000000000000000000000000}', facts(limits=(("max_tokens", 2**63 - 1),))),
        (b'{"max_tokens":5,"max_tokens":9}', TWICE),
        (b'{"max_tokens":9,"max\\u005ftokens":5}', TWICE),
        (b'{"max_tokens":9,"x":{"max_tokens":99}}', facts(limits=(("max_tokens", 9),))),
        (b'{"max_tokens":9,"x":"\\"max_tokens\\":7"}', facts(limits=(("max_tokens", 9),))),
        (b'{"n":3}', facts(choices=3)),
        (b'{"n":3,"best_of":9}', facts(choices=9)),
        (b'{"best_of":"9"}', facts(choices=None, degraded="choices_type", degraded_field="best_of")),
        (b'{"n":"3"}', NO_COUNT),
        (b'{"n":1e30,"seed":1e30}', facts(choices=2**63 - 1)),
        (b'{"n":0}', NO_COUNT),
        (b'{"stream_options":null}', facts()),
        (b'{"stream_options":{}}', facts()),
        (b'{"stream_options":{"include_usage":null}}', facts()),
        (b'{"stream_options":{"include_usage":false}}', facts(include_usage=False)),
        (b'{"stream_options":{"include_usage":true}}', facts(include_usage=True)),
        (b'{"stream_options":{"include_usage":"yes"}}', facts(include_usage=False)),
        (b'{"stream_options":[]}', facts(include_usage=False)),
        (b'{"data_sources":[{"type":"azure_search"}]}', facts(include_usage=False)),
        (b'{"data_sources":[]}', facts()),
        (
            b'{"temperature":0,"top_p":0.5,"frequency_penalty":1,"presence_penalty":-1.5,"seed":42,"service_tier":"flex"}',
            facts(temperature=0.0, top_p=0.5, frequency_penalty=1.0, presence_penalty=-1.5, seed=42, service_tier="flex"),
        ),
        (b'{"temperature":true,"top_p":"x","seed":1.5}', facts()),
        (b'{"response_format":{"type":"json_schema"}}', facts(output_type="json")),
        (b'{"response_format":{"type":"text"}}', facts(output_type="text")),
        (b'{"response_format":{"type":["x"]}}', facts()),
        (b'\xef\xbb\xbf{"model":"m"}', facts(model="m", degraded="lenient_json")),
        (b'{"model":"m","x":"\\ud800"}', facts(model="m")),
        (json.dumps({"model": "m" * 300}).encode(), facts(model="m" * 128)),
        ('{"model":"m"}'.encode("utf-16"), facts(degraded="not_utf8", choices=None)),
        ('{"model":"m"}'.encode("utf-16-le"), facts(degraded="not_utf8", choices=None)),
        ('{"model":"m"}'.encode("utf-32-be"), facts(degraded="not_utf8", choices=None)),
        (b'{"model":"\xff"}', facts(degraded="not_utf8", choices=None)),
        (b'{"model":', facts(degraded="invalid_json", choices=None)),
        (b"", facts(degraded="invalid_json", choices=None)),
        (b"[" * 100_000, facts(degraded="invalid_json", choices=None)),
        (b"[]", facts(degraded="not_object", choices=None)),
    ],
)  # fmt: skip
def test_a_request_is_read(body, expected):
    """Each shape of a body gives exactly these facts."""
    assert CHAT.read_request(body) == expected


def test_without_a_decision_the_body_is_the_same_object():
    """A request that is not changed is not copied."""
    body = b'{"max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}'
    assert rewritten(body) is body
    assert rewritten(body, ask_usage=True) is body
    assert rewritten(body, Action.UNDECIDED, 3) is body


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{ "max_tokens" :\t4096 , "x":1E5}', b'{ "max_tokens" :\t64 , "x":1E5}'),
        (b'{"max_tokens":65,"max_completion_tokens":9999}', b'{"max_tokens":64,"max_completion_tokens":64}'),
        (b'{"max_tokens":10,"max_completion_tokens":9999}', b'{"max_tokens":10,"max_completion_tokens":64}'),
        (b'{"max_tokens":5,"max_tokens":99999}', b'{"max_tokens":5,"max_tokens":64}'),
        (b'{"max\\u005ftokens":99999,"max_tokens":100}', b'{"max\\u005ftokens":64,"max_tokens":64}'),
        (b'{"max_tokens":1e30,"max_completion_tokens":2e3}', b'{"max_tokens":64,"max_completion_tokens":64}'),
        (b'{"max_tokens":null,"max_completion_tokens":2000.0}', b'{"max_tokens":null,"max_completion_tokens":64}'),
        (b'{"n_predict":-1,"max_tokens":9,"options":{"num_predict":-2}}', b'{"n_predict":64,"max_tokens":9,"options":{"num_predict":64}}'),
        (b'{"a":{"max_tokens":99},"max_tokens":99}', b'{"a":{"max_tokens":99},"max_tokens":64}'),
    ],
)  # fmt: skip
def test_a_cap_lowers_every_limit_above_it_and_changes_only_digits(body, expected):
    """Duplicates, escaped names and both fields; nothing is raised, nothing else moves."""
    assert rewritten(body, Action.CAPPED, 64) == expected


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        (b"{}", "max_tokens", b'{"max_tokens":64}'),
        (b' { "a":1}', "max_tokens", b' {"max_tokens":64, "a":1}'),
        (b'{"max_tokens": null}', "max_tokens", b'{"max_tokens": 64}'),
        (b'{"max_tokens":null,"max_tokens":null}', "max_tokens", b'{"max_tokens":64,"max_tokens":64}'),
        (b'{"max_tokens":null}', "max_completion_tokens", b'{"max_completion_tokens":64,"max_tokens":null}'),
    ],
)
def test_a_limit_is_inserted_once(body, field, expected):
    """In the place of a null one, else as the first member."""
    assert rewritten(body, Action.INSERTED, 64, field) == expected


def test_a_cap_is_carried_by_the_field_that_the_decision_names():
    """A field that the client did not send is added when the decision says that it carries the limit."""
    body = b'{"max_completion_tokens":99}'
    assert rewritten(body, Action.CAPPED, 64, "max_tokens") == b'{"max_tokens":64,"max_completion_tokens":64}'
    assert rewritten(body, Action.CAPPED, 64, "max_completion_tokens") == b'{"max_completion_tokens":64}'


@given(
    st.lists(st.tuples(st.sampled_from((*FIELDS, "n")), st.integers(0, 300) | st.none() | st.integers(0, 300).map(float)), max_size=5),
    st.integers(1, 200),
)  # fmt: skip
def test_no_limit_is_above_the_cap_and_none_is_raised(members, cap):
    """Whichever duplicate an upstream reads, it reads a limit under the cap or the client's own."""
    body = ("{" + ",".join(f'"{name}":{json.dumps(value)}' for name, value in members) + "}").encode()
    pairs = json.loads(rewritten(body, Action.CAPPED, cap), object_pairs_hook=list)
    assert pairs == [
        (name, cap if name in FIELDS and value is not None and value > cap else value) for name, value in members
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"stream":true}', b'{"stream_options":{"include_usage":true},"stream":true}'),
        (b'{"stream":true,"stream_options":null}', b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (b'{"stream":true,"stream_options":{}}', b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (
            b'{"stream_options": {"include_obfuscation":false} ,"stream":true}',
            b'{"stream_options": {"include_usage":true,"include_obfuscation":false} ,"stream":true}',
        ),
        (
            b'{"stream_options":{"include_usage": null},"stream":true}',
            b'{"stream_options":{"include_usage": true},"stream":true}',
        ),
        (b'{"stream":false}', b'{"stream":false}'),
        (b'{"stream":true,"stream_options":{"include_usage":false}}',) * 2,
        (b'{"stream":true,"stream_options":7}',) * 2,
        (b'{"stream":true,"data_sources":[{"type":"azure_search"}]}',) * 2,
        (b"[]",) * 2,
    ],
)
def test_usage_is_asked_for_where_the_client_did_not_say(body, expected):
    """Merged into the options that are there."""
    assert rewritten(body, ask_usage=True) == expected


def test_a_limit_is_inserted_where_the_upstream_reads_it():
    """Of the two fields some servers read only one."""
    assert [CHAT.insert_field(field) for field in FIELDS] == list(FIELDS)


def test_cap_and_usage_go_together():
    """Both edits of one body."""
    body = b'{"stream":true,"stream_options":{},"max_tokens":99}'
    assert rewritten(body, Action.CAPPED, 64, ask_usage=True) == (
        b'{"stream":true,"stream_options":{"include_usage":true},"max_tokens":64}'
    )


@pytest.mark.parametrize(
    ("member", "meant"),
    [
        ('"MAX_TOKENS":9', "max_tokens"),
        ('"maxTokens":9', "max_tokens"),
        ('"max-tokens":9', "max_tokens"),
        ('"max_to\u212aens":9', "max_tokens"),
        ('"max_tokens\\u0000":9', "max_tokens"),
        ('"max_tokens\u200d ":9', "max_tokens"),
        ('"max_tokens\\ud800":9', "max_tokens"),
        ('"Model":"x"', "model"),
        ('"\\u004dodel":"x"', "model"),
        ('"\uff4dodel":"x"', "model"),
        ('"model":"x"', "model"),
        ('"mod\\u0065l":"x"', "model"),
        ('"STREAM":true', "stream"),
        ('"\u017ftream":true', "stream"),
        ('"stream":true', "stream"),
        ('"N":9', "n"),
        ('"Best_Of":9', "best_of"),
        ('"Max_Completion_Tokens":1', "max_completion_tokens"),
        ('"nPredict":1', "n_predict"),
        ('"options":{"Num_Predict":1}', "options.num_predict"),
        ('"Options":{"num_predict":1}', "options"),
        ('"extra_body":{"Options":{"num_predict":1}}', "extra_body.options"),
        ('"generationConfig":{"max_output_tokens":1}', "generationConfig.maxOutputTokens"),
        ('"max.tokens":9', "max_tokens"),
    ],
)
def test_a_member_that_some_server_takes_for_another_is_ambiguous(member, meant):
    """Go's servers ignore case, others take the first of two; what is read is told all the same."""
    body = f'{{{member},"model":"m","stream":false,"max_tokens":5}}'.encode()
    assert CHAT.read_request(body) == facts(
        model="m", limits=(("max_tokens", 5),), degraded="ambiguous_key", degraded_field=meant
    )


@pytest.mark.parametrize(
    "member",
    [
        '"models":["a"]',
        '"stream_options":null',
        '"x":{"model":"y","stream":1}',
        '"x":"\\"model\\":\\"y\\""',
        '"model_kwargs":{"MODEL":1}',
        '"user":"\\u0027model\\u0022"',
        '"streaming":true',
        '"\\ud800":1',
        '"tools":[{"parameters":{"properties":{"MAX_TOKENS":{},"n":{},"n":{}}}}]',
    ],
)
def test_members_of_other_meaning_are_not_ambiguous(member):
    """No request of a client library is refused."""
    body = f'{{{member},"model":"m","stream":false,"max_tokens":5}}'.encode()
    assert CHAT.read_request(body) == facts(model="m", limits=(("max_tokens", 5),))
