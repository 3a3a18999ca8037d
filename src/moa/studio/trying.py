"""Trying: an input is run from the page, and people are asked on it what the graph asks them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from starlette.requests import Request

from moa.context import RunContext
from moa.errors import RequestRefused
from moa.graphs.engine.bridges import Compilable
from moa.graphs.engine.plan import Plan
from moa.node import Node, Result, finish
from moa.rows.decided import written
from moa.serving.http import read_json
from moa.serving.runs import Stream
from moa.serving.server import Server
from moa.serving.typed import written as sent
from moa.studio.data import Question

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.types import Interrupt

KEY = "x-moa-server-key"
"""Header of a key of the server, where it has keys: whose budget pays for what is tried."""


class Trying:
    """Runs of what a server serves, started from the page.

    Args:
        server: The server; it is open while the page is.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._asked: dict[str, tuple[Question, asyncio.Future[object]]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what can be run."""
        return tuple(self.server.served)

    @property
    def questions(self) -> Sequence[Question]:
        """What people are asked now."""
        return [question for question, _ in self._asked.values()]

    async def run(self, request: Request) -> Stream:
        """Run an input, and tell of it while it goes on.

        Raises:
            InputError: the input doesn't fit.
            RequestRefused: nothing of that name is served (404), or a key is missing (401).
        """
        key = request.headers.get(KEY)
        caller = await self.server.keys.caller(key and f"Bearer {key}")
        request.state.caller = caller
        served = self.server.named(request.path_params["name"], caller)
        value = served.parse(await read_json(request, self.server.settings))
        if (graph := _asking(served.node)) is not None:
            served = served.of(_Attended(graph, self))
        return self.server.runs.stream(request, served, value, sent)

    def answer(self, id: str, answer: object) -> None:
        """Answer what a person is asked.

        Raises:
            RequestRefused: it isn't asked any more (404).
        """
        _, waits = self._asked.get(id, (None, None))
        if waits is None or waits.done():
            raise RequestRefused("this isn't asked any more", status=404, code="not_asked")
        waits.set_result(answer)

    async def ask(self, asked: Sequence[Interrupt[Any]]) -> Mapping[str, object]:
        """Wait until people have answered all questions; give the answers by their ids."""
        own = {one.id: _question(one) for one in asked}
        waiting = {id: asyncio.get_running_loop().create_future() for id in own}
        try:
            for id, question in own.items():
                self._asked[question.id] = question, waiting[id]
            return {id: await one for id, one in waiting.items()}
        finally:
            for question in own.values():
                del self._asked[question.id]


class _Attended:
    """A graph that asks people, who answer on the page while it waits.

    Args:
        graph: The graph.
        trying: Who asks them.
    """

    def __init__(self, graph: Compilable[Any, Any], trying: Trying) -> None:
        self.name = graph.name
        self._graph = graph
        self._trying = trying

    async def run(self, request: Any, context: RunContext | None = None, /) -> Result[Any]:
        """Run it, and go on by the answers; what was asked before is not asked again."""
        from langgraph.checkpoint.memory import InMemorySaver
        from langgraph.types import Command

        own, start = (context or RunContext()).nested(), time.perf_counter()
        graph: Any = self._graph.compile(checkpointer=InMemorySaver())
        thread: RunnableConfig = {"configurable": {"thread_id": uuid4().hex}}
        found = await graph.ainvoke(request, thread, context=own)
        while asked := _interrupts(found):
            answers = await self._trying.ask(asked)
            found = await graph.ainvoke(Command(resume=answers), thread, context=own)
        return finish(found, own, seconds=time.perf_counter() - start)


def _asking(node: Node[Any, Any]) -> Compilable[Any, Any] | None:
    """Give a graph in which people may be asked; `None`: it is none."""
    plan = getattr(node, "plan", None)
    asks = isinstance(plan, Plan) and plan.asks is not None
    return node if asks and isinstance(node, Compilable) else None


def _interrupts(found: object) -> Sequence[Interrupt[Any]]:
    if not isinstance(found, Mapping):
        return ()
    return cast("Mapping[str, Any]", found).get("__interrupt__", ())


def _question(asked: Interrupt[Any]) -> Question:
    """Write what is asked; its own id, since one run may ask the same twice."""
    value: object = asked.value
    if isinstance(value, Mapping):
        lines = cast("Mapping[object, object]", value).items()
        said = "\n".join(f"{name}: {written(one)}" for name, one in lines)
    else:
        said = written(value)
    schema: Any = getattr(asked, "response_schema", None) or {}
    return Question(id=uuid4().hex, asked=said, answers=schema)
