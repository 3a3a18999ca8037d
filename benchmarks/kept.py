"""Keeps what a benchmark has found so far, so that it can be stopped and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Kept:
    """Findings by name.

    Args:
        file: Holds them, and is read again; `None` keeps them in memory alone.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.found: dict[str, Any] = {}
        if file is not None and file.exists():
            self.found = json.loads(file.read_text())

    def keep(self, name: str, value: Any) -> None:
        """Add a finding, and write all of them in one step."""
        self.found[name] = value
        if self._file is not None:
            part = self._file.with_name(f".{self._file.name}.part")
            part.write_text(json.dumps(self.found, indent=2))
            part.replace(self._file)
