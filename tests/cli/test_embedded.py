"""The command line on the real embedded model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import kept, moa, told, written

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(300)]
EXAMPLES = Path(__file__).parents[2] / "examples"

FRAGILE = """
import os, signal, threading
from moa import Classifier, Text
from moa.graphs.engine.graph import Graph

def graph(endpoints):
    slm = endpoints.slm

    async def freeze(text: Text) -> Text:
        if "kill" in text.text:  # the call that follows meets a server that hangs, then dies
            pid = next(reversed(slm._clients)).process.pid
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(3, os.kill, (pid, signal.SIGKILL)).start()
        return text

    asking = Classifier(slm, ["joy", "anger"], none=False, name="mood").alone()
    g = Graph("fragile", Text)
    return g.build(g.add(asking, g.add(freeze, g.input)))
"""


def test_the_main_job_runs_on_the_inbox() -> None:
    inbox = EXAMPLES / "support" / "inbox.jsonl"
    out, err = told("run", "support", str(inbox), "--limit", "14", "--out", "out.jsonl")
    rows = kept(inbox, ordered=True)
    statuses = {line["id"]: line["status"] for line in kept()}
    assert statuses.keys() == {row["id"] for row in rows[:14]}
    assert statuses[rows[13]["id"]] == "dropped"
    assert "waiting for an LLM or people" in out
    assert "No LLM is configured" in err


def test_nothing_is_expected_of_examples_that_were_all_chosen() -> None:
    intents = {
        "billing": ("invoice is wrong", "charged me twice", "need a receipt", "refund my money"),
        "delivery": ("parcel is late", "where is my package", "not delivered", "courier lost it"),
    }
    Path("moa.toml").write_text(
        "".join(
            f'[graphs.support.intents.{name}]\nmeans = "About {name}"\nqueue = "{name}"\n'
            for name in intents
        )
    )
    rows = [
        {"text": f"Hello, {text}, please help", "intent": name, "chosen": True}
        for name, texts in intents.items()
        for text in texts
    ]
    words = (written("rows.jsonl", rows), "--graph", "support", "--out", "inbox.json")
    assert "Nothing can be expected of intent" in told("learn", *words).words
    drawn = written("rows.jsonl", [{**row, "chosen": False} for row in rows])
    assert "Expected: intent right in" in told("learn", drawn, *words[1:]).words


def test_an_engine_that_is_killed_fails_its_item_and_is_started_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("fragile.py").write_text(FRAGILE)
    Path("in.txt").write_text("I love it\nkill\nI hate it\n")
    code = moa("run", "fragile.py:graph", "in.txt", "--json", "--concurrency", "1")
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 1
    assert [line["status"] for line in found] == ["answered", "failed", "answered"]
    assert "the engine died" in found[1]["error"]


def test_ctrl_c_leaves_finished_items_on_disk() -> None:
    Path("in.txt").write_text("I love it\n" * 5000)
    with subprocess.Popen(
        [sys.executable, "-m", "moa", "run", "sentiment", "in.txt", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["status"] == "answered"
        os.kill(process.pid, signal.SIGINT)
        out = process.stdout.read()  # `communicate` would miss what `readline` has buffered
        err = process.stderr.read()
    assert process.returncode == 130
    assert all(json.loads(line)["status"] == "answered" for line in out.splitlines())
    assert "Stopped after" in err
    assert "Traceback" not in err


def test_the_example_of_ones_own_graph_reads_reviews_right_and_has_nobody_write_badly() -> None:
    graph = f"{EXAMPLES / 'custom_graph.py'}:graph"
    reviews = written("in.txt", ("The straps broke after two days.", "Lovely, I use it every day."))
    done = told("run", graph, reviews, "--json", "--concurrency", "1")
    first, second = (json.loads(line)["output"]["text"] for line in done.out.splitlines())
    assert (first[:12], second[:9]) == ("We are sorry", "Thank you")
    assert "writes badly" not in done.err


def test_decisions_are_made_without_writing_python() -> None:
    Path("in.txt").write_text("I love it\nI hate it\n")
    Path("shown.jsonl").write_text(
        '{"text": "What a lovely day", "label": "happy"}\n'
        '{"text": "It broke at once", "label": "unhappy"}\n'
    )
    words = ["decide", "in.txt", "--task", "How does the writer feel?", "--labels", "happy,unhappy"]
    assert moa(*words, "--examples", "shown.jsonl", "--out", "out.jsonl") == 0
    found = kept()
    assert [set(line["scores"]) for line in found] == [{"happy", "unhappy"}] * 2
    assert found[0]["scores"]["happy"] > found[1]["scores"]["happy"]
