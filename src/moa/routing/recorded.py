"""Recorded answers: rows as requests to be routed, and whether both models were right on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import ConfigDict

from moa.node import Frozen

_NO_FIELDS = {"id", "strong_response"}
_LONGEST = 100
"""Characters of a field that groups rows."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request to be routed."""

    prompt: str
    reply: str | None = None
    """What the weak model answered; `None` where it wasn't asked yet."""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    """Whatever else is known of it, such as its subject."""


class Request(Frozen):
    """A row to be routed: `prompt`, and whatever else is known, of which short texts are used."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    weak_response: str | None = None
    """What the weak model answered."""

    @cached_property
    def case(self) -> Case:
        """What a router looks at."""
        fields = {
            name: value
            for name, value in (self.model_extra or {}).items()
            if name not in _NO_FIELDS and isinstance(value, str) and 0 < len(value) <= _LONGEST
        }
        return Case(self.prompt, self.weak_response, fields)


class Recorded(Request):
    """A row that both models have answered."""

    weak_correct: bool
    strong_correct: bool

    @property
    def gain(self) -> int:
        """What the strong model gains: 1, 0 or -1."""
        return int(self.strong_correct) - int(self.weak_correct)
