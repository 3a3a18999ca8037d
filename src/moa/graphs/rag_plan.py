"""Rag's plan: its nodes as a graph, to be drawn. The functions stand for its rule alone."""

from __future__ import annotations

from typing import Any

from moa.documents import Passages
from moa.documents.answering import Sheet
from moa.documents.grading import Grade
from moa.documents.rewriting import Query
from moa.documents.sourced import NotInDocuments, Sourced
from moa.graphs.building.builder import Graph
from moa.graphs.building.plan import Plan
from moa.handoffs import Reply, Text
from moa.node import Node


def plan_of_rag(
    name: str,
    input_type: Any,
    retriever: Node[Text | str, Passages],
    writer: Node[Sheet, Reply],
    *,
    rewriter: Node[Text | str, Query] | None,
    relevance: Node[Text | str, Grade] | None,
    support: Node[Text | str, Grade] | None,
) -> Plan:
    """Wire the nodes of a rag graph as they follow one another."""
    g: Graph[Any] = Graph(name, input_type)
    query: Any = g.input
    if rewriter is not None:
        query = g.add(rewriter, g.input).map(_query)
    found: Any = g.add(retriever, query)
    kept = found
    if relevance is not None:
        useful: Any = g.add(relevance, found.map(_each), name="filter each")
        kept = g.join(helpful, found, useful)
    reply: Any = g.add(writer, g.join(_sheet, g.input, kept))
    if support is None:
        return g.build(g.join(_outcome, reply, kept)).plan
    grade: Any = g.add(support, reply.map(_each), name="check each sentence")
    return g.build(g.join(_checked, reply, kept, grade)).plan


def _query(query: Query) -> str:
    return query.query


def _each(parts: Passages | Reply) -> str:
    return str(parts)


def helpful(found: Passages, grade: Grade) -> Passages:
    """Stand for the passages that are kept."""
    del grade
    return found


def _sheet(request: Text | str, found: Passages) -> Sheet:
    return Sheet(question=str(request), passages=found.passages)


def _outcome(reply: Reply, found: Passages) -> Sourced | NotInDocuments:
    del found
    return NotInDocuments(reason=reply.text)


def _checked(reply: Reply, found: Passages, grade: Grade) -> Sourced | NotInDocuments:
    del grade
    return _outcome(reply, found)
