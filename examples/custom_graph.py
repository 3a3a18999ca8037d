"""A graph of one's own: reviews come in, praise is thanked for, complaints are answered.

    moa run examples/custom_graph.py:graph --text "The straps broke after two days."
    moa draw examples/custom_graph.py:graph

A function that takes the endpoints is all that the command line needs; from Python, call it with
`Endpoints()`, and `await graph(endpoints).run(review)`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from moa import (
    Agent,
    Choice,
    Decider,
    Endpoints,
    Graph,
    Node,
    Predicate,
    Reply,
    choice,
    predicate,
)


class Review(BaseModel):
    """What comes in: a line of text, or a row with these fields."""

    text: str
    stars: int | None = None


class Reading(BaseModel):
    """What the small model is asked about each review, in one request."""

    happy: Predicate = predicate("Is the customer happy?")
    about: Choice[Literal["delivery", "quality", "price"] | None] = choice("What is it about?")


async def thanks(reading: Reading) -> Reply:
    """Answer praise: a plain function is a node too."""
    about = f" about our {reading.about.label}" if reading.about.label else ""
    return Reply(text=f"Thank you for the kind words{about}!")


def graph(endpoints: Endpoints) -> Node[Review, Reply]:
    """Declare the graph; the small model decides whether the large one is needed."""
    read = Decider(endpoints.slm, Reading, name="read")
    apologise = Agent(
        endpoints.llm,
        "Write a short, friendly answer to this unhappy review of our backpacks.",
        name="apologise",
        max_tokens=120,
    )

    g = Graph("reviews", Review)
    text = g.input.map(lambda review: review.text)
    reading = g.add(read, text)
    unhappy = reading.map(lambda r: not r.happy.value)
    answer = g.add(apologise, text, when=unhappy, otherwise=g.add(thanks, reading))
    return g.build(answer)
