"""Asks by the official client, and puts what it returned into a form that two runs have in common."""

from dataclasses import dataclass
from typing import Any

import openai
from openai.types.chat import ChatCompletion

VARIES = {"id", "created"}
"""What an engine makes anew for every answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client returned for one request."""

    objects: list[dict[str, Any]]
    """The completion; or the chunks of a stream without their text, neighbours that are then equal only once."""
    text: str
    """The text of a stream."""
    exchange_id: str | None
    """None when the engine was asked directly."""
    policy: str | None
    """What the response says about the decision."""

    @property
    def usage(self) -> dict[str, Any] | None:
        """The engine's own count, as the client sees it."""
        return next((item["usage"] for item in reversed(self.objects) if item.get("usage")), None)

    @property
    def finish(self) -> str | None:
        """Finish reason of the first choice."""
        reasons = [choice.get("finish_reason") for item in self.objects for choice in item["choices"]]
        return next((reason for reason in reversed(reasons) if reason), None)


def client(base_url: str) -> openai.OpenAI:
    """The official client, without its retries and without an outer proxy."""
    http_client = openai.DefaultHttpxClient(trust_env=False, timeout=120)
    return openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, http_client=http_client)


def ask(base_url: str, *, headers: dict[str, str] | None = None, **request: Any) -> Answer:
    """One chat completion, streamed when `stream` is set."""
    with client(base_url) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(extra_headers=headers, **request)
        parsed = raw.parse()
        parts = [parsed] if isinstance(parsed, ChatCompletion) else list(parsed)
    objects = [part.model_dump(exclude=VARIES, exclude_unset=True) for part in parts]
    exchange_id, policy = raw.headers.get("x-lengthwise-id"), raw.headers.get("x-lengthwise-policy")
    return Answer(*_folded(objects), exchange_id, policy)


def _folded(objects: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Takes the text out of chunks: how many tokens share a chunk is a matter of the moment."""
    folded: list[dict[str, Any]] = []
    text = ""
    for item in objects:
        for delta in (choice["delta"] for choice in item["choices"] if "delta" in choice):
            text += delta.get("content") or ""
            delta["content"] = "" if delta.get("content") else delta.get("content")
        if not folded or folded[-1] != item:
            folded.append(item)
    return folded, text
