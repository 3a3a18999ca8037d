"""What a type checker knows of agents. Read by pyright, never run."""

from __future__ import annotations

from enum import Enum
from typing import Literal, assert_type

from pydantic import BaseModel

from moa import (
    Agent,
    Choice,
    Classifier,
    Decider,
    Extractor,
    Filter,
    Node,
    Predicate,
    Reasoner,
    Reply,
    Sentiment,
    Text,
    predicate,
)
from moa.agents.filter import Verdict
from moa.agents.sentiment import Feeling, Mood
from moa.endpoints import Endpoint
from moa.recipes.reasoner import Reasoned


class Topic(Enum):
    CARD = "card"
    APP = "app"


class Order(BaseModel):
    number: str


class Asked(BaseModel):
    refund: Predicate = predicate("Does the customer want money back?")


class Shortener(Agent[Order, Reply]):
    instructions = "Shorten."


async def agents(endpoint: Endpoint, text: Text, order: Order) -> None:
    writes = Agent(endpoint, "Reply.")
    assert_type(writes, Agent[str | BaseModel, Reply])
    assert_type((await writes.run("hi")).output, Reply)
    orders = Agent(endpoint, "Find the order.", output=Order, name="orders")
    assert_type(orders, Agent[str | BaseModel, Order])
    assert_type((await orders.run(order)).output, Order)
    reads = Agent(endpoint, "Thank them.", input=Order)
    assert_type(reads, Agent[Order, Reply])
    await reads.run("hi")  # pyright: ignore[reportArgumentType]
    assert_type(Agent(endpoint, "Mend it.", input=Text, output=Order), Agent[Text, Order])
    assert_type((await Extractor(endpoint, Order).run(text)).output, Order)
    assert_type((await Shortener(endpoint).run(order)).output, Reply)
    assert_type(Shortener(endpoint, "Cut."), Shortener)
    await Shortener(endpoint).run("hi")  # pyright: ignore[reportArgumentType]
    assert_type((await Reasoner(endpoint).run("why?")).output, Reasoned[str])
    assert_type((await Reasoner(endpoint, answer=int).run("why?")).output.answer, int)
    assert_type((await Decider(endpoint, Asked).run(text)).output.refund, Predicate)
    assert_type((await Sentiment(endpoint).run("hi")).output, Mood)
    assert_type((await Sentiment(endpoint).run(text)).output.label, Feeling)
    assert_type((await Filter(endpoint, "spam", action="drop").run(text)).output, Verdict)
    Filter(endpoint, "spam")  # pyright: ignore[reportCallIssue]
    await Filter(endpoint, "spam", action="drop").run(order)  # pyright: ignore[reportArgumentType]


async def labels(endpoint: Endpoint, text: Text) -> None:
    assert_type((await Classifier(endpoint, Topic).run(text)).output.label, Topic)
    assert_type((await Classifier(endpoint, ["a", "b"]).run(text)).output.label, str)
    perhaps = Classifier(endpoint, Topic, none=True)
    assert_type((await perhaps.run(text)).output.label, Topic | None)
    word = Classifier(endpoint, ["a", "b"], none=True)
    assert_type((await word.run(text)).output.label, str | None)
    described = Classifier(endpoint, {"a": "the first", "b": "the second"})
    assert_type((await described.run(text)).output.label, str)
    meant = Classifier(endpoint, {Topic.CARD: "a card", Topic.APP: "the app"})
    assert_type((await meant.run(text)).output.label, Topic)
    letters: dict[Literal["x", "y"], str] = {"x": "the first", "y": "the second"}
    lettered = Classifier(endpoint, letters)
    assert_type((await lettered.run(text)).output.label, Literal["x", "y"])
    either = Classifier(endpoint, letters, none=True)
    assert_type((await either.run(text)).output.label, Literal["x", "y"] | None)
    literal = Classifier(endpoint, Literal["x", "y"])
    assert_type((await literal.run(text)).output.label, Literal["x", "y"])


def nodes(endpoint: Endpoint) -> None:
    text_in: Node[Text, Mood] = Sentiment(endpoint)
    str_in: Node[str, Choice[Topic]] = Classifier(endpoint, Topic)
    perhaps: Node[str, Choice[Topic | None]] = Classifier(endpoint, Topic)
    never: Node[str, Choice[Topic]] = Classifier(endpoint, Topic, none=True)  # pyright: ignore[reportAssignmentType]
    any_in: Node[Order, Reply] = Agent(endpoint, "Reply.")
    wrong: Node[Order, Mood] = Sentiment(endpoint)  # pyright: ignore[reportAssignmentType]
    del text_in, str_in, perhaps, never, any_in, wrong
