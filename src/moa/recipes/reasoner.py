"""Reasoner: thinks step by step, and keeps its reasons and its answer apart."""

from __future__ import annotations

from functools import partial
from typing import Any, Generic, TypeVar, Unpack, overload

from pydantic import BaseModel, ConfigDict, Field

from moa.agents.agent import REPLY, Agent, Settings
from moa.agents.base import ready
from moa.endpoints import Completion, Endpoint

A = TypeVar("A")


class Reasoned(BaseModel, Generic[A]):
    """An answer, and how it was found."""

    model_config = ConfigDict(frozen=True)

    # A model writes its fields in this order, so it reasons before it answers.
    reasons: str = Field(description="the steps that lead to the answer, one after another")
    answer: A = Field(description="the answer alone")


class Reasoner(Agent[str | BaseModel, Reasoned[A]], Generic[A]):
    """Reasons step by step before it answers.

    The model writes the reasons before the answer; for a thinking model they are its thoughts.
    Source: chain of thought, https://arxiv.org/abs/2201.11903.

    Args:
        endpoint: The endpoint that thinks, or its name: `"VENDOR:MODEL"`.
        answer: Type of the answer: text, a number, an Enum, a pydantic model.
        instructions: The task, in words.
        settings: See `Agent`.

    Raises:
        CapabilityError: the endpoint can't complete.

    Examples:
        >>> from moa.recipes.reasoner import Reasoned
        >>> small = ScriptedEndpoint([Reasoned[int](reasons="3 and 4 are 7", answer=7)])
        >>> Reasoner(small, answer=int).run_sync("3 + 4?").output.answer
        7
    """

    @overload
    def __init__(
        self: Reasoner[str],
        endpoint: Endpoint | str,
        *,
        instructions: str = ...,
        **settings: Unpack[Settings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        endpoint: Endpoint | str,
        *,
        answer: type[A],
        instructions: str = ...,
        **settings: Unpack[Settings],
    ) -> None: ...
    def __init__(
        self,
        endpoint: Endpoint | str,
        *,
        answer: Any = str,
        instructions: str = "Think step by step, then give the answer.",
        **settings: Unpack[Settings],
    ) -> None:
        self.output_type = Reasoned[answer]
        super().__init__(endpoint, instructions=instructions, **settings)

    def read(self, completion: Completion) -> Reasoned[A]:
        """Read the answer; a thinking model's thoughts replace the reasons that it wrote."""
        output = super().read(completion)
        if completion.reasoning:
            return output.model_copy(update={"reasons": completion.reasoning})
        return output


ready("reasoner", "Thinks step by step", "llm")(partial(Reasoner[str], instructions=REPLY))
