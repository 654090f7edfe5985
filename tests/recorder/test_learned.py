"""What the recorder learns: laws from recent streams, windows of rules, and what of both workers are told."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.policy.disarm import Answer
from proxy.policy.live import Law, Live
from proxy.policy.rules import parse
from proxy.record import Action, Decision, End, ExchangeRecord, ShadowDecision
from proxy.recorder.learned import Learned, LearnedPolicy
from tests.support.records import START_NS, STARTED_UNIX_NS, make_record

NOW_S = STARTED_UNIX_NS / 1e9
DEADLINE = {"name": "late", "do": "cap", "deadline_s": 8, "quantile": 0.5}
DISARMING = {"name": "cap", "do": "cap", "max_tokens": 100, "disarm": {"truncated_share": 0.2, "of_last": 10}}


def nothing(_rule: str, _since_unix_s: float, _most: int) -> Sequence[Answer]:
    """No ledger."""
    return ()


def policy(*rules: dict[str, Any], since: float = 0.0) -> LearnedPolicy:
    """These rules, as they are since then."""
    return LearnedPolicy(parse({"version": 1, "rules": list(rules)}), {rule["name"]: since for rule in rules})


def streamed(ttft_ms: int, tpot_ms: int, **changes: Any) -> ExchangeRecord:
    """A stream of 11 tokens with these times, and changes."""
    sent = START_NS + 3_000_000
    first = sent + ttft_ms * 1_000_000
    times = {"first_token_ns": first, "last_token_ns": first + 10 * tpot_ms * 1_000_000, "end_ns": first + 10**9}
    default = make_record()
    usage = default.response.usage._replace(output_tokens=11)  # type: ignore[union-attr]
    return make_record(response={"usage": usage} | times)._replace(**changes)


def answered(*, cut: bool, shadow: int | None = None, tokens: int = 100) -> ExchangeRecord:
    """An answer that the rule `cap` governed: enforced, or in shadow with this limit."""
    decision = (
        Decision(Action.CAPPED, "cap", 100, "max_tokens", cap_tokens=100)
        if shadow is None
        else Decision(forwarded_max_tokens=512, shadow=(ShadowDecision("cap", Action.CAPPED, shadow),))
    )
    usage = make_record().response.usage._replace(output_tokens=tokens)  # type: ignore[union-attr]
    response = {"finish_reasons": ("length" if cut else "stop",), "usage": usage}
    return make_record(decision=decision, response=response)


def test_a_law_needs_fifty_streams_and_has_their_quantiles() -> None:
    """At 50, not at 49; of TTFT and TPOT each at the rule's quantile; by upstream and model."""
    learned = Learned(policy(DEADLINE), nothing)
    learned.observe(streamed(100 + number, 10) for number in range(49))
    assert learned.live(NOW_S) == Live()
    learned.observe([streamed(149, 30)])
    assert learned.live(NOW_S) == Live({("openai", "gpt-4o", 0.5): Law(pytest.approx(0.1245), pytest.approx(0.01))})
    (shown,) = learned.laws_status(NOW_S)
    assert shown == {
        "upstream": "openai",
        "model": "gpt-4o",
        "exchanges": 50,
        "ttft_p50_s": pytest.approx(0.1245),
        "ttft_p95_s": pytest.approx(0.14655),
        "tpot_p50_s": pytest.approx(0.01),
        "tpot_p95_s": pytest.approx(0.01),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"streamed": False},
        {"end": End.CLIENT_DISCONNECT},
        {"status": 500},
        {"upstream": None},
        {"client_blocked_ns": 100_000_000},
        {"started_unix_ns": STARTED_UNIX_NS - 601 * 10**9},
    ],
)
def test_what_says_nothing_of_the_upstream_is_in_no_law(changes: dict[str, Any]) -> None:
    """Not streamed, not whole, no answer, held up by its client, or long ago."""
    learned = Learned(policy(DEADLINE), nothing)
    learned.observe([*(streamed(100, 10) for _ in range(49)), streamed(100, 10, **changes)])
    assert learned.live(NOW_S) == Live()


def test_laws_are_bounded_in_models() -> None:
    """Names that a client makes up push out those that were used longest ago."""
    learned = Learned(policy(DEADLINE), nothing)
    used = [streamed(100, 10) for _ in range(50)]
    learned.observe(used)
    learned.observe(streamed(1, 1, request=make_record().request._replace(model=str(n))) for n in range(255))
    assert len(learned.live(NOW_S).laws) == 1
    learned.observe(streamed(1, 1, request=make_record().request._replace(model=str(n))) for n in range(255, 300))
    assert learned.live(NOW_S).laws == {}


def test_a_rule_that_cuts_too_much_is_disarmed_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    """The third cut of a budget of two; what the workers hear, the status, the metric's value and the log line."""
    caplog.set_level(logging.WARNING)
    learned = Learned(policy(DISARMING), nothing)
    assert not learned.observe([answered(cut=True), answered(cut=True), answered(cut=False)])
    assert (learned.live(NOW_S).disarmed, learned.armed()) == (frozenset(), [("cap", True)])
    assert learned.observe([answered(cut=True)])
    assert (learned.live(NOW_S).disarmed, learned.armed()) == (frozenset({"cap"}), [("cap", False)])
    assert learned.rules_status() == {"cap": {"armed": False, "answers": 4, "cut": 3, "budget": 2.0, "of_last": 10}}
    assert [record.getMessage() for record in caplog.records] == [
        "rule cap is disarmed and acts as shadow: 3 of its last 4 answers cut, 2 of 10 allowed"
    ]


def test_it_is_armed_again_at_half_its_budget_over_a_whole_window() -> None:
    """In shadow an answer longer than the limit would have been counts as cut."""
    learned = Learned(policy(DISARMING), nothing)
    learned.observe(answered(cut=True) for _ in range(3))
    assert not learned.observe(answered(cut=False, shadow=100, tokens=101) for _ in range(1))
    assert not learned.observe(answered(cut=False, shadow=100, tokens=100) for _ in range(8))
    assert learned.rules_status()["cap"] == {"armed": False, "answers": 10, "cut": 2, "budget": 2.0, "of_last": 10}
    assert learned.observe([answered(cut=False, shadow=100, tokens=5)])
    assert learned.live(NOW_S).disarmed == frozenset()


def test_a_new_recorder_goes_on_where_the_last_one_was() -> None:
    """From the ledger's answers of the rule as it is; the ledger is asked for no earlier ones."""
    asked: list[tuple[str, float, int]] = []

    def answers(rule: str, since_unix_s: float, most: int) -> Sequence[Answer]:
        asked.append((rule, since_unix_s, most))
        found = [Answer.of(answered(cut=cut)) for cut in (True, True, True, False)]
        return [each for each in found if each is not None]

    learned = Learned(policy(DISARMING, {"name": "other", "do": "cap", "max_tokens": 5}, since=7.0), answers)
    assert asked == [("cap", 7.0, 10)]
    assert learned.live(NOW_S).disarmed == frozenset({"cap"})


def test_without_a_ledger_the_workers_word_stands() -> None:
    """Unless more is known; and a rule that is no more is nobody's."""
    learned = Learned(policy(DISARMING), nothing)
    learned.adopt(["cap", "gone"])
    assert learned.live(NOW_S).disarmed == frozenset({"cap"})
    known = Learned(policy(DISARMING), nothing)
    known.observe([answered(cut=False)])
    known.adopt(["cap"])
    assert known.live(NOW_S).disarmed == frozenset()


def test_a_reloaded_rule_begins_anew_and_the_others_go_on() -> None:
    """A changed cap is another rule; one that became shadow has no window."""
    other = DISARMING | {"name": "other"}
    learned = Learned(policy(DISARMING, other), nothing)
    learned.adopt(["cap", "other"])
    learned.take(policy(DISARMING | {"max_tokens": 200}, other))
    assert learned.live(NOW_S).disarmed == frozenset({"other"})
    learned.take(policy(DISARMING, other | {"mode": "shadow"}))
    assert (learned.live(NOW_S).disarmed, learned.armed()) == (frozenset(), [("cap", True)])
