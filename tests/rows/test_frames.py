"""Frames and lists: many inputs where nothing is awaited, and tables in and out."""

from __future__ import annotations

import asyncio
import threading
from enum import Enum
from importlib import import_module
from typing import Any

import pytest
from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.agents.base import TypedNode
from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.agents.sentiment import Sentiment
from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointUnavailable
from moa.core.node import Dropped, Reply
from moa.graphs import Graph
from moa.testing import SimulatedEndpoint

TEXTS = ["Lovely!", "Awful.", "Fine"]


def shouting() -> Agent[str | BaseModel, Reply]:
    return Agent(SimulatedEndpoint(rule=lambda _: "As always."), "Answer.")


@pytest.mark.parametrize("part", ["_cells_in", "_add_columns"])
def test_a_frame_is_read_and_widened_in_the_thread_that_asks(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas: Any = import_module("pandas")
    threads: list[threading.Thread] = []
    frames: Any = import_module("moa.rows.frames")
    real = getattr(frames, part)

    def told(*given: Any, **named: Any) -> Any:
        threads.append(threading.current_thread())
        return real(*given, **named)

    monkeypatch.setattr(frames, part, told)
    mood().map_frame(pandas.DataFrame({"text": TEXTS}), column="text")
    assert threads == [threading.current_thread()]


def mood() -> Sentiment:
    return Sentiment(SimulatedEndpoint(rule=lambda text: {"sentiment": {"positive": 0.9}}))


class Topic(Enum):
    CARD = "card"
    APP = "app"


class Pair(BaseModel):
    left: int
    right: int


class Sum(BaseModel):
    total: int


class Adds(TypedNode[Pair, Sum]):
    async def answer(self, request: Pair, context: RunContext) -> Sum:
        return Sum(total=request.left + request.right)


@pytest.fixture(params=["pandas", "polars"])
def frame_of(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(request.param)
    return import_module(request.param).DataFrame


def test_a_list_comes_back_in_the_order_of_its_inputs() -> None:
    items = mood().map_sync(TEXTS)
    assert [item.input for item in items] == TEXTS
    assert [item.output and item.output.label for item in items] == ["positive"] * 3


async def test_a_list_is_mapped_where_a_loop_runs_already() -> None:
    await asyncio.sleep(0)
    assert len(mood().map_sync(TEXTS)) == 3


def test_progress_is_told_after_each_input_with_how_many_there_are() -> None:
    told: list[tuple[int, int | None]] = []
    mood().map_sync(TEXTS, progress=lambda done, total: told.append((done, total)))
    mood().map_sync(iter(TEXTS[:1]), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3), (1, None)]


def test_no_bar_is_shown_where_nobody_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    mood().map_sync(TEXTS, progress=True)
    assert capsys.readouterr() == ("", "")


def test_a_frame_comes_back_with_the_fields_of_the_outputs(frame_of: Any) -> None:
    frame = frame_of({"body": TEXTS, "id": [7, 8, 9]})
    found = mood().map_frame(frame, column="body")
    assert type(found) is type(frame)
    assert list(found["label"]) == ["positive"] * 3
    assert list(found["id"]) == [7, 8, 9]
    assert list(frame.columns) == ["body", "id"]


def test_columns_that_are_there_already_are_kept(frame_of: Any) -> None:
    agent = shouting()
    found = agent.map_frame(agent.map_frame(frame_of({"text": TEXTS})))
    assert list(found["text"]) == TEXTS
    assert list(found["agent_agent_text"]) == list(found["agent_text"]) == ["As always."] * 3


def test_a_cell_without_a_text_is_an_error_of_its_row(frame_of: Any) -> None:
    found = mood().map_frame(frame_of({"text": ["Lovely!", None]}))
    first, second = found["error"]
    assert not isinstance(first, str)
    assert "line 2 is malformed: 'text' is no text" in second


def test_a_row_as_a_whole_is_what_a_node_takes(frame_of: Any) -> None:
    found = Adds().map_frame(frame_of({"left": [1, 2], "right": [3, 4]}), column=None)
    assert list(found["total"]) == [4, 6]


def test_a_graph_that_gives_one_of_two_models_has_the_columns_of_both(frame_of: Any) -> None:
    def either(text: str) -> Reply | Dropped:
        return Dropped(reason="too short") if len(text) < 5 else Reply(text="Thank you.")

    g = Graph("desk", str)
    graph = g.build(g.add(either, g.input))
    found = graph.map_frame(frame_of({"body": TEXTS}), column="body")
    assert list(found.columns) == ["body", "text", "reason", "error"]


def test_yes_or_no_stays_that_where_a_row_failed(frame_of: Any) -> None:
    spam = Filter(SimulatedEndpoint(rule=lambda _: {"filter": {"yes": 0.9}}), "spam", action="drop")
    found = spam.map_frame(frame_of({"text": ["WIN", None]}))
    assert str(found["met"].dtype).lower() == "boolean"
    assert (~found["met"]).to_list()[0] is False


def test_a_label_of_an_enum_is_written_by_its_value_where_a_row_failed(frame_of: Any) -> None:
    topics = Classifier(SimulatedEndpoint(rule=lambda _: {"classifier": {"card": 0.9}}), Topic)
    found = topics.map_frame(frame_of({"text": ["My card", None]}))
    assert found["label"].to_list()[0] == "card"


def test_a_misspelt_column_is_named_with_the_nearest(frame_of: Any) -> None:
    with pytest.raises(ConfigError, match="'txt'"):
        mood().map_frame(frame_of({"text": TEXTS}), column="txt")


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(ConfigError):
        mood().map_frame(TEXTS)


@pytest.mark.parametrize("texts", [["a"], []])
def test_a_frame_has_the_columns_of_the_output_though_no_row_went_well(texts: list[str]) -> None:
    node = Sentiment(SimulatedEndpoint(rule=lambda _: EndpointUnavailable("off", endpoint="a")))
    pandas = import_module("pandas")
    frame = node.map_frame(pandas.DataFrame({"text": texts}))
    assert {"label", "confidence", "error"} <= {*frame.columns}
