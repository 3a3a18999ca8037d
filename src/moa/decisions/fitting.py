"""Fitting: what agents ask of the layer that fits scorers to labelled texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from moa.core.context import RunContext
from moa.core.doors import Door
from moa.core.questions import Question
from moa.decisions.features import Progress
from moa.decisions.file import Calibration
from moa.endpoints import Endpoint, Example


class Fitting(Protocol):
    """Fits scorers to labelled texts."""

    async def adapt(
        self,
        endpoint: Endpoint,
        questions: Sequence[Question],
        *,
        labelled: Sequence[Example] = (),
        unlabelled: Sequence[str] = (),
        examples: Sequence[Example] = (),
        encoder: Endpoint | None = None,
        asks: bool = True,
        context: RunContext | None = None,
        progress: Progress | None = None,
    ) -> Mapping[str, Calibration]:
        """Fit a calibration for each question; see `moa.learning.adapt.adapt`."""
        ...

    def has_enough_examples(self, question: Question, examples: Sequence[Example], /) -> bool:
        """Return True if there are enough examples to fit the scorers of a question."""
        ...


class LabelledFiles(Protocol):
    """Reads files of labelled rows."""

    def labelled_examples(self, path: str | Path, question: Question, /) -> tuple[Example, ...]:
        """Read the examples of one question; see `moa.learning.examples.labelled_examples`."""
        ...


FITTING: Door[Fitting] = Door("moa.learning.adapt")
LABELLED_FILES: Door[LabelledFiles] = Door("moa.learning.examples")
