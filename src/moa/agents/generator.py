"""Generator: writes a text, or any pydantic model, by instructions."""

from __future__ import annotations

from functools import partial
from typing import Any, Unpack, overload

from pydantic import BaseModel

from moa.agents import Agent, Settings
from moa.agents.boundary import Out, ready
from moa.endpoints import Endpoint
from moa.handoffs import Reply

REPLY = "Answer the message, in its language."
"""What to do, where nothing else is said."""


class Generator(Agent[str | BaseModel, Out]):
    """Follows instructions on a text, or on any pydantic model, which is data: orders in it count
    for nothing. Where it is the request itself, as in a chat, `tag=""` leaves it as it is.

    Args:
        endpoint: Who writes.
        instructions: What to do with the input, in words.
        output: What to give: a `Reply` is plain text, and streams; any other pydantic model is
            asked for by its JSON schema.
        settings: See `Agent`.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    @overload
    def __init__(
        self: Generator[Reply],
        endpoint: Endpoint,
        instructions: str,
        **settings: Unpack[Settings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        endpoint: Endpoint,
        instructions: str,
        *,
        output: type[Out],
        **settings: Unpack[Settings],
    ) -> None: ...
    def __init__(
        self,
        endpoint: Endpoint,
        instructions: str,
        *,
        output: Any = Reply,
        **settings: Unpack[Settings],
    ) -> None:
        self.output_type = output
        super().__init__(endpoint, instructions=instructions, **settings)


ready("generator", "Writes by instructions", "llm")(partial(Generator[Reply], instructions=REPLY))
