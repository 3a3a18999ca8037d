"""Row runner: runs rows through a node, stores the results in a file or a job, and shows them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Never, Protocol, runtime_checkable

from rich.text import Text

from moa.cli import options, screen
from moa.cli.row_display import Line, RowDisplay
from moa.config.endpoints import NO_LLM, Endpoints
from moa.core.batch import MalformedLine, Row, reader_of, refusal_of, row_text
from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointUnauthorized, QuotaExceeded
from moa.core.node import Node
from moa.rows import RowFile, read_in_thread, result_file, with_text, work_through

if TYPE_CHECKING:
    from moa.config.tables import Config
    from moa.rows.jobs import Job

Rows = Iterator[Row | MalformedLine]
Prepare = Callable[[Endpoints, RunContext], Awaitable[tuple[Node[Never, object], "Asked"]]]
"""Builds the node, and returns the endpoints to start first. It may already ask some."""
Asked = frozenset[str] | None
"""Names of the endpoints that may be asked; `None`: all."""


@runtime_checkable
class Summarizing(Protocol):
    """A node with a summary of all rows."""

    @property
    def summary(self) -> str:
        """The summary."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """The rows of a run."""

    rows: Rows
    live: bool = False
    """True if they come from standard input, at their own pace."""
    source: str | None = None
    """The file that they are read from."""
    tabular: bool = False
    """True to refuse all rows if the first lacks the text that the node takes."""


class RowRunner:
    """Runs rows through a node, stores their results, and shows them.

    Args:
        given: Options for pace, budget and configuration.
        input: The rows.
        display: Shows the rows.
        file: Stores a line for each row; see `file_of`.
        job: Folder or URL of a job that stores the rows.
        tracing: Options for writing spans.
    """

    def __init__(
        self,
        given: options.RunOptions,
        input: Input,
        display: RowDisplay,
        *,
        file: RowFile | None = None,
        job: str | None = None,
        tracing: options.TracingOptions | None = None,
    ) -> None:
        self._tracing = tracing or options.TracingOptions()
        self._given = given
        self._input = input
        self._display = display
        self._file = file
        self._store = job
        self._job: Job | None = None
        self._node: Node[Never, object] | None = None
        self._refusal: EndpointUnauthorized | None = None
        """The refusal that ended the run early."""
        self._key = ""
        """The refused key, in words."""
        display.counts_dollars = given.budget_usd is not None
        display.prints_answers = file is None

    def run(self, prepare: Prepare) -> int:
        """Run the rows that are due, and return the exit code."""
        display, file = self._display, self._file
        with ExitStack() as opened:
            opened.callback(display.stop)
            if file:
                for path in {file.path, file.table.path if file.table else file.path}:
                    screen.check_target("--out", path)
                opened.enter_context(file)
            trace = self._tracing.trace
            adds = self._store is not None or trace is None  # the same command continues a job
            existing = "resume" if adds else self._given.existing(trace)
            tracer = self._tracing.tracer(opened, existing, self._input.source)
            work = partial(self._work, prepare, opened)
            code = self._given.run(work, stopped="", tracer=tracer)
            kept_in = "moa job export" if self._store else "--out FILE.jsonl"
            display.close(self._facts(), kept_in=str(file.path) if file else kept_in)
            if code == options.STOPPED:
                items = display.tally.items
                display.say(f"Stopped after {items} finished items: {self._resume_hint}.")
            if self._refusal is not None:
                display.errors.print(Text("ended", "red"), Text(self._how_to_mend(self._refusal)))
        if file and (table := file.table) and table.rows is not None:
            renamed = ", ".join(f"{name} is {new_name}" for name, new_name in table.renamed.items())
            reason = f"; as the input has such columns, {renamed}" if renamed else ""
            display.say(f"{table.rows} rows in {table.path}, made of {file.path}{reason}")
        if isinstance(self._node, Summarizing):
            screen.notes().print(self._node.summary)
        return code

    async def _work(
        self, prepare: Prepare, opened: ExitStack, endpoints: Endpoints, context: RunContext
    ) -> int:
        """Work through the rows that are due; return the exit code."""
        display, file, live = self._display, self._file, self._input.live
        rows = self._input.rows
        if file:
            rows = file.due_rows(rows, all_rows=self._given.limit is None)
        if not live and (rows := _with_first_row(rows)) is None:  # nothing is left to resume
            return options.ANSWERED
        from moa.config.loading import texts_to_encode
        from moa.local.encoders import keep_vectors

        keep_vectors()
        self._node, endpoint_names = await prepare(endpoints, context)
        rows = self._with_text(rows, self._node)
        due: AsyncIterable[Row | MalformedLine] | Rows = read_in_thread(rows) if live else rows
        if self._store is not None:
            from moa.rows.jobs import Job

            self._job = opened.enter_context(Job(self._store, graph=self._node.name))
            due = self._due_rows(self._job, rows, context)
        if endpoints.used_slm_as_llm:
            screen.notes().print(NO_LLM)
        await endpoints.warm(endpoint_names, texts=texts_to_encode(self._node))
        display.start(context)
        concurrency = self._given.concurrency
        work = work_through(
            file or self._job, self._node, due, context, max_concurrency=concurrency
        )
        async with aclosing(work) as items:
            async for item in items:
                self._refusal = refusal_of(context.ended_by)
                if item.error is not None and not (self._refusal and refusal_of(item.error)):
                    display.fail(item)
                display.add(item, file.there if file else None)
        if self._refusal is not None:
            self._key = _key_in_words(self._refusal.endpoint, endpoints.config)
        failed = display.tally.has_failed
        if self._job:  # other processes may have run rows, also those that failed here
            status = self._job.status()
            failed = bool(status.left or status.causes)
        return options.FAILED if failed else options.ANSWERED

    def _due_rows(
        self, job: Job, rows: Rows, context: RunContext
    ) -> AsyncIterable[Row | MalformedLine]:
        """Add rows to the job, and return the due ones."""
        job.add(rows, all_rows=self._given.limit is None)
        if job.not_given:
            screen.notes().print(
                f"Others work on the job: {job.not_given} rows of it that are not in this input "
                "stay in it"
            )
        status = job.status()
        if status.is_cancelled:
            screen.notes().print("The job was cancelled: moa job retry JOB lets it go on")
        self._display.expect(status.total, status.total - status.left)
        return job.left(context, at_once=self._given.concurrency)

    def _facts(self) -> Iterator[str]:
        """Describe what is stored."""
        if file := self._file:
            yield f"{self._display.tally.items + file.there} lines in {file.path}"
            if file.there or file.failed or file.changed:
                yield (
                    f"{file.there} of them were there already; {file.failed} that had failed, and "
                    f"{file.changed} whose input has changed since, were due again"
                )
        ledger = self._file or self._job
        if ledger and ledger.lost:
            yield (
                f"the records of {ledger.lost} finished calls were damaged: these were made again, "
                "and paid again"
            )
        if self._job:
            state_counts = sorted(self._job.status().rows.items())
            counts = ", ".join(f"{count} {state}" for state, count in state_counts)
            yield f"Job in {self._job.where}: {counts}. moa job export writes what came out"

    @property
    def _resume_hint(self) -> str:
        if self._job:
            return "the same command goes on"
        return options.how_to_go_on(self._file and self._file.path)

    def _with_text(self, rows: Rows, node: Node[Never, object]) -> Rows:
        """Refuse all rows of a table if the first has no text, and the node takes texts."""
        if not (self._input.tabular and reader_of(node) is row_text):
            return rows
        rows = with_text(rows, "text")
        return rows if self._input.live else chain((next(rows),), rows)

    def _how_to_mend(self, refusal: EndpointUnauthorized) -> str:
        """Describe why the run ended, and how to continue."""
        do = "Add credit to the account of" if isinstance(refusal, QuotaExceeded) else "Correct"
        return f"{refusal}. {do} {self._key}; then {self._resume_hint}"


def file_of(
    given: options.RunOptions,
    writing: options.WritingOptions,
    *,
    source: str | None,
    line: Line,
    job: str | None = None,
    trace: Path | None = None,
) -> RowFile | None:
    """Return the output file that options name; `source` is the input file.

    `trace` is another file that `--resume` and `--overwrite` can apply to.

    Raises:
        ConfigError: options contradict each other, or the file exists already.
    """
    out, existing = writing.out, given.existing(writing.out or trace)
    if job is not None and out is not None:
        raise ConfigError(
            "--job keeps what comes out itself: leave out --out, and write a file of it by "
            "moa job export"
        )
    if out is not None:
        return result_file(
            out,
            existing=existing,
            source=source,
            line=line,
            where=writing.where or (),
            text_column=given.text_column,
        )
    if writing.where:
        raise ConfigError(
            "--where chooses the rows of a table: give --out FILE.csv, .parquet or .xlsx"
            if job is None
            else "--where is for moa job export, which writes what came out of a job"
        )
    return None


def _key_in_words(endpoint: str, config: Config) -> str:
    name, _, _ = endpoint.partition("@")  # each replica has its own name
    configured = config.endpoints.get(name)
    if configured is None:
        return f"the key of {name!r}"
    variable = configured.key_variable
    return f"${variable}, the key of [endpoints.{name}]" if variable else f"[endpoints.{name}]"


def _with_first_row(rows: Rows) -> Rows | None:
    """Read the first row, so that its faults show early; return `None` if there is none."""
    first = next(rows, None)
    return None if first is None else chain((first,), rows)
