"""What there is to run can be found out, and which version this is."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
from command import told

from moa.config.loading import READY

OWN = """
from moa import Graph

async def same(text: str) -> str: return text

g = Graph("inner", str)
inner = g.build(g.add(same, g.input))

class Wrapped:
    name = "wrapped"
    async def run(self, request: str, context=None, /): return await inner.run(request, context)
    def draw(self): return inner.draw()

wrapped = Wrapped()
"""


def test_every_ready_graph_is_listed_with_what_it_does() -> None:
    shown = {line.split()[0]: line for line in told("graphs").out.splitlines() if line.split()}
    assert shown.keys() >= READY.keys()
    assert "Answers from your documents, with citations" in shown["rag"]
    lines = {line["name"]: line for line in told("graphs", "--json").lines}
    assert [*lines] == sorted(READY)
    assert {"calibration", "confidence", "learn"} <= {*lines["cascade"]["settings"]}
    worth = lines["mixture"]["measured"]
    assert worth["items"] >= 8
    assert 0 < worth["plain"] < 1
    assert "measured" not in lines["pii"]


@pytest.mark.parametrize("words", ["run --help", "draw --help", "draw oops"])
def test_whoever_needs_a_name_is_told_of_the_list(words: str) -> None:
    assert "moa graphs" in told(*words.split(), leaves=2 * ("oops" in words)).words


def test_a_node_of_ones_own_that_draws_itself_is_drawn_and_a_single_agent_is_refused(
    folder: Path,
) -> None:
    (folder / "own.py").write_text(OWN)
    assert "flowchart" in told("draw", "own.py:wrapped").out
    told("draw", "sentiment", leaves=2)


def test_the_version_is_that_of_the_package() -> None:
    assert told("--version").out == f"moa {version('mixture-of-agents')}\n"
