"""Steps: carries a plan of steps out, those side by side that don't need each other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from fractions import Fraction

from pydantic import BaseModel, ConfigDict, Field

from moa.agents.planner import Solver, Step, StepResult, Steps
from moa.calibration.arithmetic import (
    LONGEST,
    check,
    evaluate,
    filled,
    named_in,
    only_number,
    written,
)
from moa.context import RunContext
from moa.errors import InputError, MoaError
from moa.node import Node
from moa.trace import NodeFinished, NodeStarted
from moa.usage import Tier


class Task(BaseModel):
    """What is given to whoever works a step out."""

    problem: str
    results: dict[str, str]
    """Of the steps it needs: the answer, by question."""
    question: str

    def __str__(self) -> str:
        known = [f"- {question} {answer}" for question, answer in self.results.items()]
        known = ["\nKnown so far:", *known] if known else []
        return "\n".join([self.problem, *known, f"\nQuestion: {self.question}"])


class Worked(BaseModel):
    """A step as a model worked it out."""

    model_config = ConfigDict(frozen=True)

    # A model writes its fields in this order, so it reasons before it answers.
    reasons: str = Field(description="how the answer follows, each calculation as an equation")
    answer: str = Field(min_length=1, description="the answer alone; of a number, with its unit")


class CarriedOut:
    """One plan being carried out: a step starts as soon as the steps that it needs are done.

    Args:
        plan: The steps.
        problem: What they are for.
        solvers: Who works a step out, by the tier that the step asks for.
        hurried: Whether a step goes on from a result that is known to be wrong.
        context: What is told of the steps goes there.
        hidden: The models run in it.
    """

    def __init__(
        self,
        plan: Steps,
        problem: str,
        solvers: Mapping[Tier, Node[Task, Worked]],
        *,
        hurried: bool,
        context: RunContext,
        hidden: RunContext,
    ) -> None:
        self._plan = plan
        self._problem = problem
        self._solvers = solvers
        self._hurried = hurried
        self._context = context
        self._hidden = hidden
        self._tasks: dict[str, asyncio.Task[StepResult]] = {}
        self._failures: list[MoaError] = []
        # A result shows a number rounded, and what is computed from it is computed from this.
        self._exact: dict[str, Fraction] = {}

    async def results(self) -> tuple[StepResult, ...]:
        """Run every step; those that fail are noted, and those that need them don't run.

        Raises:
            MoaError: no step has an answer; this is why the first one failed.
        """
        steps = self._plan.ordered
        try:
            async with asyncio.TaskGroup() as group:
                for step in steps:
                    self._tasks[step.id] = group.create_task(self._told(step))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        results = tuple(self._tasks[step.id].result() for step in steps)
        if self._failures and not any(result.answer for result in results):
            raise self._failures[0]
        return results

    async def _told(self, step: Step) -> StepResult:
        needed = {name: await self._tasks[name] for name in step.needs}
        missing = [name for name, result in needed.items() if not self._usable(result)]
        if missing:
            return _result(step, step.tier, fault=f"it needs {', '.join(missing)}, which failed")
        path = f"{self._context.node}/{step.id}"
        self._context.emit(NodeStarted(path))
        started = time.perf_counter()
        result = await self._worked_out(step, needed)
        self._context.emit(NodeFinished(path, result, time.perf_counter() - started))
        return result

    def _usable(self, result: StepResult) -> bool:
        return bool(result.answer) and (self._hurried or result.fault is None)

    async def _worked_out(self, step: Step, needed: Mapping[str, StepResult]) -> StepResult:
        if step.compute is not None:
            try:
                return self._computed(step, step.compute, needed)
            except InputError as error:
                self._hidden.note("degraded", f"step {step.id!r} is asked of a model: {error}")
        task = Task(
            problem=self._problem,
            results={result.question: result.answer for result in needed.values()},
            question=step.question,
        )
        try:
            found = (await self._solvers[step.tier].run(task, self._hidden)).output
        except MoaError as error:
            self._failures.append(error)
            self._hidden.note("failed", f"step {step.id!r} has no result: {error}")
            return _result(step, step.tier, fault=str(error))
        wrong = wrong_sums(f"{found.reasons}\n{found.answer}")
        fault = "; ".join(wrong) or None
        return _result(step, step.tier, found.answer, found.reasons, fault=fault)

    def _computed(
        self, step: Step, expression: str, needed: Mapping[str, StepResult]
    ) -> StepResult:
        """Compute exactly, from the numbers in the results that the step needs.

        Raises:
            InputError: it is no calculation, or a result is no number.
        """
        values = {
            name: self._exact[name] if name in self._exact else only_number(needed[name].answer)
            for name in named_in(expression)
        }
        # A planner likes to write the result too, as in `3 + 4 = 7`: it is computed anew.
        filled_in = filled(expression, values).partition("=")[0].strip()
        # What is filled in makes it longer, and no less a sum.
        value = evaluate(filled_in, longest=LONGEST + max(0, len(filled_in) - len(expression)))
        self._exact[step.id] = value
        return _result(step, "arithmetic", written(value), f"{filled_in} = {written(value)}")


def wrong_sums(text: str) -> list[str]:
    """Say which of the sums that a text states are wrong, and what each comes to."""
    return [
        f"{stated.left} = {stated.right} is wrong: it is {written(stated.value)}"
        for stated in check(text).wrong
    ]


def _result(
    step: Step, by: Solver, answer: str = "", reasons: str = "", *, fault: str | None = None
) -> StepResult:
    return StepResult(
        id=step.id,
        question=step.question,
        needs=step.needs,
        by=by,
        answer=answer.strip(),
        reasons=reasons,
        fault=fault,
    )
