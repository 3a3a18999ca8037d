"""A cascade: a small model answers what it is sure of, and a large one, or people, the rest.

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
"""What each team takes care of, in a sentence each: the models read them."""
TASK = "Which team is it for?"
SURE = 0.7
"""The confidence from which on the small model's answer counts, where nothing was learnt. It is a
wish, and guarantees nothing: a cascade that learns tests what it guarantees."""


class Desk(BaseModel):
    """Who takes care of a question."""

    team: str
    by: Literal["model", "people"]
    """Who says so: `people` have yet to look at it, and the team is a guess."""

    def __str__(self) -> str:
        return self.team if self.by == "model" else f"people (perhaps {self.team})"


def desk_of(choice: Choice[Team]) -> Desk:
    """Let people look at what the small model is not sure of."""
    return Desk(team=choice.label, by="model" if (choice.confidence or 0) >= SURE else "people")


def desk_of_cascade(choice: Choice[Team]) -> Desk:
    """Take an answer that the cascade gave: its large model has looked at what was in doubt."""
    return Desk(team=choice.label, by="model")


def cascade(
    small: Endpoint, large: Endpoint | None = None, learn: str | None = "answers.db"
) -> BuiltGraph[Text, Desk]:
    """Ask the small model first; `learn` is the file that it learns in."""
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
    """Make what `moa run graph.py:graph` runs."""
    return cascade(endpoints.slm, endpoints.llm if endpoints.has_llm else None)
