"""Monitor: decides on every item of a stream, and reports what has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny

from moa.agents.agent import Agent
from moa.agents.classifier import Classifier
from moa.agents.filter import Filter, Verdict
from moa.agents.sentiment import Sentiment
from moa.core.context import RunContext
from moa.core.errors import ConfigError, MoaError
from moa.core.node import Dropped, Frozen, Node, Reply
from moa.core.questions import Question, TypedAnswer, answers_in
from moa.decisions.drift import LabelShift, share_of
from moa.decisions.guarantee import percent
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.steps import NodeStep
from moa.graphs.fields import FromEndpoint, Large, NamedEndpoints, resolve_path
from moa.graphs.recipe import Recipe, Sketch
from moa.graphs.single_model import Labels
from moa.recipes.monitor_windows import Change, Windows

LabelReader = Callable[[Any], Mapping[str, str]]
"""Function that returns the watched labels of a decision, by question name."""

_REPORT = (
    "Something changed in a stream of messages: the share of a label. Report it in a few sentences "
    "to whoever is in charge: what changed and by how much, by the figures, and what the examples "
    "of the latest window have in common. Say nothing that the figures and examples don't."
)


class Item(Frozen):
    """One item of a stream."""

    text: str
    at: datetime | None = None
    """Time of arrival, in UTC if it has no time zone; `None` is now. Windows by time use it."""


class Figure(Frozen):
    """Frequency of a label."""

    question: str
    label: str
    reference: float
    """Its share in the reference, from 0 to 1."""
    window: float
    """Its share in the latest window."""
    count: int
    """Number of items with it in the latest window."""


class Report(Reply):
    """A report of what has changed. `text` is for people."""

    window: int
    """Number of the window that showed the change, from 1."""
    items: int
    """Items in that window."""
    moved: tuple[LabelShift, ...]
    """The labels whose share has changed."""
    figures: tuple[Figure, ...]
    """Frequencies of all labels."""
    examples: dict[str, tuple[str, ...]]
    """First few texts of that window, shortened, for each label that grew, or for each that moved
    if none grew. They are data and may say anything."""
    written: bool
    """True if the large model wrote `text`; otherwise it holds only the figures."""


class _Read(BaseModel):
    """A decision read from JSON, which doesn't name its class."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Observation(Frozen):
    """The decision about an item, and a report if the item completed a window with a change."""

    decision: Annotated[
        SerializeAsAny[BaseModel],
        BeforeValidator(lambda value: _Read(**value) if isinstance(value, dict) else value),
    ]
    report: Report | None = None


class Findings(BaseModel):
    """Input of the report's writer."""

    changes: tuple[str, ...]
    figures: tuple[Figure, ...]
    examples: dict[str, tuple[str, ...]]


def read_labels(decision: object) -> dict[str, str]:
    """Return the labels of a decision, by question name. Unanswered questions are left out."""
    labels: dict[str, str] = {}
    for question, answer in find_answers(decision):
        if isinstance(answer, Verdict):
            labels[question] = "kept" if answer.kept else "dropped"
        elif answer.status == "answered":
            labels[question] = answer.said
    return labels


def find_answers(decision: object, name: str = "") -> Iterator[tuple[str, Verdict | TypedAnswer]]:
    """Yield the answers in a decision and in its nested models, with their question names.

    The name of an answer in a nested model has its field in front, as in `decisions.spam`.
    """
    if isinstance(decision, Verdict):
        yield name or "filter", decision
    elif (answer := answers_in(decision).get("")) is not None:
        yield name or answer.question or "label", answer
    elif isinstance(decision, BaseModel):
        for field in type(decision).model_fields:
            yield from find_answers(getattr(decision, field), f"{name}.{field}" if name else field)


def decider(
    endpoint: Endpoint,
    *,
    labels: Labels = None,
    task: str = "What is this text about?",
    criterion: Annotated[str | None, Field(min_length=1)] = None,
) -> Node[str, BaseModel]:
    """Build the node that decides on a text: by labels, by a criterion, or else by sentiment.

    Args:
        endpoint: The endpoint that decides.
        labels: Labels, or the meaning of each, by label.
        task: The question that the labels answer.
        criterion: Criterion that a text meets or not, such as "a complaint".

    Raises:
        ValueError: both labels and a criterion are given.
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

    It decides on every item, and writes a report when something has changed. The first windows are
    the reference. At the end of each later window, each label's share in that window, and in the
    latest windows together, is compared with the reference. Only if a share has moved is the large
    model asked, and the next windows become the new reference. If nothing changes, a window ends
    with a false report with a probability of at most `alpha`.

    Use `map` to run a stream. Items can run in parallel: they are counted in the order in which
    their runs began, and the report comes with the item that completes the window, the last of it
    to be decided. A monitor has state, and belongs to one event loop.

    Raises:
        CapabilityError: `writer` can't complete.
        ConfigError: the file can't be read.

    Examples:
        >>> def rule(text: str) -> dict[str, dict[str, float]]:
        ...     return {"topic": {"app" if "app" in text else "card": 1.0}}
        >>> small = SimulatedEndpoint(rule=rule)
        >>> topic = Classifier(small, ["card", "app"], name="topic")
        >>> watched = Monitor(decider=topic, window=10)
        >>> from moa.recipes.monitor import Item
        >>> items = [Item(text=text) for text in ["my card"] * 40 + ["the app crashes"] * 10]
        >>> reports = [watched.run_sync(item).output.report for item in items]
        >>> [report.window for report in reports if report]
        [5]
    """

    decider: Annotated[Node[str, BaseModel], FromEndpoint(decider, "slm")]
    """Decides on a text: a `Sentiment`, `Classifier`, `Filter`, `Decider`, or a graph. In a table:
    by `labels`, by a `criterion`, or else by sentiment."""
    writer: Large | None = None
    """Writes the reports; `None`: they hold only the figures. Default in a table: the large model,
    if it can write."""
    window: int | None = Field(default=None, gt=0)
    """Items per window; `None`: 50, unless `seconds` is given."""
    seconds: float | None = Field(default=None, gt=0)
    """Seconds per window, by the `at` of the items."""
    reference: int = Field(default=4, gt=0)
    """Number of windows in a reference, and maximum number of later windows compared together."""
    alpha: float = Field(default=0.001, gt=0, lt=1)
    """Maximum rate of false reports: 0.001 is one in 1,000 windows."""
    seen: LabelReader = read_labels
    """Function that returns the labels to watch in a decision. Default: all labels, `yes` and `no`,
    levels, and whether a filter kept the text, in nested models, too."""
    state: Annotated[Path, AfterValidator(resolve_path)] | None = None
    """File that stores the windows between processes, with the example texts; `None` stores
    nothing. If the questions or the windows have changed, it starts anew, and the trace says so."""
    max_tokens: int = Field(default=512, gt=0)
    """Maximum tokens of a report."""

    @classmethod
    def complete(
        cls, table: Mapping[str, object], endpoints: NamedEndpoints
    ) -> Mapping[str, object]:
        """Use the named or the large model as the writer, if it can write."""
        name = table.get("writer")
        writer = endpoints.named(name) if isinstance(name, str) else endpoints.llm
        return {**table, "writer": writer if can_write(writer.model) else None}

    def prepare(self) -> None:
        """Make the report's writer, and load the stored windows."""
        if self.window is not None and self.seconds is not None:
            raise ValueError("give window or seconds, not both")
        self.reporter: Agent[str | BaseModel, Reply] | None = None
        if self.writer is not None:
            self.reporter = Agent(self.writer, _REPORT, name="report", max_tokens=self.max_tokens)
        duration = None if self.seconds is None else timedelta(seconds=self.seconds)
        self.windows = Windows(
            size=duration or self.window or 50,
            reference=self.reference,
            alpha=self.alpha,
            file=self.state,
            counts=identify_decider(self.decider),
        )

    async def answer(self, request: Item, context: RunContext) -> Observation:
        """Decide on an item, and report if a window has ended with a change."""
        if self.windows.is_reset:
            self.windows.is_reset = False
            context.note("changed", "other labels or windows than those kept, so counted anew")
        # Nothing is awaited before, so items queue in the order of their runs.
        with self.windows.enter(request.text, request.at) as entry:
            decision = (await self.decider.run(request.text, context)).output
            entry.labels = self.seen(decision)
            if not entry.labels and self.seen is read_labels:
                self._look(decision)
        with self.windows.claim_change() as change:
            report = None if change is None else await self._report(change, context)
        return Observation(decision=decision, report=report)

    def _look(self, decision: BaseModel) -> None:
        """Refuse a decision without labels, unless some were counted before or it is `Dropped`."""
        state = self.windows.state
        has_counts = state.learned or state.window.counts
        if (
            not has_counts
            and not isinstance(decision, Dropped)
            and not dict(find_answers(decision))
        ):
            raise ConfigError(
                f"{self.name}: a {type(decision).__name__} of {self.decider.name!r} holds no "
                "labels to watch. Take a node that decides, or give seen="
            )

    async def _report(self, change: Change, context: RunContext) -> Report:
        """Gather the figures, and write the text. If writing fails, it holds only the figures."""
        findings = Findings(
            changes=tuple(map(_describe_move, change.moved)),
            figures=tuple(_figures(change)),
            examples=_examples(change),
        )
        text = ""
        for line in findings.changes:
            context.note("changed", line)
        if self.reporter is not None:
            try:
                text = (await self.reporter.run(findings, context)).output.text
            except MoaError as error:
                context.note("degraded", f"the report holds the figures alone: {error}")
        return Report(
            text=text or f"{'. '.join(findings.changes)}.",
            window=change.window.number,
            items=change.window.items,
            moved=change.moved,
            figures=findings.figures,
            examples=findings.examples,
            written=bool(text),
        )

    def sketch(self, sketch: Sketch) -> None:
        """Draw the path of one item."""
        decision = sketch.box(self.decider)
        windows = sketch.box(label="windows")
        sketch.arrow(sketch.input, decision, windows)
        sketch.arrow(decision, sketch.output)
        if self.reporter is None:
            return sketch.arrow(windows, sketch.output)
        report = sketch.box(self.reporter)
        sketch.arrow(windows, report, label="if anything")
        return sketch.arrow(report, sketch.output)


def identify_decider(decider: object) -> str:
    """Return a text that identifies a decider: its questions, or those in its graph."""
    questions: tuple[Question, ...] = getattr(decider, "questions", ())
    details = [(q.name, q.kind, q.text, [o.name for o in q.options]) for q in questions]
    plan = getattr(decider, "plan", None)
    steps = plan.steps if isinstance(plan, Plan) else ()
    nodes = [step.node for step in steps if isinstance(step, NodeStep)]
    nodes = nodes or [*getattr(decider, "members", tuple)()]
    inner = [identify_decider(node) for node in nodes]
    return repr((getattr(decider, "name", ""), details, getattr(decider, "threshold", None), inner))


def _describe_move(shift: LabelShift) -> str:
    period = "in the latest window" if shift.windows == 1 else f"in the latest {shift.windows}"
    return (
        f"{shift.question}: {shift.label!r} is {'more' if _has_grown(shift) else 'less'} frequent, "
        f"{percent(shift.now)} {period} and {percent(shift.reference)} in the reference"
    )


def _has_grown(shift: LabelShift) -> bool:
    return shift.now > shift.reference


def _figures(change: Change) -> Iterator[Figure]:
    window = change.window.counts
    for question in dict.fromkeys((*change.reference, *window)):
        reference, counts = change.reference.get(question, {}), window.get(question, {})
        for label in dict.fromkeys((*reference, *counts)):
            yield Figure(
                question=question,
                label=label,
                reference=share_of(reference, label),
                window=share_of(counts, label),
                count=counts.get(label, 0),
            )


def _examples(change: Change) -> dict[str, tuple[str, ...]]:
    """Return example texts for the labels that grew, or for all that moved if none grew."""
    examples = change.window.examples
    return {
        f"{shift.question}: {shift.label}": examples[shift.question][shift.label]
        for shift in [shift for shift in change.moved if _has_grown(shift)] or change.moved
        if shift.label in examples.get(shift.question, {})
    }
