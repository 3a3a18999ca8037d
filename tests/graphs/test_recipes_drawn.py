"""No drawing lies: what each recipe draws is what runs, with scripted endpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, cast

import pytest

from moa.agents.proposer import Proposer, sampler
from moa.context import RunContext
from moa.graphs.best_of_n import BestOfN
from moa.graphs.choose_best import ChooseBest
from moa.graphs.debate import Debate, Debater
from moa.graphs.mixture import Mixture
from moa.graphs.recipe import Recipe, Sketch
from moa.graphs.refine import Critic, Refine, writer_of
from moa.graphs.self_consistency import SelfConsistency
from moa.graphs.self_mixture import SelfMixture
from moa.mixing.judges import Listwise
from moa.testing import SimulatedEndpoint, Step
from moa.trace import NodeStarted


def large(
    name: str = "large", rule: Callable[[str], Step] = lambda _: "Answer: 7"
) -> SimulatedEndpoint:
    return SimulatedEndpoint(name=name, tier="llm", rule=rule)


def various() -> SimulatedEndpoint:
    """A model that never says the same twice."""
    said = count()
    return large(rule=lambda _: f"Answer: {next(said)}")


def never_content() -> SimulatedEndpoint:
    return large(rule=lambda _: '{"faults": ["Say which one."], "score": 3}')


RECIPES: dict[str, tuple[Callable[[], Recipe[Any, Any]], object]] = {
    "self_consistency": (lambda: SelfConsistency(node=sampler(large())), "3 + 4?"),
    "mixture": (
        lambda: Mixture(proposers=[large(), Proposer(large("b"))], aggregator=large()),
        "Why?",
    ),
    "self_mixture": (lambda: SelfMixture(node=large(), samples=2), "Why?"),
    "choose_best": (
        lambda: ChooseBest(nodes=[sampler(named) for named in (large(), large("b"))]),
        "3 + 4?",
    ),
    "best_of_n": (
        lambda: BestOfN(node=sampler(various()), judge=Listwise(large())),
        "A drink?",
    ),
    "debate": (
        lambda: Debate(debaters=[Debater(various())] * 2, judge=Listwise(large())),
        "A drink?",
    ),
    "refine": (
        lambda: Refine(writer=writer_of(large()), critic=Critic(never_content())),
        "A drink?",
    ),
}
"""By name: a recipe, and a request with which every node of it runs."""


def drawn(recipe: Recipe[Any, Any]) -> Iterator[str]:
    """Name the nodes of a sketch, and of the recipes in it."""
    sketch = Sketch()
    recipe.sketch(sketch)
    for _, node in sketch.boxes.values():
        if isinstance(node, Recipe):
            yield from drawn(cast("Recipe[Any, Any]", node))
        elif node is not None:
            yield str(getattr(node, "name", ""))


@pytest.mark.parametrize("name", RECIPES)
async def test_the_nodes_that_run_are_those_that_are_drawn(name: str) -> None:
    make, request = RECIPES[name]
    recipe, ran, context = make(), set[str](), RunContext()

    def seen(event: object) -> None:
        if isinstance(event, NodeStarted):
            ran.add(event.node)

    context.listener = seen
    result = await recipe.run(request, context)
    shown = set(drawn(recipe))
    found = {shown_of(path, shown) for path in ran | {*result.usage.by_node()}}
    assert found - {recipe.name} == shown


def shown_of(path: str, shown: set[str]) -> str:
    """Name the node of a path that is drawn, with what is in it; else the last one."""
    # Of several that are asked alike, each has a number behind its name.
    names = [re.sub(r" \d+$", "", name) for name in path.split("/")]
    return next((name for name in names if name in shown), names[-1])


def test_every_recipe_is_here() -> None:
    assert set(RECIPES) == set(Recipe.recipes)
