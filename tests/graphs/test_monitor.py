"""The example that watches a stream: a report only where something has changed."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import pytest

from moa.config.endpoints import Endpoints
from moa.config.loading import load_graph
from moa.core.errors import EndpointUnavailable
from moa.core.node import Result
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, Step

from .nodes import notes

FILE = Path(__file__).parents[2] / "examples" / "monitor.py"
CALM, CHANGED = ["delivery", "delivery", "refund", "app", "delivery"] * 50, ["app crash"] * 50


class Watched(Endpoints):
    """A small model for which texts begin with their label, and a large one with a script."""

    def __init__(self, *reports: Step) -> None:
        super().__init__()
        self.large = ScriptedEndpoint(reports, name="large", tier="llm")

    @property
    def has_llm(self) -> bool:
        return bool(self.large.steps)

    @property
    def slm(self) -> Any:
        return SimulatedEndpoint(rule=lambda text: {"topic": {text.split()[0]: 0.9}})

    @property
    def llm(self) -> Any:
        return self.large


async def watch(endpoints: Watched, texts: list[str]) -> dict[int, Result[Any]]:
    """Run the texts one after another; the results with a report, by place."""
    graph: Any = load_graph(f"{FILE}:graph", endpoints)
    results = [await graph.run(text) for text in texts]
    return {place: one for place, one in enumerate(results, start=1) if one.output.report}


async def test_a_change_is_reported_once_at_the_end_of_its_window_by_one_large_call() -> None:
    endpoints = Watched("Apps crash.")
    reported = await watch(endpoints, CALM + CHANGED * 3)
    assert {place: one.output.report for place, one in reported.items()} == {300: "Apps crash."}
    (prompt,) = endpoints.large.prompts
    asked = prompt.messages[-1].content
    assert "app: 100%, and 20% in the reference\n- app crash" in asked
    assert "delivery: 0%, and 60% in the reference" in asked


async def test_a_calm_stream_asks_no_large_model() -> None:
    endpoints = Watched("never")
    random.Random(0).shuffle(texts := CALM * 2)
    assert await watch(endpoints, texts) == {}
    assert endpoints.large.prompts == []


@pytest.mark.parametrize(
    "steps", [(), (EndpointUnavailable("down", endpoint="large"),)], ids=["none", "down"]
)
async def test_without_a_large_model_the_report_holds_the_figures(steps: tuple[Step, ...]) -> None:
    (reported,) = (await watch(Watched(*steps), CALM + CHANGED)).values()
    assert "app: 100%, and 20% in the reference" in reported.output.report
    assert len(notes(reported, "degraded")) == len(steps)


async def test_each_item_is_decided() -> None:
    graph: Any = load_graph(f"{FILE}:graph", Watched())
    assert (await graph.run("refund please")).output.label == "refund"


# Of scipy.stats.hypergeom: twice the smaller tail.
@pytest.mark.parametrize(
    ("counts", "p"),
    [((3, 10, 3, 10), 1.0), ((0, 10, 10, 10), 1.0825e-05), ((9, 50, 12, 200), 0.021632)],
)
def test_two_counts_are_compared_by_fisher_s_exact_test(
    counts: tuple[int, int, int, int], p: float
) -> None:
    load_graph(f"{FILE}:graph", Watched())
    module = importlib.import_module("_moa_file_monitor")
    assert module.p_value(*counts) == pytest.approx(p, rel=1e-3)
