"""Solve: plans a problem, works its steps out side by side, verifies, and tries again once.

The steps form a graph without circles, as in Kim et al. 2024, "An LLM compiler for parallel
function calling", arXiv:2312.04511. Calculations go to an evaluator, as in Gao et al. 2023, "PAL:
program-aided language models", arXiv:2211.10435, but no program is executed. A second try sees what
failed, as in Shinn et al. 2023, "Reflexion", arXiv:2303.11366.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from pydantic import BaseModel

from moa.agents.boundary import Limits
from moa.agents.decider import Decider
from moa.agents.generator import Generator
from moa.agents.planner import Attempt, Planner, Problem, Step, StepResult, Steps
from moa.calibration.acceptance import Policy, text_of
from moa.calibration.arithmetic import check
from moa.calibration.verifiers import Plausible
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.errors import ConfigError, MoaError, OutputError
from moa.graphs.building.builder import Graph
from moa.graphs.building.plan import Plan
from moa.graphs.pattern import Pattern
from moa.graphs.steps import CarriedOut, Worked, wrong_sums
from moa.handoffs import Reply
from moa.mixing.listening import quiet
from moa.questions import Predicate, predicate
from moa.trace import Piece
from moa.usage import Tier

_STEP = (
    "You work out one step of a problem. Use the problem and what is known so far, and answer only "
    "the question."
)
_WRITE = (
    "Answer the problem from the results of its steps, in its language. Give the answer first, "
    "then "
    "explain it briefly. If a result was not found, say so."
)


class Solution(Reply):
    """An answer, the steps that led to it, and whether it was verified."""

    steps: tuple[StepResult, ...]
    verified: bool
    """Whether every step has an answer, all sums hold, and the answer is accepted by another model
    than wrote it, or by the given policy. A model that agrees with itself verifies nothing."""
    reasons: tuple[str, ...]
    """What speaks for it where nothing was found wrong, else what is wrong with it."""
    tries: int
    """Plans that were carried out."""


class Verdict(BaseModel):
    """What the verifier is asked."""

    right: Predicate = predicate("Is the reply a correct and complete answer to the request?")


class Work(BaseModel):
    """What is given to whoever writes the answer."""

    problem: str
    results: tuple[StepResult, ...]

    def __str__(self) -> str:
        found = (f"- {each.question} {each.answer or 'not found'}" for each in self.results)
        return "\n".join([self.problem, "\nResults of its steps:", *found])


class _Tried(NamedTuple):
    attempt: Attempt
    number: int
    reasons: tuple[str, ...] = ()
    """Why it is accepted; empty where it isn't."""


class Solve(Pattern[str | BaseModel, Solution]):
    """What `solve` makes."""

    def __init__(
        self,
        slm: Endpoint,
        llm: Endpoint,
        *,
        accept: Policy | None,
        tries: int,
        most_steps: int,
        max_tokens: int,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        if tries < 1:
            raise ConfigError(f"graph {self.name!r}: tries={tries}, but it takes at least one")
        self.planner = Planner(llm, most=most_steps, max_tokens=max_tokens)
        self.solvers: dict[Tier, Generator[Worked]] = {
            tier: Generator(
                endpoint, _STEP, output=Worked, name=f"step_{tier}", max_tokens=max_tokens, tag=""
            )
            for tier, endpoint in _by_tier(slm, llm).items()
        }
        self.writer = Generator(llm, _WRITE, name="writer", max_tokens=max_tokens, tag="")
        self.verifier = Decider(slm, Verdict, name="verifier") if accept is None else None
        self.accept = accept or Plausible(self.verifier or self.writer)
        self._agrees_with_itself = accept is None and slm.model == llm.model
        self.tries = tries

    async def answer(self, request: str | BaseModel, context: RunContext) -> Solution:
        """Try, verify, and try again with what failed."""
        problem = text_of(request)
        best = await self._attempt(problem, None, context)
        while best.attempt.faults:
            context.note("refused", f"try {best.number}: {'; '.join(best.attempt.faults)}")
            if best.number == self.tries:
                break
            try:
                best = await self._attempt(problem, best, context)
            except MoaError as error:
                if not best.attempt.answer:
                    raise
                context.note("degraded", f"the answer stands unverified, with no other: {error}")
                break
        context.emit(Piece(context.node, best.attempt.answer))
        return Solution(
            text=best.attempt.answer,
            steps=best.attempt.steps,
            verified=not best.attempt.faults and not self._agrees_with_itself,
            reasons=best.attempt.faults or best.reasons,
            tries=best.number,
        )

    async def _attempt(self, problem: str, before: _Tried | None, context: RunContext) -> _Tried:
        number = 1 if before is None else before.number + 1
        failed = None if before is None else before.attempt
        last = number == self.tries
        hidden = quiet(context)  # what may be rejected: nobody could take it back
        plan = await self._planned(Problem(problem=problem, failed=failed), hidden)
        results = await CarriedOut(
            plan, problem, self.solvers, hurried=last, context=context, hidden=hidden
        ).results()
        faults = [f"step {result.id!r}: {result.fault}" for result in results if result.fault]
        if faults and not last:
            return _Tried(Attempt(steps=results, answer="", faults=tuple(faults)), number)
        text = await self._written(problem, results, hidden)
        faults += wrong_sums(text)
        reasons: tuple[str, ...] = ()
        if not faults:
            accepted, reasons = await self._judged(problem, results, text, hidden)
            faults += () if accepted else reasons
        return _Tried(Attempt(steps=results, answer=text, faults=tuple(faults)), number, reasons)

    async def _planned(self, problem: Problem, hidden: RunContext) -> Steps:
        try:
            return (await self.planner.run(problem, hidden)).output
        except OutputError as error:
            hidden.note("degraded", f"worked out in one step, for want of a plan: {error}")
            return Steps(steps=(Step(id="answer", question=problem.problem),))

    async def _written(
        self, problem: str, results: Sequence[StepResult], hidden: RunContext
    ) -> str:
        if len(results) == 1 and results[0].answer:
            return results[0].answer
        work = Work(problem=problem, results=tuple(results))
        return (await self.writer.run(work, hidden)).output.text

    async def _judged(
        self, problem: str, results: Sequence[StepResult], text: str, hidden: RunContext
    ) -> tuple[bool, tuple[str, ...]]:
        """Ask the policy; what can't be judged is not accepted."""
        worked = "\n".join(f"{r.question} {r.reasons} {r.answer}" for r in results)
        whole = f"{worked}\n\n{text}"
        try:
            judged = await self.accept.judge(problem, Reply(text=whole), hidden)
        except ConfigError:
            raise
        except MoaError as error:
            return False, (f"it could not be judged: {error}",)
        if not judged.accepted:
            return False, judged.reasons
        sums = len(check(whole).equations)
        hold = f"all sums hold ({sums})" if sums else "no sum was stated"
        reasons = [f"every step has an answer, and {hold}", *judged.reasons]
        if self._agrees_with_itself:
            reasons.append("not verified: the model that wrote it only agrees with itself")
        return True, tuple(reasons)

    @property
    def plan(self) -> Plan:
        """One try as a graph, to be drawn; a plan has any number of steps of each kind."""
        g: Graph[str | BaseModel] = Graph(self.name, self.input_type)
        steps = g.add(self.planner, g.input.map(_asked))
        small = g.add(self.solvers["slm"], steps, eager=True)
        large = g.add(self.solvers["llm"], steps, eager=True)
        sums = g.add(arithmetic, steps)
        reply = g.add(self.writer, g.join(_gathered, small, large, sums))
        if self.verifier is None:
            return g.build(reply.map(_unjudged)).plan
        return g.build(g.join(_verified, reply, g.add(self.verifier, reply.map(_read)))).plan


def solve(
    slm: Endpoint,
    llm: Endpoint,
    *,
    accept: Policy | None = None,
    tries: int = 2,
    most_steps: int = 8,
    max_tokens: int = 1024,
    **limits: Unpack[Limits],
) -> Solve:
    """Plan a problem, work its steps out, verify the answer, and try again with what failed.

    Steps that don't need each other run side by side, so the time is that of the longest chain of
    steps. A calculation is computed exactly, and asks nobody. Every sum that a step or the answer
    states is computed again, and the answer must be plausible. The last answer is given even where
    it is not, with `verified` as `False` and the reasons. Where one model is both, the answer is
    never called verified.

    Args:
        slm: Works out the steps that the plan calls easy, and says whether the answer is plausible.
        llm: Plans, works out the other steps, and writes the answer.
        accept: What the answer must pass beside the sums; `None`: it is plausible to `slm`.
        tries: Most plans that are carried out.
        most_steps: Most steps of a plan.
        max_tokens: Most tokens of each text, reasoning included.
        limits: See `Limits`.

    Raises:
        CapabilityError: an endpoint can't complete, or `slm` can't decide.
        ConfigError: a number is out of range.
    """
    return Solve(
        slm,
        llm,
        accept=accept,
        tries=tries,
        most_steps=most_steps,
        max_tokens=max_tokens,
        **limits,
    )


def arithmetic(steps: Steps) -> StepResult:
    """Stand for the calculations in drawings; it is not run."""
    del steps
    raise AssertionError("a plan that is drawn is not run")


def _by_tier(slm: Endpoint, llm: Endpoint) -> dict[Tier, Endpoint]:
    return {"slm": slm, "llm": llm}


def _asked(request: str | BaseModel) -> Problem:
    return Problem(problem=text_of(request))


def _gathered(small: Worked, large: Worked, sums: StepResult) -> Work:
    del small, large
    return Work(problem="", results=(sums,))


def _read(reply: Reply) -> str:
    return reply.text


def _unjudged(reply: Reply) -> Solution:
    return Solution(text=reply.text, steps=(), verified=False, reasons=(), tries=1)


def _verified(reply: Reply, verdict: Verdict) -> Solution:
    del verdict
    return _unjudged(reply)
