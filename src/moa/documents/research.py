"""Research: divides a question, answers its parts from sources, and writes a report with citations.

The division follows Press et al. 2023, "Measuring and narrowing the compositionality gap in
language models", arXiv:2210.03350, with the parts in parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from moa.agents.agent import Agent
from moa.agents.prompts import Words, block, escape_tags, limit_items
from moa.core.context import RunContext, count_text_deltas, quiet
from moa.core.errors import MoaError, check_recoverable
from moa.core.node import Frozen, Node, Reply, Text, run_in_place
from moa.documents import Passage, Passages
from moa.documents.claims import (
    Citation,
    Claim,
    Grade,
    check_answer,
    claims_in,
    join_claims,
)
from moa.documents.rag import Answerer, NotInDocuments, Rag, RagOutcome, Sheet, question_of
from moa.documents.retrieval import Retriever
from moa.documents.writing import attempt_each, attempt_writing
from moa.endpoints.known import can_write
from moa.endpoints.tokens import tokens_of, window_of
from moa.graphs.fields import FromEndpoint, Large, PythonNode
from moa.graphs.recipe import Recipe, Sketch

_REPORT_TOKENS = 2048
"""Maximum number of tokens of the report, reasoning included."""


class Finding(Frozen):
    """A sub-question, and its answer from the sources."""

    question: str
    answer: str = ""
    """Answer, with citations numbered across the whole report; empty if there is none."""
    citations: tuple[int, ...] = ()
    """Numbers that it cites."""
    claims: tuple[Claim, ...] = ()
    """Its sentences, with the results of the check."""
    unsupported: tuple[str, ...] = ()
    """Sentences that were left out, since no passage that they cite says so."""
    missing: str | None = None
    """Reason why there is no answer, in words."""


class Disagreement(BaseModel):
    """What findings contradict each other about."""

    about: Words
    findings: list[int] = Field(min_length=1, description="numbers of the findings")


class Findings(Frozen):
    """A question, and its findings."""

    question: str
    findings: tuple[Finding, ...]
    passages: tuple[Passage, ...] = ()
    """Cited passages; `[1]` is the first."""
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def answered(self) -> tuple[Finding, ...]:
        """Findings with an answer."""
        return tuple(finding for finding in self.findings if finding.answer)

    @property
    def unanswered(self) -> tuple[Finding, ...]:
        """Findings without an answer."""
        return tuple(finding for finding in self.findings if not finding.answer)

    def __str__(self) -> str:
        return "\n\n".join(f"{finding.question}\n{finding.answer}" for finding in self.answered)


class Report(Reply):
    """An answer from sources, question by question."""

    findings: tuple[Finding, ...]
    citations: tuple[Citation, ...]
    """Passages that it cites."""
    claims: tuple[Claim, ...]
    """Its sentences, and whether the passages that they cite say so. The `unsupported` ones were
    left out of the text."""
    unanswered: tuple[str, ...]
    """Sub-questions that the sources don't answer."""
    disagreements: tuple[Disagreement, ...]
    """Contradictions between the sources. Findings are numbered from 1."""
    written_by: Literal["llm", "findings"]
    """`findings`: the text lists the answers to the sub-questions, since there is only one or no
    model could write."""

    def __str__(self) -> str:
        parts = [self.text]
        if self.citations:
            parts.append("; ".join(f"[{c.number}] {c.passage.source}" for c in self.citations))
        if self.unanswered:
            parts.append(f"Not in the sources: {' '.join(self.unanswered)}")
        return "\n".join(parts)


class SubQuestions(BaseModel):
    """Questions that together answer another."""

    questions: list[Words] = Field(min_length=1)


class Conflicts(BaseModel):
    """What findings contradict each other about; nothing, where they don't."""

    disagreements: list[Disagreement]


class Comparer(Agent[Findings, Conflicts]):
    """Finds where findings contradict each other."""

    instructions = (
        "Compare the numbered findings. List where they contradict each other, or where one says "
        "that its sources do: what about, and the numbers of the findings. Something that only "
        "adds to another finding is no contradiction. If there is none, give an empty list."
    )

    def user_prompt(self, request: Findings) -> str:
        """List the findings by number."""
        return block(_number(request))

    def check(self, request: Findings, output: Conflicts) -> None:
        """Reject numbers of findings that don't exist or have no answer."""
        numbers = {n for n, finding in enumerate(request.findings, 1) if finding.answer}
        wrong = sorted(
            {n for disagreement in output.disagreements for n in disagreement.findings} - numbers
        )
        if wrong:
            raise ValueError(f"there are no findings {wrong}, only {sorted(numbers)}")


class Synthesis(Agent[Findings, Reply]):
    """Writes the report from the findings."""

    instructions = (
        "Answer the question from the findings only, in the language of the question. Keep the "
        "numbers in brackets after what they support. If findings disagree, report each side with "
        "its numbers and do not decide. Say what the sources leave open."
    )

    def user_prompt(self, request: Findings) -> str:
        """Show the findings, what they disagree about, what is open, and the question last."""
        parts = [block(_number(request), "Findings")]
        if request.disagreements:
            about = "\n".join(disagreement.about for disagreement in request.disagreements)
            parts.append(block(about, "They disagree about"))
        if request.unanswered:
            questions = "\n".join(finding.question for finding in request.unanswered)
            parts.append(block(questions, "The sources leave open"))
        return "\n\n".join([*parts, f"Question: {escape_tags(request.question)}"])


class AllPassages(Retriever):
    """Returns all passages, whatever is asked."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        super().__init__(name="passages")
        self.passages = tuple(passages)

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Return all passages."""
        del request, context
        return Passages(passages=self.passages)


class WholeReader(Answerer):
    """Answers all parts of a question in one call, from all passages."""

    asks = (
        "The question may have several parts. Answer each part in one short sentence with what "
        "was asked for, in the language of the question, and behind each sentence write the "
        "number of the passage it rests on, as in [2]. If passages contradict each other, report "
        "each side. If they say nothing about a part, say so."
    )


class Research(Recipe[Text | str, Report | NotInDocuments], recipe="research"):
    """Answers a question part by part, from your sources, and tells what they disagree about.

    If the answerer is a `Rag` with no more passages than the parts would read, and all of them fit
    its writer's context window, the writer reads them all in one call. If only one part has an
    answer, that is the report, word for word.

    Raises:
        CapabilityError: `llm` can't complete.

    Examples:
        >>> from moa.documents import Passage
        >>> from moa.documents.retrieval import BM25
        >>> from moa.documents.research import Research
        >>> guide = Passage(document="guide", title="Guide", text="The bridge is 80 years old.")
        >>> large = ScriptedEndpoint(["It is 80 years old [1]."])
        >>> answerer = Rag(retriever=BM25([guide]), writer=large)
        >>> print(Research(llm=large, answerer=answerer).run_sync("The bridge?").output.text)
        It is 80 years old [1].
    """

    llm: Large
    """Divides the question, compares the findings, and writes the report. A model too small to
    write isn't asked: the question is then looked up undivided."""
    answerer: Annotated[Node[Text | str, RagOutcome], FromEndpoint(Rag, tier=None)]
    """Answers one question from sources, with citations, such as `Rag`."""
    max_parts: int = Field(default=5, ge=1)
    """Maximum number of parts of a question."""
    support: PythonNode[Text | str, Grade] | None = None
    """Checks each sentence of the report against the passages it cites. `None`: the check of a
    `Rag` answerer; without one, each sentence only has to cite a passage. What the answerer found
    unsupported doesn't get into the report. Only in Python."""

    def prepare(self) -> None:
        """Make the agents."""
        if self.support is None and isinstance(self.answerer, Rag):
            self.support = self.answerer.support
        self.writes = can_write(self.llm.model)
        self.divider = Agent(
            self.llm,
            f"Split the question into at most {self.max_parts} simpler questions that can be "
            "looked up one by one and together answer it. Whoever looks one up doesn't see the "
            "others: repeat in each the persons, things, times and conditions that it is about. If "
            "the question is simple, give it as it is. Use its language.",
            output=limit_items(SubQuestions, "questions", self.max_parts),
            name="divide",
            max_tokens=1024,
            tag="",
        )
        self.comparer = Comparer(self.llm, name="compare", max_tokens=1024)
        self.synthesis = Synthesis(self.llm, name="report", max_tokens=_REPORT_TOKENS)

    async def answer(self, request: Text | str, context: RunContext) -> Report | NotInDocuments:
        """Divide, look each part up, compare, and write.

        Raises:
            InputError: the question is empty.
            ConfigError: the answerer has nothing to search in.
            MoaError: every part failed. It is the first part's error.
        """
        question = question_of(request, self.name)
        if reader := await self._reader(question, context):
            return _report_of(question, (await run_in_place(reader, question, context)).output)
        silent = quiet(context)  # only the report is shown
        findings = await self._look_up(question, await self._divide(question, silent), silent)
        for finding in findings.findings:
            if finding.unsupported:
                unsupported = " ".join(finding.unsupported)
                context.note("dropped", f"{finding.question!r}: no passage says {unsupported!r}")
        for finding in findings.unanswered:
            context.note("skipped", f"{finding.question!r} is not answered: {finding.missing}")
        if not findings.answered:
            reasons = "; ".join(
                dict.fromkeys(finding.missing or "" for finding in findings.unanswered)
            )
            return NotInDocuments(reason=f"the sources answer no part of it: {reasons}")
        return await self._report(await self._compare(findings, silent), context)

    async def _reader(self, question: str, context: RunContext) -> Rag | None:
        """Return a `Rag` that answers all parts in one call; `None` if that is too much to read."""
        rag = self.answerer
        if not isinstance(rag, Rag) or type(rag.answerer) is not Answerer or rag.relevance:
            return None
        passages = await rag.finder.all(context) if isinstance(rag.finder, Retriever) else None
        limit = self.max_parts * rag.top_k
        if not passages or len(passages) > limit:
            return None
        writer = rag.answerer.endpoint
        reader = WholeReader(writer, name="answerer", max_tokens=_REPORT_TOKENS)
        messages = reader.messages(Sheet(question=question, passages=passages))
        window = window_of(writer)
        text = "\n\n".join(message.content for message in messages)
        tokens = await tokens_of(writer, text, context)
        if window is not None and tokens + _REPORT_TOKENS > window:
            return None
        return Rag(
            name="whole",
            retriever=AllPassages(passages),
            embedder=rag.embedder,
            writer=reader,
            check=self.support or False,
            near=0,
            top_k=limit,
        )

    async def _divide(self, question: str, context: RunContext) -> list[str]:
        fallback = "the question was not divided"
        output = await attempt_writing(self.divider, question, context, fallback)
        return [question] if output is None else [*dict.fromkeys(output.questions)]

    async def _look_up(self, question: str, parts: Sequence[str], context: RunContext) -> Findings:
        """Answer each part, some in parallel, and number all passages that are cited."""

        async def look_up(part: str) -> RagOutcome:
            return (await run_in_place(self.answerer, part, context)).output

        outcomes = await attempt_each(
            look_up, parts, context, lambda part: f"{part!r} was not looked up"
        )
        numbers: dict[Passage, int] = {}
        pairs = zip(parts, outcomes, strict=True)
        findings = tuple(_finding(part, outcome, numbers) for part, outcome in pairs)
        return Findings(question=question, findings=findings, passages=tuple(numbers))

    async def _compare(self, findings: Findings, context: RunContext) -> Findings:
        if len(findings.answered) < 2:
            return findings
        fallback = "the findings were not compared"
        output = await attempt_writing(self.comparer, findings, context, fallback)
        if output is None:
            return findings
        return findings.model_copy(update={"disagreements": tuple(output.disagreements)})

    async def _report(self, findings: Findings, context: RunContext) -> Report | NotInDocuments:
        """Write a report of several findings, or list them. A single finding is the report itself.

        Given one finding and open parts, a small model would write about the open ones, too.
        """
        passages, finding = findings.passages, findings.answered[0]
        is_written = False
        if len(findings.answered) == 1:
            text, citations, claims = await check_answer(
                finding.answer, passages, self.support, context, question=finding.question
            )
            if not text:
                return NotInDocuments(reason="no passage says what was answered")
        else:
            text, citations, claims = await self._write(findings, context)
            is_written = bool(text)
            if not is_written:
                context.note("degraded", "the answers stand one after another, as no model wrote")
                text = str(findings)
                citations = tuple(Citation(number=n, passage=p) for n, p in enumerate(passages, 1))
                claims = tuple(claim for finding in findings.answered for claim in finding.claims)
        if not citations:
            context.note("degraded", "the report cites nothing")
        return Report(
            text=text,
            findings=findings.findings,
            citations=citations,
            claims=claims,
            unanswered=tuple(finding.question for finding in findings.unanswered),
            disagreements=findings.disagreements,
            written_by="llm" if is_written else "findings",
        )

    async def _write(
        self, findings: Findings, context: RunContext
    ) -> tuple[str, tuple[Citation, ...], tuple[Claim, ...]]:
        """Write the report, and check it. The text is empty if none was written."""
        if not self.writes:
            return "", (), ()
        pieces, heard = count_text_deltas(context)
        try:
            text = (await self.synthesis.run(findings, heard)).output.text
        except MoaError as error:
            check_recoverable(error)
            if pieces():  # half a report was streamed already
                raise
            context.note("failed", f"no report was written: {error}")
            return "", (), ()
        passages, question = findings.passages, findings.question
        return await check_answer(text, passages, self.support, context, question=question)

    def sketch(self, sketch: Sketch) -> None:
        """Draw the nodes in order."""
        lookup = (self.answerer, f"{self.answerer.name} each")
        check = self.support and (self.support, "check each sentence")
        if self.writes:
            sketch.chain(self.divider, lookup, self.comparer, self.synthesis, check)
        else:
            sketch.chain(lookup)


def _report_of(question: str, outcome: RagOutcome) -> Report | NotInDocuments:
    """Make the report of one answer to all parts."""
    if isinstance(outcome, NotInDocuments):
        return outcome
    numbers = tuple(citation.number for citation in outcome.citations)
    finding = Finding(
        question=question, answer=outcome.text, citations=numbers, claims=outcome.claims
    )
    return Report(
        text=outcome.text,
        findings=(finding,),
        citations=outcome.citations,
        claims=outcome.claims,
        unanswered=(),
        disagreements=(),
        written_by="llm" if outcome.kind == "answer" else "findings",
    )


def _finding(question: str, outcome: RagOutcome | MoaError, numbers: dict[Passage, int]) -> Finding:
    """Copy an answer without its unsupported sentences, and number the passages it cites."""
    if isinstance(outcome, MoaError):
        return Finding(question=question, missing=f"it could not be looked up: {outcome}")
    if isinstance(outcome, NotInDocuments):
        return Finding(question=question, missing=outcome.reason)
    passages = {citation.number: citation.passage for citation in outcome.citations}
    checked_claims = {(claim.text, claim.numbers): claim for claim in outcome.claims}
    claims: list[Claim] = []
    unsupported: list[str] = []
    for sentence in claims_in(outcome.text):
        claim = checked_claims.get((sentence.text, sentence.numbers), sentence)
        if claim.verdict == "unsupported":
            unsupported.append(claim.text)
            continue
        cited = [passages[n] for n in claim.numbers if n in passages]
        marks = tuple(numbers.setdefault(passage, len(numbers) + 1) for passage in cited)
        claims.append(claim.model_copy(update={"numbers": marks}))
    return Finding(
        question=question,
        answer=join_claims(claims),
        citations=tuple(sorted({n for claim in claims for n in claim.numbers})),
        claims=tuple(claims),
        unsupported=tuple(unsupported),
        missing=None if claims else "no passage says what was answered",
    )


def _number(findings: Findings) -> str:
    return "\n\n".join(
        f"Finding {n}: {finding.question}\n{finding.answer}"
        for n, finding in enumerate(findings.findings, 1)
        if finding.answer
    )
