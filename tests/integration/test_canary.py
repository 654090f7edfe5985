"""ARCHITECTURE.md 5.7: no secret and no content in any sink, for any outcome."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import aiohttp

from proxy.lab.simulator import SimulatorOptions, make_app
from proxy.lab.simulator import serving as simulating
from tests.support.otlp import HttpCollector
from tests.support.provider import EVENT_STREAM, Link, Provider, answering, chunked
from tests.support.provider import silent as mute
from tests.support.serve import serving_async

CANARIES = {
    "authorization": "sk-CANARYKEY0a1b2c3d4e5f",
    "api_key": "CANARYAZURE77aa88bb99cc",
    "cookie": "CANARYCOOKIE5566778899",
    "query": "CANARYQUERY1029384756",
    "prompt": "CANARYPROMPT zebra quartz",
    "tool": "CANARYTOOL description",
    "user": "CANARYUSER@example.com",
    "path": "CANARYPATH424242",
    "baggage": "CANARYBAGGAGE=1",
    "filename": "CANARYFILE.pdf",
    "answer": "CANARYANSWER of nobody's business",
    "thought": "CANARYTHOUGHT 8675309",
    "half": "CANARYHALF of an answer",
}
HEADERS = {
    "Authorization": f"Bearer {CANARIES['authorization']}",
    "api-key": CANARIES["api_key"],
    "Cookie": f"session={CANARIES['cookie']}",
    "baggage": CANARIES["baggage"],
}


def body(directive: str = "", **extra: Any) -> dict[str, Any]:
    """A chat request full of canaries."""
    return {
        "model": "sim-small",
        "user": CANARIES["user"],
        "messages": [{"role": "user", "content": f"{CANARIES['prompt']} {CANARIES['filename']} {directive}"}],
        "tools": [{"type": "function", "function": {"name": "find", "description": CANARIES["tool"]}}],
    } | extra


SILENT = [
    {"index": 0, "delta": {"reasoning_content": CANARIES["thought"]}},
    {"index": 0, "delta": {"content": CANARIES["answer"]}},
    {"index": 0, "delta": {}, "finish_reason": "stop"},
]
"""An answer whose provider reports no usage, so that its text goes to the recorder to be counted."""


def stream(*choices: dict[str, Any], whole: bool) -> bytes:
    """A streamed answer without usage, that ends properly or is cut off."""
    events = [b"data: " + json.dumps({"id": "x", "model": "m", "choices": [choice]}).encode() for choice in choices]
    framed = chunked([event + b"\n\n" for event in [*events, b"data: [DONE]"]], EVENT_STREAM)
    return framed if whole else framed[:-20]


async def cut_off(link: Link) -> None:
    """One answer that ends before its end."""
    await link.request()
    await link.send(stream({"index": 0, "delta": {"content": CANARIES["half"]}}, whole=False))
    await link.fin()


def ledger_bytes(folder: Path) -> bytes:
    """The ledger's files as they lie on the disk."""
    return b"".join(path.read_bytes() for path in folder.glob("lengthwise.sqlite*"))


async def send(session: aiohttp.ClientSession, url: str, asked: Any, *, leave: bool = False) -> None:
    """One request, read to its end however that looks, or left after its first bytes."""
    path = f"{url}/v1/chat/completions?key={CANARIES['query']}"
    with contextlib.suppress(aiohttp.ClientError):
        async with session.post(path, headers=HEADERS, data=json.dumps(asked)) as answer:
            if leave:
                await answer.content.readany()
            else:
                await answer.read()


async def test_no_canary_reaches_a_span_metric_log_row_or_page() -> None:
    """Success, streams, provider errors, errors inside a stream, resets, disconnects, timeouts, load, refusals, malformed bytes."""
    policies = {
        "version": 1,
        "rules": [
            {"name": "no-4k", "match": {"requested": {"over": 4096}, "app": ["strict"]}, "do": "reject"},
            {"name": "shade", "do": "cap", "max_tokens": 3, "mode": "shadow"},
        ],
    }
    with HttpCollector() as collector:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        async with (
            simulating(make_app(SimulatorOptions(ttft_s=0.01, tpot_s=0.001))) as url,
            Provider(answering(stream(*SILENT, whole=True))) as silent,
            Provider(cut_off) as broken,
            Provider(mute) as waiting,
            serving_async(
                {
                    "upstreams": [
                        {"name": "sim", "url": url},
                        {"name": "silent", "url": silent.url, "prefix": "/silent"},
                        {"name": "broken", "url": broken.url, "prefix": "/broken"},
                        {"name": "mute", "url": waiting.url, "prefix": "/mute"},
                        {"name": "nobody", "url": "http://127.0.0.1:1", "prefix": "/nobody"},
                    ],
                    "limits": {"in_flight": 2},
                    "timeouts": {"first_byte_s": 2},
                    "policies": "policies.yaml",
                    "logs": {"level": "debug", "format": "json", "exchanges": True},
                },
                policies=policies,
                env=environment,
            ) as served,
            aiohttp.ClientSession() as session,
        ):
            await send(session, served.url, body(max_tokens=5))
            await send(session, served.url, body(max_tokens=5, stream=True))
            await send(session, served.url, body("[error=500]"))
            await send(session, served.url, body("[error=400]", stream=True))
            await send(session, served.url, body("[tokens=20] [error_after=3]", stream=True))
            await send(session, served.url, body("[tokens=20] [reset_after=3]", stream=True))
            await send(session, served.url, body("[tokens=20] [stall_after=3]", stream=True), leave=True)
            await send(session, f"{served.url}/silent", body(stream=True))
            await send(session, f"{served.url}/broken", body(stream=True))
            await send(session, f"{served.url}/nobody", body(stream=True))
            late = [asyncio.create_task(send(session, f"{served.url}/mute", body())) for _ in range(2)]
            await waiting.link(1)
            await send(session, served.url, body(stream=True))
            await asyncio.gather(*late)
            await send(session, served.url, body(max_tokens=CANARIES["prompt"]))
            await send(session, served.url, [CANARIES["prompt"]])
            HEADERS["x-lengthwise-app"] = "strict"
            await send(session, served.url, body(max_tokens=9999))
            del HEADERS["x-lengthwise-app"]
            async with session.get(f"{served.url}/v1/files/{CANARIES['path']}", headers=HEADERS) as answer:
                await answer.read()
            host, port = served.url.removeprefix("http://").split(":")
            for raw in (
                f"GET /{CANARIES['path']} HTTP/1.1\r\nHost: a\r\nHost: b\r\nAuthorization: {CANARIES['prompt']}\r\n\r\n",
                f"GET /{CANARIES['path']} HTTP/1.1\r\nbad header {CANARIES['cookie']}\r\n\r\n",
            ):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(raw.encode())
                refused = await reader.read()
                assert refused.startswith(b"HTTP/1.1 400")
                writer.close()

            rows = await asyncio.to_thread(served.rows, 17)
            await asyncio.to_thread(collector.wait_for_spans, 32)
            asked = ("/metrics", "/status", "/", "/readyz", "/api/state", "/api/figures", "/api/exchanges")
            pages = [(await asyncio.to_thread(served.get, path))[1] for path in asked]
            ledger = await asyncio.to_thread(ledger_bytes, served.folder)
            log = served.log
            served.process.terminate()
            await asyncio.to_thread(served.process.wait, 30)
        exported = json.dumps([collector.spans, collector.metrics])
    assert "sim-small" in exported
    assert "lengthwise.stream.ends" in exported
    sinks = {"spans and metrics": exported, "pages": "".join(pages), "ledger": str(ledger), "log": log}

    counted = {row["upstream"]: (row["usage_source"], row["output_tokens"]) for row in rows if row["upstream"] != "sim"}
    nothing = ("none", None)
    assert counted == {"silent": ("estimated", 2), "broken": ("estimated", 1), "mute": nothing, "nobody": nothing}
    assert sorted({row["end"] for row in rows}) == [
        "broken",
        "client_disconnect",
        "complete",
        "rejected",
        "shed",
        "timeout",
        "upstream_error",
    ]
    found = [
        (sink, name, piece)
        for sink, text in sinks.items()
        for name, canary in CANARIES.items()
        for piece in (canary, canary[:10], canary[-8:])
        if piece in text
    ]
    assert found == []
