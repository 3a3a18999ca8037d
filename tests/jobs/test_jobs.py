"""What a job holds, and what becomes of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import moa.jobs
from moa import Agent, Budget, RunContext
from moa.batch import Malformed, Row
from moa.errors import ConfigError, EndpointUnavailable
from moa.graphs import Graph
from moa.jobs import Job, JobStatus
from moa.testing import ScriptedEndpoint


def texts(*values: str) -> list[Row]:
    return [Row(number=n, id=n, value=value) for n, value in enumerate(values, start=1)]


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "job")
    return f"{request.getfixturevalue('postgres')}#nightly"


def shouting() -> Any:
    def shout(text: str) -> str:
        return text.upper()

    g = Graph("shout", str)
    return g.build(g.add(shout, g.input))


def outputs(job: Job) -> list[object]:
    return [line.get("output") for line in job.lines()]


async def worked(store: str, rows: Sequence[Row | Malformed], node: Any) -> JobStatus:
    with Job(store, graph="g") as job:
        job.add(rows)
        return await job.run(node)


async def test_rows_are_done_once_and_exported_in_their_order(store: str, tmp_path: Path) -> None:
    with Job(store, graph="shout") as job:
        job.add(texts("a", "b", "b"))
        assert (await job.run(shouting())).rows == {"done": 3}
        assert job.export(tmp_path / "out.jsonl") == 3
        assert outputs(job) == ["A", "B", "B"]
        again = [row async for row in job.left(RunContext())]
    assert again == []
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").count("\n") == 3


async def test_rows_that_are_added_again_stay_and_those_that_are_gone_are_left_out(
    store: str,
) -> None:
    with Job(store, graph="shout") as job:
        job.add(texts("a", "b"))
        await job.run(shouting())
        job.add(texts("a", "c"))
        assert job.status().rows == {"done": 1, "due": 1}
        await job.run(shouting())
        assert outputs(job) == ["A", "C"]
        job.add(texts("a", "b"))
        assert outputs(job) == ["A", "B"]


async def test_a_row_that_fails_is_tried_again_until_it_is_dead(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moa.jobs, "_RETRY_S", 0.0)
    monkeypatch.setattr(moa.jobs, "_WAIT_S", 0.01)
    tried: list[str] = []

    async def fail(text: str) -> str:
        tried.append(text)
        raise EndpointUnavailable("refused", endpoint="model")

    g = Graph("g", str)
    status = await worked(store, texts("a"), g.build(g.add(fail, g.input)))
    assert (tried, status.rows) == (["a"] * 3, {"dead": 1})
    assert status.causes == {"EndpointUnavailable": 1}
    with Job(store) as job:
        assert next(job.lines("dead"))["error"] == "EndpointUnavailable: model: refused"
        assert job.retry() == 1
        assert job.status().left == 1


async def test_a_row_that_is_malformed_is_dead_at_once(tmp_path: Path) -> None:
    bad = Malformed(number=1, error="no JSON object", raw="{")
    status = await worked(str(tmp_path), [bad], shouting())
    assert (status.rows, status.causes) == ({"dead": 1}, {"MalformedRow": 1})


async def test_rows_that_a_budget_ends_are_due_and_done_with_a_larger_one(store: str) -> None:
    model = ScriptedEndpoint(["Fine."] * 3)
    with Job(store, graph="answer") as job:
        job.add(texts("a", "b", "c"))
        agent = Agent(model, "Answer.")
        status = await job.run(agent, RunContext(budget=Budget(calls=2)), max_concurrency=1)
        assert status.rows == {"done": 2, "due": 1}
        status = await job.run(agent)
        assert (status.rows, status.calls) == ({"done": 3}, 3)


async def test_leases_of_a_process_that_is_gone_run_out(store: str) -> None:
    with Job(store, graph="shout", lease_s=0.2) as first:
        first.worker = "elsewhere|1|0|0"
        first.add(texts("a"))
        left = first.left(RunContext())
        await anext(left)
        await left.aclose()  # it renews nothing any more, and gives nothing back
        with Job(store, graph="shout") as second:
            assert (await second.run(shouting())).rows == {"done": 1}


def test_a_job_of_another_graph_is_refused(store: str) -> None:
    with Job(store, graph="support"):
        pass
    with pytest.raises(ConfigError, match="was begun with the graph 'support'"):
        Job(store, graph="summarize").__enter__()


def test_there_is_no_job_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no job in"):
        Job(tmp_path / "none").__enter__()
    assert not (tmp_path / "none").exists()


async def test_a_graph_runs_a_job_by_itself_and_goes_on_with_it(tmp_path: Path) -> None:
    for inputs in (["a"], ["a", "b"]):
        status = await shouting().run_job(inputs, store=tmp_path)
    assert status.rows == {"done": 2}
    with Job(tmp_path) as job:
        assert outputs(job) == ["A", "B"]
