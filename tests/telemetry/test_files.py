"""Files of spans, what is paid where nobody hears of any, and where their names stand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import moa, told, written

from moa import Agent, RunContext
from moa.adapters.span_file import SpanFile
from moa.core.errors import ConfigError
from moa.core.telemetry import Tracer
from moa.testing import ScriptedEndpoint

SRC = Path(__file__).parents[2] / "src" / "moa"
GRAPH = """
from moa import Agent, Graph
from moa.testing import SimulatedEndpoint

g = Graph("answers", str)
graph = g.build(g.add(Agent(SimulatedEndpoint(rule=lambda text: "SECRET"), "Answer."), g.input))
"""


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(GRAPH, encoding="utf-8")
    written("rows.jsonl", [{"id": "a", "text": "SECRET one"}, {"id": "b", "text": "SECRET two"}])
    return tmp_path


def lines(name: str = "spans.jsonl") -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(name).read_text("utf-8").splitlines()]


def test_a_command_writes_the_spans_of_each_row_a_line_each(rows: Path) -> None:
    assert moa("run", "mine.py:graph", "rows.jsonl", "--trace", "spans.jsonl") == 0
    found = lines()
    assert len({line["trace"] for line in found}) == 2
    names = ["chat scripted-1", "invoke_agent agent", "invoke_workflow answers", "run answers"]
    assert sorted(str(line["name"]) for line in found) == sorted(2 * names)
    for line in found:
        assert {"trace", "span", "parent", "name", "kind", "start", "end", "attributes"} == {*line}
        assert float(str(line["start"])) <= float(str(line["end"]))
    assert "SECRET" not in Path("spans.jsonl").read_text("utf-8")
    assert Path("spans.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_command_writes_texts_where_it_is_told_to(rows: Path) -> None:
    asked = ("--trace", "spans.jsonl", "--trace-texts", "whole")
    assert moa("run", "mine.py:graph", "rows.jsonl", *asked) == 0
    assert "SECRET one" in Path("spans.jsonl").read_text("utf-8")


def test_spans_that_are_there_are_kept(rows: Path) -> None:
    command = ("run", "mine.py:graph", "rows.jsonl", "--trace", "spans.jsonl")
    assert moa(*command) == 0
    before = lines()
    assert "--resume" in told(*command, leaves=2).err
    assert moa(*command, "--resume") == 0
    assert lines()[: len(before)] == before
    assert len(lines()) == 2 * len(before)


def test_a_file_of_something_else_is_not_added_to(rows: Path) -> None:
    before = written("other.jsonl", [{"id": 1, "text": "mine"}])
    command = ("run", "mine.py:graph", "rows.jsonl", "--trace", before, "--resume")
    assert "line 1" in told(*command, leaves=2).err
    assert [*lines("other.jsonl")] == [{"id": 1, "text": "mine"}]


@pytest.mark.parametrize(
    "options",
    [("--trace-texts", "whole"), ("--trace", "rows.jsonl", "--resume"), ("--trace", "spans.txt")],
)
def test_what_can_t_be_is_refused_before_a_row_is_run(rows: Path, options: tuple[str, ...]) -> None:
    said = told("run", "mine.py:graph", "rows.jsonl", *options, leaves=2)
    assert "--trace" in said.err or "rows.jsonl" in said.err or "spans" in said.err
    assert not said.out


def test_a_disk_without_room_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with SpanFile(tmp_path / "spans.jsonl") as file:

        def refuse(line: object) -> None:
            raise ConfigError("no space left")

        file._file.add_line = refuse  # pyright: ignore[reportPrivateUsage,reportAttributeAccessIssue]
        agent = Agent(ScriptedEndpoint(["Hello!"] * 2), "Greet.")
        for _ in range(2):
            agent.run_sync("Hi", RunContext(tracer=Tracer(file=file)))
    assert [one.getMessage() for one in caplog.records if "no space" in one.getMessage()] == [
        "no further spans are written: no space left"
    ]


def test_nothing_of_it_is_loaded_where_nobody_hears_of_spans() -> None:
    code = """
import sys
from moa import Agent
from moa.testing import ScriptedEndpoint
Agent(ScriptedEndpoint(["Hello!"]), "Greet.").run_sync("Hi")
loaded = {
    "opentelemetry", "moa.endpoints.call_spans", "moa.adapters.otel", "moa.adapters.span_file",
}
print(sorted(loaded & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_names_of_the_conventions_stand_in_one_file() -> None:
    held = [path.name for path in SRC.rglob("*.py") if '"gen_ai.' in path.read_text("utf-8")]
    assert held == ["names.py"]


def test_the_spans_of_a_trace_are_in_the_file_when_it_has_ended(rows: Path) -> None:
    agent = Agent(ScriptedEndpoint(["Hello!", "Bye!"]), "Greet.")
    with SpanFile("spans.jsonl") as file:
        agent.run_sync("Hi", RunContext(tracer=Tracer(file=file)))
        assert len(lines()) == 2
        agent.run_sync("Hi", RunContext(tracer=Tracer(file=file)))
        assert len(lines()) == 4


def test_spans_that_end_after_their_trace_are_written_when_the_file_is_closed(rows: Path) -> None:
    with SpanFile("spans.jsonl") as file:
        run = Tracer(file=file).start("run", {})
        late = run.start("late", {})
        run.end()
        late.end()
    assert [line["name"] for line in lines()] == ["run", "late"]
