"""Comparisons, routers and their figures are what they were when they were recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from routing import rows as routing_rows

from evals.test_compare import designs, rows
from moa.evals import compare
from moa.routing.evaluation import evaluate_routing
from moa.routing.fitting import fit_router
from moa.routing.recorded import RecordedRequest
from moa.routing.router import Router

GOLDEN = Path(__file__).parent.parent / "golden"
ROUTING: dict[str, Any] = json.loads((GOLDEN / "routing.json").read_text())


def near(recorded: Any, tolerance: float = 1e-3) -> Any:
    """The same value, with numbers that may differ a little, however deep."""
    if isinstance(recorded, float):
        return pytest.approx(recorded, abs=tolerance)
    if isinstance(recorded, list):
        return [near(value, tolerance) for value in recorded]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(recorded, dict):
        return {key: near(value, tolerance) for key, value in recorded.items()}  # pyright: ignore[reportUnknownVariableType]
    return recorded


async def test_a_comparison_has_its_figures_verdicts_and_table() -> None:
    found = await compare(rows(60), designs(), risk=0.1)
    still = {"seconds_mean": 0.0, "seconds_p95": 0.0}
    timeless = [design.model_copy(update=still) for design in found.designs]
    found = found.model_copy(update={"designs": tuple(timeless)})
    assert found.markdown() == (GOLDEN / "comparison.md").read_text()
    written = found.model_dump(mode="json", exclude={"designs": {"__all__": set(still)}})
    assert written == near(json.loads((GOLDEN / "comparison.json").read_text()))


def recorded(n: int, kind: str, *, seed: int = 0) -> list[RecordedRequest]:
    made = routing_rows(n, seed=seed, replied=kind == "cascade")
    return [RecordedRequest.model_validate(row) for row in made]


@pytest.mark.parametrize("kind", ["router", "cascade"])
def test_a_saved_router_predicts_the_gains_it_predicted(kind: str) -> None:
    router = Router.load(GOLDEN / f"{kind}.json")
    found = router.gains([row.case for row in recorded(20, kind, seed=9)])
    assert found.tolist() == near(ROUTING[kind]["saved_gains"], 1e-9)


@pytest.mark.parametrize(("kind", "n"), [("router", 100), ("cascade", 60)])
def test_a_router_is_fitted_and_evaluated_as_before(kind: str, n: int) -> None:
    golden = ROUTING[kind]
    router, fresh = fit_router(recorded(n, kind)), recorded(60, kind, seed=9)
    assert (router.target, router.threshold) == (golden["target"], near(golden["threshold"]))
    assert {one.name: one.weight for one in router.candidates} == near(golden["weights"])
    assert {one.name: one.apgr for one in router.candidates} == near(golden["apgr"])
    gains = router.gains([row.case for row in fresh])
    assert gains.tolist() == near(golden["gains"])
    report = evaluate_routing(
        gains, [row.weak_correct for row in fresh], [row.strong_correct for row in fresh]
    )
    figures = report.model_dump(include=set(golden["figures"]))
    assert figures == near(golden["figures"])
    assert report.oracle.model_dump() == near(golden["oracle"])
    assert list(report.gap) == near(golden["gap"])
    assert list(report.apgr_interval or ()) == near(golden["interval"], 0.01)
    assert report.verdict == golden["verdict"]
