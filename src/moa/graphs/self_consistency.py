"""Self-consistency: one node asked several times, and the answer that most of its samples give.

After Wang et al. 2023, "Self-consistency improves chain of thought reasoning in language models",
arXiv:2203.11171.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

from moa.agents.boundary import In
from moa.calibration.acceptance import sampled
from moa.context import RunContext
from moa.errors import BudgetExceeded, ConfigError, DeadlineExceeded, OutputError, QuorumNotMet
from moa.graphs.building.builder import Graph
from moa.graphs.building.plan import Plan
from moa.graphs.building.signatures import signature_of
from moa.graphs.pattern import Pattern
from moa.mixing.fan_out import fan_out
from moa.mixing.stating import Key, fitting, stated, written
from moa.mixing.voting import Tally, Voted
from moa.node import Node
from moa.trace import Piece
from moa.usage import UNLIMITED, Budget


class SelfConsistency(Pattern[In, Voted], Generic[In]):
    """What `self_consistency` makes."""

    def __init__(
        self,
        node: Node[In, Any],
        *,
        samples: int,
        key: Key,
        at_once: int | None,
        name: str,
        budget: Budget,
        timeout_s: float | None,
    ) -> None:
        if samples < 1 or (at_once or 1) < 1:
            raise ConfigError(
                f"{name}: samples={samples} and at_once={at_once}, but both must be at least 1"
            )
        signature = signature_of(node)
        self.input_type = signature.input(0)
        super().__init__(name=name, budget=budget, timeout_s=timeout_s)
        self.node = sampled(node, samples)
        self.samples = samples
        self.key = fitting(key, signature.output)
        self.at_once = at_once

    async def answer(self, request: In, context: RunContext) -> Voted:
        """Sample until no further sample can change the majority.

        Raises:
            QuorumNotMet: none of the first samples came; with the cause of each.
            OutputError: no sample holds an answer that could be read.
        """
        tally, outputs = Tally(left=self.samples), dict[int, Any]()
        while not tally.settled:
            size = min(self.at_once or tally.wanted, tally.left)
            try:
                drawn = await self._sampled(size, request, tally, context)
            except (QuorumNotMet, BudgetExceeded, DeadlineExceeded) as error:
                if not outputs:
                    raise
                goes_on = isinstance(error, QuorumNotMet)
                tally = tally.without(size if goes_on else tally.left)
                continue
            start = self.samples - tally.left
            for place, output in drawn.items():
                outputs[start + place] = output
                tally = tally.with_vote(start + place, self.key(output))
            if not tally.settled:
                tally = tally.without(size - len(drawn))
        return self._voted(tally, outputs, context)

    @property
    def plan(self) -> Plan:
        """The node and the vote as a graph, to be drawn; it runs otherwise."""
        g: Graph[Any] = Graph(self.name, self.input_type)
        sample = g.add(self.node, g.input, name=f"{self.node.name} x {self.samples}")
        return g.build(g.add(vote, sample)).plan

    async def _sampled(
        self, size: int, request: In, tally: Tally, context: RunContext
    ) -> dict[int, Any]:
        def enough(outputs: Sequence[Any]) -> bool:
            seen = tally
            for place, output in enumerate(outputs, start=self.samples):
                seen = seen.with_vote(place, self.key(output))
            return seen.settled

        drawn = await fan_out([self.node] * size, request, context, patience_s=None, enough=enough)
        return {one.place: one.output for one in drawn}

    def _voted(self, tally: Tally, outputs: dict[int, Any], context: RunContext) -> Voted:
        if not tally.leaders:
            raise OutputError(
                f"in none of {len(outputs)} samples an answer was found that could be counted. "
                "Ask for a form that the key reads",
                node=self.name,
                text=written(next(iter(outputs.values())), None),
            )
        winner = tally.leaders[0]
        voted = tally.voted(written(outputs[tally.place_of(winner)], winner), winner)
        if voted.partial:
            context.note(
                "degraded",
                f"{len(outputs)} of {self.samples} samples came, and the others could have changed "
                "the majority",
            )
        context.emit(Piece(context.node, voted.text))
        return voted


def self_consistency(
    node: Node[In, Any],
    *,
    samples: int = 5,
    key: Key = stated,
    at_once: int | None = None,
    name: str = "self_consistency",
    budget: Budget = UNLIMITED,
    timeout_s: float | None = None,
) -> SelfConsistency[In]:
    """Ask one node several times, and give the answer that most of its samples give.

    It stops as soon as no further sample can change the majority. A sample that fails is left out;
    where the budget or the time ends it, the majority so far is the answer, marked `partial` if the
    missing samples could have changed it.

    Args:
        node: Answers the request: a writer, an agent with a typed output, a graph. It must give
            different answers to one request, so its temperature is above 0.
        samples: Most times that it is asked.
        key: Turns what it gives into what is counted: `stated`, `last_number`, `field_of("total")`
            or `label_of([…])` of `moa.mixing.stating`, or one's own function.
        at_once: Samples that are asked side by side; `None`: as many as could settle the vote if
            they agreed, which costs the fewest calls. As many as `samples` is the quickest.
        name: Shown in traces, errors and drawings.
        budget: Limits on each run, on top of those of the run it is part of.
        timeout_s: Seconds for each run; `None`: as long as the run it is part of has.

    Raises:
        ConfigError: there is nothing to sample, the samples would all be the same, or the key is of
            a field that it doesn't give.
    """
    return SelfConsistency(
        node,
        samples=samples,
        key=key,
        at_once=at_once,
        name=name,
        budget=budget,
        timeout_s=timeout_s,
    )


def vote(sample: object) -> Voted:
    """Stand for the vote in drawings; it is not run."""
    del sample
    raise AssertionError("a plan that is drawn is not run")
