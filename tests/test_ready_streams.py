"""What the tables of `solve`, `code` and `monitor` say, and `moa run` on many items at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.agents.sentiment import Sentiment
from moa.cli.batch import run_one, through
from moa.cli.inputs import reader_of
from moa.config import load
from moa.config.endpoints import Endpoints
from moa.context import RunContext
from moa.errors import ConfigError
from moa.graphs.code import Code
from moa.graphs.loading import AnyNode, load_graph
from moa.graphs.monitor import Monitor
from moa.graphs.solve import Solve
from moa.rows import Item, Row, line
from moa.testing import SimulatedEndpoint

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


def test_solve_is_built_as_its_table_says(tmp_path: Path) -> None:
    node = built("solve", 'tries = 3\nmax_steps = 4\nllm = "critic"', tmp_path)
    assert isinstance(node, Solve)
    assert (node.tries, node.max_steps, node.planner.endpoint.name) == (3, 4, "critic")
    assert node.solvers["slm"].endpoint.name == "small"


def test_code_is_reviewed_by_whom_its_table_names(tmp_path: Path) -> None:
    node = built("code", 'reviewer = "critic"\nrepairs = 0', tmp_path)
    assert isinstance(node, Code)
    assert (node.coder.endpoint.name, node.coder.repairs) == ("large", 0)
    assert node.critic is not None
    assert node.critic.endpoint.name == "critic"
    assert node.sandbox is None


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        pytest.param('labels = ["card", "app"]', Classifier, id="labels"),
        pytest.param('criterion = "a complaint"', Filter, id="a criterion"),
        pytest.param("seconds = 60", Sentiment, id="sentiment"),
    ],
)
def test_monitor_decides_by_its_table(table: str, kind: type, tmp_path: Path) -> None:
    node = built("monitor", f'{table}\nstate = "kept.json"', tmp_path)
    assert isinstance(node, Monitor)
    assert isinstance(node.decider, kind)


@pytest.mark.parametrize(
    "table",
    ['labels = ["a", "b"]\ncriterion = "c"', "window = 5\nseconds = 5", "window = 0"],
)
def test_a_table_that_can_not_work_is_refused(table: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"graphs\.monitor"):
        built("monitor", table, tmp_path)


def test_the_built_in_model_writes_no_reports(tmp_path: Path) -> None:
    file = tmp_path / "moa.toml"
    file.write_text("")
    node = load_graph("monitor", Endpoints(load(file), read_keys=False))
    assert isinstance(node, Monitor)
    assert node.writer is None


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_lines_carry_the_report_however_many_items_run_at_once(
    concurrency: int, tmp_path: Path
) -> None:
    small = SimulatedEndpoint(rule=lambda text: {"topic": {text: 0.9}})
    large = SimulatedEndpoint(tier="llm", rule=lambda _: "Told.")
    topic = Classifier(small, ["card", "app"], none=False, name="topic")
    node = Monitor(decider=topic, writer=large, window=10, state=tmp_path / "kept.json")
    read, context, done = reader_of(node), RunContext(keep_notes=False), list[Item]()

    async def work(row: Row) -> Item:
        return await run_one(node, row, read, context)

    texts = ["card", "card", "card", "app"] * 10 + ["app"] * 20
    rows = iter([Row(number=i, id=i, value={"text": t}) for i, t in enumerate(texts, start=1)])
    await through(rows, work, done.append, concurrency=concurrency)
    done.sort(key=lambda item: item.row.number)
    lines = [json.loads(json.dumps(line(item))) for item in done]
    assert [found["id"] for found in lines if found["output"]["report"]] == [50]
    assert lines[49]["output"]["report"]["text"] == "Told."
    assert lines[0]["output"]["decision"]["label"] == "card"
