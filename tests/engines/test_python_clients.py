"""The clients that applications use, streaming through the command in front of the simulator: same answer, a whole row."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from proxy.lab.simulator import SimulatorOptions, make_app
from proxy.lab.simulator import serving as simulating
from tests.engines.install import command, folder
from tests.support.serve import serving_async

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).with_name("python_clients.py")
PATIENCE_S = 90.0
FAST = SimulatorOptions(ttft_s=0.02, tpot_s=0.001)
PROMPT = "Say it. [tokens=60]"
CLIENTS = {
    "langchain": ("clients", "chat_completions"),
    "pydantic_ai": ("clients", "chat_completions"),
    "litellm": ("litellm", "chat_completions"),
    "anthropic": ("clients", "messages"),
    "responses": ("clients", "responses"),
}
"""The part that each is installed with, and the dialect that it speaks."""


async def streamed(client: str, origin: str, limit: int) -> dict[str, Any]:
    """What the client makes of a stream."""
    part, _ = CLIENTS[client]
    python = command(part, "python")
    if python is None:
        pytest.skip(f"{part} is not installed in {folder()}: python tests/engines/install.py {part}")
    process = await asyncio.create_subprocess_exec(
        python,
        SCRIPT,
        *(client, origin, "sim-small", PROMPT, str(limit)),
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},  # else it fetches one
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode == 0, err.decode()[-3000:]
    found = json.loads(out.decode().splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_streams_the_same_and_its_row_is_whole(client: str) -> None:
    """Also where the client did not ask for usage: tokens, limit, finish and times are in the ledger."""
    async with simulating(make_app(FAST)) as url:
        direct = await streamed(client, url, 25)
        async with serving_async({"upstreams": [{"name": "sim", "url": url}]}) as served:
            through = await streamed(client, served.url, 25)
            (row,) = await asyncio.to_thread(served.rows, 1)
    assert through == direct
    assert direct["text"]
    assert direct["output_tokens"] in {25, None}
    expected = {
        "dialect": CLIENTS[client][1],
        "model": "sim-small",
        "stream": 1,
        "status": 200,
        "end": "complete",
        "finish": "length",
        "cut": 1,
        "requested_max_tokens": 25,
        "forwarded_max_tokens": 25,
        "output_tokens": 25,
        "usage_source": "provider",
        "degraded": None,
        "error_type": None,
    }
    assert {name: row[name] for name in expected} == expected
    stamps = [row[name] for name in ("ttfc_s", "ttft_s", "last_token_s", "e2e_s")]
    assert all(stamps)
    assert stamps == sorted(stamps)
