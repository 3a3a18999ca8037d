"""The ready mixtures: every setting from the file, drawn without one, run from the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from command import moa

from moa.agents.proposer import Proposer
from moa.config import load
from moa.config.endpoints import Endpoints
from moa.config.loading import load_graph
from moa.core.context import RunContext
from moa.core.errors import ConfigError
from moa.core.trace import Event, TextDelta
from moa.endpoints.tokens import tokens_of
from moa.graphs.mixing.packing import pack
from moa.graphs.mixture import BaseMixture, Mixture, MixtureReply
from moa.recipes.self_mixture import SelfMixture
from moa.testing import ScriptedEndpoint
from moa.vllm.endpoint import free_port

ENDPOINTS = """
[endpoints.small]
tier = "slm"
model = "s"
base_url = "http://{host}/v1"

[endpoints.other]
tier = "llm"
model = "o"
base_url = "http://{host}/v1"

[endpoints.large]
tier = "llm"
model = "l"
base_url = "http://{host}/v1"

[endpoints.dead]
tier = "llm"
model = "d"
base_url = "http://127.0.0.1:{closed}/v1"

[tiers]
llm = "large"
"""


def built(
    tmp_path: Path, tables: str, name: str = "mixture", endpoints: str = ENDPOINTS
) -> BaseMixture:
    file = tmp_path / "moa.toml"
    file.write_text(endpoints.format(host="localhost:1", closed=1) + tables)
    node = load_graph(name, Endpoints(load(file), read_keys=False))
    assert isinstance(node, BaseMixture)
    return node


def ran(*words: str) -> None:
    assert moa(*words) == 0


def members(graph: BaseMixture) -> list[list[Proposer]]:
    found: Any = [[reader.node for reader in layer] for layer in graph.readers]
    return found


def test_without_settings_the_default_models_are_mixed(tmp_path: Path) -> None:
    graph = built(tmp_path, "")
    assert [[m.name for m in layer] for layer in members(graph)] == [["small", "large"]]
    aggregator: Any = graph.top.node
    assert (aggregator.name, aggregator.endpoint.name) == ("aggregator", "large")


def test_an_endpoint_that_is_asked_twice_samples_unless_the_table_says_otherwise(
    tmp_path: Path,
) -> None:
    graph = built(tmp_path, '[graphs.mixture]\nproposers = ["large", "large", "small"]')
    assert [[m.temperature for m in layer] for layer in members(graph)] == [[0.7, 0.7, 0.0]]


def test_every_setting_comes_from_the_table(tmp_path: Path) -> None:
    graph = built(
        tmp_path,
        """
[graphs.mixture]
proposers = ["small", { endpoint = "other", temperature = 0.9, role = "Look for errors." }]
aggregator = "other"
layers = 2
quorum = 2
proposer_timeout_s = 20
straggler_timeout_s = 0.5
agree = 2
temperature = 0.3
instructions = "Answer in one sentence."
max_tokens = 99
budget = { calls = 12 }
seed = 7
""",
    )
    first, second = members(graph)
    assert [m.temperature for m in first] == [0.3, 0.9]
    assert [m.temperature for m in second] == [0.3, 0.9]
    assert first[0].instructions == "Answer in one sentence."
    assert first[1].instructions == "Answer in one sentence.\nLook for errors."
    assert {m.max_tokens for m in (*first, *second)} == {99}
    assert (graph.quorum, graph.agree) == (2, 2)
    assert (graph.proposer_timeout_s, graph.straggler_timeout_s) == (20.0, 0.5)
    assert graph.budget.calls == 12
    assert {reader.seed for reader in graph.readers[0]} == {7}
    aggregator: Any = graph.top.node
    assert (aggregator.endpoint.name, aggregator.max_tokens) == ("other", 99)
    assert aggregator.temperature == 0.0


def test_each_layer_can_have_its_own_lists(tmp_path: Path) -> None:
    graph = built(
        tmp_path,
        """
[graphs.mixture]
proposers = [
  [{ endpoint = "small", temperature = 0.2 }, "small", { endpoint = "other", role = "Be brief." }],
  ["large"],
]
""",
    )
    found = members(graph)
    assert [[m.endpoint.name for m in layer] for layer in found] == [
        ["small", "small", "other"],
        ["large"],
    ]
    assert [reader.name for reader in graph.readers[0]] == ["small 1", "small 2", "other"]
    assert [[m.temperature for m in layer] for layer in found] == [[0.2, 0.7, 0.0], [0.0]]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        pytest.param('proposers = ["nobody"]', "'nobody'", id="unknown"),
        pytest.param("temperature = -1", "temperature: ", id="temperature"),
        pytest.param(
            'proposers = [{ endpoint = "small", temperature = 3 }]', "temperature: ", id="too hot"
        ),
        pytest.param('proposers = ["small"]\nquorum = 2', "quorum=2", id="quorum"),
        pytest.param('proposers = [["small"], []]', "proposers", id="empty layer"),
        pytest.param("proposers = []", "proposers", id="empty"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built(tmp_path, f"[graphs.mixture]\n{table}\n")


def test_a_self_mixture_samples_what_its_table_says(tmp_path: Path) -> None:
    graph = built(
        tmp_path,
        """
[graphs.self_mixture]
node = "other"
samples = 5
temperature = 0.5
window = 3
aggregator = "large"
""",
        "self_mixture",
    )
    assert isinstance(graph, SelfMixture)
    (layer,) = members(graph)
    assert [m.endpoint.name for m in layer] == ["other"] * 5
    assert {m.temperature for m in layer} == {0.5}
    assert (graph.window, graph.aggregations) == (3, 2)


class Handler(BaseHTTPRequestHandler):
    """Answers with the name of the model, and the aggregator with what it read."""

    asked: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model, text = body["model"], body["messages"][-1]["content"]
        self.asked.append(model)
        said = f"{model} read {text.count('Draft:')} answers"
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        data = json.dumps({"model": model, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def host() -> Iterator[str]:
    handler = type("Listing", (Handler,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_mixture_runs_from_the_command_line_with_one_model_dead(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mix.toml").write_text(
        ENDPOINTS.format(host=host, closed=free_port())
        + '[graphs.mixture]\nproposers = ["small", "other", "dead"]\naggregator = "large"\n'
        "layers = 2\n"
    )
    ran("run", "mixture", "--text", "Why?", "--config", "mix.toml", "--json")
    (line,) = capsys.readouterr().out.strip().splitlines()
    item = json.loads(line)
    assert item["output"]["text"] == "l read 2 answers"
    assert item["output"]["by"] == "aggregator"
    assert item["output"]["missing"] == ["dead"]


@pytest.mark.embedded
async def test_the_built_in_model_is_mixed_within_its_own_window(tmp_path: Path) -> None:
    file = tmp_path / "moa.toml"
    file.write_text(
        '[graphs.mixture]\nproposers = ["embedded", "embedded"]\nmax_tokens = 24\n'
        "budget = { calls = 3 }\n"
    )
    pieces: list[str] = []
    long = "The weather in the mountains changes quickly, so take a coat. " * 90

    def listen(event: Event) -> None:
        if isinstance(event, TextDelta):
            pieces.append(event.text)

    async with Endpoints(load(file)) as endpoints:
        graph = load_graph("mixture", endpoints)
        result = await graph.run("Name a colour.", RunContext(listener=listen))

        async def count(text: str) -> int:
            return await tokens_of(endpoints.slm, text, RunContext())

        write = Proposer(endpoints.slm).user_prompt
        answers = (long, long.upper(), "Blue.")
        packed = await pack("Name a colour.", answers, write=write, count=count, room=600)
        tokens = await count(write(packed.consulted))
    assert isinstance(result.output, MixtureReply)
    assert list(result.output.proposals) == ["embedded 1", "embedded 2"]
    repaired = sum(note.kind == "repaired" for note in result.trace)
    assert result.usage.calls == 3 + repaired
    assert "".join(pieces).strip() == result.output.text
    assert 500 < tokens == packed.tokens <= 600
    assert packed.merged
    assert packed.cut
    assert "Blue." in packed.consulted.answers


def test_where_one_model_alone_can_write_it_is_asked_once(tmp_path: Path) -> None:
    assert [agent.name for agent in built(tmp_path, "").readers[0]] == ["small", "large"]
    tiny = ENDPOINTS.replace('"s"', '"smollm2-135m"')
    graph = built(tmp_path, "", endpoints=tiny)
    assert graph.readers == ()
    assert "aggregator" in graph.draw().mermaid
    named = '[graphs.mixture]\nproposers = ["small", "large"]'
    (layer,) = built(tmp_path, named, endpoints=tiny).readers
    assert [agent.name for agent in layer] == ["small", "large"]


async def test_a_mixture_without_proposers_asks_the_aggregator_the_request_itself() -> None:
    large = ScriptedEndpoint(["Take the train."], name="large", tier="llm")
    result = await Mixture(proposers=[[]], aggregator=large).run("To Venice?")
    assert (result.output.text, result.output.proposals) == ("Take the train.", {})
    assert large.prompts[0].messages[-1].content == "To Venice?"
    assert [note.kind for note in result.trace if note.kind == "skipped"] == ["skipped"]
