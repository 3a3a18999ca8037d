"""Groundedness: stops an answer with sentences that its passages don't support."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

from pydantic import Field

from moa.agents.base import Limits, TypedNode
from moa.agents.filter import Verdict
from moa.core._async import gather
from moa.core.context import RunContext
from moa.decisions.acceptance import Policy
from moa.documents.sentences import sentences
from moa.guards import Exchange
from moa.guards.texts import texts_of
from moa.guards.verifiers import Grounded


class GroundedVerdict(Verdict):
    """Verdict on an answer: kept if it rests on its passages."""

    ungrounded: tuple[int, ...] = Field(default=())
    """Indices of the sentences that the passages don't support."""
    sentences: int = 0
    """Number of sentences."""


class Groundedness(TypedNode[Exchange, GroundedVerdict]):
    """Checks every sentence of an answer against passages. It belongs after a node.

    By default it compares words and numbers. That detects what was made up, but not what was
    combined wrongly, and works only in the language of the passages. Pass a `policy` to check
    differently, such as `Plausible` with a deciding node.

    Args:
        passages: Returns the passages: `lambda request, output: [...]`; `None`: every text of the
            request.
        policy: Judges a sentence as the reply, with the passages as the request; `None`:
            `Grounded(least=0.5)`.
        limits: See `Limits`.
    """

    def __init__(
        self,
        *,
        passages: Callable[[Any, Any], Sequence[str]] | None = None,
        policy: Policy | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        self._passages = passages
        self._policy = policy or Grounded(least=0.5)

    async def answer(self, request: Exchange, context: RunContext) -> GroundedVerdict:
        """Check the sentences in parallel. An empty answer passes."""
        text = "\n".join(texts_of(request.output))
        sources = texts_of(request.request)
        if self._passages is not None:
            sources = self._passages(request.request, request.output)
        passages = "\n\n".join(sources)
        statements = [
            sentence for _, sentence in sentences(text) if any(map(str.isalnum, sentence))
        ]
        judgements = await gather(
            self._policy.judge(passages, statement, context) for statement in statements
        )
        ungrounded = tuple(i for i, judgement in enumerate(judgements) if not judgement.accepted)
        is_kept = not ungrounded
        reason = f"{len(ungrounded)} of {len(statements)} sentences are not in the passages"
        if ungrounded:
            reason += (
                f"; the first is number {ungrounded[0] + 1}: "
                f"{judgements[ungrounded[0]].reasons[-1]}"
            )
        if not is_kept:
            context.note("dropped", reason)
        return GroundedVerdict(
            kept=is_kept,
            reason=reason,
            confidence=None,
            met=not is_kept,
            ungrounded=ungrounded,
            sentences=len(statements),
        )
