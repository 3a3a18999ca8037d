"""What a type checker must see in a graph. Never run: pyright reads it."""

from __future__ import annotations

from enum import Enum
from typing import Literal, TypedDict, assert_never, assert_type

from langchain_core.runnables import Runnable
from langgraph.graph import StateGraph

from moa.adapters.langgraph import as_langgraph, as_runnable
from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.agents.sentiment import Sentiment
from moa.core.node import Node, Reply, Result, Text
from moa.core.questions import Choice
from moa.endpoints import Endpoint
from moa.graphs import BuiltGraph, Graph, Handle, Skipped
from moa.graphs.mixing.voting import VotedReply
from moa.graphs.self_consistency import SelfConsistency
from moa.guards import Blocked
from moa.guards.guarded import Guarded
from moa.recipes.best_of_n import BestOf, BestOfN
from moa.recipes.judges import Candidates, Pick


class Ticket: ...


class Verdict:
    kept: bool


class Answer: ...


class Dropped: ...


class Topic(Enum):
    CARD = "card"
    LOAN = "loan"


async def clean(ticket: Ticket) -> Text: ...
async def judge(text: Text) -> Verdict: ...
async def write(text: Text) -> Answer: ...
async def write_text(text: Text) -> Answer: ...
async def topic_of(text: Text) -> Choice[Topic]: ...
async def topic_or_none(text: Text) -> Choice[Topic | None]: ...
async def letter_of(text: Text) -> Choice[Literal["a", "b"]]: ...
async def whatever(text: Text | Skipped) -> Answer: ...
def drop(verdict: Verdict) -> Dropped: ...
def kept(verdict: Verdict) -> bool: ...


g = Graph("support", Ticket)
text = g.add(clean, g.input)
spam = g.add(judge, text)
condition = spam.map(lambda verdict: verdict.kept)
assert_type(g.input, Handle[Ticket])
assert_type(text, Handle[Text])
assert_type(condition, Handle[bool])
assert_type(spam.map(kept), Handle[bool])
assert_type(g.add(drop, spam), Handle[Dropped])

maybe = g.add(write, text, when=condition)
reply = g.add(write, text, when=condition, otherwise=g.add(drop, spam))
assert_type(maybe, Handle[Answer | Skipped])
assert_type(reply, Handle[Answer | Dropped])
assert_type(g.add(drop, spam, when=condition), Handle[Dropped | Skipped])
assert_type(g.add(drop, spam, when=condition, otherwise=maybe), Handle[Dropped | Answer | Skipped])

cleaned = g.add(clean, g.input, when=condition)
assert_type(g.add(write, cleaned), Handle[Answer | Skipped])
assert_type(g.add(write, cleaned, otherwise=g.add(drop, spam)), Handle[Answer | Dropped])
assert_type(g.add(whatever, cleaned), Handle[Answer])
judged = g.add(judge, cleaned)
assert_type(g.add(write, text, when=g.add(kept, judged)), Handle[Answer | Skipped])

graph = g.build(reply)
assert_type(graph, BuiltGraph[Ticket, Answer | Dropped])
as_node: Node[Ticket, Answer | Dropped] = graph
outer = Graph("outer", Ticket)
assert_type(outer.add(graph, outer.input), Handle[Answer | Dropped])

assert_type(g.join(lambda t, v: (t, v), text, spam), Handle[tuple[Text, Verdict]])
assert_type(g.join(lambda t, m: (t, m), text, maybe), Handle[tuple[Text, Answer | Skipped]])


def by_topic(label: Topic | None) -> Handle[Answer] | Handle[Dropped]:
    match label:
        case Topic.CARD:
            return g.add(write, text)
        case Topic.LOAN | None:
            return g.add(drop, spam)


def forgets_loan(label: Topic | None) -> Handle[Answer]:
    match label:
        case Topic.CARD | None:
            return g.add(write, text)
        case _:
            assert_never(label)  # pyright: ignore[reportArgumentType]


def of_topic(label: Topic) -> Handle[Answer]: ...
def only_a(label: Literal["a"] | None) -> Handle[Answer]: ...


def shown(answer: Answer) -> str: ...


answer = g.add(write, text)
assert_type(g.ask_human("Send it?", answer, answer=bool), Handle[bool])
assert_type(g.ask_human(shown, answer, answer=Literal["a", "b"]), Handle[Literal["a", "b"]])
assert_type(g.ask_human("?", answer, answer=bool, when=condition), Handle[bool | Skipped])
assert_type(
    g.ask_human("?", answer, answer=bool, when=condition, otherwise=spam), Handle[bool | Verdict]
)
assert_type(g.add(drop, spam, thread=True), Handle[Dropped])

topic = g.add(topic_of, text)
assert_type(topic.accepted, Handle[bool])
assert_type(g.match(topic, by_topic), Handle[Answer | Dropped])
g.match(g.add(letter_of, text), only_a)  # pyright: ignore[reportArgumentType]
g.match(topic, of_topic)
g.match(g.add(topic_or_none, text), of_topic)  # pyright: ignore[reportArgumentType]
g.match(spam, by_topic)  # pyright: ignore[reportArgumentType]


def agents(slm: Endpoint) -> None:
    asked = Graph("agents", Text)
    kind = asked.add(Classifier(slm, Literal["card", "loan"]), asked.input)
    assert_type(kind, Handle[Choice[Literal["card", "loan"]]])
    asked.add(Sentiment(slm), asked.input)
    asked.add(Sentiment(slm), kind)  # pyright: ignore[reportCallIssue, reportArgumentType]


class State(TypedDict):
    text: Text
    answer: Answer


def in_a_state_graph() -> None:
    def read(state: State) -> Text:
        return state["text"]

    def write(answer: Answer) -> dict[str, Answer]:
        return {"answer": answer}

    def misread(state: State) -> Answer:
        return state["answer"]

    inner = Graph("inner", Text)
    node = inner.build(inner.add(write_text, inner.input))
    StateGraph(State).add_node(as_langgraph(node, read=read, write=write))  # pyright: ignore[reportUnknownMemberType]
    as_langgraph(node, read=misread, write=write)  # pyright: ignore[reportArgumentType]
    assert_type(as_runnable(node), Runnable[Text, Answer])


async def a_guarded_node(node: Node[Text, Reply], check: Filter) -> None:
    safe = Guarded(node=node, before=[check], beside=[check])
    assert_type(await safe.run(Text(text="")), Result[Reply | Blocked])
    Guarded(node=node, beside=[node])  # pyright: ignore[reportArgumentType]


async def choosing_among_answers(node: Node[Text, Reply], judge: Node[Candidates, Pick]) -> None:
    assert_type(await SelfConsistency(node=node).run(Text(text="")), Result[VotedReply])
    assert_type(await BestOfN(node=node, judge=judge).run(Text(text="")), Result[BestOf])
    await SelfConsistency(node=node).run("no text")  # pyright: ignore[reportArgumentType]
    BestOfN(node=node, judge=node)  # pyright: ignore[reportArgumentType]


async def results() -> None:
    assert_type(await graph.run(Ticket()), Result[Answer | Dropped])
    await graph.run("no ticket")  # pyright: ignore[reportArgumentType]


g.ask_human(kept, answer, answer=bool)  # pyright: ignore[reportCallIssue, reportArgumentType]
g.add(write, g.input)  # pyright: ignore[reportCallIssue, reportArgumentType]
g.add(drop, text)  # pyright: ignore[reportCallIssue, reportArgumentType]
g.add(graph, text)  # pyright: ignore[reportCallIssue, reportArgumentType]
g.add(write, text, when=spam)  # pyright: ignore[reportCallIssue, reportArgumentType]
judged.map(kept)  # pyright: ignore[reportArgumentType]
g.join(kept, judged)  # pyright: ignore[reportArgumentType]
judged.map(lambda verdict: verdict.kept)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType, reportUnknownMemberType]
