"""Reading: what a model answers to texts, as numbers to fit to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moa.context import RunContext
from moa.decisions import View
from moa.decisions.arrays import Floats
from moa.endpoints import Endpoint
from moa.questions import Answer, Question, Source

_AT_ONCE = 8

Progress = Callable[[int, int], None]
"""Called with the texts read so far, and those to read in all, as far as that is known."""


@dataclass(slots=True)
class Reader:
    """Reads texts in views, several at once."""

    endpoint: Endpoint
    questions: tuple[Question, ...]
    own: View
    context: RunContext
    progress: Progress | None
    source: Source = "native"
    done: int = 0
    total: int = 0

    async def read(self, views: Sequence[View], texts: Sequence[str]) -> dict[str, Floats]:
        """Log-probabilities by question: texts, views, options; centred on their mean."""
        self.total += len(views) * len(texts)
        # View by view: a server that caches prompts keeps one beginning at a time.
        found = [await self._all(view, texts) for view in views]
        return {
            q.name: np.array(
                [
                    [_logs(answers[place].probabilities, len(q.options)) for answers in view]
                    for view in found
                ]
            )
            .reshape(len(views), len(texts), len(q.options))
            .swapaxes(0, 1)
            for place, q in enumerate(self.questions)
        }

    async def _all(self, view: View, texts: Sequence[str]) -> list[tuple[Answer, ...]]:
        answers: list[tuple[Answer, ...] | None] = [None] * len(texts)
        left = iter(enumerate(texts))

        async def work() -> None:
            for place, text in left:
                answers[place] = await self._one(view, text)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(texts))):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return [answer for answer in answers if answer is not None]

    async def _one(self, view: View, text: str) -> tuple[Answer, ...]:
        decision = await self.endpoint.decide(
            text, self.questions, self.context, examples=view or self.own
        )
        self.source = decision.answers[0].source
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
        return decision.answers


def _logs(probabilities: Sequence[float] | None, options: int) -> Floats:
    """An unanswered question says nothing: all its options are as likely."""
    if probabilities is None:
        return np.zeros(options)
    logs = np.log(np.maximum(np.array(probabilities), 1e-45))
    return logs - logs.mean()
