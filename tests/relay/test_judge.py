"""What is done with one request: it is read as the upstream reads it, decided, and sent with the decided digits."""

import gzip
from typing import Any

import pytest

from proxy.errors import RefusalError
from proxy.policy.decide import Origin
from proxy.policy.live import Law, Live
from proxy.record import Action, Decision, RequestFacts
from proxy.relay.judge import Judged, judge, origin_of
from tests.support.judging import UPSTREAM, post, route, worker

CHAT = b"/v1/chat/completions"
CAP = {"name": "cap", "do": "cap", "max_tokens": 100}
OBSERVING = UPSTREAM | {"usage": "observe"}


def judged(
    body: bytes,
    *headers: bytes,
    path: bytes = CHAT,
    upstream: dict[str, Any] = OBSERVING,
    policy: tuple[dict[str, Any], ...] = (CAP,),
    live: Live | None = None,
    **changes: Any,
) -> Judged:
    """What is done with a body that is posted with these headers."""
    at = worker(upstream, policy=policy, **changes)
    at.live = live or Live()
    return judge(body, route(at, post(path, *headers)), at, "id", 0.0)


async def test_a_request_that_is_not_changed_is_the_clients_own_object():
    """No copy, no decision, and nothing asked."""
    body = b'{"max_tokens":50,"stream":true}'
    facts = RequestFacts("chat_completions", stream=True, limits=(("max_tokens", 50),))
    decision = Decision(Action.NONE, "cap", 50, "max_tokens", cap_tokens=100)
    result = judged(body)
    assert result == Judged(facts, decision, body, usage_asked=False, decoded=False)
    assert result.body is body


async def test_a_cap_and_the_question_for_usage_go_out_together():
    """In one body."""
    result = judged(b'{"max_tokens":500,"stream":true}', upstream=UPSTREAM)
    assert result.body == b'{"stream_options":{"include_usage":true},"max_tokens":100,"stream":true}'
    assert (result.usage_asked, result.decoded, result.decision.action) == (True, False, Action.CAPPED)


async def test_a_compressed_body_goes_out_decoded_only_when_the_policy_changes_it():
    """Asking for usage is not worth another encoding."""
    for tokens, action in ((500, Action.CAPPED), (50, Action.NONE)):
        plain = b'{"max_tokens":%d,"stream":true}' % tokens
        packed = gzip.compress(plain)
        result = judged(packed, b"Content-Encoding: gzip", upstream=UPSTREAM)
        assert (result.decision.action, result.usage_asked) == (action, False)
        assert (result.decoded, result.body) == (
            (True, plain.replace(b"500", b"100")) if tokens == 500 else (False, packed)
        )


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"max_tokens":5,"max_tokens":50}', ()),
        (b"not json", ()),
        (b"", ()),
        (gzip.compress(b"{}", mtime=0)[:-1], (b"Content-Encoding: gzip",)),
        (b"{}", (b"Content-Encoding: gzip",)),
        (b"{}", (b"Content-Encoding: gzip, gzip, gzip",)),
        (b"{}", (b"Content-Encoding: aes128gcm",)),
    ],
)  # fmt: skip
async def test_a_body_that_cannot_be_judged_is_refused_where_a_rule_could_hold(body: bytes, headers: tuple[bytes, ...]):
    """Everywhere else it passes untouched."""
    with pytest.raises(RefusalError) as caught:
        judged(body, *headers)
    assert caught.value.error_type == "ambiguous_body"
    for harmless in (
        (),
        (CAP | {"mode": "shadow"},),
        (CAP | {"match": {"upstream": "other"}},),
        (CAP | {"match": {"dialect": "messages"}},),
        ({"name": "exempt", "do": "observe"}, CAP),
    ):
        result = judged(body, *headers, policy=harmless)
        assert result.body is body
        assert result.facts.degraded is not None
        assert result.decision.action is Action.NONE
    assert judged(body, *headers, live=Live(disarmed=frozenset({"cap"}))).body is body


async def test_the_settings_add_limit_fields():
    """A field that only this upstream knows is lowered like the others."""
    body = b'{"my":{"limit":500},"max_tokens":50}'
    assert judged(body).body is body
    assert judged(body, limits={"limit_fields": ["my.limit"]}).body == body.replace(b"500", b"100")


async def test_the_field_that_the_upstream_reads_is_the_one_in_force():
    """Named by the settings, it is what was requested, and a cap stands there whatever else was sent."""
    ollama = OBSERVING | {"insert_field": "max_tokens"}
    both = judged(b'{"max_completion_tokens":50,"max_tokens":500}', upstream=ollama)
    assert both.body == b'{"max_completion_tokens":50,"max_tokens":100}'
    assert both.facts.limits == (("max_tokens", 500), ("max_completion_tokens", 50))
    assert both.decision == Decision(Action.CAPPED, "cap", 100, "max_tokens", cap_tokens=100)

    other = judged(b'{"max_completion_tokens":50}', upstream=ollama)
    assert other.body == b'{"max_tokens":50,"max_completion_tokens":50}'
    assert other.decision == Decision(Action.INSERTED, "cap", 50, "max_tokens", cap_tokens=100)

    assert judged(b"{}", upstream=ollama).body == b"{}"
    inserting = judged(b"{}", upstream=ollama, policy=(CAP | {"when_absent": "insert"},))
    assert inserting.body == b'{"max_tokens":100}'


async def test_what_rules_look_at_besides_the_body_comes_from_the_head():
    """Application, deployment, deadline, headers, and where a limit is inserted."""
    at = worker(OBSERVING | {"name": "azure"})
    found = route(
        at,
        post(b"/openai/deployments/d1/chat/completions", b"X-Lengthwise-App: search", b"x-lengthwise-deadline-ms: 250"),
    )
    headers = [(b"X-Lengthwise-App", b"search"), (b"x-lengthwise-deadline-ms", b"250")]
    field = "max_completion_tokens"
    reads = at.pools[0].insert_field
    assert origin_of(found, "id") == Origin("azure", "search", None, headers, "id", "d1", 0.25, reads, None)
    named = worker(OBSERVING | {"insert_field": field})
    assert origin_of(route(named, post(CHAT)), "id")[-2:] == (field, field)
    assert origin_of(route(named, post(b"/v1/messages")), "id")[-2:] == ("max_tokens", "max_tokens")
    assert origin_of(route(named, b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\n\r\n"), "id")[-2:] == (None, None)


async def test_a_deadline_of_the_request_becomes_a_limit_by_the_live_law():
    """Where the rule takes one."""
    rule = {"name": "soon", "do": "cap", "deadline_header": True, "floor": 4, "when_absent": "insert"}
    live = Live({("openai", "m", 0.95): Law(0.5, 0.01)})
    result = judged(b'{"model":"m"}', b"x-lengthwise-deadline-ms: 1000", policy=(rule,), live=live)
    assert result.decision.forwarded_max_tokens == 51
    without = judged(b'{"model":"m"}', policy=(rule,), live=live)
    assert without.decision == Decision(Action.NONE, "soon")


async def test_a_deadline_that_is_none_is_refused_where_it_counts():
    """By the rule that decides; a rule in shadow and one for others change nothing."""
    body = b'{"model":"m"}'
    rule = {"name": "soon", "do": "cap", "deadline_header": True}
    with pytest.raises(RefusalError) as caught:
        judged(body, b"x-lengthwise-deadline-ms: soon", policy=(rule,))
    assert caught.value.error_type == "malformed_request"
    for other in (
        (rule | {"mode": "shadow"},),
        (rule | {"match": {"model": "n"}},),
        ({"name": "exempt", "do": "observe"}, rule),
    ):
        assert judged(body, b"x-lengthwise-deadline-ms: soon", policy=other).body is body
