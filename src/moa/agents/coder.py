"""Coder: writes a program in a fenced block. What it wrote is parsed, and never executed."""

from __future__ import annotations

import ast
import json
import re
import tomllib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from moa.agents import Agent
from moa.handoffs import Reply

Parser = Literal["python", "json", "toml"]

_FENCE = re.compile(r"^(`{3,})[^\n`]*\n(.*?)^\1`*[ \t]*$", re.MULTILINE | re.DOTALL)
_PARSERS: dict[str, Parser] = {
    "python": "python",
    "python3": "python",
    "py": "python",
    "json": "json",
    "toml": "toml",
}


class CodePlan(BaseModel):
    """How a program is to be written."""

    model_config = ConfigDict(frozen=True)

    language: str = Field(min_length=1, description="such as Python; one word where there is one")
    parts: tuple[str, ...] = Field(
        min_length=1, max_length=6, description="what it is made of, in a few words each, no code"
    )
    tests: tuple[str, ...] = Field(
        default=(), max_length=6, description="what its tests check, in words; none for data"
    )

    def __str__(self) -> str:
        """Write it as text, which can't pass for the program."""
        listed = {"Parts": self.parts, "Tests": self.tests}
        lines = (
            f"{name}:\n" + "\n".join(f"- {e}" for e in each)
            for name, each in listed.items()
            if each
        )
        return "\n".join((f"Language: {self.language}", *lines))


class Assignment(BaseModel):
    """What is to be written, and what was wrong with the draft, if there is one."""

    model_config = ConfigDict(frozen=True)

    task: str
    plan: CodePlan
    draft: str = ""
    """The reply to be mended; empty at first."""
    faults: tuple[str, ...] = ()


class Source(NamedTuple):
    """A program, taken out of a reply."""

    code: str
    tests: str
    """Empty where there are none."""


class Coder(Agent[Assignment, Reply]):
    """Writes a program and its tests, each in a fenced block, or mends its draft.

    What can't be parsed goes back to the model, `repairs` times: Python, JSON and TOML. Of other
    languages only the block is looked for.
    """

    instructions = (
        "You are a careful programmer. Write the whole program in one fenced code block. If the "
        "plan lists tests, write them in a second block; they run below the program, in the same "
        "file. If a draft is given, fix what is wrong with it and keep the rest. Write nothing "
        "outside the blocks."
    )

    tag = ""

    def prompt(self, request: Assignment) -> str:
        """Show the task, the plan, and the draft with its faults."""
        parts = [request.task, str(request.plan)]
        if request.draft:
            faults = "\n".join(f"- {fault}" for fault in request.faults)
            parts += [f"Your draft:\n{request.draft}", f"What is wrong with it:\n{faults}"]
        return "\n\n".join(parts)

    def check(self, request: Assignment, output: Reply) -> None:
        """Parse it."""
        source_of(output.text, request.plan.language)


def parser_of(language: str) -> Parser | None:
    """Name what parses a language; `None`: nothing here does."""
    return _PARSERS.get(language.strip().lower())


def source_of(text: str, language: str) -> Source:
    """Take the program and its tests out of a reply, and parse them.

    Args:
        text: The reply: a fenced block, and perhaps a second one with the tests. Without a block
            it is the program itself, where its language can be parsed.
        language: In any case; the tags of the blocks don't matter.

    Raises:
        ValueError: there is no block, it can't be parsed, or it is a value and no program; the
            message says where.
    """
    parser = parser_of(language)
    blocks = [found[2].strip("\n") for found in _FENCE.finditer(text)]
    if not blocks and parser is None:
        raise ValueError("there is no fenced block: start it with ``` and end it with ```")
    code, *rest = blocks or [text.strip()]
    tests = "\n\n".join(rest)
    if not code.strip():
        raise ValueError("the block is empty")
    if parser is not None:
        _parse(code, parser, "the program")
        if tests:
            _parse(tests, parser, "the tests")
    return Source(code, tests)


def _parse(source: str, parser: Parser, what: str) -> None:
    parse: dict[Parser, Callable[[str], object]] = {
        # For the line of an error, CPython opens the file of this name: there is none.
        "python": partial(ast.parse, filename=""),
        "json": json.loads,
        "toml": tomllib.loads,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the program, such as an invalid escape
            parsed = parse[parser](source)
            if isinstance(parsed, ast.Module) and _is_value(parsed):
                raise ValueError("it is a value alone, and does nothing")
    except SyntaxError as error:
        shown = (error.text or "").strip()
        where = f"line {error.lineno}" if error.lineno else "somewhere"
        raise ValueError(f"{what} is no valid {parser}: {error.msg}, {where}: {shown!r}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{what} is no valid {parser}: {error}") from error


def _is_value(program: ast.Module) -> bool:
    """Whether all that there is, is a value that is written out, such as a plan in JSON."""
    match program.body:
        case [ast.Expr(value=ast.Dict() | ast.List() | ast.Constant())]:
            return True
        case _:
            return False
