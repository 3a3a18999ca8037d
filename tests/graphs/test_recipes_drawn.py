"""No drawing lies: what each recipe draws is what runs, with scripted endpoints.

RECIPES and AGENTS are what `test_recipes_conform.py` and others run over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, cast

import pytest
from routing import router

from moa.agents.agent import Agent
from moa.agents.base import TypedNode
from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.agents.proposer import Proposer, sampler
from moa.agents.sentiment import Sentiment
from moa.chat.graph import Chat
from moa.chat.messages import UserMessage
from moa.core.context import RunContext
from moa.core.errors import EndpointUnavailable
from moa.core.usage import Tier
from moa.documents import Passage
from moa.documents.preprocessor import Preprocessor
from moa.documents.rag import Rag
from moa.documents.research import Research
from moa.documents.retrieval import BM25
from moa.documents.summarize import Original, Summarize
from moa.graphs.cascade import Cascade
from moa.graphs.mixture import Mixture
from moa.graphs.recipe import Recipe, Sketch
from moa.graphs.self_consistency import SelfConsistency
from moa.graphs.single_model import single_model
from moa.guards.guarded import Guarded
from moa.guards.injection import Injection
from moa.guards.pii import Pii
from moa.guards.spam import Spam
from moa.guards.verifiers import Length
from moa.inbox.support import Support, Ticket
from moa.recipes.best_of_n import BestOfN
from moa.recipes.brainstorm import Brainstorm
from moa.recipes.choose_best import ChooseBest
from moa.recipes.code import Code
from moa.recipes.debate import Debate, Debater
from moa.recipes.judges import Listwise
from moa.recipes.reasoner import Reasoner
from moa.recipes.recommend import Interests, Item, Recommend
from moa.recipes.refine import Critic, Refine, writer_of
from moa.recipes.self_mixture import SelfMixture
from moa.recipes.solve import Solve
from moa.recipes.write import Assignment, Write
from moa.routing.routed import Routed
from moa.testing import ScriptedEndpoint, SimulatedEndpoint
from moa.testing import Step as Scripted


def large(
    name: str = "large", rule: Callable[[str], Scripted] = lambda _: "Answer: 7"
) -> SimulatedEndpoint:
    return SimulatedEndpoint(name=name, tier="llm", rule=rule)


def various() -> SimulatedEndpoint:
    """A model that never says the same twice."""
    said = count()
    return large(rule=lambda _: f"Answer: {next(said)}")


def never_content() -> SimulatedEndpoint:
    return large(rule=lambda _: '{"faults": ["Say which one."], "score": 3}')


def labels(tier: Tier) -> Classifier[str]:
    endpoint = SimulatedEndpoint(name=tier, tier=tier, rule=lambda _: {tier: {"a": 0.6}})
    return Classifier(endpoint, ["a", "b"], none=False, name=tier)


def fails(name: str) -> Agent[Any, Any]:
    """A model that is down, so that the others are asked too."""
    down = EndpointUnavailable("no", endpoint=name)
    return Agent(SimulatedEndpoint(name=name, rule=lambda _: down), "Answer.", name=name)


def guarded() -> Guarded[Any, Any]:
    def guard(name: str) -> Filter:
        small = SimulatedEndpoint(rule=lambda _: {name: {"yes": 0.1}})
        return Filter(small, "an order", action="drop", name=name)

    places = {place: [guard(place)] for place in ("before", "beside", "after")}
    return Guarded(node=sampler(large()), **cast("Any", places))


def supported() -> Support:
    said = {"spam": {"no": 0.9}, "injection": {"no": 0.9}, "sentiment": {"negative": 0.9}}
    said |= {"intent": {"refund": 0.9}, "urgency": {"can wait": 0.9}}
    return Support(slm=SimulatedEndpoint(rule=lambda _: said), llm=large(rule=lambda _: "Sorry."))


def chatted() -> Chat:
    """What the small model writes is not accepted; the second message finds too much before it."""
    small = SimulatedEndpoint(name="small", rule=lambda _: "No.")
    decides = SimulatedEndpoint(rule=lambda _: {"small_talk": {"yes": 0.9}})
    talks_little: Any = {"history_tokens": 1, "keep_turns": 0, "store": ":memory:"}
    keeps = Filter(decides, "small talk", action="keep", name="small_talk")
    return Chat(slm=small, llm=large(), keeps=keeps, accept=Length(least=9), **talks_little)


def stormed() -> Brainstorm:
    def written(text: str) -> Scripted:
        sorts = "[1]" in text
        return '{"themes": [{"theme": "late", "ideas": [1]}]}' if sorts else '{"ideas": ["A bus."]}'

    scores = {"useful": {"fair": 1.0}, "original": {"fair": 1.0}}
    return Brainstorm(
        slm=SimulatedEndpoint(name="small", rule=lambda _: scores),
        llm=large(rule=written),
        personas={"user": "You think as those whom it is for."},
        encoder=ScriptedEndpoint(name="vectors"),
    )


def coded() -> Code:
    return Code(writer=large(rule=lambda _: "```python\nx = 1\n```"))


def solved() -> Solve:
    small = SimulatedEndpoint(name="small", rule=lambda _: {"right": {"yes": 0.9}})
    llm = large(rule=lambda _: "It is 7.")
    llm.model = "large-1"  # another one than the small model, which would not judge itself
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
        writer=large(rule=lambda _: "It is 300 metres high [1]."),
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

    return Research(llm=large(rule=written), answerer=sourced())


def recommended() -> Recommend:
    llm = large(rule=lambda _: '{"reasons": [{"item": 1, "reason": "It is warm."}]}')
    return Recommend(llm=llm, catalogue=[Item(id="1", text="A warm jacket.")])


def summarized() -> Summarize:
    encoder = ScriptedEndpoint(name="vectors")
    return Summarize(llm=large(rule=lambda _: "Whales."), sentences=1, encoder=encoder)


RECIPES: dict[str, tuple[Callable[[], Recipe[Any, Any]], object]] = {
    "brainstorm": (stormed, "How can a library have more visitors?"),
    "code": (coded, "Set x."),
    "summarize": (summarized, Original(text="Whales sing. Ships hum. Hats fall.")),
    "write": (lambda: Write(llm=large(), words=3), Assignment(text="Whales.")),
    "solve": (solved, "3 + 4?"),
    "rag": (sourced, "How many metres?"),
    "recommend": (recommended, Interests(text="a jacket")),
    "research": (researched, "How many metres?"),
    "guarded": (guarded, "Hm."),
    "chat": (chatted, [UserMessage(text="Hm 1."), UserMessage(text="Hm 2.")]),
    "support": (supported, Ticket(text="I want my money back.")),
    "cascade": (lambda: Cascade(small=labels("slm"), large=labels("llm"), confidence=0.9), "Hm."),
    "routed": (lambda: Routed(models=[fails("small"), sampler(large())], router=router()), "Hm."),
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
"""By name: a recipe, and a request, or several in turn, with which every node of it runs."""
STATEFUL = {"best_of_n", "debate"}
"""Whose models answer by how often they were asked, so that those of a new process differ."""


def decides(name: str, said: str) -> SimulatedEndpoint:
    return SimulatedEndpoint(rule=lambda _: {name: {said: 0.9}})


def reasoned() -> Agent[Any, Any]:
    rule = '{"reasons": "3 and 4 are 7.", "answer": "7"}'
    return Reasoner(large(rule=lambda _: rule), instructions="Work it out.")


def classified() -> Classifier[Any]:
    return Classifier(decides("classifier", "a"), ["a", "b"], name="classifier")


AGENTS: dict[str, tuple[Callable[[], TypedNode[Any, Any]], object]] = {
    "classifier": (classified, "Hm."),
    "filter": (lambda: Filter(decides("filter", "yes"), "an order", action="keep"), "A hat."),
    "generator": (lambda: Agent(large(), "Answer.", name="generator"), "3 + 4?"),
    "injection": (lambda: Injection(decides("injection", "no")), "A hat, please."),
    "llm": (lambda: cast("Any", single_model(large("llm"))), "3 + 4?"),
    "pii": (Pii, "Write to ann@example.org."),
    "preprocessor": (Preprocessor, "A  hat."),
    "reasoner": (reasoned, "3 + 4?"),
    "sentiment": (lambda: Sentiment(decides("sentiment", "negative")), "No hat came."),
    "slm": (lambda: cast("Any", single_model(large("slm"))), "3 + 4?"),
    "spam": (lambda: Spam(decides("spam", "no")), "A hat, please."),
}
"""By name: an agent, and a request with which it asks its model."""


def drawn(recipe: Recipe[Any, Any]) -> Iterator[str]:
    """Name the nodes of a sketch, and of the recipes in it; of a graph as it names them."""
    sketch = Sketch()
    recipe.sketch(sketch)
    for label, node in ((box.label, box.node) for box in sketch.boxes.values()):
        if isinstance(node, Recipe):
            yield from drawn(cast("Recipe[Any, Any]", node))
        elif node is not None:
            wired = isinstance(recipe, Support)
            yield label if wired else str(getattr(node, "name", ""))


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
    for one in cast("list[object]", request) if isinstance(request, list) else [request]:
        await recipe.run(one)
    expected = set(drawn(recipe))
    # Of several that are asked alike, each has a number behind its name.
    leaves = [path for path in paths if not any(one.startswith(f"{path}/") for one in paths)]
    ways = [re.sub(r" \d+(?=/|$)", "", path).split("/") for path in leaves]
    ways = [way[1:] if way[0] == recipe.name else way for way in ways]
    # What is in a node that is drawn is a part of it.
    ran = {next((name for name in way if name in expected), way[-1]) for way in ways if any(way)}
    assert ran == expected
