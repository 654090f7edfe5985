"""A cap of the slider as a policies file with one rule in shadow, its evidence as comments.

Layer: recorder. The rule matches what the page was filtered by. `lengthwise check` accepts it; it changes nothing before somebody
writes `mode: enforce`.

Source: ARCHITECTURE.md 7 "Policies".
"""

from datetime import UTC, datetime

from proxy.evidence.rule_text import can_be_named, comment, pattern, rule_name
from proxy.recorder.page.caps import CAPS_TOKENS, Outcomes
from proxy.recorder.page.view import Filter

__all__ = ["UnnamedError", "rule"]


class UnnamedError(Exception):
    """A filter that no pattern of a rule can express; the text says why."""


def rule(cap_tokens: int, chosen: Filter, outcomes: Outcomes, since_s: float, until_s: float) -> str:
    """The text of the file.

    Args:
        cap_tokens: One of `CAPS_TOKENS`.
        chosen: What the rule is for.
        outcomes: What the caps would have done to it.
        since_s: Unix time since when that is known.
        until_s: Until when.

    Raises:
        UnnamedError: the rule cannot say what it is for.
    """
    names = {"model": chosen.model, "app": chosen.app, "upstream": chosen.upstream}
    for key, name in names.items():
        if name is not None and (not can_be_named(name) or name == "_other"):
            raise UnnamedError(f"no rule can name this {key}; choose another one, or all")
    match = [f"{key}: [{pattern(name)}]" for key, name in names.items() if name is not None]
    if chosen.stream is not None:
        match.append(f"stream: {str(chosen.stream).lower()}")
    words = "-".join(name for name in names.values() if name)
    place = CAPS_TOKENS.index(cap_tokens)
    complete, newly, longer = outcomes.complete, outcomes.newly_cut[place], outcomes.longer[place]
    share = f" ({newly / complete:.1%})" if complete else ""
    evidence = (
        (
            f"Tried on Lengthwise's live page: {complete:,} whole answers (n), {_moment(since_s)} to {_moment(until_s)} UTC. "
            "In shadow a rule changes nothing; it records what it would have done. Look at that for some days before you "
            "write mode: enforce."
        ),
        f"Risk: {newly:,} of {complete:,} answers newly cut{share}.",
        (
            f"Saving: {outcomes.tokens_saved[place]:,} tokens; {outcomes.latency_saved_s[place]:,.1f} s of waiting in all, "
            f"known for {outcomes.timed[place]:,} of {longer:,} longer answers."
        ),
    )
    lines = ["version: 1", "rules:"]
    for sentence in evidence:
        lines += ["  " + line for line in comment(sentence)]
    lines.append(f"  - name: {rule_name(f'tried-{words}-{cap_tokens}' if words else f'tried-{cap_tokens}', set())}")
    if match:
        lines.append(f"    match: {{{', '.join(match)}}}")
    lines += ["    do: cap", f"    max_tokens: {cap_tokens}"]
    if outcomes.unlimited:
        lines.append("    when_absent: insert  # some of these exchanges had no limit, and the figures count them")
    return "\n".join([*lines, "    mode: shadow", ""])


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")
