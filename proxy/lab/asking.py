"""Asks a provider one question and measures the answer as Lengthwise measures any exchange.

Layer: lab. The observer and the record are those of the data path, so a probe's TTFT is the ledger's TTFT: from the last
byte of the request handed to the transport to the first generated token.

What a server does not take (a field of another generation of the API, `stream_options`) is left out from then on; it says so
in its refusal. The credential is sent in one header and appears in no message.
"""

import os
import re
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Final, Literal

import aiohttp
import orjson

from proxy.errors import LengthwiseError
from proxy.observe.observer import Observer
from proxy.record import Decision, End, ExchangeRecord, RequestFacts, ResponseFacts
from proxy.wire.dialects.chat_completions import ChatCompletions

__all__ = ["AskError", "Asker", "LimitError", "LimitField", "Provider", "StatusError", "session"]

LimitField = Literal["max_tokens", "max_completion_tokens"]

_CHAT: Final = ChatCompletions()
_EVENT_BYTES: Final = 1 << 20
_CONNECT_S: Final = 10.0
_SILENCE_S: Final = 120.0
_REFUSAL_BYTES: Final = 4096
_SAID_CHARS: Final = 300
_FORWARDED = re.compile(r"forwarded=(\d+)")
"""In the header by which Lengthwise says what a rule did."""


class AskError(LengthwiseError):
    """No whole answer; the message says why, and holds no credential."""


class LimitError(AskError):
    """The limit that was asked for is not the one that was in force, so whatever is measured says nothing of it."""


class StatusError(AskError):
    """An answer with an error status."""

    def __init__(self, message: str, status: int, said: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.said = said
        """The server's own words, shortened."""
        self.retry_after_s = retry_after_s
        """How long it asks to be left alone; None when it does not."""


@dataclass(frozen=True, slots=True)
class Provider:
    """Whom to ask, and how it wants to be asked."""

    base_url: str
    """As an SDK takes it: `/chat/completions` is appended."""
    model: str
    api_key_env: str
    """Variable that holds the credential; unset or empty: none is sent."""
    field: LimitField
    field_is_settled: bool
    """False: the other limit field is tried when the server refuses this one."""
    asks_usage: bool = True

    def other_way(self, refused: StatusError) -> "Provider | None":
        """How to ask instead, where the refusal says what was wrong with the way of asking."""
        if refused.status not in {400, 422}:
            return None
        if "stream_options" in refused.said and self.asks_usage:
            return replace(self, asks_usage=False)
        other: LimitField = "max_tokens" if self.field == "max_completion_tokens" else "max_completion_tokens"
        # OpenAI names both, others only the one that they do not know.
        if not self.field_is_settled and (other in refused.said or self.field in refused.said):
            return replace(self, field=other, field_is_settled=True)
        return None


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks over one session."""

    http: aiohttp.ClientSession
    provider: Provider

    async def ask(self, prompt: str, max_tokens: int) -> ExchangeRecord:
        """The record of one whole streamed answer.

        Raises:
            StatusError: the provider answered with an error status.
            LimitError: a rule of a Lengthwise on the way changed the limit.
            AskError: it did not answer, or not to the end.
        """
        provider = self.provider
        body = {
            "model": provider.model,
            "messages": [{"role": "user", "content": prompt}],
            provider.field: max_tokens,
            "stream": True,
        }
        if provider.asks_usage:
            body["stream_options"] = {"include_usage": True}
        headers = {"content-type": "application/json", "accept": "text/event-stream", "accept-encoding": "identity"}
        credential = os.environ.get(provider.api_key_env, "")
        if credential:
            headers["authorization"] = f"Bearer {credential}"
        stamps = SimpleNamespace(sent_ns=time.monotonic_ns(), started_unix_ns=time.time_ns())
        try:
            async with self.http.post(
                f"{provider.base_url}/chat/completions",
                data=orjson.dumps(body),
                headers=headers,
                allow_redirects=False,
                trace_request_ctx=stamps,
            ) as response:
                headers_ns = time.monotonic_ns()
                if response.status != 200:
                    raise await self._refused(response, credential)
                _check_limit(response.headers.get("x-lengthwise-policy", ""), max_tokens)
                streamed = response.content_type == "text/event-stream"
                observer = Observer(
                    _CHAT,
                    event_stream=streamed,
                    content_encoding="",
                    event_bytes=_EVENT_BYTES,
                    body_bytes=_EVENT_BYTES,
                    choices=1,
                )
                async for data in response.content.iter_any():
                    observer.feed(data, time.monotonic_ns())
        except TimeoutError:
            raise AskError(f"{provider.base_url} fell silent: nothing came within the time allowed") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise AskError(f"no answer from {provider.base_url}: {_reason(error)}") from None
        facts = observer.finish(time.monotonic_ns())
        if not streamed:
            raise AskError(f"{provider.base_url} does not stream, so it has no time to first token")
        if facts.error_type is not None or not facts.terminal_seen:
            raise AskError(f"{provider.base_url} broke off its answer ({facts.error_type or 'no end of the stream'})")
        return self._record(facts, max_tokens, stamps, headers_ns)

    async def _refused(self, response: aiohttp.ClientResponse, credential: str) -> StatusError:
        provider, status = self.provider, response.status
        said = _said(await response.content.read(_REFUSAL_BYTES), credential)
        given = f"variable {provider.api_key_env}" + ("" if credential else ", which is not set")
        why = {
            401: f"it does not accept the credential ({given})",
            403: f"the credential may not do this ({given})",
            404: f"there is no such model or address ({provider.model}; does the base URL end in /v1?): {said}",
        }.get(status, said or "without a word")
        if 300 <= status < 400:
            why = "it redirects; name the address itself"
        retry_after = response.headers.get("retry-after", "")
        return StatusError(
            f"{provider.base_url} refused, status {status}: {why}",
            status,
            said,
            float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None,
        )

    def _record(
        self, facts: ResponseFacts, max_tokens: int, stamps: SimpleNamespace, headers_ns: int
    ) -> ExchangeRecord:
        counted = facts.usage is not None and facts.usage.output_tokens is not None
        return ExchangeRecord(
            id="",
            started_unix_ns=stamps.started_unix_ns,
            accepted_ns=stamps.sent_ns,
            end=End.COMPLETE,
            ended_ns=time.monotonic_ns(),
            trace_id="",
            parent_span_id=None,
            server_span_id="",
            client_span_id="",
            sampled=False,
            trace_state=None,
            method="POST",
            route=_CHAT.route,
            scheme="",
            upstream=None,
            provider=None,
            server_address=None,
            server_port=None,
            app=None,
            key_name=None,
            request=RequestFacts(
                dialect=_CHAT.name,
                model=self.provider.model,
                stream=True,
                limits=((self.provider.field, max_tokens),),
            ),
            decision=Decision(forwarded_max_tokens=max_tokens, limit_field=self.provider.field),
            response=facts,
            streamed=True,
            status=200,
            error_type=None,
            upstream_tried=True,
            resend_count=0,
            sdk_retry_count=None,
            request_bytes=0,
            response_bytes=0,
            usage_source="provider" if counted else "estimated",
            degraded=facts.degraded,
            request_complete_ns=None,
            connected_ns=None,
            connect_started_ns=None,
            request_sent_ns=stamps.sent_ns,
            headers_ns=headers_ns,
            first_write_ns=None,
            client_blocked_ns=0,
            estimated_output_tokens=None if counted else facts.generated_events,
        )


def _check_limit(policy: str, max_tokens: int) -> None:
    forwarded = _FORWARDED.search(policy)
    if forwarded is not None and int(forwarded[1]) != max_tokens:
        raise LimitError(
            f"a rule of Lengthwise on the way made {forwarded[1]} of the limit {max_tokens} ({policy}): probe past it, or without that rule"
        )


def session(concurrency: int) -> aiohttp.ClientSession:
    """A session that keeps as many connections as requests run at a time, and stamps when each request was sent."""
    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(_stamp)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S),
        trace_configs=[trace],
        trust_env=True,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _stamp(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _sent: aiohttp.TraceRequestChunkSentParams
) -> None:
    context.trace_request_ctx.sent_ns = time.monotonic_ns()


def _said(body: bytes, credential: str) -> str:
    """The message of an error answer on one line, shortened."""
    try:
        text = str(orjson.loads(body)["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = body.decode(errors="replace")
    text = "".join(filter(str.isprintable, " ".join(text.split())))
    return (text.replace(credential, "***") if credential else text)[:_SAID_CHARS]


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or type(error.os_error).__name__
    return type(error).__name__
