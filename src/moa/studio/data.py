"""Data: the models of the page's data, the same from a server and from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

from moa.core.node import Frozen

Why = Literal["corrected", "doubt", "quarantine", "failed", "rest"]
"""Reason to look at a row, the most urgent first."""
WHYS: tuple[Why, ...] = ("corrected", "doubt", "quarantine", "failed", "rest")
Tag = Literal[
    "corrected",
    "doubt",
    "quarantine",
    "failed",
    "accepted",
    "large",
    "slow",
    "dear",
    "labelled",
]
Tier = Literal["small", "large", "none"]
Tone = Literal["plain", "good", "warn"]
"""Colour of a figure."""


class Figure(Frozen):
    """A number at the top of the page."""

    title: str
    value: str
    detail: str
    tone: Tone = "plain"


class QuestionFigures(Frozen):
    """A question that was decided in the rows."""

    name: str
    options: tuple[str, ...]
    """Names, in the order of their keyboard shortcuts."""
    rows: int
    """Number of rows where it was decided."""
    labelled: int
    """Number of these rows with a right label."""
    wrong: int
    """Number of labelled rows that were decided wrongly."""


class Point(Frozen):
    """A threshold on the slider."""

    threshold: float
    share: float
    """Share of all rows that it would accept."""
    accepted: int
    """Labelled rows that it would accept."""
    errors: int
    error: float
    lower: float
    upper: float
    wish: str
    """Risk to ask of the next calibration, so that it accepts about this share."""
    cost: float | None
    """US dollars for the large model per 1,000 rows; `None`: unknown."""


class TestedThreshold(Frozen):
    """The threshold that a calibration tested."""

    threshold: float
    share: float
    risk: float
    summary: str


class Curve(Frozen):
    """Coverage against error of one question."""

    question: str
    points: tuple[Point, ...] = ()
    """Points from the strictest threshold to the one that accepts all rows."""
    labelled: int = 0
    """Number of labelled rows that the points are computed from."""
    chosen: int = 0
    """Number of labelled rows that were chosen. They say nothing about other rows."""
    tested: TestedThreshold | None = None
    why_not: str = ""
    """Reason why there are no points."""
    next: str = ""
    """Command that tests a wish, with `{risk}` as a placeholder."""


class Place(Frozen):
    """A drawn node, with its figures over the rows."""

    key: str
    label: str
    detail: str
    look: str
    node: str
    """Path in rows; empty: none."""
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0
    rows: int | None = None
    """Number of rows where it did something; `None`: unknown."""
    share: float | None = None
    p50: float | None = None
    """Median seconds in a row."""
    p95: float | None = None
    cost: float | None = None
    """Total US dollars; `None`: unknown, or no calls."""


class Line(Frozen):
    """A drawn arrow."""

    points: tuple[tuple[float, float], ...]
    label: str
    decides: bool
    """True if only a decision passes; drawn dashed."""


class Drawing(Frozen):
    """A graph, laid out."""

    name: str
    width: float
    height: float
    places: tuple[Place, ...]
    lines: tuple[Line, ...]


class RowDecision(Frozen):
    """The decision on one question in a row."""

    label: str
    p: float | None
    accepted: bool | None = None
    doubtful: bool = False
    right: str | None = None
    """The right label, if one is known."""


class RowLine(Frozen):
    """A row in the list."""

    place: int
    id: str
    text: str
    """Beginning of its text; empty if texts are left out."""
    digest: str
    """Digest of its whole text, for the label that is given to it; empty if none can be."""
    why: Why
    tags: tuple[Tag, ...]
    said: dict[str, RowDecision]
    """Decisions by question."""
    by: str
    """Endpoint that answered last."""
    tier: Tier
    queue: str
    cost: float | None
    seconds: float
    nodes: tuple[int, ...]
    """Nodes that did something, as indexes into `Overview.nodes`."""
    error: str = ""


class Bar(Frozen):
    """A span of a row's waterfall."""

    name: str
    kind: str
    node: str
    depth: int
    start: float
    """Start in seconds after the first bar."""
    seconds: float
    marks: tuple[str, ...] = ()
    """Events in it: `retried`, `cached`, `fell back`, `escalated`, and the like."""
    error: str = ""
    asked: str = ""
    """The prompt, if texts were recorded."""
    answered: str = ""
    detail: str = ""
    """Tokens, cost, label and probability, in words."""


class Note(Frozen):
    """A note of a row's trace."""

    kind: str
    node: str
    endpoint: str
    text: str


class RowDetail(Frozen):
    """All details of a row."""

    line: RowLine
    fields: tuple[tuple[str, str], ...]
    """Fields of the input and the output: path and value."""
    likely: dict[str, tuple[tuple[str, float], ...]]
    """Labels and probabilities by question, the highest first."""
    bars: tuple[Bar, ...]
    """Bars of its waterfall. Without spans, they are the seconds of its nodes, all from 0."""
    timed: bool
    """True if the start of each bar is known."""
    notes: tuple[Note, ...]


class JobFigures(Frozen):
    """Progress of a job."""

    total: int
    left: int
    rows: dict[str, int]
    cost: float
    rate: float | None
    """Rows per second since the page first looked; `None`: none were done since."""
    left_s: float | None
    """Seconds left at this rate."""


class State(Frozen):
    """Progress of reading the rows, and whether there are newer ones."""

    ready: bool
    """True if the rows are read."""
    rows: int
    """Number of rows read so far."""
    total: int | None
    """Number of rows to read; `None`: unknown."""
    changed: bool = False
    """True if the source has changed since the rows were read."""
    failed: str = ""
    """Reason why they can't be read."""
    job: JobFigures | None = None


class Question(Frozen):
    """A question that a tried graph asks a person."""

    id: str
    asked: str
    """Text of the question, with the value that it is about."""
    answers: Mapping[str, JsonValue]
    """JSON schema of a valid answer."""


class Can(Frozen):
    """Actions that the page offers."""

    label: bool = False
    run: tuple[str, ...] = ()
    """Names that can be run."""
    learn: bool = False
    reload: bool = False


class Overview(Frozen):
    """Everything except the rows."""

    source: str
    about: str
    """Description of the source."""
    demo: bool
    texts: bool
    """True if texts of rows are shown."""
    total: int
    sample: int | None
    """Number of rows that the page has; `None`: all."""
    figures: tuple[Figure, ...]
    questions: tuple[QuestionFigures, ...]
    queues: tuple[str, ...]
    nodes: tuple[str, ...]
    """Paths of all nodes that did something in a row."""
    counts: dict[str, int]
    """Number of rows by tag."""
    curves: tuple[Curve, ...]
    graph: Drawing | None
    stats: tuple[Place, ...]
    """Nodes with their figures, even if no graph is drawn."""
    learning: dict[str, object] | None
    """`LearningFigures` of a cascade that learns, as JSON."""
    job: JobFigures | None
    """Progress of the job, if the rows are those of a job."""
    labels: str
    """Path of the labels file; empty: rows can't be labelled."""
    notes: tuple[str, ...]
    """Columns that are named like a question and aren't taken for its labels, in sentences."""
    can: Can


class Query(Frozen):
    """A query for rows."""

    offset: int = 0
    limit: int = 100
    search: str = ""
    tag: str = ""
    queue: str = ""
    question: str = ""
    """Question of `label`; empty: any."""
    label: str = ""
    node: int | None = None


class RowPage(Frozen):
    """Rows that a query found."""

    total: int
    rows: tuple[RowLine, ...]
