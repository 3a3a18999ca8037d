"""Native: decides by a route of the server itself, whatever its wire format."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from moa.context import RunContext
from moa.endpoints import Decision, Example
from moa.endpoints.client import JSON, Client
from moa.endpoints.coalesce import Coalescer
from moa.endpoints.profiles import Profile
from moa.endpoints.tokens import estimate_of
from moa.errors import EndpointRejected
from moa.questions import Answer, Question
from moa.usage import NOTHING, Amount

_TOKENS_AN_ANSWER = 2


class Wire(Protocol):
    """How questions are written and answers are read on one route."""

    @property
    def title(self) -> str:
        """Name of the format."""
        ...

    @property
    def path(self) -> str:
        """The route, such as `/systemone`."""
        ...

    def body(self, model: str, state: str, questions: Sequence[Question]) -> dict[str, Any]:
        """Write a request."""
        ...

    def read(self, reply: JSON, questions: Sequence[Question], endpoint: str) -> list[Answer]:
        """Read the answers, one for each question, in order.

        Raises:
            InvalidResponse: they are not in this format.
        """
        ...

    def explain(self, error: EndpointRejected) -> EndpointRejected:
        """Tell "this model cannot decide", however the server says it, from a wrong question."""
        ...


class Native:
    """Decides by a route of the server itself.

    Questions about one state that come in one tick share a request where the server answers them
    independently of each other.

    Args:
        client: The connection to the server.
        profile: What the server takes in one request.
        wire: The wire format.
    """

    def __init__(self, client: Client, profile: Profile, wire: Wire) -> None:
        self.title = wire.title
        self._client = client
        self._profile = profile
        self._wire = wire
        self._coalescer = Coalescer(
            client.name, client.tier, send=self._send, estimate=self._estimate
        )

    def can_join(self, state: str) -> bool:
        """Whether questions about `state` would go out with a request that is being gathered."""
        return self._profile.together and self._coalescer.is_open(state)

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example],
    ) -> Decision:
        """Answer typed questions about `state`; see `Backend.decide`."""
        self._profile.check(state, questions)
        ask = self._coalescer.decide if self._profile.together else self._send
        decision = await ask(state, questions, context)
        if examples:
            text = f"{len(examples)} examples: this server decides by itself and takes none"
            context.note("dropped", text, endpoint=self._client.name)
        return decision

    async def _send(
        self, state: str, questions: Sequence[Question], context: RunContext
    ) -> Decision:
        requests = self._profile.requests(questions)
        if len(requests) == 1:
            return await self._ask(state, requests[0], context)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(state, few, context)) for few in requests]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        parts = [task.result() for task in tasks]
        return replace(
            parts[0],
            answers=tuple(answer for part in parts for answer in part.answers),
            amount=sum((part.amount for part in parts), NOTHING),
        )

    async def _ask(
        self, state: str, questions: Sequence[Question], context: RunContext
    ) -> Decision:
        client = self._client
        body = self._wire.body(client.model, state, questions)
        estimate = self._estimate(state, questions)
        try:
            reply, amount = await client.post(self._wire.path, body, context, estimate=estimate)
        except EndpointRejected as error:
            raise self._wire.explain(error) from error
        answers = self._wire.read(reply, questions, client.name)
        for answer in answers:
            if answer.status == "refused":
                context.note("refused", answer.question.name, endpoint=client.name)
        model = reply.get("model")
        served = model if isinstance(model, str) and model else client.model
        context.note("answered", served, endpoint=client.name)
        return Decision(answers=tuple(answers), endpoint=client.name, model=served, amount=amount)

    def _estimate(self, state: str, questions: Sequence[Question]) -> Amount:
        texts = [
            text
            for question in questions
            for text in (question.text, *(option.name for option in question.options))
        ]
        estimate = estimate_of(
            state,
            *texts,
            max_tokens=_TOKENS_AN_ANSWER * len(questions),
            price=self._client.price,
        )
        return replace(estimate, calls=len(self._profile.requests(questions)))
