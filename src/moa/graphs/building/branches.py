"""Branches: which labels of which `match` a step was declared under."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Branch:
    """One label of a `match`."""

    match: object
    """The step of the `match`; steps are compared by identity."""
    label: object
    outer: Branch | None
    """The branch that the `match` itself stands in."""

    @property
    def lineage(self) -> Iterator[Branch]:
        """This branch and those around it, from the inside out."""
        level: Branch | None = self
        while level is not None:
            yield level
            level = level.outer


def innermost(branches: Iterable[Branch | None]) -> Branch | None:
    """The deepest of several branches."""
    return max(branches, key=lambda branch: len(_lineage(branch)), default=None)


def apart(one: Branch | None, other: Branch | None) -> bool:
    """Whether two branches are never taken together."""
    labels = {branch.match: branch.label for branch in _lineage(one)}
    return any(b.match in labels and labels[b.match] != b.label for b in _lineage(other))


def shared(one: Branch | None, other: Branch | None) -> Branch | None:
    """The innermost branch around both."""
    around = _lineage(other)
    return next((branch for branch in _lineage(one) if branch in around), None)


def path(branch: Branch | None) -> str:
    """Labels from the outside in, as `card/lost`."""
    return "/".join(label_name(level.label) for level in reversed(_lineage(branch)))


def label_name(label: object) -> str:
    """A label as a reader knows it."""
    if isinstance(label, Enum):
        return label.value if isinstance(label.value, str) else label.name
    return "none of these" if label is None else str(label)


def _lineage(branch: Branch | None) -> tuple[Branch, ...]:
    return () if branch is None else tuple(branch.lineage)
