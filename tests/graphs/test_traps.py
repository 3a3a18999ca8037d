"""What is easily written wrong, and the error that says what to write."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest

from moa.agents.agent import Agent
from moa.agents.filter import Filter
from moa.core.errors import ConfigError, WiringError
from moa.graphs import Graph
from moa.graphs.mixture import Mixture
from moa.testing import SimulatedEndpoint

endpoint = SimulatedEndpoint()


async def shout(text: str) -> str:
    return text.upper()


MAP = "handle.map(lambda value"
USES: list[tuple[Callable[..., Any], tuple[Any, ...], type[Exception], str]] = [
    (bool, (), TypeError, "when=handle"),
    (operator.eq, ("x",), TypeError, f"{MAP}: …) to compare"),
    (operator.ne, ("x",), TypeError, f"{MAP}: …) to compare"),
    (format, (), TypeError, f"{MAP}: f'"),
    (str, (), TypeError, f"{MAP}: f'"),
    (getattr, ("label",), AttributeError, f"{MAP}: value.label)"),
]


@pytest.mark.parametrize(("used", "by", "error", "said"), USES)
def test_a_handle_is_no_value(
    used: Callable[..., Any], by: tuple[Any, ...], error: type[Exception], said: str
) -> None:
    handle = Graph("g", str).input
    fault = f"the handle of 'input' holds nothing before the graph runs: write {said}"
    with pytest.raises(error, match=re.escape(fault)):
        used(handle, *by)


def test_handles_can_be_kept_in_sets_and_asked_for_what_they_have() -> None:
    handle = Graph("g", str).input
    assert handle in {handle}
    assert repr(handle) == "<handle of 'input'>"
    assert not hasattr(handle, "run")


NO_NODES: dict[str, tuple[Callable[[], Any], str]] = {
    "run": (lambda: Agent(endpoint, "Answer.").run, "the run of a node was given: give the n"),
    "text": (lambda: "writer", "'writer' is no node: give an agent, a graph that is built, or"),
    "number": (lambda: 7, "int is no node"),
    "class": (lambda: Agent, r"Agent is a class: .* g\.add\(Agent\(…\), …\)"),
    "coroutine": (lambda: shout("x"), r"shout\(…\) was called: give the function itself"),
    "endpoint": (lambda: endpoint, r"SimulatedEndpoint is an endpoint: .*Agent\(endpoint, …"),
    "unbuilt": (lambda: Graph("inner", str), r"graph 'inner' is not built: give g\.build\(outp"),
    "handle": (lambda: Graph("g", str).input, "Handle is no node"),
}


@pytest.mark.parametrize(("node", "said"), NO_NODES.values(), ids=NO_NODES)
def test_what_is_no_node_is_refused_where_it_is_added(node: Callable[[], Any], said: str) -> None:
    g = Graph("g", str)
    with pytest.raises(WiringError, match=said):
        g.add(node(), g.input)


NO_HANDLES: list[Callable[[Any], Any]] = [
    lambda g: g.add(shout, "x"),
    lambda g: g.add(shout, g.input, when="x"),
    lambda g: g.join(len, "x"),
    lambda g: g.build("x"),
]


@pytest.mark.parametrize("wire", NO_HANDLES)
def test_what_is_no_handle_is_refused(wire: Callable[[Any], Any]) -> None:
    with pytest.raises(WiringError, match=r"'x' is no handle: give g\.input, or what add"):
        wire(Graph("g", str))


@pytest.mark.parametrize("name", ["run", "stream", "draw", "compile", "compiled", "map"])
def test_a_graph_that_is_not_built_says_how_to_build_it(name: str) -> None:
    said = rf"graph 'g' is not built yet, so it has no '{name}': graph = g\.build\(output\)"
    with pytest.raises(AttributeError, match=said):
        getattr(Graph("g", str), name)


def test_another_name_is_no_attribute_of_a_graph() -> None:
    with pytest.raises(AttributeError, match="Graph has no attribute 'nodes'"):
        getattr(Graph("g", str), "nodes")  # noqa: B009 - a type checker knows that it has none


@pytest.mark.parametrize("node", [shout, Agent(endpoint, "Answer.")])
def test_only_a_function_that_blocks_runs_in_a_thread(node: Any) -> None:
    g: Any = Graph("g", str)
    with pytest.raises(WiringError, match="thread=True is for a function that blocks"):
        g.add(node, g.input, thread=True)


def test_a_map_does_not_wait() -> None:
    g: Any = Graph("g", str)
    with pytest.raises(WiringError, match=r"is asynchronous, and map and join take quick functi"):
        g.build(g.input.map(shout))


async def test_a_map_that_gives_a_coroutine_says_what_to_use() -> None:
    def shouts(text: str) -> Any:
        return shout(text)

    g = Graph("g", str)
    with pytest.raises(WiringError, match=r"nobody waits for it: use g\.add for that"):
        await g.build(g.input.map(shouts)).run("x")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gpt-5", "'gpt-5' is no endpoint: did you mean 'openai:gpt-5'"),
        (
            SimulatedEndpoint,
            "takes an endpoint, but was given the class SimulatedEndpoint: give an",
        ),
        (None, "takes an endpoint, but was given None"),
    ],
    ids=["text", "class", "nothing"],
)
@pytest.mark.parametrize("agent", [Agent, partial(Filter, action="drop")])
def test_an_agent_takes_an_endpoint(agent: Callable[..., Any], given: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        agent(given, "Answer.")


def test_a_recipe_takes_no_name_of_a_model() -> None:
    said = "'gpt-5' is no endpoint: did you mean 'openai:gpt-5'"
    with pytest.raises(ConfigError, match=said):
        Mixture(proposers=cast("Any", ["gpt-5"]), aggregator=endpoint)
