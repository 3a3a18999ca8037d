"""Scheduling, as properties of any graph: random wiring, random conditions, random times."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from moa.core.context import RunContext
from moa.core.node import Result, finish
from moa.graphs import BuiltGraph, Graph, Handle, Skipped
from moa.testing import SimulatedEndpoint

from . import clock
from .nodes import Asker

Value = tuple[int, ...] | Skipped


@dataclass(frozen=True)
class Spec:
    """One node of a random graph; the others are named by their position before it."""

    sources: tuple[int, ...]
    seconds: int
    when: int | None = None
    holds: bool = True
    otherwise: int | None = None
    accepts: bool = False
    """Whether it runs on `Skipped` too."""
    eager: bool = False


@dataclass
class Log:
    started: dict[int, float] = field(default_factory=dict[int, float])
    finished: dict[int, float] = field(default_factory=dict[int, float])


@st.composite
def specs(draw: st.DrawFn, *, conditions: bool = True) -> list[Spec]:
    """Draw a graph; position 0 is the input."""
    count = draw(st.integers(1, 9))
    drawn: list[Spec] = []
    for here in range(1, count + 1):
        before = st.integers(0, here - 1)
        sources = draw(st.lists(before, min_size=1, max_size=3, unique=True))
        spec = Spec(tuple(sources), draw(st.integers(0, 5)))
        if conditions:
            spec = Spec(
                spec.sources,
                spec.seconds,
                when=draw(st.none() | before),
                holds=draw(st.booleans()),
                otherwise=draw(st.none() | before),
                accepts=draw(st.booleans()),
                eager=draw(st.booleans()),
            )
        drawn.append(spec)
    return drawn


def together(*values: Value) -> Value:
    """Passes skipping on, as a node does."""
    skipped = next((value for value in values if isinstance(value, Skipped)), None)
    return skipped or tuple(sorted({item for value in values for item in value}))  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType, reportUnknownArgumentType]


def wired(g: Graph[Any], function: Any, handles: list[Any]) -> Handle[Any]:
    """A join of as many handles as there are."""
    join: Any = g.join
    return join(function, *handles)


def built(
    graph: list[Spec], log: Log, *, all_ends: bool = True
) -> BuiltGraph[tuple[int, ...], Any]:
    """Wire it, with all ends in one output."""
    g = Graph("g", tuple[int, ...])
    handles: list[Handle[Any]] = [g.input]
    for here, spec in enumerate(graph, start=1):
        joined: Any = wired(g, together, [handles[source] for source in spec.sources])
        settings: dict[str, Any] = {"name": str(here), "eager": spec.eager}
        if spec.when is not None:
            settings["when"] = handles[spec.when].map(always(spec.holds))
        if spec.otherwise is not None:
            settings["otherwise"] = handles[spec.otherwise]
        handles.append(g.add(node(here, spec, log), joined, **settings))
    ends: list[Any] = handles[1:] if all_ends else handles[-1:]
    while len(ends) > 1:
        ends = [wired(g, collect, ends[i : i + 8]) for i in range(0, len(ends), 8)]
    return g.build(ends[0].map(collect))


def always(holds: bool) -> Any:
    def condition(value: Value) -> bool:
        return holds

    return condition


def collect(*values: Any) -> tuple[Any, ...]:
    """The output: what every node holds."""
    return values


def node(here: int, spec: Spec, log: Log) -> Any:
    async def work(value: Any) -> tuple[int, ...]:
        assert here not in log.started, "a node runs at most once"
        log.started[here] = clock.now()
        await asyncio.sleep(spec.seconds)
        log.finished[here] = clock.now()
        return (*(() if isinstance(value, Skipped) else value), here)

    async def strict(value: tuple[int, ...]) -> tuple[int, ...]:
        return await work(value)

    async def tolerant(value: tuple[int, ...] | Skipped) -> tuple[int, ...]:
        return await work(value)

    return tolerant if spec.accepts else strict


def expected(graph: list[Spec]) -> tuple[dict[int, Value], set[int]]:
    """What each node holds, and which run, worked out the plain way."""
    values: dict[int, Value] = {0: (0,)}
    ran: set[int] = set()
    for here, spec in enumerate(graph, start=1):
        value = together(*(values[source] for source in spec.sources))
        told = spec.when is None or spec.holds
        skipped = not told or (isinstance(value, Skipped) and not spec.accepts)
        if not skipped:
            ran.add(here)
            values[here] = (*(() if isinstance(value, Skipped) else value), here)
        elif spec.otherwise is not None:
            values[here] = values[spec.otherwise]
        else:
            values[here] = Skipped("")
    return values, ran


def concatenated(*texts: str) -> str:
    return "".join(texts)


def flat(output: Any) -> list[Value]:
    """The values of all nodes, in order."""
    if isinstance(output, Skipped) or all(isinstance(item, int) for item in output):
        return [output]
    return [value for part in output for value in flat(part)]


@settings(deadline=None)
@given(specs())
def test_every_node_that_is_needed_runs_once_and_no_other(graph: list[Spec]) -> None:
    log = Log()
    result = clock.run(built(graph, log).run((0,)))
    values, ran = expected(graph)
    assert set(log.finished) == ran
    for here, value in enumerate(flat(result.output), start=1):
        if isinstance(values[here], Skipped):
            assert isinstance(value, Skipped)
        else:
            assert value == values[here]
    noted = {note.node for note in result.trace if note.kind == "skipped"}
    assert noted == {f"g/{here}" for here in range(1, len(graph) + 1) if here not in ran}


def needed(graph: list[Spec], ran: set[int]) -> set[int]:
    """Nodes that run where only the last one's output is asked for, and nothing is eager."""
    found: set[int] = set()
    todo = [len(graph)]
    while todo:
        here = todo.pop()
        if here == 0 or here in found:
            continue
        found.add(here)
        spec = graph[here - 1]
        if spec.when is not None:
            todo.append(spec.when)
        if spec.when is None or spec.holds:
            todo += spec.sources
        if here not in ran and spec.otherwise is not None:
            todo.append(spec.otherwise)
    return found & ran


def reachable(graph: list[Spec]) -> list[Spec]:
    """The same graph with every node in the output's way, and none eager."""
    kept: list[Spec] = []
    for here, spec in enumerate(graph, start=1):
        before = () if here == 1 else (here - 1,)
        sources = spec.sources if here % 2 else (*spec.sources, *before)
        otherwise = here - 1 if here % 2 else spec.otherwise
        sources = tuple(dict.fromkeys(sources))
        kept.append(replace(spec, sources=sources, otherwise=otherwise, eager=False))
    return kept


@settings(deadline=None)
@given(specs())
def test_what_only_a_branch_not_taken_needs_does_not_run(graph: list[Spec]) -> None:
    log, graph = Log(), reachable(graph)
    clock.run(built(graph, log, all_ends=False).run((0,)))
    assert set(log.finished) == needed(graph, expected(graph)[1])


@settings(deadline=None)
@given(specs())
def test_a_node_starts_after_all_that_it_needs(graph: list[Spec]) -> None:
    log = Log()
    clock.run(built(graph, log).run((0,)))
    for here, start in log.started.items():
        spec = graph[here - 1]
        before = [*spec.sources, *(() if spec.when is None else (spec.when,))]
        assert all(log.finished[other] <= start for other in before if other in log.finished)


@settings(deadline=None)
@given(specs(conditions=False))
def test_wall_time_is_the_critical_path(graph: list[Spec]) -> None:
    log = Log()

    async def main() -> float:
        await built(graph, log).run((0,))
        return clock.now()

    longest: dict[int, int] = {0: 0}
    for here, spec in enumerate(graph, start=1):
        longest[here] = spec.seconds + max(longest[source] for source in spec.sources)
    assert clock.run(main()) == max(longest.values())
    assert log.finished == {here: longest[here] for here in log.finished}


@settings(deadline=None)
@given(specs())
def test_a_graph_answers_the_same_every_time(graph: list[Spec]) -> None:
    first = clock.run(built(graph, Log()).run((0,)))
    second = clock.run(built(graph, Log()).run((0,)))
    assert (first.output, first.trace) == (second.output, second.trace)


@settings(deadline=None)
@given(
    st.recursive(st.just(1), lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=12)
)
def test_usage_adds_up_however_graphs_are_nested(shape: Any) -> None:
    endpoint = SimulatedEndpoint()

    def nest(shape: Any, name: str) -> Any:
        if shape == 1:
            return Asker(name, endpoint)
        g = Graph(name, str)
        ends: list[Any] = [
            g.add(nest(part, f"n{index}"), g.input) for index, part in enumerate(shape)
        ]
        return g.build(wired(g, concatenated, ends))

    def leaves(shape: Any) -> int:
        return 1 if shape == 1 else sum(map(leaves, shape))

    context = RunContext(node="top")
    result = clock.run(nest(shape, "top").run("x", context))
    assert result.usage.calls == context.usage.calls == leaves(shape)
    assert result.usage.total == context.usage.total
    assert len(result.usage.by_node()) == leaves(shape)


def test_a_result_without_calls_has_used_nothing() -> None:
    assert finish(1, RunContext(), seconds=0.0) == Result(output=1)
