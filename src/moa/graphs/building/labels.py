"""Labels: what a choice in a graph can answer, as far as it is known before a run."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from moa.graphs.engine.handles import NodeStep, Step
from moa.questions import Choice, Question


def labels_of(choice: Step, given: Sequence[object] | None) -> tuple[object, ...] | None:
    """All labels: as given, else of the choice's type, else of the one question that its node asks.

    Returns:
        `None` where nobody tells them.
    """
    if given is not None:
        return tuple(given)
    typed = _of_type(choice.type)
    if typed is not None:
        return typed
    if isinstance(choice, NodeStep):
        questions: tuple[Question, ...] = getattr(choice.node, "questions", ())
        if len(questions) == 1:
            return tuple(o.value for o in questions[0].options if o.value is not None)
    return None


def _of_type(kind: object) -> tuple[object, ...] | None:
    if not (isinstance(kind, type) and issubclass(kind, Choice)):
        return None
    arguments: tuple[Any, ...] = kind.__pydantic_generic_metadata__["args"]
    labels: object = arguments[0] if arguments else None
    if isinstance(labels, type) and issubclass(labels, Enum):
        return tuple(labels)
    return get_args(labels) if get_origin(labels) is Literal else None
