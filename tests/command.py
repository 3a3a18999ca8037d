"""The command `moa`, run in this process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from moa.cli import main


def written(name: str | Path, rows: Iterable[object]) -> str:
    """Write rows into a file, a line each, as they are or as JSON; give its name."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(name)


def kept(name: str | Path = "out.jsonl", *, ordered: bool = False) -> list[dict[str, Any]]:
    """Read the lines of a file, by their ids where they may come in any order."""
    lines = [json.loads(line) for line in Path(name).read_text("utf-8").splitlines()]
    return lines if ordered else sorted(lines, key=lambda line: line["id"])


def moa(*words: str | Path) -> int:
    """Run it as a shell would with these words, and give its exit code."""
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    assert isinstance(left.value.code, int)
    return left.value.code


class Told(NamedTuple):
    """What a command wrote on standard output, and on standard error."""

    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its output, as lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def words(self) -> str:
        """All of it, without line breaks."""
        return " ".join((self.out + self.err).split())


def told(*words: str | Path, leaves: int = 0) -> Told:
    """Run it, and give what it wrote; it has to leave with this exit code."""
    streams = [TextIOWrapper(BytesIO(), encoding="utf-8") for _ in range(2)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        code = moa(*words)
    for stream in streams:
        stream.seek(0)
    said = Told(*(stream.read() for stream in streams))
    assert code == leaves, said
    return said
