"""Whole spans, compared as values."""

from typing import Any

import pytest

from proxy.record import Action, Decision, End, ExchangeRecord, RequestFacts, ResponseFacts, ShadowDecision
from proxy.recorder.spans import Span, SpanForm, client_error_type, spans_of
from tests.support.records import (
    CLIENT_SPAN_ID,
    PARENT_SPAN_ID,
    SERVER_SPAN_ID,
    STARTED_UNIX_NS,
    TRACE_ID,
    at,
    make_record,
)

HTTP_CLIENT = {
    "http.request.method": "POST",
    "url.template": "/v1/chat/completions",
    "server.address": "api.openai.com",
    "server.port": 443,
    "http.response.status_code": 200,
}
GEN_AI = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.request.stream": True,
    "gen_ai.request.max_tokens": 512,
    "gen_ai.request.temperature": 0.5,
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.model": "gpt-4o-2024-08-06",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.response.time_to_first_chunk": 0.207,
    "openai.api.type": "chat_completions",
    "openai.response.service_tier": "default",
    "openai.response.system_fingerprint": "fp_1",
}
GEN_AI_USAGE = {
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.output_tokens": 128,
    "gen_ai.usage.cache_read.input_tokens": 64,
    "gen_ai.usage.reasoning.output_tokens": 0,
}
LENGTHWISE = {
    "lengthwise.id": "lw_0123456789abcdef",
    "lengthwise.app": "search",
    "lengthwise.key": "team-a",
    "lengthwise.max_tokens.requested": 512,
    "lengthwise.max_tokens.forwarded": 512,
    "lengthwise.max_tokens.field": "max_tokens",
    "lengthwise.max_tokens.action": "none",
    "lengthwise.max_tokens.utilization": 0.25,
    "lengthwise.max_tokens.slack": 384,
    "lengthwise.usage.source": "provider",
    "lengthwise.truncated": False,
    "lengthwise.time_to_first_token": 0.287,
    "lengthwise.time_to_first_answer_token": 0.287,
    "lengthwise.time_per_output_token": 0.01,
    "lengthwise.decoded_tokens": 128,
    "lengthwise.stream.end": "complete",
    "lengthwise.stream.events": 131,
    "lengthwise.stream.max_gap": 0.08,
    "lengthwise.client_blocked": 0.0,
    "lengthwise.overhead.request": 0.0005,
    "lengthwise.overhead.first_chunk": 0.00025,
    "lengthwise.upstream.connect_time": 0.0015,
    "lengthwise.upstream.time_to_headers": 0.197,
}
CLIENT = {
    "name": "chat gpt-4o",
    "kind": "CLIENT",
    "trace_id": TRACE_ID,
    "span_id": CLIENT_SPAN_ID,
    "parent": (SERVER_SPAN_ID, False),
    "start_ns": STARTED_UNIX_NS + 1_250_000,
    "end_ns": STARTED_UNIX_NS + 1_571_000_000,
    "status": "UNSET",
    "attributes": HTTP_CLIENT | GEN_AI | GEN_AI_USAGE | LENGTHWISE,
    "events": [("First Token Stream Event", STARTED_UNIX_NS + 290_000_000)],
}
SERVER = {
    "name": "POST /v1/chat/completions",
    "kind": "SERVER",
    "trace_id": TRACE_ID,
    "span_id": SERVER_SPAN_ID,
    "parent": (PARENT_SPAN_ID, True),
    "start_ns": STARTED_UNIX_NS,
    "end_ns": STARTED_UNIX_NS + 1_571_000_000,
    "status": "UNSET",
    "attributes": {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "http.response.status_code": 200,
    },
    "events": [],
}
ABSENT_RESPONSE = ResponseFacts()
OPAQUE = RequestFacts(dialect="opaque")


def _plain(span: Span) -> dict[str, Any]:
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent": None if span.parent_span_id is None else (span.parent_span_id, span.parent_is_remote),
        "start_ns": span.start_unix_ns,
        "end_ns": span.end_unix_ns,
        "status": "ERROR" if span.failed else "UNSET",
        "attributes": span.attributes,
        "events": list(span.events),
    }


def _spans(record: ExchangeRecord, **form: Any) -> list[dict[str, Any]]:
    return [_plain(span) for span in spans_of(record, SpanForm(**form))]


def _client(record: ExchangeRecord, **form: Any) -> dict[str, Any]:
    return _spans(record, **form)[0]


def test_a_streamed_chat_is_a_client_span_in_a_server_span() -> None:
    """Every name, value and time of the two spans of an ordinary exchange."""
    assert _spans(make_record()) == [CLIENT, SERVER]


def test_an_unsampled_exchange_has_no_spans() -> None:
    """The worker's sampling decision holds."""
    assert _spans(make_record(sampled=False)) == []


def test_a_trace_without_a_parent_starts_at_the_server_span() -> None:
    """No traceparent: the SERVER span is the root."""
    assert _spans(make_record(parent_span_id=None)) == [CLIENT, SERVER | {"parent": None}]


def test_the_trace_state_goes_on_every_span() -> None:
    """The vendor's entries that came with the trace are kept."""
    spans = spans_of(make_record(trace_state="a=1,b=2"), SpanForm())
    assert [span.trace_state for span in spans] == ["a=1,b=2", "a=1,b=2"]


def test_no_usage_leaves_out_what_the_provider_reported() -> None:
    """telemetry.genai no_usage: everything but gen_ai.usage.*."""
    expected = CLIENT | {"attributes": HTTP_CLIENT | GEN_AI | LENGTHWISE}
    assert _spans(make_record(), genai="no_usage") == [expected, SERVER]


def test_an_estimate_is_never_the_providers_usage() -> None:
    """It has attributes of its own; the rest of the span works from it."""
    record = make_record(response={"usage": None}, usage_source="estimated", estimated_output_tokens=128)
    estimated = {"lengthwise.usage.source": "estimated", "lengthwise.usage.estimated_output_tokens": 128}
    assert _client(record)["attributes"] == HTTP_CLIENT | GEN_AI | LENGTHWISE | estimated


def test_genai_off_is_a_plain_http_span_with_our_attributes() -> None:
    """telemetry.genai off: no gen_ai.*, openai.* or compat attribute, and the name of an HTTP client span."""
    expected = CLIENT | {"name": "POST /v1/chat/completions", "attributes": HTTP_CLIENT | LENGTHWISE}
    assert _spans(make_record(), genai="off", compat=frozenset({"langfuse", "signoz"})) == [expected, SERVER]


def test_compat_names_the_first_token_where_backends_look() -> None:
    """Langfuse reads an ISO time, SigNoz seconds."""
    attributes = _client(make_record(), compat=frozenset({"langfuse", "signoz"}))["attributes"]
    assert attributes == CLIENT["attributes"] | {  # type: ignore[operator]
        "langfuse.observation.completion_start_time": "2026-09-21T14:13:20.290000Z",
        "gen_ai.server.ttft": 0.287,
    }


def test_an_enforced_and_a_shadowed_decision_are_told_apart() -> None:
    """The forwarded limit is what gen_ai.request.max_tokens says; the shadow is JSON."""
    shadow = (ShadowDecision("tight", Action.CAPPED, 64), ShadowDecision("free", Action.NONE, None))
    decision = Decision(Action.CAPPED, "chat-cap", 128, "max_tokens", "b", shadow)
    record = make_record(decision=decision, response={"finish_reasons": ("length",)})
    assert _client(record)["attributes"] == {
        **HTTP_CLIENT,
        **GEN_AI,
        **GEN_AI_USAGE,
        **LENGTHWISE,
        "gen_ai.request.max_tokens": 128,
        "gen_ai.response.finish_reasons": ["length"],
        "lengthwise.max_tokens.forwarded": 128,
        "lengthwise.max_tokens.action": "capped",
        "lengthwise.max_tokens.utilization": 1.0,
        "lengthwise.max_tokens.slack": 0,
        "lengthwise.policy.rule": "chat-cap",
        "lengthwise.policy.arm": "b",
        "lengthwise.policy.shadow": '[{"rule":"tight","action":"capped","forwarded":64},'
        '{"rule":"free","action":"none","forwarded":null}]',
        "lengthwise.truncated": True,
        "lengthwise.truncated_by": "policy",
    }


def test_a_refused_request_has_one_span_that_carries_everything() -> None:
    """No upstream was tried: lengthwise.* are on SERVER, a 4xx leaves its status unset."""
    record = make_record(
        end=End.REJECTED,
        status=400,
        error_type="policy_rejected",
        ended_ns=at(2),
        upstream_tried=False,
        streamed=False,
        response=ABSENT_RESPONSE,
        decision=Decision(Action.REJECTED, "no-novels"),
        usage_source="none",
        connect_started_ns=None,
        connected_ns=None,
        request_sent_ns=None,
        headers_ns=None,
        first_write_ns=at(1.5),
    )
    assert _spans(record) == [
        SERVER
        | {
            "end_ns": STARTED_UNIX_NS + 2_000_000,
            "attributes": {
                **SERVER["attributes"],  # type: ignore[dict-item]
                "http.response.status_code": 400,
                "error.type": "policy_rejected",
                "lengthwise.id": "lw_0123456789abcdef",
                "lengthwise.app": "search",
                "lengthwise.key": "team-a",
                "lengthwise.max_tokens.requested": 512,
                "lengthwise.max_tokens.field": "max_tokens",
                "lengthwise.max_tokens.action": "rejected",
                "lengthwise.policy.rule": "no-novels",
                "lengthwise.usage.source": "none",
                "lengthwise.stream.end": "rejected",
                "lengthwise.client_blocked": 0.0,
            },
        }
    ]


def test_an_opaque_exchange_is_two_plain_http_spans() -> None:
    """No path, no route, no gen_ai; the method names both spans."""
    record = make_record(
        method="GET",
        route=None,
        request=OPAQUE,
        decision=Decision(),
        streamed=False,
        resend_count=1,
        usage_source="none",
        response=ResponseFacts(first_chunk_ns=at(210), end_ns=at(1570)),
    )
    client, server = _spans(record)
    assert client == CLIENT | {
        "name": "GET",
        "events": [],
        "attributes": {
            "http.request.method": "GET",
            "server.address": "api.openai.com",
            "server.port": 443,
            "http.response.status_code": 200,
            "http.request.resend_count": 1,
            "lengthwise.id": "lw_0123456789abcdef",
            "lengthwise.app": "search",
            "lengthwise.key": "team-a",
            "lengthwise.stream.end": "complete",
            "lengthwise.client_blocked": 0.0,
            "lengthwise.overhead.request": 0.0005,
            "lengthwise.overhead.first_chunk": 0.00025,
            "lengthwise.upstream.connect_time": 0.0015,
            "lengthwise.upstream.time_to_headers": 0.197,
        },
    }
    assert server == SERVER | {
        "name": "GET",
        "attributes": {"http.request.method": "GET", "url.scheme": "http", "http.response.status_code": 200},
    }


def test_the_url_is_the_upstreams_own() -> None:
    """Without a query; a path that holds what a client named, or is not known, makes none."""
    urls = {"openai": "https://api.openai.com/base"}
    expected = "https://api.openai.com/base/v1/chat/completions"
    assert _client(make_record(), upstream_urls=urls)["attributes"]["url.full"] == expected
    for route in (None, "/openai/deployments/{deployment}/chat/completions"):
        assert "url.full" not in _client(make_record(route=route), upstream_urls=urls)["attributes"]


def test_an_unknown_method_is_named_as_the_convention_says() -> None:
    """A method that a client invented becomes no value."""
    spans = _spans(make_record(method="BREW", route=None, request=OPAQUE))
    assert [(span["name"], span["attributes"]["http.request.method"]) for span in spans] == [("HTTP", "_OTHER")] * 2


@pytest.mark.parametrize(
    ("changes", "client", "server"),
    [
        ({}, ("UNSET", None), ("UNSET", None)),
        ({"status": 429, "error_type": "429"}, ("ERROR", "429"), ("UNSET", "429")),
        ({"status": 500, "error_type": None}, ("ERROR", "500"), ("ERROR", "500")),
        ({"end": End.BROKEN}, ("ERROR", "broken"), ("ERROR", "broken")),
        ({"end": End.ABORTED}, ("ERROR", "aborted"), ("ERROR", "aborted")),
        ({"end": End.CLIENT_DISCONNECT}, ("UNSET", None), ("UNSET", None)),
        ({"end": End.CLIENT_DISCONNECT, "status": 500, "error_type": "500"}, ("UNSET", None), ("ERROR", None)),
        (
            {"end": End.REJECTED, "status": 408, "error_type": "client_timeout"},
            ("UNSET", None),
            ("UNSET", "client_timeout"),
        ),
        (
            {"end": End.UPSTREAM_ERROR, "response": {"error_type": "server_error"}, "error_type": "server_error"},
            ("ERROR", "server_error"),
            ("UNSET", None),
        ),
        (
            {"end": End.UPSTREAM_ERROR, "status": 502, "error_type": "upstream_connect", "headers_ns": None},
            ("ERROR", "upstream_connect"),
            ("ERROR", "upstream_connect"),
        ),
        (
            {"end": End.TIMEOUT, "status": 504, "error_type": "upstream_first_byte_timeout", "headers_ns": None},
            ("ERROR", "upstream_first_byte_timeout"),
            ("ERROR", "upstream_first_byte_timeout"),
        ),
    ],
)
def test_errors_belong_to_whoever_made_them(
    changes: dict[str, Any], client: tuple[str, str | None], server: tuple[str, str | None]
) -> None:
    """Status and error.type of both spans for each way in which an exchange ends."""
    record = make_record(**changes)
    spans = _spans(record)
    assert [(span["status"], span["attributes"].get("error.type")) for span in spans] == [client, server]
    assert client_error_type(record) == client[1]


def test_our_own_answer_is_not_the_upstreams_status() -> None:
    """A 502 that we made is on SERVER only: the upstream answered nothing."""
    record = make_record(end=End.UPSTREAM_ERROR, status=502, error_type="upstream_reset", headers_ns=None)
    statuses = [span["attributes"].get("http.response.status_code") for span in _spans(record)]
    assert statuses == [None, 502]


@pytest.mark.parametrize(
    ("changes", "start_ms"),
    [
        ({}, 1.25),
        ({"connect_started_ns": None, "connected_ns": None}, 3),
        ({"connect_started_ns": None, "connected_ns": None, "request_sent_ns": None}, 0),
    ],
)
def test_the_client_span_starts_with_the_attempt(changes: dict[str, Any], start_ms: float) -> None:
    """With the connect, with the request on a pooled connection, else with the exchange."""
    assert _client(make_record(**changes))["start_ns"] == STARTED_UNIX_NS + round(start_ms * 1_000_000)


@pytest.mark.parametrize("count", [None, 0, 2])
def test_a_retry_of_an_sdk_is_seen_on_both_spans(count: int | None) -> None:
    """As the header that the SDK sent; a first attempt has none."""
    retry = {"http.request.header.x-stainless-retry-count": ["2"]} if count else {}
    client, server = _spans(make_record(sdk_retry_count=count))
    assert client == CLIENT | {"attributes": CLIENT["attributes"] | retry}
    assert server == SERVER | {"attributes": SERVER["attributes"] | retry}


def test_other_providers_get_no_openai_attributes() -> None:
    """The convention expects openai.* with provider openai alone; tier auto is no tier."""
    request = RequestFacts("chat_completions", "m", service_tier="flex")
    assert _client(make_record(request=request))["attributes"]["openai.request.service_tier"] == "flex"
    auto = _client(make_record(request=RequestFacts("chat_completions", "m", service_tier="auto")))["attributes"]
    assert "openai.request.service_tier" not in auto
    other = _client(make_record(provider="vllm", request=request))["attributes"]
    assert [name for name in other if name.startswith("openai.")] == []


def test_a_number_that_no_encoder_takes_costs_only_itself() -> None:
    """A seed and a limit beyond int64 are left out; the rest is there."""
    record = make_record(request={"seed": 2**63, "limits": (("max_tokens", 2**64),)}, decision=Decision())
    attributes = _client(record)["attributes"]
    assert {"gen_ai.request.seed", "lengthwise.max_tokens.requested"}.isdisjoint(attributes)
    assert attributes["lengthwise.max_tokens.field"] == "max_tokens"


def test_a_long_model_name_is_cut() -> None:
    """No value that a client chose is longer than 1024 characters."""
    span = _client(make_record(request={"model": "m" * 5000}))
    assert (len(span["name"]), len(span["attributes"]["gen_ai.request.model"])) == (1029, 1024)
