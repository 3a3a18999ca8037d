"""The reference: each public name stands on a page of it, with an example that runs."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import moa
from moa.agents.prompts import schema_of
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [page.read_text("utf-8") for page in sorted((DOCS / "reference").glob("*.md"))]
NAMED = re.findall(r"^::: (moa\.[\w.]+)$", "\n".join(PAGES), re.MULTILINE)
GIVEN: dict[str, Any] = {
    **{name.rpartition(".")[2]: pkgutil.resolve_name(name) for name in NAMED},
    **{one.__name__: one for one in (ScriptedEndpoint, SimulatedEndpoint, BaseModel, asyncio)},
    "__name__": "__main__",
}
"""What every example has, as the pages of the reference say."""
RULES = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def test_every_public_name_stands_on_one_page_of_the_reference() -> None:
    named = [name.removeprefix("moa.") for name in NAMED if name.count(".") == 1]
    assert sorted(named) == dir(moa)


def test_every_page_is_in_the_navigation() -> None:
    navigation = (DOCS.parent / "mkdocs.yml").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).as_posix()
        assert re.search(rf"[-:] {re.escape(name)}$", navigation, re.MULTILINE), name


@pytest.mark.parametrize("name", NAMED)
def test_the_example_of_a_name_on_a_page_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    doc = inspect.getdoc(inspect.unwrap(pkgutil.resolve_name(name))) or ""
    example = doctest.DocTestParser().get_doctest(doc, dict(GIVEN), name, None, None)
    assert example.examples, f"{name} has no example in its docstring"
    told: list[str] = []
    doctest.DocTestRunner(optionflags=RULES).run(example, out=told.append)
    assert not told, "".join(told)


def test_examples_in_a_docstring_are_not_told_to_a_model() -> None:
    assert schema_of(moa.Text)["description"] == "A text, and what is known of it."
