"""Nodes that a graph builds itself: of a function, and of a person."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar, overload

from pydantic import ValidationError

from moa.agents.base import TypedNode, fault_in
from moa.core.context import RunContext, run_context
from moa.core.errors import MoaError, WiringError
from moa.core.node import Node, Result, finish
from moa.core.telemetry.names import Kind
from moa.endpoints import Endpoint
from moa.graphs.engine.compilable import LANGGRAPH
from moa.graphs.engine.forms import adapter_of
from moa.graphs.engine.run import call_quick, failure_of
from moa.graphs.engine.types import (
    UNKNOWN,
    Skipped,
    check_arity,
    name_of,
    signature_of,
    takes_context,
    union,
)

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")

HumanQuestion = str | Mapping[str, object]
"""Question shown to a person."""


class FunctionNode(TypedNode[object, object]):
    """Runs an `async def f(request, context: RunContext)`, which asks agents in plain Python.

    A resumed run reuses each call in it, so none is sent twice.

    Raises:
        WiringError: the function isn't asynchronous.
    """

    span_kind: ClassVar[Kind] = "function"
    may_be_dear = True
    """The function may call any model, so the node starts only once it is needed."""

    def __init__(self, function: Callable[..., Awaitable[object]]) -> None:
        if not inspect.iscoroutinefunction(function):
            raise WiringError(f"{name_of(function)} takes a context: write it as async def")
        signature = signature_of(function)
        input_type, output_type = signature.input(0), signature.output
        self.function = function
        self.input_type = Any if input_type is UNKNOWN else input_type
        self.output_type = union((output_type, Skipped)) if signature.may_skip else output_type
        super().__init__(name=name_of(function))

    def list_endpoints(self) -> list[Endpoint] | None:
        """Return `None`: the endpoints that the function asks are unknown."""
        return None

    async def answer(self, request: object, context: RunContext) -> object:
        """Call the function. Errors name it."""
        try:
            return await self.function(request, context)
        except MoaError:
            raise
        except Exception as error:
            failure = failure_of(self.name, error)
            if failure is error:
                raise
            raise failure from error


@overload
def as_node(work: Node[In, Out] | Callable[[In, RunContext], Awaitable[Out]]) -> Node[In, Out]: ...
@overload
def as_node(work: T) -> T | FunctionNode: ...
def as_node(work: object) -> object:
    """Return a node for a function that takes a context. Return anything else unchanged."""
    return FunctionNode(work) if takes_context(work) else work


class Human:
    """Asks a person by LangGraph's `interrupt`; see `Graph.ask_human`."""

    asks_people = True

    def __init__(
        self, question: HumanQuestion | Callable[..., HumanQuestion], answer: object, *, name: str
    ) -> None:
        self.name = name
        self.question = question
        self.input_type = signature_of(question).input(0) if callable(question) else UNKNOWN
        self.output_type = answer
        self._answer = adapter_of(answer)

    def list_endpoints(self) -> list[Endpoint]:
        """Return an empty list: a person is asked."""
        return []

    async def run(self, request: object, context: RunContext | None = None, /) -> Result[object]:
        """Ask a person; ask again, with the reason, if the answer doesn't have the expected type.

        Raises:
            GraphInterrupt: LangGraph's signal that there is no answer yet.
        """
        inner, start = run_context(context, self.name), time.perf_counter()
        with inner.span("person", self.name):
            answer = self._ask(request, inner)
        return finish(answer, inner, seconds=time.perf_counter() - start)

    def _ask(self, request: object, context: RunContext) -> object:
        question = self.question
        if callable(question):
            question = call_quick(self.name, question, request)
        prompt, schema = question, self._answer.json_schema()
        while True:
            reply = LANGGRAPH.open().ask(prompt, schema)
            try:
                answer = self._answer.validate_python(reply)
            except ValidationError as error:
                problem = f"{reply!r} can't be taken: {fault_in(error)}"
                context.note("repaired", f"asked again: {problem}")
                prompt = _with(question, problem)
            else:
                context.note("answered", "by a person")
                return answer

    def problems(self) -> Iterator[str]:
        """Yield each problem as a sentence."""
        if callable(self.question):
            yield from check_arity(f"the question of {self.name!r}", self.question, 1)
            if signature_of(self.question).is_async:
                yield f"the question of {self.name!r} is asynchronous: work it out in a node before"


def is_kept(context: RunContext) -> bool:
    """Return True if LangGraph stores the run in a checkpointer until people answer."""
    return context.journal is not None and LANGGRAPH.open().can_ask()


def _with(question: HumanQuestion, problem: str) -> HumanQuestion:
    if isinstance(question, str):
        return f"{question}\n{problem}"
    return {**question, "problem": problem}
