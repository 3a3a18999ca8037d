"""Monitor: small decisions on every item of a stream, and a report where something has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Unpack, cast

from pydantic import BaseModel, ConfigDict, SerializeAsAny

from moa.agents.boundary import Limits
from moa.agents.filter import Verdict
from moa.agents.generator import Generator
from moa.calibration import percent
from moa.calibration.drift import Counts, Moved, share_of
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.errors import BudgetExceeded, ConfigError, DeadlineExceeded, MoaError
from moa.graphs.building.builder import Graph
from moa.graphs.building.handles import NodeStep
from moa.graphs.building.plan import Plan
from moa.graphs.building.skipped import Skipped
from moa.graphs.pattern import Pattern
from moa.graphs.windows import Change, Ticket, Window, Windows
from moa.handoffs import Dropped, Reply
from moa.node import Node, Result
from moa.questions import NONE_OF_THESE, Choice, Predicate, Question, Score

Seen = Callable[[Any], Mapping[str, str]]
"""Reads the labels that are watched out of a decision, by the name of the question."""

_REPORT = (
    "Something changed in a stream of messages: the share of a label. Report it in a few sentences "
    "to whoever is in charge: what changed and by how much, by the figures, and what the examples "
    "of the latest window have in common. Say nothing that the figures and examples don't."
)


class Item(BaseModel):
    """One item of a stream."""

    model_config = ConfigDict(frozen=True)

    text: str
    at: datetime | None = None
    """When it came, in UTC unless it says otherwise; `None` is now. Windows by time go by it."""


class Figure(BaseModel):
    """How often a label came."""

    model_config = ConfigDict(frozen=True)

    question: str
    label: str
    reference: float
    """Its share in the reference, from 0 to 1."""
    window: float
    """Its share in the latest window."""
    count: int
    """Items of the latest window with it."""


class Report(Reply):
    """What has changed. `text` is for people."""

    window: int
    """Number of the window at whose end that was known, from 1."""
    items: int
    """Items in that window."""
    moved: tuple[Moved, ...]
    """The labels whose share has changed."""
    figures: tuple[Figure, ...]
    """All labels."""
    examples: dict[str, tuple[str, ...]]
    """The first few texts of that window with labels that are more frequent now, cut. Data: they
    may say anything."""
    written: bool
    """Whether the large model wrote `text`; otherwise it holds the figures alone."""


class Observation(BaseModel):
    """What an item was found to be, and the report where it ended a window with a change."""

    model_config = ConfigDict(frozen=True)

    decision: SerializeAsAny[BaseModel]
    report: Report | None = None


class Findings(BaseModel):
    """What the report is written from."""

    changes: tuple[str, ...]
    figures: tuple[Figure, ...]
    examples: dict[str, tuple[str, ...]]


class Monitor(Pattern[Item, Observation]):
    """What `monitor` makes. It changes while it is used, and belongs to one event loop."""

    def __init__(
        self,
        decider: Node[Any, BaseModel],
        writer: Endpoint | None,
        *,
        windows: Windows,
        seen: Seen | None,
        max_tokens: int,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        self.decider = decider
        self.writer: Generator[Reply] | None = None
        if writer is not None:
            self.writer = Generator(writer, _REPORT, name="report", max_tokens=max_tokens)
        self.windows = windows
        self._seen = seen or labels_in

    async def watch(
        self,
        items: AsyncIterable[Item | str],
        context: RunContext | None = None,
        /,
        *,
        failed: Callable[[Item, MoaError], None] | None = None,
    ) -> AsyncIterator[Result[Observation]]:
        """Run the items of a stream, one after another.

        Args:
            items: A text, or an item that says when it came.
            context: Budget, deadline and ledger of all of them; `None` starts one, without a trace
                of its own, so that a stream may be endless.
            failed: Is told of an item that could not be decided, and why; the next ones are
                watched all the same. `None`: the error is raised, and ends the stream.

        Raises:
            MoaError: as `run`, for an item, where `failed` is `None`.
            BudgetExceeded, DeadlineExceeded, ConfigError: in any case.
        """
        context = context or RunContext(keep_notes=False)
        async for given in items:
            item = Item(text=given) if isinstance(given, str) else given
            try:
                result = await self.run(item, context)
            except (BudgetExceeded, DeadlineExceeded, ConfigError):
                raise
            except MoaError as error:
                if failed is None:
                    raise
                failed(item, error)
                continue
            yield result

    async def answer(self, request: Item, context: RunContext) -> Observation:
        """Decide on an item, and report where its window has ended with a change."""
        if self.windows.anew:
            self.windows.anew = False
            context.note("changed", "other labels or windows than those kept, so counted anew")
        ticket = self.windows.enter(request.at)  # before anything is awaited, so in their order
        change, told = None, False
        try:
            decision = await self._decided(ticket, request.text, context)
            change = await self._change(ticket, context)
            report = None if change is None else await self._report(change, context)
            told = True
        finally:
            self.windows.left(ticket, change, told=told)
        return Observation(decision=decision, report=report)

    async def _decided(self, ticket: Ticket, text: str, context: RunContext) -> BaseModel:
        """Decide; an item that fails, or is given up, has its place in the window all the same."""
        labels: Mapping[str, str] | None = None
        try:
            decision = (await self.decider.run(text, context)).output
            labels = self._seen(decision)
            if not labels and self._seen is labels_in:
                self._look(decision)
        finally:
            self.windows.decided(ticket, text, labels)
        return decision

    def _look(self, decision: BaseModel) -> None:
        """Find out whether a decision without labels is one that never has any.

        Raises:
            ConfigError: it has no questions, is not set aside, and nothing was counted before.
        """
        state = self.windows.state
        counted = state.learned or state.window.counts
        if not counted and not isinstance(decision, Dropped) and not dict(answers_in(decision)):
            raise ConfigError(
                f"{self.name}: a {type(decision).__name__} of {self.decider.name!r} holds no "
                "labels to watch. Take a node that decides, or give seen="
            )

    async def _change(self, ticket: Ticket, context: RunContext) -> Change | None:
        timer = asyncio.timeout(context.remaining_s())
        try:
            async with timer:
                return await self.windows.change(ticket)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{self.name}: the time was up before all items before this one were decided"
            ) from error

    async def _report(self, change: Change, context: RunContext) -> Report:
        """Gather the figures, and have the text written."""
        findings = findings_of(change)
        for line in findings.changes:
            context.note("changed", line)
        text = await self._written(findings, context)
        return Report(
            text=text or f"{'. '.join(findings.changes)}.",
            window=change.window.number,
            items=change.window.items,
            moved=change.moved,
            figures=findings.figures,
            examples=findings.examples,
            written=bool(text),
        )

    async def _written(self, findings: Findings, context: RunContext) -> str:
        """Have the text written; it is empty where nobody can."""
        if self.writer is None:
            return ""
        try:
            return (await self.writer.run(findings, context)).output.text
        except MoaError as error:
            context.note("degraded", f"the report holds the figures alone: {error}")
            return ""

    @property
    def plan(self) -> Plan:
        """One item as a graph, to be drawn."""
        g: Graph[Item] = Graph(self.name, self.input_type)
        decision = g.add(cast("Node[str, BaseModel]", self.decider), g.input.map(_text))
        changed = g.add(windows, decision)
        if self.writer is None:
            return g.build(g.join(_observed, decision, changed)).plan
        report = g.add(self.writer, changed, when=changed.map(_anything))
        return g.build(g.join(_observed, decision, report)).plan


def monitor(
    decider: Node[Any, BaseModel],
    writer: Endpoint | None,
    *,
    window: int | timedelta = 50,
    reference: int = 4,
    alpha: float = 0.001,
    seen: Seen | None = None,
    file: Path | None = None,
    max_tokens: int = 512,
    **limits: Unpack[Limits],
) -> Monitor:
    """Decide on every item of a stream, and have a report written where something has changed.

    The first windows are the reference. At the end of each later one the share of each label is
    compared with it, in that window and in the latest ones together. Only where one has moved the
    large model is asked, and the next windows are a new reference. Where nothing changes, a window
    ends with a false report with a probability of at most `alpha`.

    Items can run side by side: they stand in the order in which their runs began, whatever the
    order in which they end.

    Args:
        decider: Decides on a text: a `Sentiment`, `Classifier`, `Filter`, `Decider`, or a graph.
        writer: Writes the reports; `None`: they hold the figures alone.
        window: Items of a window, or how long one lasts.
        reference: Windows that make up a reference, and most that are looked at together.
        alpha: Rate of false reports: 0.001 is one in 1,000 windows, at most.
        seen: Reads the labels to watch out of a decision; `None`: all of its labels, `yes` and
            `no`, levels, and whether a filter kept it, also of the models in it.
        file: Keeps the windows from one process to the next, with the texts of the examples;
            `None` keeps nothing. Where the questions or the windows are others by then, it begins
            anew, and the trace says so.
        max_tokens: Most tokens of a report.
        limits: See `Limits`.

    Raises:
        CapabilityError: `writer` can't complete.
        ConfigError: a number is out of range, or the file can't be read.
    """
    return Monitor(
        decider,
        writer,
        windows=Windows(
            window, reference=reference, alpha=alpha, file=file, counts=counted_by(decider)
        ),
        seen=seen,
        max_tokens=max_tokens,
        **limits,
    )


def labels_in(decision: object) -> dict[str, str]:
    """Read the labels of a decision, by the name of the question; unanswered ones are left out."""
    found: dict[str, str] = {}
    for question, answer in answers_in(decision):
        if isinstance(answer, Verdict):
            found[question] = "kept" if answer.kept else "dropped"
        else:
            found |= _labels(question, answer)
    return found


def answers_in(
    decision: object, name: str = ""
) -> Iterator[tuple[str, Verdict | Predicate | Choice[Any] | Score]]:
    """Find the answers in a decision, and in the models in it, by the name of the question.

    What is in a model of a field has its name in front, such as `decisions.spam`.
    """
    if isinstance(decision, Verdict):
        yield name or "filter", decision
    elif isinstance(decision, Predicate | Choice | Score):
        answer = cast("Predicate | Choice[Any] | Score", decision)
        yield name or answer.question or "label", answer
    elif isinstance(decision, BaseModel):
        for field in type(decision).model_fields:
            yield from answers_in(getattr(decision, field), f"{name}.{field}" if name else field)


def counted_by(decider: Node[Any, BaseModel]) -> str:
    """Tell what a node decides from what any other does: its questions, or those in its graph."""
    questions: tuple[Question, ...] = getattr(decider, "questions", ())
    said = [(q.name, q.kind, q.text, [o.name for o in q.options]) for q in questions]
    plan = getattr(decider, "plan", None)
    steps = plan.steps if isinstance(plan, Plan) else ()
    inner = [counted_by(step.node) for step in steps if isinstance(step, NodeStep)]
    return repr((getattr(decider, "name", ""), said, getattr(decider, "threshold", None), inner))


def findings_of(change: Change) -> Findings:
    """Gather what a report is written from."""
    return Findings(
        changes=tuple(_said(moved) for moved in change.moved),
        figures=tuple(_figures(change.reference, change.window.counts)),
        examples=_examples(change.moved, change.window),
    )


def windows(decision: BaseModel) -> Findings:
    """Stand for the windows in drawings; it is not run."""
    del decision
    return Findings(changes=(), figures=(), examples={})


def _labels(question: str, answer: Predicate | Choice[Any] | Score) -> dict[str, str]:
    if answer.status != "answered":
        return {}
    picked = answer.picked
    if isinstance(picked, bool):
        picked = "yes" if picked else "no"
    return {question: NONE_OF_THESE if picked is None else str(getattr(picked, "value", picked))}


def _said(moved: Moved) -> str:
    where = "in the latest window" if moved.windows == 1 else f"in the latest {moved.windows}"
    return (
        f"{moved.question}: {moved.label!r} is {'more' if _more(moved) else 'less'} frequent, "
        f"{percent(moved.now)} {where} and {percent(moved.reference)} in the reference"
    )


def _more(moved: Moved) -> bool:
    return moved.now > moved.reference


def _figures(reference: Counts, window: Counts) -> list[Figure]:
    return [
        Figure(
            question=question,
            label=label,
            reference=share_of(reference.get(question, {}), label),
            window=share_of(window.get(question, {}), label),
            count=window.get(question, {}).get(label, 0),
        )
        for question in dict.fromkeys((*reference, *window))
        for label in dict.fromkeys((*reference.get(question, {}), *window.get(question, {})))
    ]


def _examples(moved: tuple[Moved, ...], window: Window) -> dict[str, tuple[str, ...]]:
    """Texts of the labels that are more frequent now; where there are none, of all that moved."""
    return {
        f"{one.question}: {one.label}": window.examples[one.question][one.label]
        for one in [one for one in moved if _more(one)] or moved
        if one.label in window.examples.get(one.question, {})
    }


def _text(item: Item) -> str:
    return item.text


def _anything(findings: Findings) -> bool:
    return bool(findings.changes)


def _observed(decision: BaseModel, report: Reply | Findings | Skipped) -> Observation:
    del report
    return Observation(decision=decision)
