"""One request body, judged: what it asks for, what the policy decides, and the bytes that the upstream gets.

Layer: relay. No I/O; the caller reads the clock. `check --explain` asks the same question without traffic.

Invariant: what the policy judged is what the upstream reads (ARCHITECTURE.md 5.6).
"""

from typing import TYPE_CHECKING, NamedTuple

from proxy.errors import RefusalError
from proxy.policy.decide import Origin, decide, may_enforce
from proxy.policy.refusal import unjudged
from proxy.record import Decision, RequestFacts
from proxy.relay.route import DEADLINE_HEADER, Route
from proxy.wire import coding

if TYPE_CHECKING:
    from proxy.relay.worker import Worker

__all__ = ["Judged", "judge", "origin_of"]


class Judged(NamedTuple):
    """What is done with one request."""

    facts: RequestFacts
    decision: Decision
    body: bytes
    """What the upstream gets; the client's own object when nothing is changed."""
    usage_asked: bool
    """True when usage was asked for that the client did not ask for."""
    decoded: bool
    """True when `body` is without the client's content coding."""


def origin_of(route: Route, exchange_id: str) -> Origin:
    """All that rules look at besides the body."""
    pool, dialect = route.pool, route.dialect
    assert pool is not None
    field = None if dialect is None else dialect.insert_field(pool.insert_field)
    return Origin(
        pool.upstream.name,
        route.app,
        route.key_name,
        route.head.headers,
        exchange_id,
        route.deployment,
        route.deadline_s,
        field,
        field if pool.upstream.insert_field != "auto" else None,
    )


def _read(body: bytes, route: Route, worker: "Worker") -> tuple[RequestFacts, bytes]:
    """Facts of a body and the body without its content coding."""
    dialect = route.dialect
    assert dialect is not None
    if not route.encoding:
        return dialect.read_request(body, worker.limit_fields), body
    decoder = coding.decoder(route.encoding, worker.settings.limits.observed_body_bytes)
    if decoder is not None:
        plain = decoder.decode(body)
        decoder.finish()
        if not decoder.failed:
            return dialect.read_request(plain, worker.limit_fields), plain
    return RequestFacts(dialect=dialect.name, choices=None, degraded="content_encoding"), body


def judge(body: bytes, route: Route, worker: "Worker", exchange_id: str, now_unix_s: float) -> Judged:
    """Read a body, decide, and make what the upstream gets.

    A decision that refuses the request is returned like any other, with the body unchanged.

    Raises:
        RefusalError: ambiguous_body, where a policy could apply to a body that cannot be judged; malformed_request, where the rule that decides
            takes a deadline and the request's is none.
    """
    dialect, pool = route.dialect, route.pool
    assert dialect is not None
    assert pool is not None
    facts, plain = _read(body, route, worker)
    origin = origin_of(route, exchange_id)
    policies, live = worker.policies, worker.live
    if facts.degraded is not None and may_enforce(dialect.name, origin, policies, live, now_unix_s):
        raise unjudged(facts)
    if origin.reads_only is not None and len(facts.limits) > 1:  # what it reads is what is in force
        facts = facts._replace(limits=tuple(sorted(facts.limits, key=lambda limit: limit[0] != origin.reads_only)))
    decision = decide(facts, origin, policies, live, now_unix_s)
    if route.bad_deadline and any(rule.deadline_header for rule in policies.rules if rule.name == decision.rule):
        raise RefusalError(
            "malformed_request", f"{DEADLINE_HEADER.decode()} is no whole number of milliseconds from 1 up."
        )
    # A compressed body is edited only when the policy must: asking for usage is not worth another encoding.
    usage_asked = (
        pool.upstream.usage != "observe"
        and not route.encoding
        and route.usage_key not in pool.usage_refused
        and dialect.may_ask_usage(facts)
    )
    sent = dialect.rewrite(plain, facts, decision, ask_usage=usage_asked)
    if sent is plain:
        return Judged(facts, decision, body, usage_asked, decoded=False)
    return Judged(facts, decision, sent, usage_asked, decoded=bool(route.encoding))
