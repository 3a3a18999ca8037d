"""`moa learn --graph`: from labelled messages to one file that decides, and what it guarantees."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from command import Told, kept, told, written

from moa.config.endpoints import Endpoints
from moa.learning.learned import LearnedGraph
from moa.testing import SimulatedEndpoint, SimulatedRequest, Step

pytestmark = pytest.mark.usefixtures("no_encoders")
INTENTS = ("order", "refund", "repair")
Row = dict[str, Any]


def decided(text: str, asked: SimulatedRequest) -> Step:
    """Take an order for a refund, and be right but for that."""
    said: dict[str, dict[str, float]] = {}
    for question in asked.questions:
        names = [option.name for option in question.options]
        if INTENTS[0] in names:
            word = next((name for name in INTENTS if name in text), "none of these")
            said[question.name] = (
                {"order": 0.45, "refund": 0.55} if word == "order" else {word: 0.9}
            )
        elif "neutral" in names:
            said[question.name] = {"neutral": 0.9}
        else:
            said[question.name] = {next(n for n in names if n in ("no", "can wait")): 0.9}
    return said


def toml(intents: Iterable[str] = INTENTS) -> str:
    tables = (
        f'[graphs.support.intents.{name}]\nmeans = "The writer wants it"\nqueue = "{name}"\n'
        for name in intents
    )
    return "\n".join(tables)


def rows(n: int, *, chosen: bool = False, wrong: float = 0.0) -> list[Row]:
    draw = random.Random(n)
    found: list[Row] = []
    for number in range(n):
        intent = INTENTS[number % 3]
        text = f"Hello, this is about the {intent} of the lamp with the number {number} {chosen}"
        label = draw.choice(INTENTS) if draw.random() < wrong else intent
        row = {"text": text, "intent": label, "sentiment": "neutral", "urgency": "can wait"}
        found.append(row | {"spam": False, "injection": False, "chosen": chosen})
    return found


@pytest.fixture(autouse=True)
def inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoints, "slm", SimulatedEndpoint(name="small", rule=decided))
    Path("moa.toml").write_text(toml())


def learn(found: Iterable[Row], *words: str, leaves: int = 0) -> Told:
    source = written("labelled.jsonl", found)
    return told("learn", source, "--graph", "support", "--out", "inbox.json", *words, leaves=leaves)


def test_what_is_learned_decides_from_then_on_and_a_run_says_what_is_expected() -> None:
    said = learn(rows(36))
    assert "67%" in said.out
    assert "100%" in said.out
    assert LearnedGraph.load("inbox.json").calibrations.keys() == {"intent"}
    assert (
        tomllib.loads(Path("moa.toml").read_text())["graphs"]["support"]["learned"] == "inbox.json"
    )
    new = written("new.jsonl", [{"text": "Hello, this is about an order of another lamp"}])
    run = told("run", "support", new, "--out", "out.jsonl")
    (line,) = kept()
    assert line["output"]["decisions"]["intent"]["label"] == "order"
    assert "guaranteed: nothing. Expected: intent right in 100 %" in run.words


@pytest.mark.parametrize("count", [18, 240])
def test_nothing_is_promised_or_expected_on_messages_that_were_chosen(count: int) -> None:
    said = learn(rows(count, chosen=True))
    made = LearnedGraph.load("inbox.json")
    intent = made.calibrations["intent"]
    assert intent.bound is None
    assert intent.expected_accuracy is None
    assert made.looks == 0
    assert "Nothing can be expected of intent: all labelled rows were chosen" in said.words
    assert "100 %" not in said.words
    assert "100%" not in said.words
    assert "Handled without an LLM" not in said.words
    new = written("new.jsonl", [{"text": "Hello, where is the order of the lamp?"}])
    run = told("run", "support", new, "--out", "out.jsonl").words
    assert "guaranteed: nothing. Nothing can be expected of intent" in run


def test_a_message_of_several_lines_counts_once_by_its_last_label_and_that_is_told() -> None:
    drawn = rows(36)
    corrected = [{**row, "intent": "refund", "chosen": True} for row in drawn]
    said = learn([*drawn, *corrected, *drawn])
    assert "intent: 24 texts stand there with more than one label; the last one counts" in (
        said.words
    )
    assert re.search(r"Handled without an LLM: \d+ of 36 ", said.words)
    assert "100%" in said.out


def test_what_is_expected_is_measured_on_messages_drawn_at_random_alone() -> None:
    learn([*rows(150, chosen=True), *rows(60, wrong=0.9)])
    intent = LearnedGraph.load("inbox.json").calibrations.get("intent")
    assert intent is None or (intent.expected_accuracy or 0.0) < 0.7


def test_where_labels_suffice_a_promise_is_tested_and_what_it_leaves_out_is_not_settled() -> None:
    said = learn(rows(210))
    made = LearnedGraph.load("inbox.json")
    assert made.guarantees("intent")
    assert made.looks == 1
    assert "guaranteed: intent, at most 10 % wrong, with 95 % confidence" in said.words
    texts = ("Hello, this is about the order of a lamp", "Hello, is there anybody in the shop?")
    told("run", "support", written("new.jsonl", [{"text": t} for t in texts]), "--out", "out.jsonl")
    first, second = kept()
    assert first["output"]["decisions"]["intent"]["accepted"] is True
    assert first["output"]["queue"] == "order"
    assert second["output"]["queue"] == "replies"


def test_a_second_look_is_counted() -> None:
    learn(rows(210))
    learn(rows(240))
    made = LearnedGraph.load("inbox.json")
    assert made.looks == 2
    assert made.calibrations["intent"].proof.bound.guarantee.look == 2


def test_a_promise_is_confirmed_or_withdrawn_on_other_rows() -> None:
    learn(rows(210))
    graph = ("--graph", "support", "--recheck", "inbox.json")
    assert "intent: confirmed" in told("learn", written("b.jsonl", rows(120)), *graph).out
    bad = written("c.jsonl", rows(121, wrong=0.9))
    assert "intent: withdrawn" in told("learn", bad, *graph, "--out", "c.json", leaves=1).out
    assert not LearnedGraph.load("c.json").guarantees("intent")


def test_lines_of_a_run_count_as_their_input() -> None:
    lines = [
        {"id": n, "input": row, "output": {}, "status": "ok"} for n, row in enumerate(rows(36))
    ]
    learn(lines)
    assert "intent" in LearnedGraph.load("inbox.json").calibrations


def test_labels_of_the_right_kind_are_read_however_a_table_writes_them() -> None:
    source = "\n".join(f'"{row["text"]}",{row["intent"]},False,CAN' for row in rows(36)).replace(
        "CAN", "can wait"
    )
    Path("labelled.csv").write_text(f"text,intent,spam,urgency\n{source}\n")
    told("learn", "labelled.csv", "--graph", "support", "--out", "inbox.json")
    assert "intent" in LearnedGraph.load("inbox.json").calibrations


WRONG = {
    "three labels": (rows(3), "intent: 3 labels only, and it takes 8"),
    "no labels": ([{"text": "Hello, is it open?"}], "moa label support"),
    "an intent that isn't there": (
        [*rows(9), {"text": "Hello there", "intent": "refunds"}],
        "labelled.jsonl, line 10: intent: 'refunds' is none of order, refund, repair",
    ),
    "no message": ([{"texts": "Hello", "intent": "order"}], "labelled.jsonl, line 1"),
}


@pytest.mark.parametrize(("found", "said"), WRONG.values(), ids=WRONG)
def test_labels_that_teach_nothing_are_refused_with_what_to_do(found: list[Row], said: str) -> None:
    assert said in learn(found, leaves=2).words
    assert not Path("inbox.json").exists()
    assert "learned" not in Path("moa.toml").read_text()


def test_what_was_learned_for_other_intents_says_which_differ() -> None:
    learn(rows(36))
    other = toml(("order", "refund", "invoice")).replace(
        "[", '[graphs.support]\nlearned = "inbox.json"\n\n[', 1
    )
    Path("moa.toml").write_text(other)
    new = written("new.jsonl", [{"text": "Hello"}])
    said = told("run", "support", new, leaves=2).words
    assert "'invoice'" in said
    assert "'repair'" in said
    assert "moa learn labelled.jsonl --graph support" in said


def test_what_another_graph_learned_is_refused() -> None:
    learn(rows(36))
    text = Path("inbox.json").read_text().replace('"graph": "support"', '"graph": "other"')
    Path("inbox.json").write_text(text)
    said = told("run", "support", written("new.jsonl", [{"text": "Hello"}]), leaves=2).words
    assert "'other'" in said


def test_what_was_edited_is_refused() -> None:
    learn(rows(36))
    Path("inbox.json").write_text(Path("inbox.json").read_text().replace("order", "ordr"))
    said = told("run", "support", written("new.jsonl", [{"text": "Hello"}]), leaves=2).words
    assert "edited after it was made" in said


def test_a_file_of_something_else_is_not_replaced() -> None:
    Path("inbox.json").write_text('{"mine": 1}')
    assert "--out" in learn(rows(36), leaves=2).words
    assert Path("inbox.json").read_text() == '{"mine": 1}'


def test_a_graph_that_does_not_learn_says_which_do() -> None:
    source = written("labelled.jsonl", rows(9))
    said = told("learn", source, "--graph", "suport", "--out", "x.json", leaves=2).words
    assert "'support'" in said
