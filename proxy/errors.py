"""Every error that Lengthwise itself makes, and the answer that a client gets for it.

Layer: the lowest; imports nothing of ours.

    LengthwiseError
    ├─ SettingsError        start-up and `check`: every mistake of a configuration at once, each with its key path
    └─ RefusalError         one exchange that we answer ourselves: ARCHITECTURE.md 7 "Headers and errors"
"""

from dataclasses import dataclass

__all__ = ["REFUSALS", "LengthwiseError", "Mistake", "Refusal", "RefusalError", "SettingsError"]


class LengthwiseError(Exception):
    """Base of every error that Lengthwise raises on purpose."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a configuration file, a variable or a flag."""

    path: str
    """Where: a key path such as `upstreams[0].url`, prefixed by the file's name where several files are checked."""
    message: str
    """What was expected and what was found."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class SettingsError(LengthwiseError):
    """A configuration that cannot be used; carries every mistake found, not only the first."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client is told when Lengthwise answers instead of the upstream."""

    status: int
    """HTTP status of the answer."""
    reason: bytes
    """Its reason phrase (RFC 9110 15)."""
    envelope_type: str
    """The `error.type` of the OpenAI envelope, as SDKs map it."""
    final: bool
    """True when a repetition cannot succeed: sends `x-should-retry: false`."""


REFUSALS: dict[str, Refusal] = {
    "malformed_request": Refusal(400, b"Bad Request", "invalid_request_error", True),
    "ambiguous_body": Refusal(400, b"Bad Request", "invalid_request_error", True),
    "policy_rejected": Refusal(400, b"Bad Request", "invalid_request_error", True),
    "policy_conflict": Refusal(400, b"Bad Request", "invalid_request_error", True),
    "unknown_key": Refusal(401, b"Unauthorized", "authentication_error", True),
    "policy_unjudgeable": Refusal(403, b"Forbidden", "permission_error", True),
    "unknown_route": Refusal(404, b"Not Found", "invalid_request_error", True),
    "client_timeout": Refusal(408, b"Request Timeout", "invalid_request_error", True),
    "body_too_large": Refusal(413, b"Content Too Large", "invalid_request_error", True),
    "header_too_large": Refusal(431, b"Request Header Fields Too Large", "invalid_request_error", True),
    "upstream_connect": Refusal(502, b"Bad Gateway", "server_error", False),
    "upstream_reset": Refusal(502, b"Bad Gateway", "server_error", False),
    "overloaded": Refusal(503, b"Service Unavailable", "server_error", False),
    "upstream_connect_timeout": Refusal(504, b"Gateway Timeout", "server_error", False),
    "upstream_first_byte_timeout": Refusal(504, b"Gateway Timeout", "server_error", True),
    "http_version": Refusal(505, b"HTTP Version Not Supported", "invalid_request_error", False),
}
"""TYPE of `x-lengthwise-error` to its answer: the complete list (ARCHITECTURE.md 7). `x-should-retry: false` goes with our 4xx
and with the first-byte 504, nowhere else."""


class RefusalError(LengthwiseError):
    """An exchange that Lengthwise answers itself.

    `message` reaches the client and our logs, so it never quotes a header's value, a body or a path.
    `error_type` is a key of `REFUSALS`.
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message

    @property
    def refusal(self) -> Refusal:
        """Status, envelope and end that belong to this error's type."""
        return REFUSALS[self.error_type]
