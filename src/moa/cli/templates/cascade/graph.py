"""A cascade: a small model answers what it is sure of. A large model, or people, answer the rest.

    moa run graph.py:graph questions.jsonl
    moa draw graph.py:graph

With a large model in moa.toml the small one learns from its answers, in answers.db:

    moa learn status answers.db
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from moa import Cascade, Choice, Classifier, Endpoints, Graph, Text
from moa.endpoints import Endpoint
from moa.graphs import BuiltGraph

Team = Literal["cards", "accounts", "transfers", "app"]
TEAMS: dict[Team, str] = {
    "cards": "The writer has a problem with a card, or with a payment by card.",
    "accounts": "The writer wants to log in, or to change personal data.",
    "transfers": "The writer sends money to somebody, or waits for money.",
    "app": "The app of the bank doesn't work, or the writer asks what it runs on.",
}
"""One sentence on what each team handles. The models read these sentences."""
TASK = "Which team is it for?"
SURE = 0.7
"""Minimum confidence to accept the small model's answer, without learning. It guarantees nothing.
A cascade that learns tests what it guarantees."""


class Desk(BaseModel):
    """The team that handles a question."""

    team: str
    by: Literal["model", "people"]
    """Who chose the team. `people`: people have yet to look at it, and the team is a guess."""

    def __str__(self) -> str:
        return self.team if self.by == "model" else f"people (perhaps {self.team})"


def desk_of(choice: Choice[Team]) -> Desk:
    """Let people look at what the small model is not sure of."""
    return Desk(team=choice.label, by="model" if (choice.confidence or 0) >= SURE else "people")


def desk_of_cascade(choice: Choice[Team]) -> Desk:
    """Accept the cascade's answer. Its large model has looked at the doubtful ones."""
    return Desk(team=choice.label, by="model")


def cascade(
    small: Endpoint, large: Endpoint | None = None, learn: str | None = "answers.db"
) -> BuiltGraph[Text, Desk]:
    """Ask the small model first. `learn` is the file with what it learned."""
    first = Classifier(small, Team, describe=TEAMS, task=TASK, name="team")
    g = Graph("cascade", Text)
    if large is None:
        return g.build(g.add(desk_of, g.add(first, g.input)))
    second = Classifier(large, Team, describe=TEAMS, task=TASK, name="team")
    tiers = Cascade(
        small=first, large=second, learn=learn, confidence=None if learn else SURE, name="teams"
    )
    return g.build(g.add(desk_of_cascade, g.add(tiers, g.input)))


def graph(endpoints: Endpoints) -> BuiltGraph[Text, Desk]:
    """Build the graph for `moa run graph.py:graph`."""
    return cascade(endpoints.slm, endpoints.llm if endpoints.has_llm else None)
