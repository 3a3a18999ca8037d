"""LiteLLM's SDK, for a server with OpenAI's format: a text, a stream, an object and tools."""

import json
import sys

import litellm
from pydantic import BaseModel

url = sys.argv[1]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Look up the weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}


class Order(BaseModel):
    """What was ordered."""

    item: str
    count: int


def ask(name, text, **more):
    """Ask what is served under a name."""
    messages = [{"role": "user", "content": text}]
    return litellm.completion(
        model=f"openai/{name}", messages=messages, api_base=url, api_key="none", **more
    )


said = ask("writer", "When?")
assert "When?" in said.choices[0].message.content, said
assert said.usage.total_tokens > 0, said

pieces = [chunk.choices[0].delta.content or "" for chunk in ask("writer", "When?", stream=True)]
assert "When?" in "".join(pieces), pieces

given = ask("orders", "Three pens, please.", response_format=Order).choices[0].message.content
assert Order.model_validate_json(given) == Order(item="pens", count=3), given

called = ask("writer", "The weather?", tools=[TOOL]).choices[0].message.tool_calls[0]
assert json.loads(called.function.arguments) == {"town": "Bergen"}, called

assert ask("shout", "hello").choices[0].message.content == "HELLO", "a graph"
try:
    ask("nobody", "Hello")
except litellm.NotFoundError:
    pass
else:
    raise AssertionError("a model that isn't served was found")
