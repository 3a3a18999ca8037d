"""Native: decides by a route of the server itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moa._async import gather
from moa.context import RunContext
from moa.endpoints import Decision, Example
from moa.endpoints.client import Client
from moa.endpoints.dialects import Dialect
from moa.endpoints.tokens import estimate_of
from moa.endpoints.wires import Wire
from moa.errors import EndpointRejected, EndpointUnsupported
from moa.questions import Question
from moa.usage import NOTHING

_TOKENS_AN_ANSWER = 2


class Native:
    """Decides by a route of the server itself; what doesn't fit one request takes several.

    Args:
        client: The connection to the server.
        dialect: What the server takes in one request.
        wire: The wire format.
    """

    def __init__(self, client: Client, dialect: Dialect, wire: Wire) -> None:
        self.title = wire.title
        self._client = client
        self._dialect = dialect
        self._wire = wire

    async def decide(
        self,
        text: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example],
    ) -> Decision:
        """Answer typed questions about `text`; see `Backend.decide`."""
        self._dialect.check(text, questions)
        asked = self._dialect.requests(unique(questions))
        parts = await gather(self._ask(text, few, context) for few in asked)
        if examples:
            said = f"{len(examples)} examples: this server decides by itself and takes none"
            context.note("dropped", said, endpoint=self._client.name)
        answers = (answer for part in parts for answer in part.answers)
        return replace(
            parts[0],
            answers=tuple(
                replace(answer, question=question)
                for answer, question in zip(answers, questions, strict=True)
            ),
            amount=sum((part.amount for part in parts), NOTHING),
        )

    async def _ask(self, text: str, questions: Sequence[Question], context: RunContext) -> Decision:
        client = self._client
        asked = (words for q in questions for words in (q.text, *(o.name for o in q.options)))
        tokens = _TOKENS_AN_ANSWER * len(questions)
        estimate = estimate_of(text, *asked, max_tokens=tokens, price=client.price)
        body = self._wire.body(client.model, text, questions)
        try:
            reply, amount = await client.post(self._wire.path, body, context, estimate=estimate)
        except EndpointRejected as error:
            if not self._wire.is_unable(error):
                raise
            raise EndpointUnsupported(
                error.message, endpoint=client.name, status=error.status
            ) from error
        answers = self._wire.read(reply, questions, client.name)
        for answer in answers:
            if answer.status == "refused":
                context.note("refused", answer.question.name, endpoint=client.name)
        model = reply.get("model")
        served = model if isinstance(model, str) and model else client.model
        context.note("answered", served, endpoint=client.name)
        return Decision(answers=tuple(answers), endpoint=client.name, model=served, amount=amount)


def unique(questions: Sequence[Question]) -> list[Question]:
    """Number the questions whose names are taken, so that answers can be told apart."""
    taken: set[str] = set()
    renamed: list[Question] = []
    for question in questions:
        name, count = question.name, 1
        while name in taken:
            count += 1
            name = f"{question.name}_{count}"
        taken.add(name)
        renamed.append(question if name == question.name else replace(question, name=name))
    return renamed
