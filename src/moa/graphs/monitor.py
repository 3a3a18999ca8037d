"""Monitor: small decisions on every item of a stream, and a report where something has changed."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from collections.abc import Generator as Yielding
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny

from moa.agents import Agent
from moa.agents.classifier import Classifier
from moa.agents.filter import Filter, Verdict
from moa.agents.sentiment import Sentiment
from moa.calibration import percent
from moa.calibration.drift import Counts, Moved, added, moved, share_of
from moa.config.endpoints import Endpoints
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.errors import BudgetExceeded, ConfigError, DeadlineExceeded, MoaError
from moa.graphs.engine.handles import NodeStep
from moa.graphs.engine.plan import Plan
from moa.graphs.fields import FromEndpoint, Large, beside_config
from moa.graphs.recipe import Recipe, Sketch, keep, read_kept
from moa.graphs.single_model import Labels
from moa.node import Dropped, Frozen, Node, Reply, Result
from moa.questions import Choice, Predicate, Question, Score

Seen = Callable[[Any], Mapping[str, str]]
"""Reads the labels that are watched out of a decision, by the name of the question."""

_EXAMPLES = 3
_LONGEST = 300
"""Characters of an example that are kept."""
_REPORT = (
    "Something changed in a stream of messages: the share of a label. Report it in a few sentences "
    "to whoever is in charge: what changed and by how much, by the figures, and what the examples "
    "of the latest window have in common. Say nothing that the figures and examples don't."
)


class Item(Frozen):
    """One item of a stream."""

    text: str
    at: datetime | None = None
    """When it came, in UTC unless it says otherwise; `None` is now. Windows by time go by it."""


class Figure(Frozen):
    """How often a label came."""

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


class _Read(BaseModel):
    """A decision that was read from JSON, which doesn't name its class."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Observation(Frozen):
    """What an item was found to be, and the report where it completed a window with a change."""

    decision: Annotated[
        SerializeAsAny[BaseModel],
        BeforeValidator(lambda one: _Read(**one) if isinstance(one, dict) else one),
    ]
    report: Report | None = None


class Findings(BaseModel):
    """What the report is written from."""

    changes: tuple[str, ...]
    figures: tuple[Figure, ...]
    examples: dict[str, tuple[str, ...]]


class Window(BaseModel):
    """What came in one window."""

    number: int = 1
    items: int = 0
    failed: int = 0
    """Those of them that could not be decided."""
    counts: dict[str, dict[str, int]] = Field(default_factory=dict[str, dict[str, int]])
    """How often each label came, by the name of the question."""
    examples: dict[str, dict[str, tuple[str, ...]]] = Field(
        default_factory=dict[str, dict[str, tuple[str, ...]]]
    )
    """The first few texts of each label, cut, by the name of the question."""

    def add(self, text: str, labels: Mapping[str, str] | None) -> None:
        """Take in one item; `None`: it could not be decided."""
        self.items += 1
        self.failed += labels is None
        for question, label in (labels or {}).items():
            counts = self.counts.setdefault(question, {})
            counts[label] = counts.get(label, 0) + 1
            examples = self.examples.setdefault(question, {})
            kept = examples.get(label, ())
            examples[label] = kept if len(kept) == _EXAMPLES else (*kept, text[:_LONGEST])


class Change(Frozen):
    """What moved, and the window at whose end that was known."""

    moved: tuple[Moved, ...]
    window: Window
    reference: Counts


class State(BaseModel):
    """What is kept from one process to the next."""

    reference: Counts = Field(default_factory=dict[str, Mapping[str, int]])
    learned: int = 0
    """Windows in the reference so far."""
    latest: tuple[Counts, ...] = ()
    """The windows since then that are looked at, the latest last."""
    window: Window = Field(default_factory=Window)
    ends: datetime | None = None
    """When the open window ends, where windows go by time."""
    untold: tuple[Change, ...] = ()
    """Changes of which there is no report yet."""
    counts: str = ""
    """Tells what is counted from anything else; empty where that was not kept."""


@dataclass(slots=True)
class Place:
    """An item's place in the stream."""

    text: str
    at: datetime
    labels: Mapping[str, str] | None = None
    """What it was found to be; `None`: it could not be decided."""
    decided: bool = False


@dataclass(kw_only=True)
class Windows:
    """The windows of a stream, and what changed. Of one event loop; it changes while it is used.

    Raises:
        ConfigError: the file is there, and can't be read.
    """

    size: int | timedelta
    """Items of a window, or how long one lasts."""
    reference: int
    """Windows that the next ones are compared with."""
    alpha: float
    """Rate of false alarms, for each window that is compared."""
    file: Path | None
    """Keeps the state from one process to the next; `None` keeps nothing."""
    counts: InitVar[str]
    """Tells what is counted from anything else. Where the file has other counts, they are dropped.
    """

    def __post_init__(self, counts: str) -> None:
        kept = read_kept(self.file, State, what="the windows of a monitor") or State()
        counts = hashlib.sha256(f"{self.size}/{counts}".encode()).hexdigest()[:16]
        self.anew = kept.counts not in ("", counts)
        """Whether the file held counts of something else."""
        self.state = State() if self.anew else kept
        self.state.counts = counts
        self._line: deque[Place] = deque()
        """The items that are not counted yet, in the order in which they came."""
        self._telling: set[int] = set()
        """Windows whose change is being told."""

    def enter(self, item: Item) -> Place:
        """Give an item its place, in the order of these calls; it must be `decided`."""
        at = item.at or datetime.now(UTC)
        place = Place(item.text, at if at.tzinfo else at.replace(tzinfo=UTC))
        self._line.append(place)
        return place

    def decided(self, place: Place, labels: Mapping[str, str] | None) -> None:
        """Say what an item was found to be, once; `None`: it could not be decided.

        It is counted once all before it are.

        Raises:
            ConfigError: the file can't be written.
        """
        place.labels, place.decided = labels, True
        if place is not self._line[0]:
            return
        while self._line and self._line[0].decided:
            self._count(self._line.popleft())
        keep(self.file, self.state)

    @contextmanager
    def untold(self) -> Yielding[Change | None]:
        """Give a change of which nobody tells yet, if there is one.

        It is told where nothing is raised; else who asks next is given it.

        Raises:
            ConfigError: the file can't be written.
        """
        free = (one for one in self.state.untold if one.window.number not in self._telling)
        change = next(free, None)
        if change is None:
            yield None
            return
        self._telling.add(change.window.number)
        try:
            yield change
            self.state.untold = tuple(one for one in self.state.untold if one is not change)
            keep(self.file, self.state)
        finally:
            self._telling.discard(change.window.number)

    def _count(self, place: Place) -> None:
        if isinstance(self.size, timedelta):
            ends = self.state.ends or place.at + self.size
            if place.at >= ends:
                self._close()
                ends += self.size * ((place.at - ends) // self.size + 1)
            self.state.ends = ends
        self.state.window.add(place.text, place.labels)
        if self.state.window.items == self.size:
            self._close()

    def _close(self) -> None:
        """Close the open window: it adds to the reference, or is compared with it."""
        state, window = self.state, self.state.window
        state.window = Window(number=window.number + 1)
        if state.learned < self.reference:
            state.reference = added([state.reference, window.counts])
            state.learned += 1
            return
        state.latest = (*state.latest, window.counts)[-self.reference :]
        found = moved(state.reference, state.latest, alpha=self.alpha)
        if found:
            change = Change(moved=found, window=window, reference=state.reference)
            state.untold = (*state.untold, change)
            state.reference, state.learned, state.latest = {}, 0, ()


def labels_in(decision: object) -> dict[str, str]:
    """Read the labels of a decision, by the name of the question; unanswered ones are left out."""
    found: dict[str, str] = {}
    for question, answer in watched_in(decision):
        if isinstance(answer, Verdict):
            found[question] = "kept" if answer.kept else "dropped"
        elif answer.status == "answered":
            found[question] = answer.said
    return found


def watched_in(
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
            yield from watched_in(getattr(decision, field), f"{name}.{field}" if name else field)


def decider(
    endpoint: Endpoint,
    *,
    labels: Labels = None,
    task: str = "What is this text about?",
    criterion: Annotated[str | None, Field(min_length=1)] = None,
) -> Node[Any, BaseModel]:
    """Build what decides on a text: by labels, by a criterion, or else by what its writer feels.

    Args:
        endpoint: Who decides.
        labels: The labels, or what each means, by label.
        task: The question that the labels answer.
        criterion: Texts that meet it are counted, and no others: "a complaint".

    Raises:
        ValueError: there are labels and a criterion.
    """
    if labels is not None and criterion is not None:
        raise ValueError("give labels or a criterion, not both")
    if labels is not None:
        return Classifier(endpoint, labels, task=task, none=True, name="label")
    if criterion is not None:
        return Filter(endpoint, criterion, action="drop")
    return Sentiment(endpoint)


class Monitor(Recipe[Item, Observation], recipe="monitor"):
    """A stream, reported where it changes.

    It decides on every item of a stream, and has a report written where something has changed. The
    first windows are the reference. At the end of each later one the share of each label is
    compared with it, in that window and in the latest ones together. Only where one has moved the
    large model is asked, and the next windows are a new reference. Where nothing changes, a window
    ends with a false report with a probability of at most `alpha`.

    Items can run side by side: they count in the order in which their runs began, and the report
    comes with the item that completes the window, since it is the last of it to be decided. It
    changes while it is used, and belongs to one event loop.

    Raises:
        CapabilityError: `writer` can't complete.
        ConfigError: the file can't be read.

    Examples:
        >>> def rule(text: str) -> dict[str, dict[str, float]]:
        ...     return {"topic": {"app" if "app" in text else "card": 1.0}}
        >>> small = SimulatedEndpoint(rule=rule)
        >>> topic = Classifier(small, ["card", "app"], name="topic")
        >>> watched = Monitor(decider=topic, window=10)
        >>> from moa.graphs.monitor import Item
        >>> items = [Item(text=text) for text in ["my card"] * 40 + ["the app crashes"] * 10]
        >>> reports = [watched.run_sync(item).output.report for item in items]
        >>> [report.window for report in reports if report]
        [5]
    """

    decider: Annotated[Node[Any, BaseModel], FromEndpoint(decider, "slm")]
    """Decides on a text: a `Sentiment`, `Classifier`, `Filter`, `Decider`, or a graph. In a table
    by labels, by a criterion, or else it is sentiment."""
    writer: Large | None = None
    """Writes the reports; `None`: they hold the figures alone. In a table the default large model,
    where it can write."""
    window: int | None = Field(default=None, gt=0)
    """Items of a window; `None`: 50, where `seconds` isn't given either."""
    seconds: float | None = Field(default=None, gt=0)
    """How long a window lasts, by the `at` of the items."""
    reference: int = Field(default=4, gt=0)
    """Windows that make up a reference, and the maximum that are looked at together."""
    alpha: float = Field(default=0.001, gt=0, lt=1)
    """Maximum rate of false reports: 0.001 is one in 1,000 windows."""
    seen: Seen = labels_in
    """Reads the labels to watch out of a decision; by default all of its labels, `yes` and `no`,
    levels, and whether a filter kept it, also of the models in it."""
    state: Annotated[Path, AfterValidator(beside_config)] | None = None
    """File that keeps the windows from one process to the next, with the texts of the examples;
    `None` keeps nothing. Where the questions or the windows are others by then, it begins anew, and
    the trace says so."""
    max_tokens: int = Field(default=512, gt=0)
    """Maximum tokens of a report."""

    @classmethod
    def completed(cls, table: Mapping[str, object], endpoints: Endpoints) -> Mapping[str, object]:
        """Take the large model to write, where it can."""
        named = table.get("writer")
        writer = endpoints.named(named) if isinstance(named, str) else endpoints.llm
        return {**table, "writer": writer if can_write(writer.model) else None}

    def prepare(self) -> None:
        """Read what was kept of the windows before."""
        if self.window is not None and self.seconds is not None:
            raise ValueError("give window or seconds, not both")
        self.reporter: Agent[str | BaseModel, Reply] | None = None
        if self.writer is not None:
            self.reporter = Agent(self.writer, _REPORT, name="report", max_tokens=self.max_tokens)
        lasts = None if self.seconds is None else timedelta(seconds=self.seconds)
        self.windows = Windows(
            size=lasts or self.window or 50,
            reference=self.reference,
            alpha=self.alpha,
            file=self.state,
            counts=counted_by(self.decider),
        )

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
        """Decide on an item, and report where a window has ended with a change."""
        if self.windows.anew:
            self.windows.anew = False
            context.note("changed", "other labels or windows than those kept, so counted anew")
        place = self.windows.enter(request)  # before anything is awaited, so in their order
        labels: Mapping[str, str] | None = None
        try:
            decision = (await self.decider.run(request.text, context)).output
            labels = self.seen(decision)
            if not labels and self.seen is labels_in:
                self._look(decision)
        finally:  # an item that fails, or is given up, has its place in the window all the same
            self.windows.decided(place, labels)
        with self.windows.untold() as change:
            report = None if change is None else await self._report(change, context)
        return Observation(decision=decision, report=report)

    def _look(self, decision: BaseModel) -> None:
        """Find out whether a decision without labels is one that never has any.

        Raises:
            ConfigError: it has no questions, is not set aside, and nothing was counted before.
        """
        state = self.windows.state
        counted = state.learned or state.window.counts
        if not counted and not isinstance(decision, Dropped) and not dict(watched_in(decision)):
            raise ConfigError(
                f"{self.name}: a {type(decision).__name__} of {self.decider.name!r} holds no "
                "labels to watch. Take a node that decides, or give seen="
            )

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
        if self.reporter is None:
            return ""
        try:
            return (await self.reporter.run(findings, context)).output.text
        except MoaError as error:
            context.note("degraded", f"the report holds the figures alone: {error}")
            return ""

    def sketch(self, sketch: Sketch) -> None:
        """One item."""
        decision = sketch.box(self.decider)
        windows = sketch.box(label="windows")
        sketch.arrow(sketch.input, decision, windows)
        sketch.arrow(decision, sketch.output)
        if self.reporter is None:
            return sketch.arrow(windows, sketch.output)
        report = sketch.box(self.reporter)
        sketch.arrow(windows, report, label="if anything")
        return sketch.arrow(report, sketch.output)


def counted_by(decider: Node[Any, BaseModel]) -> str:
    """Tell what a node decides from what any other does: its questions, or those in its graph."""
    questions: tuple[Question, ...] = getattr(decider, "questions", ())
    said = [(q.name, q.kind, q.text, [o.name for o in q.options]) for q in questions]
    plan, members = getattr(decider, "plan", None), getattr(decider, "members", None)
    steps = plan.steps if isinstance(plan, Plan) else ()
    nodes = [step.node for step in steps if isinstance(step, NodeStep)]
    if members is not None and not nodes:
        nodes = [*members()]
    inner = [counted_by(node) for node in nodes]
    return repr((getattr(decider, "name", ""), said, getattr(decider, "threshold", None), inner))


def findings_of(change: Change) -> Findings:
    """Gather what a report is written from."""
    return Findings(
        changes=tuple(_said(moved) for moved in change.moved),
        figures=tuple(_figures(change.reference, change.window.counts)),
        examples=_examples(change.moved, change.window),
    )


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
