"""Research: a question divided, each part answered from sources, and a report that cites them.

Dividing a question is after Press et al. 2023, "Measuring and narrowing the compositionality gap in
language models", arXiv:2210.03350, with the parts side by side.
"""

from __future__ import annotations

import asyncio
from typing import Any, Unpack

from moa._async import gather
from moa.agents.boundary import Limits
from moa.context import RunContext, quiet
from moa.documents.checking import checked_claims
from moa.documents.citing import cited
from moa.documents.grading import Grade
from moa.documents.sourced import NotInDocuments, Sourced
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.errors import ConfigError, DeadlineExceeded, InputError, MoaError
from moa.graphs.building.builder import Graph
from moa.graphs.building.plan import Plan
from moa.graphs.findings import (
    Comparer,
    Conflicts,
    Divider,
    Findings,
    Report,
    SubQuestions,
    Synthesis,
)
from moa.graphs.notes import AT_ONCE, FAILURES
from moa.graphs.pattern import Pattern
from moa.handoffs import Reply, Text
from moa.node import Node
from moa.trace import Piece

Outcome = Sourced | NotInDocuments


class Research(Pattern[Text | str, Report | NotInDocuments]):
    """What `research` makes."""

    def __init__(
        self,
        llm: Endpoint,
        answerer: Node[Text | str, Outcome],
        *,
        most: int,
        max_tokens: int,
        support: Node[Text | str, Grade] | None,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        self.answerer = answerer
        self.support = support
        self.writes = can_write(llm.model)
        self.divider = Divider(llm, most=most)
        self.comparer = Comparer(llm, name="compare", max_tokens=1024)
        self.synthesis = Synthesis(llm, name="report", max_tokens=max_tokens)

    async def answer(self, request: Text | str, context: RunContext) -> Report | NotInDocuments:
        """Divide, look each part up, compare, and write.

        Raises:
            InputError: the question is empty.
            ConfigError: the answerer has nothing to search in.
            MoaError: every part failed; what the first failed with.
        """
        question = str(request).strip()
        if not question:
            raise InputError(f"{self.name}: the question is empty")
        silent = quiet(context)  # the report alone is shown
        asked = await self._divided(question, silent)
        found = Findings.of(question, await self._outcomes(asked, silent))
        for each in found.findings:
            if each.unsupported:
                context.note(
                    "dropped", f"{each.question!r}: no passage says {' '.join(each.unsupported)!r}"
                )
        for each in found.unanswered:
            context.note("skipped", f"{each.question!r} is not answered: {each.missing}")
        if not found.answered:
            reasons = "; ".join(dict.fromkeys(each.missing or "" for each in found.unanswered))
            return NotInDocuments(reason=f"the sources answer no part of it: {reasons}")
        found = await self._compared(found, silent)
        return await self._report(found, context)

    async def _divided(self, question: str, context: RunContext) -> list[str]:
        if not self.writes:
            return [question]
        try:
            divided = (await self.divider.run(question, context)).output.questions
        except FAILURES as error:
            context.note("failed", f"the question was not divided: {error}")
            return [question]
        return list(dict.fromkeys(divided))

    async def _outcomes(
        self, asked: list[str], context: RunContext
    ) -> list[tuple[str, Outcome | str]]:
        """Look each part up, some at a time. One that fails has the reason in its place."""
        gate = asyncio.Semaphore(AT_ONCE)
        failures: list[MoaError] = []

        async def look_up(question: str) -> Outcome | str:
            async with gate:
                try:
                    return (await self.answerer.run(question, context)).output
                except (ConfigError, DeadlineExceeded):
                    raise
                except MoaError as error:
                    context.note("failed", f"{question!r} was not looked up: {error}")
                    failures.append(error)
                    return f"it could not be looked up: {error}"

        outcomes = await gather(look_up(question) for question in asked)
        if len(failures) == len(asked):
            raise failures[0]
        return list(zip(asked, outcomes, strict=True))

    async def _compared(self, found: Findings, context: RunContext) -> Findings:
        if not self.writes or len(found.answered) < 2:
            return found
        try:
            conflicts = (await self.comparer.run(found, context)).output.disagreements
        except FAILURES as error:
            context.note("failed", f"the findings were not compared: {error}")
            return found
        return found.model_copy(update={"disagreements": tuple(conflicts)})

    async def _report(self, found: Findings, context: RunContext) -> Report:
        text, written = str(found), False
        if self.writes:
            try:
                text, written = (await self.synthesis.run(found, context)).output.text, True
            except FAILURES as error:
                context.note("failed", f"no report was written: {error}")
        if not written:
            context.note("degraded", "the answers stand one after another, as no model wrote")
            context.emit(Piece(context.node, text))
        checked = cited(text, found.passages)
        claims = tuple(claim for each in found.answered for claim in each.claims)
        if written:
            claims = await checked_claims(checked.text, found.passages, self.support, context)
        if wrong := sum(claim.verdict == "unsupported" for claim in claims):
            context.note("degraded", f"{wrong} of {len(claims)} sentences: no passage says so")
        if checked.unknown:
            numbers = ", ".join(map(str, checked.unknown))
            context.note("changed", f"citations of passages that were not given: {numbers}")
        if written and not checked.citations:
            context.note("degraded", "the report cites nothing")
        return Report(
            text=checked.text,
            findings=found.findings,
            citations=checked.citations,
            claims=claims,
            unanswered=tuple(each.question for each in found.unanswered),
            disagreements=found.disagreements,
            written_by="llm" if written else "findings",
        )

    @property
    def plan(self) -> Plan:
        """Its nodes as they follow one another, to be drawn; it runs otherwise."""
        g: Graph[Any] = Graph(self.name, self.input_type)
        each = g.add(self.divider, g.input).map(_each)
        answer = g.add(self.answerer, each, name=f"{self.answerer.name} each")
        found = g.join(_found, answer)
        compared = g.join(_with_conflicts, found, g.add(self.comparer, found))
        report: Any = g.add(self.synthesis, compared)
        if self.support is None:
            return g.build(report).plan
        grade: Any = g.add(self.support, report.map(str), name="check each sentence")
        return g.build(g.join(_checked, report, grade)).plan


def research(
    llm: Endpoint,
    answerer: Node[Text | str, Outcome],
    *,
    most: int = 5,
    max_tokens: int = 2048,
    support: Node[Text | str, Grade] | None = None,
    **limits: Unpack[Limits],
) -> Research:
    """Answer a question that has several parts, from sources, with what they disagree about.

    Args:
        llm: Divides the question, compares the findings, and writes the report. One that is too
            small to write isn't asked: the question is looked up as it is.
        answerer: Answers one question from sources, with citations, such as what `rag` makes.
        most: Most sub-questions.
        max_tokens: Most tokens of the report, reasoning included.
        support: Says of each sentence of the report whether the passages it cites say so; `None`
            checks no more than that each sentence cites one. What the answerer found unsupported
            does not get into the report.
        limits: See `Limits`.

    Raises:
        CapabilityError: `llm` can't complete.
        ConfigError: `most` is less than 1.
    """
    if most < 1:
        raise ConfigError(f"most={most}, but a question has at least 1 part")
    return Research(llm, answerer, most=most, max_tokens=max_tokens, support=support, **limits)


def _each(asked: SubQuestions) -> str:
    """Stand for the sub-questions in drawings, as the next; none is run."""
    return asked.questions[0]


def _found(outcome: Outcome) -> Findings:
    return Findings.of("", [("", outcome)])


def _with_conflicts(found: Findings, conflicts: Conflicts) -> Findings:
    return found.model_copy(update={"disagreements": tuple(conflicts.disagreements)})


def _checked(report: Reply, grade: Grade) -> Reply:
    del grade
    return report
