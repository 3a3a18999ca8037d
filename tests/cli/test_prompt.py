"""moa prompt and moa run --show-prompts."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from command import told
from counting import serving

from moa.endpoints.sent import LOGGER


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Generator[None]:
    handlers, level, propagate = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    yield
    LOGGER.handlers[:], LOGGER.propagate = handlers, propagate
    LOGGER.setLevel(level)


MODELS = (
    '[endpoints.slm]\ntier = "slm"\nbase_url = "http://127.0.0.1:9/v1"\n'
    'model = "m"\ndecide = "text"\n'
    '[endpoints.llm]\ntier = "llm"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "large"\n'
)


def test_the_command_shows_what_a_graph_asks_first_and_who_is_asked_later(folder: Path) -> None:
    (folder / "moa.toml").write_text(f'{MODELS}[graphs.support]\ndecide_by = "model"\n')
    said = told("prompt", "support", "--text", "Where is my parcel?", "--json").out
    found = {line["agent"]: line for line in map(json.loads, said.splitlines())}
    asked = {name: line["asked"] for name, line in found.items()}
    assert (asked["support/intent"], asked["support/reply"]) == ("first", "later")
    assert asked["support/decisions"] == "first"
    for name in ("support/intent", "support/reply"):
        messages = found[name]["prompts"][0]["messages"]
        assert any("Where is my parcel?" in one["content"] for one in messages)


def test_of_a_recipe_that_writes_the_first_call_is_shown(folder: Path) -> None:
    (folder / "moa.toml").write_text(MODELS)
    said = told("prompt", "solve", "--text", "What is half of 84?", "--json").out
    first, *later = map(json.loads, said.splitlines())
    assert (first["agent"], first["asked"]) == ("solve/direct", "first")
    assert "half of 84" in first["prompts"][0]["messages"][-1]["content"]
    assert "solve/verifier" in {line["agent"] for line in later if line["asked"] == "later"}


def test_a_run_shows_its_prompts_on_standard_error(folder: Path) -> None:
    with serving() as (url, _):
        (folder / "moa.toml").write_text(
            f'[endpoints.llm]\ntier = "llm"\nbase_url = "{url}"\nmodel = "m"\n'
        )
        said = told("run", "generator", "--text", "Say hello", "--show-prompts", "--json")
    assert "Say hello" in said.err
    assert "[system]" not in said.out
