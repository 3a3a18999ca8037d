"""The page "Your inbox in half an hour", all of it, on a business that nothing was fitted to."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from command import kept, told, written

from moa.calibration.learned import Learned
from moa.endpoints.encoders import JointEncoder

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


def commands() -> list[list[str]]:
    page = (ROOT / "docs" / "inbox.md").read_text("utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words[0] == "moa" and "--write-examples" not in words]


@pytest.mark.embedded
@pytest.mark.timeout(900)
@pytest.mark.skipif(JointEncoder.missing() is not None, reason="the encoder is not installed")
def test_all_commands_of_the_page_run_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with MUSEUM.with_suffix(".jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:MESSAGES]
    written("messages.jsonl", [{key: row[key] for key in ("id", "text")} for row in rows])
    said: list[str] = []
    for words in commands():
        with monkeypatch.context() as patch:
            screen = BytesIO()
            if words[0] == "label":
                patch.setattr("sys.stdin", Labeller(rows, screen))
                patch.setattr("sys.stderr", TextIOWrapper(screen, encoding="utf-8"))
                from moa.cli import main

                with pytest.raises(SystemExit) as left:
                    main(words)
                assert left.value.code == 0
                continue
            said.append(told(*words).words)
        if words[0] == "new":
            drafted = tomllib.loads(Path("moa.toml").read_text())["graphs"]["support"]["intents"]
            assert 4 <= len(drafted) <= 12
            Path("moa.toml").write_text(edited())
    labelled = kept("labelled.jsonl", ordered=True)
    assert {row["chosen"] for row in labelled} == {True, False}
    right = {row["id"]: row for row in rows}
    assert all(row[name] == right[row["id"]][name] for row in labelled for name in QUESTIONS)
    learned = Learned.load("inbox.json")
    assert Path("moa.toml").read_text().count('learned = "inbox.json"') == 1
    assert f"learned: {learned.summary[:20]}" in said[3]


def edited() -> str:
    """Write what somebody would make of the draft."""
    tables = tomllib.loads(MUSEUM.with_suffix(".toml").read_text("utf-8"))["intents"]
    return "\n".join(
        f"[graphs.support.intents.{name}]\nmeans = {json.dumps(one['means'])}\n"
        f"examples = {json.dumps(one['examples'])}\nqueue = {json.dumps(name)}\n"
        for name, one in tables.items()
    )
