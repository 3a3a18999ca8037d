"""Terminal: output for people, without characters that could steer a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich import console
from rich.console import ConsoleOptions, RenderableType
from rich.file_proxy import FileProxy
from rich.segment import Segment

from moa.core._text import STEERING
from moa.core._text import strip_controls as strip_controls

if TYPE_CHECKING:
    from rich.progress import Progress


class Console(console.Console):  # noqa: TID251
    """A console for plain text: no markup, no highlights, no control characters.

    The terminal wraps long lines, so that a path can be copied.
    """

    def __init__(
        self, file: TextIO | None = None, *, width: int | None = None, quiet: bool = False
    ) -> None:
        super().__init__(
            file=file,
            width=width,
            quiet=quiet,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render, without control characters in texts. Control codes of rich itself are kept."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else strip_controls(text), style, control)

    def bars(self) -> Progress:
        """Return progress bars, which disappear when all is done."""
        from rich.progress import Progress, TextColumn

        _, *columns = Progress.get_default_columns()
        description = TextColumn("{task.description}", markup=False)
        return Progress(description, *columns, console=self, transient=True)


@contextmanager
def show_progress(total: int | None, what: str) -> Generator[Callable[[int], None]]:
    """Show progress on standard error, if that is a terminal, or in a notebook's cell.

    `what` is the label; a `total` of `None` is unknown. Beside other bars, only the label is shown.
    """
    console = Console(sys.stderr)
    if isinstance(sys.stderr, FileProxy):  # other bars are shown, and a line goes above them
        console.print(what)
        yield lambda _: None
    elif console.is_jupyter:
        yield _cell(total, what)
    elif console.is_terminal:
        with console.bars() as bars:
            bar = bars.add_task(what, total=total)
            yield lambda completed: bars.update(bar, completed=completed)
    else:
        yield lambda _: None


def _cell(total: int | None, description: str) -> Callable[[int], None]:
    """Show a bar in a notebook's cell, without widgets."""
    from html import escape
    from importlib import import_module

    class Bar:
        done: int = 0

        def _repr_html_(self) -> str:
            attributes = "" if total is None else f' value="{self.done}" max="{total or 1}"'
            suffix = "" if total is None else f" of {total}"
            return f"{escape(description)} <progress{attributes}></progress> {self.done}{suffix}"

    bar = Bar()
    handle = import_module("IPython.display").display(bar, display_id=True)

    def tell(completed: int) -> None:
        bar.done = completed
        handle.update(bar)

    return tell


class PlainStream:
    """A stream that drops control characters; a rich console writes past it."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self.rich_proxied_file, name)

    def write(self, text: str) -> int:
        """Write a text without its control characters."""
        self.rich_proxied_file.write(strip_controls(text))
        return len(text)


def escape_json(json: str) -> str:
    """Escape characters that could steer a terminal; the JSON values stay the same."""
    return STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", json)
