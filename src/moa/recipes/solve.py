"""Solve: works a problem out in one call, and checks the answer.

It thinks step by step, as in Kojima et al. 2022, "Large language models are zero-shot reasoners",
arXiv:2205.11916. Every sum that it states is computed again; no program is executed.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from moa.agents.deciding import Decider
from moa.agents.proposer import Answerer
from moa.core.context import RunContext, quiet
from moa.core.errors import ConfigError, MoaError
from moa.core.node import Reply, text_of
from moa.core.numbers import format_number
from moa.core.questions import Predicate, predicate
from moa.decisions.acceptance import Judgement, Policy
from moa.endpoints.known import can_write
from moa.graphs.fields import Large, Small
from moa.graphs.recipe import Recipe, Sketch
from moa.guards.arithmetic import find_equations
from moa.guards.verifiers import Plausible


class Solution(Reply):
    """An answer, and whether it was verified."""

    verified: bool
    """True if all sums are right, and the answer is accepted by another model than its writer, or
    by the given policy. A model that agrees with itself verifies nothing."""
    reasons: tuple[str, ...]
    """Reasons for the answer if no fault was found, else its faults."""


class Verdict(BaseModel):
    """What the verifier is asked."""

    right: Predicate = predicate("Is the reply a correct and complete answer to the request?")


class Solve(Recipe[str | BaseModel, Solution], recipe="solve"):
    """Works a problem out in one call, and checks the answer.

    Every sum that it states is computed again. If all are right, another model or a policy verifies
    the answer, if there is one. An answer with a fault is given with `verified` as `False` and the
    reasons. If `slm` and `llm` are the same model, only `accept` can verify an answer.

    Raises:
        CapabilityError: `llm` can't complete, or `slm` can't decide.

    Examples:
        >>> from moa.recipes.solve import Solve
        >>> large = ScriptedEndpoint(["3 * 4 = 12, so it costs $12."])
        >>> solution = Solve(slm=ScriptedEndpoint(), llm=large).run_sync("3 bags at $4?").output
        >>> print(solution.text)
        3 * 4 = 12, so it costs $12.
    """

    slm: Small
    """If it is another model than `llm` and can write, it judges whether the answer is
    plausible."""
    llm: Large
    """Solves the problem."""
    accept: Policy | None = None
    """Policy that must accept the answer, after the check of its sums; `None`: `slm` must find it
    plausible. Only in Python."""
    max_tokens: int = Field(default=1024, ge=1)
    """Maximum number of tokens of the answer, reasoning included."""

    def prepare(self) -> None:
        """Make the agents."""
        self.direct = Answerer(self.llm, name="direct", max_tokens=self.max_tokens, tag="")
        # A model verifies nothing that it wrote itself, and one that can't write can't judge it.
        can_judge = self.slm.model != self.llm.model and can_write(self.slm.model)
        judges = self.accept is None and can_judge
        self.verifier = Decider(self.slm, Verdict, name="verifier") if judges else None
        self.policy = Plausible(self.verifier) if self.verifier else self.accept

    async def answer(self, request: str | BaseModel, context: RunContext) -> Solution:
        """Solve, and check."""
        problem, silent = text_of(request), quiet(context)  # it is shown once it is checked
        reply = Reply(text=(await self.direct.run(problem, silent)).output.text)
        equations = find_equations(reply.text)
        faults = tuple(
            f"{stated.left} = {stated.right} is wrong: it is {format_number(stated.value)}"
            for stated in equations
            if not stated.holds
        )
        verified, reasons = False, faults
        if not faults:
            sums = f"all sums hold ({len(equations)})" if equations else "no sum was stated"
            judgement = await self._judge(problem, reply, silent)
            if judgement is None:
                reasons = (sums, "not verified: no other model read it")
            elif verified := judgement.accepted:
                reasons = (sums, *judgement.reasons)
            else:
                faults = reasons = judgement.reasons
        if faults:
            context.note("refused", "; ".join(faults))
        return Solution(text=reply.text, verified=verified, reasons=reasons)

    async def _judge(self, problem: str, reply: Reply, context: RunContext) -> Judgement | None:
        """Ask the policy, if there is one. An answer that can't be judged is not accepted."""
        if self.policy is None:
            return None
        try:
            return await self.policy.judge(problem, reply, context)
        except ConfigError:
            raise
        except MoaError as error:
            reason = f"it could not be judged: {error}"
            return Judgement(score=0.0, accepted=False, reasons=(reason,))

    def sketch(self, sketch: Sketch) -> None:
        """Draw the call and its check."""
        sketch.chain(self.direct, self.verifier)
