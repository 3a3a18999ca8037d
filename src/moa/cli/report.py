"""Report: where finished items go: a file, standard output, a progress bar, closing tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from moa._files import Existing
from moa.cli import screen
from moa.cli.options import how_to_go_on
from moa.cli.tables import cost_of, results, summary
from moa.cli.tally import Tally
from moa.cli.targets import check_target
from moa.context import Reference
from moa.rows import Item, Malformed, Row, RowFile
from moa.usage import Usage

SHOWN = 100
"""Most items in the table of results."""

Line = Callable[[Item], dict[str, object]]


class Report:
    """Takes each item as it is done, and says at the end what they came to.

    Args:
        line: Writes an item as a line of JSON.
        source: File that the items come from; `None`: they come from elsewhere.
        out: File of lines; `None` writes none.
        existing: What is done with lines that it has.
        as_json: Whether lines go to standard output, and everything else to standard error.
        total: How many items there are; `None` is unknown.
        limited: Whether the items are only the first ones.
        counts_dollars: Whether the run has a limit in dollars, which unpriced calls don't count
            against.

    Raises:
        ConfigError: when it is entered: `out` can't be written, or is `source`, or has lines that
            are to be refused.
    """

    def __init__(
        self,
        line: Line,
        *,
        source: str | None,
        out: Path | None,
        existing: Existing,
        as_json: bool,
        total: int | None,
        limited: bool,
        counts_dollars: bool,
    ) -> None:
        self.tally = Tally()
        self.errors = screen.err()
        self._line = line
        self._file = RowFile(out, existing=existing, source=source) if out else None
        self._as_json = as_json
        self._limited = limited
        self._counts_dollars = counts_dollars
        self._first: list[Item] = []
        self._reference: Reference | None = None
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=self.errors,
            transient=True,
            disable=not self.errors.is_terminal,
            redirect_stdout=sys.stdout.isatty(),  # else lines for a pipe went to the bar's terminal
        )
        self._task = self._progress.add_task("moa", total=total, state="")

    def __enter__(self) -> Report:
        if self._file:
            check_target("--out", self._file.path)
            self._file.__enter__()
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self._file:
            self._file.__exit__(kind, error, traceback)

    def say(self, words: str) -> None:
        """Say something beside the results."""
        self.errors.print(words)

    def left(self, rows: Iterator[Row | Malformed]) -> Iterator[Row | Malformed]:
        """Give the rows that are to be done: all, but for those that a resumed file has."""
        return self._file.left(rows, all_rows=not self._limited) if self._file else rows

    def begin(self, reference: Reference | None, *, before: Usage) -> None:
        """Start the clock.

        Args:
            reference: The large model to compare the cost with.
            before: What was used already.
        """
        self._reference = reference
        self.tally.before = before
        self.tally.start()

    def add(self, item: Item) -> None:
        """Take an item: it is on disk when this returns."""
        if self._file:
            self._file.write(self._line(item))
        if self._as_json:
            screen.json_line(self._line(item))
        self.tally.add(item)
        if item.status == "failed":
            self.errors.print(Text("failed", "red"), Text(f"{item.row.id}: {item.error}"))
        self._warn_of_unpriced(item)
        if len(self._first) < SHOWN:
            self._first.append(item)
        done = self.tally.items + (self._file.there if self._file else 0)
        self._progress.update(self._task, completed=done, state=self._state())

    def close(self, *, stopped: bool = False) -> None:
        """Print the tables of results and of what they came to.

        Args:
            stopped: Whether somebody stopped the run before all items were done.
        """
        self._progress.stop()
        console = self.errors if self._as_json else screen.out()
        if not self._as_json and self._first:
            console.print(results(sorted(self._first, key=lambda item: item.row.number)))
            hidden = self.tally.items - len(self._first)
            if hidden:
                where = self._file.path if self._file else "--out FILE.jsonl"
                console.print(f"… and {hidden} more: {where} has them all")
        console.print(summary(self.tally, self._reference))
        file = self._file
        if file:
            console.print(f"{self.tally.items} lines in {file.path}")
        if file and (file.there or file.failed or file.changed):
            console.print(
                f"{file.there} more were there already; {file.failed} that had failed, and "
                f"{file.changed} whose input has changed since, were due again"
            )
        if stopped:
            go_on = how_to_go_on(file and file.path)
            console.print(f"Stopped after {self.tally.items} finished items: {go_on}.")

    def _state(self) -> str:
        tally = self.tally
        return (
            f"{tally.items_per_second:.1f} items/s · {cost_of(tally.spent)} · "
            f"LLM {tally.llm_share:.0%}"
        )

    def _warn_of_unpriced(self, item: Item) -> None:
        if not self._counts_dollars or item.usage.cost is not None:
            return
        self._counts_dollars = False
        unpriced = [name for name, u in item.usage.by_endpoint().items() if u.cost is None]
        self.errors.print(
            f"No price is known for {', '.join(unpriced)}: calls to it don't count against "
            "--budget-usd. Give input_price and output_price in moa.toml, or `price` where the "
            "endpoint is made in Python, to count them.",
        )
