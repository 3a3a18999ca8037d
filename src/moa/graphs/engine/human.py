"""Human: a node that asks a person, and goes on when they have answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from moa.agents.base import said
from moa.context import RunContext
from moa.graphs.engine.calls import quickly
from moa.graphs.engine.types import UNKNOWN, Signature, signature_of
from moa.node import Result, finish

Asked = str | Mapping[str, Any]
"""What a person is shown."""


class Human:
    """Asks a person by LangGraph's `interrupt`; see `Graph.ask_human`.

    Args:
        question: What is asked, or a quick function that makes it of the node's input.
        answer: Type of the answer.
        name: Shown in traces, errors and drawings.
    """

    def __init__(self, question: Asked | Callable[[Any], Asked], answer: Any, *, name: str) -> None:
        self.name = name
        self.question = question
        self._signature: Signature | None = signature_of(question) if callable(question) else None
        self.input_type: Any = self._signature.input(0) if self._signature else UNKNOWN
        self.output_type: Any = answer
        self._answer: TypeAdapter[Any] = TypeAdapter(answer)

    async def run(self, request: Any, context: RunContext | None = None, /) -> Result[Any]:
        """Ask, and ask again with the reason where an answer is not of the type.

        Raises:
            GraphInterrupt: LangGraph's signal that nobody has answered yet.
        """
        from langgraph.types import interrupt

        own, start = (context or RunContext()).nested(self.name), time.perf_counter()
        question = self.question
        if callable(question):
            question = quickly(self.name, question, request)
        asked, schema = question, self._answer.json_schema()
        while True:
            given = interrupt(asked, response_schema=schema)
            try:
                answer = self._answer.validate_python(given)
            except ValidationError as error:
                problem = f"{given!r} can't be taken: {said(error)}"
                own.note("repaired", f"asked again: {problem}")
                asked = _with(question, problem)
            else:
                own.note("answered", "by a person")
                return finish(answer, own, seconds=time.perf_counter() - start)

    def problems(self) -> Iterator[str]:
        """Say what is wrong with it, a sentence each."""
        if self._signature and self._signature.waits:
            yield f"the question of {self.name!r} is asynchronous: work it out in a node before"


def is_kept(context: RunContext) -> bool:
    """Whether a run is kept until people answer: by LangGraph, with a checkpointer."""
    if context.journal is None:
        return False
    from langgraph.config import get_config

    try:
        config = get_config()
    except RuntimeError:  # outside of LangGraph, as in a job
        return False
    return "__pregel_scratchpad" in config.get("configurable", {})


def _with(question: Asked, problem: str) -> Asked:
    if isinstance(question, str):
        return f"{question}\n{problem}"
    return {**question, "problem": problem}
