"""What a stopped client is told: the rule, the limit and what to send instead, and nothing of its own request."""

from typing import Any

import pytest

from proxy.errors import RefusalError
from proxy.policy.refusal import refusal_of, unjudged
from proxy.policy.rules import parse
from proxy.record import Action, Decision, RequestFacts


def said(error: RefusalError | None) -> tuple[str, str] | None:
    """Its type and sentence."""
    return None if error is None else (error.error_type, error.message)


def refused(rule: dict[str, Any], decision: Decision, facts: RequestFacts) -> tuple[str, str] | None:
    """What is said when this rule decided so."""
    policies = parse({"version": 1, "rules": [{"name": "other", "do": "reject"}, {"name": "r"} | rule]})
    return said(refusal_of(decision, facts, policies))


@pytest.mark.parametrize("action", [Action.NONE, Action.CAPPED, Action.INSERTED, Action.UNDECIDED])
def test_what_is_not_rejected_passes(action: Action) -> None:
    """A decision that changes a limit, or nothing, refuses nothing."""
    assert refused({"do": "reject"}, Decision(action, "r", 5, "max_tokens"), RequestFacts("messages")) is None


REJECTED = Decision(Action.REJECTED, "r")
LIMITED = RequestFacts("chat_completions", limits=(("max_completion_tokens", 9000),))
OVER = {"do": "reject", "match": {"requested": {"over": 4096}}}


@pytest.mark.parametrize(
    ("rule", "decision", "facts", "message"),
    [
        (
            OVER,
            REJECTED,
            LIMITED,
            "The policy rule 'r' allows at most 4096 tokens, this request asks for 9000. Send max_completion_tokens of at most 4096.",
        ),
        (
            OVER,
            REJECTED,
            RequestFacts("responses"),
            "The policy rule 'r' allows at most 4096 tokens, this request has no limit. Send max_output_tokens of at most 4096.",
        ),
        (
            OVER,
            REJECTED,
            RequestFacts("messages", limits=(("n_predict", None),)),
            "The policy rule 'r' allows at most 4096 tokens, this request has no limit. Send n_predict of at most 4096.",
        ),
        (
            OVER,
            REJECTED,
            RequestFacts("chat_completions", limits=(("max_tokens", 50), ("n_predict", 9000))),
            "The policy rule 'r' allows at most 4096 tokens, this request asks for 9000. Send n_predict of at most 4096.",
        ),
        ({"do": "reject"}, REJECTED, LIMITED, "The policy rule 'r' rejects this request, whatever its limit."),
        (
            {"do": "cap", "max_tokens": 9, "max_choices": 2},
            REJECTED,
            LIMITED._replace(choices=40),
            "The policy rule 'r' allows at most 2 choices, this request asks for 40. Ask for 2 or fewer (n, best_of, prompts).",
        ),
    ],
)
def test_a_rejection_says_what_to_send_instead(
    rule: dict[str, Any], decision: Decision, facts: RequestFacts, message: str
) -> None:
    """The rule, its limit, what was asked for, and the field in which a lower limit goes."""
    assert refused(rule, decision, facts) == ("policy_rejected", message)


def test_a_conflict_names_both_numbers() -> None:
    """The cap that would be in force, and the budget that does not fit under it."""
    facts = RequestFacts("messages", limits=(("max_tokens", 9000),), thinking_budget_tokens=2048)
    decision = Decision(Action.CONFLICT, "r", cap_tokens=1024)
    assert refused({"do": "cap", "max_tokens": 1024}, decision, facts) == (
        "policy_conflict",
        "The policy rule 'r' allows max_tokens of at most 1024, but thinking.budget_tokens is 2048 and has to be lower. Send a thinking.budget_tokens below 1024, or none.",
    )


DOUBTS = {
    "not_utf8": "it is not UTF-8",
    "invalid_json": "it is no valid JSON",
    "lenient_json": "it is no JSON by RFC 8259 (NaN, Infinity or a byte order mark), though some servers read it",
    "not_object": "it is no JSON object",
    "limit_twice": "max_tokens is in it more than once; send it once",
    "limit_type": "max_tokens is no whole number from 0 up; send one",
    "limit_zero": "max_tokens is 0, which some servers read as no limit; send 1 or more, or leave it out",
    "ambiguous_key": "max_tokens is in it more than once, or beside a member whose name some servers take for it",
    "model_type": "max_tokens is no text",
    "stream_type": "max_tokens is neither true nor false",
    "choices_type": "max_tokens is no whole number from 1 up",
    "content_encoding": "its content encoding cannot be read; send gzip, deflate, br, zstd or none",
    "something_new": "it cannot be read",
}


@pytest.mark.parametrize("degraded", DOUBTS)
def test_a_body_that_cannot_be_judged_is_told_why(degraded: str) -> None:
    """Each word of the facts has its sentence, with the member that it is about."""
    error = unjudged(RequestFacts("messages", degraded=degraded, degraded_field="max_tokens"))
    reason = f"A policy applies on this route, and this body cannot be judged: {DOUBTS[degraded]}."
    assert said(error) == ("ambiguous_body", reason)
