"""Chat completions: `POST …/chat/completions`, streamed and not, as OpenAI and compatible servers speak it.

Layer: wire (sans-io). Which events carry tokens is said in `choices`.

Source: OpenAI API reference "Chat"; vLLM reads `max_completion_tokens` before `max_tokens`.
"""

from proxy.record import Decision, RequestFacts
from proxy.wire.dialects import choices
from proxy.wire.dialects.base import openai_error_body
from proxy.wire.dialects.limit_fields import LIMIT_FIELDS
from proxy.wire.dialects.request_body import with_limit

__all__ = ["ChatCompletions"]


class ChatCompletions:
    """The chat completions dialect."""

    __slots__ = ()

    name = "chat_completions"
    operation = "chat"
    suffix = b"/chat/completions"
    route = "/v1/chat/completions"
    limit_fields = ("max_completion_tokens", "max_tokens")

    may_ask_usage = staticmethod(choices.may_ask_usage)
    is_extra_usage = staticmethod(choices.is_extra_usage)
    read_event = staticmethod(choices.read_event)
    read_body = staticmethod(choices.read_body)

    def read_request(self, body: bytes, fields: tuple[str, ...] = LIMIT_FIELDS) -> RequestFacts:
        """Facts of a request body."""
        return choices.read_request(self.name, self.limit_fields, body, fields, choices.candidates)

    def insert_field(self, preferred: str) -> str:
        """The upstream's: of both fields some servers read only one, and some refuse one."""
        return preferred

    def rewrite(self, body: bytes, facts: RequestFacts, decision: Decision, *, ask_usage: bool) -> bytes:
        """Body as the upstream gets it."""
        body = with_limit(body, facts, decision)
        return choices.with_usage(body) if ask_usage and self.may_ask_usage(facts) else body

    def error_body(self, status: int, envelope_type: str, error_type: str, message: str) -> bytes:
        """OpenAI's error envelope."""
        return openai_error_body(envelope_type, error_type, message)
