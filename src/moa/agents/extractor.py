"""Extractor: reads the fields of any pydantic model out of a text."""

from __future__ import annotations

from typing import Unpack

from moa.agents.agent import Agent, Settings
from moa.agents.base import Out
from moa.core.node import Text
from moa.endpoints import Endpoint

_INSTRUCTIONS = (
    "Extract the fields below from the text. Copy what the text says. If it does not say "
    "something, "
    "answer null, or leave it empty. Do not guess."
)


class Extractor(Agent[Text | str, Out]):
    """Fills the fields of a pydantic model from a text.

    Args:
        endpoint: The endpoint that reads, or its name: `"VENDOR:MODEL"`.
        model: The fields to find; the endpoint reads their descriptions.
        instructions: Replaces the default instructions.
        settings: See `Agent`.

    Raises:
        CapabilityError: the endpoint can't complete.

    Examples:
        >>> class Person(BaseModel):
        ...     name: str
        ...     age: int
        >>> small = ScriptedEndpoint([Person(name="Ann", age=41)])
        >>> Extractor(small, Person).run_sync("Ann turned 41 today.").output
        Person(name='Ann', age=41)
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        model: type[Out],
        *,
        instructions: str = _INSTRUCTIONS,
        **settings: Unpack[Settings],
    ) -> None:
        self.output_type = model
        super().__init__(endpoint, instructions=instructions, **settings)
