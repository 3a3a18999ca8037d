"""Plan: checks a graph, and prepares everything that all runs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from moa.core.questions import Choice, may_be_accepted
from moa.endpoints import Endpoint
from moa.graphs.engine.steps import (
    AcceptedStep,
    Branch,
    FunctionStep,
    MatchStep,
    NodeStep,
    Step,
    label_name,
)
from moa.graphs.engine.types import (
    UNKNOWN,
    Work,
    check_arity,
    describe_type,
    fits,
    is_node,
    name_of,
)


def _nothing() -> None:
    """Do nothing: the work of steps that are never called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A step that refers to its related steps by their indices in the plan."""

    name: str
    kind: Literal["input", "node", "function", "match", "accepted"]
    sources: tuple[int, ...]
    work: Callable[..., Any] = _nothing
    """The `run` of a node, or a function."""
    is_node: bool = False
    """True if `work` takes a context and returns a `Result`."""
    renamed: bool = False
    """True if the node's name in the graph isn't its own."""
    quick: bool = True
    """True if the work is done at once, without waiting."""
    thread: bool = False
    """True if the work blocks, so it runs in a thread."""
    takes_skipped: bool = True
    output: object = UNKNOWN
    """Type of the output, without `Skipped`."""
    when: int | None = None
    otherwise: int | None = None
    cases: dict[object, int] = field(default_factory=dict[object, int])
    eager: dict[object, tuple[int, ...]] = field(default_factory=dict[object, tuple[int, ...]])
    """Steps that start as soon as a label is chosen."""
    idle_reason: str = ""
    """Reason why a node did not run, if no step needed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The compiled form of a graph. It never changes, and all runs share it."""

    name: str
    steps: tuple[Step, ...]
    """Steps, sources first. The first is the input."""
    tasks: tuple[Task, ...]
    """One task per step."""
    output: int
    eager: tuple[int, ...]
    """Steps that start with the run."""
    tentative: frozenset[int]
    """Steps that may run before they are known to be needed. A failure counts only if the step is
    needed."""
    waits: frozenset[int]
    """Nodes that start only once something surely needs them."""
    nodes: tuple[int, ...]
    """Steps that are nodes. They can be skipped, and events report them."""
    asks: str | None
    """Name of a node that may ask a person, at any depth; `None` if none does."""

    def members(self) -> Iterator[Work]:
        """Yield the nodes, and the functions that act as nodes."""
        yield from (step.node for step in self.steps if isinstance(step, NodeStep))

    def list_endpoints(self) -> list[Endpoint] | None:
        """Return an empty list, as its nodes ask; `None` if a waiting function may ask any."""
        nodes = (step for step in self.steps if isinstance(step, NodeStep))
        functions = (step for step in nodes if not is_node(step.node))
        return None if any(step.thread or not step.signature.quick for step in functions) else []


def plan_of(name: str, start: Step, end: Step) -> Plan:
    """Number the steps, and prepare what a run needs."""
    steps = (start, *(step for step in reachable(end) if step is not start))
    indices = {step: index for index, step in enumerate(steps)}
    nodes = [step for step in steps if isinstance(step, NodeStep)]
    certain = _closure(end, _surely_needs)
    regions = {step: _regions(step, end) for step in nodes if step not in certain}
    eager: dict[Branch | None, list[int]] = {}
    tentative: set[Step] = set()
    for step, starts in regions.items():
        for branch in starts:
            eager.setdefault(branch, []).append(indices[step])
            tentative |= _closure(step, lambda source: (*source.needs, *source.may_need)) - certain
    members = (member for step in nodes for member in _inside(step.node))
    return Plan(
        name=name,
        steps=steps,
        tasks=tuple(_task(step, steps, indices, eager) for step in steps),
        output=indices[end],
        eager=tuple(eager.get(None, ())),
        tentative=frozenset(indices[step] for step in tentative),
        waits=frozenset(indices[step] for step, starts in regions.items() if not starts),
        nodes=tuple(indices[step] for step in nodes),
        asks=next((name_of(member) for member in members if _is_person(member)), None),
    )


def _regions(step: NodeStep, end: Step) -> list[Branch | None]:
    """Return where a node starts before it is known to be needed: with the run, or with a label.

    It starts with the branch or graph where it was declared, if that needs it when no node is
    skipped. `eager` overrides this. Otherwise, a large model or a person always waits.
    """
    if step.eager is not None:
        return step.branches if step.eager else []
    if any(map(_is_expensive, _inside(step.node))):
        return []
    return [branch for branch in step.branches if step in _straight(branch, end)]


def _straight(branch: Branch | None, end: Step) -> set[Step]:
    """Return the steps that a branch, or the graph, needs if no node is skipped."""
    start = end if branch is None else branch.match.cases[branch.label]
    return _closure(
        start,
        lambda step: step.needs if isinstance(step, NodeStep) else (*step.needs, *step.may_need),
    )


def _closure(start: Step, needs: Callable[[Step], tuple[Step, ...]]) -> set[Step]:
    steps: set[Step] = set()
    todo = [start]
    while todo:
        step = todo.pop()
        if step not in steps:
            steps.add(step)
            todo += needs(step)
    return steps


def _surely_needs(step: Step) -> tuple[Step, ...]:
    """Return the steps that run whenever this step is reached."""
    if isinstance(step, NodeStep) and step.when is not None:
        return (step.when,)
    return step.needs


def _is_expensive(node: object) -> bool:
    """Return True if a node asks a large model or a person."""
    tier = getattr(getattr(node, "endpoint", None), "tier", None)
    return _is_person(node) or getattr(node, "may_be_dear", False) is True or tier == "llm"


def _is_person(node: object) -> bool:
    return getattr(node, "asks_people", False) is True


def _inside(node: object) -> Iterator[object]:
    """Yield a node and its members, at any depth."""
    members: Callable[[], Iterable[object]] = getattr(node, "members", tuple)
    yield node
    for member in members():
        yield from _inside(member)


def _task(
    step: Step,
    steps: Sequence[Step],
    indices: Mapping[Step, int],
    eager: Mapping[Branch | None, Sequence[int]],
) -> Task:
    name, sources = step.name, tuple(indices[source] for source in step.sources)
    if isinstance(step, NodeStep):
        runs = is_node(step.node)
        return Task(
            name=name,
            kind="node",
            sources=sources,
            work=step.node.run if is_node(step.node) else step.node,
            is_node=runs,
            renamed=runs and name != name_of(step.node),
            quick=step.signature.quick and not step.thread,
            thread=step.thread,
            takes_skipped=step.signature.takes_skipped(),
            output=step.signature.output,
            when=None if step.when is None else indices[step.when],
            otherwise=None if step.otherwise is None else indices[step.otherwise],
            idle_reason=_idle_reason(step, steps),
        )
    if isinstance(step, FunctionStep):
        return Task(name=name, kind="function", sources=sources, work=step.function)
    if isinstance(step, MatchStep):
        return Task(
            name=name,
            kind="match",
            sources=sources,
            cases={label: indices[case] for label, case in step.cases.items()},
            eager={
                branch.label: tuple(started)
                for branch, started in eager.items()
                if branch is not None and branch.match is step
            },
        )
    return Task(
        name=name, kind="accepted" if isinstance(step, AcceptedStep) else "input", sources=sources
    )


def _idle_reason(step: Step, steps: Sequence[Step]) -> str:
    """Explain why a node did not run, by its branch or the first step that may need it."""
    if step.branch is not None:
        (choice,) = step.branch.match.sources
        return f"{choice.name!r} did not choose {label_name(step.branch.label)!r}"
    for consumer in steps:
        if step in consumer.needs:
            return f"only {consumer.name!r} needs it, and that did not run"
        if isinstance(consumer, NodeStep) and consumer.otherwise is step:
            return f"{consumer.name!r} ran instead"
    return "nothing needed it"


def check(graph: object, declared: Sequence[NodeStep], end: Step) -> list[str]:
    """List the problems of a graph, one sentence each."""
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
    """Return all steps that `end` can need, sources first."""
    order: list[Step] = []
    seen: set[int] = set()
    stack: list[tuple[Step, bool]] = [(end, False)]
    while stack:
        step, is_expanded = stack.pop()
        if is_expanded:
            order.append(step)
        elif id(step) not in seen:
            seen.add(id(step))
            stack.append((step, True))
            before = [*step.needs, *step.may_need]
            stack += [(source, False) for source in reversed(before)]
    return order


def _problems(step: Step, graph: object) -> Iterator[str]:
    for source in chain(step.needs, step.may_need):
        if source.graph is not graph:
            yield f"{step.name!r} takes {source.name!r}, which belongs to another graph"
    match step:
        case NodeStep():
            yield from _node_problems(step)
        case FunctionStep():
            yield from _function_problems(step)
        case AcceptedStep():
            yield from _accepted_problems(step)
        case MatchStep():
            yield from _match_problems(step)
        case _:
            pass


def _node_problems(step: NodeStep) -> Iterator[str]:
    (source,) = step.sources
    yield from _misfit(step, source, step.signature.input(0))
    if step.when is not None:
        yield from _misfit(step, step.when, bool, role=" as its when=")
    if not is_node(step.node):
        yield from check_arity(f"the function of {step.name!r}", step.node, 1)
    unnamed = getattr(step.node, "__name__", "") == "<lambda>"
    if unnamed and source.may_skip:
        yield (
            f"{step.name!r} is a lambda on {source.name!r}, which can be skipped: "
            "use .map, which is given Skipped too, or a function with annotations"
        )


def _function_problems(step: FunctionStep) -> Iterator[str]:
    if step.signature.is_async:
        yield f"{step.name!r} is asynchronous, and map and join take quick functions: use add"
    yield from check_arity(f"the function of {step.name!r}", step.function, len(step.sources))
    for index, source in enumerate(step.sources):
        expected = step.signature.input(index)
        yield from _misfit(step, source, expected)
        if source.may_skip and expected is not UNKNOWN and not step.signature.takes_skipped(index):
            yield (
                f"{step.name!r} is given {source.name!r}, which can be skipped, but takes "
                f"{describe_type(expected)}: let it accept Skipped, or give {source.name!r} an "
                "otherwise="
            )


def _accepted_problems(step: AcceptedStep) -> Iterator[str]:
    (source,) = step.sources
    if source.may_skip:
        yield f"{step.name!r} is of what can be skipped: give {source.name!r} an otherwise="
    if not _says(source):
        yield (
            f"{source.name!r} gives {describe_type(source.type)}, which doesn't say whether it is "
            "accepted: take .accepted of a Cascade, or of an agent that has a calibration"
        )


def _says(step: Step) -> bool:
    """Return True if the output of a step, or the result of a cascade, has `accepted`."""
    if isinstance(step, MatchStep):
        return all(map(_says, step.cases.values()))
    if isinstance(step, NodeStep) and step.signature.settles:
        return step.otherwise is None or _says(step.otherwise)
    return may_be_accepted(step.type)


def _match_problems(step: MatchStep) -> Iterator[str]:
    (source,) = step.sources
    yield from _misfit(step, source, Choice)
    if source.may_skip:
        yield f"{step.name!r} goes by {source.name!r}, which can be skipped"


def _misfit(step: Step, source: Step, expected: object, role: str = "") -> Iterator[str]:
    if not fits(source.type, expected):
        yield (
            f"{step.name!r} takes {describe_type(expected)}{role}, "
            f"but {source.name!r} gives {describe_type(source.type)}"
        )
