from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moa.cli.inputs import reader_of
from moa.config import load
from moa.config.endpoints import Endpoints
from moa.errors import ConfigError
from moa.graphs.drawing import Drawable
from moa.graphs.loading import load_graph

NAMES = ("summarize", "brainstorm", "write", "research", "recommend")
TWO = """
[endpoints.big]
model = "big-1"
base_url = "http://127.0.0.1:1/v1"
tier = "llm"

[endpoints.other]
model = "other-1"
base_url = "http://127.0.0.1:1/v1"
tier = "llm"

[tiers]
llm = "big"
"""


def configured(folder: Path, tables: str) -> Endpoints:
    file = folder / "moa.toml"
    file.write_text(TWO + tables, encoding="utf-8")
    return Endpoints(load(file), read_keys=False)


@pytest.mark.parametrize("name", NAMES)
async def test_it_draws_without_settings(name: str, tmp_path: Path) -> None:
    node = load_graph(name, configured(tmp_path, ""))
    assert isinstance(node, Drawable)
    assert "LLM · big" in node.draw().mermaid


@pytest.mark.parametrize("name", NAMES)
async def test_a_text_alone_is_an_input(name: str, tmp_path: Path) -> None:
    node = load_graph(name, configured(tmp_path, ""))
    read = reader_of(node)("Some text.")
    assert str(read) == "Some text."
    assert reader_of(node)({"text": "Some text."}) == read


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("summarize", 'llm = "other"'),
        ("brainstorm", 'proposers = ["big", "other"]'),
        ("write", 'writers = ["other"]'),
        ("research", 'writer = "other"'),
        ("recommend", 'llm = "other"'),
    ],
)
async def test_another_endpoint_is_named_in_its_table(
    name: str, settings: str, tmp_path: Path
) -> None:
    node: Any = load_graph(name, configured(tmp_path, f"[graphs.{name}]\n{settings}\n"))
    assert "LLM · other" in node.draw().mermaid


@pytest.mark.parametrize("name", NAMES)
async def test_a_misspelt_setting_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"graphs.{name}"):
        load_graph(name, configured(tmp_path, f"[graphs.{name}]\nlenght = 3\n"))


async def test_a_catalogue_stands_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("id,text\n1,Shoes\n", encoding="utf-8")
    load_graph("recommend", configured(tmp_path, '[graphs.recommend]\ncatalogue = "items.csv"\n'))
    with pytest.raises(ConfigError, match=r"none\.csv can't be read"):
        load_graph(
            "recommend", configured(tmp_path, '[graphs.recommend]\ncatalogue = "none.csv"\n')
        )
