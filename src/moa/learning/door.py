"""Door: what a cascade of the core asks of learning."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationInfo
from pydantic.fields import FieldInfo

from moa.agents.base import In, Out
from moa.core.node import Node
from moa.graphs.cascade import LearnSettings
from moa.learning import student
from moa.learning.cascade import Learner


def learn_fields() -> Mapping[str, FieldInfo]:
    """Return the fields of the `learn` setting, by key."""
    return student.Learn.model_fields


def read_learn(value: object, info: ValidationInfo) -> student.Learn | None:
    """Read the `learn` setting."""
    return student.read_learn(value, info)


def learner_of(
    name: str, small: Node[In, Out], large: Node[In, Out], learn: LearnSettings
) -> Learner[In, Out]:
    """Make the learner of a cascade of this name."""
    assert isinstance(learn, student.Learn), "the setting was read"
    return Learner(name, small, large, learn)
