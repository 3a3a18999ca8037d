"""Standard input of somebody who waits for an answer before going on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from moa.batch import Item
from moa.cli.row_runner import RowRunner

LONGEST_S = 60.0


def type_after_an_answer(monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[bool]:
    """Type all lines but the first only when there is an item; whether there was, comes back."""
    answered = threading.Event()
    in_time: list[bool] = []
    add = RowRunner.add

    def added(runner: RowRunner, item: Item[object]) -> None:
        add(runner, item)
        answered.set()

    def typed() -> Iterator[bytes]:
        for place, line in enumerate(lines):
            if place == 1:
                in_time.append(answered.wait(LONGEST_S))
            yield f"{line}\n".encode()

    monkeypatch.setattr(RowRunner, "add", added)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=typed()))
    return in_time
