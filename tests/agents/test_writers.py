"""Agent, Extractor and Reasoner."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from moa import Agent, Extractor, Reasoner, Reply, RunContext, Text
from moa.agents.reasoner import Reasoned
from moa.endpoints import Completion, Prompt
from moa.testing import ScriptedEndpoint


class Order(BaseModel):
    number: str | None


class Brief(BaseModel):
    text: str
    mood: str | None = None


class Thinking(ScriptedEndpoint):
    """Thinks before it answers."""

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        return replace(await super().complete(prompt, context), reasoning="I thought hard.")


async def test_a_generator_writes_plain_text() -> None:
    endpoint = ScriptedEndpoint([" Hello!\n"])
    result = await Agent(endpoint, "Greet.", name="writer").run(Text(text="Hi, I am Eve"))
    assert result.output == Reply(text="Hello!")
    (prompt,) = endpoint.prompts
    assert prompt.json_schema is None
    assert prompt.messages[0].content.startswith("Greet.")
    assert prompt.messages[1].content == "<data>\nHi, I am Eve\n</data>"


async def test_a_generator_takes_any_model_and_writes_any_model() -> None:
    endpoint = ScriptedEndpoint([Order(number="A-1")])
    result = await Agent(endpoint, "Find it.", output=Order).run(Brief(text="order A-1"))
    assert result.output == Order(number="A-1")
    assert "text: order A-1" in endpoint.prompts[0].messages[1].content
    assert "mood" not in endpoint.prompts[0].messages[1].content


async def test_an_extractor_gives_the_model_filled_in() -> None:
    endpoint = ScriptedEndpoint(['{"number": 1}', Order(number="A-1")])
    result = await Extractor(endpoint, Order).run("Where is order A-1?")
    assert result.output == Order(number="A-1")
    assert "number should be a valid string" in endpoint.prompts[1].messages[-1].content


async def test_a_reasoner_keeps_reasons_and_answer_apart() -> None:
    endpoint = ScriptedEndpoint([Reasoned[int](reasons="6 times 7", answer=42)])
    result = await Reasoner(endpoint, answer=int).run("6 * 7?")
    assert result.output.answer == 42
    assert result.output.reasons == "6 times 7"
    schema = endpoint.prompts[0].json_schema
    assert schema is not None
    assert list(schema["properties"]) == ["reasons", "answer"]


async def test_the_reasons_of_a_thinking_model_are_what_it_thought() -> None:
    endpoint = Thinking([Reasoned[str](reasons="short", answer="Canberra")])
    result = await Reasoner(endpoint).run("Capital of Australia?")
    assert result.output == Reasoned[str](reasons="I thought hard.", answer="Canberra")
