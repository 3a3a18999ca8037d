"""Sketch: what a node of nodes draws of itself, as boxes and arrows. A layer makes it a drawing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

from moa.core._json import is_sequence
from moa.core.doors import Door
from moa.graphs.engine.plan import Plan

if TYPE_CHECKING:
    from moa.adapters.drawing import Drawing  # the class that users get

Look = Literal["terminal", "join", "function", "agent", "person", "slm", "llm"]


class Drawable(ABC):
    """A node of nodes that can be drawn."""

    input_type: object
    output_type: object

    @abstractmethod
    def sketch(self, sketch: Sketch) -> None:
        """Draw the nodes, and what passes between them."""

    def draw(self) -> Drawing:
        """Return the drawing: `.mermaid`, `.svg`, `.png()`, `.ascii`, `.save("graph.svg")`."""
        return DRAWINGS.open().drawing_of(self)


@dataclass(frozen=True, slots=True)
class Box:
    """A node, a step without a node, or an end: the input or the output."""

    label: str
    node: object = None
    look: Look | None = None
    """`None` uses the look of the node."""
    detail: str = ""
    """Second, smaller line; may be empty."""
    waits: bool = False
    """True if it starts only once something surely needs it. Drawn dashed."""


class Sketch:
    """A drawing of a node of nodes: boxes and arrows.

    A test compares the drawn nodes with those that ran.
    """

    input, output = "in", "out"
    """Keys of the input's and the output's box."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        """Boxes, by key."""
        self.arrows: list[tuple[str, str, str, bool]] = []
        """Start, end, label, and True if only a decision passes."""

    def box(self, node: object = None, label: str | None = None) -> str:
        """Draw a node by its name or a label, or a step without a node. Return the box's key."""
        key = str(len(self.boxes) + 1)
        self.boxes[key] = Box(label or str(getattr(node, "name", "step")), node)
        return key

    def arrow(self, *keys: str, label: str = "", decides: bool = False) -> None:
        """Draw arrows from each box to the next.

        Args:
            keys: Keys of boxes, `Sketch.input` and `Sketch.output`.
            label: Label of each arrow.
            decides: True if only a decision passes. Drawn dashed.
        """
        self.arrows += [(a, b, label, decides) for a, b in pairwise(keys)]

    def chain(self, *steps: object) -> list[str]:
        """Draw steps in a row, from the recipe's input to its output. Return their keys.

        A step is a node, a node and its label, or only a label. `None` is left out.
        """
        keys = [self._step(step) for step in steps if step is not None]
        self.arrow(self.input, *keys, self.output)
        return keys

    def _step(self, step: object) -> str:
        if isinstance(step, str):
            return self.box(label=step)
        if is_sequence(step):
            node, label = step
            return self.box(node, str(label))
        return self.box(step)

    def side_by_side(self, start: str, branches: Iterable[tuple[object, str]]) -> str:
        """Draw nodes asked in parallel, with labels. Return the key of their answers."""
        boxes = [self.box(node, label) for node, label in branches]
        answers = self.box(label="answers")
        for box in boxes:
            self.arrow(start, box, answers)
        return answers


class Drawings(Protocol):
    """Makes drawings."""

    def drawing_of(self, drawn: Drawable, /) -> Drawing:
        """Return the drawing of a node of nodes."""
        ...

    def sketch_plan(self, plan: Plan, sketch: Sketch, /) -> None:
        """Draw the steps of a plan."""
        ...


DRAWINGS: Door[Drawings] = Door("moa.adapters.drawing")
