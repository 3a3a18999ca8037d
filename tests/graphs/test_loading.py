"""A graph or an agent by its name: what its table says, who is asked then, and who guards it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, cast

import pytest
from pydantic import TypeAdapter, ValidationError

from moa.agents.agent import Agent
from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.config import load
from moa.config.endpoints import Endpoints
from moa.config.fields import Table
from moa.config.loading import load_graph
from moa.config.tables import Config
from moa.core.batch import reader_of
from moa.core.errors import ConfigError, WiringError
from moa.core.node import AnyNode, Node, Reply
from moa.endpoints import Endpoint
from moa.evals import compare
from moa.graphs.cascade import Cascade
from moa.graphs.engine.steps import NodeStep
from moa.graphs.fields import FromEndpoint
from moa.graphs.mixing.answer_extraction import last_number, stated
from moa.guards.guarded import Guarded
from moa.guards.injection import Injection
from moa.guards.pii import Pii
from moa.inbox.support import Support
from moa.recipes.best_of_n import BestOfN
from moa.recipes.choose_best import ChooseBest
from moa.recipes.debate import Debate
from moa.recipes.judges import ByPolicy, Listwise
from moa.testing import SimulatedEndpoint, Step

from .nodes import Timed

ENDPOINTS = """
[endpoints.small]
tier = "slm"
base_url = "http://127.0.0.1:9/v1"
model = "s"
[endpoints.large]
tier = "llm"
base_url = "http://127.0.0.1:9/v1"
model = "l"
[endpoints.critic]
tier = "llm"
base_url = "http://127.0.0.1:9/v1"
model = "c"
[tiers]
llm = "large"
"""


def built(name: str, table: str, folder: Path) -> AnyNode:
    file = folder / "moa.toml"
    file.write_text(f"{ENDPOINTS}\n[graphs.{name}]\n{table}")
    return load_graph(name, Endpoints(load(file), read_keys=False))


@pytest.mark.parametrize("name", ["spam", "injection"])
def test_a_ready_filter_is_the_one_of_the_support_graph(name: str) -> None:
    ready = load_graph(name, Endpoints(Config()))
    slm = Endpoints(Config()).slm
    steps = Support(slm=slm, llm=slm).plan.steps
    inside = next(s.node for s in steps if isinstance(s, NodeStep) and s.name == name)
    ready = ready.filter if isinstance(ready, Injection) else ready
    assert isinstance(ready, Filter)
    assert isinstance(inside, Filter)
    assert (ready.name, ready.criterion) == (name, inside.criterion)
    assert ready.threshold == inside.threshold
    assert [c.full for c in ready.calibrations.values()] == [
        c.full for c in inside.calibrations.values()
    ]


@pytest.mark.parametrize(("said", "action"), [({}, "drop"), ({"action": "keep"}, "keep")])
def test_a_filter_of_a_table_drops_unless_it_says_keep(said: Any, action: str) -> None:
    table: dict[str, object] = {"criterion": "medical advice", **said}
    node = load_graph("filter", Endpoints(Config(graphs={"filter": table})))
    assert isinstance(node, Filter)
    assert node.action == action


@pytest.mark.parametrize(("said", "options"), [({}, 3), ({"none": True}, 3), ({"none": False}, 2)])
def test_a_classifier_of_a_table_may_say_that_none_fits_unless_told_not_to(
    said: Any, options: int
) -> None:
    table: dict[str, object] = {"labels": ["card", "app"], **said}
    node = load_graph("classifier", Endpoints(Config(graphs={"classifier": table})))
    assert isinstance(node, Classifier)
    assert len(node.questions[0].options) == options


@pytest.mark.parametrize(
    ("name", "tables", "named"),
    [
        ("sentiment", {"suport": {}}, "'support'"),
        ("support", {"support": {"intents": {"a": {"meens": "x"}}}}, "'meens'"),
        ("support", {"support": {"intents": {"a": {"means": "x", "reply": "b"}}}}, "'b'"),
        ("cascade", {}, "calibration"),
    ],
    ids=["no ready graph", "a wrong key", "no table", "nothing to accept by"],
)
def test_what_no_table_may_say_is_named(name: str, tables: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_graph(name, Endpoints(Config(graphs=tables)))


class Opaque:
    """What pydantic can't read."""


def of_opaque(endpoint: Endpoint, *, guide: Opaque | None = None) -> Node[Any, Any]:
    return Agent(endpoint, str(guide))


def needs_opaque(endpoint: Endpoint, *, guide: Opaque) -> Node[Any, Any]:
    return of_opaque(endpoint, guide=guide)


@pytest.mark.parametrize(
    ("make", "table"), [(of_opaque, {"guide": "a"}), (needs_opaque, {}), (needs_opaque, "small")]
)
def test_a_keyword_that_no_table_can_say_is_named(make: Any, table: object) -> None:
    mark = TypeAdapter[Any](Annotated[Any, FromEndpoint(make, "slm")])
    context = Table("opaque", Endpoints(Config()), lambda _: Timed("other", 0))
    with pytest.raises(ValidationError):
        mark.validate_python(table, context=context)


async def test_a_cascade_is_built_from_labels_and_settings_given_come_first() -> None:
    table: dict[str, Any] = {"labels": ["a", "b"], "confidence": 0.9}
    ready = load_graph("cascade", Scripted(0.5, Config(graphs={"cascade": table})))
    assert isinstance(ready, Cascade)
    assert (await ready.run("x")).tier == 1
    given = {"confidence": 0.5, "threshold": 0.1}  # what it has no setting for is for others
    lenient = load_graph("cascade", Scripted(0.5, Config(graphs={"cascade": table})), options=given)
    assert isinstance(lenient, Cascade)
    assert (await lenient.run("x")).tier == 0


def test_a_mistake_in_a_file_is_told_with_its_own_place_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\ndef graph(:\n")
    with pytest.raises(ConfigError, match=r"mine.py, line 2\)$"):
        load_graph(f"{tmp_path / 'mine.py'}:graph", Endpoints(Config()))


class Scripted(Endpoints):
    """The endpoints of a configuration, with doubles for both tiers."""

    def __init__(self, happy: float, config: Config | None = None) -> None:
        super().__init__(config or Config())
        self._slm = SimulatedEndpoint(
            rule=lambda _: {"sentiment": {"positive": happy}, "label": {"a": 0.6}}
        )
        self._llm = SimulatedEndpoint(
            tier="llm", rule=lambda _: {"label": {}} if config else "We are sorry."
        )

    @property
    def has_llm(self) -> bool:
        return True

    @property
    def slm(self) -> Endpoint:
        return self._slm

    @property
    def llm(self) -> Endpoint:
        return self._llm


@pytest.mark.parametrize(("happy", "tiers"), [(0.9, {"slm"}), (0.1, {"slm", "llm"})])
async def test_the_example_graph_asks_the_llm_only_for_complaints(
    happy: float, tiers: set[str]
) -> None:
    file = Path(__file__).parents[2] / "examples" / "custom_graph.py"
    node = load_graph(f"{file}:graph", Scripted(happy))
    module = importlib.import_module("_moa_file_custom_graph")
    result = await node.run(module.Review(text="It came on time."))
    assert isinstance(result.output, Reply)
    assert set(result.usage.by_tier()) == tiers


def test_a_wrong_table_is_told_by_the_file_it_stands_in(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text('[graphs.mixture]\nproposer = ["embedded"]\n')
    with pytest.raises(ConfigError, match=r"other\.toml"):
        load_graph("mixture", Endpoints(file))


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


SAID: dict[str, tuple[str, dict[str, object]]] = {
    "self_consistency": (
        'node = "critic"\ntemperature = 0.9\nkey = "last_number"\nbudget = { calls = 9 }',
        {
            "node.name": "critic",
            "node.temperature": 0.9,
            "samples": 5,
            "key": last_number,
            "budget.calls": 9,
        },
    ),
    "refine": (
        'writer = "small"\ncritic = "critic"\nrounds = 3',
        {
            "writer.endpoint.name": "small",
            "critic.endpoint.name": "critic",
            "reviser.endpoint.name": "small",
            "rounds": 3,
        },
    ),
    "solve": (
        'max_tokens = 9\nllm = "critic"',
        {"direct.max_tokens": 9, "direct.endpoint.name": "critic", "slm.name": "small"},
    ),
    "code": (
        "max_tokens = 9",
        {"coder.endpoint.name": "large", "coder.max_tokens": 9, "sandbox": None},
    ),
}


@pytest.mark.parametrize(("name", "table", "found"), [(n, *s) for n, s in SAID.items()], ids=SAID)
def test_a_graph_is_built_as_its_table_says(
    name: str, table: str, found: dict[str, object], tmp_path: Path
) -> None:
    node = built(name, table, tmp_path)
    assert {path: attrgetter(path)(node) for path in found} == found


def test_every_small_model_is_chosen_from_unless_a_table_names_some() -> None:
    node: Any = load_graph("choose_best", two())
    assert type(cast("object", node)) is ChooseBest
    assert [model.name for model in node.nodes] == ["small", "other"]
    table = {"nodes": ["other", "large"], "accuracy": {"large": 0.9}}
    node: Any = load_graph("choose_best", two(choose_best=table))
    assert type(cast("object", node)) is ChooseBest
    assert [model.name for model in node.nodes] == ["other", "large"]


@pytest.mark.parametrize(("by", "judge"), [("list", Listwise), ("arithmetic", ByPolicy)])
def test_a_table_says_who_judges(by: str, judge: type) -> None:
    node: Any = load_graph("best_of_n", two(best_of_n={"by": by}))
    assert type(cast("object", node)) is BestOfN
    assert isinstance(node.judge, judge)


def test_sums_are_recomputed_without_a_large_model() -> None:
    endpoints = Doubles({"small": says("7")}, best_of_n={"by": "arithmetic"})
    load_graph("best_of_n", endpoints)
    assert not endpoints.used_slm_as_llm


def test_one_model_debates_with_itself_and_several_with_each_other() -> None:
    node: Any = load_graph("debate", two())
    assert type(cast("object", node)) is Debate
    assert [debater.name for debater in node.debaters] == ["large"] * 3
    node: Any = load_graph("debate", two(debate={"debaters": ["small", "large"], "judge": "large"}))
    assert type(cast("object", node)) is Debate
    assert [debater.name for debater in node.debaters] == ["small", "large"]
    assert isinstance(node.judge, Listwise)
    assert node.key is stated


async def test_labels_are_chosen_from_and_kept_as_they_are_written() -> None:
    rules = {"small": says('{"answer": "Lost card"}')}
    node: Any = load_graph(
        "self_consistency", Doubles(rules), options={"labels": ["Lost card", "PIN"]}
    )
    output: Any = (await node.run("Where is it?")).output
    assert (output.text, output.confidence) == ("Lost card", 1.0)


async def test_they_are_compared_by_name_on_questions_and_answers() -> None:
    endpoints = two()
    rows = [
        {"question": "3 + 4?", "answer": "It is 7"},
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
    found = await compare(rows, {n: load_graph(n, endpoints, options=given) for n in names})
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


@pytest.mark.parametrize("name", ["summarize", "brainstorm", "write", "research", "recommend"])
async def test_a_text_alone_is_an_input(name: str, tmp_path: Path) -> None:
    node = built(name, "", tmp_path)
    read = reader_of(node)("Some text.")
    assert str(read) == "Some text."
    assert reader_of(node)({"text": "Some text."}) == read


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("summarize", 'llm = "critic"'),
        ("brainstorm", 'proposers = ["large", "critic"]'),
        ("write", 'llm = "critic"'),
        ("research", 'writer = "critic"'),
        ("recommend", 'llm = "critic"'),
    ],
)
async def test_another_endpoint_is_named_in_its_table(
    name: str, settings: str, tmp_path: Path
) -> None:
    node: Any = built(name, settings, tmp_path)
    assert "LLM · critic" in node.draw().mermaid


async def test_a_catalogue_stands_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("id,text\n1,Shoes\n", encoding="utf-8")
    built("recommend", 'catalogue = "items.csv"', tmp_path)
    with pytest.raises(ConfigError, match=r"none\.csv"):
        built("recommend", 'catalogue = "none.csv"', tmp_path)


def written_as(tmp_path: Path, text: str) -> Endpoints:
    file = tmp_path / "moa.toml"
    file.write_text(text)
    return Endpoints(load(file))


async def test_a_ready_graph_is_guarded_as_its_table_says(tmp_path: Path) -> None:
    text = '[graphs.generator]\nguards = ["pii", "injection"]\n[graphs.pii]\ndeny = ["Falcon"]\n'
    async with written_as(tmp_path, text) as configured:
        node = load_graph("generator", configured)
    assert isinstance(node, Guarded)
    assert node.name == "generator"
    (mask,) = node.before
    assert isinstance(mask, Pii)
    assert [finding.kind for finding in mask.find("project falcon")] == ["PRIVATE"]
    (beside,) = node.beside
    assert isinstance(beside, Injection)


async def test_places_can_be_chosen(tmp_path: Path) -> None:
    text = '[graphs.generator]\nguards = { before = ["injection"], after = ["pii"] }\n'
    async with written_as(tmp_path, text) as configured:
        node = load_graph("generator", configured)
    assert isinstance(node, Guarded)
    assert [guard.name for guard in (*node.before, *node.after)] == ["injection", "pii"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ('["sentry"]', ConfigError),
        ('"pii"', ConfigError),
        ('["sentiment"]', WiringError),
        ('{ behind = ["pii"] }', ConfigError),
        ('{ beside = ["pii"] }', WiringError),
        ('["a.py:x"]\n[graphs."a.py:x"]\nmost = 3', ConfigError),
        ('[{ name = "a.py:x", most = 3 }]', ConfigError),
    ],
)
async def test_what_is_no_guard_is_refused(
    tmp_path: Path, given: str, error: type[Exception]
) -> None:
    async with written_as(tmp_path, f"[graphs.generator]\nguards = {given}\n") as configured:
        with pytest.raises(error):
            load_graph("generator", configured)


async def test_graphs_that_stand_in_each_other_are_told(tmp_path: Path) -> None:
    tables = '[graphs.guarded]\nnode = "guarded"\n'
    async with written_as(tmp_path, tables) as configured:
        with pytest.raises(ConfigError):
            load_graph("guarded", configured)
