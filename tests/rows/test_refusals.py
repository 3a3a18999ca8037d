"""A key that is refused, or an account without credit, ends a run of many rows."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
from command import told

from moa.agents.agent import Agent
from moa.core.batch import Item, Row
from moa.core.context import RunContext
from moa.core.errors import EndpointUnauthorized, EndpointUnavailable, QuotaExceeded
from moa.core.node import Reply
from moa.endpoints.wrappers import Fallback
from moa.rows import RowFile, work_through
from moa.rows.jobs import Job
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

WRONG_KEY = EndpointUnauthorized("HTTP 401", endpoint="large", status=401)
FORBIDDEN = EndpointUnauthorized("HTTP 403", endpoint="large", status=403)
NO_CREDIT = QuotaExceeded("HTTP 402", endpoint="large", status=402)
DOWN = EndpointUnavailable("HTTP 503", endpoint="large", status=503)
Steps = list[str | Exception]


def large(*steps: str | Exception) -> ScriptedEndpoint:
    return ScriptedEndpoint(steps, name="large", tier="llm")


async def mapped(
    agent: Agent[str, Reply], count: int = 20, context: RunContext | None = None
) -> list[Item[Reply]]:
    texts = [f"text {number}" for number in range(count)]
    async with aclosing(agent.map(texts, context, max_concurrency=1)) as items:
        return [item async for item in items]


@pytest.mark.parametrize("error", [WRONG_KEY, FORBIDDEN, NO_CREDIT])
async def test_three_refusals_in_a_row_end_a_map_and_the_rest_fails_unasked(
    error: EndpointUnauthorized,
) -> None:
    endpoint, context = large(*[error] * 20), RunContext()
    items = await mapped(Agent(endpoint, "Answer."), context=context)
    assert len(endpoint.prompts) == 3
    assert [type(item.error) for item in items] == [type(error)] * 20
    assert all(item.error is context.ended_by for item in items[3:])


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([WRONG_KEY, WRONG_KEY, "yes"] * 4, id="answers between"),
        pytest.param(["yes", *[FORBIDDEN] * 11], id="one key, forbidden contents"),
        pytest.param([DOWN] * 12, id="down"),
    ],
)
async def test_what_may_be_about_single_inputs_ends_no_map(steps: Steps) -> None:
    endpoint, context = large(*steps), RunContext()
    await mapped(Agent(endpoint, "Answer."), len(steps), context)
    assert len(endpoint.prompts) == len(steps)
    assert context.ended_by is None


async def test_a_map_goes_on_where_another_endpoint_answers() -> None:
    both = Fallback(large(*[WRONG_KEY] * 9), SimulatedEndpoint())
    assert all(item.error is None for item in await mapped(Agent(both, "Answer."), 9))


async def test_a_file_of_rows_is_gone_on_with_where_the_key_was_refused(tmp_path: Path) -> None:
    async def work(endpoint: ScriptedEndpoint) -> int:
        found = [Row(number=n, id=n, value=f"text {n}") for n in range(1, 10)]
        agent, context = Agent(endpoint, "Answer."), RunContext()
        with RowFile(tmp_path / "out.jsonl", existing="resume") as file:
            due = file.due_rows(iter(found))
            async with aclosing(
                work_through(file, agent, due, context, max_concurrency=1)
            ) as items:
                return len([item async for item in items])

    assert await work(large("yes", *[WRONG_KEY] * 8)) == 4
    endpoint = large(*["yes"] * 8)
    assert await work(endpoint) == 8
    endpoint.assert_used_up()


async def test_rows_of_a_job_stay_due_where_there_is_no_credit(tmp_path: Path) -> None:
    endpoint = large("yes", *[NO_CREDIT] * 3)
    with Job(tmp_path, graph="agent") as job:
        job.add(Row(number=n, id=n, value=f"text {n}") for n in range(1, 31))
        status = await job.run(Agent(endpoint, "Answer."), max_concurrency=1)
    assert (status.rows["done"], status.left) == (1, 29)
    assert status.rows["due"] == 27  # of the three that were refused two had failed by then


GRAPH = """
from moa import Agent
from moa.core.errors import EndpointUnauthorized
from moa.testing import SimulatedEndpoint

def refuse(text):
    raise EndpointUnauthorized("HTTP 401", endpoint="large", status=401)

graph = Agent(SimulatedEndpoint(name="large", tier="llm", rule=refuse), "Answer.")
"""


@pytest.mark.parametrize("where", [["--out", "out.jsonl"], ["--job", "job"], ["--json"], []])
def test_a_run_of_many_rows_says_once_which_key_was_refused(
    where: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("refused.py").write_text(GRAPH)
    Path("in.txt").write_text("".join(f"row {n}\n" for n in range(400)))
    Path("moa.toml").write_text(
        '[endpoints.large]\ntier = "llm"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'api_key_env = "LARGE_API_KEY"\n'
    )
    out, err = told("run", "refused.py:graph", "in.txt", "--quiet", *where, leaves=1)
    assert len(err.splitlines()) <= 4
    assert err.count("$LARGE_API_KEY") == 1
    assert len(out.splitlines()) <= 12
