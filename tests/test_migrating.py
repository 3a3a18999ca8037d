"""The page of migration: each block runs and prints what it says, and its lines are counted."""

from __future__ import annotations

import ast
import inspect
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from migrating import given

PAGE = Path(__file__).parent.parent / "docs/migrating.md"
PACKAGES = {"LangChain": "langchain", "LangGraph": "langgraph", "DSPy": "dspy"}
"""What a library's blocks need beside what the tests have."""
LIBRARIES = ("moa", "pydantic-ai", "LangChain", "LangGraph", "DSPy", "OpenAI SDK")
COLUMNS = ("moa", "pydantic-ai", "LangChain, LangGraph", "DSPy", "OpenAI SDK")

_BLOCK = re.compile(r'^```python \{job="(\w+)" in="([^"]+)"\}\n(.*?)^```$', re.M | re.S)
_FORMAT = ("--line-length=100", "--config=format.skip-magic-trailing-comma=true")
_QUIET = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


class Block(NamedTuple):
    job: str
    library: str
    source: str


def blocks() -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


def lines_of(source: str) -> int:
    """Count the lines that hold code, without imports."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {
        line
        for token in tokens
        if token.type not in _QUIET
        for line in range(token.start[0], token.end[0] + 1)
        if token.string
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            code -= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    return len(code)


def _parameters() -> Iterator[object]:
    for block in blocks():
        package = PACKAGES.get(block.library)
        lacks = package is not None and find_spec(package) is None
        marks = [pytest.mark.skip(f"{package} is not installed")] if lacks else []
        yield pytest.param(block, marks=marks, id=f"{block.job}: {block.library}")


@pytest.mark.parametrize("block", list(_parameters()))
async def test_a_block_runs_and_prints_what_it_says(block: Block) -> None:
    printed: list[str] = []

    def keep(*words: object) -> None:
        printed.append(" ".join(map(str, words)))

    names = {**given(block.library, block.job), "print": keep}
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(block.source, str(PAGE), "exec", flags=flags, dont_inherit=True)
    running = eval(code, names)
    if inspect.iscoroutine(running):
        await running
    assert printed == re.findall(r"^ *#> (.*)$", block.source, re.MULTILINE)


def test_blocks_are_formatted_alike_so_that_their_lines_compare(tmp_path: Path) -> None:
    for number, block in enumerate(blocks()):
        source = block.source.replace("#> ", "# > ")  # as ruff writes comments
        (tmp_path / f"{number}.py").write_text(source, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--diff", *_FORMAT, str(tmp_path)]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_table_says_how_many_lines_each_takes() -> None:
    counts: dict[str, dict[str, int]] = {}
    for block in blocks():
        assert block.library in LIBRARIES
        column = next(one for one in COLUMNS if block.library in one)
        counts.setdefault(block.job, {})[column] = lines_of(block.source)
    rows = [[str(count.get(column, "-")) for column in COLUMNS] for count in counts.values()]
    table = re.findall(r"^\| \[.*?\]\(#.*?\) \| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert table == [" | ".join(row) for row in rows]
