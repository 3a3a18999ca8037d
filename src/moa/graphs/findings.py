"""Findings: the sub-questions of a question, what sources say to each, and a report of it all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from moa.agents import Agent
from moa.agents.prompts import at_most, block, escaped
from moa.documents import Passage
from moa.documents.checking import Claim
from moa.documents.citing import Citation, statements
from moa.documents.sourced import NotInDocuments, Sourced
from moa.endpoints import Endpoint
from moa.handoffs import Reply, Text

_Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Finding(BaseModel):
    """A sub-question, and what the sources say to it."""

    model_config = ConfigDict(frozen=True)

    question: str
    answer: str = ""
    """With citations that count over the whole report; empty where there is none."""
    citations: tuple[int, ...] = ()
    """The numbers that it cites."""
    claims: tuple[Claim, ...] = ()
    """Its sentences, as they were checked."""
    unsupported: tuple[str, ...] = ()
    """Sentences that were left out of it, since no passage that they cite says so."""
    missing: str | None = None
    """Why there is no answer, in words."""


class Disagreement(BaseModel):
    """What findings contradict each other about."""

    about: _Words
    findings: list[int] = Field(min_length=1, description="numbers of the findings")


class Findings(BaseModel):
    """A question, and what was found."""

    model_config = ConfigDict(frozen=True)

    question: str
    findings: tuple[Finding, ...]
    passages: tuple[Passage, ...] = ()
    """Those that are cited; `[1]` is the first."""
    disagreements: tuple[Disagreement, ...] = ()

    @classmethod
    def of(
        cls, question: str, outcomes: Sequence[tuple[str, Sourced | NotInDocuments | str]]
    ) -> Self:
        """Number the passages of all answers together.

        Args:
            question: The whole one.
            outcomes: Each sub-question, with its answer, or why there is none.
        """
        numbers: dict[Passage, int] = {}
        findings: list[Finding] = []
        for asked, outcome in outcomes:
            if isinstance(outcome, Sourced):
                findings.append(_finding(asked, outcome, numbers))
            else:
                reason = outcome if isinstance(outcome, str) else outcome.reason
                findings.append(Finding(question=asked, missing=reason))
        return cls(question=question, findings=tuple(findings), passages=tuple(numbers))

    @property
    def answered(self) -> tuple[Finding, ...]:
        """Those that have an answer."""
        return tuple(each for each in self.findings if each.answer)

    @property
    def unanswered(self) -> tuple[Finding, ...]:
        """Those that have none."""
        return tuple(each for each in self.findings if not each.answer)

    def __str__(self) -> str:
        return "\n\n".join(f"{each.question}\n{each.answer}" for each in self.answered)


class Report(Reply):
    """An answer from sources, question by question."""

    findings: tuple[Finding, ...]
    citations: tuple[Citation, ...]
    """The passages that it cites."""
    claims: tuple[Claim, ...]
    """Its sentences, and whether the passages that they cite say so."""
    unanswered: tuple[str, ...]
    """Sub-questions that the sources don't answer."""
    disagreements: tuple[Disagreement, ...]
    """What the sources contradict each other about; numbers of findings count from 1."""
    written_by: Literal["llm", "findings"]
    """`findings`: the answers to the sub-questions, one after another, as no model could write."""

    def __str__(self) -> str:
        parts = [self.text]
        if self.citations:
            parts.append("; ".join(f"[{c.number}] {c.passage.source}" for c in self.citations))
        if self.unanswered:
            parts.append(f"Not in the sources: {' '.join(self.unanswered)}")
        return "\n".join(parts)


class SubQuestions(BaseModel):
    """Questions that together answer another."""

    questions: list[_Words] = Field(min_length=1)


class Divider(Agent[Text | str, SubQuestions]):
    """Divides a question into some that can be answered one by one.

    Args:
        llm: Writes.
        most: How many there are, at most.

    Raises:
        CapabilityError: it can't complete.
    """

    tag = ""

    def __init__(self, llm: Endpoint, *, most: int) -> None:
        self.output_type = at_most(SubQuestions, "questions", most)
        self.instructions = (
            f"Split the question into at most {most} simpler questions that can be looked up one "
            f"by "
            "one and together answer it. Each must make sense on its own. If the question is "
            "simple, "
            "give it as it is. Use its language."
        )
        super().__init__(llm, name="divide", max_tokens=1024)


class Conflicts(BaseModel):
    """What findings contradict each other about; nothing, where they don't."""

    disagreements: list[Disagreement]


class Comparer(Agent[Findings, Conflicts]):
    """Finds where findings contradict each other."""

    instructions = (
        "Compare the numbered findings. List where they contradict each other, or where one says "
        "that "
        "its sources do: what about, and the numbers of the findings. Something that only adds to "
        "another finding is no contradiction. If there is none, give an empty list."
    )

    def prompt(self, request: Findings) -> str:
        """List the findings by number."""
        return block(_numbered(request))

    def check(self, request: Findings, output: Conflicts) -> None:
        """Refuse numbers that no finding has, and those without an answer."""
        known = {n for n, each in enumerate(request.findings, 1) if each.answer}
        wrong = sorted({n for each in output.disagreements for n in each.findings} - known)
        if wrong:
            raise ValueError(f"there are no findings {wrong}, only {sorted(known)}")


class Synthesis(Agent[Findings, Reply]):
    """Writes the report from the findings."""

    instructions = (
        "Answer the question from the findings only, in the language of the question. Keep the "
        "numbers in brackets after what they support. If findings disagree, report each side with "
        "its "
        "numbers and do not decide. Say what the sources leave open."
    )

    def prompt(self, request: Findings) -> str:
        """Show the findings, where they disagree, what is open, and the question last."""
        parts = [block(_numbered(request), "Findings")]
        if request.disagreements:
            about = "\n".join(each.about for each in request.disagreements)
            parts.append(block(about, "They disagree about"))
        if request.unanswered:
            left = "\n".join(each.question for each in request.unanswered)
            parts.append(block(left, "The sources leave open"))
        return "\n\n".join([*parts, f"Question: {escaped(request.question)}"])


def _finding(asked: str, outcome: Sourced, numbers: dict[Passage, int]) -> Finding:
    """Take an answer over, without what no passage says; add the passages it cites to `numbers`."""
    passages = {each.number: each.passage for each in outcome.citations}
    known = {(claim.text, claim.numbers): claim for claim in outcome.claims}
    claims: list[Claim] = []
    unsupported: list[str] = []
    for said in statements(outcome.text):
        claim = known.get((said.text, said.numbers)) or Claim(
            text=said.text, numbers=said.numbers, verdict="unchecked" if said.numbers else "uncited"
        )
        if claim.verdict == "unsupported":
            unsupported.append(claim.text)
            continue
        cited = [passages[n] for n in claim.numbers if n in passages]
        marks = tuple(numbers.setdefault(each, len(numbers) + 1) for each in cited)
        claims.append(claim.model_copy(update={"numbers": marks}))
    return Finding(
        question=asked,
        answer=" ".join(f"{c.text} {''.join(f'[{n}]' for n in c.numbers)}".strip() for c in claims),
        citations=tuple(sorted({n for claim in claims for n in claim.numbers})),
        claims=tuple(claims),
        unsupported=tuple(unsupported),
        missing=None if claims else "no passage says what was answered",
    )


def _numbered(findings: Findings) -> str:
    return "\n\n".join(
        f"Finding {n}: {each.question}\n{each.answer}"
        for n, each in enumerate(findings.findings, 1)
        if each.answer
    )
