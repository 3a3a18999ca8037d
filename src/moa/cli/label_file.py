"""Label file: texts with labels as they are given, each kept at once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from moa.appending import open_to_add
from moa.cli import rows
from moa.cli.inputs import text_of
from moa.cli.items import Malformed
from moa.errors import ConfigError, InputError


class Unlabelled(NamedTuple):
    """A row to be labelled."""

    text: str
    fields: dict[str, object]


def unlabelled(source: str, out: Path) -> list[Unlabelled]:
    """Read the texts of a file; a row without one is passed over.

    Raises:
        ConfigError: the file can't be read, holds no text, or is the one that is written.
    """
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise ConfigError(f"--out {out} is the input: labelled rows go into another file")
    found: list[Unlabelled] = []
    for row in rows.read(source):
        if isinstance(row, Malformed):
            continue
        try:
            text = text_of(row.value)
        except InputError:
            continue
        if text.strip():
            found.append(Unlabelled(text, row.value if isinstance(row.value, dict) else {}))
    if not found:
        raise ConfigError(f"{source}: there is no row with a 'text' to be labelled")
    return found


@dataclass(slots=True)
class LabelFile:
    """Labelled rows on disk. A line is there for good once `add` returns.

    Args:
        path: Is read, and added to.

    Raises:
        ConfigError: it can't be written, or holds something else than labelled rows.
    """

    path: Path
    texts: list[str] = field(default_factory=list[str], init=False)
    """Those labelled so far, those of earlier sessions included."""
    added: int = field(default=0, init=False)
    _file: BinaryIO | None = field(default=None, init=False)
    _ends: list[int] = field(default_factory=list[int], init=False)
    """Where each line of this session starts."""

    def __enter__(self) -> LabelFile:
        """Read what is there, and open it to go on."""
        if self.path.suffix != ".jsonl":
            raise ConfigError(
                f"--out writes JSON Lines: call the file {self.path.with_suffix('.jsonl')}"
            )
        if self.path.exists():
            self.texts = list(_labelled(self.path))
        try:
            self._file = open_to_add(self.path)
        except OSError as error:
            raise ConfigError(f"--out {self.path} can't be written: {error.strerror}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it; an empty one is removed."""
        if self._file is not None:
            empty = self._file.seek(0, os.SEEK_END) == 0
            self._file.close()
            if empty:
                self.path.unlink(missing_ok=True)

    def add(self, row: Unlabelled, label: str, *, by: str, chosen: bool) -> None:
        """Write one line, and wait until the disk has it.

        Raises:
            ConfigError: the disk is full, or gone.
        """
        assert self._file is not None, "it is open"
        written = {**row.fields, "text": row.text, "label": label}
        written |= {"labelled_by": by, "chosen": chosen}
        try:
            self._ends.append(self._file.seek(0, os.SEEK_END))
            self._file.write(json.dumps(written, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ConfigError(f"{self.path} can't be written: {error.strerror}") from error
        self.texts.append(row.text)
        self.added += 1

    def take_back(self) -> None:
        """Remove the last line of this session, if there is one."""
        assert self._file is not None, "it is open"
        if self._ends:
            self._file.truncate(self._ends.pop())
            self.texts.pop()
            self.added -= 1


def _labelled(path: Path) -> Sequence[str]:
    found: list[str] = []
    for row in rows.read(str(path)):
        fields = row.value if not isinstance(row, Malformed) else None
        if not isinstance(fields, dict) or not isinstance(text := fields.get("text"), str):
            raise ConfigError(
                f"--out {path}, line {row.number}: this is no labelled row, so nothing is added "
                "to this file: give another, or mend it"
            )
        found.append(text)
    return found
