"""What is easily written wrong, and the error that says what to write."""

from __future__ import annotations

import operator
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


@pytest.mark.parametrize(
    ("used", "by", "error"),
    [
        (bool, (), TypeError),
        (operator.eq, ("x",), TypeError),
        (operator.ne, ("x",), TypeError),
        (format, (), TypeError),
        (str, (), TypeError),
        (getattr, ("label",), AttributeError),
    ],
)
def test_a_handle_is_no_value(
    used: Callable[..., Any], by: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error, match="'input'"):
        used(Graph("g", str).input, *by)


def test_handles_can_be_kept_in_sets_and_asked_for_what_they_have() -> None:
    handle = Graph("g", str).input
    assert handle in {handle}
    assert repr(handle) == "<handle of 'input'>"
    assert not hasattr(handle, "run")


NO_NODES: dict[str, Callable[[], Any]] = {
    "run": lambda: Agent(endpoint, "Answer.").run,
    "text": lambda: "writer",
    "number": lambda: 7,
    "class": lambda: Agent,
    "coroutine": lambda: shout("x"),
    "endpoint": lambda: endpoint,
    "unbuilt": lambda: Graph("inner", str),
    "handle": lambda: Graph("g", str).input,
}


@pytest.mark.parametrize("node", NO_NODES.values(), ids=NO_NODES)
def test_what_is_no_node_is_refused_where_it_is_added(node: Callable[[], Any]) -> None:
    g = Graph("g", str)
    with pytest.raises(WiringError):
        g.add(node(), g.input)


NO_HANDLES: list[Callable[[Any], Any]] = [
    lambda g: g.add(shout, "x"),
    lambda g: g.add(shout, g.input, when="x"),
    lambda g: g.join(len, "x"),
    lambda g: g.build("x"),
]


@pytest.mark.parametrize("wire", NO_HANDLES)
def test_what_is_no_handle_is_refused(wire: Callable[[Any], Any]) -> None:
    with pytest.raises(WiringError, match="'x'"):
        wire(Graph("g", str))


@pytest.mark.parametrize("name", ["run", "stream", "draw", "compile", "compiled", "map"])
def test_a_graph_that_is_not_built_says_how_to_build_it(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"'{name}'.*g\.build"):
        getattr(Graph("g", str), name)


def test_another_name_is_no_attribute_of_a_graph() -> None:
    with pytest.raises(AttributeError, match="'nodes'"):
        getattr(Graph("g", str), "nodes")  # noqa: B009 - a type checker knows that it has none


@pytest.mark.parametrize("node", [shout, Agent(endpoint, "Answer.")])
def test_only_a_function_that_blocks_runs_in_a_thread(node: Any) -> None:
    g: Any = Graph("g", str)
    with pytest.raises(WiringError, match="thread=True"):
        g.add(node, g.input, thread=True)


def test_a_map_does_not_wait() -> None:
    g: Any = Graph("g", str)
    with pytest.raises(WiringError):
        g.build(g.input.map(shout))


async def test_a_map_that_gives_a_coroutine_says_what_to_use() -> None:
    def shouts(text: str) -> Any:
        return shout(text)

    g = Graph("g", str)
    with pytest.raises(WiringError, match=r"g\.add"):
        await g.build(g.input.map(shouts)).run("x")


@pytest.mark.parametrize(
    "given", ["gpt-5", SimulatedEndpoint, None], ids=["text", "class", "nothing"]
)
@pytest.mark.parametrize("agent", [Agent, partial(Filter, action="drop")])
def test_an_agent_takes_an_endpoint(agent: Callable[..., Any], given: object) -> None:
    with pytest.raises(ConfigError):
        agent(given, "Answer.")


def test_a_recipe_takes_no_name_of_a_model() -> None:
    with pytest.raises(ConfigError, match="'openai:gpt-5'"):
        Mixture(proposers=cast("Any", ["gpt-5"]), aggregator=endpoint)
