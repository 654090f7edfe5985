"""Whatever shape an event stream has, the client gets the provider's bytes, and the official clients make the same of them.

Each shape is sent as it is written and byte by byte, with and without asking for usage. What the clients are given directly
is what they must be given through Lengthwise, objects and exceptions alike, also where a client fails on the shape.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import orjson
import pytest

from proxy.record import End
from tests.support.provider import Provider, Wire, split_head
from tests.support.relay import relay
from tests.support.shapes import SHAPES, Shape, chat, in_bits, recorded, sending, wanted

PATHS = {"chat_completions": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses"}
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Loading the system's certificates for each client would take most of the time."""
BROKEN_OFF = {"TransportError", "APIConnectionError"}
"""What a client raises when a connection breaks: its own, or that of the HTTP library beneath it."""
MODES = [
    pytest.param("observe", False, id="observed"),
    pytest.param("observe", True, id="observed, asked for usage"),
    pytest.param("inject", False, id="injected"),
    pytest.param("inject", True, id="injected, asked for usage"),
]


# -- bytes ------------------------------------------------------------------------------------------------------------


async def heard_by_wire(port: int, path: str, shape: Shape, heard: asyncio.Event, *, asked: bool) -> tuple[bytes, bool]:
    """The body that a client without an opinion gets, as far as it came, and whether it is whole."""
    body = orjson.dumps(request("m", asked=asked) | {"stream": True})
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    client = Wire(sock)
    client.read()
    await client.send(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body)
    if shape.ending == "whole":
        found = (await client.message()).body, True
    else:
        await client.has(b"\n\n")
        heard.set()
        await client.end()
        found = so_far(bytes(client.received))
    await client.close()
    return found


def so_far(answer: bytes) -> tuple[bytes, bool]:
    """The whole chunks of an answer that broke off, and whether it has its end after all."""
    split = split_head(answer)
    assert split is not None, answer
    body, rest = b"", split[2]
    while rest:
        size_line, _, rest = rest.partition(b"\r\n")
        size = int(size_line, 16)
        assert len(rest) >= size + 2, "the break is between chunks"
        body, rest = body + rest[:size], rest[size + 2 :]
        if not size:
            return body, True
    return body, False


@pytest.mark.parametrize(("usage", "asked"), MODES)
@pytest.mark.parametrize("name", SHAPES)
async def test_the_bytes_are_the_providers_less_an_event_that_the_client_did_not_ask_for(
    name: str, usage: str, asked: bool
) -> None:
    """As it is written and byte by byte, whole and broken off."""
    shape, heard = SHAPES[name], asyncio.Event()
    expected = b"".join(wanted(shape, usage, asked=asked)), shape.ending == "whole"
    for cut in (list, in_bits):

        def pieces(asked: bool, cut: Callable[[list[bytes]], list[bytes]] = cut) -> list[bytes]:
            return cut(shape.pieces(chat(asked=asked)))

        async with (
            Provider(sending(shape, pieces, heard)) as provider,
            relay({"url": provider.url, "usage": usage}) as served,
        ):
            found = await heard_by_wire(served.address[1], PATHS["chat_completions"], shape, heard, asked=asked)
            record = await served.record()
        assert found == expected
        assert (record.end is End.BROKEN) == (shape.ending != "whole")


@pytest.mark.parametrize("dialect", ["messages", "responses"])
@pytest.mark.parametrize("name", SHAPES)
async def test_the_bytes_of_the_other_dialects_are_the_providers(name: str, dialect: str) -> None:
    """Nothing is asked for, so nothing is cut."""
    shape, heard = SHAPES[name], asyncio.Event()
    expected = shape.pieces(recorded(dialect))
    async with Provider(sending(shape, lambda _asked: expected, heard)) as provider, relay(provider.url) as served:
        found = await heard_by_wire(served.address[1], PATHS[dialect], shape, heard, asked=False)
    assert found == (b"".join(expected), shape.ending == "whole")


# -- clients ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What a client made of a stream."""

    objects: list[dict[str, Any]] = field(default_factory=list)
    error: tuple[Any, ...] | None = None
    """Type and content of the exception that ended it, and the type of its cause."""


def request(model: str, *, asked: bool, dialect: str = "chat_completions") -> dict[str, Any]:
    """What any dialect wants to be asked."""
    if dialect == "responses":
        return {"model": model, "input": "a"}
    whole: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 9}
    return whole | ({"stream_options": {"include_usage": True}} if asked else {})


def told(error: Exception) -> tuple[Any, ...]:
    """Type and content of an exception, and the type of its cause."""
    content = [getattr(error, name, None) for name in ("message", "body", "code", "type")]
    return (type(error), str(error), *content, type(error.__cause__))


async def heard_by_client(port: int, dialect: str, shape: Shape, heard: asyncio.Event, *, asked: bool) -> Outcome:
    """What the dialect's own client yields and raises."""
    outcome = Outcome()
    origin = f"http://127.0.0.1:{port}"
    http_client = openai.DefaultAsyncHttpxClient(verify=NO_TLS, trust_env=False)
    options: dict[str, Any] = {"api_key": "k", "max_retries": 0, "http_client": http_client}
    body = request("m", asked=asked, dialect=dialect) | {"stream": True}
    client: Any
    if dialect == "messages":
        client = anthropic.AsyncAnthropic(base_url=origin, **options)
        create = client.messages.create
    else:
        client = openai.AsyncOpenAI(base_url=f"{origin}/v1", **options)
        create = client.responses.create if dialect == "responses" else client.chat.completions.create
    async with client:
        try:
            async for item in await create(**body):
                outcome.objects.append(item.model_dump(exclude_unset=True))
                heard.set()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it must be the same twice
            outcome.error = told(error)
            if shape.ending == "reset" and BROKEN_OFF & {base.__name__ for base in type(error).__mro__}:
                outcome.error = (
                    "broken off",
                )  # by a reset or short of the end: the socket tells, the clients hardly do
    return outcome


@pytest.mark.parametrize(
    ("dialect", "usage", "asked"),
    [
        *(pytest.param("chat_completions", *mode.values, id=mode.id) for mode in MODES),
        pytest.param("messages", "inject", False, id="messages"),
        pytest.param("responses", "inject", False, id="responses"),
    ],
)
@pytest.mark.parametrize("name", SHAPES)
async def test_the_official_clients_yield_and_raise_what_they_do_directly(
    name: str, dialect: str, usage: str, asked: bool
) -> None:
    """Objects, their content, and the exception at the end with its content."""
    shape, heard = SHAPES[name], asyncio.Event()

    def sent(asked: bool) -> list[bytes]:
        return shape.pieces(chat(asked=asked) if dialect == "chat_completions" else recorded(dialect))

    def bare(_asked: bool) -> list[bytes]:
        return wanted(shape, usage, asked=asked) if dialect == "chat_completions" else sent(asked)

    async with Provider(sending(shape, bare, heard)) as provider:
        direct = await heard_by_client(provider.port, dialect, shape, heard, asked=asked)
    heard.clear()
    async with (
        Provider(sending(shape, sent, heard)) as provider,
        relay({"url": provider.url, "usage": usage}) as served,
    ):
        through = await heard_by_client(served.address[1], dialect, shape, heard, asked=asked)
    assert through == direct


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("LF", "Hello", None),
        ("no [DONE]", "Hello", None),
        ("error", "Hel", openai.APIError),
        ("closed between events", "Hel", openai.APIConnectionError),
        ("ping without data", "Hel", json.JSONDecodeError),
    ],
)
async def test_a_client_sees_what_the_shape_says(name: str, text: str, error: type[Exception] | None) -> None:
    """So that the comparison above compares something."""
    shape, heard = SHAPES[name], asyncio.Event()
    pieces = sending(shape, lambda asked: shape.pieces(chat(asked=asked)), heard)
    async with Provider(pieces) as provider, relay(provider.url) as served:
        found = await heard_by_client(served.address[1], "chat_completions", shape, heard, asked=False)
    deltas = [choice["delta"].get("content") or "" for item in found.objects for choice in item["choices"]]
    assert "".join(deltas) == text
    assert (found.error and found.error[0]) == error
