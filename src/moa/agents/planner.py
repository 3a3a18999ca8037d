"""Planner: breaks a problem into steps that say which of the others they need."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Literal, Self, Unpack

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moa.agents import Agent, Settings
from moa.agents.prompts import at_most
from moa.calibration.arithmetic import named_in
from moa.context import RunContext
from moa.endpoints import Completion, Endpoint
from moa.errors import ConfigError
from moa.usage import Tier

Solver = Literal["slm", "llm", "arithmetic"]
"""Who worked a step out: a model, or the exact evaluator."""


class Step(BaseModel):
    """One step of a plan."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(min_length=1, max_length=40, description="a short name, one word")
    question: str = Field(min_length=1, description="what this step finds out, in full")
    needs: tuple[str, ...] = Field(
        default=(), description="ids of the steps whose results this one needs, and no others"
    )
    tier: Tier = Field(
        default="llm",
        description="slm: looking something up in the problem is enough. llm: anything harder",
    )
    compute: str | None = Field(
        default=None,
        description=(
            "for a calculation alone: numbers, + - * / ^ ( ), and {id} for the result of a needed "
            "step; it is computed exactly, and nobody is asked"
        ),
    )


class Steps(BaseModel):
    """A plan. Ids are different, every need is the id of a step, and there is no circle."""

    model_config = ConfigDict(frozen=True)

    steps: tuple[Step, ...] = Field(
        min_length=1, description="in the order in which they are taken"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        ids = [step.id for step in self.steps]
        if len(set(ids)) < len(ids):
            raise ValueError(f"ids must differ, and these are {ids}")
        for step in self.steps:
            wanted = [need for need in step.needs if need not in ids]
            if wanted:
                raise ValueError(f"step {step.id!r} needs {wanted}, and the ids are {ids}")
            used = [name for name in named_in(step.compute or "") if name not in step.needs]
            if used:
                raise ValueError(f"step {step.id!r} computes with {used}, which it does not need")
        try:
            self._sorted()
        except CycleError as error:
            circle = " needs ".join(reversed(error.args[1]))
            raise ValueError(f"steps must not wait for each other: {circle}") from error
        return self

    @property
    def ordered(self) -> tuple[Step, ...]:
        """The steps, each after those that it needs."""
        by_id = {step.id: step for step in self.steps}
        return tuple(by_id[name] for name in self._sorted())

    def _sorted(self) -> list[str]:
        needs = {step.id: step.needs for step in self.steps}
        return list(TopologicalSorter(needs).static_order())


class StepResult(BaseModel):
    """What a step found out, or why it did not."""

    model_config = ConfigDict(frozen=True)

    id: str
    question: str
    needs: tuple[str, ...] = ()
    by: Solver
    answer: str = ""
    """Empty where there is none; `fault` says why."""
    reasons: str = ""
    """How it was found."""
    fault: str | None = None
    """What is wrong with it; `None`: nothing was found."""


class Attempt(BaseModel):
    """A plan that was carried out, and what is wrong with what came of it."""

    model_config = ConfigDict(frozen=True)

    steps: tuple[StepResult, ...]
    answer: str
    """Empty where a step failed, so that no answer was written."""
    faults: tuple[str, ...] = ()


class Problem(BaseModel):
    """A problem, and the attempt that failed, if there was one."""

    model_config = ConfigDict(frozen=True)

    problem: str
    failed: Attempt | None = None


class Planner(Agent[Problem, Steps]):
    """Breaks a problem into steps; those that don't need each other can run side by side.

    A plan with unknown ids, a circle or too many steps goes back to the model, `repairs` times:
    cut, it would lose the step that gives the answer.

    Args:
        endpoint: Who plans.
        most: Most steps of a plan.
        settings: See `Agent`.

    Raises:
        CapabilityError: the endpoint can't complete.
        ConfigError: `most` is not at least 1.
    """

    tag = ""
    instructions = (
        "You plan how to solve a problem. Break it into as few steps as possible; the last one "
        "gives the answer. Name for each step only the steps whose results it needs. Write a "
        "calculation into compute, with {id} for the result of a step. If an earlier attempt "
        "failed, plan another way. Do not solve the problem.\n\n"
        'Example: "A bag costs $4.50 and feeds 4. What does it cost to feed 12?"\n'
        '{"steps": [{"id": "bags", "question": "How many bags are needed?", "needs": [], '
        '"tier": "llm", "compute": "12 / 4"}, {"id": "total", "question": "What do the bags cost?",'
        ' "needs": ["bags"], "tier": "llm", "compute": "{bags} * 4.50"}]}'
    )

    def __init__(self, endpoint: Endpoint, *, most: int = 8, **settings: Unpack[Settings]) -> None:
        if most < 1:
            raise ConfigError(f"a plan of at most {most} steps, but it has at least one")
        self.most = most
        self.output_type = at_most(Steps, "steps", most)
        super().__init__(endpoint, **settings)

    def _fitted(self, completion: Completion, context: RunContext) -> Completion:
        return completion

    def prompt(self, request: Problem) -> str:
        """Show the problem, and what was wrong with the attempt that failed."""
        if request.failed is None:
            return request.problem
        lines = [f"- {step.question} {step.answer or 'no answer'}" for step in request.failed.steps]
        answer = [f"Its answer: {request.failed.answer}"] if request.failed.answer else []
        faults = [f"- {fault}" for fault in request.failed.faults]
        tried = ["An earlier attempt failed:", *lines, *answer, "What was wrong:", *faults]
        return "\n".join([request.problem, "", *tried])
