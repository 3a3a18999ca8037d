"""Standard input of somebody who waits for an answer before going on."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from types import SimpleNamespace

import pytest

from moa.cli.row_display import RowDisplay
from moa.core.batch import Item

LONGEST_S = 60.0


class Piped:
    """Lines that somebody types, as the bytes of standard input."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)

    def readline(self, size: int = -1) -> bytes:
        del size
        return next(self._lines, b"")


def pipe(monkeypatch: pytest.MonkeyPatch, lines: Iterable[bytes]) -> None:
    """Put lines on standard input."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=Piped(lines)))


def type_after_an_answer(monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[bool]:
    """Type all lines but the first only when there is an item; whether there was, comes back."""
    answered = threading.Event()
    in_time: list[bool] = []
    add = RowDisplay.add

    def added(display: RowDisplay, item: Item[object], done_before: int = 0) -> None:
        add(display, item, done_before)
        answered.set()

    def typed() -> Iterator[bytes]:
        for place, line in enumerate(lines):
            if place == 1:
                in_time.append(answered.wait(LONGEST_S))
            yield f"{line}\n".encode()

    monkeypatch.setattr(RowDisplay, "add", added)
    pipe(monkeypatch, typed())
    return in_time
