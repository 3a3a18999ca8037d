"""Listening: what whoever listens to a run is shown of a part of it."""

from __future__ import annotations

from collections.abc import Callable

from moa.context import RunContext
from moa.trace import Event, Piece


def quiet(context: RunContext) -> RunContext:
    """Open a context in which nobody listens, for what is not to be shown."""
    inner = context.nested()
    inner.listener = None
    return inner


def counted(context: RunContext) -> tuple[Callable[[], int], RunContext]:
    """Open a context, and count the pieces of text that are shown from it.

    What was shown can't be taken back: whoever broke off then has no stand-in.
    """
    inner = context.nested()
    pieces = 0

    def listen(event: Event) -> None:
        nonlocal pieces
        pieces += isinstance(event, Piece)
        context.emit(event)

    if context.listener is not None:
        inner.listener = listen
    return lambda: pieces, inner
