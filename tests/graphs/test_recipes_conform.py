"""What every ready graph and agent keeps, said once over all of them, with doubles."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from server.harness import client_of, server_with

from moa.agents.base import TypedNode
from moa.config.endpoints import Endpoints
from moa.config.loading import READY, endpoints_in, load_graph
from moa.config.tables import Config, Toml
from moa.core.budget import UNLIMITED, Budget
from moa.core.context import RunContext
from moa.core.errors import (
    CapabilityError,
    ConfigError,
    DeadlineExceeded,
    EndpointUnauthorized,
    InputError,
    MoaError,
    QuorumNotMet,
)
from moa.core.node import Reply, Result
from moa.core.trace import TextDelta
from moa.endpoints import Capability, Embeddings
from moa.graphs.engine.compilable import Compilable
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, SimulatedRequest, Step

from .killed import killed, resumed, whole
from .test_recipes_drawn import AGENTS, RECIPES, STATEFUL

NODES: dict[str, tuple[Callable[[], TypedNode[Any, Any]], object]] = {**RECIPES, **AGENTS}
every_node = pytest.mark.parametrize("name", NODES)
every_recipe = pytest.mark.parametrize("name", RECIPES)


def made(name: str) -> tuple[TypedNode[Any, Any], Any]:
    """A node with doubles, and the first of its requests."""
    make, request = NODES[name]
    return make(), cast("list[object]", request)[0] if isinstance(request, list) else request


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whom each call went to that left for a double."""
    names: list[str] = []
    step, embed = SimulatedEndpoint.next_step, ScriptedEndpoint.embed

    def counted(double: SimulatedEndpoint, request: SimulatedRequest) -> Step:
        names.append(double.name)
        return step(double, request)

    async def embedded(
        double: ScriptedEndpoint, texts: Sequence[str], context: RunContext, /
    ) -> Embeddings:
        vectors = await embed(double, texts, context)
        names.append(double.name)
        return vectors

    monkeypatch.setattr(SimulatedEndpoint, "next_step", counted)
    monkeypatch.setattr(ScriptedEndpoint, "embed", embedded)
    return names


def test_every_ready_graph_and_agent_is_here() -> None:
    assert {*NODES} == {*READY}
    assert {*RECIPES} == {name for name, one in READY.items() if hasattr(one.made_by.make, "draw")}


def table_of(name: str, folder: Path) -> Toml:
    """The keys that a table needs; most need none."""
    items = folder / "items.jsonl"
    items.write_text('{"id": "1", "text": "A hat"}\n')
    needed: dict[str, Toml] = {
        "filter": {"criterion": "about the weather"},
        "classifier": {"labels": {"a": "one thing", "b": "another"}},
        "cascade": {"labels": ["a", "b"], "confidence": 0.9},
        "guarded": {"node": "generator"},
        "rag": {"documents": str(folder)},
        "research": {"documents": str(folder)},
        "recommend": {"catalogue": str(items)},
    }
    return needed.get(name, {})


def built(name: str, table: Toml) -> Any:
    """What a table makes; without a router of one's own `routed` can only be drawn."""
    config = Config(graphs={name: table})
    if name == "cascade":  # its large side is another model
        large = {"tier": "llm", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
        tables = {"graphs": {name: table}, "endpoints": {"llm": large}}
        config = Config.model_validate(tables)
    return load_graph(name, Endpoints(config, read_keys=name != "routed"))


@every_node
def test_it_is_built_from_the_smallest_table_under_its_name(name: str, tmp_path: Path) -> None:
    node = built(name, table_of(name, tmp_path))
    names = {"slm": "embedded", "llm": "embedded", "guarded": "guarded generator"}
    assert node.name == names.get(name, name)
    assert endpoints_in(node) is not None
    assert hasattr(node, "draw") == (name in RECIPES)
    assert name not in RECIPES or node.draw().mermaid


@every_node
def test_an_unknown_key_of_its_table_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'colour'"):
        built(name, {**table_of(name, tmp_path), "colour": "red"})


@every_recipe
def test_an_unknown_keyword_is_refused_by_its_name(name: str) -> None:
    make: Any = READY[name].made_by.make
    with pytest.raises(ConfigError, match="'colour'"):
        make(colour="red")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("best_of_n", "samples", 0),
        ("brainstorm", "personas", {}),
        ("chat", "keep_turns", -1),
        ("choose_best", "samples", 0),
        ("code", "max_tokens", 0),
        ("mixture", "agree", 1),
        ("mixture", "layers", 0),
        ("mixture", "proposer_timeout_s", 0),
        ("recommend", "shown", 0),
        ("refine", "rounds", 0),
        ("self_consistency", "samples", 0),
        ("self_mixture", "samples", 0),
        ("self_mixture", "window", 1),
        ("solve", "max_tokens", 0),
        ("summarize", "keep", 0.0),
        ("write", "words", 0),
        *((name, "timeout_s", 0) for name in RECIPES),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(name: str, key: str, value: object) -> None:
    make: Any = READY[name].made_by.make
    with pytest.raises(ConfigError, match=rf"\b{key}: "):
        make(**{key: value})


@pytest.mark.parametrize("name", sorted({*NODES} - {"pii", "preprocessor"}))
def test_a_model_that_can_do_nothing_is_refused_when_it_is_built(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, nothing = SimulatedEndpoint.__init__, frozenset[Capability]()

    def unable(double: SimulatedEndpoint, **settings: Any) -> None:
        made(double, **settings)
        double.capabilities = nothing

    monkeypatch.setattr(SimulatedEndpoint, "__init__", unable)
    with pytest.raises(CapabilityError):
        NODES[name][0]()


@every_node
async def test_a_request_of_another_type_is_refused_before_anything_is_sent(
    name: str, sent: list[str]
) -> None:
    node, _ = made(name)
    for wrong in (None, 7, b"Hm.", object()):
        with pytest.raises(InputError):
            await node.run(cast("Any", wrong))
    assert sent == []


@every_node
async def test_its_usage_is_that_of_all_its_calls(name: str, sent: list[str]) -> None:
    (node, request), context = made(name), RunContext()
    result = await node.run(request, context)
    calls = Counter[str]()
    for part, amount in result.usage.parts.items():
        calls[part.endpoint] += amount.calls
    assert calls == Counter(sent)
    assert result.usage == context.usage
    assert {*sent} <= {one.name for one in endpoints_in(node) or []}


@every_node
@pytest.mark.parametrize("own", [True, False])
async def test_no_budget_of_calls_is_passed(name: str, own: bool, sent: list[str]) -> None:
    node, request = made(name)
    await node.run(request)
    needed = len(sent)
    for calls in range(needed + 1):
        sent.clear()
        node, _ = made(name)
        budget = Budget(calls=calls)
        node.budget, outer = (budget, UNLIMITED) if own else (UNLIMITED, budget)
        try:
            await node.run(request, RunContext(budget=outer))
        except MoaError:
            assert calls < needed
        assert len(sent) <= calls


@every_node
async def test_a_run_ends_at_its_deadline_whoever_is_slow(name: str) -> None:
    node, request = made(name)
    for endpoint in endpoints_in(node) or []:
        cast("SimulatedEndpoint", endpoint).latency_s = 60.0
    begun = time.monotonic()
    with suppress(DeadlineExceeded):
        await node.run(request, RunContext(timeout_s=0.05))
    assert time.monotonic() - begun < 20


@every_node
async def test_a_run_that_is_cancelled_leaves_nothing_running(name: str) -> None:
    node, request = made(name)
    for endpoint in endpoints_in(node) or []:
        cast("SimulatedEndpoint", endpoint).latency_s = 60.0
    before = asyncio.all_tasks()
    running = asyncio.ensure_future(node.run(request))
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("name", sorted({*NODES} - {"pii", "preprocessor"}))
async def test_a_key_that_no_model_takes_is_its_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(double: SimulatedEndpoint, request: SimulatedRequest) -> Step:
        return EndpointUnauthorized("a wrong key", endpoint=double.name, status=401)

    monkeypatch.setattr(SimulatedEndpoint, "next_step", refuse)
    node, request = made(name)
    with pytest.raises((EndpointUnauthorized, QuorumNotMet)) as raised:
        await node.run(request)
    causes = getattr(raised.value, "causes", {"": raised.value})
    assert {type(cause) for cause in causes.values()} == {EndpointUnauthorized}


@every_node
async def test_nothing_is_shown_but_the_text_that_comes_out(name: str) -> None:
    node, request = made(name)
    events = [event async for event in node.stream(request)]
    shown = "".join(event.text for event in events if isinstance(event, TextDelta))
    result = events[-1]
    assert isinstance(result, Result)
    assert shown == (result.output.text if isinstance(result.output, Reply) else "")


@every_node
async def test_what_would_be_sent_is_shown_and_nothing_is_sent(name: str, sent: list[str]) -> None:
    node, request = made(name)
    shown = node.prompt(request)
    assert sent == []
    await node.run(request)
    doubles = [cast("SimulatedEndpoint", one) for one in endpoints_in(node) or []]
    asked = [prompt.messages[-1].content for one in doubles for prompt in one.prompts]
    asked += [text for one in doubles for text in one.states]
    assert bool(shown) == bool(asked)
    assert {one.messages[-1][1] for one in shown} <= {*asked}
    assert all(one.node.startswith(node.name) for one in shown)


@pytest.mark.parametrize("name", sorted({*RECIPES} - STATEFUL))
async def test_a_run_that_was_killed_half_way_goes_on_and_pays_nothing_twice(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = cast("Callable[[], Compilable[Any, Any]]", NODES[name][0])
    _, request = made(name)
    output, calls = await whole(make, request, monkeypatch)
    lives = len(calls.answered) // 2
    disk = await killed(make, request, monkeypatch, lives=lives)
    again, further = await resumed(make, disk, monkeypatch)
    assert (again, lives + len(further.answered)) == (output, len(calls.answered))


@every_node
async def test_it_is_served_by_its_name_and_answers_as_in_python(name: str) -> None:
    node, request = made(name)
    asked = request.model_dump(mode="json") if isinstance(request, BaseModel) else request
    _, app = server_with(node)
    async with client_of(app) as client:
        answer = await client.post(f"/run/{node.name}", json=asked)
        refused = await client.post(f"/run/{node.name}", json=[7])
    said, other = answer.json(), made(name)[0]
    result = await other.run(request)
    assert (answer.status_code, said["usage"]["calls"]) == (200, result.usage.calls)
    assert said["output"] == to_jsonable_python(result.output)
    assert refused.status_code == 400
