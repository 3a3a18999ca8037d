"""Moderation: each comment is published, held for somebody to read, or removed.

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
"""The confidence from which on a comment is removed unread. What is less sure is held."""


class Comment(BaseModel):
    """A comment, as a row of comments.jsonl has it."""

    text: str
    author: str = ""


class Ruling(BaseModel):
    """What becomes of a comment."""

    action: Literal["publish", "hold", "remove"]
    reasons: list[str] = []

    def __str__(self) -> str:
        return f"{self.action}: {'; '.join(self.reasons)}" if self.reasons else self.action


def text_of(comment: Comment) -> str:
    """Return what is judged of a comment."""
    return comment.text


def rule(spam: Verdict, orders: Verdict, abuse: Verdict) -> Ruling:
    """Put the verdicts together: this is the place for rules of your own."""
    objections = [verdict for verdict in (spam, orders, abuse) if verdict.met or verdict.doubtful]
    reasons = [verdict.reason for verdict in objections]
    is_sure = any(
        (verdict.confidence or 0) >= SURE and not verdict.doubtful for verdict in objections
    )
    return Ruling(
        action="remove" if is_sure else "hold" if objections else "publish", reasons=reasons
    )


def moderation(small: Endpoint) -> BuiltGraph[Comment, Ruling]:
    """Ask three questions about a comment at once, all of them of the small model."""
    g = Graph("moderation", Comment)
    text = g.add(text_of, g.input)
    spam = g.add(Spam(small), text)
    orders = g.add(Injection(small), text)
    abuse = g.add(Filter(small, "an insult or a threat", action="drop", name="abuse"), text)
    return g.build(g.join(rule, spam, orders, abuse))


def graph(endpoints: Endpoints) -> BuiltGraph[Comment, Ruling]:
    """Make what `moa run graph.py:graph` runs."""
    return moderation(endpoints.slm)
