"""What a client is told when a policy stops its request: which rule, which limit, and what to send instead.

Layer: policy. Pure. No sentence quotes the request: names of members are those that we know.

Source: ARCHITECTURE.md 7 "Headers and errors".
"""

from proxy.errors import RefusalError
from proxy.policy.rules import PolicySet, Rule
from proxy.record import Action, Decision, RequestFacts

__all__ = ["refusal_of", "unjudged"]

_DEFAULT_FIELDS = {"responses": "max_output_tokens"}

_DOUBTS = {
    "not_utf8": "it is not UTF-8",
    "invalid_json": "it is no valid JSON",
    "lenient_json": "it is no JSON by RFC 8259 (NaN, Infinity or a byte order mark), though some servers read it",
    "not_object": "it is no JSON object",
    "limit_twice": "{field} is in it more than once; send it once",
    "limit_type": "{field} is no whole number from 0 up; send one",
    "limit_zero": "{field} is 0, which some servers read as no limit; send 1 or more, or leave it out",
    "ambiguous_key": "{field} is in it more than once, or beside a member whose name some servers take for it",
    "model_type": "{field} is no text",
    "stream_type": "{field} is neither true nor false",
    "choices_type": "{field} is no whole number from 1 up",
    "content_encoding": "its content encoding cannot be read; send gzip, deflate, br, zstd or none",
}


def unjudged(facts: RequestFacts) -> RefusalError:
    """The refusal of a body that a policy may have to judge and cannot."""
    doubt = _DOUBTS.get(facts.degraded or "", "it cannot be read").format(field=facts.degraded_field)
    return RefusalError("ambiguous_body", f"A policy applies on this route, and this body cannot be judged: {doubt}.")


def refusal_of(decision: Decision, facts: RequestFacts, policies: PolicySet) -> RefusalError | None:
    """The refusal that a decision means; None when the request may pass."""
    if decision.action not in {Action.REJECTED, Action.CONFLICT}:
        return None
    rule = next(rule for rule in policies.rules if rule.name == decision.rule)
    field = facts.limit_field or _DEFAULT_FIELDS.get(facts.dialect, "max_tokens")
    if decision.action is Action.CONFLICT:
        budget, cap = facts.thinking_budget_tokens, decision.cap_tokens
        return RefusalError(
            "policy_conflict",
            f"The policy rule {rule.name!r} allows {field} of at most {cap}, but thinking.budget_tokens is {budget} and has to "
            f"be lower. Send a thinking.budget_tokens below {cap}, or none.",
        )
    return RefusalError("policy_rejected", _rejection(rule, field, facts))


def _rejection(rule: Rule, field: str, facts: RequestFacts) -> str:
    if rule.do == "cap":
        return (
            f"The policy rule {rule.name!r} allows at most {rule.max_choices} choices, this request asks for {facts.choices}. "
            f"Ask for {rule.max_choices} or fewer (n, best_of, prompts)."
        )
    if rule.match.requested is None:
        return f"The policy rule {rule.name!r} rejects this request, whatever its limit."
    most = rule.match.requested
    over = [(path, sent) for path, sent in facts.limits if sent is None or sent > most]
    field, sent = over[0] if over else (field, None)
    asked = "has no limit" if sent is None else f"asks for {sent}"
    return f"The policy rule {rule.name!r} allows at most {most} tokens, this request {asked}. Send {field} of at most {most}."
