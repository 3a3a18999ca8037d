"""Lines: a file of spans, one JSON object a line, as they end. No OpenTelemetry is needed for it.

docs/tracing.md describes the format.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from moa.core._files import Existing, LineFile, encode_json
from moa.core.errors import ConfigError

_logger = logging.getLogger(__name__)
_MOMENT_S = 0.05
"""Seconds within which what ends is written together."""


class SpanFile:
    """A file that the spans of runs are added to: `Tracer(file=…)` takes it while it is open.

    Only its owner can read a new file. Spans that end in the same moment are written
    together, and all of a trace when its first one ends. If the file can't be written any more,
    as on a full disk, that is logged once, and runs go on without it.

    Args:
        path: Path of the file, which ends in `.jsonl`.
        existing: What is done with spans that are there: `refuse` raises, `resume` adds to them,
            and `overwrite` drops them.
        source: A file that is read meanwhile, and is not to be written.

    Examples:
        >>> from pathlib import Path
        >>> from moa.core.telemetry import Tracer
        >>> from moa.adapters.span_file import SpanFile
        >>> agent = Agent(ScriptedEndpoint(["Hello!"]), "Greet.")
        >>> with SpanFile("spans.jsonl") as file:
        ...     result = agent.run_sync("Hi", RunContext(tracer=Tracer(file=file)))
        >>> len(Path("spans.jsonl").read_text().splitlines())
        2

    Raises:
        ConfigError: by `with`: it can't be opened, another process writes it, or it holds
            something else.
    """

    def __init__(
        self, path: str | Path, *, existing: Existing = "refuse", source: str | None = None
    ) -> None:
        self._file = LineFile(path, existing=existing, source=source)
        self._turn = threading.Lock()
        self._is_open = False
        self._waiting: list[bytes] = []
        self._written_at = 0.0

    def __enter__(self) -> Self:
        self._file.__enter__()
        for number, _, values in self._file.lines():
            if not {"trace", "span", "name"} <= values.keys():
                raise self._file.line_error(number)
        self._is_open = True
        return self

    def __exit__(self, *error: object) -> None:
        with self._turn:
            if self._is_open:
                self._write()
            self._is_open = False
            self._file.close()

    def add(self, line: Mapping[str, object], *, last: bool) -> None:
        """Write a span that has ended; nothing once the file is closed.

        Args:
            line: See docs/tracing.md.
            last: Whether it is that of the whole trace.
        """
        data = encode_json(line)
        with self._turn:
            if not self._is_open:
                return
            self._waiting.append(data)
            now = time.monotonic()
            if last or now > self._written_at + _MOMENT_S:
                self._written_at = now
                self._write()

    def _write(self) -> None:
        """Write what waits; a call for each line takes as long as making it."""
        lines, self._waiting = self._waiting, []
        if not lines:
            return
        try:
            self._file.add_line(b"\n".join(lines))
        except ConfigError as error:
            self._is_open = False
            _logger.warning("no further spans are written: %s", error)
