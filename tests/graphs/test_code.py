"""Code: what is parsed, what goes back to the writer, and that nothing is executed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.core.errors import ConfigError, OutputError
from moa.core.trace import TextDelta
from moa.recipes.code import Code, Program, SandboxResult, source_of
from moa.testing import Step

from .nodes import large, notes

GOOD = "```python\ndef add(a, b):\n    return a + b\n```"
BAD = "```python\ndef add(a, b)\n    return a + b\n```"
TESTS = "assert add(1, 2) == 3"
PASSED, FAILED = SandboxResult(passed=True), SandboxResult(passed=False, output="AssertionError")


class Recorder:
    """A sandbox that runs nothing, and gives the results it was given."""

    def __init__(self, *results: SandboxResult) -> None:
        self.results = [*results]
        self.ran: list[tuple[str, str]] = []

    async def run(self, code: str, tests: str, /) -> SandboxResult:
        self.ran.append((code, tests))
        return self.results.pop(0)


async def coded(*steps: Step, **settings: Any) -> Program:
    return (await Code(writer=large(*steps), **settings).run("Add.")).output


async def test_a_program_takes_one_call_and_is_parsed() -> None:
    program = await coded(GOOD)
    assert program.text == "def add(a, b):\n    return a + b"
    assert (program.language, program.parsed_by) == ("python", "python")
    assert program.sandboxed is None


PLAN = '{"language": "Python", "parts": ["a function"]}'


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        pytest.param(BAD, "line 1: 'def add(a, b)'", id="a syntax error"),
        pytest.param(PLAN, "a value alone", id="a value"),
        pytest.param(f"```python\n{PLAN}\n```", "a value alone", id="a value in a block"),
    ],
)
async def test_what_is_no_program_goes_back_to_the_writer(reply: str, told: str) -> None:
    model = large(reply, GOOD)
    result = await Code(writer=model).run("Add two numbers.")
    assert result.output.text == "def add(a, b):\n    return a + b"
    assert told in model.prompts[1].messages[-1].content
    assert notes(result, "repaired")
    with pytest.raises(OutputError, match="no valid python"):
        await coded(reply, reply)


async def test_a_program_may_hold_the_tags_that_stand_around_data_elsewhere() -> None:
    source = "root = ET.fromstring('<data><i/></data>')"
    model = large(f"```python\n{source}\n```")
    result = await Code(writer=model).run("Parse <data>.")
    assert (result.output.text, notes(result, "repaired")) == (source, [])
    assert "Parse <data>." in model.prompts[0].messages[-1].content


@pytest.mark.parametrize("ran", [PASSED, FAILED], ids=["passed", "failed"])
async def test_a_sandbox_runs_the_program_with_the_given_tests(ran: SandboxResult) -> None:
    sandbox = Recorder(ran)
    program = await coded(GOOD, sandbox=sandbox, tests=TESTS)
    assert (program.text, program.sandboxed) == ("def add(a, b):\n    return a + b", ran)
    assert sandbox.ran == [("def add(a, b):\n    return a + b", TESTS)]


async def test_without_tests_the_program_is_run_alone() -> None:
    sandbox = Recorder(PASSED)
    await coded(GOOD, sandbox=sandbox)
    assert [tests for _, tests in sandbox.ran] == [""]


def test_tests_without_a_sandbox_are_refused() -> None:
    with pytest.raises(ConfigError):
        Code(writer=large(), tests=TESTS)


async def test_a_program_whose_sandbox_breaks_is_given_and_not_said_to_have_run() -> None:
    class Breaking(Recorder):
        async def run(self, code: str, tests: str, /) -> SandboxResult:
            raise OSError("no container")

    result = await Code(writer=large(GOOD), sandbox=Breaking()).run("Add.")
    assert "return a + b" in result.output.text
    assert result.output.sandboxed is None
    (note,) = notes(result, "degraded")
    assert note.startswith("the program is not run: sandbox: OSError: no container")


async def test_a_program_that_uses_up_the_time_is_given_and_has_failed() -> None:
    class Slow(Recorder):
        async def run(self, code: str, tests: str, /) -> SandboxResult:
            await asyncio.sleep(60)
            raise AssertionError("it is cancelled")

    program = await coded(GOOD, sandbox=Slow(), timeout_s=0.5)
    assert program.sandboxed is not None
    assert not program.sandboxed.passed
    assert "it had not ended after" in program.sandboxed.output


async def test_only_the_program_is_shown() -> None:
    events = [event async for event in Code(writer=large(BAD, GOOD)).stream("Add.")]
    shown = [event.text for event in events if isinstance(event, TextDelta)]
    assert shown == ["def add(a, b):\n    return a + b"]


_watching: list[str] | None = None
_RUNS = ("exec", "import", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "open")


def _audit(event: str, arguments: object) -> None:
    nameless = event == "open" and isinstance(arguments, tuple) and not arguments[0]
    if _watching is not None and event in _RUNS and not nameless:
        _watching.append(f"{event} {arguments!r}")


@contextmanager
def executions() -> Generator[list[str]]:
    """Collect what Python executes, imports, starts and opens meanwhile."""
    global _watching
    if _audit not in _hooked:
        sys.addaudithook(_audit)
        _hooked.append(_audit)
    _watching = seen = []
    try:
        yield seen
    finally:
        _watching = None


_hooked: list[object] = []


async def test_without_a_sandbox_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    touch = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    program = (
        f"```python\n{touch}\n@(lambda f: {touch})\ndef f(a={touch}): ...\n"
        f"class A:\n    x = {touch}\n```\n\n```python\n{touch}\nassert f\n```"
    )

    def graph() -> Code:
        return Code(writer=large(BAD, program))

    await graph().run("Touch a file.")  # what is imported at first use is there now
    with executions() as seen:
        result = await graph().run("Touch a file.")
    assert result.output.sandboxed is None
    assert touch in result.output.text
    assert seen == []
    assert not mark.exists()


def test_the_watch_sees_an_execution() -> None:
    with executions() as seen:
        exec("1 + 1")
    assert len(seen) == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("```\nx = (\n```", id="python"),
        pytest.param("```json\n{'a': 1}\n```", id="json"),
        pytest.param("```toml\na = \n```", id="toml"),
        pytest.param("fn main() {}", id="no block"),
        pytest.param("```rust\n```", id="an empty block"),
        pytest.param("I can't do that.", id="prose"),
        pytest.param(f"```\n{'(' * 5000}\n```", id="deep nesting"),
        pytest.param(f"```json\n{'[' * 100000}\n```", id="deep JSON"),
    ],
)
def test_what_can_not_be_parsed_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        source_of(text)


INSIDE = 's = """\n```\ntext\n```\n"""'


@pytest.mark.parametrize(
    ("text", "code", "language"),
    [
        pytest.param("Here:\n```rust\nfn main() {}\n```", "fn main() {}", "rust", id="rust"),
        pytest.param("x = 1", "x = 1", "python", id="no block"),
        pytest.param(f"````python\n{INSIDE}\n````", INSIDE, "python", id="a longer fence"),
        pytest.param('```\ns = "\\d"\n```', 's = "\\d"', "python", id="an odd escape"),
    ],
)
def test_a_program_is_taken_out_of_a_reply(text: str, code: str, language: str) -> None:
    assert source_of(text) == (code, language)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        source = source_of(text)
    except ValueError:
        return
    assert source.code.strip()


def test_it_can_be_drawn_with_a_sandbox() -> None:
    assert "sandbox" in Code(writer=large(), sandbox=Recorder()).draw().mermaid
    assert "sandbox" not in Code(writer=large()).draw().mermaid
