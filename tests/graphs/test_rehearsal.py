"""A graph shows what it would ask first, without asking."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from counting import serving
from pydantic import BaseModel

from moa import Agent, Classifier, Decider, Graph, OpenAIEndpoint, Predicate, Text, predicate
from moa.chat.graph import Chat
from moa.chat.messages import UserMessage
from moa.core.errors import InputError
from moa.core.usage import UNKNOWN_PRICE
from moa.documents import Passage
from moa.documents.rag import Rag
from moa.documents.retrieval import BM25
from moa.endpoints import rehearsal
from moa.endpoints.wrappers import Cached, Limited
from moa.graphs.cascade import Cascade
from moa.graphs.mixture import Mixture
from moa.graphs.self_consistency import SelfConsistency
from moa.testing import ScriptedEndpoint


def large() -> ScriptedEndpoint:
    return ScriptedEndpoint(["Twelve cars."] * 9, name="large", tier="llm")


def test_all_who_are_asked_side_by_side_are_shown() -> None:
    llm = large()
    node = Agent(llm, "Count the cars.", temperature=0.7, name="count")
    shown = SelfConsistency(node=node, samples=3).prompt("A ferry")  # a third where two differ
    assert [one.node.split("/")[1] for one in shown] == ["count 1", "count 2"]
    assert not llm.prompts


class Late(BaseModel):
    late: Predicate = predicate("Is the ferry late?")


def test_a_graph_works_until_a_call_and_shows_nothing_of_what_follows() -> None:
    llm = large()
    g = Graph("ferry", Text)
    tidy = g.input.map(lambda text: Text(text=text.text.upper()))
    told = g.add(Agent(llm, "Say when it goes.", name="first"), tidy)
    late = g.add(Decider(llm, Late, name="side"), tidy)
    graph = g.build(g.join(lambda reply, late: reply, told, late))
    shown = {one.node: one for one in graph.prompt(Text(text="at noon"))}
    assert set(shown) == {"ferry/first", "ferry/side"}
    assert all("AT NOON" in one.text for one in shown.values())
    last = Graph("two", Text)
    reply = last.add(Agent(llm, "Say when it goes.", name="first"), last.input)
    two = last.build(last.add(Agent(llm, "Translate.", name="second"), reply))
    assert [one.node for one in two.prompt(Text(text="at noon"))] == ["two/first"]
    assert not llm.prompts


def test_what_fails_before_a_call_is_an_error() -> None:
    passage = Passage(document="sound.md", title="Sound", text="The ferry carries twelve cars.")
    with pytest.raises(InputError):
        Rag(retriever=BM25([passage]), writer=large()).prompt("  ")


async def test_a_chat_keeps_nothing_of_what_is_only_shown() -> None:
    llm = large()
    chat = Chat(slm=llm, llm=llm, store=":memory:")
    assert chat.prompt(UserMessage(text="Hello there"))
    assert (await chat.threads.load("default")).last is None


def test_a_cascade_that_learns_keeps_nothing_of_what_is_only_shown(tmp_path: Path) -> None:
    small, llm = ScriptedEndpoint(name="small"), large()
    first, second = (Classifier(one, ["card", "app"]) for one in (small, llm))
    cascade = Cascade(small=first, large=second, learn=tmp_path / "answers.db")
    (shown,) = cascade.prompt("It crashes.")
    assert shown.endpoint == "small"
    assert not list(tmp_path.iterdir())
    assert not small.states


async def test_vectors_that_a_server_would_make_are_a_call_too() -> None:
    with serving() as (url, asked):
        server = OpenAIEndpoint("vectors", model="m", base_url=url, capabilities=["embed"])
        passage = Passage(document="a", title="A", text="The ferry carries twelve cars.")
        graph = Rag(retriever=BM25([passage]), writer=large(), embedder=server)
        (shown,) = graph.prompt("How many cars?")
        assert not list(asked)
        await server.close()
    assert (shown.endpoint, shown.way) == ("vectors", "/embeddings")
    assert "How many cars?" in shown.text


class Foreign:
    """An endpoint of a class of its own."""

    name, model, tier, price = "foreign", "f", "llm", UNKNOWN_PRICE
    capabilities = frozenset(("complete", "decide"))

    async def complete(self, *_: object) -> Any:
        raise AssertionError("it was asked")

    decide = complete


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_endpoint_of_any_class_is_not_asked(wrapped: bool) -> None:
    foreign: Any = Foreign()
    one = Limited(foreign) if wrapped else foreign
    for agent in (Agent(one, "Count the cars."), Classifier(one, ["ferry", "train"])):
        (shown,) = agent.prompt("Twelve cars.")
        assert (shown.endpoint, shown.node) == ("foreign", agent.name)
        assert "Twelve cars." in shown.text


def test_neither_limits_nor_caches_keep_a_call_from_being_shown() -> None:
    llm = ScriptedEndpoint(["Twelve."], name="large", tier="llm")
    one = Cached(Limited(llm, concurrency=1))
    Agent(one, "Count the cars.", name="count").run_sync("A ferry")
    node = Agent(one, "Count the cars.", name="count")
    shown = Mixture(proposers=[node, node], aggregator=one).prompt("A ferry")
    assert len(shown) == 2
    assert len(llm.prompts) == 1


def test_agents_whose_server_is_not_known_yet_show_the_way_that_is_tried_first() -> None:
    with serving() as (url, asked):
        server = OpenAIEndpoint("one", model="m", base_url=url)
        g = Graph("ferry", Text)
        late = g.add(Decider(server, Late, name="first"), g.input)
        also = g.add(Decider(server, Late, name="second"), g.input)
        shown = g.build(g.join(lambda late, also: late, late, also)).prompt(Text(text="at noon"))
        assert not list(asked)
    assert {one.node: one.way for one in shown} == {
        "ferry/first": "System One",
        "ferry/second": "System One",
    }


def test_what_waits_for_a_held_call_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rehearsal, "_LONGEST_S", 0.2)
    agent, turn = Agent(large(), "Count the cars.", name="count"), asyncio.Lock()

    async def ask(text: Text) -> str:
        async with turn:
            return (await agent.run(text.text)).output.text

    g = Graph("ferry", Text)
    one, two = g.add(ask, g.input), g.add(ask, g.input, name="again")
    graph = g.build(g.join(lambda one, two: one, one, two))
    assert len(graph.prompt(Text(text="at noon"))) == 1
