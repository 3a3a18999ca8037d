"""Code: plans, writes, parses and reviews a program. It is executed in a given sandbox alone.

What a sandbox finds goes back to the writer, as in Chen et al. 2023, "Teaching large language
models to self-debug", arXiv:2304.05128.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol, Unpack

from pydantic import BaseModel, ConfigDict

from moa.agents.boundary import Limits
from moa.agents.coder import (
    Assignment,
    CodePlan,
    Coder,
    Parser,
    Source,
    parser_of,
    source_of,
)
from moa.agents.generator import Generator
from moa.agents.reviewer import Draft, Review, Reviewer
from moa.calibration.acceptance import text_of
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.errors import ConfigError, MoaError, NodeError
from moa.graphs.building.builder import Graph
from moa.graphs.building.plan import Plan
from moa.graphs.pattern import Pattern
from moa.handoffs import Reply
from moa.mixing.listening import quiet
from moa.trace import Piece

_PLAN = (
    "You plan programs. Name the language (Python, unless another is asked for), the parts of the "
    "program and the cases to test, in a few words each. Write no code yet."
)
_SHOWN = 4000
"""Characters of a sandbox's output that the writer is shown: the last ones, where errors stand."""


class SandboxResult(BaseModel):
    """What came of running a program and its tests."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    output: str = ""
    """What was printed and raised; the writer is shown the end of it."""


class Sandbox(Protocol):
    """Runs a program somewhere it can do no harm. What is safe is for whoever gives it to say."""

    async def run(self, code: str, tests: str, /) -> SandboxResult:
        """Run a program and its tests.

        Args:
            code: The program.
            tests: To be run below the program, in the same file; empty where there are none.
        """
        ...


class Program(Reply):
    """A program. `text` is its source."""

    language: str
    tests: str
    """Source of the tests; empty where there are none."""
    plan: CodePlan
    parsed_by: Parser | None
    """What found it to be valid; `None`: nothing here parses its language."""
    faults: tuple[str, ...]
    """What the reviewer and the sandbox still find wrong."""
    reviewed: bool
    """Whether the reviewer read it; if not, nothing is known of its faults."""
    sandboxed: SandboxResult | None
    """What came of running it; `None`: nothing was executed."""
    tries: int
    """Times it was written."""


@dataclass(frozen=True, slots=True)
class _Written:
    reply: str
    source: Source
    faults: tuple[str, ...]
    reviewed: bool = True
    sandboxed: SandboxResult | None = None


class Code(Pattern[str | BaseModel, Program]):
    """What `code` makes."""

    def __init__(
        self,
        writer: Endpoint,
        reviewer: Endpoint,
        *,
        sandbox: Sandbox | None,
        tries: int,
        repairs: int,
        max_tokens: int,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        if tries < 1:
            raise ConfigError(f"graph {self.name!r}: tries={tries}, but it takes at least one")
        self.planner = Generator(
            writer, _PLAN, output=CodePlan, name="planner", max_tokens=max_tokens, tag=""
        )
        self.writer = Coder(writer, name="writer", repairs=repairs, max_tokens=max_tokens)
        self.reviewer = Reviewer(reviewer, max_tokens=max_tokens)
        self.sandbox = sandbox
        self.tries = tries

    async def answer(self, request: str | BaseModel, context: RunContext) -> Program:
        """Plan, write, review, and mend what is found."""
        hidden = quiet(context)  # what may be rejected: nobody could take it back
        plan = (await self.planner.run(request, hidden)).output
        assignment = Assignment(task=text_of(request), plan=plan)
        best = await self._tried(assignment, hidden)
        tries = 1
        while best.faults and tries < self.tries:
            context.note("refused", f"try {tries}: {'; '.join(best.faults)}")
            again = assignment.model_copy(update={"draft": best.reply, "faults": best.faults})
            try:
                best = await self._tried(again, hidden)
            except MoaError as error:
                context.note("degraded", f"try {tries} stands with its faults: {error}")
                break
            tries += 1
        context.emit(Piece(context.node, best.source.code))
        return Program(
            text=best.source.code,
            language=plan.language,
            tests=best.source.tests,
            plan=plan,
            parsed_by=parser_of(plan.language),
            faults=best.faults,
            reviewed=best.reviewed,
            sandboxed=best.sandboxed,
            tries=tries,
        )

    async def _tried(self, assignment: Assignment, hidden: RunContext) -> _Written:
        reply = (await self.writer.run(assignment, hidden)).output.text
        source = source_of(reply, assignment.plan.language)
        whole = "\n\n".join(filter(None, source))
        draft = Draft(task=assignment.task, source=whole)
        try:
            faults = (await self.reviewer.run(draft, hidden)).output.faults
        except MoaError as error:
            if assignment.draft or isinstance(error, ConfigError):
                raise
            hidden.note("degraded", f"the program is not reviewed, and not run: {error}")
            return _Written(reply, source, (), reviewed=False)
        if faults or self.sandbox is None:
            return _Written(reply, source, faults)
        try:
            done = await _run(self.sandbox, source, hidden)
        except NodeError as error:
            hidden.note("degraded", f"the program is not run: {error}")
            return _Written(reply, source, faults)
        failed = () if done.passed else (f"it failed when it was run: {_end(done.output, hidden)}",)
        return _Written(reply, source, failed, sandboxed=done)

    @property
    def plan(self) -> Plan:
        """One try as a graph, to be drawn."""
        g: Graph[str | BaseModel] = Graph(self.name, self.input_type)
        planned = g.add(self.planner, g.input)
        written = g.add(self.writer, planned.map(_assigned))
        reviewed = g.add(self.reviewer, written.map(_drafted))
        if self.sandbox is None:
            return g.build(g.join(_programmed, written, reviewed)).plan
        return g.build(g.join(_programmed, written, g.add(sandbox, reviewed))).plan


def code(
    writer: Endpoint,
    reviewer: Endpoint | None = None,
    *,
    sandbox: Sandbox | None = None,
    tries: int = 3,
    repairs: int = 2,
    max_tokens: int = 4096,
    **limits: Unpack[Limits],
) -> Code:
    """Plan a program, write it, parse it, have it reviewed, and mend what is found.

    Python, JSON and TOML are parsed, and a syntax error goes back to the writer. Nothing is
    executed unless a sandbox is given; then a program that passed review runs there with its
    tests, and what fails goes back as well. The last program is given even with `faults`, and where
    the reviewer or the sandbox itself fails, which the trace says.

    Args:
        writer: Plans and writes.
        reviewer: Reviews; `None`: the writer, which sees less of its own faults than another model.
        sandbox: Runs the program and its tests; `None` executes nothing.
        tries: Most times the program is written, a syntax error that is mended not counted.
        repairs: Times a program that can't be parsed goes back; after that it is an `OutputError`.
        max_tokens: Most tokens of each text, reasoning included.
        limits: See `Limits`.

    Raises:
        CapabilityError: an endpoint can't complete.
        ConfigError: a number is out of range.
    """
    return Code(
        writer,
        reviewer or writer,
        sandbox=sandbox,
        tries=tries,
        repairs=repairs,
        max_tokens=max_tokens,
        **limits,
    )


async def _run(sandbox: Sandbox, source: Source, context: RunContext) -> SandboxResult:
    """Run a program until the run's time is up, which is a failure of the program.

    Raises:
        NodeError: the sandbox itself failed.
    """
    limit_s = context.remaining_s()
    timer = asyncio.timeout(limit_s)
    try:
        async with timer:
            return await sandbox.run(source.code, source.tests)
    except Exception as error:  # whatever it is, it is the sandbox's, and no program's fault
        if timer.expired():
            return SandboxResult(passed=False, output=f"it had not ended after {limit_s:.1f} s")
        raise NodeError("sandbox", error) from error


def _end(output: str, context: RunContext) -> str:
    if len(output) > _SHOWN:
        context.note("truncated", f"the sandbox's output, to its last {_SHOWN} characters")
    return output[-_SHOWN:].strip() or "nothing was printed"


def _assigned(plan: CodePlan) -> Assignment:
    return Assignment(task="", plan=plan)


def _drafted(reply: Reply) -> Draft:
    return Draft(task="", source=reply.text)


def sandbox(review: Review) -> Review:
    """Stand for the sandbox in drawings; it is not run."""
    return review


def _programmed(reply: Reply, review: Review) -> Program:
    return Program(
        text=reply.text,
        language="",
        tests="",
        plan=CodePlan(language="-", parts=("-",)),
        parsed_by=None,
        faults=review.faults,
        reviewed=True,
        sandboxed=None,
        tries=1,
    )
