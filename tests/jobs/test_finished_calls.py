"""Finished calls of rows that aren't done: kept beside a file of lines, as in a job, and found."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import aclosing, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from disks import room

import moa.rows.loop
from moa import Agent, Budget, Reply, RunContext
from moa.core._files import Existing
from moa.core.batch import Item, Row
from moa.core.errors import BudgetExceeded, ConfigError, EndpointRejected, NodeError, StoreError
from moa.core.usage import Usage
from moa.graphs import Graph
from moa.rows import RowFile, work_through
from moa.rows.loop import RowJournal, fate_of
from moa.rows.records import name_of
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

BUSY = EndpointRejected("busy", endpoint="second")


@pytest.fixture(name="out")
def _out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def kept(out: Path) -> Path:
    return out.with_name("out.jsonl.calls")


def texts(*values: str) -> list[Row]:
    return [Row(number=n, id=n, value=value) for n, value in enumerate(values, start=1)]


def drafting(first: Any, second: Any) -> Any:
    g = Graph("g", str)
    draft = g.add(Agent(first, "Draft.", name="draft"), g.input)
    return g.build(g.add(Agent(second, "Mend.", name="mend"), draft))


async def go(
    out: Path,
    node: Any,
    rows: list[Row],
    existing: Existing = "resume",
    context: RunContext | None = None,
) -> list[Item[Any]]:
    context = context or RunContext()
    with RowFile(out, existing=existing) as file:
        async with aclosing(work_through(file, node, file.due_rows(rows), context)) as items:
            return [item async for item in items]


async def cut_off(out: Path, first: Any) -> None:
    """Stop a run in the second call of its row."""
    reached = asyncio.Event()

    async def hang(text: Reply) -> str:
        reached.set()
        await asyncio.sleep(60)
        return text.text

    g = Graph("g", str)
    graph: Any = g.build(g.add(hang, g.add(Agent(first, "Draft.", name="draft"), g.input)))
    running = asyncio.ensure_future(go(out, graph, texts("a")))
    await reached.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_row_of_a_file_that_was_cut_off_pays_for_no_finished_call_again(out: Path) -> None:
    first = ScriptedEndpoint(["A draft."])
    await cut_off(out, first)
    assert kept(out).exists()
    (item,) = await go(out, drafting(first, ScriptedEndpoint(["Fine."])), texts("a"))
    assert (item.status, item.usage.total.calls, len(first.prompts)) == ("answered", 2, 1)
    assert list(out.parent.iterdir()) == [out]


async def test_a_row_of_a_file_that_failed_is_tried_again_from_where_it_was(out: Path) -> None:
    first = ScriptedEndpoint(["A draft."])
    second = ScriptedEndpoint([BUSY, "Fine."])
    for status in ("failed", "answered"):
        (item,) = await go(out, drafting(first, second), texts("a"))
        assert (item.status, len(first.prompts)) == (status, 1)
        assert kept(out).exists() == (status == "failed")


async def test_rows_of_one_call_write_nothing_beside_their_lines(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    connect = sqlite3.connect

    def told(path: Any, **options: Any) -> sqlite3.Connection:
        opened.append(str(path))
        return connect(path, **options)

    monkeypatch.setattr(sqlite3, "connect", told)
    await go(out, Agent(SimulatedEndpoint(rule=lambda _: "Fine."), "Answer."), texts(*"abcdef"))
    assert not any(opened)  # "" is a temporary file that nobody sees


async def test_a_call_is_on_disk_while_its_row_goes_on_without_another(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moa.rows.loop, "_LATE_S", 0.01)
    seen: list[int] = []

    async def look(text: Reply) -> str:
        await asyncio.sleep(0.2)
        seen.append(kept(out).with_name("out.jsonl.calls-wal").stat().st_size)
        return text.text

    g = Graph("g", str)
    graph: Any = g.build(g.add(look, g.add(Agent(ScriptedEndpoint(["Fine."]), "."), g.input)))
    await go(out, graph, texts("a"))
    assert seen[0] > 0


@pytest.mark.parametrize("existing", ["refuse", "overwrite"])
async def test_a_run_that_begins_anew_finds_no_calls_of_another(
    existing: Existing, out: Path
) -> None:
    first = ScriptedEndpoint(["A draft.", "Another."])
    await cut_off(out, first)
    await go(out, drafting(first, ScriptedEndpoint(["Fine."])), texts("a"), existing)
    assert len(first.prompts) == 2
    assert not kept(out).exists()


async def test_copies_of_a_row_have_calls_of_their_own(out: Path) -> None:
    first = ScriptedEndpoint(["One.", "Two."])
    second = ScriptedEndpoint([BUSY, BUSY, "Fine.", "Fine."])
    rows = [Row(number=n, id="a", value="a") for n in (1, 2)]
    for _ in range(2):
        await go(out, drafting(first, second), rows)
    asked = sorted(str(prompt.messages[-1]) for prompt in second.prompts[2:])
    assert "One." in asked[0]
    assert "Two." in asked[1]


async def test_a_disk_without_room_for_calls_stops_the_run_and_says_so(out: Path) -> None:
    graph = drafting(ScriptedEndpoint(["A draft." * 9000]), ScriptedEndpoint(["Fine."]))
    with pytest.raises((StoreError, ConfigError), match=r"out\.jsonl\.calls"), room(40_000):
        await go(out, graph, texts("a"))


async def test_a_file_of_calls_that_is_none_is_told(out: Path) -> None:
    kept(out).write_text("something else, that is no database at all" * 99)
    with pytest.raises(ConfigError, match=r"out\.jsonl\.calls"):
        await go(out, Agent(ScriptedEndpoint([]), "."), texts("a"))


def wrapped(how: str, error: BudgetExceeded) -> Exception:
    if how == "group":
        return ExceptionGroup("two", [ValueError("x"), error])
    other = ValueError("x")
    other.__cause__ = error
    return other


@pytest.mark.parametrize("how", ["group", "cause"])
async def test_a_row_is_due_where_the_budget_of_the_run_is_behind_its_error(how: str) -> None:
    context = RunContext(budget=Budget(calls=0))
    with pytest.raises(BudgetExceeded) as refused:
        await Agent(ScriptedEndpoint([]), ".").run("a", context)
    cause = wrapped(how, refused.value)
    error = NodeError("g", cause)
    error.__cause__ = cause
    item = Item[Any](number=1, id=1, input="a", status="failed", error=error)
    assert fate_of(item, context) == "due"
    assert fate_of(item, RunContext()) == "failed"
    assert refused.value.spent == Usage()


async def test_calls_that_a_killed_process_left_of_a_row_that_it_had_done_go(out: Path) -> None:
    first = ScriptedEndpoint(["A draft."])
    await cut_off(out, first)
    left = kept(out).read_bytes()
    await go(out, drafting(first, ScriptedEndpoint(["Fine."])), texts("a"))
    kept(out).write_bytes(left)
    assert await go(out, drafting(first, first), texts("a")) == []
    assert list(out.parent.iterdir()) == [out]


async def test_calls_of_a_row_that_is_gone_go_and_those_of_one_that_failed_stay(out: Path) -> None:
    first, second = ScriptedEndpoint(["One.", "Two.", "Three."]), ScriptedEndpoint([BUSY] * 3)
    rows = texts("a", "b")
    await go(out, drafting(first, second), rows)
    await go(out, drafting(first, second), [*texts("c")])
    with closing(sqlite3.connect(kept(out))) as file:
        keys = {key for (key,) in file.execute("select distinct key from moa_calls")}
    assert keys == {f"{name_of(1, 'c')}/1"}


async def test_what_is_about_to_be_written_of_a_row_is_not_once_the_row_is_done(out: Path) -> None:
    with RowFile(out, existing="resume") as file:
        calls = file._calls  # pyright: ignore[reportPrivateUsage]
        (row,) = file.due_rows(texts("a"), all_rows=False)
        assert isinstance(row, Row)
        journal = row.journal
        assert isinstance(journal, RowJournal)
        await journal.keep("call", "{}")
        writing = asyncio.ensure_future(calls.write([journal]))
        file.write({"id": 1, "input": "a"})
        await writing
    assert list(out.parent.iterdir()) == [out]


async def test_a_file_of_calls_that_is_no_database_is_told_with_what_to_do(out: Path) -> None:
    first = ScriptedEndpoint(["A draft."])
    await cut_off(out, first)
    kept(out).write_bytes(b"something else" * 99)
    for end in ("-wal", "-shm"):
        kept(out).with_name(f"{kept(out).name}{end}").unlink(missing_ok=True)
    with pytest.raises(ConfigError):
        await go(out, drafting(first, ScriptedEndpoint(["Fine."])), texts("a"))
