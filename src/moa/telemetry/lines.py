"""Lines: a file of spans, one JSON object a line, as they end. No OpenTelemetry is needed for it.

docs/tracing.md describes the format.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic_core import to_json

from moa._files import Existing, LineFile, dumped
from moa.errors import ConfigError

_logger = logging.getLogger(__name__)


class SpanFile:
    """A file that the spans of runs are added to: `Tracer(file=…)` takes it while it is open.

    A new one can be read by its owner alone. Where it can't be written any more, as on a full disk,
    that is logged once, and runs go on without it.

    Args:
        path: Of the file, which ends in `.jsonl`.
        existing: What is done with spans that are there: `refuse` raises, `resume` adds to them,
            and `overwrite` drops them.
        source: A file that is read meanwhile, and is not to be written.

    Examples:
        >>> from pathlib import Path
        >>> from moa.telemetry import Tracer
        >>> from moa.telemetry.lines import SpanFile
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

    def __enter__(self) -> Self:
        self._file.__enter__()
        for number, _, values in self._file.lines():
            if not {"trace", "span", "name"} <= values.keys():
                raise self._file.unreadable(number)
        self._is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._turn:
            self._is_open = False
            self._file.close()

    def add(self, line: Mapping[str, object]) -> None:
        """Write a span that has ended; nothing once the file is closed."""
        with self._turn:
            if not self._is_open:
                return
            try:
                self._file.add_line(_written(line))
            except ConfigError as error:
                self._is_open = False
                _logger.warning("no further spans are written: %s", error)


def _written(line: Mapping[str, object]) -> bytes:
    try:
        return to_json(line)
    except ValueError:  # half of a surrogate pair, which is no text
        return dumped(line).encode()
