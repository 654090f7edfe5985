"""What the policy would do with one request, told without sending it: `lengthwise check --explain`.

Layer: relay. The head goes through `Route` and the body through `judge`, as those of traffic do; nothing connects anywhere. There is no law
here, so a deadline counts as one that nothing is known for.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from proxy.errors import RefusalError
from proxy.policy.decide import may_enforce, unmet
from proxy.policy.refusal import refusal_of
from proxy.policy.rules import PolicySet
from proxy.record import Action, Decision, RequestFacts
from proxy.relay.judge import Judged, judge, origin_of
from proxy.relay.outbox import Outbox
from proxy.relay.route import Route
from proxy.relay.worker import Worker
from proxy.settings import Settings
from proxy.wire.http1 import read_request_head

__all__ = ["Explanation", "explain"]


class Explanation(NamedTuple):
    """What would be done with a request, and why."""

    route: str
    """Method, path, upstream and dialect."""
    rules: tuple[tuple[str, str, str], ...]
    """(name, mode, what the rule does here or which key of `match` does not hold)."""
    facts: RequestFacts | None
    """None when the body is not read."""
    decision: Decision | None
    refusal: RefusalError | None
    """What the client would be told instead of the upstream's answer."""
    changes: tuple[str, ...]
    """What would be changed in the body; empty when the upstream would get the client's own bytes."""


def explain(
    settings: Settings, policies: PolicySet, path: str, headers: Sequence[tuple[str, str]], body: bytes
) -> Explanation:
    """Explain a POST of `body` to `path`.

    Raises:
        RefusalError: the head is none that is relayed.
    """
    return asyncio.run(_explain(settings, policies, path, headers, body))


async def _explain(
    settings: Settings, policies: PolicySet, path: str, headers: Sequence[tuple[str, str]], body: bytes
) -> Explanation:
    worker = Worker(
        settings, policies, Outbox("", dict, dict)
    )  # pools and outbox belong to a loop; none of them connects
    fields = [("Host", "localhost"), *headers, ("Content-Length", str(len(body)))]
    head = read_request_head(
        b"POST",
        path.encode(),
        "1.1",
        [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields],
        worker.interesting,
    )
    route = Route(worker, head)
    upstream = "no upstream" if route.pool is None else f"upstream {route.pool.upstream.name}"
    dialect = "not read: no dialect has this path" if route.dialect is None else f"dialect {route.dialect.name}"
    told = f"POST {path}, {upstream}, {dialect}"
    nothing = Explanation(told, (), None, None, route.refusal, ())
    if route.refusal is not None or route.pool is None:
        return nothing
    now_unix_s = time.time()
    origin = origin_of(route, "0" * 24)
    for doubted, doubt in route.doubts:
        if may_enforce(doubted, origin, policies, worker.live, now_unix_s):
            return nothing._replace(refusal=doubt)
    if route.dialect is None:
        return nothing
    try:
        judged = judge(body, route, worker, "0" * 24, now_unix_s)
    except RefusalError as error:
        return nothing._replace(refusal=error)
    facts, decision = judged.facts, judged.decision
    shadow = {each.rule: f"would be {_outcome(each.action, each.forwarded)}" for each in decision.shadow}
    rules = []
    for rule in policies.rules:
        failing = unmet(rule, facts, origin, policies, now_unix_s)
        if failing is not None:
            does = f"does not match: {failing}"
        elif rule.name == decision.rule:
            does = f"decides: {_outcome(decision.action, decision.forwarded_max_tokens)}"
            does += " (no law is known here)" if rule.has_deadline else ""
        else:
            does = shadow.get(rule.name, "matches, but another rule decides")
        rules.append((rule.name, rule.mode, does))
    refusal = refusal_of(decision, facts, policies)
    changes = () if refusal is not None or judged.body is body else _changes(facts, judged, route, worker)
    return Explanation(told, tuple(rules), facts, decision, refusal, changes)


def _outcome(action: Action, forwarded: int | None) -> str:
    if action in {Action.REJECTED, Action.CONFLICT}:
        return action
    return f"{action}, {'no limit' if forwarded is None else forwarded} forwarded"


def _changes(before: RequestFacts, judged: Judged, route: Route, worker: Worker) -> tuple[str, ...]:
    assert route.dialect is not None
    after = route.dialect.read_request(judged.body, worker.limit_fields)
    was = dict((*before.limits, *before.floors))
    found = [
        f"{path}: {was.get(path, 'absent')} -> {tokens}"
        for path, tokens in (*after.limits, *after.floors)
        if path not in was or was[path] != tokens
    ]
    if judged.usage_asked:
        found.append("stream_options.include_usage: true, and Accept-Encoding: identity")
    if judged.decoded:
        found.append("sent without its content coding")
    return tuple(found)
