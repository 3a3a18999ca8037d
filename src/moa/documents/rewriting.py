"""Rewriting: a question as a query, in the words that the documents would use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from moa.agents import Agent
from moa.handoffs import Text


class Query(BaseModel):
    """What to search for."""

    model_config = ConfigDict(frozen=True)

    query: str = Field(min_length=1, max_length=300)


class Rewriter(Agent[Text | str, Query]):
    """Writes the words that a passage with the answer would hold.

    Args:
        endpoint: Who rewrites.
        settings: See `Agent`.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    instructions = (
        "Turn the question into a search query: the words and names, with synonyms, that a passage "
        "with the answer would contain, in the language of the question. Do not answer it."
    )
