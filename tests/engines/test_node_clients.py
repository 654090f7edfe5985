"""The clients for Node.js through Lengthwise: objects and errors are what they are directly, for every shape of a stream."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.engines.install import folder, home_of
from tests.support.provider import Link, Provider, ok
from tests.support.relay import relay
from tests.support.shapes import SHAPES, answer, asks, chat, recorded, wanted

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).with_name("node_clients.mjs")
PATIENCE_S = 120.0
WAYS = [
    *(
        pytest.param(client, usage, asked, id=f"{client}, {usage}{', asked' if asked else ''}")
        for client in ("openai", "ai")
        for usage in ("observe", "inject")
        for asked in (False, True)
    ),
    pytest.param("anthropic", "inject", False, id="anthropic"),
]


@pytest.fixture(scope="module")
def home() -> Path:
    """Where the packages are installed."""
    found = home_of("node")
    if found is None:
        pytest.skip(f"the clients for Node.js are not installed in {folder()}: python tests/engines/install.py node")
    return found


class Shaped:
    """A provider that writes its stream in the shape that the request names as its model.

    A break waits until the client has read every whole event before it: fetch of Node.js drops the chunks that nobody has
    read yet when the body breaks off, directly too, and how many those are is chance.
    """

    def __init__(self, client: str, usage: str | None, *, asked: bool) -> None:
        self._client, self._usage, self._asked = client, usage, asked
        self._heard = asyncio.Event()

    async def __call__(self, link: Link) -> None:
        """One connection."""
        while True:
            request = await link.request()
            if request.start.startswith(b"GET"):
                self._heard.set()
                await link.send(ok())
                continue
            self._heard.clear()
            shape = SHAPES[json.loads(request.body)["model"]]
            if self._client == "anthropic":
                pieces = shape.pieces(recorded("messages"))
            elif self._usage is None:
                pieces = shape.pieces(chat(asked=asks(request.body)))
            else:
                pieces = wanted(shape, self._usage, asked=self._asked)
            if not await answer(link, shape, pieces, self._heard, hold_fin=True):
                return


async def made_of_it(home: Path, client: str, origin: str, heard: str, *, asked: bool) -> dict[str, Any]:
    """What the client makes of each shape."""
    base_url = origin if client == "anthropic" else f"{origin}/v1"
    arguments = [client, base_url, f"{heard}/heard", "usage" if asked else "", *SHAPES]
    process = await asyncio.create_subprocess_exec(
        "node",
        "--input-type=module",
        "-",
        *arguments,
        cwd=home,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate(SCRIPT.read_bytes())
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode == 0, err.decode()[-3000:]
    return dict(zip(SHAPES, json.loads(out), strict=True))


@pytest.mark.parametrize(("client", "usage", "asked"), WAYS)
async def test_every_shape_is_to_the_client_what_it_is_directly(
    home: Path, client: str, usage: str, asked: bool
) -> None:
    """Objects, and the error where the client fails on the shape."""
    async with Provider(Shaped(client, usage, asked=asked)) as provider:
        direct = await made_of_it(home, client, provider.url, provider.url, asked=asked)
    async with (
        Provider(Shaped(client, None, asked=asked)) as provider,
        relay({"url": provider.url, "usage": usage}) as served,
    ):
        origin = f"http://127.0.0.1:{served.address[1]}"
        through = await made_of_it(home, client, origin, provider.url, asked=asked)
    assert {name: through[name] for name in SHAPES if through[name] != direct[name]} == {
        name: direct[name] for name in SHAPES if through[name] != direct[name]
    }
    assert len(direct["LF"]["objects"]) > 3
    assert direct["LF"]["error"] is None
    failed = [name for name in SHAPES if direct[name]["error"] or "error" in json.dumps(direct[name]["objects"])]
    assert {"error with its name", "reset within an event", "closed between events"} <= set(failed)
