"""Screen: the consoles that commands print on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TextIO, cast

from rich.text import Text

from moa._terminal import Console, PlainStream

WIDE = 140
"""Columns where the output is no terminal: a file or a pipe has no width of its own."""


def out() -> Console:
    """Standard output."""
    wide = None if sys.stdout.isatty() else WIDE
    return Console(sys.stdout, width=wide)


def err() -> Console:
    """Standard error."""
    wide = None if sys.stderr.isatty() else WIDE
    return Console(sys.stderr, width=wide)


@contextmanager
def plain_streams() -> Generator[None, None, None]:
    """Let nothing that is printed steer the terminal, whoever prints it.

    After an error that nobody expected they stay so: its traceback is still to be written.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", PlainStream(stream)) for stream in streams)
    try:
        yield
    except SystemExit:
        sys.stdout, sys.stderr = streams
        raise


@contextmanager
def waiting() -> Generator[Callable[[str], None], None, None]:
    """Show one line that changes, on a terminal; elsewhere nothing."""
    console = err()
    if not console.is_terminal:
        yield lambda line: None
        return
    with console.status("") as status:
        yield lambda line: status.update(_one_line(line, console.width - 4))


def _one_line(line: str, width: int) -> Text:
    text = Text(" ".join(line.split()))
    text.truncate(width, overflow="ellipsis")
    return text
