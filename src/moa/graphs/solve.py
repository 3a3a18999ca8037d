"""Solve: works a problem out and verifies it; what fails is planned and worked out step by step.

The first try thinks step by step in one call, as in Kojima et al. 2022, "Large language models are
zero-shot reasoners", arXiv:2205.11916. The steps of a plan form a graph without circles, as in Kim
et al. 2024, "An LLM compiler for parallel function calling", arXiv:2312.04511. Calculations go to
an evaluator, as in Gao et al. 2023, "PAL: program-aided language models", arXiv:2211.10435, but no
program is executed. The next try sees what failed, as in Shinn et al. 2023, "Reflexion",
arXiv:2303.11366.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from pydantic import BaseModel

from moa.agents.boundary import Limits
from moa.agents.decider import Decider
from moa.agents.generator import Generator
from moa.agents.planner import Attempt, Planner, Problem, Step, StepResult, Steps
from moa.agents.proposer import ANSWER
from moa.calibration.acceptance import Policy, text_of
from moa.calibration.arithmetic import check
from moa.calibration.verifiers import Plausible
from moa.context import RunContext, quiet
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.errors import ConfigError, MoaError, OutputError
from moa.graphs.building.builder import Graph
from moa.graphs.building.plan import Plan
from moa.graphs.pattern import Pattern
from moa.graphs.steps import CarriedOut, Worked, wrong_sums
from moa.handoffs import Reply
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
    """Of its plan; none where the first try stands."""
    verified: bool
    """Whether every step has an answer, all sums hold, and the answer is accepted by another model
    than wrote it, or by the given policy. A model that agrees with itself verifies nothing."""
    reasons: tuple[str, ...]
    """What speaks for it where nothing was found wrong, else what is wrong with it."""
    tries: int
    """Times it was worked out."""


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
        self.direct = Generator(llm, ANSWER, name="direct", max_tokens=max_tokens, tag="")
        self.planner = Planner(llm, most=most_steps, max_tokens=max_tokens)
        self.solvers: dict[Tier, Generator[Worked]] = {
            tier: Generator(
                endpoint, _STEP, output=Worked, name=f"step_{tier}", max_tokens=max_tokens, tag=""
            )
            for tier, endpoint in _by_tier(slm, llm).items()
        }
        self.writer = Generator(llm, _WRITE, name="writer", max_tokens=max_tokens, tag="")
        # A model verifies nothing that it wrote itself, and one that can't write can't judge it.
        judges = accept is None and slm.model != llm.model and can_write(slm.model)
        self.verifier = Decider(slm, Verdict, name="verifier") if judges else None
        self.accept = Plausible(self.verifier) if self.verifier else accept
        self.tries = tries

    async def answer(self, request: str | BaseModel, context: RunContext) -> Solution:
        """Try, verify, and try again with what failed."""
        problem = text_of(request)
        best = await self._directly(problem, context)
        while best.attempt.faults:
            context.note("refused", f"try {best.number}: {'; '.join(best.attempt.faults)}")
            if best.number == self.tries:
                break
            try:
                best = await self._planned(problem, best, context)
            except MoaError as error:
                if not best.attempt.answer:
                    raise
                context.note("degraded", f"the answer stands unverified, with no other: {error}")
                break
        context.emit(Piece(context.node, best.attempt.answer))
        return Solution(
            text=best.attempt.answer,
            steps=best.attempt.steps,
            verified=not best.attempt.faults and self.accept is not None,
            reasons=best.attempt.faults or best.reasons,
            tries=best.number,
        )

    async def _directly(self, problem: str, context: RunContext) -> _Tried:
        hidden = quiet(context)  # what may be rejected: nobody could take it back
        text = (await self.direct.run(problem, hidden)).output.text
        return await self._verified(problem, (), text, 1, hidden)

    async def _planned(self, problem: str, before: _Tried, context: RunContext) -> _Tried:
        number = before.number + 1
        last = number == self.tries
        hidden = quiet(context)
        plan = await self._plan(Problem(problem=problem, failed=before.attempt), hidden)
        results = await CarriedOut(
            plan, problem, self.solvers, hurried=last, context=context, hidden=hidden
        ).results()
        faults = tuple(f"step {result.id!r}: {result.fault}" for result in results if result.fault)
        if faults and not last:
            return _Tried(Attempt(steps=results, answer="", faults=faults), number)
        text = await self._written(problem, results, hidden)
        return await self._verified(problem, results, text, number, hidden, faults)

    async def _verified(
        self,
        problem: str,
        results: tuple[StepResult, ...],
        text: str,
        number: int,
        hidden: RunContext,
        faults: tuple[str, ...] = (),
    ) -> _Tried:
        faults += tuple(wrong_sums(text))
        reasons: tuple[str, ...] = ()
        if not faults:
            accepted, reasons = await self._judged(problem, results, text, hidden)
            faults = () if accepted else reasons
        return _Tried(Attempt(steps=results, answer=text, faults=faults), number, reasons)

    async def _plan(self, problem: Problem, hidden: RunContext) -> Steps:
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
        worked = "".join(f"{r.question} {r.reasons} {r.answer}\n" for r in results)
        whole = f"{worked}\n{text}" if worked else text
        sums = len(check(whole).equations)
        held = f"all sums hold ({sums})" if sums else "no sum was stated"
        reasons = [f"every step has an answer, and {held}" if results else held]
        if self.accept is None:
            reasons.append("not verified: no other model read it")
            return True, tuple(reasons)
        try:
            judged = await self.accept.judge(problem, Reply(text=whole), hidden)
        except ConfigError:
            raise
        except MoaError as error:
            return False, (f"it could not be judged: {error}",)
        return judged.accepted, (*reasons, *judged.reasons) if judged.accepted else judged.reasons

    @property
    def plan(self) -> Plan:
        """Both ways as a graph, to be drawn; a plan has any number of steps of each kind."""
        g: Graph[str | BaseModel] = Graph(self.name, self.input_type)
        direct = g.add(self.direct, g.input)
        steps = g.add(self.planner, direct.map(_refused))
        small = g.add(self.solvers["slm"], steps, eager=True)
        large = g.add(self.solvers["llm"], steps, eager=True)
        sums = g.add(arithmetic, steps)
        planned = g.add(self.writer, g.join(_gathered, small, large, sums))
        reply = g.join(_either, direct, planned)
        if self.verifier is None:
            return g.build(reply.map(_unjudged)).plan
        return g.build(g.join(_judged, reply, g.add(self.verifier, reply.map(_read)))).plan


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
    """Work a problem out, verify the answer, and plan it anew, step by step, where that fails.

    The first try is one call. Every sum that it states is computed again, and where there is
    another model or a policy to verify it, it is asked. What fails is planned, with what was wrong:
    steps that don't need each other run side by side, so the time is that of the longest chain of
    steps, and a calculation is computed exactly, and asks nobody. The last answer is given even
    where it fails too, with `verified` as `False` and the reasons. Where one model is both, the
    answer is never called verified.

    Args:
        slm: Works out the steps that a plan calls easy. Where it is another model that can write,
            it says whether the answer is plausible.
        llm: Works the problem out, plans it, works out the other steps, and writes the answer.
        accept: What the answer must pass beside the sums; `None`: it is plausible to `slm`.
        tries: Times the problem is worked out: once directly, then by a plan.
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


def _refused(reply: Reply) -> Problem:
    return Problem(problem=reply.text)


def _either(direct: Reply, planned: Reply) -> Reply:
    del planned
    return direct


def _gathered(small: Worked, large: Worked, sums: StepResult) -> Work:
    del small, large
    return Work(problem="", results=(sums,))


def _read(reply: Reply) -> str:
    return reply.text


def _unjudged(reply: Reply) -> Solution:
    return Solution(text=reply.text, steps=(), verified=False, reasons=(), tries=1)


def _judged(reply: Reply, verdict: Verdict) -> Solution:
    del verdict
    return _unjudged(reply)
