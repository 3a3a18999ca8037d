"""Loop: a node that runs another one again on its own output, until that is good enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from moa.context import RunContext
from moa.graphs.engine.calls import quickly
from moa.graphs.engine.handles import InputStep, NodeStep
from moa.graphs.engine.plan import Plan, plan_of
from moa.graphs.engine.scheduler import Run
from moa.graphs.engine.types import (
    fits,
    name_of,
    picked,
    shown,
    signature_of,
)
from moa.node import Result, finish


class Loop:
    """Runs a node or a function again on its own output; see `Graph.loop`.

    Args:
        body: What runs.
        until: Whether an output is good enough.
        at_most: How often it runs at most.
        name: Shown in traces, errors and drawings.
    """

    def __init__(self, body: Any, *, until: Callable[[Any], bool], at_most: int, name: str) -> None:
        self.name = name
        self.body = body
        self.until = until
        self.at_most = at_most
        self._signature = signature_of(body)
        self.input_type: Any = self._signature.input(0)
        self.output_type: Any = self._signature.output
        start = InputStep(graph=self, name="input", type=self.input_type)
        once = NodeStep(
            graph=self,
            name=name_of(body),
            type=self.output_type,
            node=body,
            signature=self._signature,
            source=start,
        )
        self.plan: Plan = plan_of(name, start, once)
        """One pass."""

    @property
    def goal(self) -> str:
        """What it runs until, as far as a name says it; may be empty."""
        called = name_of(self.until)
        return ".".join(picked(self.until)) if called == "<lambda>" else called

    async def run(self, request: Any, context: RunContext | None = None, /) -> Result[Any]:
        """Run passes until one is good enough, and give the last one's output.

        Raises:
            NodeError: a plain function raised; its error is chained.
            MoaError: as the body raises.
        """
        own, start = (context or RunContext()).nested(self.name), time.perf_counter()
        output = request
        for number in range(1, self.at_most + 1):
            output = await Run(self.plan, own.nested(f"pass {number}")).output(output)
            told = f"pass {number} of {self.at_most}{self.goal and f', until {self.goal}'}"
            if quickly(f"{self.name}, until", self.until, output):
                own.note("repeated", f"{told}: done")
                break
            if number < self.at_most:
                own.note("repeated", f"{told}: not yet")
            else:
                own.note("degraded", f"{told}: not yet, and the last output is given")
        return finish(output, own, seconds=time.perf_counter() - start)

    def problems(self) -> Iterator[str]:
        """Say what is wrong with it, a sentence each."""
        goes, until = signature_of(self.until), f"the until= of {self.name!r}"
        gives = shown(self.output_type) + " | Skipped" * self._signature.may_skip
        if not fits(self.output_type, self.input_type) or self._signature.may_skip:
            takes = shown(self.input_type)
            yield f"{self.name!r} takes {takes} and gives {gives}: a loop is given what it gave"
        if not fits(self.output_type, goes.input(0)):
            yield f"{until} takes {shown(goes.input(0))}, but {self.name!r} gives {gives}"
        if goes.waits:
            yield f"{until} is asynchronous: let the body ask, and give the answer in its output"
        elif not fits(goes.output, bool):
            yield f"{until} gives {shown(goes.output)}, and not a bool"
        if self.at_most < 1:
            yield f"{self.name!r} runs at_most={self.at_most} times: give 1 or more"
