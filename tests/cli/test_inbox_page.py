"""The tutorial, all of it but what serves, on a business that nothing was fitted to."""

from __future__ import annotations

import csv
import json
import re
import shlex
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command import kept, moa, told
from starlette.applications import Starlette

from moa.core.questions import NONE_OF_THESE
from moa.learning.learned import LearnedGraph
from moa.local.encoders import JointEncoder
from moa.studio.sources import View

ROOT = Path(__file__).parents[2]
MUSEUM = ROOT / "benchmarks" / "data" / "businesses" / "museum"
MESSAGES = 36
QUESTIONS = ("intent", "sentiment", "urgency", "spam", "injection")


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
            with monkeypatch.context() as patch:
                patch.setattr("moa.cli.label.show", partial(label_all, rows))
                assert moa(*step) == 0
            continue
        said[" ".join(step)] = told(*step).words
        if step[0] == "new":
            Path("moa.toml").write_text(edited())
    labelled = kept("labelled.jsonl", ordered=True)
    assert {row["chosen"] for row in labelled} == {True, False}
    right = {row["id"]: row for row in rows}
    assert {name for row in labelled for name in QUESTIONS if name in row} == {*QUESTIONS}
    assert all(
        row[name] == right[row["id"]][name] for row in labelled for name in QUESTIONS if name in row
    )
    learned = LearnedGraph.load("inbox.json")
    assert Path("moa.toml").read_text().count('learned = "inbox.json"') == 1
    again = said["run support messages.csv --out runs.jsonl --overwrite"]
    assert f"learned: {learned.summary[:20]}" in again
    assert "<html" in Path("run.html").read_text("utf-8")
    assert "700 inputs" in said["learn status try.db"]


def label_all(
    rows: list[dict[str, Any]], view: View, app: Starlette, *, port: int, open_page: bool
) -> None:
    """Label all rows of the page, like somebody who reads them."""
    del app, port, open_page
    words: dict[object, str] = {None: NONE_OF_THESE, True: "yes", False: "no"}
    right = {str(row["id"]): row for row in rows}
    for entry in view.book.entries:
        for name in QUESTIONS:
            value = right[entry.id][name]
            view.label(entry.place, name, words.get(value, str(value)))


def edited() -> str:
    """Write what somebody would make of the draft."""
    tables = tomllib.loads(MUSEUM.with_suffix(".toml").read_text("utf-8"))["intents"]
    return "\n".join(
        f"[graphs.support.intents.{name}]\nmeans = {json.dumps(one['means'])}\n"
        f"examples = {json.dumps(one['examples'])}\nqueue = {json.dumps(name)}\n"
        for name, one in tables.items()
    )
