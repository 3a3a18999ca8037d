"""Sourced: what comes of a question to documents: an answer that rests on passages, or none."""

from __future__ import annotations

from typing import Literal

from moa.documents import Passage
from moa.documents.checking import Claim
from moa.documents.citing import Citation
from moa.handoffs import Dropped, Reply


class Sourced(Reply):
    """An answer that rests on passages."""

    kind: Literal["answer", "extract"]
    """An extract is a sentence of a passage, word for word: no model wrote it."""
    citations: tuple[Citation, ...]
    """The passages that it cites."""
    claims: tuple[Claim, ...]
    """Its sentences."""
    passages: tuple[Passage, ...]
    """All that it could have rested on; `[1]` is the first."""

    @property
    def supported(self) -> bool:
        """Whether a check found every sentence in the passages that it cites."""
        return all(claim.verdict == "supported" for claim in self.claims)

    def __str__(self) -> str:
        sources = "; ".join(f"[{each.number}] {each.passage.source}" for each in self.citations)
        extract = "extract: " if self.kind == "extract" else ""
        return f"{extract}{self.text}" + (f" ({sources})" if sources else "")


class NotInDocuments(Dropped):
    """The documents don't answer the question."""

    kind: Literal["not in the documents"] = "not in the documents"
    passages: tuple[Passage, ...] = ()
    """The nearest that were found."""

    def __str__(self) -> str:
        return f"not in the documents: {self.reason}"
