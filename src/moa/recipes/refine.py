"""Refine: criticises and revises a draft until the critic is content, and keeps the best draft.

After Madaan et al. 2023, "Self-Refine: Iterative refinement with self-feedback", arXiv:2303.17651,
which keeps the last draft. A revision can be worse, so here the one with the best score is kept.
"""

from __future__ import annotations

from typing import Annotated, Generic

from pydantic import BaseModel, Field

from moa.agents.agent import Agent, Instructions, MaxTokens
from moa.agents.base import In
from moa.agents.prompts import block
from moa.agents.proposer import Answerer
from moa.core.context import RunContext, quiet
from moa.core.errors import ConfigError, MoaError
from moa.core.node import Frozen, Node, Reply, text_of
from moa.endpoints import Endpoint
from moa.graphs.engine.types import signature_of
from moa.graphs.fields import FromEndpoint
from moa.graphs.recipe import Recipe, Sketch


class Draft(Frozen):
    """A draft, and the request that it answers."""

    request: str
    text: str


class Critique(Frozen):
    """What is wrong with a draft."""

    # A model writes its fields in this order, so it looks for faults before it gives a score.
    faults: tuple[str, ...] = Field(max_length=8, description="what to change, one sentence each")
    score: int = Field(ge=0, le=10)


class Critic(Agent[Draft, Critique]):
    """Finds the faults of a draft."""

    instructions = (
        "You are a strict editor. List what is wrong, missing or unclear in the draft of an "
        "answer to "
        "the request, in one sentence each that says what to change. If nothing is worth changing, "
        "give an empty list. Then score the draft from 0 (useless) to 10 (nothing left to improve)."
    )

    def user_prompt(self, request: Draft) -> str:
        """Write the request and the draft, each as data."""
        return "\n\n".join((block(request.request, "Request"), block(request.text, "Draft")))


class DraftReview(Draft):
    """A draft, the request that it answers, and its faults."""

    faults: tuple[str, ...]


class Reviser(Agent[DraftReview, Reply]):
    """Revises a draft."""

    instructions = (
        "You are an editor. Rewrite the draft of an answer to the request: fix the faults that are "
        "real, and keep what is right. Give only the whole new answer, without comments."
    )

    def user_prompt(self, request: DraftReview) -> str:
        """Write the request, the draft and its faults, each as data."""
        faults = "\n".join(f"- {fault}" for fault in request.faults)
        parts = (("Request", request.request), ("Draft", request.text), ("Faults", faults))
        return "\n\n".join(block(text, name) for name, text in parts)


class RefinedReply(Reply):
    """The best of the drafts."""

    draft: int = Field(ge=0)
    """Index of the draft; 0 is the first."""
    drafts: int = Field(ge=1)
    """Number of drafts that were written."""
    score: int | None = None
    """Critic's score, from 0 to 10; `None` if it was not criticised."""
    faults: tuple[str, ...] = ()
    """Faults that the critic still finds in it."""
    content: bool = False
    """True if the critic is content: it finds no fault, or its score is high enough."""
    partial: bool = False
    """True if a failure, the budget or the time ended the revisions early."""


MAX_TOKENS = 512
"""Default maximum number of tokens of each text."""


def writer_of(
    endpoint: Endpoint,
    *,
    instructions: Instructions | None = None,
    max_tokens: MaxTokens = MAX_TOKENS,
) -> Agent[str | BaseModel, Reply]:
    """Make the writer from an endpoint. Without instructions it answers the request."""
    return Answerer(endpoint, instructions, name="writer", max_tokens=max_tokens, tag="")


def critic_of(endpoint: Endpoint, *, max_tokens: MaxTokens = MAX_TOKENS) -> Critic:
    """Make the critic from an endpoint."""
    return Critic(endpoint, max_tokens=max_tokens)


def reviser_of(endpoint: Endpoint, *, max_tokens: MaxTokens = MAX_TOKENS) -> Reviser:
    """Make the reviser from an endpoint."""
    return Reviser(endpoint, max_tokens=max_tokens)


class Refine(Recipe[In, RefinedReply], Generic[In], recipe="refine"):
    """A draft, its critique, and the best revision.

    The draft is revised until the critic is content. The answer is the draft with the best score;
    of equal ones, the earlier. If the critic or the reviser fails, or the budget or the time is up,
    it is the best draft so far, marked `partial`. A run takes up to `2 * rounds + 2` calls.

    Raises:
        ConfigError: no reviser is given, and the writer has no endpoint to use instead.

    Examples:
        >>> from moa.recipes.refine import Critic, Critique, Reviser
        >>> large = ScriptedEndpoint(["We are sorry.", "Sorry. Your refund is sent."])
        >>> faults = Critique(faults=("It doesn't say what happens now.",), score=4)
        >>> critic = Critic(ScriptedEndpoint([faults, Critique(faults=(), score=9)]))
        >>> refined = Refine(writer=Agent(large, "Reply."), critic=critic, reviser=Reviser(large))
        >>> print(refined.run_sync("My order never came.").output.text)
        Sorry. Your refund is sent.
    """

    writer: Annotated[Node[In, Reply], FromEndpoint(writer_of)]
    """Writes the first draft."""
    critic: Annotated[Node[Draft, Critique], FromEndpoint(critic_of)]
    """Finds faults and scores, such as `Critic(endpoint)`."""
    reviser: Annotated[Node[DraftReview, Reply], FromEndpoint(reviser_of)] | None = None
    """Revises a draft, such as `Reviser(endpoint)`; `None`: uses the writer's endpoint."""
    rounds: int = Field(default=2, ge=1)
    """Maximum number of revisions."""
    accept_score: int = Field(default=9, ge=0, le=10)
    """Minimum score, from 0 to 10, at which the critic counts as content despite faults."""

    def prepare(self) -> None:
        """Use the writer's endpoint for revisions, if no reviser is given."""
        self.input_type = signature_of(self.writer).input(0)
        if self.reviser is None:
            endpoint = getattr(self.writer, "endpoint", None)
            if endpoint is None:
                raise ConfigError(
                    f"{self.name}: {self.writer.name!r} has no endpoint that could revise its "
                    "draft: give a reviser"
                )
            max_tokens = getattr(self.writer, "max_tokens", MAX_TOKENS)
            self.reviser = reviser_of(endpoint, max_tokens=max_tokens)

    async def answer(self, request: In, context: RunContext) -> RefinedReply:
        """Write, criticise and revise.

        Raises:
            MoaError: the first draft could not be written, or the critic or the reviser is set up
                wrong, such as without its key.
        """
        silent = quiet(context)  # no draft is the answer before its critic has read it
        text = (await self.writer.run(request, silent)).output.text
        drafts, cause = await self._drafts(text_of(request), text, silent)
        # A revision must be better to replace the draft before it.
        best = max(drafts, key=lambda draft: -1 if draft.score is None else draft.score)
        if cause is not None:
            context.note("degraded", f"draft {best.draft + 1} of {len(drafts)} is kept: {cause}")
        return best.model_copy(update={"drafts": len(drafts), "partial": cause is not None})

    def sketch(self, sketch: Sketch) -> None:
        """Draw the draft, and one round of revision."""
        draft, critique = sketch.box(self.writer, "draft"), sketch.box(self.critic, "critique")
        revision = sketch.box(self.reviser, f"revision, up to {self.rounds} x")
        next_critique = sketch.box(self.critic, "its critique")
        sketch.arrow(sketch.input, draft, critique, sketch.output)
        sketch.arrow(critique, revision, next_critique, sketch.output)

    async def _drafts(
        self, request: str, text: str, context: RunContext
    ) -> tuple[list[RefinedReply], MoaError | None]:
        """Return all drafts, and the error that ended the revisions early, if any."""
        assert self.reviser is not None, "there is one once it is prepared"
        drafts: list[RefinedReply] = []
        try:
            for index in range(self.rounds + 1):
                refined = RefinedReply(text=text, draft=index, drafts=index + 1)
                drafts.append(refined)
                draft = Draft(request=request, text=text)
                critique = (await self.critic.run(draft, context)).output
                content = not critique.faults or critique.score >= self.accept_score
                update = {"score": critique.score, "faults": critique.faults, "content": content}
                drafts[-1] = refined.model_copy(update=update)
                if content or index == self.rounds:
                    break
                faulty = DraftReview(request=request, text=text, faults=critique.faults)
                text = (await self.reviser.run(faulty, context)).output.text
        except MoaError as error:
            if not error.recoverable:
                raise
            return drafts, error
        return drafts, None
