"""Answering: a question from passages, with citations, or word that they don't answer it."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from moa.agents import Agent
from moa.agents.prompts import escaped
from moa.documents import Passage
from moa.documents.citing import listed
from moa.handoffs import Reply

ABSENT = "NOT IN THE DOCUMENTS"
"""What a writer answers where the passages don't."""
_LEADING = re.compile(r"^[\s\"'*_`\u201c]+")


class Sheet(BaseModel):
    """A question, and the passages to answer it from."""

    model_config = ConfigDict(frozen=True)

    question: str
    passages: tuple[Passage, ...]
    """They are cited by their places, from 1."""


class Answerer(Agent[Sheet, Reply]):
    """Writes an answer from passages, each sentence with the numbers of those it rests on.

    Where the passages don't hold the answer, it writes `NOT IN THE DOCUMENTS`.

    Args:
        endpoint: Who writes.
        settings: See `Agent`.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    instructions = (
        "You answer questions from numbered passages and from nothing else. Look for the passage "
        "that holds the answer. Answer in one or two short sentences, in the language of the "
        "question, and behind each write the number of the passage it rests on, as in [2]. If "
        "passages contradict each other, say so. If no passage holds the answer, write only: "
        f"{ABSENT}"
    )

    def prompt(self, request: Sheet) -> str:
        """Put the passages first, so that a server can keep them, and the question last."""
        return f"Passages:\n\n{listed(request.passages)}\n\nQuestion: {escaped(request.question)}"


def is_absent(text: str) -> bool:
    """Whether an answer says that the passages don't hold it."""
    return _LEADING.sub("", text).upper().startswith(ABSENT)


def may_be_absent(text: str) -> bool:
    """Whether the beginning of an answer can still become `NOT IN THE DOCUMENTS`."""
    begun = _LEADING.sub("", text).upper()
    return ABSENT.startswith(begun) or begun.startswith(ABSENT)
