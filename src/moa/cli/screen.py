"""Screen: the consoles that commands print on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TextIO, cast

from rich.text import Text

from moa._files import dumped
from moa._terminal import Console, PlainStream, escaped
from moa.errors import ConfigError

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


def json_line(values: Mapping[str, object]) -> None:
    """Write one line of JSON to standard output; it has left this process when this returns.

    Raises:
        ConfigError: the disk is full, or gone.
        BrokenPipeError: nobody reads it any more.
    """
    try:
        sys.stdout.write(f"{escaped(dumped(values))}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"standard output can't be written: {error.strerror}") from error


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
