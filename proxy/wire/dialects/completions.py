"""Completions: `POST …/completions`, the older interface: prompts in, texts out, streamed and not.

Layer: wire (sans-io). Which events carry tokens is said in `choices`. Without a limit the provider generates at most 16 tokens; the facts say
that none was sent. With `echo` servers put the prompt into the event of the first token, so that its time stays true; where the provider
counts no output at all, only the prompt came, and no token has a time.

Source: OpenAI API reference "Completions" (`prompt` is a text, an array of texts, of tokens, or of token arrays; `best_of` candidates are
generated and counted for each prompt); vLLM `echo`.
"""

from typing import Any

from proxy.record import Decision, RequestFacts
from proxy.wire.dialects import choices
from proxy.wire.dialects.base import MAX_INTEGER, Reading, openai_error_body
from proxy.wire.dialects.limit_fields import LIMIT_FIELDS
from proxy.wire.dialects.request_body import with_limit
from proxy.wire.sse import Event

__all__ = ["Completions"]


class Completions:
    """The completions dialect."""

    __slots__ = ()

    name = "completions"
    operation = "text_completion"
    suffix = b"/completions"
    route = "/v1/completions"
    limit_fields = ("max_tokens",)

    may_ask_usage = staticmethod(choices.may_ask_usage)
    is_extra_usage = staticmethod(choices.is_extra_usage)
    read_body = staticmethod(choices.read_body)

    def read_request(self, body: bytes, fields: tuple[str, ...] = LIMIT_FIELDS) -> RequestFacts:
        """Facts of a request body; `choices` are all candidates of all prompts."""
        return choices.read_request(self.name, self.limit_fields, body, fields, _choices, multipliers=("prompt",))

    def insert_field(self, preferred: str) -> str:
        """Always `max_tokens`."""
        return "max_tokens"

    def rewrite(self, body: bytes, facts: RequestFacts, decision: Decision, *, ask_usage: bool) -> bytes:
        """Body as the upstream gets it."""
        body = with_limit(body, facts, decision)
        return choices.with_usage(body) if ask_usage and self.may_ask_usage(facts) else body

    def read_event(self, event: Event, reading: Reading) -> bool:
        """Read one chunk; True when it carried generated tokens of any choice."""
        generated = choices.read_event(event, reading)
        usage = reading.usage
        reading.untimed = usage is not None and usage.output_tokens == 0
        return generated

    def error_body(self, status: int, envelope_type: str, error_type: str, message: str) -> bytes:
        """OpenAI's error envelope."""
        return openai_error_body(envelope_type, error_type, message)


def _choices(request: dict[str, Any]) -> int | None:
    """Prompts times the candidates that are generated for each."""
    each = choices.candidates(request)
    return None if each is None else min(_prompts(request.get("prompt")) * each, MAX_INTEGER)


def _prompts(prompt: object) -> int:
    """Prompts in a prompt: a list of numbers is one."""
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
