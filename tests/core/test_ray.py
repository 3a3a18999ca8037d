"""Graphs on Ray: rows of a Dataset and of a file, on many workers, some of which die."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from command import moa
from counting import serving

from moa import Agent, Budget, OpenAIEndpoint, RunContext
from moa.core.budget import Look, Share
from moa.core.errors import ConfigError, MoaError
from moa.core.node import Node
from moa.core.usage import Usage
from moa.rows.ray import Ledger, map_dataset
from moa.testing import ScriptedEndpoint

ROWS = 600
WORKERS = 3
BATCH = 20


@pytest.fixture
def served() -> Iterator[tuple[str, Counter[str]]]:
    """Serve models that take 50 ms; give the address, and how often each text was asked."""

    def answer(text: str) -> str:
        time.sleep(0.05)
        return f"Fine: {text}"

    with serving(told_apart=lambda said: said[-1]["content"].split("\n")[1], answer=answer) as it:
        yield it


def graph_at(url: str) -> Callable[[], Node[Any, Any]]:
    def build() -> Node[Any, Any]:  # a function within another one is sent as it is
        return Agent(OpenAIEndpoint("model", model="m", base_url=url, api_key="none"), "Answer.")

    return build


def never_importable() -> Node[Any, Any]:
    raise AssertionError("a worker has no module of this name")


# The budget, without Ray.


def test_shares_never_add_up_to_more_than_the_budget() -> None:
    ledger = Ledger({"calls": 50}, workers=3)
    held = Counter[str]()
    for turn in range(500):
        worker = f"worker {turn % 3}"
        share = ledger.share(worker, {"calls": 1})
        if isinstance(share, Mapping):
            held[worker] += int(share["calls"])
        if turn % 7 == 0:  # idle: half of what it holds goes back
            ledger.report(worker, Usage(), {"calls": held[worker] // 2})
            held[worker] -= held[worker] // 2
        assert held.total() <= 50
    while isinstance(share := ledger.share("last", {"calls": 1}), Mapping):
        held["last"] += int(share["calls"])
    assert held.total() == 50


def test_what_others_may_give_back_is_waited_for() -> None:
    ledger = Ledger({"calls": 1}, workers=2)
    assert ledger.share("first", {"calls": 1}) == {"calls": 1}
    assert ledger.share("second", {"calls": 1}) == "wait"
    ledger.report("first", Usage(), {"calls": 1})
    assert ledger.share("second", {"calls": 1}) == {"calls": 1}


def test_the_share_of_a_worker_that_died_is_spent() -> None:
    now = [0.0]
    ledger = Ledger({"calls": 1}, workers=2, clock=lambda: now[0])
    ledger.share("dead", {"calls": 1})
    now[0] = 60.0
    assert ledger.share("second", {"calls": 1}) is None


def test_workers_that_all_wait_do_not_wait_for_each_other() -> None:
    ledger = Ledger({"calls": 4}, workers=1)
    ledger.share("first", {"calls": 2})
    ledger.share("second", {"calls": 2})
    assert ledger.share("first", {"calls": 1}) == "wait"
    assert ledger.share("second", {"calls": 1}) is None


async def test_a_run_asks_for_more_before_it_refuses_a_call() -> None:
    context = RunContext(budget=Budget(calls=1))
    asked: list[Budget | None] = []

    async def more(look: Look) -> bool:
        lacking = look()
        asked.append(lacking and lacking.limits)
        hold(Budget(calls=2))
        return len(asked) == 1

    hold = context.share_budget(Share(more, None))
    agent = Agent(ScriptedEndpoint(["One.", "Two.", "Three."]), "Answer.")
    for _ in range(2):
        await agent.run("Hi", context)
    with pytest.raises(MoaError, match="calls=3 of 2"):
        await agent.run("Hi", context)
    assert asked == [Budget(calls=1), Budget(calls=1)]


# On Ray.


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray on this machine alone."""
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "mixture-of-agents[ray]"')
    quiet(ray)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def quiet(ray: Any) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import_module("ray.data")
    ray.data.DataContext.get_current().enable_progress_bars = False


pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.timeout(120)
def test_each_row_of_a_dataset_comes_out_once_and_those_that_fail_are_rows(
    ray: Any, served: tuple[str, Counter[str]]
) -> None:
    url, asked = served
    texts = ["wrong" if n % 10 == 3 else f"text {n}" for n in range(60)]
    dataset = ray.data.from_items([{"id": n, "text": text} for n, text in enumerate(texts)])
    mapped = map_dataset(dataset, graph_at(url), batch_size=BATCH, budget=Budget(calls=50))
    rows = mapped.rows.take_all()
    assert sorted(int(row["id"]) for row in rows) == list(range(60))
    by_status = Counter(row["status"] for row in rows)
    refused = sum("BudgetExceeded" in (row["error"] or "") for row in rows)
    assert asked.total() == 50 == mapped.usage().calls
    assert refused == 10
    assert by_status["failed"] == refused + asked["wrong"]
    answered = next(row for row in rows if row["status"] == "answered")
    assert json.loads(answered["output"]) == {"text": f"Fine: text {answered['id']}"}


@pytest.mark.timeout(120)
def test_moa_run_writes_the_same_lines_with_ray_as_without(
    ray: Any, served: tuple[str, Counter[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own_graph(served[0])
    Path("rows.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": 7, "text": "wrong"}\nno\n')

    def lines(out: str, *flags: str) -> dict[object, object]:
        assert moa("run", "own.py:graph", "rows.jsonl", "--out", out, "--quiet", *flags) == 1
        found = [json.loads(line) for line in Path(out).read_text().splitlines()]
        return {
            line["id"]: {**line, "seconds": 0, "usage": line["usage"]["calls"]} for line in found
        }

    assert lines("there.jsonl", "--ray") == lines("here.jsonl")


@pytest.mark.parametrize(
    "graph",
    [never_importable, "/none.py:graph", Agent(ScriptedEndpoint(["One."]), "Answer.")],
    ids=["not importable", "no file", "a graph itself"],
)
def test_what_workers_can_not_build_is_said(graph: Any, ray: Any) -> None:
    with pytest.raises(ConfigError):
        map_dataset(ray.data.range(1), graph)


def test_an_address_without_a_cluster_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "mixture-of-agents[ray]"')
    ray.shutdown()
    assert moa("run", "sentiment", "Fine.", "--text", "--ray", "127.0.0.1:1") == 2
    assert "there is no Ray cluster at '127.0.0.1:1'" in capsys.readouterr().err


def test_ray_without_ray_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert moa("run", "sentiment", "Fine.", "--text", "--ray") == 2
    assert 'pip install "mixture-of-agents[ray]"' in capsys.readouterr().err


def test_a_job_and_ray_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert moa("run", "sentiment", "Fine.", "--text", "--job", "nightly", "--ray") == 2
    assert "start the same --job on each machine" in capsys.readouterr().err


# On three nodes, one of which dies.


@contextmanager
def cluster() -> Generator[tuple[Any, Any]]:
    """Three nodes on this machine; give Ray, and what kills the last one."""
    ray = pytest.importorskip("ray", reason='needs Ray: pip install "mixture-of-agents[ray]"')
    ray.shutdown()
    quiet(ray)
    nodes = import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2}
    )
    try:
        nodes.add_node(num_cpus=2)
        last = nodes.add_node(num_cpus=2)
        nodes.wait_for_nodes()
        ray.init(nodes.address, log_to_driver=False)
        yield ray, lambda: nodes.remove_node(last, allow_graceful=False)
    finally:
        ray.shutdown()
        nodes.shutdown()


def own_graph(url: str) -> None:
    """Write what is run as `own.py:graph`."""
    Path("own.py").write_text(
        "from moa import Agent, OpenAIEndpoint\n"
        "def graph():\n"
        f"    model = OpenAIEndpoint('m', model='m', base_url={url!r}, api_key='none')\n"
        "    return Agent(model, 'Answer.')\n"
    )


def killing(kill: Callable[[], None], asked: Counter[str], after: int) -> threading.Thread:
    """Kill a node once so many calls were made."""

    def wait() -> None:
        while asked.total() < after:
            time.sleep(0.02)
        kill()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("budget", [None, Budget(calls=ROWS // 2)], ids=["unlimited", "budget"])
def test_a_node_that_dies_costs_no_row_and_no_more_than_its_batches(
    served: tuple[str, Counter[str]], budget: Budget | None
) -> None:
    url, asked = served
    with cluster() as (ray, kill):
        data = ray.data.from_items([{"id": n, "text": f"text {n}"} for n in range(ROWS)])
        mapped = map_dataset(data, graph_at(url), workers=WORKERS, batch_size=BATCH, budget=budget)
        dying = killing(kill, asked, ROWS // 5)
        rows = mapped.rows.take_all()
        dying.join()
    assert sorted(int(row["id"]) for row in rows) == list(range(ROWS))
    paid_again = sum(count - 1 for count in asked.values())
    print(f"paid again: {paid_again} of {asked.total()} calls, in batches of {BATCH}")  # noqa: T201
    assert paid_again <= WORKERS * BATCH
    answered = sum(row["status"] == "answered" for row in rows)
    if budget is None:
        assert answered == ROWS
    else:
        assert asked.total() <= ROWS // 2
        assert answered >= ROWS // 2 - WORKERS * BATCH - ROWS // 10  # the share of the dead one


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_node_that_dies_under_moa_run_costs_only_the_rows_in_flight(
    served: tuple[str, Counter[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = served
    monkeypatch.chdir(tmp_path)
    own_graph(url)
    Path("rows.txt").write_text("".join(f"text {n}\n" for n in range(ROWS)))
    with cluster() as (_, kill):
        dying = killing(kill, asked, ROWS // 5)
        flags = ("--out", "done.jsonl", "--concurrency", "24", "--quiet", "--ray")
        assert moa("run", "own.py:graph", "rows.txt", *flags) == 0
        dying.join()
    lines = [json.loads(line) for line in Path("done.jsonl").read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == list(range(1, ROWS + 1))
    paid_again = sum(count - 1 for count in asked.values())
    print(f"paid again: {paid_again} of {asked.total()} calls, with 24 rows in flight")  # noqa: T201
    assert paid_again <= 24
