"""Code: what is parsed, what goes back to the writer, and that nothing is executed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, EndpointUnavailable, OutputError
from moa.core.trace import TextDelta
from moa.endpoints import Completion, Prompt
from moa.recipes.code import Code, Program, Review, SandboxResult, source_of, without_examples
from moa.testing import ScriptedEndpoint, Step

from .nodes import large, notes

FINE = Review(faults=())
GOOD = "```python\ndef add(a, b):\n    return a + b\n```"
FOUR = "```python\ndef add(a, b):\n    return 4\n```"
BAD = "```python\ndef add(a, b)\n    return a + b\n```"
TESTS = "```python\nassert add(1, 2) == 3\n```"
TWO_TESTS = "```python\nassert add(1, 2) == 3\nassert add(2, 2) == 5\n```"
PASSED, FAILED = SandboxResult(passed=True), SandboxResult(passed=False, output="AssertionError")
DOWN = EndpointUnavailable("down", endpoint="large")


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
    assert (program.language, program.parsed_by, program.faults) == ("python", "python", ())
    assert (program.reviewed, program.sandboxed, program.tries) == (False, None, 1)
    assert program.tests == ""  # nobody would run them


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
    assert (result.output.text, result.output.tries) == ("def add(a, b):\n    return a + b", 1)
    assert told in model.prompts[1].messages[-1].content
    assert notes(result, "repaired")
    with pytest.raises(OutputError, match="no valid python"):
        await coded(reply, reply, repairs=1)


class Cut(ScriptedEndpoint):
    """Says of each text without a closing fence that its limit cut it."""

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        completion = await super().complete(prompt, context)
        cut = completion.text.count("```") == 1
        return replace(completion, finish_reason="length") if cut else completion


async def test_a_program_gets_tokens_by_its_task_and_all_where_those_cut_it() -> None:
    cut = GOOD.removesuffix("```")
    model = Cut([cut, GOOD], name="large", tier="llm")
    result = await Code(writer=model).run("Add two numbers.")
    assert result.output.text == "def add(a, b):\n    return a + b"
    first, second = (prompt.max_tokens for prompt in model.prompts)
    assert first < second == 4096
    long = Cut([GOOD], name="large", tier="llm")
    await Code(writer=long).run("Add two numbers, and mind this case. " * 100)
    assert long.prompts[0].max_tokens == 4096


async def test_of_tests_that_go_on_without_end_the_whole_ones_are_run() -> None:
    endless = "```python\n" + "assert add(1, 2) == 3\n" * 3 + "assert add(1,"
    model = Cut([endless, GOOD], name="large", tier="llm")
    sandbox = Recorder(*[PASSED] * 3)
    program = (await Code(writer=model, sandbox=sandbox).run("Add.")).output
    assert program.tests == "assert add(1, 2) == 3\n" * 2 + "assert add(1, 2) == 3"
    assert len(model.prompts) == 2


async def test_a_program_that_repeats_itself_until_it_is_cut_is_not_given_more_tokens() -> None:
    endless = "```python\ndef add(a, b):\n" + "    if a == b: return 2 * a\n" * 50
    model = Cut([endless, GOOD], name="large", tier="llm")
    result = await Code(writer=model).run("Add two numbers.")
    assert result.output.text == "def add(a, b):\n    return a + b"
    assert len({prompt.max_tokens for prompt in model.prompts}) == 1
    assert "too long" in model.prompts[1].messages[-1].content


async def test_a_program_that_is_cut_among_endless_examples_of_its_use_stands_without_them() -> (
    None
):
    examples = "".join(f"print(add({n}, '{'H24' * n}'))  # {n}\n" for n in range(40))
    endless = f"{GOOD.removesuffix('```')}\n# Example usage:\n{examples}print(add(4"
    model = Cut([endless], name="large", tier="llm")
    result = await Code(writer=model).run("Add two numbers.")
    assert result.output.text == "def add(a, b):\n    return a + b"
    assert len(model.prompts) == 1


@pytest.mark.parametrize(
    ("source", "program"),
    [
        ("def f():\n    pass\n\nf(1)\n\nf(2)\nf(\n    3\n)\n\nf(\n    4,", "def f():\n    pass"),
        ("def f():\n    pass\n\nf(1)\nf(2)\nf(3)\ndef g():\n    x = (1,", None),  # goes on
        ("import math\nprint(1)\nprint(2)\nprint(3)\nprint(", None),  # a script
        ("def f():\n    pass\nTABLE = {\n    1: 2,\n    3:", None),
        ("const a = {\n  b: 1,\n", None),
        ("", None),
    ],
)
def test_only_what_is_cut_among_examples_is_closed(source: str, program: str | None) -> None:
    closed = without_examples(f"Here it is:\n\n```python\n{source}")
    assert closed == (None if program is None else f"```python\n{program}\n```")


async def test_a_writer_whose_thoughts_took_all_tokens_gets_more_at_once_next_time() -> None:
    thoughts = OutputError("thoughts and no answer", node="large", text="")
    model = Cut([thoughts, GOOD, GOOD], name="large", tier="llm")
    code = Code(writer=model)
    assert (await code.run("Add.")).output.text == (await code.run("Add two.")).output.text
    assert [prompt.max_tokens for prompt in model.prompts][1:] == [4096, 4096]


async def test_a_program_may_hold_the_tags_that_stand_around_data_elsewhere() -> None:
    source = "root = ET.fromstring('<data><i/></data>')"
    reviewer = large(Review(faults=("<data> is empty",)), FINE)
    model = large(f"```python\n{source}\n```", GOOD)
    result = await Code(writer=model, reviewer=reviewer).run("Parse <data>.")
    assert notes(result, "repaired") == []
    assert source in reviewer.prompts[0].messages[-1].content
    assert source in model.prompts[1].messages[-1].content  # the draft, to be mended
    assert "Parse <data>." in model.prompts[0].messages[-1].content


async def test_what_the_reviewer_finds_goes_back_to_the_writer() -> None:
    model, reviewer = large(GOOD, GOOD), large(Review(faults=("add(1) raises",)), FINE)
    program = (await Code(writer=model, reviewer=reviewer).run("Add.")).output
    assert (program.faults, program.tries, program.reviewed) == ((), 2, True)
    asked = model.prompts[1].messages[-1].content
    assert "- add(1) raises" in asked
    assert "return a + b" in asked


async def test_a_sandbox_runs_tests_of_the_task_and_their_failure_goes_back() -> None:
    sandbox, model = Recorder(FAILED, PASSED), large(TESTS, GOOD, GOOD)
    program = (await Code(writer=model, sandbox=sandbox).run("Add.")).output
    assert "AssertionError" in model.prompts[2].messages[-1].content
    assert (program.sandboxed, program.faults, program.tries) == (PASSED, (), 2)
    assert program.tests == "assert add(1, 2) == 3"
    assert sandbox.ran == [("def add(a, b):\n    return a + b", "assert add(1, 2) == 3")] * 2


async def test_of_what_the_tester_writes_only_tests_are_run_each_with_all_imports() -> None:
    again = "import math\n\ndef add(a, b):\n    return 3\n\n"
    first, second = "assert math.isclose(add(1, 2), 3)", "assert add(1, 2) == 3"
    sandbox = Recorder(PASSED, PASSED)
    await coded(f"```python\n{again}{first}\n{second}\n```", GOOD, sandbox=sandbox)
    assert [ran for _, ran in sandbox.ran] == [f"import math\n{one}" for one in (first, second)]


@pytest.mark.parametrize(
    ("tests", "told"),
    [
        ("```python\ndef test_add():\n    assert add(1, 2) == 3\n```", "none of them is an assert"),
        (DOWN, "runs without tests"),
    ],
)
async def test_without_tests_the_program_is_run_alone(tests: Step, told: str) -> None:
    sandbox = Recorder(PASSED)
    result = await Code(writer=large(tests, GOOD), sandbox=sandbox).run("Add.")
    assert (sandbox.ran[0][1], result.output.tests) == ("", "")
    assert told in notes(result, "degraded")[0]


class Breaking(Recorder):
    async def run(self, code: str, tests: str, /) -> SandboxResult:
        if not self.results or "return 4" in code:
            raise OSError("no container")
        return await super().run(code, tests)


@pytest.mark.parametrize(
    ("tests", "sandbox", "stands"),
    [
        pytest.param(TESTS, Recorder(FAILED, FAILED), "return a + b", id="none passes"),
        pytest.param(
            TWO_TESTS, Recorder(FAILED, FAILED, FAILED, PASSED), "return 4", id="more pass"
        ),
        pytest.param(TWO_TESTS, Breaking(PASSED, FAILED), "return a + b", id="it could not be run"),
    ],
)
async def test_of_several_programs_the_first_that_passes_most_tests_is_given(
    tests: str, sandbox: Recorder, stands: str
) -> None:
    program = await coded(tests, GOOD, FOUR, sandbox=sandbox, tries=2)
    assert stands in program.text
    assert program.faults == ("it failed when it was run: AssertionError",)


async def test_what_the_reviewer_rejects_is_not_run() -> None:
    sandbox, reviewer = Recorder(), large(Review(faults=("it deletes files",)))
    program = await coded(TESTS, GOOD, reviewer=reviewer, sandbox=sandbox, tries=1)
    assert (program.sandboxed, sandbox.ran) == (None, [])


async def test_a_program_whose_sandbox_breaks_is_given_and_not_said_to_have_run() -> None:
    graph = Code(writer=large(TESTS, GOOD), reviewer=large(FINE), sandbox=Breaking())
    result = await graph.run("Add.")
    program = result.output
    assert "return a + b" in program.text
    assert (program.sandboxed, program.faults, program.reviewed) == (None, (), True)
    (note,) = notes(result, "degraded")
    assert note.startswith("the program is not run: sandbox: OSError: no container")


async def test_a_program_whose_reviewer_is_down_is_given_unreviewed_and_not_run() -> None:
    sandbox = Recorder()
    result = await Code(writer=large(TESTS, GOOD), reviewer=large(DOWN), sandbox=sandbox).run(
        "Add."
    )
    assert "return a + b" in result.output.text
    assert (result.output.reviewed, sandbox.ran) == (False, [])
    assert notes(result, "degraded")


async def test_a_program_that_uses_up_the_time_is_given_with_its_fault() -> None:
    class Slow(Recorder):
        async def run(self, code: str, tests: str, /) -> SandboxResult:
            await asyncio.sleep(60)
            raise AssertionError("it is cancelled")

    program = await coded(TWO_TESTS, GOOD, sandbox=Slow(), timeout_s=0.5)
    assert "it had not ended after" in program.faults[0]


async def test_of_a_long_output_the_writer_sees_the_end() -> None:
    long = SandboxResult(passed=False, output="x" * 9000 + "the end")
    model = large(TESTS, GOOD, GOOD)
    result = await Code(writer=model, sandbox=Recorder(long, PASSED)).run("Add.")
    asked = model.prompts[2].messages[-1].content
    assert "the end" in asked
    assert len(asked) < 6000
    assert notes(result, "truncated")


async def test_without_budget_for_another_try_the_program_stands_with_its_faults() -> None:
    reviewer = large(Review(faults=("slow",)))
    result = await Code(writer=large(GOOD), reviewer=reviewer, budget=Budget(calls=2)).run("Add.")
    assert result.output.faults == ("slow",)
    assert notes(result, "degraded")
    with pytest.raises(BudgetExceeded):
        await coded(GOOD, budget=Budget(calls=0))


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
