"""Row display: progress bar, JSON lines and closing tables of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

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

from moa.cli import screen
from moa.cli.screen import OUTCOME, STATUS, cost_of, dollars, usage_by_node
from moa.config.endpoints import TO_WRITE
from moa.core._json import is_object
from moa.core.batch import Item
from moa.core.context import Reference, RunContext
from moa.core.node import Outcome
from moa.core.questions import is_answer
from moa.rows import line
from moa.rows.decided import describe_fields
from moa.rows.tally import WAITING, Tally, outcome_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Line = Callable[[Item[object]], dict[str, object]]
"""Writes an item as a line of JSON."""
SHOWN = 100
"""Maximum items in the table of results."""
_SAID_EVERY_S = 30.0
"""Seconds between two lines on how far it is, if there is no terminal to show it in."""
_BESIDE = ("confidence", "accepted")
"""Columns about a decision, which `answer` leaves out."""
_SHOWN = ("language", "kind")
"""Fields of text that are short and worth a column."""


def cells(item: Item[object]) -> dict[str, str]:
    """Name the cells of an item's row, left to right; `status` and `outcome` are the last."""
    if item.error is not None:
        return {"id": str(item.id), STATUS: item.status, OUTCOME: f"failed: {item.problem}"}
    decisions = dict(_decision_cells("", item.output))
    if isinstance(item.output, Outcome):  # whose end says more than its kind
        decisions.pop("kind", None)
    outcome = _printed_at(item.output, but=decisions) or _input_text(item)
    return {"id": str(item.id), **decisions, STATUS: outcome_of(item), OUTCOME: outcome}


def answer(item: Item[object]) -> str:
    """Return the output in words: the text, or the decisions."""
    decided = (value for name, value in _decision_cells("", item.output) if name not in _BESIDE)
    return _printed_at(item.output) or ", ".join(decided)


def _decision_cells(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Find the decisions in an output, at any depth, and the language."""
    if is_answer(value):
        yield name or "decision", value.said if value.status == "answered" else value.status
        if not name and value.confidence is not None:
            yield "confidence", f"{value.confidence:.2f}"
        if not name and value.accepted is not None:
            yield "accepted", "yes" if value.accepted else "no"
    elif isinstance(value, BaseModel):
        for key in type(value).model_fields:
            inner = getattr(value, key)
            if isinstance(inner, BaseModel):
                yield from _decision_cells(key, inner)
            elif isinstance(inner, bool) and not name:
                yield key, "yes" if inner else "no"
            elif key in _SHOWN and isinstance(inner, str):
                yield key, inner


def _printed_at(output: object, *, but: Container[str] = ()) -> str:
    """Return the text of an output, else its plain fields without those shown elsewhere."""
    if is_answer(output):
        return ""
    if isinstance(output, BaseModel) and type(output).__str__ is BaseModel.__str__:
        words = str(getattr(output, "reason", "") or getattr(output, "answer", ""))
        has_decisions = any(is_answer(value) for _, value in output)
        rest = (field for field in output if field[0] not in but)
        return words or ("" if has_decisions else describe_fields(rest))
    return str(output)


def _input_text(item: Item[object]) -> str:
    value = item.input
    return str(value.get("text", value) if is_object(value) else value)


def results(items: Sequence[Item[object]], *, full: bool = False) -> Table:
    """Show one row an item, on one line unless its outcome is shown in `full`."""
    return screen.outcomes([cells(item) for item in items], full=full)


def summary(tally: Tally, reference: Reference | None) -> Group:
    """Show the totals of all items, and the usage by node."""
    alone = "unknown: no LLM is configured to compare with"
    if reference is not None:
        price, name = reference.price, reference.endpoint
        estimate = tally.usage.alone(price, endpoint=name, inputs=tally.inputs)
        alone = f"{dollars(estimate.cost)} ({estimate.how})"
    counts = ", ".join(f"{n} {end}" for end, n in sorted(tally.outcomes.items()))
    table = screen.make_facts_table()
    for name, words in (
        ("items", f"{tally.items}: {counts}" if counts else "none"),
        *_llm_rows(tally, reference),
        *tally.rows(),
        ("cost", cost_of(tally.total_usage)),
        ("LLM alone, estimated", alone),
        (
            "call seconds of an item",
            (
                f"{tally.mean:.2f} mean, {tally.percentile(0.5):.2f} median, "
                f"{tally.percentile(0.95):.2f} at the 95th percentile"
            ),
        ),
        ("speed", f"{tally.items_per_second:.1f} items/s"),
    ):
        table.add_row(name, Text(words))
    return (
        Group(table, usage_by_node(tally.total_usage)) if tally.total_usage.parts else Group(table)
    )


def _llm_rows(tally: Tally, reference: Reference | None) -> Iterator[tuple[str, str]]:
    """Count the items that a large model was asked for, or would have been."""
    share = f"{tally.needed_llm} of {tally.items} ({tally.llm_share:.0%})"
    if reference is not None or "llm" in tally.total_usage.by_tier():
        yield "needed the LLM", share
    elif tally.needed_llm and not tally.has_outcomes:  # which say it themselves
        yield WAITING, share


class RowDisplay:
    """Shows each finished item, the progress, and the totals at the end.

    Args:
        as_json: Whether each item is printed as a line of JSON.
        full: Whether the table cuts no outcome.
        total: Number of items; `None`: unknown.
        line: Writes an item, for `as_json`.
        guarantee: What holds of the answers that are accepted, in words.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        full: bool = False,
        total: int | None = None,
        line: Line = line,
        guarantee: str = "",
    ) -> None:
        self.line = line
        self.tally = Tally(labels=_labels, guarantee=guarantee)
        self.errors = screen.err()
        self.counts_dollars = False
        """True if a budget counts dollars: then endpoints without a price get a warning."""
        self.prints_answers = True
        """True if `--quiet` prints answers, because no file has them."""
        self._as_json = as_json
        self._full = full
        self._first: list[Item[object]] = []
        self._reference: Reference | None = None
        self._done_before = 0
        self._printed_at = time.monotonic()
        self._told_of_drafts = False
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

    def expect(self, total: int, done_before: int) -> None:
        """Set the number of items, and of those already done."""
        self._done_before = done_before
        self._progress.update(self._task, total=total, completed=done_before)

    def start(self, context: RunContext) -> None:
        """Start the clock and the bar."""
        self._printed_at = time.monotonic()
        self._reference, self.tally.before = context.reference, context.usage
        context.watcher = self._watch
        self.tally.start()
        self._progress.start()

    def add(self, item: Item[object], done_before: int | None = None) -> None:
        """Show an item, and count it; `done_before` is told where it grows with the items."""
        if self._as_json:
            screen.json_line(self.line(item))
        elif screen.quiet.get() and self.prints_answers and item.error is None:
            screen.results_console().print(answer(item))
        self.tally.add(item)
        self._warn_of_unpriced(item)
        self._warn_of_drafts(item)
        if len(self._first) < SHOWN:
            self._first.append(item)
        completed = self.tally.items + (self._done_before if done_before is None else done_before)
        self._progress.update(self._task, completed=completed, state=self._state())
        self._say_now_and_then(f"{completed} items, {self._state()}")

    def fail(self, item: Item[object]) -> None:
        """Print why an item failed."""
        self.errors.print(Text("failed", "red"), Text(f"{item.id}: {item.problem}"))

    def stop(self) -> None:
        """Remove the bar."""
        self._progress.stop()

    def close(self, facts: Iterable[str], *, kept_in: str) -> None:
        """Print the tables of results and totals, then the facts."""
        self.stop()
        if not self._as_json and self._first:
            items = sorted(self._first, key=lambda item: item.number)
            self.say(results(items, full=self._full))
            if hidden := self.tally.items - len(self._first):
                self.say(f"… and {hidden} more: {kept_in} has them all")
        self.say(summary(self.tally, self._reference))
        for fact in facts:
            self.say(fact)

    def say(self, what: RenderableType) -> None:
        """Print details, unless `--quiet` is given."""
        screen.details(as_json=self._as_json).print(what)

    def _watch(self, node: str, tokens: int) -> None:
        """Show the tokens written so far: a slow answer takes minutes."""
        state = f"{node} writes: {tokens} tokens"
        self._progress.update(self._task, state=state)
        self._say_now_and_then(state)

    def _say_now_and_then(self, line: str) -> None:
        """Print the progress from time to time if there is no bar."""
        if self._progress.disable and time.monotonic() > self._printed_at + _SAID_EVERY_S:
            self._printed_at = time.monotonic()
            screen.notes().print(line)

    def _state(self) -> str:
        tally = self.tally
        llm = "LLM" if self._reference or "llm" in tally.total_usage.by_tier() else "waiting"
        return (
            f"{tally.items_per_second:.1f} items/s · {cost_of(tally.total_usage)} · "
            f"{llm} {tally.llm_share:.0%}"
        )

    def _warn_of_drafts(self, item: Item[object]) -> None:
        """Warn once that a model writes badly, also with `--quiet`."""
        text = next((note.text for note in item.trace if note.kind == "drafted"), None)
        if text is None or self._told_of_drafts:
            return
        self._told_of_drafts = True
        screen.warn([f"{text}. It is there to decide. {TO_WRITE}"])

    def _warn_of_unpriced(self, item: Item[object]) -> None:
        if not self.counts_dollars or item.usage.cost is not None:
            return
        self.counts_dollars = False
        unpriced = [name for name, u in item.usage.by_endpoint().items() if u.cost is None]
        self.errors.print(
            f"No price is known for {', '.join(unpriced)}: calls to it don't count against "
            "--budget-usd. Give input_price and output_price in moa.toml, or `price` where the "
            "endpoint is made in Python, to count them; with --strict they are not made.",
        )


def _labels() -> str:
    """Describe how many labels a calibration needs for the default guarantee."""
    from moa.decisions.guarantee import Guarantee, min_rows, percent

    guarantee = Guarantee(look=1)
    looser = Guarantee(2 * guarantee.risk, guarantee.confidence, guarantee.look)
    return f"at least {min_rows(guarantee)} ({min_rows(looser)} for {percent(looser.risk)} wrong)"
