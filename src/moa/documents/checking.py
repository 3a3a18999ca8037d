"""Checking: each sentence of an answer against the passages that it cites."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from moa.context import RunContext
from moa.documents import Passage
from moa.documents.citing import Statement, statements
from moa.documents.grading import Grade, claimed
from moa.errors import ConfigError, DeadlineExceeded, MoaError
from moa.handoffs import Text
from moa.node import Node

Verdict = Literal["supported", "unsupported", "uncited", "unchecked"]


class Claim(BaseModel):
    """A sentence of an answer, and whether the passages that it cites say so."""

    model_config = ConfigDict(frozen=True)

    text: str
    """Without its citations."""
    numbers: tuple[int, ...]
    """The passages that it cites."""
    verdict: Verdict
    """`uncited` where it cites none, `unchecked` where nobody could say."""
    probability: float | None = None
    """That the passages say it; `None` where no model gave one."""


async def checked_claims(
    answer: str,
    passages: Sequence[Passage],
    support: Node[Text | str, Grade] | None,
    context: RunContext,
) -> tuple[Claim, ...]:
    """Ask of each sentence whether the passages that it cites say so.

    Args:
        answer: Cites passages by their numbers; `cited` has checked that they exist.
        passages: Those that the numbers stand for.
        support: Who is asked; `None`: no more is checked than that each sentence cites one.
        context: Budget, deadline and ledger.

    Raises:
        DeadlineExceeded: the run's time is up.
        ConfigError: see `graded`.
    """
    said = statements(answer)
    citing = [each for each in said if each.numbers]
    texts = [claimed(each.text, [passages[n - 1] for n in each.numbers]) for each in citing]
    if support is None:
        grades = [Grade(met=None)] * len(texts)
    else:
        grades = await graded(support, texts, context)
    left = iter(grades)
    return tuple(_claim(each, next(left)) if each.numbers else _uncited(each) for each in said)


def copied(extract: str) -> tuple[Claim, ...]:
    """Give the sentences of an extract, which its passage says word for word."""
    return tuple(
        Claim(text=each.text, numbers=each.numbers, verdict="supported")
        for each in statements(extract)
    )


async def graded(
    grader: Node[Text | str, Grade], texts: Sequence[str], context: RunContext
) -> list[Grade]:
    """Grade texts side by side; one that fails has no grade, and is named in the trace.

    Raises:
        DeadlineExceeded: the run's time is up.
        ConfigError: the grader can grade nothing, as where a package or a calibration is missing.
    """

    async def grade(text: str) -> Grade:
        try:
            return (await grader.run(text, context)).output
        except (ConfigError, DeadlineExceeded):
            raise
        except MoaError as error:
            context.note("failed", f"{grader.name!r} gave no grade: {error}")
            return Grade(met=None)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(grade(text)) for text in texts]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [task.result() for task in tasks]


def _claim(said: Statement, grade: Grade) -> Claim:
    verdict: Verdict = "supported" if grade.met else "unsupported"
    if grade.met is None or grade.accepted is False:
        verdict = "unchecked"
    return Claim(
        text=said.text, numbers=said.numbers, verdict=verdict, probability=grade.probability
    )


def _uncited(said: Statement) -> Claim:
    return Claim(text=said.text, numbers=(), verdict="uncited")
