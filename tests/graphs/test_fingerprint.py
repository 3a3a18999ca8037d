"""What is a part of a node's fingerprint, and what isn't."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.agents.classifier import Classifier
from moa.config import Config
from moa.config.endpoints import Endpoints
from moa.config.loading import load_graph
from moa.core.context import RunContext
from moa.core.node import AnyNode, Result, Text
from moa.core.usage import Price
from moa.decisions.acceptance import Confident
from moa.endpoints import Endpoint
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.wrappers import Fallback
from moa.graphs.cascade import Cascade
from moa.graphs.engine.graph import Graph
from moa.learning.fingerprint import fingerprint_of
from moa.testing import SimulatedEndpoint
from moa.vllm.endpoint import VLLMEndpoint
from moa.vllm.replicas import Replicas

LABELS = ["card", "app"]


class Team(BaseModel):
    name: Literal["card", "app"]


class OtherTeam(BaseModel):
    name: Literal["card", "app", "cash"]


def server(port: int = 1, model: str = "m", **settings: object) -> OpenAIEndpoint:
    address = f"http://10.0.0.1:{port}/v1"
    return OpenAIEndpoint("large", model=model, base_url=address, **settings)  # type: ignore[arg-type]


def spare(*models: str) -> Endpoint:
    first, *others = (server(model=model) for model in models)
    return Fallback(first, *others)


def find_team(text: str) -> str:
    """Find the team that a text is for."""
    return text


def call_team(text: str) -> str:
    """Call the team that a text is for."""
    return text


def shorten(text: Text) -> Text:
    return Text(text=text.text[:100])


def lengthen(text: Text) -> Text:
    return Text(text=text.text * 2)


def wired(clean: Callable[[Text], Text], instructions: str = "Greet.") -> AnyNode:
    g = Graph("large", Text)
    return g.build(g.add(Agent(server(), instructions), g.input.map(clean)))


def cascade(confidence: float) -> AnyNode:
    small, large = (Classifier(server(model=model), LABELS) for model in "ab")
    return Cascade(small=small, large=large, accept=Confident(confidence))


class Own:
    """A node of the user's own."""

    name = "own"

    def __init__(self, agent: AnyNode, words: Sequence[str] = ()) -> None:
        self._agent, self.words, self._asked = agent, words, 0

    async def run(self, request: str, context: RunContext | None = None) -> Result[object]:
        self._asked += 1
        return await self._agent.run(request, context)


class Private(Own):
    """A node whose prompt is in a private attribute."""

    def __init__(self, prompt: str) -> None:
        super().__init__(Agent(server(), "Answer."))
        self._prompt = prompt


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Classifier(server(), LABELS), Classifier(server(), LABELS, task="Who is it for?")),
        (Classifier(server(1), LABELS), Classifier(server(2), LABELS)),
        (Classifier(server(model="a"), LABELS), Classifier(server(model="b"), LABELS)),
        (Classifier(spare("a", "b"), LABELS), Classifier(spare("a", "c"), LABELS)),
        (Agent(server(), "Greet."), Agent(server(), "Greet warmly.")),
        (Agent(server(), "Greet."), Agent(server(), "Greet.", temperature=0.5)),
        (Agent(server(), "Greet."), Agent(server(), "Greet.", examples=[("Hi", "Hello")])),
        (Agent(server(), "Who?", output=Team), Agent(server(), "Who?", output=OtherTeam)),
        (
            Agent(server(), "Who?", input=Team, prompt="Of {name}"),
            Agent(server(), "Who?", input=Team, prompt="By {name}"),
        ),
        (
            Agent(server(), "Greet.", tools=[find_team]),
            Agent(server(), "Greet.", tools=[call_team]),
        ),
        (wired(shorten), wired(lengthen)),
        (wired(shorten), wired(shorten, "Greet warmly.")),
        (cascade(0.5), cascade(0.6)),
        (Own(Agent(server(), "Greet.")), Own(Agent(server(), "Greet warmly."))),
        (Own(Agent(server(), "Greet.")), Own(Agent(server(), "Greet."), ["please"])),
        (Private("Greet."), Private("Greet warmly.")),
        (
            Classifier(server(decides="labels"), LABELS),
            Classifier(server(decides="text"), LABELS),
        ),
    ],
)
async def test_a_changed_node_has_another_fingerprint(one: AnyNode, other: AnyNode) -> None:
    assert await fingerprint_of(one, RunContext()) != await fingerprint_of(other, RunContext())


async def test_names_prices_limits_and_what_a_run_leaves_are_no_part_of_it() -> None:
    one = Classifier(server(), LABELS, timeout_s=1.0)
    other = Classifier(server(price=Price(input=1), timeout_s=3, concurrency=2), LABELS)
    assert await fingerprint_of(one, RunContext()) == await fingerprint_of(other, RunContext())
    small, large = (
        Classifier(SimulatedEndpoint(rule=lambda _: {"classifier": {"card": 1.0}}), LABELS)
        for _ in range(2)
    )
    for node in (
        Cascade(small=small, large=large, accept=Confident(0.5)),
        Own(Agent(SimulatedEndpoint(rule=lambda _: "Hi"), "Greet.")),
    ):
        before = await fingerprint_of(node, RunContext())
        await node.run("My card.", RunContext())
        assert await fingerprint_of(node, RunContext()) == before


async def test_a_server_on_this_machine_may_have_another_port_each_time() -> None:
    one, other = (
        VLLMEndpoint("large", model="m", base_url=f"http://127.0.0.1:{port}/v1") for port in (1, 2)
    )
    nodes = [Agent(endpoint, "Greet.") for endpoint in (one, other)]
    first, second = [await fingerprint_of(node, RunContext()) for node in nodes]
    assert first == second


async def test_the_order_of_replicas_and_a_slash_at_the_end_are_no_part_of_it() -> None:
    def replicas(*addresses: str) -> AnyNode:
        servers = [OpenAIEndpoint(a, model="m", base_url=a) for a in addresses]
        return Classifier(Replicas("large", servers), LABELS)

    one = replicas("http://10.0.0.1/v1", "http://10.0.0.2/v1")
    other = replicas("http://10.0.0.2/v1/", "http://10.0.0.1/v1")
    assert await fingerprint_of(one, RunContext()) == await fingerprint_of(other, RunContext())


async def test_the_source_of_a_node_of_ones_own_is_a_part_of_it(tmp_path: Path) -> None:
    source = (
        "class Own:\n    name = 'own'\n    version = {}\n"
        "    async def run(self, request, context=None):\n        return request\n"
        "own = Own()\n"
    )
    found = set[str]()
    for version in (1, 2):
        path = tmp_path / f"own_{version}.py"
        path.write_text(source.format(version))
        node = load_graph(f"{path}:own", Endpoints(Config(), read_keys=False))
        found.add(str(await fingerprint_of(node, RunContext())))
    assert len(found) == 2


def test_a_fingerprint_is_the_same_in_each_process() -> None:
    program = (
        "import asyncio\n"
        "from graphs.test_fingerprint import *\n"
        "nodes = Classifier(server(), LABELS, describe=dict.fromkeys(LABELS, 'x')), cascade(0.5), "
        "Agent(server(), 'Who?', output=Team, tools=[find_team]), wired(shorten)\n"
        "print([asyncio.run(fingerprint_of(node, RunContext())) for node in nodes])"
    )
    tests = str(Path(__file__).parent.parent)
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join([tests, *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
