"""The site: every page and every example stands in its navigation."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NAVIGATION = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
LISTED = re.findall(r"([\w/]+\.md)$", NAVIGATION, re.MULTILINE)


def _hooks() -> Any:
    spec = spec_from_file_location("pages", ROOT / ".ci" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = _hooks()


class Page:
    """What mkdocs gives a hook of a page, as far as ours reads it."""

    def __init__(self, address: str) -> None:
        self.file = self
        self.src_uri = address


def test_every_page_and_every_example_stands_in_the_navigation_once() -> None:
    docs = ROOT / "docs"
    pages = [str(path.relative_to(docs)) for path in docs.rglob("*.md")]
    assert sorted(LISTED) == sorted([*pages, *HOOKS.examples()])


@pytest.mark.parametrize("address", list(HOOKS.examples()))
def test_an_example_is_a_page_with_one_title_and_its_code(address: str) -> None:
    text: str = HOOKS.examples()[address]
    assert text.startswith("# ")
    assert "```python" in text
    assert not re.search(r"\]\((?:\.\./)+(?:docs|benchmarks|src|examples)/", text)


def test_a_link_to_an_example_leads_to_its_page_and_a_picture_suits_the_scheme() -> None:
    page = "[a](../examples/custom_graph.py) [b](../LICENSE)\n![c](studio/rows-desktop-light.png)"
    made: str = HOOKS.on_page_markdown(page, Page("index.md"))
    assert "[a](examples/custom_graph.md) b\n" in made
    assert "![c](studio/rows-desktop-light.png#only-light)" in made
    assert "![c](studio/rows-desktop-dark.png#only-dark)" in made
