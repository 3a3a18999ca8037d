"""Loops: a node that runs again on its own output until it is good enough."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from moa.adapters.drawing import Diagram, diagram_of
from moa.agents.agent import Agent
from moa.config.loading import endpoint_names
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, NodeError, WiringError
from moa.core.node import Reply, Text
from moa.core.trace import NodeStarted, TextDelta
from moa.graphs import BuiltGraph, Graph, Skipped
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .nodes import Asker, notes


async def longer(text: str) -> str:
    return f"{text}!"


def is_long(text: str) -> bool:
    return len(text) >= 3


def looped(at_most: int = 3, body: Any = longer) -> BuiltGraph[str, str]:
    g = Graph("g", str)
    return g.build(g.loop(body, g.input, until=is_long, at_most=at_most))


@pytest.mark.parametrize(
    ("given", "output"),
    [("a", "a!!"), ("ab", "ab!"), ("abc", "abc!")],
    ids=["two passes", "one", "one at least"],
)
async def test_a_loop_ends_as_soon_as_its_output_is_good_enough(given: str, output: str) -> None:
    assert (await looped().run(given)).output == output


async def test_at_its_limit_a_loop_gives_the_last_output_and_says_so() -> None:
    result = await looped(at_most=2).run("")
    assert result.output == "!!"
    assert notes(result, "degraded") == [
        "pass 2 of 2, until is_long: not yet, and the last output is given"
    ]


async def test_each_pass_shows_in_the_trace() -> None:
    endpoint = ScriptedEndpoint(["b", "cd", "efg"])
    result = await looped(body=Asker("ask", endpoint)).run("a")
    assert [(note.node, note.text) for note in result.trace if note.kind != "answered"] == [
        ("g/ask", "pass 1 of 3, until is_long: not yet"),
        ("g/ask", "pass 2 of 3, until is_long: not yet"),
        ("g/ask", "pass 3 of 3, until is_long: done"),
    ]
    assert list(result.usage.by_node()) == [f"g/ask/pass {number}/ask" for number in (1, 2, 3)]


async def test_a_budget_holds_over_the_passes() -> None:
    endpoint = SimulatedEndpoint(rule=lambda _: "")
    graph = looped(at_most=9, body=Asker("ask", endpoint))
    context = RunContext(budget=Budget(calls=4))
    with pytest.raises(BudgetExceeded):
        await graph.run("a", context)
    assert context.usage.calls == 4


async def test_every_pass_is_streamed() -> None:
    writer = Agent(ScriptedEndpoint(["so so", "good"]), "Mend it.", output=Reply, name="mend")
    g = Graph("g", Reply)
    graph = g.build(g.loop(writer, g.input, until=lambda reply: reply.text == "good"))
    pieces = [
        event async for event in graph.stream(Reply(text="x")) if isinstance(event, TextDelta)
    ]
    assert [(piece.node, piece.text) for piece in pieces] == [
        ("g/mend/pass 1/mend", "so"),
        ("g/mend/pass 1/mend", " so"),
        ("g/mend/pass 2/mend", "good"),
    ]


async def test_a_loop_on_what_was_skipped_is_skipped() -> None:
    g = Graph("g", str)
    maybe = g.add(longer, g.input, when=g.input.map(bool))
    ended = g.loop(longer, maybe, until=is_long, name="loop")
    result = await g.build(ended.map(lambda one: isinstance(one, Skipped))).run("")
    assert result.output is True


def drawn_in(diagram: Diagram) -> set[str]:
    names = {box.label for box in diagram.boxes.values() if box.look != "terminal"}
    return names.union(*map(drawn_in, diagram.inner))


def graph_of_two() -> BuiltGraph[str, str]:
    inner = Graph("polish", str)
    polish = inner.build(inner.add(longer, inner.add(longer, inner.input, name="first")))
    g = Graph("g", str)
    return g.build(g.loop(polish, g.add(longer, g.input, name="start"), until=is_long, at_most=4))


@pytest.mark.parametrize("make", [looped, graph_of_two])
async def test_the_nodes_that_run_are_those_that_are_drawn(make: Any) -> None:
    graph, ran = make(), list[str]()
    async for event in graph.stream(""):
        if isinstance(event, NodeStarted):
            ran.append(event.node.split("/")[-1])
    assert set(ran) - {"polish"} == drawn_in(diagram_of(graph))


@pytest.mark.parametrize("at_most", [1, 4])
async def test_the_arrow_back_says_how_often_it_runs_at_most(at_most: int) -> None:
    ran = 0

    def count(text: str) -> str:
        nonlocal ran
        ran += 1
        return ""

    graph = looped(at_most=at_most, body=count)
    await graph.run("")
    assert f'g_1 -->|"again until is_long, at most {ran} passes"| g_1' in graph.draw().mermaid


def test_the_arrow_back_of_a_graph_leads_from_its_output_to_its_input() -> None:
    arrows = [arrow for arrow in diagram_of(graph_of_two()).arrows.values() if arrow.labels]
    assert [(arrow.start, arrow.end, arrow.labels) for arrow in arrows] == [
        ("g_2_out", "g_2_in", ["again until is_long, at most 4 passes"])
    ]


async def count_of(text: str) -> int:
    return len(text)


async def asks(text: str) -> bool:
    return True


def of_a_text(text: Text) -> bool:
    return True


def size(text: str) -> int:
    return len(text)


def both(text: str, other: str) -> bool:
    return text == other


@pytest.mark.parametrize(
    ("body", "until", "at_most", "said"),
    [
        (count_of, size, 3, "'count_of' takes str and gives int: a loop is given what it gave"),
        (longer, of_a_text, 3, "the until= of 'longer' takes Text, but 'longer' gives str"),
        (longer, size, 3, "the until= of 'longer' gives int, and not a bool"),
        (longer, asks, 3, "the until= of 'longer' is asynchronous: let the body ask"),
        (longer, both, 3, "the until= of 'longer' is given one value, but takes (text, other)"),
        (longer, is_long, 0, "'longer' runs at_most=0 times: give 1 or more"),
    ],
)
def test_a_loop_that_does_not_fit_does_not_build(
    body: Any, until: Any, at_most: int, said: str
) -> None:
    g = Graph("g", str)
    end = g.loop(body, g.input, until=until, at_most=at_most)
    with pytest.raises(WiringError, match=re.escape(said)):
        g.build(end)


def test_a_loop_on_another_type_does_not_build() -> None:
    g = Graph("g", Text)
    end = cast("Any", g).loop(longer, g.input, until=is_long)
    with pytest.raises(WiringError, match="'longer' takes str, but 'input' gives Text"):
        g.build(end)


def ninth(text: str) -> Any:
    return text[9]


def asks_later(text: str) -> Any:
    return asks(text)


@pytest.mark.parametrize(
    ("until", "error", "said"),
    [
        (ninth, NodeError, "longer, until: IndexError"),
        (asks_later, WiringError, "gave a coroutine, and nobody waits for it"),
    ],
)
async def test_what_is_wrong_with_a_goal_is_said(until: Any, error: Any, said: str) -> None:
    g = Graph("g", str)
    with pytest.raises(error, match=said):
        await g.build(g.loop(longer, g.input, until=until)).run("")


async def test_a_large_model_in_a_loop_is_not_asked_in_vain() -> None:
    large = SimulatedEndpoint(tier="llm", rule=lambda text: text)
    g = Graph("g", str)
    spam = g.add(longer, g.input)
    better = g.loop(Asker("ask", large), g.input, until=is_long)
    reply = g.add(longer, better, when=spam.map(lambda _: False), otherwise=g.input, name="reply")
    await g.build(reply).run("x")
    assert large.prompts == []


def same(text: str) -> str:
    return text


def test_who_may_be_asked_is_known_of_loops_and_people_and_not_of_what_blocks() -> None:
    g = Graph("g", Reply)
    writer = Agent(SimulatedEndpoint(name="small"), "Mend it.", output=Reply)
    better = g.loop(writer, g.input, until=lambda reply: True)
    graph = g.build(g.join(lambda a, b: a, better, g.ask_human("?", g.input, answer=bool)))
    assert endpoint_names(graph) == {"small"}
    blocks = Graph("g", str)
    assert endpoint_names(blocks.build(blocks.add(same, blocks.input, thread=True))) is None
