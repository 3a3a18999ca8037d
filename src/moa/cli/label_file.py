"""Label file: texts with labels as they are given, each kept at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, Self

from moa import rows
from moa._files import Existing, LineFile
from moa.errors import ConfigError, InputError


class Unlabelled(NamedTuple):
    """A row to be labelled."""

    text: str
    fields: dict[str, object]


def unlabelled(
    source: str, *, format: rows.Format | None = None, text_column: str | None = None
) -> list[Unlabelled]:
    """Read the texts of a file; a row without one is passed over.

    Raises:
        ConfigError: the file can't be read, or holds no text.
    """
    found: list[Unlabelled] = []
    for row in rows.read(source, format=format, text_column=text_column):
        if isinstance(row, rows.Malformed):
            continue
        try:
            text = rows.text_of(row.value)
        except InputError:
            continue
        if text.strip():
            found.append(Unlabelled(text, row.value if isinstance(row.value, dict) else {}))
    if not found:
        raise ConfigError(f"{source}: there is no row with a 'text' to be labelled")
    return found


class LabelFile(LineFile):
    """Labelled rows on disk. A line is there for good once `label` returns.

    Args:
        path: Is added to.
        existing: What is done with lines that are there.
        source: File that the texts come from; `None`: from elsewhere.

    Raises:
        ConfigError: when it is entered: it can't be written, is to be refused, or holds something
            else than labelled rows.
    """

    def __init__(self, path: Path, *, existing: Existing, source: str | None) -> None:
        super().__init__(path, existing=existing, source=source)
        self.texts: list[str] = []
        """Those labelled so far, those of earlier sessions included."""
        self.added = 0
        self._starts: list[int] = []
        """Where each line of this session starts."""

    def __enter__(self) -> Self:
        """Open it, and read what is there."""
        super().__enter__()
        for number, _, values in self.lines():
            if not isinstance(text := values.get("text"), str):
                raise self.unreadable(number)
            self.texts.append(text)
        return self

    def label(self, row: Unlabelled, label: str, *, by: str, chosen: bool) -> None:
        """Write one line, and wait until the disk has it.

        Raises:
            ConfigError: the disk is full, or gone.
        """
        written = {**row.fields, "text": row.text, "label": label}
        self._starts.append(self.add(written | {"labelled_by": by, "chosen": chosen}))
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._unwritable(error) from error
        self.texts.append(row.text)
        self.added += 1

    def take_back(self) -> None:
        """Remove the last line of this session, if there is one."""
        if self._starts:
            self.cut(self._starts.pop())
            self.texts.pop()
            self.added -= 1
