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


def test_the_command_shows_the_prompts_of_every_agent_of_a_graph(folder: Path) -> None:
    (folder / "moa.toml").write_text(
        '[endpoints.slm]\ntier = "slm"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'model = "m"\ndecide = "text"\n'
        '[endpoints.llm]\ntier = "llm"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "large"\n'
        "[graphs.support]\nheads = false\n"
    )
    said = told("prompt", "support", "--text", "Where is my parcel?", "--json").out
    found = {line["agent"]: line["prompts"] for line in map(json.loads, said.splitlines())}
    assert {"support/intent", "support/urgency", "support/reply"} <= set(found)
    for name in ("support/intent", "support/reply"):
        assert any("Where is my parcel?" in one["content"] for one in found[name][0]["messages"])


def test_a_run_shows_its_prompts_on_standard_error(folder: Path) -> None:
    with serving() as (url, _):
        (folder / "moa.toml").write_text(
            f'[endpoints.llm]\ntier = "llm"\nbase_url = "{url}"\nmodel = "m"\n'
        )
        said = told("run", "generator", "--text", "Say hello", "--show-prompts", "--json")
    assert "Say hello" in said.err
    assert "[system]" not in said.out
