"""LangChain's client of OpenAI: a text, a stream, an object, tools and vectors."""

import sys

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

url = sys.argv[1]


class Order(BaseModel):
    """What was ordered."""

    item: str
    count: int


@tool
def weather(town: str) -> str:
    """Look up the weather of a town."""
    return f"rain in {town}"


def model(name: str) -> ChatOpenAI:
    """Make a client of what is served under a name."""
    return ChatOpenAI(model=name, base_url=url, api_key="none", max_retries=0)


said = model("writer").invoke(
    [HumanMessage("When?"), AIMessage("Soon."), HumanMessage("How soon?")]
)
assert "How soon?" in str(said.content), said
assert said.usage_metadata, said

pieces = [str(chunk.content) for chunk in model("writer").stream("When?")]
assert len(pieces) > 2, pieces
assert "When?" in "".join(pieces), pieces

assert model("triage").invoke("I paid twice!").content.startswith("{"), "labels"
assert model("shout").invoke("hello").content == "HELLO", "a graph"

for name in ("orders", "writer"):
    found = model(name).with_structured_output(Order).invoke("Three pens, please.")
    assert found == Order(item="pens", count=3), (name, found)

helped = model("writer").bind_tools([weather])
asked = helped.invoke("The weather?")
(call,) = asked.tool_calls
assert call["args"] == {"town": "Bergen"}, call
told = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
assert helped.invoke([HumanMessage("The weather?"), asked, told]).content, "an answer after a tool"
