"""Rag: a question in; passages are found, and an answer cites them.

After Lewis et al. 2020, "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks",
arXiv:2005.11401. A large model writes; where they are asked to, small ones rewrite the question,
filter the passages and check the answer.
"""

from __future__ import annotations

from collections.abc import Callable

from moa.context import RunContext
from moa.documents import Passage, Passages
from moa.documents.answering import Sheet, is_absent, may_be_absent
from moa.documents.bm25 import words
from moa.documents.checking import checked_claims, copied, graded
from moa.documents.citing import attributed, cited
from moa.documents.extracting import Extracted
from moa.documents.grading import Grade, asked
from moa.documents.retrieval import fused
from moa.documents.rewriting import Query
from moa.documents.sourced import NotInDocuments, Sourced
from moa.errors import ConfigError, DeadlineExceeded, InputError, MoaError
from moa.graphs.building.plan import Plan
from moa.graphs.pattern import Pattern
from moa.graphs.rag_plan import plan_of_rag
from moa.handoffs import Reply, Text
from moa.node import Node
from moa.trace import Event, Piece
from moa.usage import UNLIMITED, Budget

RagOutcome = Sourced | NotInDocuments


class Rag(Pattern[Text | str, RagOutcome]):
    """What `rag` makes."""

    def __init__(
        self,
        retriever: Node[Text | str, Passages],
        writer: Node[Sheet, Reply],
        *,
        rewriter: Node[Text | str, Query] | None,
        relevance: Node[Text | str, Grade] | None,
        support: Node[Text | str, Grade] | None,
        top_k: int,
        name: str,
        budget: Budget,
        timeout_s: float | None,
    ) -> None:
        super().__init__(name=name, budget=budget, timeout_s=timeout_s)
        self.retriever = retriever
        self.writer = writer
        self.rewriter = rewriter
        self.relevance = relevance
        self.support = support
        self.top_k = top_k

    async def answer(self, request: Text | str, context: RunContext) -> RagOutcome:
        """Search, filter, write, check.

        Raises:
            InputError: the question is empty.
            ConfigError: a node can't work, as where a package or a calibration is missing.
        """
        question = str(request).strip()
        if not question:
            raise InputError(f"{self.name}: the question is empty")
        found = await self._found(question, context)
        if not found:
            return NotInDocuments(reason="no passage was found")
        kept = await self._kept(question, found, context)
        if not kept:
            reason = f"none of the {len(found)} passages that were found helps to answer it"
            return NotInDocuments(reason=reason, passages=found)
        reply = await self._written(Sheet(question=question, passages=kept), context)
        if isinstance(reply, Extracted) and not reply.text:
            return NotInDocuments(reason="no sentence is near to the question", passages=kept)
        if not isinstance(reply, Extracted) and is_absent(reply.text):
            return NotInDocuments(reason="the passages do not hold the answer", passages=kept)
        return await self._sourced(reply, kept, context)

    async def _found(self, question: str, context: RunContext) -> tuple[Passage, ...]:
        """Search for the question, and for what it was rewritten to: a bad rewriting loses none."""
        queries = [question, *await self._rewritten(question, context)]
        found = [(await self.retriever.run(query, context)).output for query in queries]
        several = sum(len(each.passages) for each in found)
        return fused(found, top_k=several).passages if len(found) > 1 else found[0].passages

    async def _rewritten(self, question: str, context: RunContext) -> list[str]:
        if self.rewriter is None:
            return []
        try:
            query = (await self.rewriter.run(question, context)).output.query
        except (ConfigError, DeadlineExceeded):
            raise
        except MoaError as error:
            context.note("failed", f"the question was searched as it is: {error}")
            return []
        return [query] if set(words(query)) - set(words(question)) else []

    async def _kept(
        self, question: str, found: tuple[Passage, ...], context: RunContext
    ) -> tuple[Passage, ...]:
        """Leave out what is surely of no use; what nobody can judge stays."""
        if self.relevance is None:
            return found[: self.top_k]
        texts = [asked(question, passage) for passage in found]
        grades = await graded(self.relevance, texts, context)
        kept: list[Passage] = []
        for passage, grade in zip(found, grades, strict=True):
            if grade.met is False and grade.accepted is not False:
                sure = "" if grade.probability is None else f", probability {grade.probability:.2f}"
                context.note("dropped", f"{passage.source}: does not help to answer{sure}")
            else:
                kept.append(passage)
        return tuple(kept[: self.top_k])

    async def _written(self, sheet: Sheet, context: RunContext) -> Reply:
        """Let the writer write; that the answer is not in the documents is not streamed."""
        inside = context.nested()
        held = _Held(context.emit)
        if context.listener is not None:
            inside.listener = held
        reply = (await self.writer.run(sheet, inside)).output
        if not is_absent(reply.text):
            held.release()
        return reply

    async def _sourced(
        self, reply: Reply, passages: tuple[Passage, ...], context: RunContext
    ) -> Sourced:
        checked = cited(reply.text, passages)
        if checked.unknown:
            numbers = ", ".join(map(str, checked.unknown))
            context.note("changed", f"citations of passages that were not given: {numbers}")
        extract = isinstance(reply, Extracted)
        text, added = (checked.text, 0) if extract else attributed(checked.text, passages)
        if added:
            context.note(
                "changed", f"{added} sentences are given the citation that their words have"
            )
            checked = cited(text, passages)
        claims = (
            copied(checked.text)
            if extract
            else await checked_claims(checked.text, passages, self.support, context)
        )
        doubtful = [claim for claim in claims if claim.verdict in ("unsupported", "uncited")]
        if doubtful:
            context.note("degraded", f"{len(doubtful)} of {len(claims)} sentences: no passage says")
        return Sourced(
            text=checked.text,
            kind="extract" if extract else "answer",
            citations=checked.citations,
            claims=claims,
            passages=passages,
        )

    @property
    def plan(self) -> Plan:
        """Its nodes as a graph, to be drawn; it runs otherwise."""
        return plan_of_rag(
            self.name,
            self.input_type,
            self.retriever,
            self.writer,
            rewriter=self.rewriter,
            relevance=self.relevance,
            support=self.support,
        )


class _Held:
    """Holds a stream back while it can still become word that there is no answer."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._text = ""
        self._events: list[Event] | None = []

    def __call__(self, event: Event) -> None:
        if self._events is None:
            self._emit(event)
            return
        self._events.append(event)
        self._text += event.text if isinstance(event, Piece) else ""
        if not may_be_absent(self._text):
            self.release()

    def release(self) -> None:
        """Let go of what was held back, and of all that follows."""
        for event in self._events or ():
            self._emit(event)
        self._events = None


def rag(
    retriever: Node[Text | str, Passages],
    writer: Node[Sheet, Reply],
    *,
    rewriter: Node[Text | str, Query] | None = None,
    relevance: Node[Text | str, Grade] | None = None,
    support: Node[Text | str, Grade] | None = None,
    top_k: int = 5,
    name: str = "rag",
    budget: Budget = UNLIMITED,
    timeout_s: float | None = None,
) -> Rag:
    """Answer questions from documents, with citations, or say that they are not in them.

    Args:
        retriever: Finds passages: `BM25`, `Dense`, `Hybrid`, `Indexed`, or LangChain's by
            `from_langchain`.
        writer: Writes the answer, as `Answerer` does, or gives a sentence of the passages, as
            `Extractive` does. What it writes streams.
        rewriter: Writes the question as a query; passages are then searched for both, and fused.
            `None` searches for the question alone.
        relevance: Says of each passage whether it helps; the others are left out. `None` keeps all.
        support: Says of each sentence of an answer whether the passages it cites say so. `None`
            checks no more than that each sentence cites one.
        top_k: Most passages that the writer is given.
        name: Shown in traces, errors and drawings.
        budget: Limits on each run, on top of those of the run it is part of.
        timeout_s: Seconds for each run; `None`: as long as the run it is part of has.
    """
    return Rag(
        retriever,
        writer,
        rewriter=rewriter,
        relevance=relevance,
        support=support,
        top_k=top_k,
        name=name,
        budget=budget,
        timeout_s=timeout_s,
    )
