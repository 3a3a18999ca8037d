"""Code: writes a program in one call, and parses it. It runs only in a given sandbox."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import tomllib
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, Field

from moa.agents.agent import Agent
from moa.core.context import RunContext, quiet
from moa.core.errors import DeadlineExceeded, NodeError
from moa.core.node import Frozen, Reply, text_of
from moa.graphs.fields import Large
from moa.graphs.recipe import Recipe, Sketch

Parser = Literal["python", "json", "toml"]

_FENCE = re.compile(
    r"^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=fence)`*[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
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
_LINE = 120
"""Maximum characters shown of a line with an error."""


class SandboxResult(Frozen):
    """Result of running a program and its tests."""

    passed: bool
    output: str = ""
    """Printed text and errors."""


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
    parsed_by: Parser | None
    """Parser that accepted the program; `None` if none parses its language."""
    sandboxed: SandboxResult | None = None
    """Result of running it; `None` if it wasn't run."""


class Coder(Agent[str, Reply]):
    """Writes a program in a fenced block.

    Python, JSON and TOML that can't be parsed go back to the model, up to `repairs` times. In other
    languages only the block is required.
    """

    tag = ""

    def check(self, request: str, output: Reply) -> None:
        """Check that the program parses."""
        del request
        source_of(output.text)


class Code(Recipe[str | BaseModel, Program], recipe="code"):
    r"""Writes a program in one call, and parses it.

    Python, JSON and TOML are parsed, and a syntax error goes back to the writer once. Nothing is
    executed without a sandbox. With one, the program runs there with your tests. If the sandbox
    itself fails, the program is returned, and the trace says so.

    Raises:
        CapabilityError: `writer` can't complete.

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
    sandbox: Sandbox | None = None
    """Sandbox for the program and its tests; `None` executes nothing. Only in Python."""
    tests: str = ""
    """Tests that run after the program, in the same file; empty: it runs alone."""
    max_tokens: int = Field(default=4096, ge=1)
    """Maximum number of tokens of the program, reasoning included."""

    def prepare(self) -> None:
        """Build the agent."""
        if self.tests and self.sandbox is None:
            raise ValueError("tests run in a sandbox only: give one")
        self.coder = Coder(self.writer, _WRITE, name="writer", max_tokens=self.max_tokens)

    async def answer(self, request: str | BaseModel, context: RunContext) -> Program:
        """Write, and run if there is a sandbox."""
        silent = quiet(context)  # only the program of a reply is shown
        code, language = source_of((await self.coder.run(text_of(request), silent)).output.text)
        program = Program(text=code, language=language, parsed_by=parser_of(language))
        if self.sandbox is None:
            return program
        try:
            result = await _run(self.sandbox, code, self.tests, context)
        except NodeError as error:
            context.note("degraded", f"the program is not run: {error}")
            return program
        if not result.passed:
            context.note("refused", "the program failed when it was run")
        return program.model_copy(update={"sandboxed": result})

    def sketch(self, sketch: Sketch) -> None:
        """Draw the call: the program is written, and run."""
        sketch.chain(self.coder, None if self.sandbox is None else "sandbox")


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
        match parse[parser](source):
            case ast.Module(body=[ast.Expr(value=ast.Dict() | ast.List() | ast.Constant())]):
                raise ValueError("it is a value alone, and does nothing")
            case _:
                pass
    except SyntaxError as error:
        line = (error.text or "").strip()[:_LINE]
        location = f"line {error.lineno}" if error.lineno else "somewhere"
        raise ValueError(
            f"the program is no valid {parser}: {error.msg}, {location}: {line!r}"
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the program is no valid {parser}: {error}") from error


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
