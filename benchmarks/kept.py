"""Keeps what a benchmark has found so far, so that it can be stopped and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Kept:
    """Findings by name.

    Args:
        file: Holds them, a line each, and is read again; `None` keeps them in memory alone.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.found: dict[str, Any] = {}
        if file is not None and file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    name, value = json.loads(line)
                except ValueError:  # the end of a run that was killed
                    continue
                self.found[name] = value

    def keep(self, name: str, value: Any) -> None:
        """Add a finding to the file."""
        self.found[name] = value
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps([name, value])}\n")
