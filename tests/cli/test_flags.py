"""A flag means one thing in every command, and every help teaches by an example."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import typer.main
from command import told
from typer.core import TyperGroup

from moa.cli import row_display, screen
from moa.cli.app import app
from moa.core.context import RunContext

OUTPUTS = {"--out"}
"""Flags whose help names what is written, which differs by command; it begins with "Write"."""
NO_QUIET = {
    *("choose", "chat", "docs", "doctor", "draw", "graphs", "prompt", "status", "trust"),
    *("models", "models add", "models fetch", "models list"),
    *("job status", "job retry", "job failed", "job export", "keys list"),
}
"""Commands that show nothing but results."""


def commands(group: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    group = group or cast("Any", typer.main.get_command(app))
    for name, command in cast("dict[str, Any]", group.commands).items():
        yield f"{path}{name}", command
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{path}{name} ")


COMMANDS = dict(commands())


def kind(option: Any) -> tuple[object, ...]:
    """What a flag takes, however it is checked besides, and whether it is there once."""
    shown = option.type_descriptor.annotation if hasattr(option, "type_descriptor") else option.type
    return str(shown), option.is_flag, option.multiple, tuple(option.secondary_opts)


def test_a_flag_of_one_name_is_of_one_type_and_has_one_help() -> None:
    meant: dict[str, dict[tuple[object, ...], list[str]]] = {}
    for path, command in COMMANDS.items():
        for option in command.params:
            if option.param_type_name != "option":
                continue
            for name in (*option.opts, *option.secondary_opts):
                if (path, name) == ("choose", "--job"):
                    continue  # what a task is; elsewhere the ledger of a run
                said = option.help.split()[0] if name in OUTPUTS else option.help
                meant.setdefault(name, {}).setdefault((said, *kind(option)), []).append(path)
    assert {name: found for name, found in meant.items() if len(found) > 1} == {}
    assert len(meant["--out"]) == 1
    assert {*meant["--json"].popitem()[1]} > {"run", "decide", "eval", "compare", "choose"}


def test_no_flag_has_a_twin_by_another_name() -> None:
    names = {name for command in COMMANDS.values() for o in command.params for name in o.opts}
    assert not names & {"--force", "--price", "--max-usd"}


@pytest.mark.parametrize("path", COMMANDS)
def test_the_help_of_a_command_ends_with_an_example(path: str) -> None:
    said = told(*path.split(), "-h").out
    assert said == told(*path.split(), "--help").out
    *_, last = re.split(r"\n\s*\n", said.strip())
    assert re.search(rf"\bmoa {path.split()[0]} ?", last)


def test_examples_stand_on_lines_of_their_own() -> None:
    lines = [line.strip() for line in told("down", "-h").out.splitlines()]
    assert "moa down small" in lines


def test_commands_work_quietly_where_they_show_more_than_results() -> None:
    quiet = {
        path
        for path, command in COMMANDS.items()
        if any("--quiet" in option.opts for option in command.params)
    }
    groups = {path for path, command in COMMANDS.items() if isinstance(command, TyperGroup)}
    assert {*COMMANDS} - quiet == NO_QUIET | groups


def test_the_commands_stand_under_headings() -> None:
    said = told("-h").out
    headings = re.findall(r"(?m)^(\S[^:]*):$", said)
    assert headings == [
        "Options",
        "Ask",
        "Decide with guarantees",
        "Serve graphs",
        "Choose and serve models",
        "Set up",
    ]
    assert "..." not in said.partition("Ask:")[2]  # no line is cut off
    assert "--install-completion" in said


MAILS = """
from moa import Agent, Graph, Text
from moa.testing import SimulatedEndpoint

large = SimulatedEndpoint(name="large", tier="llm", rule=lambda text: "Done." + text[:0])
g = Graph("mails", Text)
graph = g.build(g.add(Agent(large, "Answer."), g.input))
"""


def test_what_takes_long_is_told_line_by_line_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screen, "_SAID_EVERY_S", -1.0)
    with screen.progress("reading") as tell:
        tell("sentences", 3, 8)
    assert capsys.readouterr().err == "reading sentences: 3 of 8\n"


def test_how_much_of_an_answer_is_written_is_told_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(row_display, "_SAID_EVERY_S", -1.0)
    context = RunContext()
    display = row_display.RowDisplay(total=1)
    display.start(context)
    watcher = context.nested("code").nested("writer").watcher
    assert watcher is not None
    watcher("code/writer", 312)
    display.stop()
    assert capsys.readouterr().err == "code/writer writes: 312 tokens\n"


def test_quietly_only_answers_and_errors_are_printed() -> None:
    Path("mails.py").write_text(MAILS)
    Path("in.jsonl").write_text('{"text": "one"}\n{"id": 7}\n')

    def run(*words: str) -> tuple[str, str]:
        return told("run", "mails.py:graph", "in.jsonl", *words, leaves=1)

    error = "failed 7: InputError: the row is no Text: text: Field required\n"
    assert run("--quiet") == ("Done.\n", error)
    assert run("--quiet", "--out", "out.jsonl") == ("", error)
    out, err = run("-q", "--json")
    assert err == error
    assert {json.loads(line)["status"] for line in out.splitlines()} == {"answered", "failed"}
    assert "items" in run()[0]


def test_a_wrong_value_is_told_without_a_word_of_pydantic_s() -> None:
    said = told("run", "sentiment", "x.jsonl", "--format", "xml", leaves=2).err
    assert "'xml'" in said
    assert "Value error" not in said
