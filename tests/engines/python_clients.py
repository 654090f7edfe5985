"""Streams one answer by a client that applications use, and prints its text and the tokens that the client was told.

Run by the Python of an installed part: `python python_clients.py CLIENT ORIGIN MODEL PROMPT LIMIT`, where CLIENT is one of
`CLIENTS` and ORIGIN is a URL without `/v1`. Prints a JSON object: text, output_tokens (null when the client was not told).
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable


async def langchain(origin: str, model: str, prompt: str, limit: int) -> tuple[str, int | None]:
    """LangChain's `ChatOpenAI`, which does not ask for usage where the base URL is not its own default."""
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(base_url=f"{origin}/v1", api_key="k", model=model, max_tokens=limit, max_retries=0)
    text, told = "", None
    async for chunk in chat.astream(prompt):
        text += chunk.text
        told = chunk.usage_metadata["output_tokens"] if chunk.usage_metadata else told
    return text, told


async def pydantic_ai(origin: str, model: str, prompt: str, limit: int) -> tuple[str, int | None]:
    """An agent of Pydantic AI."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent = Agent(OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{origin}/v1", api_key="k")))
    async with agent.run_stream(prompt, model_settings={"max_tokens": limit}) as run:
        text = "".join([delta async for delta in run.stream_text(delta=True)])
        return text, run.usage.output_tokens


async def litellm(origin: str, model: str, prompt: str, limit: int) -> tuple[str, int | None]:
    """The SDK of litellm."""
    import litellm as sdk

    chunks = await sdk.acompletion(
        model=f"openai/{model}",
        api_base=f"{origin}/v1",
        api_key="k",
        messages=[{"role": "user", "content": prompt}],
        max_tokens=limit,
        stream=True,
        num_retries=0,
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]), None


async def anthropic(origin: str, model: str, prompt: str, limit: int) -> tuple[str, int | None]:
    """The stream of Anthropic's SDK that accumulates."""
    from anthropic import AsyncAnthropic

    async with AsyncAnthropic(base_url=origin, api_key="k", max_retries=0) as sdk:
        messages = [{"role": "user", "content": prompt}]
        async with sdk.messages.stream(model=model, max_tokens=limit, messages=messages) as stream:
            text = "".join([delta async for delta in stream.text_stream])
            return text, (await stream.get_final_message()).usage.output_tokens


async def responses(origin: str, model: str, prompt: str, limit: int) -> tuple[str, int | None]:
    """The stream of OpenAI's SDK that accumulates, on its newer endpoint."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=f"{origin}/v1", api_key="k", max_retries=0) as sdk:
        async with sdk.responses.stream(model=model, input=prompt, max_output_tokens=limit) as stream:
            text, usage = "", None
            async for event in stream:
                text += event.delta if event.type == "response.output_text.delta" else ""
                if event.type in {"response.completed", "response.incomplete"}:
                    usage = event.response.usage
        return text, usage.output_tokens if usage else None


CLIENTS: dict[str, Callable[[str, str, str, int], Awaitable[tuple[str, int | None]]]] = {
    "langchain": langchain,
    "pydantic_ai": pydantic_ai,
    "litellm": litellm,
    "anthropic": anthropic,
    "responses": responses,
}


if __name__ == "__main__":
    client, origin, model, prompt, limit = sys.argv[1:]
    text, output_tokens = asyncio.run(CLIENTS[client](origin, model, prompt, int(limit)))
    print(json.dumps({"text": text, "output_tokens": output_tokens}))
