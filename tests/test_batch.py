"""Batches: every row comes out, whatever happens to it or to the run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.agents.filter import Verdict
from moa.cli.batch import run_one, through
from moa.context import RunContext
from moa.errors import InputError
from moa.handoffs import Dropped, Reply
from moa.node import Result
from moa.rows import Item, Malformed, Row, finished
from moa.trace import Note


def row(number: int) -> Row:
    return Row(number=number, id=number, value=f"row {number}")


def item(of: Row) -> Item:
    return Item(row=of, status="answered")


class Node:
    """Does what a function of the request says."""

    name = "node"

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[object]:
        if request == "bug":
            raise KeyError("lost")
        if request == "bad":
            raise InputError("it is bad")
        return Result(output=Dropped(reason="no") if request == "drop" else Reply(text=request))


@given(st.permutations(range(12)), st.integers(1, 12))
def test_every_item_comes_out_once_as_soon_as_it_is_finished(
    order: list[int], concurrency: int
) -> None:
    finished: list[int] = []
    out: list[int] = []

    async def work(of: Row) -> Item:
        for _ in range(order.index(of.number)):
            await asyncio.sleep(0)
        finished.append(of.number)
        return item(of)

    rows = iter([row(n) for n in range(12)])
    asyncio.run(
        through(rows, work, lambda done: out.append(done.row.number), concurrency=concurrency)
    )
    assert out == finished
    assert sorted(out) == list(range(12))


async def test_no_more_than_the_concurrency_runs_at_once_and_no_row_is_read_before_its_turn() -> (
    None
):
    running, most, read = 0, 0, 0
    gate = asyncio.Event()

    def rows() -> Iterator[Row]:
        nonlocal read
        for read in range(1, 1000):
            yield row(read)

    async def work(of: Row) -> Item:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return item(of)

    async with asyncio.TaskGroup() as group:
        group.create_task(through(rows(), work, lambda _: None, concurrency=3))
        for _ in range(50):
            await asyncio.sleep(0)
        assert read == 3
        gate.set()
    assert (most, read) == (3, 999)


async def test_a_slow_first_row_holds_back_no_other() -> None:
    out: list[int] = []
    others = asyncio.Event()

    async def work(of: Row) -> Item:
        if of.number == 1:
            await others.wait()
        return item(of)

    def done(finished: Item) -> None:
        out.append(finished.row.number)
        if len(out) == 99:
            others.set()

    rows = iter([row(n) for n in range(1, 101)])
    await through(rows, work, done, concurrency=2)
    assert out == [*range(2, 101), 1]


async def test_what_reading_raises_on_a_pipe_ends_the_run() -> None:
    def rows() -> Iterator[Row]:
        yield row(1)
        raise InputError("the header is wrong")

    async def work(of: Row) -> Item:
        return item(of)

    with pytest.raises(InputError, match="the header is wrong"):
        await through(rows(), work, lambda _: None, concurrency=2, live=True)


async def test_a_malformed_line_is_an_item_in_its_place() -> None:
    out: list[Item] = []
    bad = Malformed(number=2, error="no JSON", raw="{")

    async def work(of: Row) -> Item:
        return item(of)

    await through(iter([row(1), bad, row(3)]), work, out.append, concurrency=2)
    assert [i.status for i in out] == ["answered", "failed", "answered"]
    assert out[1].error == "line 2 is malformed: no JSON"


async def test_a_stopped_run_hands_over_what_was_finished() -> None:
    out: list[int] = []
    stuck, finished = asyncio.Event(), asyncio.Event()

    async def work(of: Row) -> Item:
        if of.number == 2:
            await stuck.wait()
        if of.number == 4:
            finished.set()
        return item(of)

    running = asyncio.ensure_future(
        through(
            iter([row(n) for n in range(1, 5)]),
            work,
            lambda i: out.append(i.row.number),
            concurrency=4,
        )
    )
    await finished.wait()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert out == [1, 3, 4]


async def test_what_is_raised_on_the_way_out_is_raised_as_it_is() -> None:
    def done(_: Item) -> None:
        raise OSError("the disk is full")

    async def work(of: Row) -> Item:
        return item(of)

    with pytest.raises(OSError, match="the disk is full"):
        await through(iter([row(1)]), work, done, concurrency=1)


async def test_rows_that_somebody_types_are_worked_on_as_they_come() -> None:
    out: list[int] = []

    async def work(of: Row) -> Item:
        return item(of)

    rows = iter([row(n) for n in range(200)])
    await through(rows, work, lambda i: out.append(i.row.number), concurrency=2, live=True)
    assert out == list(range(200))


@pytest.mark.parametrize(
    ("value", "status", "error"),
    [
        ("fine", "answered", None),
        ("drop", "dropped", None),
        ("bad", "failed", "InputError: it is bad"),
        ("bug", "failed", "NodeError: node: KeyError: 'lost'"),
    ],
)
async def test_what_happens_to_a_row_is_its_own(value: str, status: str, error: str | None) -> None:
    of = Row(number=1, id=1, value=value)
    done = await run_one(Node(), of, lambda given: given, RunContext())
    assert (done.status, done.error) == (status, error)


@pytest.mark.parametrize(
    ("output", "status"),
    [
        (Dropped(reason="no"), "dropped"),
        (Verdict(kept=False, reason="is spam", confidence=0.9, met=True), "dropped"),
        (Verdict(kept=True, reason="is no spam", confidence=0.9, met=False), "answered"),
        (Reply(text="Hello"), "answered"),
    ],
)
def test_what_a_filter_drops_counts_as_dropped(output: object, status: str) -> None:
    assert finished(row(1), Result(output=output)).status == status


def test_an_item_that_was_escalated_to_nobody_needed_the_llm() -> None:
    note = Note(kind="escalated", node="reply", text="to people")
    assert Item(row=row(1), status="answered", trace=(note,)).needed_llm
    assert not item(row(1)).needed_llm
