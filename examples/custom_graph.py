"""A graph of one's own: reviews come in, praise is thanked for, complaints are answered.

    moa run examples/custom_graph.py:graph --text "The straps broke after two days."
    moa draw examples/custom_graph.py:graph

A function that takes the endpoints is all that the command line needs; from Python, call it with
`Endpoints()`, and `await graph(endpoints).run(review)`.
"""

from __future__ import annotations

from pydantic import BaseModel

from moa import Agent, Endpoints, Graph, Node, Reply, Sentiment


class Review(BaseModel):
    """What comes in: a line of text, or a row with these fields."""

    text: str
    stars: int | None = None


async def thank(text: str) -> Reply:
    """Answer praise: a plain function is a node too."""
    return Reply(text="Thank you, we are glad to hear that!")


async def look_into_it(text: str) -> Reply:
    """Answer a complaint where no large model is there to write."""
    return Reply(text="We are sorry, and look into it at once.")


def graph(endpoints: Endpoints) -> Node[Review, Reply]:
    """Declare the graph: the small model decides who answers, and the large one writes."""
    g = Graph("reviews", Review)
    text = g.input.map(lambda review: review.text)
    mood = g.add(Sentiment(endpoints.slm, neutral=False), text)
    happy = mood.map(lambda mood: mood.label == "positive")
    if endpoints.has_llm:
        words = "Write a short, friendly answer to this unhappy review of our backpacks."
        answer = g.add(Agent(endpoints.llm, words, name="apologise", max_tokens=120), text)
    else:  # small models decide well and write badly: a fixed text is better
        answer = g.add(look_into_it, text)
    return g.build(g.add(thank, text, when=happy, otherwise=answer))
