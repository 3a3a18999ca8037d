"""Data: what the page shows, in the one shape in which it comes from a server or from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

from moa.node import Frozen

Why = Literal["corrected", "doubt", "quarantine", "failed", "rest"]
"""Why a row is to be looked at, the most urgent first."""
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
"""How a figure is coloured."""


class Figure(Frozen):
    """One of the numbers on top."""

    title: str
    value: str
    detail: str
    tone: Tone = "plain"


class QuestionFigures(Frozen):
    """A question that was decided in the rows."""

    name: str
    options: tuple[str, ...]
    """Names, in the order of the keys that label them."""
    rows: int
    """Rows in which it was decided."""
    labelled: int
    """Those with a right label."""
    wrong: int
    """Those of them in which something else was decided."""


class Point(Frozen):
    """A threshold on the slider."""

    threshold: float
    share: float
    """Share of all rows in which it would be accepted."""
    accepted: int
    """Labelled rows that it would accept."""
    errors: int
    error: float
    lower: float
    upper: float
    wish: str
    """The risk to ask of the next calibration for, so that about this is accepted."""
    cost: float | None
    """US dollars for the large model, for 1,000 rows; `None`: what it costs is unknown."""


class TestedThreshold(Frozen):
    """The threshold that a calibration has tested."""

    threshold: float
    share: float
    risk: float
    summary: str


class Curve(Frozen):
    """Coverage against error of one question."""

    question: str
    points: tuple[Point, ...] = ()
    """From the strictest threshold to the one that accepts all."""
    labelled: int = 0
    """Rows with a label that count."""
    chosen: int = 0
    """Rows with a label that were chosen to be labelled: they say nothing of the others."""
    tested: TestedThreshold | None = None
    why_not: str = ""
    """Why there are no points."""
    next: str = ""
    """The command that tests a wish, with `{risk}` where that goes."""


class Place(Frozen):
    """A node as it is drawn, and what became of it in the rows."""

    key: str
    label: str
    detail: str
    look: str
    node: str
    """Its path in rows; empty: it has none."""
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0
    rows: int | None = None
    """Rows in which it did something; `None`: nothing is known."""
    share: float | None = None
    p50: float | None = None
    """Seconds of its calls in a row, the median."""
    p95: float | None = None
    cost: float | None = None
    """US dollars in all; `None`: unknown, or there is nothing to know."""


class Line(Frozen):
    """An arrow as it is drawn."""

    points: tuple[tuple[float, float], ...]
    label: str
    decides: bool
    """Whether nothing but a decision passes; drawn dashed."""


class Drawing(Frozen):
    """A graph, laid out."""

    name: str
    width: float
    height: float
    places: tuple[Place, ...]
    lines: tuple[Line, ...]


class RowDecision(Frozen):
    """What was decided about one question in a row."""

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
    """Its beginning; empty where texts are left out."""
    why: Why
    tags: tuple[Tag, ...]
    said: dict[str, RowDecision]
    """By question."""
    by: str
    """Endpoint that answered last."""
    tier: Tier
    queue: str
    cost: float | None
    seconds: float
    nodes: tuple[int, ...]
    """Nodes that did something, by their place in `Overview.nodes`."""
    error: str = ""


class Bar(Frozen):
    """A span of a row's waterfall."""

    name: str
    kind: str
    node: str
    depth: int
    start: float
    """Seconds after the first."""
    seconds: float
    marks: tuple[str, ...] = ()
    """What happened in it: `retried`, `cached`, `fell back`, `escalated`, and the like."""
    error: str = ""
    asked: str = ""
    """The prompt, where texts were recorded."""
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
    """One row, whole."""

    line: RowLine
    fields: tuple[tuple[str, str], ...]
    """What went in, and what came out, under the paths of the fields."""
    likely: dict[str, tuple[tuple[str, float], ...]]
    """Probabilities by question, the highest first."""
    bars: tuple[Bar, ...]
    """Its waterfall; of a run without spans, the seconds of its nodes, all from 0 on."""
    timed: bool
    """Whether the waterfall knows when each began."""
    notes: tuple[Note, ...]


class JobFigures(Frozen):
    """How far a job is."""

    total: int
    left: int
    rows: dict[str, int]
    cost: float
    rate: float | None
    """Rows a second since it was looked at first; `None`: none was done since."""
    left_s: float | None
    """Seconds that it will take at this rate."""


class State(Frozen):
    """How far the rows are read, and whether there are newer ones."""

    ready: bool
    """Whether they are read."""
    rows: int
    """Rows that are read so far."""
    total: int | None
    """Rows that there are to read; `None`: unknown."""
    changed: bool = False
    """Whether there is more by now than was read."""
    failed: str = ""
    """Why they can't be read."""
    job: JobFigures | None = None


class Question(Frozen):
    """What a graph that is tried asks a person."""

    id: str
    asked: str
    """The question, with what it is about."""
    answers: Mapping[str, JsonValue]
    """JSON schema of what may be answered."""


class Can(Frozen):
    """What can be done from the page."""

    label: bool = False
    run: tuple[str, ...] = ()
    """Names that can be run."""
    learn: bool = False
    reload: bool = False


class Overview(Frozen):
    """All but the rows."""

    source: str
    about: str
    """What it is, in words."""
    demo: bool
    texts: bool
    """Whether texts of rows are shown."""
    total: int
    sample: int | None
    """Rows that the page has, if it has not all of them."""
    figures: tuple[Figure, ...]
    questions: tuple[QuestionFigures, ...]
    queues: tuple[str, ...]
    nodes: tuple[str, ...]
    """Paths of all nodes that did something in a row."""
    counts: dict[str, int]
    """Rows by tag."""
    curves: tuple[Curve, ...]
    graph: Drawing | None
    stats: tuple[Place, ...]
    """Nodes with their figures, whether a graph is drawn or not."""
    learning: dict[str, object] | None
    """`LearningFigures` of a cascade that learns, as JSON."""
    job: JobFigures | None
    """As far as it was when the rows were read."""
    labels: str
    """The file into which labels go."""
    can: Can


class Query(Frozen):
    """Which rows are wanted."""

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
    """Rows that a query finds."""

    total: int
    rows: tuple[RowLine, ...]
