"""Code: writes a program, parses it, and fixes faults. It runs only in a given sandbox.

Faults that a sandbox or a reviewer finds go back to the writer, as in Chen et al. 2023, "Teaching
large language models to self-debug", arXiv:2304.05128. Tests are written from the task alone, as in
Chen et al. 2022, "CodeT: code generation with generated tests", arXiv:2207.10397.
"""

from __future__ import annotations

import ast
import asyncio
import copy
import json
import re
import tomllib
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol, Self, runtime_checkable

from pydantic import BaseModel, Field

from moa.agents.agent import Agent
from moa.core.context import RunContext, quiet
from moa.core.errors import ConfigError, DeadlineExceeded, MoaError, NodeError, OutputError
from moa.core.node import Frozen, Reply, text_of
from moa.documents.writing import attempt, revise
from moa.endpoints import Completion
from moa.endpoints.tokens import approximate_tokens
from moa.graphs.fields import Large
from moa.graphs.recipe import Recipe, Sketch

Parser = Literal["python", "json", "toml"]

_FENCE = re.compile(
    r"^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=fence)`*[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_ANY_FENCE = re.compile(r"^`{3,}", re.MULTILINE)
_VALUES = re.compile(r"""\d+|'[^']*'|"[^"]*\"""")
_PARSERS: dict[str, Parser] = {
    **dict.fromkeys(("python", "python3", "py"), "python"),
    "json": "json",
    "toml": "toml",
}
_WRITE = (
    "You are a careful programmer. Write the program that is asked for, with the names and the "
    "arguments that are given, and think of the edge cases. Write Python unless another "
    "language is asked for. Answer with one fenced code block that holds the program and what "
    "it imports, no examples of its use, and nothing else."
)
_TEST = (
    "You are a careful tester. You write tests of what a programmer was asked for: plain "
    "assert statements, which run in the same file, below the program, and whose results you "
    "are sure of."
)
_REVIEW = (
    "You review programs. List the bugs that make this program fail its task: wrong results, "
    "missing cases, security holes. Ignore matters of taste. If you "
    "find no bug, give an empty list."
)
_SHOWN = 4000
"""Maximum characters of a sandbox's output shown to the writer: the last ones, where errors are."""
_MAX_TESTS = 5
_NOT_RUN = _MAX_TESTS + 1
_LEAST_TOKENS, _TOKENS_A_TOKEN = 1024, 12
"""Minimum tokens of a program's first try, and tokens per token of its task."""
_EXAMPLES, _EXAMPLE_LINES = 3, 40
"""Minimum number of calls after the functions to count as examples of their use, and maximum number
of lines to drop from a truncated one."""
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LAST, _NEW = 12, 0.3
"""Number of lines checked at the end of a text, and the share of them that must differ. Otherwise
the text repeats itself."""
_LINE = 120
"""Maximum characters shown of a line with an error."""


class SandboxResult(Frozen):
    """Result of running a program and its tests."""

    passed: bool
    output: str = ""
    """Printed text and errors. The writer is shown the end of it."""


@runtime_checkable
class Sandbox(Protocol):
    """Runs a program where it can do no harm. Its safety is up to the user who provides it."""

    async def run(self, code: str, tests: str, /) -> SandboxResult:
        """Run a program and a test of it.

        Args:
            code: Program to run.
            tests: Tests to run after the program, in the same file; empty if there are none.
        """
        ...


class Source(NamedTuple):
    """A program extracted from a reply."""

    code: str
    language: str
    """Language named by the block, such as `python`. Default: `python`."""


class Program(Reply):
    """A program. `text` is its source."""

    language: str
    tests: str
    """Tests, one after another, written only for a sandbox; otherwise empty."""
    parsed_by: Parser | None
    """Parser that accepted the program; `None` if none parses its language."""
    faults: tuple[str, ...] = ()
    """Faults that the reviewer and the sandbox still find."""
    reviewed: bool = False
    """True if a reviewer read the program. If False, its faults are unknown."""
    sandboxed: SandboxResult | None = None
    """Result of the first failed test, or of passing all; `None` if nothing was run."""
    tries: int = 1
    """Number of times the program was written."""


class Review(Frozen):
    """What must be mended in a program."""

    faults: tuple[str, ...] = Field(
        max_length=8,
        description="each a fault that makes the program wrong, unsafe or incomplete: where it is, "
        "and what happens; empty where there is none",
    )


class _TruncatedProgram(OutputError):
    """The token limit cut a program that more tokens would complete."""


class Coder(Agent[str, Reply]):
    """Writes a program, or tests, in a fenced block.

    Python, JSON and TOML that can't be parsed go back to the model, up to `repairs` times. In other
    languages only the block is required.
    """

    tag = ""
    is_limited = False
    """True if it can be asked again with more tokens, so a truncated program isn't repaired."""

    def with_limit(self, max_tokens: int) -> Self:
        """Return a copy that writes at most `max_tokens` tokens."""
        coder = copy.copy(self)
        coder.max_tokens = min(max_tokens, self.max_tokens)
        coder.is_limited = coder.max_tokens < self.max_tokens
        return coder

    def read(self, completion: Completion) -> Reply:
        """Read the reply. If it was cut in the examples after the program, keep only the program.

        Raises:
            _TruncatedProgram: the limit cut the program.
        """
        reply = super().read(completion)
        if completion.finish_reason != "length" or not _is_open(reply.text):
            return reply
        if (program := without_examples(reply.text)) is not None:
            return Reply(text=program)
        if self.is_limited and not repeats_itself(reply.text):
            message = f"{self.max_tokens} tokens are too few for it"
            raise _TruncatedProgram(message, node=self.name, text=reply.text)
        return reply

    def check(self, request: str, output: Reply) -> None:
        """Check that the program parses."""
        del request
        source_of(output.text)


class Tester(Coder):
    """Writes tests. If the limit cuts them, the complete ones are kept.

    A small model that has written three may never stop, and more tokens would not help.
    """

    def read(self, completion: Completion) -> Reply:
        """Read the reply. If it was cut, keep the complete tests."""
        reply = super(Coder, self).read(completion)
        if completion.finish_reason == "length" and _is_open(reply.text):
            fence, lines, _, _ = _drop_broken_lines(reply.text)
            return Reply(text=_fence(fence, lines))
        return reply


class _Draft(NamedTuple):
    program: Program
    reply: str
    failed: int = 0
    """Number of failed tests; if it could not be run, more than the maximum number of tests."""


class Code(Recipe[str | BaseModel, Program], recipe="code"):
    r"""Writes a program, parses it, and mends what a reviewer and a sandbox find.

    Python, JSON and TOML are parsed, and a syntax error goes back to the writer. Nothing is
    executed without a sandbox. With one, tests are written from the task alone, a program that
    passed review runs there with each of them, and failures go back to the writer too. If every try
    has faults, the first of those that pass the most tests is returned, with its `faults`. A
    program is also returned if the tests can't be written, or the reviewer or the sandbox itself
    fails. The trace says so.

    Raises:
        CapabilityError: an endpoint can't complete.

    Examples:
        >>> from moa.recipes.code import Code
        >>> large = ScriptedEndpoint(["```python\ndef half(n):\n    return n / 2\n```"])
        >>> written = Code(writer=large).run_sync("A function that halves a number.").output
        >>> print(written.text)
        def half(n):
            return n / 2
    """

    writer: Large
    """Model that writes the program."""
    reviewer: Large | None = None
    """Model that reviews it. Use another model than the writer, which overlooks its own faults.
    `None`: no review."""
    sandbox: Sandbox | None = None
    """Sandbox for the program and its tests; `None` executes nothing. Only in Python."""
    tries: int = Field(default=3, ge=1)
    """Maximum number of times the program is written, not counting repairs of syntax errors."""
    repairs: int = Field(default=2, ge=0)
    """Number of times an unparsable program goes back to the writer, before an `OutputError`."""
    max_tokens: int = Field(default=4096, ge=1)
    """Maximum number of tokens of each text, reasoning included. Programs get fewer at first, by
    the length of the task, and all of them if those are too few: a small model may repeat itself
    until it is cut, which takes minutes."""

    def prepare(self) -> None:
        """Build the agents."""
        repairs, max_tokens = self.repairs, self.max_tokens
        self.thinks = False
        """True if the writer has spent all tokens of a first try on thinking."""
        self.coder = Coder(
            self.writer, _WRITE, name="writer", repairs=repairs, max_tokens=max_tokens
        )
        self.tester = self.critic = None
        if self.sandbox is not None:  # without one, tests would not run
            self.tester = Tester(
                self.writer, _TEST, name="tests", repairs=repairs, max_tokens=max_tokens
            )
        if self.reviewer is not None:
            self.critic = Agent(
                self.reviewer,
                _REVIEW,
                output=Review,
                name="reviewer",
                max_tokens=max_tokens,
                tag="",
            )

    async def answer(self, request: str | BaseModel, context: RunContext) -> Program:
        """Write, review, run, and fix faults."""
        silent = quiet(context)  # streamed text can't be taken back
        task = text_of(request)
        tests = await self._write_tests(task, silent)
        first = await self._try(task, None, tests, silent)

        async def mend(draft: _Draft) -> _Draft:
            return await self._try(task, draft, tests, silent)

        drafts = await revise(
            first, mend, lambda draft: draft.program.faults or None, context, tries=self.tries
        )
        # Tests are often wrong too: a later program must pass more of them to replace an earlier
        # one.
        best = min(drafts, key=lambda draft: draft.failed).program
        return best.model_copy(update={"tries": len(drafts)})

    async def _write_tests(self, task: str, context: RunContext) -> Sequence[str]:
        """Write the tests from the task alone, so that they can't repeat a program's faults."""
        if self.tester is None:
            return ()
        # The request for tests comes last. Otherwise a small model does the task.
        prompt = (
            f"A programmer was asked:\n{task}\n\nWrite three tests of what comes of it, "
            "one assert statement a line, in one fenced block. Do not write the program itself."
        )
        fallback = "the program runs without tests"
        writing = self._write(self.tester, task, prompt, context)
        reply = await attempt(writing, context, fallback, kind="degraded")
        if reply is None:
            return ()
        code, language = source_of(reply)
        if parser_of(language) != "python":
            return (code,)
        tests = _asserts(code)
        if not tests:
            context.note("degraded", f"{fallback}: none of them is an assert")
        return tests

    async def _write(self, coder: Coder, task: str, prompt: str, context: RunContext) -> str:
        """Write within the tokens that such a task takes. If they are too few, within all."""
        tokens = max(_LEAST_TOKENS, _TOKENS_A_TOKEN * approximate_tokens(task))
        first = coder if self.thinks else coder.with_limit(tokens)
        try:
            return (await first.run(prompt, context)).output.text
        except OutputError as error:
            # A text that wasn't cut has another fault, which more tokens don't fix.
            if not first.is_limited or (error.text and not isinstance(error, _TruncatedProgram)):
                raise
            self.thinks = not error.text  # all tokens went into thoughts
            context.note("repaired", f"asked again, with {coder.max_tokens} tokens: {error}")
            return (await coder.run(prompt, context)).output.text

    async def _try(
        self, task: str, before: _Draft | None, tests: Sequence[str], context: RunContext
    ) -> _Draft:
        """Write a program, or fix the one before, and find its faults."""
        prompt = task if before is None else _mend_prompt(task, before)
        reply = await self._write(self.coder, task, prompt, context)
        code, language = source_of(reply)
        program = Program(
            text=code,
            language=language,
            tests="\n".join(tests),
            parsed_by=parser_of(language),
        )
        if self.critic is not None:
            prompt = f"Task: {task}\n\nProgram:\n````\n{code}\n````"
            try:
                faults = (await self.critic.run(prompt, context)).output.faults
            except MoaError as error:
                if before is not None or isinstance(error, ConfigError):
                    raise
                context.note("degraded", f"the program is not reviewed, and not run: {error}")
                return _Draft(program, reply)
            program = program.model_copy(update={"faults": faults, "reviewed": True})
        if program.faults:
            return _Draft(program, reply, _NOT_RUN)
        if self.sandbox is None:
            return _Draft(program, reply)
        try:
            results = [await _run(self.sandbox, code, test, context) for test in tests or ("",)]
        except NodeError as error:
            context.note("degraded", f"the program is not run: {error}")
            return _Draft(program, reply, _NOT_RUN)
        failed = [result for result in results if not result.passed]
        update: dict[str, object] = {"sandboxed": SandboxResult(passed=True)}
        if failed:
            fault = f"it failed when it was run: {_last_of(failed[0].output, context)}"
            update = {"sandboxed": failed[0], "faults": (fault,)}
        return _Draft(program.model_copy(update=update), reply, len(failed))

    def sketch(self, sketch: Sketch) -> None:
        """Draw one try: the program is written, reviewed, and run."""
        sandbox = None if self.sandbox is None else "sandbox"
        boxes = sketch.chain(self.tester, self.coder, self.critic, sandbox)
        coder = boxes[0 if self.tester is None else 1]
        if boxes[-1] != coder:
            sketch.arrow(boxes[-1], coder, label="faults")


def _mend_prompt(task: str, draft: _Draft) -> str:
    faults = "\n".join(f"- {fault}" for fault in draft.program.faults)
    feedback = f"Your draft:\n{draft.reply}\n\nWhat is wrong with it:\n{faults}"
    return f"{task}\n\n{feedback}\n\nFix what is wrong, and keep the rest."


def parser_of(language: str) -> Parser | None:
    """Return the parser of a language, or `None`."""
    return _PARSERS.get(language.strip().lower())


def source_of(text: str) -> Source:
    """Extract the program from a reply: its first fenced block, or all of it if it is Python.

    Raises:
        ValueError: there is none, it can't be parsed, or it is only a value. The message says
            where.
    """
    block = _FENCE.search(text)
    code = block["code"].strip("\n") if block else text.strip()
    language = next(iter(block["language"].split() if block else ()), "python")
    parser = parser_of(language)
    if not code.strip():
        raise ValueError("the block is empty")
    if parser is not None:
        try:
            _parse(code, parser)
        except ValueError as error:
            missing = "" if block else "there is no fenced block, and "
            raise ValueError(f"{missing}{error}") from error
    return Source(code, language)


def _is_open(text: str) -> bool:
    """Return True if a text ends within a fenced block."""
    return len(_ANY_FENCE.findall(text)) % 2 == 1


def without_examples(text: str) -> str | None:
    """Close a truncated block of Python, without the examples of use at its end.

    A small model may write examples after the program until it is cut. `None`: it was cut
    elsewhere.
    """
    fence, lines, cut, body = _drop_broken_lines(text)
    last = _program_end(body)
    goes_on = cut.startswith((" ", "\t", "def ", "async ", "class ", "@"))
    return None if last is None or goes_on else _fence(fence, lines[:last])


def _drop_broken_lines(text: str) -> tuple[str, list[str], str, Sequence[ast.stmt]]:
    """Drop the lines at the end of a truncated block of Python that don't parse.

    Returns its fence, its lines, the first dropped line, and the statements. If too many lines
    would be dropped, there are no lines.
    """
    fence, _, source = text.partition("\n")
    while source and not fence.startswith("```"):
        fence, _, source = source.partition("\n")
    *lines, cut = source.split("\n")
    for _ in range(_EXAMPLE_LINES):
        with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            return fence, lines, cut, _python("\n".join(lines)).body
        if not lines:
            break
        cut = lines.pop()
    return fence, [], cut, ()


def _program_end(body: Sequence[ast.stmt]) -> int | None:
    """Return the last line of a program, before examples of its use; `None` without examples."""
    program = len(body)
    while program and isinstance(body[program - 1], ast.Expr):
        program -= 1
    has_definition = any(isinstance(statement, _DEFINITIONS) for statement in body[:program])
    return (
        body[program - 1].end_lineno
        if has_definition and len(body) - program >= _EXAMPLES
        else None
    )


def _fence(fence: str, lines: Sequence[str]) -> str:
    return "\n".join([fence, *lines, "```"])


def repeats_itself(text: str) -> bool:
    """Return True if a text ends in one repeated line, ignoring figures and strings."""
    *lines, _ = (_VALUES.sub("", line.strip()) for line in text.split("\n") if line.strip())
    last = lines[-_LAST:]
    return len(last) == _LAST and len(set(last)) <= _LAST * _NEW


def _asserts(source: str) -> Sequence[str]:
    """Keep the assertions, each with all imports. A model may write the program again."""
    lines = ast.parse(source).body
    imports = [
        ast.unparse(statement)
        for statement in lines
        if isinstance(statement, ast.Import | ast.ImportFrom)
    ]
    asserts = [ast.unparse(statement) for statement in lines if isinstance(statement, ast.Assert)]
    return ["\n".join([*imports, statement]) for statement in asserts[:_MAX_TESTS]]


def _python(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the program, such as invalid escapes
        # CPython opens the file of this name for the line of an error. There is none.
        return ast.parse(source, filename="")


def _parse(source: str, parser: Parser) -> None:
    parse: dict[Parser, Callable[[str], object]] = {
        "python": _python,
        "json": json.loads,
        "toml": tomllib.loads,
    }
    try:
        parsed = parse[parser](source)
        if isinstance(parsed, ast.Module) and _is_value(parsed):
            raise ValueError("it is a value alone, and does nothing")
    except SyntaxError as error:
        line = (error.text or "").strip()[:_LINE]
        location = f"line {error.lineno}" if error.lineno else "somewhere"
        raise ValueError(
            f"the program is no valid {parser}: {error.msg}, {location}: {line!r}"
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the program is no valid {parser}: {error}") from error


def _is_value(program: ast.Module) -> bool:
    """Return True if a program is only a literal value, such as a plan in JSON."""
    match program.body:
        case [ast.Expr(value=ast.Dict() | ast.List() | ast.Constant())]:
            return True
        case _:
            return False


async def _run(sandbox: Sandbox, code: str, tests: str, context: RunContext) -> SandboxResult:
    """Run a program. Running out of time is its failure; an error is the sandbox's."""
    try:
        limit_s = context.remaining_s()
    except DeadlineExceeded:
        return SandboxResult(passed=False, output="there was no time left to run it")
    timer = asyncio.timeout(limit_s)
    try:
        async with timer:
            return await sandbox.run(code, tests)
    except Exception as error:  # any error is the sandbox's, not the program's
        if timer.expired():
            return SandboxResult(passed=False, output=f"it had not ended after {limit_s:.1f} s")
        raise NodeError("sandbox", error) from error


def _last_of(output: str, context: RunContext) -> str:
    if len(output) > _SHOWN:
        context.note("truncated", f"the sandbox's output, to its last {_SHOWN} characters")
    return output[-_SHOWN:].strip() or "nothing was printed"
