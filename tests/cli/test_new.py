"""`moa new inbox` and `--write-examples`: what a large model proposes."""

from __future__ import annotations

import json
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from command import kept, told, written

from moa.config.endpoints import Endpoints
from moa.core.usage import Price
from moa.testing import SimulatedEndpoint, SimulatedRequest, Step

from .test_learning import decided, rows, toml

pytestmark = pytest.mark.usefixtures("no_encoders")
ENDPOINT = (
    '# mine\n[endpoints.large]\ntier = "llm"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
)
EVIL = "/etc/../x.py:run Hello, where is the lamp?"


def proposed(_: str, asked: SimulatedRequest) -> Step:
    """Propose two intents, or write messages of one."""
    if asked.schema and "intents" in json.dumps(asked.schema["properties"]):
        intents = [
            {"name": "Where is it?", "means": "The writer wants it", "examples": [1, 2]},
            {"name": "Refund", "means": "The writer wants money back", "examples": [3]},
        ]
        return json.dumps({"intents": intents})
    return json.dumps({"messages": [f"A written message, number {n}" for n in range(3)]})


def large(**settings: Any) -> SimulatedEndpoint:
    return SimulatedEndpoint(name="large", tier="llm", rule=proposed, **settings)


@pytest.fixture(autouse=True)
def inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoints, "slm", SimulatedEndpoint(name="small", rule=decided))
    monkeypatch.setattr(Endpoints, "llm", large(price=Price(input=Decimal(1), output=Decimal(1))))
    texts = ("Hello, where is the lamp?", EVIL, "Hello, I want my money back")
    written("in.jsonl", [{"text": text} for text in texts])


def intents() -> dict[str, Any]:
    return tomllib.loads(Path("moa.toml").read_text())["graphs"]["support"]["intents"]


def test_a_large_model_proposes_intents_into_the_file_that_is_there() -> None:
    Path("moa.toml").write_text(ENDPOINT)
    said = told("new", "inbox", ".", "--from", "in.jsonl", "--yes")
    assert "US$" in said.err
    assert Path("moa.toml").read_text().startswith(ENDPOINT)
    assert intents()["where_is_it"]["means"] == "The writer wants it"
    assert intents()["refund"]["examples"] == ["Hello, I want my money back"]
    assert "moa label support" in said.words


def test_a_message_that_is_a_path_stands_in_no_configuration() -> None:
    Path("moa.toml").write_text(ENDPOINT)
    told("new", "inbox", ".", "--from", "in.jsonl", "--yes")
    assert intents()["where_is_it"]["examples"] == ["Hello, where is the lamp?"]


def test_what_costs_money_waits_for_a_yes() -> None:
    Path("moa.toml").write_text(ENDPOINT)
    said = told("new", "inbox", ".", "--from", "in.jsonl", leaves=2).words
    assert "--yes" in said
    assert Path("moa.toml").read_text() == ENDPOINT


def test_intents_that_are_there_are_replaced_by_overwrite_alone() -> None:
    before = ENDPOINT + '\n[graphs.support]\ncompany = "a shop"\n\n' + toml(("mine", "other"))
    Path("moa.toml").write_text(before)
    assert "--overwrite" in told("new", "inbox", ".", "--from", "in.jsonl", "--yes", leaves=2).words
    assert Path("moa.toml").read_text() == before
    told("new", "inbox", ".", "--from", "in.jsonl", "--yes", "--overwrite")
    assert intents().keys() == {"where_is_it", "refund"}
    assert tomllib.loads(Path("moa.toml").read_text())["graphs"]["support"]["company"] == "a shop"
    assert Path("moa.toml").read_text().startswith(ENDPOINT)


def test_without_a_large_model_nothing_is_drafted() -> None:
    said = told("new", "inbox", ".", "--from", "in.jsonl", leaves=2).words
    assert "needs a large model" in said
    assert not Path("moa.toml").exists()


def test_an_inbox_of_ones_own_becomes_a_project_of_its_messages() -> None:
    Path("moa.toml").write_text(ENDPOINT)
    told("new", "inbox", "shop", "--from", "in.jsonl", "--yes")
    config = Path("shop/moa.toml").read_text("utf-8")
    assert tomllib.loads(config)["graphs"]["support"]["intents"].keys() == {
        "where_is_it",
        "refund",
    }
    assert "Fernhill" not in config
    texts = [row["text"] for row in kept("shop/messages.jsonl", ordered=True)]
    assert texts[1] == EVIL
    assert Path("shop/graph.py").is_file()


def test_only_an_inbox_is_drafted() -> None:
    assert "--from" in told("new", "rag", "x", "--from", "in.jsonl", leaves=2).words
    assert "give --from" in told("new", "inbox", "x", "--yes", leaves=2).words
    assert not Path("x").exists()


def test_what_a_model_wrote_is_paid_for_once_and_never_counts() -> None:
    Path("moa.toml").write_text(ENDPOINT + toml())
    words = ("--graph", "support", "--out", "inbox.json", "--write-examples")
    source = written("labelled.jsonl", rows(36))
    assert "--yes" in told("learn", source, *words, leaves=2).words
    told("learn", source, *words, "--yes")
    lines = kept("inbox.written.jsonl", ordered=True)
    assert [line["intent"] for line in lines] == [
        n for n in ("order", "refund", "repair") for _ in "123"
    ]
    assert all(line["chosen"] and str(line["written_by"]).startswith("large: ") for line in lines)
    said = told("learn", source, *words)  # nothing is asked, so nothing is to be agreed to
    assert " 36 " in said.out
    assert len(kept("inbox.written.jsonl", ordered=True)) == 9
