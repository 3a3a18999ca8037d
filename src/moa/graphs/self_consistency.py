"""Self-consistency: asks one node several times, and gives the majority answer.

After Wang et al. 2023, "Self-consistency improves chain of thought reasoning in language models",
arXiv:2203.11171.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Generic

from pydantic import Field

from moa.agents.base import In, Out
from moa.agents.proposer import sampler
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, DeadlineExceeded, QuorumNotMet
from moa.core.node import Node
from moa.decisions.acceptance import check_sampling
from moa.graphs.engine.types import signature_of
from moa.graphs.fields import FromEndpoint
from moa.graphs.mixing.answer_extraction import Key, stated
from moa.graphs.mixing.fan_out import fan_out
from moa.graphs.mixing.voting import Tally, VotedReply
from moa.graphs.recipe import Recipe, Sketch


class Sampling(Recipe[In, Out], Generic[In, Out]):
    """Base class of recipes that ask one node several times, and choose among its samples.

    Raises:
        ConfigError: the samples would all be the same.
    """

    node: Annotated[Node[In, object], FromEndpoint(sampler, tier="slm")]
    """Answers the request: a writer, an agent with a typed output, or a graph. Its answers to one
    request must differ, so its temperature must be above 0."""
    samples: int = Field(default=5, ge=1)
    """Maximum number of samples."""
    key: Key = stated
    """Function that extracts the answer to count from an output, such as `stated` or `last_number`
    of `moa.graphs.mixing.answer_extraction`. In a table: the name of one of these two."""

    def prepare(self) -> None:
        """Check that samples can differ."""
        self.input_type = signature_of(self.node).input(0)
        self.node = check_sampling(self.node, self.samples)

    def sketch(self, sketch: Sketch) -> None:
        """Draw the node, and the vote or the judge."""
        chooser = getattr(self, "judge", "vote")
        sketch.chain((self.node, f"{self.node.name} x {self.samples}"), chooser)


class SelfConsistency(Sampling[In, VotedReply], Generic[In], recipe="self_consistency"):
    """Asks one node several times, and gives the answer that most of its samples give.

    It stops as soon as no further sample can change the majority. A failed sample is left out. If
    the budget or the time runs out, the majority so far is the answer, marked `partial` if the
    missing samples could have changed it.

    Examples:
        >>> small = ScriptedEndpoint(["It is 7.", "It is 8.", "So 7."])
        >>> writer = Agent(small, "Solve.", temperature=0.7)
        >>> output = SelfConsistency(node=writer, samples=3).run_sync("3 + 4?").output
        >>> output.answer
        '7'
    """

    max_concurrency: int | None = Field(default=None, ge=1)
    """Maximum number of samples in parallel; `None`: as many as could settle the vote if they
    agreed, which takes the fewest calls. The number of `samples` is the fastest."""

    async def answer(self, request: In, context: RunContext) -> VotedReply:
        """Sample until no further sample can change the majority.

        Raises:
            QuorumNotMet: all of the first samples failed. It has the cause of each.
            OutputError: no answer could be extracted from any sample.
        """
        tally, outputs = Tally(left=self.samples), dict[int, object]()
        while not tally.is_settled:
            size = min(self.max_concurrency or tally.minimum_needed, tally.left)
            try:
                samples = await self._sample(size, request, tally, context)
            except (QuorumNotMet, BudgetExceeded, DeadlineExceeded) as error:
                if not outputs:
                    raise
                goes_on = isinstance(error, QuorumNotMet)
                tally = tally.drop(size if goes_on else tally.left)
                continue
            start = self.samples - tally.left
            for index, output in samples.items():
                outputs[start + index] = output
                tally = tally.with_vote(start + index, self.key(output))
            if not tally.is_settled:
                tally = tally.drop(size - len(samples))
        voted = tally.majority(outputs, self.name)
        if voted.partial:
            context.note(
                "degraded",
                f"{len(outputs)} of {self.samples} samples came, and the others could have changed "
                "the majority",
            )
        return voted

    async def _sample(
        self, size: int, request: In, tally: Tally, context: RunContext
    ) -> dict[int, object]:
        def enough(outputs: Sequence[object]) -> bool:
            seen = tally
            for index, output in enumerate(outputs, start=self.samples):
                seen = seen.with_vote(index, self.key(output))
            return seen.is_settled

        results = await fan_out(
            [self.node] * size, request, context, straggler_timeout_s=None, is_enough=enough
        )
        return {result.place: result.output for result in results}
