"""Screen: consoles, tables, confirmations and output files of the commands."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from moa.core._files import dump_json, replace_text
from moa.core._terminal import Console, PlainStream, escape_json
from moa.core.errors import ConfigError
from moa.core.usage import COLUMNS, dollars

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.progress import TaskID

    from moa.core.usage import Usage
    from moa.endpoints import Endpoint

Progress = Callable[[str, int, int], None]
"""Called with a name, the number done, and the total."""
WIDE = 140
"""Number of columns if the output isn't a terminal, since a file or a pipe has no width."""
STATUS, OUTCOME = "status", "outcome"
"""The last two columns of a table of rows."""
_STYLES = {"failed": "red", "dropped": "yellow", "quarantined": "yellow", "drafted": "yellow"}
_SAID_EVERY_S = 10.0
"""Seconds between two lines of progress if there is no terminal."""

quiet: ContextVar[bool] = ContextVar("quiet", default=False)
"""True with `--quiet`: only results and errors are printed."""


def results_console(*, as_json: bool = False) -> Console:
    """Return the console for results: standard output, or standard error if JSON is printed."""
    return notes() if as_json else _console(sys.stdout)


def details(*, as_json: bool = False) -> Console:
    """Return the console for explanations of results."""
    return _console(sys.stderr if as_json else sys.stdout, silent=quiet.get())


def notes() -> Console:
    """Return the console for progress and remarks: standard error."""
    return _console(sys.stderr, silent=quiet.get())


def show_prompts() -> None:
    """Start printing all prompts on standard error."""
    logger = logging.getLogger("moa.prompts")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(_Prompts())


class _Prompts(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        err().print(record.getMessage() + "\n", markup=False, highlight=False, soft_wrap=True)


def err() -> Console:
    """Return the console for errors and warnings: standard error."""
    return _console(sys.stderr)


def _console(stream: TextIO, *, silent: bool = False) -> Console:
    return Console(stream, width=None if stream.isatty() else WIDE, quiet=silent)


@contextmanager
def plain_streams() -> Generator[None, None, None]:
    """Prevent printed text from controlling the terminal.

    After an unexpected error the streams stay plain, for its traceback.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", PlainStream(stream)) for stream in streams)
    try:
        yield
    except SystemExit:
        sys.stdout, sys.stderr = streams
        raise


def json_line(values: Mapping[str, object]) -> None:
    """Write one line of JSON to standard output, and flush it."""
    try:
        sys.stdout.write(f"{escape_json(dump_json(values))}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone
        raise
    except OSError as error:
        raise ConfigError(f"standard output can't be written: {error.strerror}") from error


@contextmanager
def waiting() -> Generator[Callable[[str], None], None, None]:
    """Show a status line on a terminal; elsewhere show nothing."""
    console = notes()
    if not console.is_terminal or console.quiet:
        yield lambda line: None
        return
    with console.status("") as status:
        yield lambda line: status.update(Text(" ".join(line.split())[: console.width - 4]))


@contextmanager
def progress(verb: str = "") -> Generator[Progress, None, None]:
    """Show progress: a bar for each name on a terminal, else a line now and then.

    The yielded function is called with a name, the number done, and the total.
    """
    console = notes()
    if not console.is_terminal:
        last_time = time.monotonic()

        def write(name: str, done: int, total: int) -> None:
            nonlocal last_time
            if time.monotonic() > last_time + _SAID_EVERY_S:
                last_time = time.monotonic()
                console.print(f"{verb} {name}".strip() + f": {done} of {total}")

        yield write
        return
    with console.bars() as bars:
        tasks: dict[str, TaskID] = {}

        def tell(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(f"{verb} {name}".strip(), total=total)
            bars.update(tasks[name], completed=done, total=total)

        yield tell


def warn(warnings: Iterable[str]) -> None:
    """Show warnings, one a line."""
    for warning in warnings:
        err().print(f"warning: {warning}", style="yellow")


def make_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: int | None = None
) -> Table:
    """Make a table. The first cell of a row, its name, isn't wrapped.

    The first `words` columns hold words, the others numbers.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        right = words is not None and index >= words
        table.add_column(name, no_wrap=index == 0, justify="right" if right else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def make_facts_table() -> Table:
    """Make an empty table of names and facts."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def outcomes(rows: Sequence[Mapping[str, str]], *, full: bool = False) -> Table:
    """Make a table of outcomes from named cells.

    A row is on one line, except with `full`.
    """
    names = dict.fromkeys(name for row in rows for name, text in row.items() if text)
    columns = [name for name in names if name not in (STATUS, OUTCOME)]
    if STATUS in names:
        columns.append(STATUS)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for name in columns:
        table.add_column(Text(name), no_wrap=True, overflow="ellipsis")
    table.add_column(OUTCOME, no_wrap=not full, overflow="fold" if full else "ellipsis", ratio=1)
    for row in rows:
        outcome = row[OUTCOME] if full else " ".join(row[OUTCOME].split())
        cells = [Text(" ".join(row.get(name, "").split())) for name in columns]
        table.add_row(*cells, Text(outcome), style=_STYLES.get(row[STATUS], ""))
    return table


def cost_of(usage: Usage) -> str:
    """Format a cost; an unknown part is named, and never counts as 0."""
    total = usage.total
    if total.cost is not None:
        return dollars(total.cost)
    unpriced = [name for name, u in usage.by_endpoint().items() if u.cost is None]
    unknown = f"unknown (of {total.unpriced_calls} calls to {', '.join(unpriced)})"
    return f"{dollars(total.priced_cost)} + {unknown}" if total.priced_cost else unknown


def usage_by_node(usage: Usage) -> Table:
    """Make a table of the usage by node."""
    return make_table(COLUMNS, usage.rows(), words=3)


def check_target(option: str, path: Path | None) -> None:
    """Check that the file of an option can be written, without changing it."""
    if path is None:
        return
    try:
        reason = _obstacle(path.resolve() if path.is_symlink() else path)
    except OSError as error:  # such as a name that is too long
        reason = error.strerror
    if reason is not None:
        raise ConfigError(f"{option} {path} can't be written: {reason}")


def write_text(option: str, path: Path, text: str) -> None:
    """Write a file that the command line names."""
    try:
        replace_text(path, text, private=False)
    except OSError as error:
        raise ConfigError(f"{option} {path} can't be written: {error.strerror}") from error


def report(model: BaseModel, path: Path | None, *, as_json: bool) -> None:
    """Write a command's figures to the file of `--report`, if any, and as JSON if requested."""
    figures = model.model_dump(mode="json")
    if path is not None:
        write_text("--report", path, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    if as_json:
        json_line(figures)


def agree_to_pay(
    endpoint: Endpoint, purpose: str, *, requests: int, read: int, output_tokens: int, yes: bool
) -> None:
    """Print the cost of asking an endpoint, and return only if the user agrees.

    If it is free, or with `yes`, the user isn't asked.

    Args:
        endpoint: The endpoint to ask.
        purpose: The purpose, as in "to propose intents".
        requests: Number of requests.
        read: Estimated input tokens in all.
        output_tokens: Estimated output tokens in all.
        yes: True if the user agreed beforehand.

    Raises:
        ConfigError: the user doesn't agree. Nothing was sent.
    """
    from moa.core.usage import Amount
    from moa.local.probe import costs_nothing

    amount = Amount(calls=requests, input_tokens=read, output_tokens=output_tokens)
    cost = endpoint.price.of(amount)
    priced = f"about {dollars(cost)}" if cost is not None else "its price isn't known"
    times = "one request" if requests == 1 else f"{requests} requests"
    message = (
        f"{endpoint.name} ({endpoint.model}) is asked {purpose}: {times}, about {read:,} tokens "
        f"read and {output_tokens:,} written; {priced}"
    )
    if yes or costs_nothing(endpoint):
        notes().print(message)
    elif not sys.stdin.isatty():
        raise ConfigError(f"{message}. Nothing was sent: run it again with --yes to go on")
    elif not typer.confirm(f"{message}. Go on?", err=True):
        raise ConfigError("nothing was sent")


def _obstacle(path: Path) -> str | None:
    folder, exists = path.parent, path.exists()
    if path.is_dir():
        return "it is a folder"
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if exists and not os.access(path, os.W_OK):
        return "it is read-only"
    if (path.is_file() or not exists) and not os.access(folder, os.W_OK):  # written beside it
        return f"the folder {folder} is read-only"
    return None
