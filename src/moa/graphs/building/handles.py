"""Handles: what stands for outputs while a graph is being declared, and the steps behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Generic, TypeVar

from moa.graphs.engine.handles import Branch, innermost, shared
from moa.graphs.engine.types import UNKNOWN, Signature, field_type, picked, signature_of
from moa.usage import Tier

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


@dataclass(eq=False, kw_only=True)
class Step:
    """One thing that a graph works out. Declared once, never changed; shared by all runs."""

    graph: object
    """The builder it belongs to."""
    name: str
    type: object
    """What it holds, as far as annotations say; `Skipped` is kept apart."""
    may_skip: bool = False
    """Whether it can hold `Skipped`."""
    branches: list[Branch | None] = field(default_factory=lambda: [None])
    """The innermost branch that it was declared in; several where labels share it."""

    @property
    def branch(self) -> Branch | None:
        """The innermost branch around all those that it was declared in."""
        return reduce(shared, self.branches)

    @property
    def needs(self) -> tuple[Step, ...]:
        """The steps that it always waits for."""
        return ()

    @property
    def may_need(self) -> tuple[Step, ...]:
        """The steps that it may turn to, once what it needs is there."""
        return ()


@dataclass(eq=False, kw_only=True)
class InputStep(Step):
    """The request."""


@dataclass(eq=False, kw_only=True)
class NodeStep(Step):
    """A node, or a function that stands for one."""

    node: Any
    signature: Signature
    source: Step
    when: Step | None = None
    otherwise: Step | None = None
    eager: bool | None = None

    @property
    def needs(self) -> tuple[Step, ...]:
        """The condition comes first."""
        return (self.source,) if self.when is None else (self.when, self.source)

    @property
    def may_need(self) -> tuple[Step, ...]:
        """What stands in where it is skipped."""
        return () if self.otherwise is None else (self.otherwise,)

    @property
    def tier(self) -> Tier | None:
        """Tier of the node's endpoint, where it has one."""
        return getattr(getattr(self.node, "endpoint", None), "tier", None)


@dataclass(eq=False, kw_only=True)
class FunctionStep(Step):
    """A `map` or a `join`: a quick function of what other steps hold."""

    function: Callable[..., Any]
    signature: Signature
    sources: tuple[Step, ...]

    @property
    def needs(self) -> tuple[Step, ...]:
        """Its arguments."""
        return self.sources


@dataclass(eq=False, kw_only=True)
class MatchStep(Step):
    """One branch for each label of a choice."""

    source: Step
    cases: dict[object, Step] = field(default_factory=dict[object, Step])
    """By label; `None` is "none of these"."""

    @property
    def needs(self) -> tuple[Step, ...]:
        """The choice."""
        return (self.source,)

    @property
    def may_need(self) -> tuple[Step, ...]:
        """The branches."""
        return tuple(dict.fromkeys(self.cases.values()))


class Handle(Generic[T_co]):
    """The output of a node in a graph that is being declared. It holds a value only in a run."""

    __slots__ = ("_step",)

    def __init__(self, step: Step) -> None:
        self._step = step

    @property
    def name(self) -> str:
        """Name of the node it is the output of."""
        return self._step.name

    def map(self, function: Callable[[T_co], U]) -> Handle[U]:
        """Apply a quick, synchronous function.

        It is given what the handle holds, `Skipped` included where the node can be skipped.

        Args:
            function: Anything that doesn't wait: pick a field, compare, convert.
        """
        return Handle(function_step(function, (self._step,)))


def step_of(handle: Handle[Any]) -> Step:
    """Look behind a handle."""
    return handle._step  # pyright: ignore[reportPrivateUsage]


def function_step(function: Callable[..., Any], sources: tuple[Step, ...]) -> FunctionStep:
    """Declare a `map` or a `join`."""
    signature = signature_of(function)
    output, fields = signature.output, picked(function)
    if output is UNKNOWN and not sources[0].may_skip:
        output = field_type(sources[0].type, fields)
    called = getattr(function, "__name__", "function")
    names = ".".join((", ".join(step.name for step in sources), *fields))
    return FunctionStep(
        graph=sources[0].graph,
        name=names if called == "<lambda>" else f"{called}({names})",
        type=output,
        may_skip=signature.may_skip,
        branches=[innermost(step.branch for step in sources)],
        function=function,
        signature=signature,
        sources=sources,
    )
