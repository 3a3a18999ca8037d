"""What `.ci/serve` and `.ci/clients` serve beside ready ones: nodes whose models are doubles."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel

from moa import Agent, Choice, Decider, Filter, Graph, Predicate, Score, choice, predicate, score
from moa.core.messages import ToolCall
from moa.testing import SimulatedEndpoint, SimulatedRequest


class Order(BaseModel):
    """What was ordered."""

    item: str
    count: int


def _write(text: str, asked: SimulatedRequest) -> Any:
    """Write what follows the schema, call the tool, or say what was asked."""
    prompt = asked.prompt
    if prompt is not None and prompt.tools and prompt.messages[-1].role == "user":
        return ToolCall(prompt.tools[0].name, json.dumps({"town": "Bergen"}))
    if asked.schema is None:
        return f"You said: {text.splitlines()[-2] if text.count(chr(10)) > 1 else text}."
    if "tool" in json.dumps(asked.schema):
        return json.dumps({"tool": "final_result", "arguments": {"item": "pens", "count": 3}})
    return json.dumps({"item": "pens", "count": 3})


def _decide(text: str, asked: SimulatedRequest) -> dict[str, dict[str, float]]:
    return {q.name: {q.options[0].name: 0.75 + (len(text) % 10) / 50} for q in asked.questions}


class Triage(BaseModel):
    """What is asked about a mail."""

    refund: Predicate = predicate("Does the customer ask for money back?")
    topic: Choice[Literal["card", "app"]] = choice("What is it about?")
    urgency: Score = score("How urgent is it?", levels=["can wait", "today", "now"])


_large = SimulatedEndpoint(name="large", tier="llm", rule=_write)
_small = SimulatedEndpoint(name="small", rule=_decide)
writer = Agent(_large, "Answer.", name="writer")
orders = Agent(_large, "Find the order.", output=Order, name="orders")
triage = Decider(_small, Triage, name="triage")
spam = Filter(_small, "spam", action="drop", name="spam")
_g = Graph("shout", str)
shout = _g.build(_g.add(str.upper, _g.input))
