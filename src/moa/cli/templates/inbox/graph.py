"""An inbox: each message gets a reply, or goes to the people who handle it.

moa run graph.py:graph messages.jsonl
moa draw graph.py:graph
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from moa import Endpoints, Graph, Node
from moa.config.loading import load_graph
from moa.graphs import BuiltGraph
from moa.inbox.support import Answered, Rejected, Routed, SupportOutcome, Ticket


class Case(BaseModel):
    """The outcome of a message."""

    send: Literal["now", "after a look", "nothing"]
    """`now`: send the text as it is. `after a look`: it is a draft. `nothing`: send nothing."""
    queue: str
    """Queue of the people who handle it; empty if nobody has to."""
    text: str
    """The reply, or the reason why there is none."""

    def __str__(self) -> str:
        return f"{self.queue or 'done'}: {self.text}"


def case_of(outcome: Answered | Routed | Rejected) -> Case:
    """Decide the outcome of a message. Put your own rules here."""
    if isinstance(outcome, Routed):
        return Case(send="nothing", queue=outcome.queue, text=outcome.reason)
    if isinstance(outcome, Rejected):
        return Case(send="nothing", queue="", text=outcome.reason)
    if outcome.kind == "draft":
        return Case(send="after a look", queue="replies", text=outcome.text)
    return Case(send="now", queue="", text=outcome.text)


def inbox(support: Node[Ticket, SupportOutcome]) -> BuiltGraph[Ticket, Case]:
    """Put the built-in support graph in front of the rules above."""
    g = Graph("inbox", Ticket)
    outcome = g.add(support, g.input)
    return g.build(g.add(case_of, outcome))


def graph(endpoints: Endpoints) -> BuiltGraph[Ticket, Case]:
    """Build the graph for `moa run graph.py:graph`. moa.toml lists what messages can want."""
    return inbox(load_graph("support", endpoints))
