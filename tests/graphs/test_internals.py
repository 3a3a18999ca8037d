"""What durable runs use of LangGraph beyond its public interface; what fails here has moved."""

from __future__ import annotations

import asyncio
import sqlite3
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from packaging.requirements import Requirement

from moa.adapters.langgraph.internals import (
    FORGOTTEN,
    Task,
    can_ask,
    message_callbacks,
    pending_questions,
    question_id,
)
from moa.core.errors import NotResumable
from moa.core.journal import explain

from .killed import THREAD


def test_the_minor_version_of_langgraph_is_pinned() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    needs = [Requirement(need) for need in project["project"]["dependencies"]]
    (langgraph,) = [need.specifier for need in needs if need.name == "langgraph"]
    assert "1.2.99" in langgraph
    assert "1.3.0" not in langgraph


def workflow(look: Callable[[], object], saver: Any = None) -> Any:
    """A graph of LangGraph's alone, which looks at its task."""

    async def work(request: str) -> Any:
        return look()

    made: Any = entrypoint(saver)
    return made(work)


async def test_a_task_knows_its_checkpointer_and_has_a_scratchpad_for_itself() -> None:
    saver, tasks = InMemorySaver(), list[Task]()
    graph = workflow(lambda: tasks.append(Task()), saver)
    await graph.ainvoke("x", THREAD)
    await graph.ainvoke("x", THREAD)
    first, second = tasks
    assert first.saver is saver
    assert first.scratchpad is not None
    assert first.scratchpad is not second.scratchpad
    assert not first.is_streamed
    assert workflow(lambda: 1).checkpointer is None


async def test_questions_are_known_by_ids_that_langgraph_gives_them() -> None:
    saver: Any = InMemorySaver()
    found: dict[str, object] = {}

    def ask_twice() -> str:
        task = Task()
        found["namespace"] = task.config.get("configurable", {})["checkpoint_ns"]
        return f"{interrupt('name?')} {interrupt('age?')}"

    graph = workflow(ask_twice, saver)
    first = (await graph.ainvoke("x", THREAD))["__interrupt__"][0].id
    second = (await graph.ainvoke(Command(resume="Ada"), THREAD))["__interrupt__"][0].id
    assert [first, second] == [question_id(str(found["namespace"]), n) for n in (0, 1)]
    written = (await saver.aget_tuple(THREAD)).pending_writes
    (task,) = {at for at, channel, _ in written if channel == "__interrupt__"}
    assert pending_questions(written, task) == {second}


@pytest.mark.parametrize("by_id", [False, True])
async def test_an_answer_is_found_in_the_task_once(by_id: bool) -> None:
    seen: list[object] = []

    def look() -> str:
        task = Task()
        seen.append(dict(task.answers) or task.take_answer())
        seen.append(task.take_answer())
        return interrupt("well?")

    graph = workflow(look, InMemorySaver())
    asked = (await graph.ainvoke("x", THREAD))["__interrupt__"][0].id
    given: object = {asked: "yes"} if by_id else "yes"
    await graph.ainvoke(Command(resume=given), THREAD)
    assert seen == [None, None, given, None]


async def test_an_answer_that_is_taken_back_is_not_given_to_the_next_question() -> None:
    saver: Any = InMemorySaver()
    task_of: list[object] = []

    def stop() -> object:
        task_of.append(Task().config.get("configurable", {}))
        raise ValueError("stopped")

    graph = workflow(lambda: interrupt("well?") if not task_of else stop(), saver)
    await graph.ainvoke("x", THREAD)
    task_of.append(None)
    with pytest.raises(ValueError, match="stopped"):
        await graph.ainvoke(Command(resume="yes"), THREAD)
    at = (await saver.aget_tuple(THREAD)).config
    task, channel, value = FORGOTTEN
    await saver.aput_writes(at, [(channel, value)], task)
    seen: list[object] = []
    again = workflow(lambda: seen.append(Task().take_answer()), saver)
    await again.ainvoke(None, THREAD)
    assert seen == [None]


class State(TypedDict, total=False):
    text: str


@pytest.mark.parametrize("subgraphs", [False, True])
async def test_a_task_knows_whether_a_graph_around_it_streams(subgraphs: bool) -> None:
    seen: list[bool] = []
    inner = workflow(lambda: seen.append(Task().is_streamed))

    async def ask(state: State) -> State:
        await inner.ainvoke("x")
        return state

    builder: Any = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    graph = builder.compile()
    _ = [part async for part in graph.astream({}, stream_mode="custom", subgraphs=subgraphs)]
    assert seen == [subgraphs]


async def test_callbacks_that_stream_messages_are_told_apart() -> None:
    seen: list[bool] = []
    graph = workflow(lambda: seen.append(message_callbacks(Task().config) is not None))
    _ = [part async for part in graph.astream("x", stream_mode="messages")]
    await graph.ainvoke("x")
    assert seen == [True, False]


def first_write(saver: Any, blocking: bool) -> object:
    at: Any = {"configurable": {**THREAD["configurable"], "checkpoint_ns": "", "checkpoint_id": ""}}
    saver.put(at, {"id": "1", "channel_values": {}, "channel_versions": {}}, {}, {})
    at["configurable"]["checkpoint_id"] = "1"
    for value in ("mine", "yours"):
        if blocking:
            saver.put_writes(at, [("__moa__", value)], "answer/1")
        else:
            asyncio.run(saver.aput_writes(at, [("__moa__", value)], "answer/1"))
    return [value for _, _, value in saver.get_tuple(at).pending_writes]


def test_a_checkpointer_keeps_the_first_value_under_a_key(tmp_path: Path) -> None:
    assert first_write(InMemorySaver(), blocking=False) == ["mine"]
    database = sqlite3.connect(tmp_path / "kept.db", check_same_thread=False)
    assert first_write(SqliteSaver(database), blocking=True) == ["mine"]
    database.close()


def test_who_asks_outside_of_langgraph_is_told_what_to_do_and_other_errors_stay() -> None:
    from langgraph.config import get_config

    assert not can_ask()
    with pytest.raises(RuntimeError) as asked:
        interrupt("well?")
    assert isinstance(explain(asked.value, "node"), NotResumable)
    with pytest.raises(RuntimeError) as other:
        get_config()
    assert explain(other.value, "node") is other.value
