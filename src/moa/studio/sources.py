"""Sources: rows for the page from a file of lines, a job, learned answers or the example."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from moa.core._json import object_of
from moa.core.errors import CalibrationError, ConfigError, MoaError
from moa.rows._stores import is_address
from moa.rows.decided import Values
from moa.studio import graph as graphs
from moa.studio.book import Book, decisions_of, fields_of, notes_in
from moa.studio.data import Can, Curve, JobFigures, Note, Overview, RowDetail, RowLine, State
from moa.studio.labels import Labels
from moa.studio.learning import Learning
from moa.studio.overview import (
    Calibrations,
    cost_of_large,
    curve_of,
    figures,
    no_calibrations,
)
from moa.studio.spans import Spans, bars_of_line

if TYPE_CHECKING:
    from moa.graphs.engine.sketch import Drawable
    from moa.learning.figures import LearningFigures

EXAMPLE = Path(__file__).parent / "example"
"""Recorded run that is shown by default. `benchmarks/studio.py` makes it."""
_SQLITE = b"SQLite format 3\0"
_FIRST = 20
"""Rows from which the name of the graph is guessed."""
_OF_A_RESULT = {"status", "scores", "output", "error"}
"""Fields of results. Each line of `moa run` or `moa decide` has at least one."""
_EVERY = 500
"""Rows between two progress reports."""


@dataclass(frozen=True, slots=True)
class Source:
    """A source of rows.

    Args:
        name: Name on the page.
        about: Description on the page.
        lines: Reads the rows.
        demo: True for the example that ships with the library.
        learning: Reads the figures of a cascade that learns.
        job: Location of the job that the rows belong to.
        graph: Name of the graph that ran, if known.
        options: Option names, if the rows don't have them.
        count: Counts the rows; returns `None` if that isn't quicker than reading them.
        mark: Returns a value that changes when the rows do.
        in_order: True if the rows stay in their order; else the most urgent come first.
        live: True if rows keep coming. Changed rows are read again with each overview.
    """

    name: str
    about: str
    lines: Callable[[], Iterable[Values]]
    demo: bool = False
    learning: Callable[[], LearningFigures] | None = None
    job: str | None = None
    graph: str = ""
    in_order: bool = False
    live: bool = False
    options: tuple[str, ...] = ()
    count: Callable[[], int | None] = lambda: None
    mark: Callable[[], object] = lambda: None

    def guess(self) -> str:
        """Return the name of the graph from the nodes of the first rows; empty if unknown."""
        for line in islice(self.lines(), _FIRST):
            for path in object_of(object_of(line.get("usage")).get("by_node")):
                return str(path).partition("/")[0]
        return ""


def find_source(name: str | None) -> Source:
    """Find the source that an argument names: a file of lines, a job or answers.

    `None` is the example.

    Raises:
        ConfigError: it is none of these.
    """
    if name is None:
        return Source(
            name="Example inbox",
            about="a recorded run of the graph support. No large model was asked: its price is "
            "that of the same prompts sent to gpt-5-mini",
            lines=lambda: _read_gzip(EXAMPLE / "run.jsonl.gz"),
            demo=True,
            graph="support",
        )
    path = Path(name)
    if is_address(name) or path.is_dir():
        return _job(name)
    if not path.is_file():
        raise ConfigError(
            f"there is no {name!r}: give what moa run --out wrote, the folder of a job, or the "
            "answers of a cascade that learns"
        )
    with path.open("rb") as file:
        if file.read(len(_SQLITE)) == _SQLITE:
            return _answers(name)
    return _file(path)


def _file(path: Path) -> Source:
    from moa import rows
    from moa.rows.writing import lines_path

    def where() -> Path:
        lines = lines_path(path)
        return lines if lines.is_file() else path

    return Source(
        name=path.name,
        about="the lines of a run",
        lines=lambda: _lines(where()),
        count=lambda: rows.count(str(where()), None),
        mark=lambda: _stamp(where()),
    )


def _stamp(*files: Path) -> tuple[object, ...]:
    """Return times and sizes of files, which change when the files are written."""
    stats = [path.stat() if path.exists() else None for path in files]
    return tuple(stat and (stat.st_mtime_ns, stat.st_size) for stat in stats)


def _job(location: str) -> Source:
    from moa.rows.jobs import Job

    def lines() -> Iterator[Values]:
        with Job(location) as job:
            yield from job.lines()

    try:
        with Job(location) as job:
            name = job.where
    except ConfigError:
        if is_address(location):
            return _answers(location)
        raise

    def done() -> int:
        with Job(location) as job:
            status = job.status()
        return status.total - status.left

    return Source(name=name, about="a job", lines=lines, job=location, count=done, mark=done)


def _answers(location: str) -> Source:
    from moa.learning.answer_rows import RETRIED
    from moa.learning.answers import AnswerStore
    from moa.learning.figures import figures_at

    def lines() -> Iterator[Values]:
        with AnswerStore(location, must_exist=True) as store:
            rows = store.read_figure_rows()
        for row in rows:
            if row.source != RETRIED:
                yield _line_of_answer(row._asdict())

    with AnswerStore(location, must_exist=True) as store:
        options = store.read_options()
    name = "answers" if is_address(location) else Path(location).name
    about = "what a cascade that learns was asked"
    files = () if is_address(location) else (Path(location), Path(f"{location}-wal"))
    return Source(
        name=name,
        about=about,
        lines=lines,
        learning=lambda: figures_at(location),
        options=options,
        mark=lambda: _stamp(*files),
    )


_FAILED = "the large model gave no answer"
"""Right label of a row that the large model failed on, which is none of the options."""


def _line_of_answer(row: Values) -> Values:
    """Convert a row of a cascade that learns to a line of a run."""
    by_small, guess, confidence, large_label = (
        row[k] for k in ("by_small", "guess", "sure", "label")
    )
    label = large_label if guess is None else guess
    scores = {guess: confidence} if guess is not None and confidence is not None else {}
    tier = "slm" if by_small else "llm"
    spent = {"calls": 0 if by_small else row["calls"], "cost": row["cost"]}
    # Where the large model has failed, a held-out row counts as a difference, as in every test.
    right_label = _FAILED if large_label is None and row["held"] and row["done"] else large_label
    right = {} if right_label is None or guess is None else {"label": right_label}
    return {
        "id": row["place"],
        "input": {"text": row["given"] or "", **right, "chosen": not row["held"]},
        "output": {"label": large_label if large_label is not None else guess},
        "label": label,
        "scores": scores,
        "accepted": None if row["accepts"] is None else bool(row["accepts"]),
        "status": "missing" if label is None else "answered",
        "seconds": row["seconds"] or 0.0,
        "usage": {"calls": 1, "cost": row["cost"], "by_tier": {tier: spent}},
    }


def _lines(path: Path) -> Iterator[Values]:
    from moa import rows
    from moa.core.batch import MalformedLine

    is_run = False
    for row in rows.read(path):
        if isinstance(row, MalformedLine):
            if row.raw.startswith("{") and _is_half_written(path, row.number):
                return
            failed = {"status": "failed", "settled": False, "error": row.error}
            yield {"id": row.number, "input": row.raw, **failed}
            continue
        line = {"input": row.value} if isinstance(row.value, str) else row.value
        is_run = is_run or not _OF_A_RESULT.isdisjoint(line)
        if not is_run:
            raise ConfigError(
                f"{path}, row {row.number} is an input without a result: run the rows by moa run "
                "GRAPH FILE --out DONE.jsonl, and give what that wrote"
            )
        yield line


def _is_half_written(path: Path, number: int) -> bool:
    """Return True if a line is the last one and has no end: it is still being written."""
    with path.open("rb") as file:
        last = next(islice(file, number - 1, None), b"\n")
    return not last.endswith(b"\n")


def _read_gzip(path: Path) -> Iterator[Values]:
    with gzip.open(path, "rb") as file:
        for raw in file:
            yield json.loads(raw)


@dataclass
class View:
    """The page's view of a source. The rows are read at first use, or by `start`.

    Args:
        source: Source of the rows.
        trace: File of spans that `moa run --trace` wrote for the rows.
        labels: Labels file; `None`: rows can't be labelled.
        calibrations: Calibrations whose guarantees are shown.
        graph: Name of the graph that ran, and the graph, if it can be drawn.
        texts: True to show texts of rows.
        can_run: Names that can be run from the page; `studio_app` sets them.
        learning: Learns from the labels; `None`: learning can't be started here.
        on_read: Called now and then with the number of rows read, and the total if known.
    """

    source: Source
    trace: Path | None = None
    labels: Labels | None = None
    calibrations: Calibrations = field(default_factory=no_calibrations)
    graph: tuple[str, Drawable] | None = None
    texts: bool = True
    can_run: tuple[str, ...] = ()
    learning: Learning | None = None
    on_read: Callable[[int, int | None], None] = lambda read, total: None

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._reloading = threading.Lock()
        self._seen: tuple[float, int] | None = None
        self._spans = _example_spans() if self.source.demo else Spans(self.trace)
        if self.source.demo and not self.calibrations:
            with _unpack_example("learned.json") as learned:
                self.calibrations = read_calibrations(learned)
        self._book: Book | None = None
        self._curves: dict[str, tuple[Book, int, Curve]] = {}
        """Curve of each question, with the book and the number of label changes behind it."""
        self._mark: object = None
        self._count: tuple[int, int | None] = 0, None
        self._failure: MoaError | None = None
        self._thread: threading.Thread | None = None

    @property
    def book(self) -> Book:
        """The rows. The first access waits until they are read."""
        with self._lock:
            if self._book is None:
                self._book = self._read()
            return self._book

    def start(self, *, within_s: float = 0.5) -> None:
        """Read the rows in a thread. `state` returns the progress.

        Args:
            within_s: Seconds to wait, so that a file that isn't a run is refused at once.

        Raises:
            ConfigError: the rows can't be read, if this is known within `within_s`.
        """
        self._thread = threading.Thread(target=self._read_in_thread, daemon=True, name="moa-studio")
        self._thread.start()
        self._thread.join(within_s)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Delete the rows and spans that were read, and stop `learning`."""
        if self._book is not None:
            self._book.close()
        self._spans.close()
        if self.learning is not None:
            self.learning.close()

    def reload(self) -> None:
        """Read the rows again. The old ones are shown until then."""
        with self._reloading:
            new_book = self._read()
            with self._lock:
                if self.labels is not None:  # labels were given while the rows were read
                    new_book.relabel(self.labels.read())
                old_book, self._book = self._book, new_book
                if old_book is not None:
                    old_book.close()

    def state(self) -> State:
        """Return the number of rows read, and whether there are newer ones, without waiting."""
        if self._book is None and self._thread is None:
            self.start(within_s=0)
        ready = self._book is not None
        rows, total = self._count
        return State(
            ready=ready,
            rows=rows,
            total=total,
            changed=ready and self.source.mark() != self._mark,
            failed=str(self._failure or ""),
            job=self._job(),
        )

    def overview(self, *, sample: int | None = None) -> Overview:
        """Return everything except the rows.

        Args:
            sample: Number of rows that the page has; `None`: all.
        """
        if self.source.live and self.source.mark() != self._mark:
            self.reload()
        book = self.book
        learning = self.source.learning() if self.source.learning else None
        return Overview(
            source=self.source.name,
            about=self.source.about,
            demo=self.source.demo,
            texts=self.texts,
            total=len(book.entries),
            sample=sample,
            figures=figures(book, self.calibrations, learning),
            questions=book.question_figures(),
            queues=tuple(sorted({entry.queue for entry in book.entries if entry.queue})),
            nodes=tuple(book.nodes),
            counts=book.counts(),
            curves=self._curves_of(book),
            graph=graphs.draw(self.graph[1], self.graph[0], book) if self.graph else None,
            stats=graphs.stats(book),
            learning=learning and learning.model_dump(mode="json"),
            job=self._job(),
            labels=str(self.labels.path) if self.labels else "",
            notes=book.notes,
            can=Can(
                label=self.labels is not None and self.texts,
                run=self.can_run,
                learn=self.learning is not None,
                reload=not self.source.demo and sample is None,
            ),
        )

    def _curves_of(self, book: Book) -> tuple[Curve, ...]:
        """Return the curve of each question, recomputed only if its labels have changed."""
        cost = cost_of_large(book.entries)
        for name in book.question_names:
            cached, changes = self._curves.get(name), book.changes[name]
            if cached is None or cached[0] is not book or cached[1] != changes:
                curve = curve_of(name, book, self.calibrations, self._next_step, cost)
                self._curves[name] = book, changes, curve
        return tuple(self._curves[name][2] for name in book.question_names)

    def detail(self, index: int) -> RowDetail:
        """Return a row's fields, label probabilities, spans and notes; no texts if they are hidden.

        Raises:
            InputError: there is no such row.
        """
        with self._lock:
            line, entry = self.book.line(index), self.book.entries[index]
            row_line = self.book.row_line(entry, texts=self.texts)
        bars = self._spans.bars(entry.id)
        timed = bool(bars)
        bars = bars or bars_of_line(line)
        if not self.texts:
            bars = tuple(bar.model_copy(update=_NO_TEXTS) for bar in bars)
        fields = [*fields_of("input", line.get("input", line.get("text", "")))]
        fields += fields_of("output", line.get("output"))
        notes = notes_in(line)
        return RowDetail(
            line=row_line,
            fields=tuple(item for item in fields if item[1]) if self.texts else (),
            likely={
                decision.name: tuple(
                    sorted(decision.probabilities.items(), key=lambda pair: -pair[1])
                )
                for decision in decisions_of(line)
            },
            bars=bars,
            timed=timed,
            notes=tuple(self._note(note) for note in notes),
        )

    def label(
        self,
        index: int,
        question: str,
        label: str,
        *,
        id: str | None = None,
        digest: str | None = None,
    ) -> RowLine:
        """Store a label.

        Args:
            index: Index of the row when it was shown.
            question: Name of the question.
            label: The right label.
            id: Id of the row, to find it if its index has changed.
            digest: `RowLine.digest` when it was shown, as other rows may have its id.

        Raises:
            ConfigError: rows can't be labelled here, or the labels file can't be written.
            InputError: there is no such row, question or option, or the row has another text now.
        """
        labels = self._labels
        with self._lock:
            book = self.book
            index = index if id is None else book.index_of(id, index, digest)
            line, target = book.line(index), book.question(question)
            shown = self._row_line(index)
            labels.give(line, shown, target, label, others=book.question_names)
            book.relabel(labels.read())
            return self._row_line(index)

    def undo(self) -> RowLine:
        """Remove the last label: all is as it was before.

        Raises:
            InputError: there is nothing to undo, or somebody else has changed the label since.
        """
        with self._lock:
            row = self._labels.take_back()
            self.book.relabel(self._labels.read())
            return self._row_line(self.book.index_of(row.id, row.place, row.digest or None))

    @property
    def _labels(self) -> Labels:
        if self.labels is None:
            raise ConfigError(
                "labels can't be given here: moa studio FILE --labels-file FILE takes them"
            )
        return self.labels

    def _row_line(self, index: int) -> RowLine:
        return self.book.row_line(self.book.entries[index], texts=self.texts)

    def _read(self) -> Book:
        mark, total = self.source.mark(), self.source.count()
        labels = self.labels.read() if self.labels else None
        book = Book(
            self._count_lines(total),
            labels,
            self._spans.seconds_by_node,
            self.source.options,
            in_order=self.source.in_order,
        )
        self._mark = mark
        return book

    def _read_in_thread(self) -> None:
        try:
            _ = self.book
        except MoaError as error:
            self._failure = error

    def _count_lines(self, total: int | None) -> Iterator[Values]:
        number = 0
        for number, line in enumerate(self.source.lines(), start=1):
            if number % _EVERY == 0:
                self._count = number, total
                self.on_read(number, total)
            yield line
        self._count = number, number

    def _note(self, note: Values) -> Note:
        return Note(
            kind=str(note.get("kind", "")),
            node=str(note.get("node", "")),
            endpoint=str(note.get("endpoint") or ""),
            text=str(note.get("text", "")) if self.texts else "",
        )

    @property
    def _next_step(self) -> str:
        name = self.source.graph or (self.graph[0] if self.graph else "")
        option = f"--graph {name}" if name else '--task "…"'
        return f"moa learn NEW_ROWS.jsonl {option} --risk {{risk}} --out learned.json"

    def _job(self) -> JobFigures | None:
        if self.source.job is None:
            return None
        from moa.rows.jobs import Job

        with Job(self.source.job) as job:
            status = job.status()
        now, rows_done = time.monotonic(), status.total - status.left
        start, start_rows = self._seen = self._seen or (now, rows_done)
        rate = (rows_done - start_rows) / (now - start) if rows_done > start_rows else None
        return JobFigures(
            total=status.total,
            left=status.left,
            rows={str(state): count for state, count in status.rows.items()},
            cost=status.cost,
            rate=rate,
            left_s=status.left / rate if rate else None,
        )


_NO_TEXTS = {"asked": "", "answered": "", "error": "", "detail": ""}


def _example_spans() -> Spans:
    with _unpack_example("spans.jsonl") as path:
        return Spans(path)


@contextmanager
def _unpack_example(name: str) -> Generator[Path]:
    """Unpack a file of the example for the time of the block."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        with gzip.open(EXAMPLE / f"{name}.gz") as packed, path.open("wb") as out:
            shutil.copyfileobj(packed, out)
        yield path


def read_calibrations(path: Path | None) -> Calibrations:
    """Read a file of `moa learn`: the calibration of one question, or those of a graph.

    Raises:
        CalibrationError: the file is neither.
    """
    from moa.decisions.file import Calibration
    from moa.learning.learned import LearnedGraph

    if path is None:
        return {}
    try:
        return {"": Calibration.load(path)}
    except CalibrationError as error:
        try:
            return LearnedGraph.load(path).calibrations
        except CalibrationError:
            raise error from None
