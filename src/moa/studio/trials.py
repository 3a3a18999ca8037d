"""Trials: run an input from the page, and answer there what the graph asks people."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from uuid import uuid4

from starlette.requests import Request

from moa.adapters.langgraph.attended import Inquiry, attend
from moa.core._json import is_mapping
from moa.core.errors import RequestRefused
from moa.rows.decided import format_value
from moa.serving.http import read_as_json
from moa.serving.runs import Stream
from moa.serving.server import Server
from moa.serving.typed import write_event
from moa.studio.data import Question

KEY = "x-moa-server-key"
"""Header with a key of the server, if it has keys. The key's budget pays for the trial."""


class Trials:
    """Runs of a server's nodes, started from the page.

    Args:
        server: The server. It is open while the page is.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._asked: dict[str, tuple[Question, asyncio.Future[object]]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the nodes that can be run."""
        return tuple(self.server.served)

    @property
    def questions(self) -> Sequence[Question]:
        """The open questions to people."""
        return [question for question, _ in self._asked.values()]

    async def run(self, request: Request) -> Stream:
        """Run an input, and stream its events.

        Raises:
            InputError: the input doesn't fit.
            RequestRefused: nothing of that name is served (404), or a key is missing (401).
        """
        key = request.headers.get(KEY)
        caller = await self.server.keys.caller(key and f"Bearer {key}")
        request.state.caller = caller
        served = self.server.find(request.path_params["name"], caller)
        value = await read_as_json(request, self.server.settings, served.parse)
        node = attend(served.node, self.ask)
        served = served if node is served.node else served.with_node(node)
        return self.server.runs.stream(request, served, value, write_event)

    def answer(self, id: str, answer: object) -> None:
        """Answer a question that a person is asked.

        Raises:
            RequestRefused: the question isn't open any more (404).
        """
        _, future = self._asked.get(id, (None, None))
        if future is None or future.done():
            raise RequestRefused("this isn't asked any more", status=404, code="not_asked")
        future.set_result(answer)

    async def ask(self, inquiries: Sequence[Inquiry]) -> Mapping[str, object]:
        """Wait until people have answered all questions; return the answers by their ids."""
        questions = {inquiry.id: _question(inquiry) for inquiry in inquiries}
        futures = {id: asyncio.get_running_loop().create_future() for id in questions}
        try:
            for id, question in questions.items():
                self._asked[question.id] = question, futures[id]
            return {id: await future for id, future in futures.items()}
        finally:
            for question in questions.values():
                del self._asked[question.id]


def _question(inquiry: Inquiry) -> Question:
    """Return an inquiry as a question. It gets a new id, since several runs may ask the same."""
    value = inquiry.value
    if is_mapping(value):
        text = "\n".join(f"{name}: {format_value(item)}" for name, item in value.items())
    else:
        text = format_value(value)
    return Question(id=uuid4().hex, asked=text, answers=inquiry.answers)
