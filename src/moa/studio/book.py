"""Book: the rows of a run, each with the reason to look at it, and the figures of all rows.

Lines are kept in an unnamed temporary file. Memory holds only what the list shows and searches,
so that paging through 100,000 rows is quick.
"""

from __future__ import annotations

import json
import sys
import tempfile
import weakref
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil
from typing import NamedTuple, Self

from pydantic_core import to_json

from moa.core._files import dump_json
from moa.core._json import is_object, object_of, objects_of
from moa.core.errors import InputError
from moa.core.questions import NONE_OF_THESE, Option, Question
from moa.learning.labelled import CHOSEN, is_marked, label_of, normalise_text
from moa.rows.decided import (
    DEEP,
    Decision,
    Values,
    decisions_in,
    format_value,
    is_decision,
    numbers,
)
from moa.studio.data import (
    WHYS,
    Query,
    QuestionFigures,
    RowDecision,
    RowLine,
    RowPage,
    Tag,
    Tier,
    Why,
)

LABEL = "label"
"""Name of a row's only question, if it has no name."""
_BEGINS = 400
"""Maximum characters of a text that are listed and searched."""
_ANSWERED = ("answered", "cached", "drafted")


class GivenLabel(NamedTuple):
    """A label in a file of labels."""

    value: object
    chosen: bool
    """True if somebody chose its text, False if it was drawn at random."""
    earlier: tuple[object, ...] = ()
    """Labels that it replaced."""


GivenLabels = Mapping[tuple[str, str], Sequence[GivenLabel]]
"""Labels by the text from `normalise_text` and the question: those of each line, in order. The last
one is the right label; the row is tested with all."""


class Verdict(NamedTuple):
    """A decision in the list. Its probabilities are only in the line."""

    said: str
    p: float | None
    answered: bool
    accepted: bool | None
    doubtful: bool
    filters: bool

    @property
    def confidence(self) -> float:
        """Probability of the decided label; 0 if there is none."""
        return self.p or 0.0


@dataclass(slots=True)
class Entry:
    """A row in the list."""

    place: int
    id: str
    text: str
    decisions: dict[str, Verdict]
    right: dict[str, str]
    """Right labels by question, from the row or from people."""
    chosen: frozenset[str]
    """Questions whose right label was given because somebody chose the row."""
    drawn: frozenset[str]
    """Questions that the row tests, since it was drawn at random to be labelled. It tests them
    whoever labels it later."""
    disputed: frozenset[str]
    """Questions that the row tests, and whose decision a label contradicted: the one that it was
    drawn with, or a later one. A label after that doesn't make the decision right in the test."""
    case: str | None
    by: str
    tier: Tier
    queue: str
    status: str
    error: str
    cost: float | None
    seconds: float
    in_doubt: bool
    nodes: tuple[int, ...]
    large_cost: float | None = None
    """US dollars for the large model."""
    alone: float | None = None
    """Estimated US dollars that the large model alone would have cost."""
    settled: bool | None = None
    """See `Item.settled`; `None`: the line doesn't say."""
    tags: frozenset[Tag] = frozenset()
    why: Why = "rest"

    def has_label(self, label: str, question: str) -> bool:
        """Return True if a label was decided for a question; empty: for any question."""
        return any(
            verdict.said == label
            for name, verdict in self.decisions.items()
            if not question or name == question
        )

    def wrong_questions(self) -> list[str]:
        """Return the names of the questions that were decided wrongly."""
        return [name for name in self.right if self.is_wrong(name)]

    def is_wrong(self, name: str) -> bool:
        """Return True if a question is known to have been decided wrongly."""
        verdict = self.decisions.get(name)
        return (
            verdict is not None
            and verdict.answered
            and self.right.get(name, verdict.said) != verdict.said
        )


@dataclass(slots=True)
class NodeTotals:
    """Time and cost of a node, over all rows."""

    rows: int = 0
    seconds: list[float] = field(default_factory=list[float])
    cost: float | None = None

    def add(self, spent: Values, timed: float | None) -> None:
        """Add the time and cost of one row. The time is that of a span, else of the calls."""
        seconds = read_number(spent.get("seconds")) if timed is None else timed
        if seconds is not None:
            self.seconds.append(seconds)
        if isinstance(cost := spent.get("cost"), int | float):
            self.cost = (self.cost or 0.0) + float(cost)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the percentile of a share (nearest rank); `None` if there are no values."""
    if not values:
        return None
    return sorted(values)[max(1, ceil(share * len(values))) - 1]


class Book:
    """Rows of a run, the most urgent to look at first if they aren't `in_order`.

    Args:
        lines: Lines as `moa run --out` or `moa decide --out` writes them.
        labels: Labels from people; `None`: rows can't be labelled.
        seconds_by_node: Returns the seconds of each node for a row's id, if the run kept spans.
            Without it, nodes that made no call are unknown.
        options: Option names of the question `label`, if rows don't have them all.
        in_order: True to keep the order of the lines.
    """

    def __init__(
        self,
        lines: Iterable[Values],
        labels: GivenLabels | None = None,
        seconds_by_node: Callable[[str], Mapping[str, float]] | None = None,
        options: Iterable[str] = (),
        *,
        in_order: bool = False,
    ) -> None:
        self._seconds_by_node: Callable[[str], Mapping[str, float]] = seconds_by_node or _no_seconds
        self._file = tempfile.TemporaryFile("w+b")  # noqa: SIM115
        self.close = weakref.finalize(self, self._file.close)
        """Deletes the lines, at the latest when the book is garbage-collected."""
        self._starts: list[int] = []
        self._end = 0
        self.entries: list[Entry] = []
        self.nodes: dict[str, int] = {}
        """Index of each node that did something, by path."""
        self.spent: dict[str, NodeTotals] = {}
        self._names: dict[str, dict[str, None]] = {}
        """Options seen for each question."""
        if names := dict.fromkeys(options):
            self._names[LABEL] = names
        self._node_sets: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._can_label = labels is not None
        self._texts = array("Q")
        """Digest of each row's text, to find the rows that a label is for."""
        self._question_sets: dict[frozenset[str], frozenset[str]] = {}
        self.rows_of: Counter[str] = Counter()
        """Number of rows where each question was decided."""
        self._confidences: dict[str, array[float]] = defaultdict(_no_confidences)
        self.changes: Counter[str] = Counter()
        """Number of labels added or removed since the rows were read, by question."""
        self._labels = labels = labels or {}
        labelled_texts = {text for text, _ in labels}
        row_labels = [self._add(line, labelled_texts) for line in lines]
        questions = {name: self.question(name) for name in self.question_names}
        self._own_columns = _Columns.find(
            questions, (cell for row_label in row_labels for cell in row_label.labels.items())
        )
        self._given_columns = _Columns.find(questions, _cells(labels))
        for entry, row_label in zip(self.entries, row_labels, strict=True):
            for name in questions.keys() & entry.decisions.keys():
                self._assign_label(entry, questions[name], row_label, labels)
        self._tag()
        self._sort()
        self._last: tuple[Query, list[int]] | None = None
        """Last query and the rows that it found, cached for scrolling."""
        self._folded: list[str] = []
        """Case-folded texts, made at the first search."""
        self.order = [*range(len(self.entries))]
        if not in_order:
            self.order.sort(key=self._urgency)

    def line(self, index: int) -> Values:
        """Return the whole line of a row.

        Raises:
            InputError: there is no such row.
        """
        if not 0 <= index < len(self._starts):
            raise InputError(f"there is no row {index}: there are {len(self._starts)}")
        self._file.seek(self._starts[index])
        return json.loads(self._file.readline())

    def index_of(self, id: str, index: int, digest: str | None = None) -> int:
        """Return the index of a row by its id. It was `index` before the rows were read again.

        Args:
            id: Id of the row. Several rows may have it.
            index: Index of the row when it was shown.
            digest: Digest of the text that was shown; `None`: any text.

        Raises:
            InputError: there is no such row any more, or none with this text.
        """

        def is_it(entry: Entry) -> bool:
            return entry.id == id and digest in (None, self._digest(entry))

        if 0 <= index < len(self.entries) and is_it(self.entries[index]):
            return index
        new_place = next((entry.place for entry in self.entries if is_it(entry)), None)
        if new_place is not None:
            return new_place
        if any(entry.id == id for entry in self.entries):
            raise InputError(f"row {id!r:.80} has another text now: reload the page")
        raise InputError(f"there is no row {id!r:.80} any more: reload the page")

    def question(self, name: str) -> Question:
        """Return a question with the options that were seen.

        Raises:
            InputError: no question in the rows has that name.
        """
        names = [*self._names.get(name, ())]
        if len(names) < 2:
            raise InputError(f"there is no question {name!r:.80} in these rows")
        truths = {"yes": True, "no": False}
        is_predicate = set(names) == set(truths)
        names = [*truths] if is_predicate else names
        values: dict[str, object] = {NONE_OF_THESE: None, **(truths if is_predicate else {})}
        options = tuple(Option(label, values.get(label, label)) for label in names)
        return Question(name, "predicate" if is_predicate else "choice", name, options)

    @property
    def question_names(self) -> list[str]:
        """Names of the questions, the one with the most options first."""
        return sorted(
            (name for name, options in self._names.items() if len(options) > 1),
            key=lambda name: -len(self._names[name]),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Columns that are named like a question and aren't taken for its labels, in sentences."""
        places = {"the rows": self._own_columns, "the file of labels": self._given_columns}
        return tuple(
            f"The column {name} of {place} isn't taken for labels: no value of it is an option of "
            f"the question {name}."
            for place, columns in places.items()
            for name in sorted(columns.others)
        )

    def question_figures(self) -> tuple[QuestionFigures, ...]:
        """Count the decisions of each question, and the known mistakes."""
        figures: list[QuestionFigures] = []
        for name in self.question_names:
            entries = self.labelled_entries(name)
            figures.append(
                QuestionFigures(
                    name=name,
                    options=tuple(option.name for option in self.question(name).options),
                    rows=self.rows_of[name],
                    labelled=len(entries),
                    wrong=sum(entry.is_wrong(name) for entry in entries),
                )
            )
        return tuple(figures)

    def labelled_entries(self, name: str) -> list[Entry]:
        """Return the rows where a question was decided and the right label is known."""
        return [entry for entry in self.entries if name in entry.right and name in entry.decisions]

    def confidences(self, name: str) -> Sequence[float]:
        """Return the confidences of a question's decisions, in ascending order."""
        return self._confidences[name]

    def counts(self) -> dict[str, int]:
        """Count rows by tag."""
        return dict(Counter(tag for entry in self.entries for tag in entry.tags))

    def find(self, query: Query, *, texts: bool = True) -> RowPage:
        """Find rows, in their order."""
        cache_key = query.model_copy(update={"offset": 0, "limit": 0})
        if self._last is None or self._last[0] != cache_key:
            self._last = cache_key, self._matching(query)
        places = self._last[1]
        page = places[query.offset : query.offset + query.limit]
        rows = tuple(self.row_line(self.entries[place], texts=texts) for place in page)
        return RowPage(total=len(places), rows=rows)

    def row_line(self, entry: Entry, *, texts: bool = True) -> RowLine:
        """Write a row for the list."""
        return RowLine(
            place=entry.place,
            id=entry.id,
            text=entry.text if texts else "",
            digest=self._digest(entry) if texts and self._can_label else "",
            why=entry.why,
            tags=tuple(sorted(entry.tags)),
            said={
                name: _row_decision(name, verdict, entry)
                for name, verdict in entry.decisions.items()
            },
            by=entry.by,
            tier=entry.tier,
            queue=entry.queue,
            cost=entry.cost,
            seconds=entry.seconds,
            nodes=entry.nodes,
            error=entry.error if texts else _find_error_type(entry.error),
        )

    def relabel(self, labels: GivenLabels) -> None:
        """Set anew all labels that differ from those given before.

        They are set as if the rows were read again, but the order of the rows stays.
        """
        old, self._labels = self._labels, labels
        texts: defaultdict[str, set[int]] = defaultdict(set)
        for text, name in old.keys() | labels.keys():
            if old.get((text, name)) != labels.get((text, name)):
                texts[name].add(_digest_of(text))
        for name in texts.keys() & set(self.question_names):
            self._relabel_question(self.question(name), texts[name], labels)

    def _relabel_question(
        self, question: Question, texts: Container[int], labels: GivenLabels
    ) -> None:
        name = question.name
        columns = _Columns.find({name: question}, _cells(labels))
        changed = (name in columns.labels) != (name in self._given_columns.labels)
        self._given_columns = self._given_columns.with_column(name, columns)
        # With the first label, or without the last one, a column of other values begins to count.
        for entry in [e for e in self.entries if changed or self._texts[e.place] in texts]:
            if name in entry.decisions:
                row_label = self._own_labels(self.line(entry.place), entry.decisions)
                self._assign_label(entry, question, row_label, labels)
                entry.tags = entry.tags - {"labelled", "corrected"} | _by_labels(entry)
        self.changes[name] += 1
        self._last = None

    def _digest(self, entry: Entry) -> str:
        return f"{self._texts[entry.place]:016x}"

    def _matching(self, query: Query) -> list[int]:
        """Return the rows that match a query. The text is searched first, since that is quick."""
        places = self.order
        if search := query.search.casefold():
            folded = self._folded = self._folded or [
                entry.text.casefold() for entry in self.entries
            ]
            ids = {entry.place for entry in self.entries if entry.id.casefold() == search}
            places = [place for place in places if search in folded[place] or place in ids]
        return [place for place in places if _matches(self.entries[place], query)]

    def _add(self, line: Values, labelled_texts: Container[str]) -> _RowLabels:
        """Add a row, and return its own labels, with its text only if people labelled it."""
        place = len(self.entries)
        self._starts.append(self._end)
        self._end += self._file.write(_encode(line))
        decisions: dict[str, Verdict] = {}
        for decision in decisions_of(line):
            name = sys.intern(decision.name)
            options = self._names.setdefault(name, {})
            if decision.probabilities.keys() - options.keys():
                options.update(dict.fromkeys(decision.probabilities))
            if decision.answered:
                options.setdefault(decision.said)
            decisions[name] = _verdict(decision)
        for name, verdict in decisions.items():
            self.rows_of[name] += 1
            if verdict.p is not None:
                self._confidences[name].append(verdict.p)
        self.entries.append(_entry(place, line, decisions, self._nodes(line)))
        row_labels = self._own_labels(line, decisions)
        self._texts.append(_digest_of(row_labels.text))
        return row_labels if row_labels.text in labelled_texts else row_labels._replace(text="")

    def _nodes(self, line: Values) -> tuple[int, ...]:
        by_node = object_of(object_of(line.get("usage")).get("by_node"))
        seconds_by_node = self._seconds_by_node(format_value(line.get("id")))
        for path in (paths := dict.fromkeys([*map(str, by_node), *seconds_by_node])):
            self.nodes.setdefault(path, len(self.nodes))
            spent = self.spent.setdefault(path, NodeTotals())
            spent.rows += 1
            spent.add(object_of(by_node.get(path)), seconds_by_node.get(path))
        nodes = tuple(sorted(self.nodes[path] for path in paths))
        return self._node_sets.setdefault(nodes, nodes)

    def _own_labels(self, line: Values, names: Iterable[str]) -> _RowLabels:
        """Return the row's own labels, and the text by which people's are found."""
        input_fields = object_of(line.get("input"))
        labels = {name: input_fields[name] for name in names if name in input_fields}
        text = normalise_text(text_of(line)) if self._can_label else ""
        return _RowLabels(text, labels, is_marked(input_fields, CHOSEN))

    def _assign_label(
        self, entry: Entry, question: Question, row: _RowLabels, labels: GivenLabels
    ) -> None:
        """Set the right label of a question: that from people, else the row's own.

        The row tests the question if either was drawn at random. Then each label counts that it
        has had, so that the test isn't better for what people do after they see its outcome.
        """
        name, said = question.name, entry.decisions[question.name].said
        given: list[GivenLabel] = []
        if name in self._given_columns.labels:
            lines = labels.get((row.text, name), ())
            given = [one for one in lines if read_label(question, one.value) is not None]
        own = [row.labels[name]] if name in row.labels.keys() & self._own_columns.labels else []
        own_labels = _read_labels(question, own)
        new_labels = _read_labels(question, [one.value for one in given])
        found = [*own_labels, *new_labels]
        chosen = all(one.chosen for one in given) if given else row.chosen
        tests = own_labels if not row.chosen else []
        if tests or not chosen:
            earlier = [value for one in given for value in one.earlier]
            tests = [*tests, *new_labels, *_read_labels(question, earlier)]
        entry.right.pop(name, None)
        entry.right.update((name, label) for label in found[-1:])
        entry.chosen = self._with(entry.chosen, name, bool(found) and chosen)
        entry.drawn = self._with(entry.drawn, name, bool(tests))
        entry.disputed = self._with(entry.disputed, name, any(label != said for label in tests))

    def _with(self, names: frozenset[str], name: str, holds: bool) -> frozenset[str]:
        """Return a set of questions with one of them, or without it. Equal sets are shared."""
        changed = names | {name} if holds else names - {name}
        return self._question_sets.setdefault(changed, changed)

    def _tag(self) -> None:
        slow_seconds = percentile([entry.seconds for entry in self.entries], 0.95) or 0.0
        costs = [entry.cost for entry in self.entries if entry.cost]
        dear_cost = percentile(costs, 0.95) or float("inf")
        for entry in self.entries:
            tags: dict[Tag, bool] = {
                "doubt": entry.in_doubt,
                "quarantine": entry.queue == "quarantine",
                "failed": entry.status == "failed",
                "accepted": any(d.accepted for d in entry.decisions.values()),
                "large": entry.tier == "large",
                "slow": entry.seconds > slow_seconds,
                "dear": entry.cost is not None and entry.cost > dear_cost,
            }
            entry.tags = _keep_true(tags) | _by_labels(entry)
            entry.why = _why(entry)

    def _sort(self) -> None:
        """Sort confidences and seconds once, since the figures need them again and again."""
        self._confidences.update(
            {name: array("d", sorted(values)) for name, values in self._confidences.items()}
        )
        for spent in self.spent.values():
            spent.seconds.sort()

    def _urgency(self, index: int) -> tuple[int, float, int]:
        entry = self.entries[index]
        wrong = [entry.decisions[name].confidence for name in entry.wrong_questions()]
        main = [d.confidence for d in entry.decisions.values() if d.answered and not d.filters]
        confidence = -max(wrong) if entry.why == "corrected" and wrong else min(main, default=1.0)
        return WHYS.index(entry.why), confidence, index


class _RowLabels(NamedTuple):
    """Labels that a row has itself."""

    text: str
    """Its text, from `normalise_text`; empty if rows can't be labelled."""
    labels: dict[str, object]
    chosen: bool
    """True if somebody chose the row to be labelled, False if it was drawn at random."""


def _no_confidences() -> array[float]:
    return array("d")


def _matches(entry: Entry, query: Query) -> bool:
    return (
        (not query.tag or query.tag in entry.tags)
        and (not query.queue or query.queue == entry.queue)
        and (not query.label or entry.has_label(query.label, query.question))
        and (query.node is None or query.node in entry.nodes)
    )


def _encode(line: Values) -> bytes:
    try:
        return to_json(line) + b"\n"
    except ValueError:  # a lone surrogate, which UTF-8 can't encode
        return f"{dump_json(line)}\n".encode()


def _verdict(decision: Decision) -> Verdict:
    p = decision.confidence if decision.probabilities else None
    label = sys.intern(decision.said)
    return Verdict(
        label, p, decision.answered, decision.accepted, decision.doubtful, decision.filters
    )


def _no_seconds(id: str) -> Mapping[str, float]:
    del id
    return {}


def notes_in(line: Values) -> list[Values]:
    """Return the notes of a line's trace."""
    return [note for note in objects_of(line.get("trace")) if note]


def text_of(line: Values) -> str:
    """Return the text of a row: the row itself, or its field `text`."""
    row = line.get("input", line.get("text"))
    text = row if isinstance(row, str) else object_of(row).get("text")
    return text if isinstance(text, str) else ""


def _digest_of(text: str) -> int:
    encoded = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(encoded, digest_size=8).digest())


def fields_of(name: str, value: object, deep: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the fields of a value under their paths, without decisions."""
    if not is_object(value) or deep == DEEP:
        yield name, format_value(value)
    elif not is_decision(value):
        for key, inner in value.items():
            yield from fields_of(f"{name}.{key}", inner, deep + 1)


def decisions_of(line: Values) -> Iterator[Decision]:
    """Yield the decisions of a line."""
    if is_object(scores := line.get("scores")):  # of moa decide
        label, accepted = line.get("label"), line.get("accepted")
        yield Decision(
            name=LABEL,
            said=NONE_OF_THESE if label is None else format_value(label),
            probabilities=numbers(scores),
            answered=line.get("status", "answered") == "answered",
            accepted=accepted if isinstance(accepted, bool) else None,
            doubtful=line.get("doubtful") is True,
        )
    for decision in decisions_in(line.get("output")):
        yield decision._replace(name=LABEL) if decision.name == "decision" else decision


def _entry(
    index: int, line: Values, decisions: dict[str, Verdict], nodes: tuple[int, ...]
) -> Entry:
    usage, output, input_fields = (object_of(line.get(key)) for key in ("usage", "output", "input"))
    by_tier = object_of(usage.get("by_tier"))
    large = object_of(by_tier.get("llm"))
    tier: Tier = "large" if large.get("calls") else "small" if usage.get("calls") else "none"
    answers = [note for note in notes_in(line) if note.get("kind") in _ANSWERED]
    endpoint = next(
        (str(note["endpoint"]) for note in reversed(answers) if note.get("endpoint")), ""
    )
    doubts = output.get("doubts")
    verdicts = [verdict for verdict in decisions.values() if not verdict.filters]
    case = input_fields.get("case")
    return Entry(
        place=index,
        id=format_value(line.get("id", index + 1)),
        text=_excerpt(line),
        decisions=decisions,
        right={},
        chosen=frozenset(),
        drawn=frozenset(),
        disputed=frozenset(),
        case=None if case is None else str(case),
        by=endpoint,
        tier=tier,
        queue=format_value(output.get("queue") or output.get("kind")),
        status="failed" if "error" in line else format_value(line.get("status", "answered")),
        error=format_value(line.get("error")),
        cost=read_number(usage.get("cost")),
        seconds=read_number(line.get("seconds")) or 0.0,
        in_doubt=bool(doubts)
        or any(
            verdict.doubtful or verdict.accepted is False or not verdict.answered
            for verdict in verdicts
        ),
        nodes=nodes,
        settled=settled if isinstance(settled := line.get("settled"), bool) else None,
        large_cost=read_number(large.get("cost")) if tier == "large" else None,
        alone=read_number(object_of(usage.get("llm_alone_estimate")).get("cost")),
    )


def _excerpt(line: Values) -> str:
    input_fields = object_of(line.get("input"))
    subject, text = input_fields.get("subject"), text_of(line)
    full_text = f"{subject} — {text}" if isinstance(subject, str) and subject else text
    return " ".join(full_text.split())[:_BEGINS]


def _by_labels(entry: Entry) -> frozenset[Tag]:
    tags: dict[Tag, bool] = {
        "corrected": bool(entry.wrong_questions()),
        "labelled": bool(entry.chosen),
    }
    return _keep_true(tags)


def _why(entry: Entry) -> Why:
    for tag in WHYS:
        if tag in entry.tags:
            return tag
    return "rest"


def _keep_true(tags: Mapping[Tag, bool]) -> frozenset[Tag]:
    return frozenset(tag for tag, holds in tags.items() if holds)


def _row_decision(name: str, verdict: Verdict, entry: Entry) -> RowDecision:
    return RowDecision(
        label=verdict.said,
        p=None if verdict.p is None else round(verdict.p, 4),
        accepted=verdict.accepted,
        doubtful=verdict.doubtful,
        right=entry.right.get(name),
    )


def read_label(question: Question, value: object) -> str | None:
    """Return what a label says: the name of an option, or a text that is none.

    Such a text counts, too: no decision of the run can be right there. `None`: the value is empty.
    """
    with suppress(InputError):
        return label_of(question, value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return format_value(value).strip() or None


def _read_labels(question: Question, values: Iterable[object]) -> list[str]:
    return [label for value in values if (label := read_label(question, value)) is not None]


def _cells(labels: GivenLabels) -> Iterator[tuple[str, object]]:
    """Yield all cells of a file of labels, with the names of their columns."""
    return ((name, one.value) for (_, name), lines in labels.items() for one in lines)


class _Columns(NamedTuple):
    """Columns with the names of questions."""

    labels: frozenset[str]
    """Those that hold labels of the question: a value is one of its options. So every value counts,
    also one that no decision had: a row must not leave the test because it was missed."""
    others: frozenset[str]
    """Those that have values, but no label: they mean something else."""

    @classmethod
    def find(cls, questions: Mapping[str, Question], cells: Iterable[tuple[str, object]]) -> Self:
        """Tell the columns of some cells apart."""
        options = {name: {o.name for o in one.options} for name, one in questions.items()}
        found: dict[str, bool] = {}
        for name, value in cells:
            if name in questions and not found.get(name):
                label = read_label(questions[name], value)
                if label is not None:
                    found[name] = label in options[name]
        labels = frozenset(name for name, is_label in found.items() if is_label)
        return cls(labels, frozenset(found) - labels)

    def with_column(self, name: str, columns: Self) -> Self:
        """Return the columns, with one as it is in others."""
        return self._replace(
            labels=self.labels - {name} | columns.labels,
            others=self.others - {name} | columns.others,
        )


def _find_error_type(error: str) -> str:
    """Return the type of an error without its message, which may quote a text."""
    kind, colon, _ = error.partition(":")
    return kind if not error or (colon and kind.isidentifier()) else "failed"


def read_number(value: object) -> float | None:
    """Return a number from JSON; `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
