"""No drawing lies: what each recipe draws is what runs, with scripted endpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from routing import router

from moa.agents.classifier import Classifier
from moa.agents.generator import Generator
from moa.context import RunContext
from moa.errors import EndpointUnavailable
from moa.graphs.building.handles import NodeStep
from moa.graphs.cascade import Cascade
from moa.graphs.recipe import Recipe, Sketch, WiredRecipe
from moa.graphs.routed import Routed
from moa.graphs.self_consistency import SelfConsistency
from moa.graphs.shadow import Shadow
from moa.testing import SimulatedEndpoint, Step
from moa.usage import Tier


def large(rule: Callable[[str], Step] = lambda _: "Answer: 7") -> SimulatedEndpoint:
    return SimulatedEndpoint(name="large", tier="llm", rule=rule)


def labels(tier: Tier) -> Classifier[str]:
    endpoint = SimulatedEndpoint(name=tier, tier=tier, rule=lambda _: {tier: {"a": 0.6}})
    return Classifier(endpoint, ["a", "b"], none=False, name=tier)


def fails(name: str) -> Generator[Any]:
    """A model that is down, so that the others are asked too."""
    down = EndpointUnavailable("no", endpoint=name)
    return Generator(SimulatedEndpoint(name=name, rule=lambda _: down), "Answer.", name=name)


def shadow() -> Shadow[Any, Any]:
    return Shadow(current=labels("llm"), candidate=labels("slm"), name="both")


def writer(**settings: Any) -> Generator[Any]:
    given: Any = {"temperature": 0.7, "tag": "", **settings}
    return Generator(large(), "Answer.", **given)


RECIPES: dict[str, tuple[Callable[[], Recipe[Any, Any]], object]] = {
    "cascade": (lambda: Cascade(small=labels("slm"), large=labels("llm"), confidence=0.9), "Hm."),
    "routed": (lambda: Routed(models=[fails("small"), writer()], router=router()), "Hm."),
    "self_consistency": (lambda: SelfConsistency(node=writer()), "3 + 4?"),
    "shadow": (lambda: shadow(), "Hm."),
}
"""By name: a recipe, and a request with which every node of it runs."""


def drawn(recipe: Recipe[Any, Any]) -> Iterator[str]:
    """Name the nodes of a sketch, and of the recipes in it."""
    if isinstance(recipe, WiredRecipe):
        steps = recipe.plan.steps
        yield from (step.name for step in steps if isinstance(step, NodeStep))
    sketch = Sketch()
    recipe.sketch(sketch)
    for _, node in sketch.boxes.values():
        if isinstance(node, Recipe):
            yield from drawn(cast("Recipe[Any, Any]", node))
        elif node is not None:
            yield str(getattr(node, "name", ""))


@pytest.mark.parametrize("name", RECIPES)
async def test_the_nodes_that_run_are_those_that_are_drawn(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, request = RECIPES[name]
    recipe, paths, nested = make(), set[str](), RunContext.nested

    def watched(context: RunContext, *names: str, **limits: Any) -> RunContext:
        inner = nested(context, *names, **limits)
        paths.add(inner.node)
        return inner

    monkeypatch.setattr(RunContext, "nested", watched)
    await recipe.run(request)
    expected = set(drawn(recipe))
    # Of several that are asked alike, each has a number behind its name.
    leaves = [path for path in paths if not any(one.startswith(f"{path}/") for one in paths)]
    ways = [re.sub(r" \d+(?=/|$)", "", path).split("/") for path in leaves]
    ways = [way[1:] if way[0] == recipe.name else way for way in ways]
    # What is in a node that is drawn is a part of it.
    ran = {next((name for name in way if name in expected), way[-1]) for way in ways if any(way)}
    assert ran == expected


def test_every_recipe_is_here() -> None:
    assert set(RECIPES) == set(Recipe.recipes)
