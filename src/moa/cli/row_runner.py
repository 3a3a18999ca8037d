"""Row runner: rows run through a node, and where they go: a file, lines of JSON, a bar, tables."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from pydantic import BaseModel
from rich.console import Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from moa.batch import Item, Malformed, Row, reader_of, refusal_of, row_text
from moa.calibration import Guarantee, percent, rows_needed
from moa.cli import options, screen
from moa.cli.screen import OUTCOME, STATUS, by_node, check_target, cost_of, dollars
from moa.config.endpoints import NO_LLM, TO_WRITE, Endpoints
from moa.context import Reference, RunContext
from moa.errors import ConfigError, EndpointUnauthorized, QuotaExceeded
from moa.node import Node, Outcome
from moa.questions import Choice, Predicate, Score
from moa.rows import RowFile, TableFile, aside, result_file, with_text, worked
from moa.rows.tally import WAITING, Tally, became

if TYPE_CHECKING:
    from rich.table import Table

    from moa.config.tables import Config
    from moa.jobs import Job

_BESIDE = ("confidence", "accepted")
"""Columns about a decision, which `answer` leaves out."""
_SHOWN = ("language", "kind")
"""Fields of text that are short and worth a column."""


def cells(item: Item[object]) -> dict[str, str]:
    """Name the cells of an item's row, left to right; `status` and `outcome` are the last."""
    if item.error is not None:
        return {"id": str(item.id), STATUS: item.status, OUTCOME: f"failed: {item.problem}"}
    shown = dict(_decided("", item.output))
    if isinstance(item.output, Outcome):  # whose end says more than its kind
        shown.pop("kind", None)
    outcome = _said(item.output) or _input(item)
    return {"id": str(item.id), **shown, STATUS: became(item), OUTCOME: outcome}


def answer(item: Item[object]) -> str:
    """Say what came out in words alone: the text, or what was decided."""
    decided = (value for name, value in _decided("", item.output) if name not in _BESIDE)
    return _said(item.output) or ", ".join(decided)


def _decided(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Find the decisions in an output, however deep, and the language."""
    if isinstance(value, Choice | Score | Predicate):
        typed = cast("Choice[object] | Score | Predicate", value)
        yield name or "decision", typed.said if typed.status == "answered" else typed.status
        if not name and typed.confidence is not None:
            yield "confidence", f"{typed.confidence:.2f}"
        if not name and typed.accepted is not None:
            yield "accepted", "yes" if typed.accepted else "no"
    elif isinstance(value, BaseModel):
        for key in type(value).model_fields:
            inner = getattr(value, key)
            if isinstance(inner, BaseModel):
                yield from _decided(key, inner)
            elif isinstance(inner, bool) and not name:
                yield key, "yes" if inner else "no"
            elif key in _SHOWN and isinstance(inner, str):
                yield key, inner


def _said(output: object) -> str:
    """The text of an output, where it says what that is."""
    if isinstance(output, Choice | Score | Predicate):
        return ""
    if isinstance(output, BaseModel) and type(output).__str__ is BaseModel.__str__:
        return str(getattr(output, "reason", "") or getattr(output, "answer", ""))
    return str(output)


def _input(item: Item[object]) -> str:
    given = item.input
    if isinstance(given, dict):
        given = cast("dict[str, object]", given).get("text", cast("object", given))
    return str(given)


def results(items: Sequence[Item[object]], *, full: bool = False) -> Table:
    """Show one row an item, on one line unless its outcome is shown in `full`."""
    return screen.outcomes([cells(item) for item in items], full=full)


def summary(tally: Tally, reference: Reference | None) -> Group:
    """Show what all items came to, and by node."""
    alone = "unknown: no LLM is configured to compare with"
    if reference is not None:
        estimate = tally.usage.on(reference.price, endpoint=reference.endpoint)
        alone = f"{dollars(estimate.cost)} ({estimate.how})"
    counts = ", ".join(f"{n} {end}" for end, n in sorted(tally.became.items()))
    table = screen.named()
    for name, words in (
        ("items", f"{tally.items}: {counts}" if counts else "none"),
        *_needed(tally, reference),
        *tally.rows(),
        ("cost", cost_of(tally.spent)),
        ("LLM alone, estimated", alone),
        (
            "seconds of work an item",
            (
                f"{tally.mean:.2f} mean, {tally.percentile(0.5):.2f} median, "
                f"{tally.percentile(0.95):.2f} at the 95th percentile"
            ),
        ),
        ("speed", f"{tally.items_per_second:.1f} items/s"),
    ):
        table.add_row(name, Text(words))
    return Group(table, by_node(tally.spent)) if tally.spent.parts else Group(table)


def _needed(tally: Tally, reference: Reference | None) -> Iterator[tuple[str, str]]:
    """Count the items that a large model was asked for, or would have been."""
    share = f"{tally.needed_llm} of {tally.items} ({tally.llm_share:.0%})"
    if reference is not None or "llm" in tally.spent.by_tier():
        yield "needed the LLM", share
    elif tally.needed_llm and not tally.tells:  # which say it themselves
        yield WAITING, share


_SAID_EVERY_S = 60.0
"""Seconds between two lines on how far it is, where there is no terminal to show it in."""
SHOWN = 100
"""Maximum items in the table of results."""

Line = Callable[[Item[object]], dict[str, object]]
"""Writes an item as a line of JSON."""
Prepare = Callable[[Endpoints, RunContext], Awaitable[tuple[Node[Any, object], "Asked"]]]
"""Builds what is run, and says which endpoints are to be started first; it may ask some already."""
Asked = frozenset[str] | None
"""Names of endpoints; `None`: it may be all."""
Rows = Iterator[Row | Malformed]


@runtime_checkable
class Watching(Protocol):
    """A node that has something to say once all rows are through."""

    @property
    def summary(self) -> str:
        """What it saw, in words."""
        ...


class RowRunner:
    """Runs rows through a node, shows each as it is done, and says at the end what they came to.

    `source` is the file that they come from, `None` where they come from elsewhere; `live` ones
    come from standard input. `total` is `None` where it is unknown. `promise` says in words what
    holds of the answers that are accepted.
    """

    def __init__(
        self,
        line: Line,
        *,
        source: str | None,
        live: bool,
        total: int | None,
        given: options.Working,
        out: Path | None,
        as_json: bool,
        where: Sequence[str] = (),
        job: str | None = None,
        full: bool = False,
        promise: str = "",
    ) -> None:
        existing = given.existing(out)
        if where and out is None:
            raise ConfigError(
                "--where chooses the rows of a table: give --out FILE.csv, .parquet or .xlsx"
                if job is None
                else "--where is for moa job export, which writes what came out of a job"
            )
        if job is not None and out is not None:
            raise ConfigError(
                "--job keeps what comes out itself: leave out --out, and write a file of it by "
                "moa job export"
            )
        self._store = job
        self._job: Job | None = None
        self._node: Node[Any, object] | None = None
        self.tally = Tally(labels=_labels(), promise=promise)
        self._line = line
        self._live = live
        self._file = out and result_file(
            out,
            existing=existing,
            source=source,
            line=line,
            where=where,
            text_column=given.text_column,
        )
        self._as_json = as_json
        self._full = full
        self._drafted = False
        self._given = given
        self._counts_dollars = given.budget_usd is not None
        self._done_before = 0
        self._said = time.monotonic()
        self._first: list[Item[object]] = []
        self._reference: Reference | None = None
        self._ended_by: EndpointUnauthorized | None = None
        self._key = ""
        """Which key has ended the run, in words."""
        self.errors = screen.err()
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.errors,
            transient=True,
            disable=not self.errors.is_terminal or screen.quiet.get(),
            redirect_stdout=sys.stdout.isatty(),  # else lines for a pipe went to the bar's terminal
        )
        self._task = self._progress.add_task("moa", total=total, state="")

    def run(self, prepare: Prepare, rows: Rows, *, tabular: bool = False) -> int:
        """Run rows, save those that a resumed file has, and give the exit code.

        Where they are `tabular` and the node takes texts, all are refused if the first has none.
        """
        for path in {self._file.path, self._file.result} if self._file else ():
            check_target("--out", path)
        with ExitStack() as opened:
            opened.callback(self._progress.stop)
            if self._file:
                opened.enter_context(self._file)
            code = self._given.run(partial(self._work, prepare, rows, opened, tabular), stopped="")
            self.close(stopped=code == options.STOPPED)
            if self._ended_by is not None:
                self.errors.print(Text("ended", "red"), Text(self._how_to_mend(self._ended_by)))
        self._tell_of_table()
        if isinstance(self._node, Watching):
            screen.notes().print(self._node.summary)
        return code

    async def _work(
        self,
        prepare: Prepare,
        rows: Rows,
        opened: ExitStack,
        tabular: bool,
        endpoints: Endpoints,
        context: RunContext,
    ) -> int:
        """Work through the rows that are left, or are due in the job; give the exit code."""
        left = self._file.left(rows, all_rows=self._given.limit is None) if self._file else rows
        if not self._live and (left := _begun(left)) is None:  # nothing is left to be resumed
            return options.ANSWERED
        node, asked = await prepare(endpoints, context)
        self._node = node
        if tabular and reader_of(node) is row_text:
            left = with_text(left, "text")
            left = left if self._live else chain((next(left),), left)
        due: AsyncIterable[Row | Malformed] | Rows = aside(left) if self._live else left
        if self._store is not None:
            from moa.jobs import Job

            self._job = opened.enter_context(Job(self._store, graph=node.name))
            due = self._due(self._job, left, context)
        if endpoints.stood_in:
            screen.notes().print(NO_LLM)
        await endpoints.warm(asked)
        self._reference, self.tally.before = context.reference, context.usage
        self.tally.start()
        self._progress.start()
        ledger, most = self._file or self._job, self._given.concurrency
        async with aclosing(worked(ledger, node, due, context, max_concurrency=most)) as items:
            async for item in items:
                self._ended_by = refusal_of(context.ended_by)
                self.add(item)
        if self._ended_by is not None:
            self._key = _key_in_words(self._ended_by.endpoint, endpoints.config)
        failed = self.tally.failed
        if self._job:  # what failed here may have been done since, and others work on it too
            status = self._job.status()
            failed = bool(status.left or status.causes)
        return options.FAILED if failed else options.ANSWERED

    def _due(self, job: Job, rows: Rows, context: RunContext) -> AsyncIterable[Row | Malformed]:
        """Add rows to the job, and give those that are due in it."""
        job.add(rows, all_rows=self._given.limit is None)
        if job.not_given:
            screen.notes().print(
                f"Others work on the job: {job.not_given} rows of it that are not in this input "
                "stay in it"
            )
        status = job.status()
        self._done_before = status.total - status.left
        self._progress.update(self._task, total=status.total, completed=self._done_before)
        return job.left(context, at_once=self._given.concurrency)

    def add(self, item: Item[object]) -> None:
        """Show an item, and count it."""
        if self._as_json:
            screen.json_line(self._line(item))
        elif screen.quiet.get() and not self._file and item.error is None:
            screen.out().print(answer(item))
        self.tally.add(item)
        if item.error is not None and not (self._ended_by and refusal_of(item.error)):
            self.errors.print(Text("failed", "red"), Text(f"{item.id}: {item.problem}"))
        self._warn_of_unpriced(item)
        self._warn_of_drafts(item)
        if len(self._first) < SHOWN:
            self._first.append(item)
        done = self.tally.items + (self._file.there if self._file else self._done_before)
        self._progress.update(self._task, completed=done, state=self._state())
        if self._progress.disable and time.monotonic() > self._said + _SAID_EVERY_S:
            self._said = time.monotonic()
            screen.notes().print(f"{done} items, {self._state()}")

    def close(self, *, stopped: bool = False) -> None:
        """Print the tables of results and of what they came to."""
        self._progress.stop()
        details, file = screen.details(as_json=self._as_json), self._file
        if not self._as_json and self._first:
            shown = sorted(self._first, key=lambda item: item.number)
            details.print(results(shown, full=self._full))
            if hidden := self.tally.items - len(self._first):
                kept = "moa job export" if self._job else "--out FILE.jsonl"
                where = file.path if file else kept
                details.print(f"… and {hidden} more: {where} has them all")
        details.print(summary(self.tally, self._reference))
        if file:
            details.print(f"{self.tally.items + file.there} lines in {file.path}")
        if file and (file.there or file.failed or file.changed):
            details.print(
                f"{file.there} of them were there already; {file.failed} that had failed, and "
                f"{file.changed} whose input has changed since, were due again"
            )
        if lost := (self._job or file) and cast("Job | RowFile", self._job or file).lost:
            details.print(
                f"{lost} finished calls were kept damaged: they were made again, and paid again"
            )
        if self._job:
            status = self._job.status()
            counts = ", ".join(f"{count} {state}" for state, count in sorted(status.rows.items()))
            details.print(
                f"Job in {self._job.where}: {counts}. moa job export writes what came out"
            )
        if stopped:
            details.print(f"Stopped after {self.tally.items} finished items: {self._to_go_on()}.")

    def _to_go_on(self) -> str:
        if self._job:
            return "the same command goes on"
        return options.how_to_go_on(self._file and self._file.path)

    def _how_to_mend(self, ended_by: EndpointUnauthorized) -> str:
        """Say why the run has ended, and what to do before it goes on."""
        do = "Add credit to the account of" if isinstance(ended_by, QuotaExceeded) else "Correct"
        return f"{ended_by}. {do} {self._key}; then {self._to_go_on()}"

    def _tell_of_table(self) -> None:
        """Say what is in the table, which is written once the lines are closed."""
        file = self._file
        if not isinstance(file, TableFile) or file.in_table is None:
            return
        details = screen.details(as_json=self._as_json)
        renamed = ", ".join(f"{name} is {now}" for name, now in file.renamed.items())
        why = f"; as the input has such columns, {renamed}" if renamed else ""
        details.print(f"{file.in_table} rows in {file.result}, made of {file.path}{why}")

    def _state(self) -> str:
        tally = self.tally
        llm = "LLM" if self._reference or "llm" in tally.spent.by_tier() else "waiting"
        return (
            f"{tally.items_per_second:.1f} items/s · {cost_of(tally.spent)} · "
            f"{llm} {tally.llm_share:.0%}"
        )

    def _warn_of_drafts(self, item: Item[object]) -> None:
        """Say once who wrote badly, also where nothing but results is printed."""
        found = next((note.text for note in item.trace if note.kind == "drafted"), None)
        if found is None or self._drafted:
            return
        self._drafted = True
        screen.warn([f"{found}. It is there to decide. {TO_WRITE}"])

    def _warn_of_unpriced(self, item: Item[object]) -> None:
        if not self._counts_dollars or item.usage.cost is not None:
            return
        self._counts_dollars = False
        unpriced = [name for name, u in item.usage.by_endpoint().items() if u.cost is None]
        self.errors.print(
            f"No price is known for {', '.join(unpriced)}: calls to it don't count against "
            "--budget-usd. Give input_price and output_price in moa.toml, or `price` where the "
            "endpoint is made in Python, to count them.",
        )


def _key_in_words(endpoint: str, config: Config) -> str:
    name, _, _ = endpoint.partition("@")  # of replicas each has a name of its own
    configured = config.endpoints.get(name)
    if configured is None:
        return f"the key of {name!r}"
    variable = configured.key_variable
    return f"${variable}, the key of [endpoints.{name}]" if variable else f"[endpoints.{name}]"


def _labels() -> str:
    """Say how many labels a calibration takes, by what it promises where nothing else is said."""
    asked = Guarantee(look=1)
    looser = Guarantee(2 * asked.risk, asked.confidence, asked.look)
    return f"at least {rows_needed(asked)} ({rows_needed(looser)} for {percent(looser.risk)} wrong)"


def _begun(rows: Rows) -> Rows | None:
    """Read the first row, so that what is wrong with it is said early; `None`: there is none."""
    first = next(rows, None)
    return None if first is None else chain((first,), rows)
