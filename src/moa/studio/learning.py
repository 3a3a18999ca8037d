"""Learning: starts `moa learn` on the labels of the page, and reports its progress."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from moa.core.errors import ConfigError, RequestRefused
from moa.core.node import Frozen


class Progress(Frozen):
    """Progress of `moa learn`."""

    command: str
    running: bool = False
    code: int | None = None
    """Exit code of the command; `None`: it hasn't ended, or was not started."""
    said: str = ""
    """End of its output."""


_MOST = 4000


class Learning:
    """One run of `moa learn` at a time.

    Args:
        labels: The file of labels.
        graph: Graph whose questions the labels answer.
        config: Configuration file; `None`: the default one.
    """

    def __init__(self, labels: Path, graph: str, config: Path | None = None) -> None:
        out = labels.with_name(f"{labels.stem.replace('labelled', 'learned')}.json")
        self._words = ["learn", str(labels), "--graph", graph, "--out", str(out)]
        self._words += [] if config is None else ["--config", str(config)]
        self._labels = labels
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory()
        self._said = Path(self._folder.name) / "said"

    def start(self) -> Progress:
        """Start the command.

        Raises:
            ConfigError: there are no labels yet.
            RequestRefused: it is already running (409).
        """
        if self._process is not None and self._process.poll() is None:
            raise RequestRefused("it is learning already", status=409, code="learning")
        if not self._labels.is_file():
            raise ConfigError(f"{self._labels} isn't there: label some rows first")
        with self._said.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moa", *self._words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return self.progress()

    def progress(self) -> Progress:
        """Return the progress."""
        command = " ".join(["moa", *self._words])
        if self._process is None:
            return Progress(command=command)
        code = self._process.poll()
        output = self._said.read_text("utf-8", errors="replace")[-_MOST:]
        return Progress(command=command, running=code is None, code=code, said=output)

    def close(self) -> None:
        """Stop the command if it is running."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        self._folder.cleanup()
