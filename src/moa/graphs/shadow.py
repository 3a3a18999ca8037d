"""Shadow: runs a node beside the one in use, on real requests, without acting on what it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic

from pydantic import Field

from moa.agents.base import In, Out
from moa.budget import UNLIMITED, Budget
from moa.context import RunContext
from moa.errors import MoaError, NodeError
from moa.graphs.cascade_oversight import same_answer
from moa.graphs.engine.types import signature_of
from moa.graphs.fields import FromGraph
from moa.graphs.recipe import Recipe, Sketch
from moa.node import Node, Result
from moa.usage import Usage

_MARGIN_S = 0.1
"""Time of a run that is kept back for handing its answer on."""
_STOPS_WITHIN_S = 0.05
"""How long a run waits until a stopped candidate has ended."""


@dataclass(slots=True)
class Shadowed:
    """What was seen of a node that ran in the shadow of another. It grows while that is used."""

    runs: int = 0
    agreed: int = 0
    """Runs in which both gave the same answer."""
    differed: int = 0
    failed: int = 0
    """Runs in which the candidate failed, or its answer could not be compared."""
    late: int = 0
    """Runs in which the candidate was stopped, since the answer had been there too long."""
    seconds: float = 0.0
    """Wall time of the node in use, in the runs that both finished."""
    candidate_seconds: float = 0.0
    """Wall time of the candidate, in the same runs."""
    usage: Usage = field(default_factory=Usage)
    """What the node in use consumed in these."""
    candidate_usage: Usage = field(default_factory=Usage)
    """What the candidate consumed in these."""

    @property
    def summary(self) -> str:
        """What would have been different, in words."""
        both = self.agreed + self.differed
        if not both:
            return (
                f"nothing to compare yet: of {self.runs} runs the candidate failed in "
                f"{self.failed} and was late in {self.late}"
            )
        calls, instead = (_llm_calls(u) / both for u in (self.usage, self.candidate_usage))
        return (
            f"in {both} runs the candidate gave another answer {self.differed} times "
            f"({self.differed / both:.1%}), with {instead:.2f} calls to large models a run instead "
            f"of {calls:.2f}, US$ {_cost(self.candidate_usage)} instead of {_cost(self.usage)}, in "
            f"{self.candidate_seconds / both:.2f} s instead of {self.seconds / both:.2f} s; it "
            f"failed in {self.failed} runs and was late in {self.late}"
        )


class Shadow(Recipe[In, Out], Generic[In, Out], recipe="shadow"):
    """A candidate beside what is in use, only compared.

    It answers as the node in use does, and lets a candidate answer beside it. Whatever the
    candidate does, the answer, its usage and its trace are those of the node in use.

    Examples:
        >>> from moa.graphs.shadow import Shadow
        >>> answers = {"classifier": {"card": 0.9}}
        >>> old, new = (
        ...     Classifier(SimulatedEndpoint(name=name, rule=lambda _: answers), ["card", "app"])
        ...     for name in ("old", "new")
        ... )
        >>> in_use = Shadow(current=old, candidate=new)
        >>> in_use.run_sync("My card is gone.").output.label
        'card'
    """

    current: Annotated[Node[In, Out], FromGraph("llm")]
    """The node in use; in a table a ready graph or agent, or `file.py:object`."""
    candidate: Annotated[Node[In, Any], FromGraph("cascade")]
    """The one that might take its place."""
    wait_s: float = Field(default=5.0, ge=0)
    """Seconds that a run waits for the candidate, once its answer is there; fewer where the run's
    deadline is nearer."""
    candidate_budget: Budget = UNLIMITED
    """Limits on each run of the candidate, apart from those of the run it is part of."""
    same: Callable[[Any, Any], bool] = same_answer
    """Whether two answers agree; by default by their labels, numbers or words."""

    def prepare(self) -> None:
        """Take over what the node in use takes and gives, and its name."""
        if self.name == type(self).name:
            self.name = self.current.name
        signature = signature_of(self.current)
        self.input_type, self.output_type = signature.input(0), signature.output
        self.seen = Shadowed()

    async def run(self, request: In, /, context: RunContext | None = None) -> Result[Out]:
        """Run both, and give the result of the node in use.

        Raises:
            Exception: what the node in use raises; the candidate is stopped then.
        """
        context = (context or RunContext()).nested(budget=self.budget, timeout_s=self.timeout_s)
        own = RunContext(budget=self.candidate_budget)
        own.journal = context.journal
        beside = asyncio.ensure_future(self._candidate(request, own))
        try:
            result = await self.current.run(request, context)
            await asyncio.wait({beside}, timeout=self._wait_s(context))
            ended = beside.done() and not beside.cancelled()
            self._compare(result, beside.result() if ended else None)
        finally:
            beside.cancel()
            await asyncio.wait({beside}, timeout=_STOPS_WITHIN_S)
        return result

    @property
    def summary(self) -> str:
        """What would have been different, in words."""
        return f"{self.candidate.name!r} beside {self.current.name!r}: {self.seen.summary}"

    async def answer(self, request: In, context: RunContext) -> Out:
        """Give the answer of the node in use."""
        return (await self.run(request, context)).output

    def sketch(self, sketch: Sketch) -> None:
        """Both nodes, side by side."""
        for node, role in ((self.current, "in use"), (self.candidate, "candidate")):
            box = sketch.box(node, f"{node.name} ({role})")
            sketch.arrow(sketch.input, box, sketch.output)

    async def _candidate(self, request: In, context: RunContext) -> Result[Any] | MoaError:
        try:
            return await self.candidate.run(request, context)
        except MoaError as error:
            return error
        except Exception as error:  # noqa: BLE001  a bug in it must not touch the node in use
            return NodeError(self.candidate.name, error)

    def _wait_s(self, context: RunContext) -> float:
        """How long the candidate is waited for, so that the answer is there before the deadline."""
        if context.deadline is None:
            return self.wait_s
        left = context.deadline - time.monotonic()
        return max(0.0, min(self.wait_s, left - _MARGIN_S))

    def _agrees(self, beside: Result[Any], result: Result[Out]) -> bool | None:
        """Compare the answers; `None` where they can't be."""
        try:
            return bool(self.same(beside.output, result.output))
        except Exception:  # noqa: BLE001  a bug in it must not touch the node in use
            return None

    def _compare(self, result: Result[Out], beside: Result[Any] | MoaError | None) -> None:
        seen = self.seen
        seen.runs += 1
        if beside is None:
            seen.late += 1
        elif isinstance(beside, MoaError) or (agrees := self._agrees(beside, result)) is None:
            seen.failed += 1
        else:
            seen.agreed += agrees
            seen.differed += not agrees
            seen.seconds += result.seconds
            seen.candidate_seconds += beside.seconds
            seen.usage += result.usage
            seen.candidate_usage += beside.usage


def _llm_calls(usage: Usage) -> int:
    by_tier = usage.by_tier()
    return by_tier["llm"].calls if "llm" in by_tier else 0


def _cost(usage: Usage) -> str:
    return "unknown" if usage.cost is None else f"{usage.cost:.6f}"
