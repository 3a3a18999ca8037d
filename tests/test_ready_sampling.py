"""The ready graphs that choose among answers: what their tables say, and who is asked then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from moa.config import Config
from moa.config.endpoints import Endpoints
from moa.endpoints import Endpoint
from moa.errors import ConfigError
from moa.evals import compare
from moa.graphs.best_of_n import BestOfN
from moa.graphs.choose_best import ChooseBest
from moa.graphs.debate import Debate
from moa.graphs.loading import load_graph
from moa.graphs.refine import Refine
from moa.graphs.self_consistency import SelfConsistency
from moa.handoffs import Reply
from moa.mixing.answer_extraction import last_number, stated
from moa.mixing.judges import ByPolicy, Listwise, Pairwise
from moa.testing import SimulatedEndpoint, Step

NAMES = ("self_consistency", "choose_best", "best_of_n", "debate", "refine")


class Doubles(Endpoints):
    """Endpoints of a configuration, whose answers a rule gives."""

    def __init__(self, rules: Mapping[str, Any], **graphs: dict[str, Any]) -> None:
        tables = {
            name: {
                "tier": "llm" if name == "large" else "slm",
                "model": name,
                "base_url": "http://a/v1",
            }
            for name in rules
        }
        super().__init__(
            Config.model_validate(
                {"endpoints": tables, "graphs": graphs, "tiers": {"slm": next(iter(rules))}}
            )
        )
        self._rules = rules

    def named(self, name: str) -> Endpoint:
        tier = self.config.endpoints[name].tier
        return SimulatedEndpoint(name=name, tier=tier, rule=self._rules[name])


def says(text: str) -> Any:
    def rule(prompt: str) -> Step:
        del prompt
        return text

    return rule


def two(**graphs: dict[str, Any]) -> Doubles:
    return Doubles({"small": says("7"), "other": says("8"), "large": says("9")}, **graphs)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_drawn_without_configuration_and_keys(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    node: Any = load_graph(name, Endpoints(Config(), read_keys=False))
    assert "flowchart" in node.draw().mermaid


def test_a_table_says_who_is_sampled_and_how() -> None:
    table = {
        "node": "other",
        "temperature": 0.9,
        "samples": 7,
        "max_concurrency": 2,
        "key": "number",
        "budget": {"calls": 9},
    }
    node: Any = load_graph("self_consistency", two(self_consistency=table))
    assert type(cast("object", node)) is SelfConsistency
    assert (node.node.name, node.node.temperature, node.samples) == ("other", 0.9, 7)
    assert node.max_concurrency == 2
    assert (node.key, node.budget.calls) == (last_number, 9)


def test_every_small_model_is_chosen_from_unless_a_table_names_some() -> None:
    node: Any = load_graph("choose_best", two())
    assert type(cast("object", node)) is ChooseBest
    assert [model.name for model in node.nodes] == ["small", "other"]
    table = {"nodes": ["other", "large"], "accuracy": {"large": 0.9}}
    node: Any = load_graph("choose_best", two(choose_best=table))
    assert type(cast("object", node)) is ChooseBest
    assert [model.name for model in node.nodes] == ["other", "large"]


@pytest.mark.parametrize(
    ("by", "judge"), [("list", Listwise), ("pairs", Pairwise), ("arithmetic", ByPolicy)]
)
def test_a_table_says_who_judges(by: str, judge: type) -> None:
    node: Any = load_graph("best_of_n", two(best_of_n={"by": by}))
    assert type(cast("object", node)) is BestOfN
    assert isinstance(node.judge, judge)


def test_sums_are_recomputed_without_a_large_model() -> None:
    endpoints = Doubles({"small": says("7")}, best_of_n={"by": "arithmetic"})
    load_graph("best_of_n", endpoints)
    assert not endpoints.stood_in


def test_one_model_debates_with_itself_and_several_with_each_other() -> None:
    node: Any = load_graph("debate", two())
    assert type(cast("object", node)) is Debate
    assert [debater.name for debater in node.debaters] == ["large"] * 3
    node: Any = load_graph("debate", two(debate={"debaters": ["small", "large"], "judge": "large"}))
    assert type(cast("object", node)) is Debate
    assert [debater.name for debater in node.debaters] == ["small", "large"]
    assert isinstance(node.judge, Listwise)
    assert node.key is stated


def test_a_table_says_who_writes_and_who_criticises() -> None:
    node: Any = load_graph(
        "refine", two(refine={"writer": "small", "critic": "other", "rounds": 3})
    )
    assert type(cast("object", node)) is Refine
    writers: list[Any] = [node.writer, node.critic, node.reviser]
    assert [agent.endpoint.name for agent in writers] == ["small", "other", "small"]
    assert node.rounds == 3


def test_a_key_that_no_table_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="sample"):
        load_graph("self_consistency", two(self_consistency={"sample": 3}))


async def test_labels_are_chosen_from_and_kept_as_they_are_written() -> None:
    rules = {"small": says('{"answer": "Lost card"}')}
    node: Any = load_graph(
        "self_consistency", Doubles(rules), given={"labels": ["Lost card", "PIN"]}
    )
    output: Any = (await node.run("Where is it?")).output
    assert (output.text, output.confidence) == ("Lost card", 1.0)


async def test_they_are_compared_by_name_on_questions_and_answers() -> None:
    endpoints = two()
    rows = [
        {"question": "3 + 4?", "answer": "It is\n#### 7"},
        {"question": "2 + 6?", "answer": "8"},
    ]
    designs = {name: load_graph(name, endpoints) for name in ("self_consistency", "choose_best")}
    designs["llm"] = load_graph("llm", endpoints)
    found = await compare(rows, designs)
    quality = {design.name: design.quality.value for design in found.designs}
    assert quality == {"self_consistency": 0.5, "choose_best": 0.5, "llm": 0.0}
    assert found.metric == "numeric"


async def test_they_are_compared_by_name_on_labels() -> None:
    endpoints = Doubles({"small": says('{"answer": "good"}'), "large": says("?")})
    rows = [{"text": "Lovely", "label": "good"}, {"text": "Awful", "label": "bad"}]
    given = {"labels": ["good", "bad"]}
    names = ("self_consistency", "choose_best")
    found = await compare(rows, {n: load_graph(n, endpoints, given=given) for n in names})
    assert [design.quality.value for design in found.designs] == [0.5, 0.5]


async def test_what_they_give_is_a_reply() -> None:
    for name in ("self_consistency", "choose_best"):
        output = (await load_graph(name, two()).run("3 + 4?")).output
        assert isinstance(output, Reply)
        assert output.text == "7"


@pytest.mark.parametrize("labels", [[], ["spam"], {}])
@pytest.mark.parametrize("name", ["self_consistency", "choose_best", "best_of_n", "slm"])
def test_fewer_than_two_labels_are_refused(name: str, labels: Any) -> None:
    with pytest.raises(ConfigError, match="labels"):
        load_graph(name, two(**{name: {"labels": labels}}))


async def test_the_tiers_of_a_cascade_are_told_apart_by_their_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sure(prompt: str) -> Step:
        return {"label": {"spam": 0.9 if "buy" in prompt else 0.5}}

    doubles = Doubles(
        {"small": sure, "large": sure}, cascade={"labels": ["spam", "ham"], "confidence": 0.8}
    )
    monkeypatch.setattr(Endpoints, "slm", doubles.named("small"))
    monkeypatch.setattr(Endpoints, "llm", doubles.named("large"))
    node: Any = load_graph("cascade", doubles)
    assert (await node.run("buy")).by == "small"
    result = await node.run("hello")
    assert result.by == "large"
    assert len(result.usage.by_node()) == 2
