"""Best of n: samples one node several times, and a judge or verifier picks one.

Source: https://arxiv.org/abs/2110.14168 (Cobbe et al. 2021, "Training verifiers to solve math word
problems"), if the verifier is a trained model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Generic, Literal

from pydantic import Field

from moa.agents.base import In
from moa.core.context import RunContext
from moa.core.node import Node, Reply, text_of
from moa.graphs.fields import FromEndpoint, TableReader, only_in_tables
from moa.graphs.mixing.answer_extraction import write_answer
from moa.graphs.mixing.fan_out import fan_out
from moa.graphs.self_consistency import Sampling
from moa.guards.verifiers import Arithmetic
from moa.recipes.judges import ByPolicy, Candidates, Pick, ask_judge, distinct, judge_of

_FOR_SAMPLES = 0.7
"""Share of the remaining time to wait for samples. The rest is the judge's."""


class BestOf(Reply):
    """A text picked from several."""

    verdict: Literal["won", "tied", "unreadable", "unopposed", "unjudged"]
    """`won`: the judge prefers it. `tied`: others are as good. `unreadable`: the judge gave no
    verdict. `unopposed`: there was only one text. `unjudged`: the judge could not be asked. If it
    didn't win, it has the most frequent answer."""
    reason: str
    """Reason for the pick, in words."""
    samples: int = Field(ge=1)
    """Number of samples received."""
    texts: int = Field(ge=1)
    """Number of different texts among them. These are judged."""
    partial: bool = False
    """True if samples failed, or the budget or time was too short for all."""


def _arithmetic(value: object, table: TableReader) -> object:
    """Read `by = "arithmetic"` in a table, which needs no endpoint."""
    return ByPolicy(Arithmetic()) if table.shared.get("by") == "arithmetic" else value


class BestOfN(Sampling[In, BestOf], Generic[In], recipe="best_of_n"):
    """Several samples, and a judge that picks.

    Equal texts are judged once. If the judge finds a tie, gives no readable verdict, or can't be
    asked, the most frequent answer is picked, and the verdict says which of these happened. A
    failed sample is left out. With a deadline, the judge has three tenths of the time.

    Examples:
        >>> from moa.guards.verifiers import Arithmetic
        >>> from moa.recipes.judges import ByPolicy
        >>> small = ScriptedEndpoint(["3 * 4 = 11, so $11.", "3 * 4 = 12, so $12."])
        >>> writer = Agent(small, "Work it out.", temperature=0.7)
        >>> best = BestOfN(node=writer, judge=ByPolicy(Arithmetic(least=1)), samples=2)
        >>> print(best.run_sync("What do 3 bags at $4 cost?").output.text)
        3 * 4 = 12, so $12.
    """

    judge: Annotated[Node[Candidates, Pick], FromEndpoint(judge_of), only_in_tables(_arithmetic)]
    """Judge that picks: `Listwise(endpoint)` or `ByPolicy(policy)` of `moa.recipes.judges`,
    or your own node. In a table: `by = "list"` or `"arithmetic"`."""
    samples: int = Field(default=4, ge=1)
    """Number of samples."""

    async def answer(self, request: In, context: RunContext) -> BestOf:
        """Sample in parallel, and let the judge pick the best.

        Raises:
            QuorumNotMet: all samples failed; with the cause of each.
        """
        left = context.remaining_s()
        hurry_s = None if left is None else left * _FOR_SAMPLES
        members = [self.node] * self.samples
        results = await fan_out(
            members, request, context, straggler_timeout_s=None, hurry_s=hurry_s
        )
        outputs = [result.output for result in results]
        answers = [self.key(output) for output in outputs]
        texts = [write_answer(*pair) for pair in zip(outputs, answers, strict=True)]
        counts = Counter(answer for answer in answers if answer is not None)
        votes = [counts[answer] for answer in answers]
        indices = distinct(texts)
        pick = None
        if len(indices) > 1:
            replies = [texts[p] for p in indices]
            pick = await ask_judge(self.judge, text_of(request), replies, context)
        index, verdict, reason = self._read(pick, indices, votes)
        if len(results) < self.samples:
            context.note("degraded", f"picked from {len(results)} of {self.samples} samples")
        return BestOf(
            text=texts[index],
            verdict=verdict,
            reason=reason,
            samples=len(results),
            texts=len(indices),
            partial=len(results) < self.samples,
        )

    def _read(
        self, pick: Pick | None, indices: Sequence[int], votes: Sequence[int]
    ) -> tuple[int, Literal["won", "tied", "unreadable", "unopposed", "unjudged"], str]:
        """Return the index of the best sample, its verdict and the reason."""
        if pick is not None and pick.verdict == "won":
            return indices[pick.place], "won", pick.reason
        among = indices
        if pick is not None and pick.verdict == "tied":
            among = [indices[p] for p in sorted((pick.place, *pick.tied))]
        index = max(among, key=lambda p: votes[p])  # ties: the first one
        if len(indices) == 1:
            return index, "unopposed", "all samples are the same text, or only one came"
        agree = f"{votes[index]} of {len(votes)} samples answer so"
        if pick is None:
            return index, "unjudged", agree
        return index, pick.verdict, f"{pick.reason}; {agree}"
