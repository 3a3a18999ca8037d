"""Wiring: whether the nodes of a graph fit together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from moa.graphs.engine.handles import FunctionStep, MatchStep, NodeStep, Step
from moa.graphs.engine.types import UNKNOWN, fits, shown
from moa.questions import Choice


def check(graph: object, declared: Sequence[NodeStep], end: Step) -> list[str]:
    """Say what is wrong with a graph, a sentence each."""
    reached = reachable(end)
    problems = [problem for step in reached for problem in _problems(step, graph)]
    if end.graph is not graph:
        problems.append(f"the output, {end.name!r}, belongs to another graph")
    if end.may_skip:
        problems.append(
            f"the output, {end.name!r}, can be skipped: give it an otherwise=, "
            "or let the node after it accept Skipped"
        )
    problems += [
        f"nothing takes the output of {step.name!r}: use it, or leave it out"
        for step in declared
        if step not in reached
    ]
    return problems


def reachable(end: Step) -> list[Step]:
    """Everything that `end` can need, sources first."""
    order: list[Step] = []
    seen: set[int] = set()
    stack: list[tuple[Step, bool]] = [(end, False)]
    while stack:
        step, done = stack.pop()
        if done:
            order.append(step)
        elif id(step) not in seen:
            seen.add(id(step))
            stack.append((step, True))
            before = [*step.needs, *step.may_need]
            stack += [(other, False) for other in reversed(before)]
    return order


def _problems(step: Step, graph: object) -> Iterator[str]:
    for other in chain(step.needs, step.may_need):
        if other.graph is not graph:
            yield f"{step.name!r} takes {other.name!r}, which belongs to another graph"
    if isinstance(step, NodeStep):
        yield from _node_problems(step)
    elif isinstance(step, FunctionStep):
        yield from _function_problems(step)
    elif isinstance(step, MatchStep):
        yield from _match_problems(step)


def _node_problems(step: NodeStep) -> Iterator[str]:
    yield from _misfit(step, step.source, step.signature.input(0))
    if step.when is not None:
        yield from _misfit(step, step.when, bool, role=" as its when=")
    unnamed = getattr(step.node, "__name__", "") == "<lambda>"
    if unnamed and step.source.may_skip:
        yield (
            f"{step.name!r} is a lambda on {step.source.name!r}, which can be skipped: "
            "use .map, which is given Skipped too, or a function with annotations"
        )


def _function_problems(step: FunctionStep) -> Iterator[str]:
    for index, source in enumerate(step.sources):
        expected = step.signature.input(index)
        yield from _misfit(step, source, expected)
        if source.may_skip and expected is not UNKNOWN and not step.signature.takes_skipped(index):
            yield (
                f"{step.name!r} is given {source.name!r}, which can be skipped, but takes "
                f"{shown(expected)}: let it accept Skipped, or give {source.name!r} an otherwise="
            )


def _match_problems(step: MatchStep) -> Iterator[str]:
    yield from _misfit(step, step.source, Choice)
    if step.source.may_skip:
        yield f"{step.name!r} goes by {step.source.name!r}, which can be skipped"


def _misfit(step: Step, source: Step, expected: object, role: str = "") -> Iterator[str]:
    if not fits(source.type, expected):
        yield (
            f"{step.name!r} takes {shown(expected)}{role}, "
            f"but {source.name!r} gives {shown(source.type)}"
        )
