"""Cost of the policy, without sockets: us per request of deciding by 50 rules, beside reading and rewriting the body.

Run by `python -m tests.bench.policy`. `seen`: a combination of upstream, model, key, application and headers that came before, as nearly all
requests have; `new`: one that did not. Minimum of many short loops, because noise only adds.
"""

import json
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from proxy.policy.decide import Origin, decide, may_enforce
from proxy.policy.live import Law, Live
from proxy.policy.rules import parse
from proxy.record import Action, RequestFacts
from proxy.wire.dialects import match

RULES = 50
LOOP_NS, LOOPS = 1_000_000, 400
NOW_UNIX_S = 1_736_942_400.0  # a Wednesday, noon in UTC
HEADERS = (
    (b"Accept", b"application/json"),
    (b"Content-Type", b"application/json"),
    (b"User-Agent", b"OpenAI/Python 2.0.0"),
    (b"X-Stainless-Lang", b"python"),
    (b"X-Team", b"growth-eu"),
    (b"Authorization", b"Bearer sk-0123456789abcdef0123456789abcdef"),
)
ORIGIN = Origin("openai", "search", "team-a", HEADERS, "0123456789abcdef01234567", insert_field="max_completion_tokens")
FACTS = RequestFacts("chat_completions", "gpt-4o-mini", stream=True, limits=(("max_tokens", 4096),))
LIVE = Live({("openai", "gpt-4o-mini", 0.95): Law(0.5, 0.01)})
BUSINESS = {"days": "mon-fri", "hours": "08:00-18:00", "timezone": "Europe/Paris"}
NIGHT = {"hours": "22:00-06:00"}


def rules(*matches: dict[str, Any], last: dict[str, Any] | None = None, **changes: Any) -> Any:
    """50 capping rules whose conditions are these in turn; `last` changes the last one."""
    made = [
        {"name": f"r{index}", "do": "cap", "max_tokens": 1000 + index, "match": matches[index % len(matches)]} | changes
        for index in range(RULES)
    ]
    made[-1] |= last or {}
    return parse({"version": 1, "rules": made})


MIXED = (
    {"model": ["claude*", "o[13]*"]},
    {"header": {"x-team": "growth*"}, "stream": False},
    {"when": NIGHT},
    {"requested": {"over": 8192}},
    {"app": ["batch-*", "export"], "key": "team-b"},
    {"upstream": "azure", "dialect": ["responses", "messages"]},
    {"model": "gpt-4o*", "when": BUSINESS, "requested": {"over": 5000}},
)
CASES: tuple[tuple[str, Any], ...] = (
    ("none by model", rules({"model": ["claude*", "o1*"]})),
    ("none by header", rules({"header": {"x-team": ["search*", "ads*"]}})),
    ("none by hours", rules({"when": NIGHT})),
    ("none by limit", rules({"requested": {"over": 8192}})),
    ("mixed, none matches", rules(*MIXED)),
    ("mixed, the last decides", rules(*MIXED, last={"match": {}})),
    ("all match, the first decides", rules({"model": "gpt*", "header": {"x-team": "growth*"}, "when": BUSINESS, "requested": {"over": 9}})),
    ("all match in shadow", rules({"model": "gpt*", "requested": {"over": 9}}, mode="shadow")),
    ("all match in shadow, deadlines", rules({"model": "gpt*"}, mode="shadow", deadline_s=8)),
    ("all match in shadow, arms", rules({"model": "gpt*"}, mode="shadow", experiment={"arms": [512, "none"]})),
)  # fmt: skip


def shortest_us(work: Callable[[], object]) -> float:
    """Shortest time of `work` in many loops of about a millisecond, most of which nothing interrupts."""
    start = time.perf_counter_ns()
    work()
    times = max(LOOP_NS // (time.perf_counter_ns() - start), 1)
    found = []
    for _ in range(LOOPS):
        start = time.perf_counter_ns()
        for _ in range(times):
            work()
        found.append(time.perf_counter_ns() - start)
    return min(found) / 1e3 / times


def body(kilobytes: int) -> bytes:
    """A request of about that size."""
    text = "word " * (kilobytes * 200)
    return json.dumps(
        {
            "model": "gpt-4o-mini",
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": text}],
            "max_tokens": 4096,
            "temperature": 0.7,
            "stream": True,
        }
    ).encode()


def main() -> None:
    """Print the figures."""
    print(f"{RULES} rules; us per request, best of {LOOPS} loops")
    print(f"{'':32} {'seen':>8} {'new':>8} {'may_enforce':>12}")
    for name, policies in CASES:
        decision = decide(FACTS, ORIGIN, policies, LIVE, NOW_UNIX_S)
        if (decision.action is Action.CAPPED) is not ("decides" in name):
            raise SystemExit(f"{name}: {decision}")
        seen = shortest_us(lambda policies=policies: decide(FACTS, ORIGIN, policies, LIVE, NOW_UNIX_S))
        numbers = count()

        def new(policies: Any = policies, numbers: Any = numbers) -> None:
            facts = FACTS._replace(model=f"gpt-4o-{next(numbers)}")
            decide(facts, ORIGIN, policies, LIVE, NOW_UNIX_S)

        may = shortest_us(lambda policies=policies: may_enforce("chat_completions", ORIGIN, policies, LIVE, NOW_UNIX_S))
        print(f"{name:32} {seen:8.2f} {shortest_us(new):8.2f} {may:12.2f}")
    dialect = match(b"/v1/chat/completions")
    if dialect is None:
        raise SystemExit("chat completions is no dialect")
    print(f"\n{'body':32} {'read':>8} {'rewrite':>8}")
    policies = parse({"version": 1, "rules": [{"name": "cap", "do": "cap", "max_tokens": 100}]})
    for kilobytes in (1, 10, 100, 1000):
        sent = body(kilobytes)
        facts = dialect.read_request(sent)
        decision = decide(facts, ORIGIN, policies, LIVE, NOW_UNIX_S)
        read = shortest_us(lambda sent=sent: dialect.read_request(sent))
        rewrite = shortest_us(
            lambda sent=sent, facts=facts, decision=decision: dialect.rewrite(sent, facts, decision, ask_usage=False)
        )
        print(f"{f'{len(sent):,} bytes':32} {read:8.2f} {rewrite:8.2f}")


if __name__ == "__main__":
    main()
