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

from moa.budget import Budget
from moa.errors import BudgetExceeded, ConfigError, EndpointUnavailable, OutputError
from moa.graphs.code import Code, Review, SandboxResult, source_of
from moa.trace import TextDelta

from .nodes import large

FINE = Review(faults=())
GOOD = "```python\ndef add(a, b):\n    return a + b\n```"
TESTS = "```python\nassert add(1, 2) == 3\n```"
BAD = "```python\ndef add(a, b)\n    return a + b\n```"


@dataclass
class Recorder:
    """A sandbox that runs nothing, and gives the results it was given."""

    results: list[SandboxResult]
    ran: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    async def run(self, code: str, tests: str, /) -> SandboxResult:
        self.ran.append((code, tests))
        return self.results.pop(0)


async def test_a_program_takes_one_call_and_is_parsed() -> None:
    model = large(GOOD)
    program = (await Code(writer=model).run("Add two numbers.")).output
    assert program.text == "def add(a, b):\n    return a + b"
    assert (program.language, program.parsed_by, program.faults) == ("python", "python", ())
    assert (program.reviewed, program.sandboxed, program.tries) == (False, None, 1)
    assert program.tests == ""  # nobody would run them
    model.assert_used_up()


async def test_a_value_alone_is_no_program() -> None:
    plan = '{"language": "Python", "parts": ["a function"]}'
    for reply in (plan, f"```python\n{plan}\n```"):
        model = large(reply, GOOD)
        program = (await Code(writer=model).run("Add two numbers.")).output
        assert program.text == "def add(a, b):\n    return a + b"
        assert "a value alone" in model.prompts[1].messages[-1].content


async def test_a_program_may_hold_the_tags_that_stand_around_data_elsewhere() -> None:
    source = "root = ET.fromstring('<data><i/></data>')"
    reviewer = large(Review(faults=("<data> is empty",)), FINE)
    model = large(f"```python\n{source}\n```", GOOD)
    result = await Code(writer=model, reviewer=reviewer).run("Parse <data>.")
    assert not any(note.kind == "repaired" for note in result.trace)
    assert source in reviewer.prompts[0].messages[-1].content
    assert source in model.prompts[1].messages[-1].content  # the draft, to be mended
    assert "Parse <data>." in model.prompts[0].messages[-1].content


async def test_a_syntax_error_goes_back_to_the_writer_with_its_place() -> None:
    model = large(BAD, GOOD)
    result = await Code(writer=model).run("Add two numbers.")
    assert result.output.tries == 1
    assert "line 1: 'def add(a, b)'" in model.prompts[1].messages[-1].content
    assert any(note.kind == "repaired" for note in result.trace)


async def test_a_program_that_never_parses_is_an_error() -> None:
    with pytest.raises(OutputError, match="no valid python"):
        await Code(writer=large(BAD, BAD), repairs=1).run("Add two numbers.")


async def test_what_the_reviewer_finds_goes_back_to_the_writer() -> None:
    model, reviewer = large(GOOD, GOOD), large(Review(faults=("add(1) raises",)), FINE)
    program = (await Code(writer=model, reviewer=reviewer).run("Add.")).output
    assert (program.faults, program.tries, program.reviewed) == ((), 2, True)
    asked = model.prompts[1].messages[-1].content
    assert "- add(1) raises" in asked
    assert "return a + b" in asked


async def test_faults_that_stay_are_told() -> None:
    reviewer = large(Review(faults=("it is wrong",)))
    program = (await Code(writer=large(GOOD), reviewer=reviewer, tries=1).run("Add.")).output
    assert program.faults == ("it is wrong",)


async def test_a_sandbox_runs_tests_of_the_task_and_their_failure_goes_back() -> None:
    failing = SandboxResult(passed=False, output="AssertionError: 4 != 3")
    passing = SandboxResult(passed=True)
    sandbox = Recorder([failing, passing])
    model = large(TESTS, GOOD, GOOD)
    program = (await Code(writer=model, sandbox=sandbox).run("Add.")).output
    assert "AssertionError: 4 != 3" in model.prompts[2].messages[-1].content
    assert (program.sandboxed, program.faults, program.tries) == (passing, (), 2)
    assert program.tests == "assert add(1, 2) == 3"
    assert sandbox.ran == [("def add(a, b):\n    return a + b", "assert add(1, 2) == 3")] * 2


async def test_of_what_the_tester_writes_only_tests_are_run() -> None:
    again = "```python\ndef add(a, b):\n    return 3\n\nassert add(1, 2) == 3\n```"
    sandbox = Recorder([SandboxResult(passed=True)])
    program = (await Code(writer=large(again, GOOD), sandbox=sandbox).run("Add.")).output
    assert program.tests == "assert add(1, 2) == 3"


async def test_each_test_is_run_with_what_all_of_them_import() -> None:
    first, second = "assert math.isclose(add(1, 2), 3)", "assert add(1, 2) == 3"
    tests = f"```python\nimport math\n\n{first}\n{second}\n```"
    sandbox = Recorder([SandboxResult(passed=True)] * 2)
    await Code(writer=large(tests, GOOD), sandbox=sandbox).run("Add.")
    assert [ran for _, ran in sandbox.ran] == [f"import math\n{one}" for one in (first, second)]


async def test_a_tester_who_asserts_nothing_at_the_top_is_told_of() -> None:
    inside = "```python\ndef test_add():\n    assert add(1, 2) == 3\n```"
    sandbox = Recorder([SandboxResult(passed=True)])
    result = await Code(writer=large(inside, GOOD), sandbox=sandbox).run("Add.")
    assert result.output.tests == ""
    assert any("none of them is an assert" in note.text for note in result.trace)


async def test_without_tests_the_program_is_run_alone() -> None:
    sandbox = Recorder([SandboxResult(passed=True)])
    model = large(EndpointUnavailable("down", endpoint="large"), GOOD)
    result = await Code(writer=model, sandbox=sandbox).run("Add.")
    assert sandbox.ran[0][1] == ""
    assert "runs without tests" in next(n.text for n in result.trace if n.kind == "degraded")


async def test_where_no_try_passes_its_own_tests_the_first_program_stands() -> None:
    failing = SandboxResult(passed=False, output="AssertionError")
    model = large(TESTS, GOOD, "```python\ndef add(a, b):\n    return 4\n```")
    graph = Code(writer=model, sandbox=Recorder([failing, failing]), tries=2)
    program = (await graph.run("Add.")).output
    assert "return a + b" in program.text
    assert program.faults == ("it failed when it was run: AssertionError",)


async def test_a_later_program_is_given_where_it_passes_more_tests() -> None:
    failing, passing = (
        SandboxResult(passed=False, output="AssertionError"),
        SandboxResult(passed=True),
    )
    tests = "```python\nassert add(1, 2) == 3\nassert add(1, 2) == 4\n```"
    model = large(tests, GOOD, "```python\ndef add(a, b):\n    return 4\n```")
    sandbox = Recorder([failing, failing, failing, passing])
    program = (await Code(writer=model, sandbox=sandbox, tries=2).run("Add.")).output
    assert "return 4" in program.text
    assert program.faults == ("it failed when it was run: AssertionError",)


async def test_what_the_reviewer_rejects_is_not_run() -> None:
    sandbox, reviewer = Recorder([]), large(Review(faults=("it deletes files",)))
    graph = Code(writer=large(TESTS, GOOD), reviewer=reviewer, sandbox=sandbox, tries=1)
    program = (await graph.run("Add.")).output
    assert program.sandboxed is None
    assert sandbox.ran == []


async def test_a_program_whose_sandbox_breaks_is_given_and_not_said_to_have_run() -> None:
    class Broken:
        async def run(self, code: str, tests: str, /) -> SandboxResult:
            raise OSError("no container")

    graph = Code(writer=large(TESTS, GOOD), reviewer=large(FINE), sandbox=Broken())
    result = await graph.run("Add.")
    program = result.output
    assert "return a + b" in program.text
    assert (program.sandboxed, program.faults, program.reviewed) == (None, (), True)
    (note,) = [note.text for note in result.trace if note.kind == "degraded"]
    assert note == "the program is not run: sandbox: OSError: no container"


async def test_a_program_whose_reviewer_is_down_is_given_unreviewed_and_not_run() -> None:
    sandbox = Recorder([])
    reviewer = large(EndpointUnavailable("down", endpoint="large"))
    graph = Code(writer=large(TESTS, GOOD), reviewer=reviewer, sandbox=sandbox)
    result = await graph.run("Add.")
    assert "return a + b" in result.output.text
    assert (result.output.reviewed, sandbox.ran) == (False, [])
    assert any(note.kind == "degraded" for note in result.trace)


async def test_a_program_that_uses_up_the_time_is_given_with_its_fault() -> None:
    class Slow:
        async def run(self, code: str, tests: str, /) -> SandboxResult:
            await asyncio.sleep(60)
            raise AssertionError("it is cancelled")

    two = "```python\nassert add(1, 2) == 3\nassert add(2, 2) == 4\n```"
    graph = Code(writer=large(two, GOOD), sandbox=Slow(), timeout_s=0.5)
    program = (await graph.run("Add.")).output
    assert "it had not ended" in program.faults[0]


async def test_a_program_that_could_not_be_run_is_no_better_than_one_that_was() -> None:
    class Breaking(Recorder):
        async def run(self, code: str, tests: str, /) -> SandboxResult:
            if "return 4" in code:
                raise OSError("no container")
            return await super().run(code, tests)

    failing, passing = SandboxResult(passed=False, output="3 != 4"), SandboxResult(passed=True)
    two = "```python\nassert add(1, 2) == 3\nassert add(2, 2) == 5\n```"
    model = large(two, GOOD, "```python\ndef add(a, b):\n    return 4\n```")
    graph = Code(writer=model, sandbox=Breaking([passing, failing]), tries=2)
    assert "return a + b" in (await graph.run("Add.")).output.text


async def test_of_a_long_output_the_writer_sees_the_end() -> None:
    long = SandboxResult(passed=False, output="x" * 9000 + "the end")
    model = large(TESTS, GOOD, GOOD)
    sandbox = Recorder([long, SandboxResult(passed=True)])
    result = await Code(writer=model, sandbox=sandbox).run("Add.")
    asked = model.prompts[2].messages[-1].content
    assert "the end" in asked
    assert len(asked) < 6000
    assert any(note.kind == "truncated" for note in result.trace)


async def test_a_sandbox_that_hangs_ends_with_the_run() -> None:
    class Hanging:
        async def run(self, code: str, tests: str, /) -> SandboxResult:
            await asyncio.Event().wait()
            raise AssertionError("never set")

    graph = Code(writer=large(TESTS, GOOD), sandbox=Hanging(), timeout_s=1.0)
    program = (await graph.run("Add.")).output
    assert "it had not ended after" in program.faults[0]


async def test_without_budget_for_another_try_the_program_stands_with_its_faults() -> None:
    reviewer = large(Review(faults=("slow",)))
    result = await Code(writer=large(GOOD), reviewer=reviewer, budget=Budget(calls=2)).run("Add.")
    assert result.output.faults == ("slow",)
    assert any(note.kind == "degraded" for note in result.trace)


async def test_a_first_try_without_budget_is_an_error() -> None:
    with pytest.raises(BudgetExceeded):
        await Code(writer=large(GOOD), budget=Budget(calls=0)).run("Add.")


async def test_only_the_program_that_stands_is_shown() -> None:
    model, reviewer = large(GOOD, GOOD), large(Review(faults=("x",)), FINE)
    events = [event async for event in Code(writer=model, reviewer=reviewer).stream("Add.")]
    assert sum(isinstance(event, TextDelta) for event in events) == 1


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
        return Code(
            writer=large(BAD, program, program), reviewer=large(Review(faults=(touch,)), FINE)
        )

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
    ("text", "fault"),
    [
        pytest.param("```\nx = (\n```", "'\\(' was never closed", id="python"),
        pytest.param("```json\n{'a': 1}\n```", "no valid json", id="json"),
        pytest.param("```toml\na = \n```", "no valid toml", id="toml"),
        pytest.param("fn main() {}", "no fenced block", id="no block"),
        pytest.param("```rust\n```", "the block is empty", id="an empty block"),
        pytest.param("I can't do that.", "no valid python", id="prose"),
        pytest.param(f"```\n{'(' * 5000}\n```", "no valid python", id="deep nesting"),
        pytest.param(f"```json\n{'[' * 100000}\n```", "no valid json", id="deep JSON"),
    ],
)
def test_what_can_not_be_parsed_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        source_of(text)


def test_of_other_languages_the_block_is_taken_as_it_is() -> None:
    assert source_of("Here:\n```rust\nfn main() {}\n```") == ("fn main() {}", "rust")


def test_a_program_without_a_block_is_taken_where_it_parses() -> None:
    assert source_of("x = 1").code == "x = 1"


def test_a_longer_fence_holds_shorter_ones() -> None:
    inside = 's = """\n```\ntext\n```\n"""'
    assert source_of(f"````python\n{inside}\n````").code == inside


def test_an_odd_escape_in_a_program_is_no_error_here() -> None:
    assert source_of('```\ns = "\\d"\n```').code == 's = "\\d"'


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        source = source_of(text)
    except ValueError:
        return
    assert source.code.strip()


def test_at_least_one_try_is_needed() -> None:
    with pytest.raises(ConfigError, match="code: tries"):
        Code(writer=large(), tries=0)


def test_it_can_be_drawn_with_a_sandbox() -> None:
    assert "sandbox" in Code(writer=large(), sandbox=Recorder([])).draw().mermaid
    assert "sandbox" not in Code(writer=large()).draw().mermaid
