"""What would be done with a request is told without sending it, by the code that does it."""

import orjson
import pytest

from proxy.errors import RefusalError
from proxy.policy.rules import parse
from proxy.record import Action, Decision
from proxy.relay.explain import Explanation, explain
from proxy.settings import from_json

SETTINGS = from_json(orjson.dumps({"upstreams": [{"name": "up", "url": "http://127.0.0.1:9"}], "policies": None}))
CHAT = "/v1/chat/completions"
RULES = parse(
    {
        "version": 1,
        "rules": [
            {"name": "trial", "do": "cap", "max_tokens": 50, "mode": "shadow"},
            {"name": "team", "match": {"header": {"x-team": "growth"}}, "do": "cap", "max_tokens": 100},
            {"name": "few", "match": {"app": "few"}, "do": "cap", "max_choices": 2},
            {"name": "soon", "match": {"app": "soon"}, "do": "cap", "deadline_s": 2},
            {"name": "rest", "do": "observe"},
        ],
    }
)


def told(body: bytes, *headers: tuple[str, str], path: str = CHAT) -> Explanation:
    """What would be done with a body."""
    return explain(SETTINGS, RULES, path, headers, body)


def test_the_deciding_rule_and_what_is_sent_are_told():
    """Each rule says whether it decides, would have, or which key of its match does not hold."""
    body = b'{"model":"m","max_tokens":500,"options":{"num_predict":-1},"min_tokens":200,"stream":true}'
    found = told(body, ("X-Team", "growth"))
    assert found.route == f"POST {CHAT}, upstream up, dialect chat_completions"
    assert found.rules == (
        ("trial", "shadow", "would be capped, 50 forwarded"),
        ("team", "enforce", "decides: capped, 100 forwarded"),
        ("few", "enforce", "does not match: app"),
        ("soon", "enforce", "does not match: app"),
        ("rest", "enforce", "matches, but another rule decides"),
    )
    assert (found.decision and found.decision.action, found.refusal) == (Action.CAPPED, None)
    assert found.changes == (
        "max_tokens: 500 -> 100",
        "options.num_predict: None -> 100",
        "min_tokens: 200 -> 100",
        "stream_options.include_usage: true, and Accept-Encoding: identity",
    )


def test_a_request_that_nothing_changes_is_told_so():
    """An exemption decides; no law is known without traffic, so a deadline is undecided."""
    found = told(b'{"model":"m","max_tokens":5}')
    assert (found.rules[-1], found.changes, found.refusal) == (
        ("rest", "enforce", "decides: none, 5 forwarded"),
        (),
        None,
    )
    late = told(b'{"model":"m","max_tokens":500}', ("x-lengthwise-app", "soon"))
    assert late.rules[3] == ("soon", "enforce", "decides: undecided, 500 forwarded (no law is known here)")
    assert late.decision is not None
    assert late.decision._replace(shadow=()) == Decision(Action.UNDECIDED, "soon", 500, "max_tokens")


@pytest.mark.parametrize(
    ("body", "app", "error_type"),
    [
        (b'{"n":3}', "few", "policy_rejected"),
        (b'{"max_tokens":1,"max_tokens":9}', "few", "ambiguous_body"),
    ],
)
def test_a_refusal_is_told(body: bytes, app: str, error_type: str):
    """As the client would be told it."""
    found = told(body, ("x-lengthwise-app", app))
    assert found.refusal is not None
    assert (found.refusal.error_type, found.changes) == (error_type, ())


def test_a_path_that_is_not_read_is_told_so():
    """No dialect, no rule."""
    assert told(b"{}", path="/v1/embeddings") == Explanation(
        "POST /v1/embeddings, upstream up, not read: no dialect has this path", (), None, None, None, ()
    )
    assert told(b"{}", ("x-lengthwise-app", "few"), path="/v1//chat/completions").refusal is not None
    with pytest.raises(RefusalError):
        told(b"{}", path="v1")
