"""Runs that go on where they were stopped: nothing that was answered is paid for again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict, cast

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.errors import NodeCancelledError
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from pydantic import BaseModel

from moa.adapters.langgraph import as_langgraph
from moa.agents.agent import Agent
from moa.agents.base import TypedNode
from moa.agents.classifier import Classifier
from moa.core._async import gather
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    EndpointUnauthorized,
    EndpointUnavailable,
    InputError,
    NodeError,
    NotResumable,
    OutputError,
)
from moa.core.node import Reply, Result, finish, run_in_place
from moa.core.questions import Choice
from moa.core.usage import Price
from moa.endpoints import Prompt
from moa.graphs import Graph
from moa.graphs.mixture import Mixture
from moa.graphs.self_consistency import SelfConsistency
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .killed import THREAD, killed, resumed, whole
from .nodes import Asker, alone, kept
from .test_recipes_drawn import RECIPES, STATEFUL


def large(name: str = "large", **settings: Any) -> SimulatedEndpoint:
    def rule(text: str) -> str:
        return f"{name} read {len(text)}"

    given: dict[str, Any] = {"tier": "llm", "rule": rule, **settings}
    return SimulatedEndpoint(name=name, **given)


def mixture() -> Mixture:
    proposers = [large("a"), large("b"), large("c")]
    # On a loaded machine an answer may be late.
    return Mixture(proposers=proposers, layers=2, aggregator=large("z"), straggler_timeout_s=None)


def own_graph() -> Any:
    """A chain of agents with a recipe in it."""
    g = Graph("own", str)
    mixed = g.add(mixture(), g.input)
    plain = g.add(Agent(large("plain"), "Answer.", name="plain"), g.input)
    both = g.join(lambda a, b: f"{a.text} {b.text}", mixed, plain)
    return g.build(g.add(Agent(large("last"), "Answer.", name="last"), both))


def improved() -> Any:
    """A draft that is looked at and revised three times."""
    inner = Graph("improve", Reply)
    revised = inner.add(Agent(large("revises"), "Revise it.", name="revise"), inner.input)
    improve = inner.build(inner.add(Agent(large("checks"), "Check it.", name="check"), revised))

    async def thrice(draft: Reply, context: RunContext) -> Reply:
        for _ in range(3):
            draft = (await improve.run(draft, context)).output
        return draft

    g = Graph("own", str)
    draft = g.add(Agent(large("writes"), "Write it.", name="write"), g.input)
    return g.build(g.add(thrice, draft))


def asked_twice() -> Any:
    """A function asks a graph in a graph the same twice."""
    inner = Graph("inner", str)
    answers = inner.build(inner.add(Agent(large(), "Answer.", name="answer"), inner.input))
    outer = Graph("outer", str)
    asks = outer.build(outer.add(answers, outer.input))

    async def twice(text: str, context: RunContext) -> str:
        first = (await asks.run(text, context)).output
        return f"{first.text} {(await asks.run(text, context)).output.text}"

    g = Graph("own", str)
    return g.build(g.add(twice, g.input))


MADE: dict[str, tuple[Callable[[], Any], object]] = {
    "mixture": (mixture, "Why?"),
    "a graph of one's own": (own_graph, "Why?"),
    "a loop": (improved, "Why?"),
    "the same twice": (asked_twice, "Why?"),
}


async def every_death(make: Callable[[], Any], request: object, patch: pytest.MonkeyPatch) -> None:
    """Kill a run after each of its calls, and go on."""
    output, calls = await whole(make, request, patch)
    for lives in range(len(calls.answered)):
        disk = await killed(make, request, patch, lives=lives)
        again, further = await resumed(make, disk, patch)
        assert lives + len(further.answered) == len(calls.answered), f"killed after {lives}"
        assert again == output


@pytest.mark.parametrize("name", MADE)
async def test_what_was_answered_before_a_process_was_killed_is_not_asked_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await every_death(*MADE[name], monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted({*RECIPES} - STATEFUL))
async def test_no_ready_graph_asks_again_what_was_answered(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, request = RECIPES[name]
    first = cast("list[object]", request)[0] if isinstance(request, list) else request
    await every_death(make, first, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(STATEFUL))
async def test_no_ready_graph_asks_models_again_that_answer_differently_each_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, request = RECIPES[name]
    _, calls = await whole(make, request, monkeypatch)
    for lives in range(len(calls.answered)):
        recipe = make()  # its models outlast the process
        disk = await killed(lambda recipe=recipe: recipe, request, monkeypatch, lives=lives)
        _, further = await resumed(lambda recipe=recipe: recipe, disk, monkeypatch)
        assert lives + len(further.answered) == len(calls.answered), f"killed after {lives}"


async def test_who_was_late_before_is_not_asked_when_the_run_goes_on() -> None:
    asked: list[str] = []
    broken = True

    def rule(text: str) -> str:
        asked.append("z")
        if broken:
            raise asyncio.CancelledError  # as if the process ended here
        return "Done."

    def mixed(slow_s: float) -> Any:
        slow = large("slow", latency_s=slow_s)
        proposers = [large("a"), large("b"), slow]
        return Mixture(
            proposers=proposers,
            quorum=2,
            straggler_timeout_s=0.01,
            aggregator=large("z", rule=rule),
        ), slow

    saver = InMemorySaver()
    recipe, _ = mixed(9.0)
    compiled: Any = recipe.compile(checkpointer=saver)
    with pytest.raises(NodeCancelledError):
        await compiled.ainvoke("Why?", THREAD)
    broken = False
    recipe, slow = mixed(0.0)
    compiled = recipe.compile(checkpointer=saver)
    done = await compiled.ainvoke(None, THREAD)
    assert (done.text, [*done.proposals], slow.prompts) == ("Done.", ["a", "b"], [])


async def test_a_new_run_of_the_thread_finds_nothing_of_the_one_before() -> None:
    endpoint = large()
    compiled = kept(SelfConsistency(node=Agent(endpoint, "Answer.", temperature=1)))
    for runs in (1, 2):
        await compiled.ainvoke("Why?", THREAD)
        assert len(endpoint.prompts) % runs == 0
    assert len(endpoint.prompts) >= 2
    assert len(endpoint.prompts) % 2 == 0


async def test_what_made_a_run_fail_is_asked_anew_and_what_had_ended_well_is_not() -> None:
    good, bad = large("good"), ScriptedEndpoint(name="bad", tier="llm", steps=["", "", "Fine."])
    g = Graph("g", str)
    first = g.add(Agent(good, "Answer.", name="first"), g.input)
    compiled = kept(
        g.build(g.add(Agent(bad, "Answer.", name="second"), first.map(lambda r: r.text)))
    )
    with pytest.raises(OutputError):
        await compiled.ainvoke("Why?", THREAD)
    assert (await compiled.ainvoke(None, THREAD)).text == "Fine."
    assert (len(good.prompts), len(bad.prompts)) == (1, 3)


async def test_a_run_that_failed_does_not_ask_again_what_something_stood_in_for() -> None:
    down = ScriptedEndpoint(name="down", steps=[EndpointUnavailable("down", endpoint="down")])
    no_key = EndpointUnauthorized("no key", endpoint="last", status=401)
    last = ScriptedEndpoint(name="last", tier="llm", steps=[no_key, "Done."])
    compiled = kept(Mixture(proposers=[large("a"), down, large("b")], aggregator=last))
    with pytest.raises(EndpointUnauthorized):
        await compiled.ainvoke("Why?", THREAD)
    done = await compiled.ainvoke(None, THREAD)
    assert (done.text, [*done.proposals]) == ("Done.", ["a", "b"])
    assert (len(down.prompts), len(last.prompts)) == (1, 2)


class Picky:
    """Fails where it is told no."""

    name = "picky"

    def __init__(self, *says: str) -> None:
        self.endpoint = ScriptedEndpoint(steps=says)

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        own = (context or RunContext()).nested(self.name)
        said = (await self.endpoint.complete(Prompt.of(request), own)).text
        if said == "no":
            raise EndpointUnavailable("it says no", endpoint="e")
        return finish(said, own, seconds=0.0)

    def twice(self, *, after: SimulatedEndpoint | None = None) -> Any:
        """Run it in a graph, and once more where it fails."""
        g = Graph("g", str)
        policy = RetryPolicy(
            retry_on=EndpointUnavailable, initial_interval=0.0, jitter=False, max_attempts=2
        )
        before = g.input if after is None else g.add(Asker("asker", after), g.input)
        graph = g.build(g.add(self, before))
        return graph.compile(checkpointer=InMemorySaver(), retry=policy)


async def test_a_node_that_failed_asks_again_and_one_that_ended_well_does_not() -> None:
    good, failing = large("good"), Picky("no", "yes")
    compiled = failing.twice(after=good)
    assert await compiled.ainvoke("x", THREAD) == "yes"
    assert (len(good.prompts), len(failing.endpoint.prompts)) == (1, 2)


async def test_a_run_whose_every_attempt_failed_makes_all_of_them_anew() -> None:
    compiled = Picky("no", "no", "no", "yes").twice()
    with pytest.raises(EndpointUnavailable):
        await compiled.ainvoke("x", THREAD)
    assert await compiled.ainvoke(None, THREAD) == "yes"


async def test_people_are_asked_once_by_a_graph_that_is_run_again() -> None:
    failures = iter((True, False))

    class Approves(TypedNode[str, Reply]):
        async def answer(self, request: str, context: RunContext) -> Reply:
            said = interrupt("well?")
            if next(failures):
                raise EndpointUnavailable("down", endpoint="e")
            return Reply(text=said)

    g = Graph("g", str)
    policy = RetryPolicy(retry_on=EndpointUnavailable, initial_interval=0.0, jitter=False)
    graph = g.build(g.add(Approves(), g.input))
    compiled: Any = graph.compile(checkpointer=InMemorySaver(), retry=policy)
    await compiled.ainvoke("x", THREAD)
    assert (await compiled.ainvoke(Command(resume="yes"), THREAD)).text == "yes"


PRICE = Price(input=Decimal(1), output=Decimal(1))


async def test_the_budget_of_a_run_that_goes_on_counts_what_was_paid_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make() -> Any:
        g = Graph("g", str)
        step = g.input
        for number in range(4):
            step = g.add(Asker(f"n{number}", large(price=PRICE)), step)
        return g.build(step)

    disk = await killed(make, "x", monkeypatch, lives=2)
    enough = RunContext(budget=Budget(calls=4))
    _, further = await resumed(make, disk, monkeypatch, enough)
    assert (enough.usage.calls, len(further.answered)) == (4, 2)
    assert [note.text for note in enough.trace if note.kind == "resumed"] == [
        "2 calls were found, and not paid again"
    ]
    disk = await killed(make, "x", monkeypatch, lives=2)
    with pytest.raises(BudgetExceeded):
        await resumed(make, disk, monkeypatch, RunContext(budget=Budget(calls=3)))


async def test_a_context_that_goes_on_counts_each_call_once() -> None:
    endpoint = large()

    async def ask(text: str) -> str:
        return interrupt("well?")

    g = Graph("g", str)
    mixed = g.add(Mixture(proposers=[endpoint, endpoint], aggregator=endpoint), g.input)
    compiled = kept(g.build(g.add(ask, mixed.map(lambda m: m.text))))
    context = RunContext(budget=Budget(calls=3))
    await compiled.ainvoke("Why?", THREAD, context=context)
    assert context.usage.calls == 3
    assert await compiled.ainvoke(Command(resume="done"), THREAD, context=context) == "done"
    assert (context.usage.calls, len(endpoint.prompts)) == (3, 3)
    assert [note.kind for note in context.trace].count("answered") == 3


class Person:
    """Asks people, after it has asked a model."""

    def __init__(self, name: str, endpoint: SimulatedEndpoint) -> None:
        self.name = name
        self.endpoint = endpoint

    async def run(
        self, request: str | BaseModel, context: RunContext | None = None, /
    ) -> Result[Reply]:
        own = (context or RunContext()).nested(self.name)
        await self.endpoint.complete(Prompt.of(str(request)), own)
        return finish(Reply(text=f"{self.name}: {interrupt(self.name)}"), own, seconds=0.0)


async def test_people_are_asked_inside_a_recipe_in_a_graph_in_a_graph() -> None:
    slow, quick, other, last = (large(n) for n in ("slow", "quick", "other", "last"))
    slow.latency_s = 0.02
    people: Any = [Person("slow", slow), Person("quick", quick), other]
    inner = Graph("inner", str)
    mixed = inner.build(inner.add(Mixture(proposers=people, aggregator=last), inner.input))
    outer = Graph("outer", str)
    graph = outer.build(outer.add(mixed, outer.input))
    compiled = kept(graph)
    paused = await compiled.ainvoke("Why?", THREAD)
    asked = {one.value: one.id for one in paused["__interrupt__"]}
    assert set(asked) == {"slow", "quick"}
    assert [len(one.prompts) for one in (slow, quick, other, last)] == [1, 1, 1, 0]
    slow.latency_s, quick.latency_s = 0.0, 0.02
    answers = {asked["slow"]: "no haste", asked["quick"]: "at once"}
    done = await compiled.ainvoke(Command(resume=answers), THREAD)
    said = [done.proposals[name] for name in ("slow", "quick")]
    assert said == ["slow: no haste", "quick: at once"]
    assert [len(one.prompts) for one in (slow, quick, other, last)] == [1, 1, 1, 1]


class Sides(TypedNode[str, Reply]):
    """A recipe that has a node look at several things side by side."""

    def __init__(self, person: Person) -> None:
        super().__init__()
        self.person = person

    async def answer(self, request: str, context: RunContext) -> Reply:
        calls = [run_in_place(self.person, part, context) for part in request.split()]
        return Reply(text=", ".join(one.output.text for one in await gather(calls)))


async def test_a_node_that_stands_beside_itself_is_given_the_answer_to_its_own_question() -> None:
    slow = "a"

    class Each(Person):
        async def run(
            self, request: str | BaseModel, context: RunContext | None = None, /
        ) -> Result[Reply]:
            await asyncio.sleep(0.02 if request == slow else 0.0)
            return Result(output=Reply(text=f"{request}={interrupt(request)}"))

    g = Graph("g", str)
    compiled = kept(g.build(g.add(Sides(Each("each", large())), g.input)))
    paused = await compiled.ainvoke("a b", THREAD)
    assert [one.value for one in paused["__interrupt__"]] == ["b"]
    slow = "b"
    paused = await compiled.ainvoke(Command(resume="for b"), THREAD)
    assert [one.value for one in paused["__interrupt__"]] == ["a"]
    done = await compiled.ainvoke(Command(resume="for a"), THREAD)
    assert done.text == "a=for a, b=for b"


async def test_one_of_several_questions_can_be_answered_first() -> None:
    people: Any = [Person("a", large()), Person("b", large())]
    compiled = kept(Mixture(proposers=people, aggregator=large("z")))
    paused = await compiled.ainvoke("Why?", THREAD)
    asked = {one.value: one.id for one in paused["__interrupt__"]}
    paused = await compiled.ainvoke(Command(resume={asked["b"]: "B"}), THREAD)
    assert [one.value for one in paused["__interrupt__"]] == ["a"]
    done = await compiled.ainvoke(Command(resume="A"), THREAD)
    assert done.proposals == {"a": "a: A", "b": "b: B"}


async def test_a_person_is_asked_twice_in_a_row_by_one_node() -> None:
    async def asks(text: str) -> str:
        return f"{interrupt('name?')} {interrupt('age?')}"

    compiled = kept(alone(asks))
    paused = await compiled.ainvoke("x", THREAD)
    assert paused["__interrupt__"][0].value == "name?"
    paused = await compiled.ainvoke(Command(resume="Ada"), THREAD)
    assert paused["__interrupt__"][0].value == "age?"
    assert await compiled.ainvoke(Command(resume="36"), THREAD) == "Ada 36"


async def test_a_question_about_a_typed_answer_is_known_again() -> None:
    endpoint = SimulatedEndpoint(rule=lambda _: {"topic": {"card": 0.9}})
    classifier = Classifier(endpoint, ["card", "app"], name="topic")

    async def asks(topic: Choice[str]) -> str:
        return f"{topic.label}: {interrupt('well?')}"

    g = Graph("g", str)
    compiled = kept(g.build(g.add(asks, g.add(classifier, g.input))))
    await compiled.ainvoke("x", THREAD)
    assert await compiled.ainvoke(Command(resume="yes"), THREAD) == "card: yes"


async def test_an_answer_that_is_not_valid_can_be_given_again() -> None:
    async def asks(text: str) -> str:
        return f"{interrupt('age?', response_schema=Age).years} years"

    compiled = kept(alone(asks))
    await compiled.ainvoke("x", THREAD)
    with pytest.raises(NodeError, match="years"):
        await compiled.ainvoke(Command(resume={"years": "many"}), THREAD)
    assert await compiled.ainvoke(Command(resume={"years": 36}), THREAD) == "36 years"


class Age(BaseModel):
    years: int


def in_a_function() -> Any:
    async def asks(text: str) -> str:
        return interrupt("well?")

    return alone(asks)


def in_a_node() -> Any:
    return alone(Person("person", large()))


def in_a_recipe() -> Any:
    people: Any = [large(), Person("person", large())]
    return Mixture(proposers=people, aggregator=large())


@pytest.mark.parametrize("make", [in_a_function, in_a_node, in_a_recipe])
async def test_people_cannot_be_asked_in_a_plain_run(make: Callable[[], Any]) -> None:
    with pytest.raises(NotResumable, match=r"graph.compile\(checkpointer=…\)"):
        await make().run("Why?")


async def test_texts_are_streamed_as_messages_from_inside() -> None:
    compiled: Any = own_graph().compiled
    parts = [part async for part in compiled.astream("Why?", stream_mode="messages")]
    texts: dict[str, str] = {}
    for chunk, about in parts:
        texts[about["moa_node"]] = texts.get(about["moa_node"], "") + chunk.content
    assert texts["own/last"].startswith("last read")
    assert texts["own/mixture/aggregator"].startswith("z read")
    assert len({chunk.id for chunk, _ in parts}) == len(texts)


async def test_studio_is_shown_what_is_drawn() -> None:
    compiled: Any = own_graph().compiled
    for graph in (compiled, compiled.copy({"checkpointer": InMemorySaver()})):
        drawn = (await graph.aget_graph()).draw_mermaid()
        assert all(name in drawn for name in ("plain", "last", "aggregator"))
    assert compiled.get_input_jsonschema()["type"] == "string"
    assert compiled.get_context_jsonschema() is None


class State(TypedDict, total=False):
    text: str
    reply: str


def around(node: Any, **compiling: Any) -> Any:
    """A state graph of the user's, with a node of ours."""

    def read(state: State) -> str:
        return state.get("text", "")

    def write(reply: Any) -> dict[str, str]:
        return {"reply": reply.text}

    builder: Any = StateGraph(State)
    builder.add_node("ours", as_langgraph(node, read=read, write=write))
    builder.add_edge(START, "ours")
    builder.add_edge("ours", END)
    return builder.compile(**compiling)


async def test_texts_are_streamed_as_messages_through_a_state_graph() -> None:
    graph = around(mixture())
    parts = [part async for part in graph.astream({"text": "Why?"}, stream_mode="messages")]
    assert "".join(chunk.content for chunk, _ in parts).startswith("z read")
    assert {about["langgraph_node"] for _, about in parts} == {"ours"}
    assert len(parts) > 1


async def test_a_node_in_a_state_graph_asks_nothing_again() -> None:
    endpoint = large()
    people: Any = [Person("person", endpoint), endpoint]
    graph = around(Mixture(proposers=people, aggregator=endpoint), checkpointer=InMemorySaver())
    paused = await graph.ainvoke({"text": "Why?"}, THREAD)
    assert paused["__interrupt__"][0].value == "person"
    assert len(endpoint.prompts) == 2
    await graph.ainvoke(Command(resume="yes"), THREAD)
    assert len(endpoint.prompts) == 3


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_graph_is_invoked_without_an_event_loop(kind: str, tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "kept.db", check_same_thread=False)
    saver: Any = InMemorySaver() if kind == "memory" else SqliteSaver(database)
    endpoint = large()
    people: Any = [Person("person", endpoint), endpoint]
    compiled: Any = Mixture(proposers=people, aggregator=endpoint).compile(checkpointer=saver)
    paused = compiled.invoke("Why?", THREAD)
    assert paused["__interrupt__"][0].value == "person"
    assert compiled.invoke(Command(resume="yes"), THREAD).proposals["person"] == "person: yes"
    assert len(endpoint.prompts) == 3
    database.close()


async def test_a_graph_is_kept_in_a_database_that_is_asynchronous(tmp_path: Path) -> None:
    endpoint = large()
    people: Any = [Person("person", endpoint), endpoint]
    for answer in (None, "yes"):  # each time as a new process would
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "kept.db")) as saver:
            recipe = Mixture(proposers=people, aggregator=endpoint)
            compiled: Any = recipe.compile(checkpointer=saver)
            await compiled.ainvoke(Command(resume=answer) if answer else "Why?", THREAD)
    assert len(endpoint.prompts) == 3


class Ticket(BaseModel):
    text: str


async def test_a_class_that_no_type_names_is_not_kept_as_another() -> None:
    compiled = kept(mixture())
    with pytest.raises(InputError):
        await compiled.ainvoke(Ticket(text="Why?"), THREAD)
    plain: Any = mixture().compiled
    assert (await plain.ainvoke(Ticket(text="Why?"))).text
