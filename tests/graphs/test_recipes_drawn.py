"""No drawing lies: what each recipe draws is what runs, with scripted endpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from moa.agents.generator import Generator
from moa.context import RunContext
from moa.documents import Passage
from moa.documents.retrieval import BM25
from moa.graphs.brainstorm import Brainstorm
from moa.graphs.building.handles import NodeStep
from moa.graphs.code import Code, Review
from moa.graphs.rag import Rag
from moa.graphs.recipe import Recipe, Sketch, WiredRecipe
from moa.graphs.recommend import Interests, Item, Recommend
from moa.graphs.research import Research
from moa.graphs.self_consistency import SelfConsistency
from moa.graphs.solve import Solve, Step, Steps, Worked
from moa.graphs.summarize import Original, Summarize
from moa.graphs.write import Assignment, Write
from moa.testing import ScriptedEndpoint, SimulatedEndpoint
from moa.testing import Step as Scripted


def large(rule: Callable[[str], Scripted] = lambda _: "Answer: 7") -> SimulatedEndpoint:
    return SimulatedEndpoint(name="large", tier="llm", rule=rule)


def writer(**settings: Any) -> Generator[Any]:
    given: Any = {"temperature": 0.7, "tag": "", **settings}
    return Generator(large(), "Answer.", **given)


def stormed() -> Brainstorm:
    def written(text: str) -> Scripted:
        sorts = "[1]" in text
        return '{"themes": [{"theme": "late", "ideas": [1]}]}' if sorts else '{"ideas": ["A bus."]}'

    scores = {"useful": {"fair": 1.0}, "original": {"fair": 1.0}}
    return Brainstorm(
        slm=SimulatedEndpoint(name="small", rule=lambda _: scores),
        llm=large(written),
        personas={"user": "You think as those whom it is for."},
        encoder=ScriptedEndpoint(name="vectors"),
    )


def coded() -> Code:
    reviewer = ScriptedEndpoint(name="other", tier="llm", steps=[Review(faults=())])
    return Code(writer=large(lambda _: "```python\nx = 1\n```"), reviewer=reviewer)


def solved() -> Solve:
    steps = [Step(id=f"step_{tier}", question="?", tier=tier) for tier in ("slm", "llm")]
    work = Worked(reasons="As it says.", answer="7")
    small = ScriptedEndpoint(name="small", steps=[work, {"right": {"yes": 0.9}}])
    llm = ScriptedEndpoint(
        name="large",
        tier="llm",
        model="large-1",
        steps=["1 + 1 = 3", Steps(steps=tuple(steps)), work, "It is 7."],
    )
    return Solve(slm=small, llm=llm)


def sourced() -> Rag:
    steps = {"rewrite": '{"query": "metres"}', "check": {"check": {"yes": 0.9}}}
    steps |= {"filter": {"filter": {"yes": 0.9}}}
    small = SimulatedEndpoint(
        name="small",
        rule=lambda text: steps[
            "check" if "Claim:" in text else "filter" if "Passage:" in text else "rewrite"
        ],
    )
    return Rag(
        retriever=BM25(
            [Passage(document="a", title="Tower", text="The tower is 300 metres high.")]
        ),
        writer=large(lambda _: "It is 300 metres high [1]."),
        small=small,
        rewrite=True,
        filter=True,
        check=True,
    )


def researched() -> Research:
    def written(text: str) -> Scripted:
        if "Finding 1" not in text:
            return '{"questions": ["How high in metres?", "How many metres?"]}'
        return "300 metres [1]." if "Question:" in text else '{"disagreements": []}'

    return Research(llm=large(written), answerer=sourced())


def recommended() -> Recommend:
    small = SimulatedEndpoint(name="small", rule=lambda _: {"suits": {"very well": 1.0}})
    llm = large(lambda _: '{"reasons": [{"item": 1, "reason": "It is warm."}]}')
    return Recommend(slm=small, llm=llm, catalogue=[Item(id="1", text="A warm jacket.")])


def summarized() -> Summarize:
    encoder = ScriptedEndpoint(name="vectors")
    return Summarize(slm=encoder, llm=large(lambda _: "Whales."), sentences=1, encoder=encoder)


RECIPES: dict[str, tuple[Callable[[], Recipe[Any, Any]], object]] = {
    "brainstorm": (stormed, "How can a library have more visitors?"),
    "code": (coded, "Set x."),
    "summarize": (summarized, Original(text="Whales sing. Ships hum. Hats fall.")),
    "write": (lambda: Write(llm=large(), words=3), Assignment(text="Whales.")),
    "solve": (solved, "3 + 4?"),
    "rag": (sourced, "How many metres?"),
    "recommend": (recommended, Interests(text="a jacket")),
    "research": (researched, "How many metres?"),
    "self_consistency": (lambda: SelfConsistency(node=writer()), "3 + 4?"),
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
    ways = [re.sub(r" \d+(?=/|$)", "", path).split("/")[1:] for path in leaves]
    # What is in a node that is drawn is a part of it.
    ran = {next((name for name in way if name in expected), way[-1]) for way in ways if way}
    assert ran == expected


def test_every_recipe_is_here() -> None:
    assert set(RECIPES) == set(Recipe.recipes)
