"""The tutorial, all of it but what serves, on a business that nothing was fitted to."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
import tomllib
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from command import kept, moa, told

from moa.learning.learned import LearnedGraph
from moa.local.encoders import JointEncoder

ROOT = Path(__file__).parents[2]
MUSEUM = ROOT / "benchmarks" / "data" / "businesses" / "museum"
MESSAGES = 36
QUESTIONS = ("intent", "sentiment", "urgency", "spam", "injection")


class Labeller(StringIO):
    """Somebody who reads the message on the screen, and types what is right about it."""

    def __init__(self, rows: list[dict[str, Any]], screen: BytesIO) -> None:
        super().__init__()
        self._rows = {" ".join(row["text"].split())[:60]: row for row in rows}
        self._screen = screen

    def readline(self, size: int = -1, /) -> str:
        sys.stderr.flush()
        messages = re.split(r"\d+ of \d+ ─+", self._screen.getvalue().decode())
        shown = " ".join(messages[-1].split())
        row = next(row for start, row in self._rows.items() if start in shown)
        said = {name: row[name] for name in QUESTIONS}
        words = {None: "none", True: "yes", False: "no"}
        return ", ".join(f"{name}={words.get(it, it)}" for name, it in said.items()) + "\n"


SERVES = {"studio", "serve"}
"""Commands that end when they are told to: tests of their own start them."""


def steps() -> list[list[str] | str]:
    """List the commands of the page as words, and its Python as it stands, in their order."""
    page = (ROOT / "docs" / "inbox.md").read_text("utf-8")
    found: list[list[str] | str] = []
    for kind, block in re.findall(r"^```(bash|python)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if kind == "python":
            found.append(block)
            continue
        lines = (shlex.split(line) for line in block.splitlines())
        found += [words[1:] for words in lines if words[0] == "moa" and words[1] not in SERVES]
    return found


@pytest.mark.embedded
@pytest.mark.timeout(900)
@pytest.mark.skipif(JointEncoder.missing() is not None, reason="the encoder is not installed")
def test_all_steps_of_the_tutorial_run_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with MUSEUM.with_suffix(".jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:MESSAGES]
    with Path("messages.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ("id", "text"), extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    said: dict[str, str] = {}
    for step in steps():
        if isinstance(step, str):
            exec(compile(step, "inbox.md", "exec"), {"__name__": "inbox"})
            continue
        if step[0] == "label":
            label(step, rows, monkeypatch)
            continue
        said[" ".join(step)] = told(*step).words
        if step[0] == "new":
            drafted = tomllib.loads(Path("moa.toml").read_text())["graphs"]["support"]["intents"]
            assert 4 <= len(drafted) <= 12
            Path("moa.toml").write_text(edited())
    labelled = kept("labelled.jsonl", ordered=True)
    assert {row["chosen"] for row in labelled} == {True, False}
    right = {row["id"]: row for row in rows}
    assert all(row[name] == right[row["id"]][name] for row in labelled for name in QUESTIONS)
    learned = LearnedGraph.load("inbox.json")
    assert Path("moa.toml").read_text().count('learned = "inbox.json"') == 1
    again = said["run support messages.csv --out runs.jsonl --overwrite"]
    assert f"learned: {learned.summary[:20]}" in again
    assert "<html" in Path("run.html").read_text("utf-8")
    assert "700 inputs" in said["learn status try.db"]


def label(words: list[str], rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `moa label`, with somebody who answers."""
    screen = BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", Labeller(rows, screen))
        patch.setattr("sys.stderr", TextIOWrapper(screen, encoding="utf-8"))
        assert moa(*words) == 0


def edited() -> str:
    """Write what somebody would make of the draft."""
    tables = tomllib.loads(MUSEUM.with_suffix(".toml").read_text("utf-8"))["intents"]
    return "\n".join(
        f"[graphs.support.intents.{name}]\nmeans = {json.dumps(one['means'])}\n"
        f"examples = {json.dumps(one['examples'])}\nqueue = {json.dumps(name)}\n"
        for name, one in tables.items()
    )
