"""Learned: the calibrations of a graph's questions, in one file that the graph's table names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from moa.core._files import load_model, save_text
from moa.core.errors import CalibrationError
from moa.core.node import Frozen
from moa.core.questions import Question
from moa.decisions.calibrated import check_question
from moa.decisions.file import Calibration
from moa.decisions.guarantee import percent

NONE_DRAWN = (
    "all labelled rows were chosen, and none was drawn at random. Label some that are: moa label "
    "--random"
)
"""Why the quality on further texts is unknown, and what to do."""


class LearnedGraph(Frozen):
    """Calibrations of the questions of a graph that something was learned about.

    Questions with a bound have a guarantee. For the others, only the cross-validated accuracy is
    known.
    """

    format: Literal[1] = 1
    graph: str
    """Name of the recipe."""
    looks: int = 0
    """Number of times that a guarantee was tested on the same, growing rows."""
    calibrations: dict[str, Calibration]
    """Calibrations by name of the question."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file.

        Raises:
            CalibrationError: it is missing, wasn't written by `moa learn --graph`, or was edited.
        """
        subject, maker = "file of what a graph has learned", "moa learn --graph"
        learned_graph = load_model(path, cls, what=subject, maker=maker, error=CalibrationError)
        for calibration in learned_graph.calibrations.values():
            calibration.check_seal(path)
        return learned_graph

    def save(self, path: str | Path) -> None:
        """Write the file atomically, readable only by its owner, since it contains learned texts.

        Raises:
            CalibrationError: the file can't be written.
        """
        text = self.model_dump_json(indent=2) + "\n"
        save_text(path, text, error=CalibrationError, private=True)

    def calibration_of(self, graph: str, question: Question) -> Calibration | None:
        """Return the calibration of a graph's question; `None` if nothing was learned about it.

        Raises:
            CalibrationError: it is for another graph, or the question has changed. The message
                says what differs, and what to do.
        """
        if self.graph != graph:
            raise CalibrationError(
                f"it was learned for the graph {self.graph!r}, and this is {graph!r}: take "
                f"`learned` out of [graphs.{graph}], or learn by moa learn --graph {graph}"
            )
        calibration = self.calibrations.get(question.name)
        if calibration is None:
            return None
        try:
            check_question(calibration, question)
        except CalibrationError as error:
            raise CalibrationError(
                f"what was learned about {question.name!r} is for other settings than those in "
                f"[graphs.{graph}]: {error}. By: moa learn labelled.jsonl --graph {graph} --out "
                "FILE.json. Until then take `learned` out of the table"
            ) from error
        return calibration

    def guarantees(self, name: str) -> bool:
        """Return True if some answers to a question have a guarantee."""
        calibration = self.calibrations.get(name)
        return (
            calibration is not None
            and calibration.bound is not None
            and calibration.bound.threshold is not None
        )

    @property
    def summary(self) -> str:
        """A sentence on what is guaranteed, and what is only expected."""
        guaranteed = "; ".join(self._guaranteed_questions()) or "nothing"
        unguaranteed = {
            name: calibration.expected_accuracy
            for name, calibration in self.calibrations.items()
            if not self.guarantees(name) and calibration.reached is not None
        }
        right = [
            f"{name} right in {percent(accuracy)}"
            for name, accuracy in unguaranteed.items()
            if accuracy is not None
        ]
        unknown = [name for name, accuracy in unguaranteed.items() if accuracy is None]
        expected = f". Expected: {', '.join(right)}" if right else ""
        if unknown:
            expected += f". Nothing can be expected of {', '.join(unknown)}: {NONE_DRAWN}"
        return f"guaranteed: {guaranteed}{expected}"

    def _guaranteed_questions(self) -> Iterator[str]:
        for name, calibration in self.calibrations.items():
            bound = calibration.bound
            if bound is not None and self.guarantees(name):
                guarantee = replace(bound.guarantee, look=None)
                yield f"{name}, {guarantee}, of the {percent(bound.coverage)} that are accepted"
