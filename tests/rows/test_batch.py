"""Batches: every input comes out, whatever happens to it or to the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa import rows
from moa.agents.agent import Agent
from moa.agents.filter import Verdict
from moa.core.batch import Item, MalformedLine, Row, map_rows
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import ConfigError, InputError, NodeError
from moa.core.node import Dropped, Reply, Result, Text
from moa.core.trace import Note
from moa.graphs import Graph
from moa.testing import SimulatedEndpoint


class Node:
    """Does what a function of the request says."""

    name = "node"

    def __init__(self, work: Any = None) -> None:
        self.work = work

    async def run(self, request: int, context: RunContext | None = None, /) -> Result[int]:
        if self.work is not None:
            await self.work(request)
        return Result(output=request)


async def outputs(items: AsyncIterator[Item[int]]) -> list[int | None]:
    return [item.output async for item in items]


@given(st.permutations(range(12)), st.integers(1, 12), st.booleans())
def test_every_item_comes_out_once_as_soon_as_it_is_finished_or_in_order(
    order: list[int], concurrency: int, ordered: bool
) -> None:
    finished: list[int] = []

    async def work(number: int) -> None:
        for _ in range(order.index(number)):
            await asyncio.sleep(0)
        finished.append(number)

    items = map_rows(Node(work), range(12), max_concurrency=concurrency, ordered=ordered)
    assert asyncio.run(outputs(items)) == (list(range(12)) if ordered else finished)
    assert sorted(finished) == list(range(12))


async def test_no_more_run_at_once_than_asked_for_and_no_input_is_taken_before_its_turn() -> None:
    running, most, read = 0, 0, 0
    gate = asyncio.Event()

    def inputs() -> Iterator[int]:
        nonlocal read
        while read < 999:
            read += 1
            yield read

    async def work(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    async with asyncio.TaskGroup() as group:
        group.create_task(outputs(map_rows(Node(work), inputs(), max_concurrency=3)))
        for _ in range(50):
            await asyncio.sleep(0)
        assert read == 3
        gate.set()
    assert (most, read) == (3, 999)


async def test_the_next_input_begins_when_the_loop_comes_back_from_an_item() -> None:
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)

    async for item in map_rows(Node(work), range(5), max_concurrency=1):
        for _ in range(20):
            await asyncio.sleep(0)
        assert begun == [*range(item.number)]


@pytest.mark.parametrize("aside", [False, True])
async def test_what_reading_raises_ends_the_run_after_what_was_read_before(aside: bool) -> None:
    def read() -> Iterator[Row | MalformedLine]:
        yield Row(number=1, id=1, value="1")
        raise InputError("the header is wrong")

    items = map_rows(Node(), rows.read_in_thread(read()) if aside else read())
    assert (await anext(items)).number == 1
    with pytest.raises(InputError, match="the header is wrong"):
        await anext(items)


async def test_a_malformed_line_is_a_failed_item() -> None:
    given = [MalformedLine(number=1, error="no JSON", raw="{"), Row(number=2, id="b", value="2")]
    bad, good = [item async for item in map_rows(Node(), given, ordered=True)]
    assert (bad.id, bad.input, bad.status) == (1, "{", "failed")
    assert str(bad.error) == "line 1 is malformed: no JSON"
    assert (good.id, good.input, good.status) == ("b", "2", "answered")


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_stopped_loop_still_gets_what_was_finished(ordered: bool) -> None:
    out: list[int | None] = []
    stuck, finished = asyncio.Event(), asyncio.Event()

    async def work(number: int) -> None:
        if number == 2:
            await stuck.wait()
        if number == 4:
            finished.set()

    async def loop() -> None:
        items = map_rows(Node(work), range(1, 5), max_concurrency=4, ordered=ordered)
        async for item in items:
            out.append(item.output)  # noqa: PERF401  a comprehension would lose them

    running = asyncio.ensure_future(loop())
    await finished.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert out == [1, 3, 4]


async def test_leaving_the_loop_early_cancels_what_runs() -> None:
    cancelled: list[int] = []

    async def work(number: int) -> None:
        try:
            await asyncio.sleep(60 * number)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    async with aclosing(map_rows(Node(work), range(3))) as items:
        async for _ in items:
            break
    assert sorted(cancelled) == [1, 2]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_leaving_the_loop_early_closes_where_its_inputs_come_from(asynchronous: bool) -> None:
    file = StringIO("1\n2\n3\n")

    def read() -> Iterator[int]:
        with file:
            yield from map(int, file)

    async def read_aside() -> AsyncIterator[int]:
        with file:
            for line in file:
                yield int(line)

    inputs = read_aside() if asynchronous else read()
    async with aclosing(map_rows(Node(), inputs)) as items:
        async for _ in items:
            break
    assert file.closed


async def test_rows_that_somebody_types_are_worked_on_as_they_come() -> None:
    given = (Row(number=n, id=n, value=str(n)) for n in range(200))
    found = [
        item.id async for item in map_rows(Node(), rows.read_in_thread(given), max_concurrency=2)
    ]
    assert found == list(range(200))


class Talk:
    """Does what the request says."""

    name = "talk"
    input_type = str

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[object]:
        if request == "bug":
            raise KeyError("lost")
        if request == "bad":
            raise InputError("it is bad")
        verdict = Verdict(kept=request == "keep", reason="is spam", confidence=0.9, met=True)
        outputs = {"drop": Dropped(reason="no"), "spam": verdict, "keep": verdict}
        return Result(output=outputs.get(request, Reply(text=request)))


@pytest.mark.parametrize(
    ("value", "status", "error"),
    [
        ("fine", "answered", None),
        ("keep", "answered", None),
        ("drop", "dropped", None),
        ("spam", "dropped", None),
        ("bad", "failed", "InputError: it is bad"),
        ("bug", "failed", "NodeError: talk: KeyError: 'lost'"),
    ],
)
async def test_what_happens_to_a_row_is_its_own(value: str, status: str, error: str | None) -> None:
    row = Row(number=1, id=1, value={"text": value})
    (item,) = [item async for item in map_rows(Talk(), [row])]
    said = rows.line(item).get("error")
    assert (item.status, said and str(said).partition(" (test_batch.py:")[0]) == (status, error)


@pytest.mark.parametrize(("value", "kind"), [("bad", InputError), ("bug", NodeError)])
async def test_the_first_failure_ends_the_run_where_that_is_asked_for(
    value: str, kind: type[Exception]
) -> None:
    items = map_rows(Talk(), ["a", value, "b"], max_concurrency=1, on_error="raise")
    assert (await anext(items)).output == Reply(text="a")
    with pytest.raises(kind):
        await anext(items)


async def test_one_text_is_not_many_and_nothing_at_once_is_nothing() -> None:
    for wrong in (map_rows(Talk(), "hello"), map_rows(Talk(), [], max_concurrency=0)):
        with pytest.raises(ConfigError):
            await anext(wrong)


async def test_a_budget_is_over_all_inputs_of_an_agent_or_a_graph() -> None:
    agent = Agent(SimulatedEndpoint(rule=lambda _: "Done."), "Answer.")
    g = Graph("mails", Text)
    graph = g.build(g.add(agent, g.input))
    texts = [Text(text=str(number)) for number in range(5)]
    for items in (
        agent.map(texts, RunContext(budget=Budget(calls=3)), max_concurrency=2),
        graph.map(texts, RunContext(budget=Budget(calls=3)), max_concurrency=2),
    ):
        found = [item async for item in items]
        assert [item.status for item in found].count("answered") == 3
        assert all("budget" in str(item.error) for item in found if item.status == "failed")


async def test_rows_of_a_file_become_what_a_graph_takes() -> None:
    g = Graph("mails", Text)
    graph = g.build(g.input.map(lambda text: Reply(text=text.text.upper())))
    given = [Row(number=1, id="x", value={"text": "a"}), Row(number=2, id="y", value={"body": "b"})]
    good, bad = [item async for item in graph.map(given)]
    assert good.output == Reply(text="A")
    assert "text: Field required" in str(bad.error)


def test_an_item_that_was_escalated_to_nobody_needed_the_llm() -> None:
    note = Note(kind="escalated", node="reply", text="to people")
    plain = Item[object](number=1, id=1, input="x", status="answered")
    assert not plain.needed_llm
    assert Item[object](number=1, id=1, input="x", status="answered", trace=(note,)).needed_llm


async def test_a_node_that_is_cancelled_from_within_fails_alone() -> None:
    async def work(request: int) -> None:
        if request == 2:
            raise asyncio.CancelledError

    items = [item async for item in map_rows(Node(work), [1, 2, 3], max_concurrency=1)]
    assert [item.status for item in items] == ["answered", "failed", "answered"]
    assert isinstance(items[1].error, NodeError)


async def test_items_out_of_turn_are_given_before_what_reading_failed_with() -> None:
    done = asyncio.Event()

    async def work(request: int) -> None:
        if request == 1:
            await asyncio.Event().wait()
        done.set()

    async def inputs() -> AsyncIterator[int]:
        yield 1
        yield 2
        await done.wait()
        await asyncio.sleep(0.01)
        raise InputError("half a line")

    items = map_rows(Node(work), inputs(), max_concurrency=3, ordered=True)
    assert (await anext(items)).number == 2
    with pytest.raises(InputError, match="half a line"):
        await anext(items)


@pytest.mark.filterwarnings("error")
def test_a_loop_that_is_left_and_forgotten_ends_quietly_with_its_event_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held: list[object] = []

    async def leave() -> None:
        items = map_rows(Node(), range(9))
        held.append(items)
        async for _ in items:
            break

    asyncio.run(leave())
    assert not caplog.records
