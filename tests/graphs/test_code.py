"""Code: what is parsed, what goes back to the writer, and that nothing is executed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.agents.coder import CodePlan, source_of
from moa.agents.reviewer import Review
from moa.errors import BudgetExceeded, ConfigError, EndpointUnavailable, OutputError
from moa.graphs.code import SandboxResult, code
from moa.testing import ScriptedEndpoint, Step
from moa.trace import Piece
from moa.usage import Budget

PYTHON = CodePlan(language="Python", parts=("a function",), tests=("that it adds",))
FINE = Review(faults=())
GOOD = "```python\ndef add(a, b):\n    return a + b\n```\n\n```python\nassert add(1, 2) == 3\n```"
BAD = "```python\ndef add(a, b)\n    return a + b\n```"


def large(*steps: Step) -> ScriptedEndpoint:
    return ScriptedEndpoint(name="large", tier="llm", steps=steps)


@dataclass
class Recorder:
    """A sandbox that runs nothing, and gives the results it was given."""

    results: list[SandboxResult]
    ran: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    async def run(self, code: str, tests: str, /) -> SandboxResult:
        self.ran.append((code, tests))
        return self.results.pop(0)


async def test_a_program_is_planned_written_parsed_and_reviewed() -> None:
    model = large(PYTHON, GOOD, FINE)
    program = (await code(model).run("Add two numbers.")).output
    assert program.text == "def add(a, b):\n    return a + b"
    assert program.tests == "assert add(1, 2) == 3"
    assert (program.language, program.parsed_by, program.faults) == ("Python", "python", ())
    assert (program.sandboxed, program.tries) == (None, 1)
    model.assert_used_up()


async def test_a_plan_that_is_given_back_is_no_program() -> None:
    for echo in (PYTHON.model_dump_json(), f"```python\n{PYTHON.model_dump_json()}\n```"):
        model = large(PYTHON, echo, GOOD, FINE)
        program = (await code(model).run("Add two numbers.")).output
        assert program.text == "def add(a, b):\n    return a + b"
        assert "a value alone" in model.prompts[2].messages[-1].content


async def test_a_program_may_hold_the_tags_that_stand_around_data_elsewhere() -> None:
    source = "root = ET.fromstring('<data><i/></data>')"
    model = large(
        PYTHON, f"```python\n{source}\n```", Review(faults=("<data> is empty",)), GOOD, FINE
    )
    result = await code(model).run("Parse <data>.")
    assert not any(note.kind == "repaired" for note in result.trace)
    assert source in model.prompts[2].messages[-1].content  # the reviewer's
    assert source in model.prompts[3].messages[-1].content  # the draft, to be mended
    assert "Parse <data>." in model.prompts[0].messages[-1].content


async def test_a_syntax_error_goes_back_to_the_writer_with_its_place() -> None:
    model = large(PYTHON, BAD, GOOD, FINE)
    result = await code(model).run("Add two numbers.")
    assert result.output.tries == 1
    assert "line 1: 'def add(a, b)'" in model.prompts[2].messages[-1].content
    assert any(note.kind == "repaired" for note in result.trace)


async def test_a_program_that_never_parses_is_an_error() -> None:
    with pytest.raises(OutputError, match="no valid python"):
        await code(large(PYTHON, BAD, BAD), repairs=1).run("Add two numbers.")


async def test_what_the_reviewer_finds_goes_back_to_the_writer() -> None:
    model = large(PYTHON, GOOD, Review(faults=("add(1) raises",)), GOOD, FINE)
    program = (await code(model).run("Add.")).output
    assert (program.faults, program.tries) == ((), 2)
    asked = model.prompts[3].messages[-1].content
    assert "- add(1) raises" in asked
    assert "return a + b" in asked


async def test_faults_that_stay_are_told() -> None:
    found = Review(faults=("it is wrong",))
    program = (await code(large(PYTHON, GOOD, found), tries=1).run("Add.")).output
    assert program.faults == ("it is wrong",)


async def test_another_model_reviews() -> None:
    writer, reviewer = large(PYTHON, GOOD), large(FINE)
    await code(writer, reviewer).run("Add.")
    assert "assert add(1, 2) == 3" in reviewer.prompts[0].messages[-1].content


async def test_a_sandbox_runs_what_passed_review_and_its_failure_goes_back() -> None:
    failing = SandboxResult(passed=False, output="AssertionError: 4 != 3")
    passing = SandboxResult(passed=True)
    sandbox = Recorder([failing, passing])
    model = large(PYTHON, GOOD, FINE, GOOD, FINE)
    program = (await code(model, sandbox=sandbox).run("Add.")).output
    assert "AssertionError: 4 != 3" in model.prompts[3].messages[-1].content
    assert (program.sandboxed, program.faults, program.tries) == (passing, (), 2)
    assert sandbox.ran[0] == ("def add(a, b):\n    return a + b", "assert add(1, 2) == 3")


async def test_what_the_reviewer_rejects_is_not_run() -> None:
    sandbox = Recorder([])
    found = Review(faults=("it deletes files",))
    program = (await code(large(PYTHON, GOOD, found), sandbox=sandbox, tries=1).run("Add.")).output
    assert program.sandboxed is None
    assert sandbox.ran == []


async def test_a_program_whose_sandbox_breaks_is_given_and_not_said_to_have_run() -> None:
    class Broken:
        async def run(self, code: str, tests: str, /) -> SandboxResult:
            raise OSError("no container")

    result = await code(large(PYTHON, GOOD, FINE), sandbox=Broken()).run("Add.")
    program = result.output
    assert "return a + b" in program.text
    assert (program.sandboxed, program.faults, program.reviewed) == (None, (), True)
    (note,) = [note.text for note in result.trace if note.kind == "degraded"]
    assert note == "the program is not run: sandbox: OSError: no container"


async def test_a_program_whose_reviewer_is_down_is_given_unreviewed_and_not_run() -> None:
    sandbox = Recorder([])
    reviewer = large(EndpointUnavailable("down", endpoint="large"))
    result = await code(large(PYTHON, GOOD), reviewer, sandbox=sandbox).run("Add.")
    assert "return a + b" in result.output.text
    assert (result.output.reviewed, sandbox.ran) == (False, [])
    assert any(note.kind == "degraded" for note in result.trace)


async def test_of_a_long_output_the_writer_sees_the_end() -> None:
    long = SandboxResult(passed=False, output="x" * 9000 + "the end")
    model = large(PYTHON, GOOD, FINE, GOOD, FINE)
    sandbox = Recorder([long, SandboxResult(passed=True)])
    result = await code(model, sandbox=sandbox).run("Add.")
    asked = model.prompts[3].messages[-1].content
    assert "the end" in asked
    assert len(asked) < 6000
    assert any(note.kind == "truncated" for note in result.trace)


async def test_a_sandbox_that_hangs_ends_with_the_run() -> None:
    class Hanging:
        async def run(self, code: str, tests: str, /) -> SandboxResult:
            await asyncio.Event().wait()
            raise AssertionError("never set")

    model = large(PYTHON, GOOD, FINE)
    graph = code(model, sandbox=Hanging(), timeout_s=1.0)
    program = (await graph.run("Add.")).output
    assert "it had not ended after" in program.faults[0]


async def test_without_budget_for_another_try_the_program_stands_with_its_faults() -> None:
    model = large(PYTHON, GOOD, Review(faults=("slow",)))
    result = await code(model, budget=Budget(calls=3)).run("Add.")
    assert result.output.faults == ("slow",)
    assert any(note.kind == "degraded" for note in result.trace)


async def test_a_first_try_without_budget_is_an_error() -> None:
    with pytest.raises(BudgetExceeded):
        await code(large(PYTHON), budget=Budget(calls=1)).run("Add.")


async def test_only_the_program_that_stands_is_shown() -> None:
    model = large(PYTHON, GOOD, Review(faults=("x",)), GOOD, FINE)
    events = [event async for event in code(model).stream("Add.")]
    assert sum(isinstance(event, Piece) for event in events) == 1


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
    steps = (PYTHON, BAD, program, Review(faults=(touch,)), program, FINE)
    await code(large(*steps)).run("Touch a file.")  # what is imported at first use is there now
    with executions() as seen:
        result = await code(large(*steps)).run("Touch a file.")
    assert result.output.sandboxed is None
    assert touch in result.output.text
    assert seen == []
    assert not mark.exists()


def test_the_watch_sees_an_execution() -> None:
    with executions() as seen:
        exec("1 + 1")
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("language", "text", "fault"),
    [
        pytest.param("Python", "```\nx = (\n```", "'\\(' was never closed", id="python"),
        pytest.param("json", "```json\n{'a': 1}\n```", "no valid json", id="json"),
        pytest.param("TOML", "```toml\na = \n```", "no valid toml", id="toml"),
        pytest.param("Rust", "fn main() {}", "no fenced block", id="no block"),
        pytest.param("Rust", "```rust\n```", "the block is empty", id="an empty block"),
        pytest.param("Python", "I can't do that.", "no valid python", id="prose"),
        pytest.param("Python", "```\nx = 1\n```\n```\ny = \n```", "the tests", id="tests"),
        pytest.param("Python", f"```\n{'(' * 5000}\n```", "no valid python", id="deep nesting"),
        pytest.param("JSON", f"```\n{'[' * 100000}\n```", "no valid json", id="deep JSON"),
    ],
)
def test_what_can_not_be_parsed_is_refused(language: str, text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        source_of(text, language)


def test_of_other_languages_the_block_is_taken_as_it_is() -> None:
    assert source_of("Here:\n```rust\nfn main() {}\n```", "Rust").code == "fn main() {}"


def test_a_program_without_a_block_is_taken_where_it_parses() -> None:
    assert source_of('{"a": 1}', "JSON").code == '{"a": 1}'


def test_a_longer_fence_holds_shorter_ones() -> None:
    inside = 's = """\n```\ntext\n```\n"""'
    assert source_of(f"````python\n{inside}\n````", "Python").code == inside


def test_an_odd_escape_in_a_program_is_no_error_here() -> None:
    assert source_of('```\ns = "\\d"\n```', "Python").code == 's = "\\d"'


@given(st.text(), st.sampled_from(["Python", "json", "toml", "Rust"]))
def test_any_text_is_read_or_refused(text: str, language: str) -> None:
    try:
        source = source_of(text, language)
    except ValueError:
        return
    assert source.code.strip()


def test_at_least_one_try_is_needed() -> None:
    with pytest.raises(ConfigError, match="tries=0"):
        code(large(), tries=0)


def test_it_can_be_drawn_with_a_sandbox() -> None:
    assert "sandbox" in code(large(), sandbox=Recorder([])).draw().mermaid
    assert "sandbox" not in code(large()).draw().mermaid
