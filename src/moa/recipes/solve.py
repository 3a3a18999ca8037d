"""Solve: solves a problem and verifies the answer. If that fails, it plans and solves step by step.

The first try thinks step by step in one call, as in Kojima et al. 2022, "Large language models are
zero-shot reasoners", arXiv:2205.11916. The steps of a plan form an acyclic graph, as in Kim et al.
2024, "An LLM compiler for parallel function calling", arXiv:2312.04511. Calculations go to an
evaluator, as in Gao et al. 2023, "PAL: program-aided language models", arXiv:2211.10435, but no
program is executed. The next try sees what failed, as in Shinn et al. 2023, "Reflexion",
arXiv:2303.11366.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from graphlib import CycleError, TopologicalSorter
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moa.agents.agent import Agent
from moa.agents.deciding import Decider
from moa.agents.prompts import limit_items
from moa.agents.proposer import Answerer
from moa.core._async import gather
from moa.core.context import RunContext, quiet
from moa.core.errors import ConfigError, InputError, MoaError, OutputError
from moa.core.node import Frozen, Node, Reply, text_of
from moa.core.numbers import format_number
from moa.core.questions import Predicate, predicate
from moa.core.usage import Tier
from moa.decisions.acceptance import Policy
from moa.documents.writing import report_step, revise
from moa.endpoints import Completion, Endpoint
from moa.endpoints.known import can_write
from moa.graphs.fields import Large, Small
from moa.graphs.recipe import Recipe, Sketch
from moa.guards.arithmetic import (
    LONGEST,
    evaluate,
    find_equations,
    find_names,
    read_only_number,
    substitute,
)
from moa.guards.verifiers import Plausible

Solver = Literal["slm", "llm", "arithmetic"]
"""Solver of a step: a model, or the exact evaluator."""
_STEP = (
    "You work out one step of a problem. Use the problem and what is known so far, and answer only "
    "the question."
)
_WRITE = (
    "Answer the problem from the results of its steps, in its language. Give the answer first, "
    "then explain it briefly. If a result was not found, say so."
)
_PLAN = (
    "You plan how to solve a problem. Break it into as few steps as possible; the last one "
    "gives the answer. Name for each step only the steps whose results it needs. Write a "
    "calculation into compute, with {id} for the result of a step. If an earlier attempt "
    "failed, plan another way. Do not solve the problem.\n\n"
    'Example: "A bag costs $4.50 and feeds 4. What does it cost to feed 12?"\n'
    '{"steps": [{"id": "bags", "question": "How many bags are needed?", "needs": [], '
    '"tier": "llm", "compute": "12 / 4"}, {"id": "total", "question": "What do the bags cost?",'
    ' "needs": ["bags"], "tier": "llm", "compute": "{bags} * 4.50"}]}'
)


class Step(Frozen):
    """One step of a plan."""

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


class Steps(Frozen):
    """A plan. Ids are different, every need is the id of a step, and there is no circle."""

    steps: tuple[Step, ...] = Field(
        min_length=1, description="in the order in which they are taken"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        ids = [step.id for step in self.steps]
        if len(set(ids)) < len(ids):
            raise ValueError(f"ids must differ, and these are {ids}")
        for step in self.steps:
            unknown = [need for need in step.needs if need not in ids]
            if unknown:
                raise ValueError(f"step {step.id!r} needs {unknown}, and the ids are {ids}")
            undeclared = [name for name in find_names(step.compute or "") if name not in step.needs]
            if undeclared:
                raise ValueError(
                    f"step {step.id!r} computes with {undeclared}, which it does not need"
                )
        try:
            self._sort()
        except CycleError as error:
            circle = " needs ".join(reversed(error.args[1]))
            raise ValueError(f"steps must not wait for each other: {circle}") from error
        return self

    @property
    def sorted_steps(self) -> tuple[Step, ...]:
        """Steps, each after those that it needs."""
        by_id = {step.id: step for step in self.steps}
        return tuple(by_id[name] for name in self._sort())

    def _sort(self) -> list[str]:
        needs = {step.id: step.needs for step in self.steps}
        return list(TopologicalSorter(needs).static_order())


class StepResult(Frozen):
    """Result of a step, or the reason why it has none."""

    id: str
    question: str
    needs: tuple[str, ...] = ()
    by: Solver
    answer: str = ""
    """Answer; empty if there is none, and `fault` says why."""
    reasons: str = ""
    """Derivation of the answer."""
    fault: str | None = None
    """Fault in it; `None` if none was found."""


class StepAnswer(Frozen):
    """A step as a model worked it out."""

    # Where a server enforces no schema, its title is part of the prompt, which was measured.
    model_config = ConfigDict(title="Worked")
    # A model writes its fields in this order, so it reasons before it answers.
    reasons: str = Field(description="how the answer follows, each calculation as an equation")
    answer: str = Field(min_length=1, description="the answer alone; of a number, with its unit")


class Solution(Reply):
    """An answer, the steps that led to it, and whether it was verified."""

    steps: tuple[StepResult, ...]
    """Results of the plan's steps; empty if the first try is used."""
    verified: bool
    """True if every step has an answer, all sums are right, and the answer is accepted by another
    model than its writer, or by the given policy. A model that agrees with itself verifies
    nothing."""
    reasons: tuple[str, ...]
    """Reasons for the answer if no fault was found, else its faults."""
    tries: int
    """Number of tries."""


class _Try(NamedTuple):
    solution: Solution
    accepted: bool

    @property
    def faults(self) -> Sequence[str] | None:
        return None if self.accepted else self.solution.reasons


class Verdict(BaseModel):
    """What the verifier is asked."""

    right: Predicate = predicate("Is the reply a correct and complete answer to the request?")


class Solve(Recipe[str | BaseModel, Solution], recipe="solve"):
    """Works a problem out, verifies the answer, and plans it step by step if that fails.

    The first try is one call. Every sum that it states is computed again, and another model or a
    policy verifies the answer, if there is one. If the try fails, a plan is made with the faults in
    the prompt. Independent steps run in parallel, so the time is that of the longest chain of
    steps. Calculations are computed exactly, without a model. If the last answer fails, too, it is
    given with `verified` as `False` and the reasons. If `slm` and `llm` are the same model, only
    `accept` can verify an answer.

    Raises:
        CapabilityError: an endpoint can't complete, or `slm` can't decide.

    Examples:
        >>> from moa.recipes.solve import Solve
        >>> large = ScriptedEndpoint(["3 * 4 = 12, so it costs $12."])
        >>> solution = Solve(slm=ScriptedEndpoint(), llm=large).run_sync("3 bags at $4?").output
        >>> print(solution.text)
        3 * 4 = 12, so it costs $12.
    """

    slm: Small
    """Solves the steps that a plan calls easy. If it is another model than `llm` and can write, it
    judges whether the answer is plausible."""
    llm: Large
    """Solves the problem, plans it, solves the other steps, and writes the answer."""
    accept: Policy | None = None
    """Policy that must accept the answer, after the check of its sums; `None`: `slm` must find it
    plausible. Only in Python."""
    tries: int = Field(default=2, ge=1)
    """Maximum number of tries: the first is direct, the others use a plan."""
    max_steps: int = Field(default=8, ge=1)
    """Maximum number of steps of a plan."""
    max_tokens: int = Field(default=1024, ge=1)
    """Maximum number of tokens of each text, reasoning included."""

    def prepare(self) -> None:
        """Make the agents."""
        max_tokens = self.max_tokens
        self.direct = Answerer(self.llm, name="direct", max_tokens=max_tokens, tag="")
        self.planner = Planner(
            self.llm,
            _PLAN,
            input=str,
            output=limit_items(Steps, "steps", self.max_steps),
            max_tokens=max_tokens,
        )
        by_tier: dict[Tier, Endpoint] = {"slm": self.slm, "llm": self.llm}
        self.solvers: dict[Tier, Agent[str | BaseModel, StepAnswer]] = {
            tier: Agent(
                endpoint,
                _STEP,
                output=StepAnswer,
                name=f"step_{tier}",
                max_tokens=max_tokens,
                tag="",
            )
            for tier, endpoint in by_tier.items()
        }
        self.writer = Agent(self.llm, _WRITE, name="writer", max_tokens=max_tokens, tag="")
        # A model verifies nothing that it wrote itself, and one that can't write can't judge it.
        can_judge = self.slm.model != self.llm.model and can_write(self.slm.model)
        judges = self.accept is None and can_judge
        self.verifier = Decider(self.slm, Verdict, name="verifier") if judges else None
        self.policy = Plausible(self.verifier) if self.verifier else self.accept

    async def answer(self, request: str | BaseModel, context: RunContext) -> Solution:
        """Try, verify, and try again with the faults."""
        problem = text_of(request)
        silent = quiet(context)  # streamed text can't be taken back if it is rejected
        text = (await self.direct.run(problem, silent)).output.text
        first = await self._verify(problem, text, (), 1, silent)

        async def plan(before: _Try) -> _Try:
            return await self._try_plan(problem, before.solution, context)

        tries = await revise(first, plan, lambda attempt: attempt.faults, context, tries=self.tries)
        # A plan whose steps failed has no answer; the first try has one.
        last = next(attempt.solution for attempt in reversed(tries) if attempt.solution.text)
        return last.model_copy(update={"tries": len(tries)})

    async def _try_plan(self, problem: str, before: Solution, context: RunContext) -> _Try:
        """Solve the problem by a plan."""
        silent, number = quiet(context), before.tries + 1
        last = number == self.tries
        plan = await self._plan(problem, before, silent)
        results = await PlanRun(problem, self.solvers, context, uses_wrong=last).results(plan)
        # With wrong steps another plan is better than an answer, if one is left.
        answers = last or not any(result.fault for result in results)
        text = await self._write(problem, results, silent) if answers else ""
        return await self._verify(problem, text, results, number, silent)

    async def _verify(
        self,
        problem: str,
        text: str,
        results: tuple[StepResult, ...],
        number: int,
        context: RunContext,
    ) -> _Try:
        """Check steps and sums, and ask the policy if nothing is wrong with them."""
        faults = [f"step {result.id!r}: {result.fault}" for result in results if result.fault]
        faults += wrong_sums(text)
        accepted, reasons = False, tuple(faults)
        if not faults:
            accepted, reasons = await self._judge(problem, results, text, context)
        verified = accepted and self.policy is not None
        solution = Solution(
            text=text, steps=results, verified=verified, reasons=reasons, tries=number
        )
        return _Try(solution, accepted)

    async def _plan(self, problem: str, failed: Solution, context: RunContext) -> Steps:
        lines = [f"- {step.question} {step.answer or 'no answer'}" for step in failed.steps]
        answer = [f"Its answer: {failed.text}"] if failed.text else []
        faults = [f"- {fault}" for fault in failed.reasons]
        earlier = ["An earlier attempt failed:", *lines, *answer, "What was wrong:", *faults]
        try:
            return (await self.planner.run("\n".join([problem, "", *earlier]), context)).output
        except OutputError as error:
            context.note("degraded", f"worked out in one step, for want of a plan: {error}")
            return Steps(steps=(Step(id="answer", question=problem),))

    async def _write(self, problem: str, results: Sequence[StepResult], context: RunContext) -> str:
        """Write the answer. If there is a single step, its answer is used."""
        if len(results) == 1 and results[0].answer:
            return results[0].answer
        lines = (f"- {result.question} {result.answer or 'not found'}" for result in results)
        prompt = "\n".join([problem, "\nResults of its steps:", *lines])
        return (await self.writer.run(prompt, context)).output.text

    async def _judge(
        self, problem: str, results: Sequence[StepResult], text: str, context: RunContext
    ) -> tuple[bool, tuple[str, ...]]:
        """Ask the policy. An answer that can't be judged is not accepted."""
        steps = "".join(f"{r.question} {r.reasons} {r.answer}\n" for r in results)
        solution = f"{steps}\n{text}" if steps else text
        sums = len(find_equations(solution))
        reason = f"all sums hold ({sums})" if sums else "no sum was stated"
        reasons = [f"every step has an answer, and {reason}" if results else reason]
        if self.policy is None:
            reasons.append("not verified: no other model read it")
            return True, tuple(reasons)
        try:
            judgement = await self.policy.judge(problem, Reply(text=solution), context)
        except ConfigError:
            raise
        except MoaError as error:
            return False, (f"it could not be judged: {error}",)
        return judgement.accepted, (
            *reasons,
            *judgement.reasons,
        ) if judgement.accepted else judgement.reasons

    def sketch(self, sketch: Sketch) -> None:
        """Draw both ways; a plan has any number of steps of each kind."""
        direct, planner = sketch.box(self.direct), sketch.box(self.planner)
        steps = [sketch.box(agent) for agent in self.solvers.values()]
        writer = sketch.box(self.writer)
        last = sketch.output if self.verifier is None else sketch.box(self.verifier)
        sketch.arrow(sketch.input, direct, last)
        sketch.arrow(direct if self.verifier is None else last, planner, label="refused")
        for step in (*steps, sketch.box(label="arithmetic")):
            sketch.arrow(planner, step, writer)
        sketch.arrow(writer, last)
        if self.verifier is not None:
            sketch.arrow(last, sketch.output)


class Planner(Agent[str, Steps]):
    """Breaks a problem into steps; independent ones can run in parallel.

    A plan with unknown ids, a cycle or too many steps goes back to the model, `repairs` times. It
    isn't cut: that would lose the step that gives the answer.
    """

    tag = ""

    def _cut_to_fit(self, completion: Completion, context: RunContext) -> Completion:
        return completion


@dataclass(slots=True)
class PlanRun:
    """Runs a plan: a step starts as soon as the steps that it needs are done."""

    problem: str
    solvers: Mapping[Tier, Node[str, StepAnswer]]
    """The node that solves a step, by the tier that the step asks for."""
    context: RunContext
    """Its listener gets the events of steps, but no text of a model."""
    uses_wrong: bool
    """True if steps use results that are known to be wrong."""
    done: dict[str, asyncio.Future[StepResult]] = field(
        default_factory=dict[str, asyncio.Future[StepResult]]
    )
    failures: list[MoaError] = field(default_factory=list[MoaError])
    exact: dict[str, Fraction] = field(default_factory=dict[str, Fraction])
    """Exact values of computed steps, by id. Results show them rounded; later steps compute with
    them."""

    async def results(self, plan: Steps) -> tuple[StepResult, ...]:
        """Run the steps, but none that needs a failed one. If all fail, raise the first error."""
        loop = asyncio.get_running_loop()
        self.done = {step.id: loop.create_future() for step in plan.steps}
        results = await gather(map(self._run, plan.sorted_steps))
        if self.failures and not any(result.answer for result in results):
            raise self.failures[0]
        return tuple(results)

    async def _run(self, step: Step) -> StepResult:
        inputs = {name: await self.done[name] for name in step.needs}
        missing = [name for name, result in inputs.items() if not self._is_usable(result)]
        result = StepResult(id=step.id, question=step.question, needs=step.needs, by=step.tier)
        if missing:
            fault = f"it needs {', '.join(missing)}, which failed"
            result = result.model_copy(update={"fault": fault})
        else:
            working = self._work_out(step, result, inputs)
            result = await report_step(step.id, working, self.context)
        self.done[step.id].set_result(result)
        return result

    def _is_usable(self, result: StepResult) -> bool:
        return bool(result.answer) and (self.uses_wrong or result.fault is None)

    async def _work_out(
        self, step: Step, empty: StepResult, inputs: Mapping[str, StepResult]
    ) -> StepResult:
        """Fill an empty result, by the evaluator or by a model."""
        if step.compute is not None:
            try:
                return empty.model_copy(update=self._compute(step, step.compute, inputs))
            except InputError as error:
                self.context.note("degraded", f"step {step.id!r} is asked of a model: {error}")
        answers = {result.question: result.answer for result in inputs.values()}
        lines = [f"- {question} {answer}" for question, answer in answers.items()]
        lines = ["\nKnown so far:", *lines] if lines else []
        prompt = "\n".join([self.problem, *lines, f"\nQuestion: {step.question}"])
        try:
            output = (await self.solvers[step.tier].run(prompt, quiet(self.context))).output
        except MoaError as error:
            self.failures.append(error)
            self.context.note("failed", f"step {step.id!r} has no result: {error}")
            return empty.model_copy(update={"fault": str(error)})
        answer, reasons = output.answer.strip(), output.reasons
        fault = "; ".join(wrong_sums(f"{reasons}\n{answer}")) or None
        return empty.model_copy(update={"answer": answer, "reasons": reasons, "fault": fault})

    def _compute(
        self, step: Step, expression: str, inputs: Mapping[str, StepResult]
    ) -> dict[str, str]:
        """Compute exactly. Raise `InputError` if it, or a result that it needs, isn't numeric."""
        values = {
            name: self.exact[name] if name in self.exact else read_only_number(inputs[name].answer)
            for name in find_names(expression)
        }
        # Planners often write the result, too, as in `3 + 4 = 7`: it is computed again.
        filled_in = substitute(expression, values).partition("=")[0].strip()
        # Filled-in values make it longer, which doesn't count against the limit.
        value = evaluate(filled_in, longest=LONGEST + max(0, len(filled_in) - len(expression)))
        self.exact[step.id] = value
        answer = format_number(value)
        return {"by": "arithmetic", "answer": answer, "reasons": f"{filled_in} = {answer}"}


def wrong_sums(text: str) -> list[str]:
    """Return a message with the right value for each wrong sum that a text states."""
    return [
        f"{stated.left} = {stated.right} is wrong: it is {format_number(stated.value)}"
        for stated in find_equations(text)
        if not stated.holds
    ]
