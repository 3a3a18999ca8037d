"""Pydantic-ai's client of OpenAI: a text, a stream, an object by tool and by schema, and tools."""

import asyncio
import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

url = sys.argv[1]


class Order(BaseModel):
    """What was ordered."""

    item: str
    count: int


def model(name: str) -> OpenAIChatModel:
    """Make a client of what is served under a name."""
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=url, api_key="none"))


async def main() -> None:
    """Ask in every way."""
    agent = Agent(model("writer"), instructions="Be brief.")
    first = await agent.run("When?")
    assert "When?" in first.output, first.output
    assert first.usage.output_tokens > 0, first.usage
    again = await agent.run("How soon?", message_history=first.all_messages())
    assert "How soon?" in again.output, again.output

    async with agent.run_stream("When?") as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True)]
    assert "When?" in "".join(pieces), pieces

    by_tool = await Agent(model("writer"), output_type=Order).run("Three pens, please.")
    assert by_tool.output == Order(item="pens", count=3), by_tool.output
    for name in ("writer", "orders"):
        by_schema = await Agent(model(name), output_type=NativeOutput(Order)).run("Three pens.")
        assert by_schema.output == Order(item="pens", count=3), (name, by_schema.output)

    helped = Agent(model("writer"))
    towns: list[str] = []

    @helped.tool_plain
    def weather(town: str) -> str:
        """Look up the weather of a town."""
        towns.append(town)
        return f"rain in {town}"

    assert (await helped.run("The weather?")).output, "an answer after a tool"
    assert towns == ["Bergen"], towns


asyncio.run(main())
