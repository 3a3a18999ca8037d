"""Best of n: several samples of one node, and a judge or a verifier that picks one.

Source: https://arxiv.org/abs/2110.14168 (Cobbe et al. 2021, "Training verifiers to solve math word
problems"), where the verifier is a model that was trained for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal

from pydantic import Field

from moa.agents.boundary import In
from moa.calibration.acceptance import sampled, text_of
from moa.context import RunContext
from moa.errors import ConfigError
from moa.graphs.building.builder import Graph
from moa.graphs.building.plan import Plan
from moa.graphs.building.signatures import signature_of
from moa.graphs.pattern import Pattern
from moa.handoffs import Reply
from moa.mixing.answer_extraction import Key, fitting, stated, written
from moa.mixing.fan_out import fan_out
from moa.mixing.judges import Candidates, Picked, distinct, picked_by
from moa.mixing.voting import Tally
from moa.node import Node
from moa.trace import Piece
from moa.usage import UNLIMITED, Budget

_FOR_SAMPLES = 0.7
"""Share of the time left after which no further sample is waited for; the rest is the judge's."""


class BestOf(Reply):
    """A text that was picked from several."""

    verdict: Literal["won", "tied", "unreadable", "unopposed", "unjudged"]
    """`won`: the judge prefers it. `tied`: others are as good. `unreadable`: the judge gave no
    verdict. `unopposed`: there was one text alone to pick from. `unjudged`: the judge could not be
    asked. Where it didn't win, most samples answer as it does."""
    reason: str
    """Why it was picked, in words."""
    samples: int = Field(ge=1)
    """Samples that came."""
    texts: int = Field(ge=1)
    """Different texts among them, which is what is judged."""
    partial: bool = False
    """Whether samples failed, or were too many for the budget or the time."""


class BestOfN(Pattern[In, BestOf], Generic[In]):
    """What `best_of_n` makes."""

    def __init__(
        self,
        node: Node[In, Any],
        judge: Node[Candidates, Picked],
        *,
        samples: int,
        key: Key,
        name: str,
        budget: Budget,
        timeout_s: float | None,
    ) -> None:
        if samples < 1:
            raise ConfigError(f"{name}: samples={samples}, but it takes at least 1")
        signature = signature_of(node)
        self.input_type = signature.input(0)
        super().__init__(name=name, budget=budget, timeout_s=timeout_s)
        self.node = sampled(node, samples)
        self.judge = judge
        self.samples = samples
        self.key = fitting(key, signature.output)

    async def answer(self, request: In, context: RunContext) -> BestOf:
        """Sample side by side, and have the best one picked.

        Raises:
            QuorumNotMet: no sample came; with the cause of each.
        """
        left = context.remaining_s()
        hurry_s = None if left is None else left * _FOR_SAMPLES
        members = [self.node] * self.samples
        drawn = await fan_out(members, request, context, patience_s=None, hurry_s=hurry_s)
        outputs = [one.output for one in drawn]
        texts = [written(output, self.key(output)) for output in outputs]
        votes = self._votes(outputs)
        places = distinct(texts)
        picked = None
        if len(places) > 1:
            replies = [texts[p] for p in places]
            picked = await picked_by(self.judge, text_of(request), replies, context)
        place, verdict, reason = self._read(picked, places, votes)
        if len(drawn) < self.samples:
            context.note("degraded", f"picked from {len(drawn)} of {self.samples} samples")
        context.emit(Piece(context.node, texts[place]))
        return BestOf(
            text=texts[place],
            verdict=verdict,
            reason=reason,
            samples=len(drawn),
            texts=len(places),
            partial=len(drawn) < self.samples,
        )

    @property
    def plan(self) -> Plan:
        """The node and the judge as a graph, to be drawn; it runs otherwise."""
        g: Graph[Any] = Graph(self.name, self.input_type)
        sample = g.add(self.node, g.input, name=f"{self.node.name} x {self.samples}")
        picked = g.add(self.judge, g.join(candidates, g.input, sample))
        return g.build(g.join(best, sample, picked)).plan

    def _votes(self, outputs: Sequence[Any]) -> list[int]:
        """How many samples answer as each does."""
        tally = Tally(left=len(outputs))
        answers = [self.key(output) for output in outputs]
        for place, answer in enumerate(answers):
            tally = tally.with_vote(place, answer)
        return [0 if answer is None else tally.counts[answer] for answer in answers]

    def _read(
        self, picked: Picked | None, places: Sequence[int], votes: Sequence[int]
    ) -> tuple[int, Literal["won", "tied", "unreadable", "unopposed", "unjudged"], str]:
        """Give the place of the best sample, the verdict on it and the reason."""
        if picked is not None and picked.verdict == "won":
            return places[picked.place], "won", picked.reason
        among = places
        if picked is not None and picked.verdict == "tied":
            among = [places[p] for p in sorted((picked.place, *picked.tied))]
        place = max(among, key=lambda p: votes[p])  # the first of those with equally many
        if len(places) == 1:
            return place, "unopposed", "all samples are the same text, or only one came"
        agree = f"{votes[place]} of {len(votes)} samples answer so"
        if picked is None:
            return place, "unjudged", agree
        return place, picked.verdict, f"{picked.reason}; {agree}"


def best_of_n(
    node: Node[In, Any],
    judge: Node[Candidates, Picked],
    *,
    samples: int = 4,
    key: Key = stated,
    name: str = "best_of_n",
    budget: Budget = UNLIMITED,
    timeout_s: float | None = None,
) -> BestOfN[In]:
    """Sample one node several times, and give the sample that a judge or a verifier picks.

    Equal texts are judged once. Where the judge finds a tie, gives no readable verdict, or can't be
    asked, the answer that most samples give decides, and the result says which it was. A sample
    that fails is left out; a deadline leaves the judge three tenths of the time.

    Args:
        node: Answers the request, differently each time: its temperature is above 0.
        judge: Picks: `Listwise(endpoint)`, `Pairwise(endpoint)` or `ByPolicy(policy)` of
            `moa.mixing.judges`, or a node of one's own.
        samples: Times that the node is asked.
        key: Turns what the node gives into what is compared; see `self_consistency`.
        name: Shown in traces, errors and drawings.
        budget: Limits on each run, on top of those of the run it is part of.
        timeout_s: Seconds for each run; `None`: as long as the run it is part of has.

    Raises:
        ConfigError: there is nothing to sample, the samples would all be the same, or the key is of
            a field that it doesn't give.
    """
    return BestOfN(
        node, judge, samples=samples, key=key, name=name, budget=budget, timeout_s=timeout_s
    )


def candidates(request: object, sample: object) -> Candidates:
    """Stand for what the judge reads in drawings; it is not run."""
    del request, sample
    raise AssertionError("a plan that is drawn is not run")


def best(sample: object, picked: Picked) -> BestOf:
    """Stand for the pick in drawings; it is not run."""
    del sample, picked
    raise AssertionError("a plan that is drawn is not run")
