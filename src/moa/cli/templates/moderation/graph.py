"""Moderation: each comment is published, held for review, or removed.

moa run graph.py:graph comments.jsonl
moa draw graph.py:graph
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from moa import Endpoints, Filter, Graph
from moa.agents.filter import Verdict
from moa.endpoints import Endpoint
from moa.graphs import BuiltGraph
from moa.guards.injection import Injection
from moa.guards.spam import Spam

SURE = 0.8
"""Minimum confidence to remove a comment unread. Less sure ones are held."""


class Comment(BaseModel):
    """A comment, as in a row of comments.jsonl."""

    text: str
    author: str = ""


class Ruling(BaseModel):
    """The ruling on a comment."""

    action: Literal["publish", "hold", "remove"]
    reasons: list[str] = []

    def __str__(self) -> str:
        return f"{self.action}: {'; '.join(self.reasons)}" if self.reasons else self.action


def text_of(comment: Comment) -> str:
    """Return the text to judge."""
    return comment.text


def rule(spam: Verdict, orders: Verdict, abuse: Verdict) -> Ruling:
    """Combine the verdicts. Put your own rules here."""
    objections = [verdict for verdict in (spam, orders, abuse) if verdict.met or verdict.doubtful]
    reasons = [verdict.reason for verdict in objections]
    is_sure = any(
        (verdict.confidence or 0) >= SURE and not verdict.doubtful for verdict in objections
    )
    return Ruling(
        action="remove" if is_sure else "hold" if objections else "publish", reasons=reasons
    )


def moderation(small: Endpoint) -> BuiltGraph[Comment, Ruling]:
    """Ask the small model three questions about a comment in parallel."""
    g = Graph("moderation", Comment)
    text = g.add(text_of, g.input)
    spam = g.add(Spam(small), text)
    orders = g.add(Injection(small), text)
    abuse = g.add(Filter(small, "an insult or a threat", action="drop", name="abuse"), text)
    return g.build(g.join(rule, spam, orders, abuse))


def graph(endpoints: Endpoints) -> BuiltGraph[Comment, Ruling]:
    """Build the graph for `moa run graph.py:graph`."""
    return moderation(endpoints.slm)
