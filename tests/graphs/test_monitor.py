"""A monitor: windows in order, and a report only where something has changed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.agents.classifier import Classifier
from moa.agents.filter import Verdict
from moa.core._async import map_async
from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointUnavailable
from moa.core.node import Result
from moa.core.questions import Choice, Predicate, Score
from moa.core.trace import TextDelta
from moa.decisions.drift import find_label_shifts, fisher_p_value
from moa.endpoints import Endpoint
from moa.recipes.monitor import Item, Monitor, Observation, Report, read_labels
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, Step

from . import clock

DOWN = EndpointUnavailable("refused", endpoint="small")


def decide(text: str) -> Step:
    """Texts are labels here; `down` fails."""
    return DOWN if text == "down" else {"topic": {text.split()[0]: 0.9}}


def topics(**settings: Any) -> Classifier[str]:
    small = SimulatedEndpoint(name="small", rule=decide, **settings)
    return Classifier(small, ["card", "app"], none=False, name="topic")


def reporter(*steps: Step) -> ScriptedEndpoint:
    return ScriptedEndpoint(name="large", tier="llm", steps=steps or ["Apps crash."])


def watching(writer: Endpoint | None, **settings: Any) -> Monitor:
    given: Any = {"window": None if "seconds" in settings else 10, **settings}
    return Monitor(decider=topics(), writer=writer, **given)


async def reports(
    watched: Monitor, texts: Sequence[str], start: datetime | None = None
) -> dict[int, Report]:
    """Run one after another, each a minute after the one before; the reports by their place."""
    found: dict[int, Report] = {}
    for place, text in enumerate(texts, start=1):
        at = start and start + timedelta(minutes=place)
        report = (await watched.run(Item(text=text, at=at))).output.report
        if report is not None:
            found[place] = report
    return found


async def stream(*texts: str) -> AsyncIterator[Item]:
    for text in texts:
        yield Item(text=text)


CALM, CHANGED = ["card", "card", "card", "app"] * 10, ["app crash"] * 20


async def test_a_change_is_reported_at_the_end_of_its_window() -> None:
    large = reporter()
    watched = watching(large)
    found = await reports(watched, CALM + CHANGED)
    (place,) = found
    report = found[place]
    assert place % 10 == 0
    assert place > len(CALM)
    assert (report.text, report.written, report.window) == ("Apps crash.", True, place // 10)
    assert {(one.question, one.label) for one in report.moved} == {
        ("topic", "card"),
        ("topic", "app"),
    }
    (app,) = [f for f in report.figures if f.label == "app"]
    assert (app.reference, app.window, app.count) == (0.25, 1.0, 10)
    assert report.examples == {"topic: app": ("app crash",) * 3}
    asked = large.prompts[0].messages[-1].content
    assert "app crash" in asked
    assert asked.startswith("<data>")


async def test_while_nothing_changes_the_large_model_is_not_asked() -> None:
    assert await reports(watching(reporter()), CALM * 4) == {}


async def test_after_a_report_there_is_a_new_reference() -> None:
    large = reporter("first", "second")
    found = await reports(watching(large), CALM + ["app"] * 100 + ["card"] * 30)
    assert [report.text for report in found.values()] == ["first", "second"]


async def test_a_label_that_was_not_there_before_is_a_change() -> None:
    found = await reports(watching(reporter()), ["card"] * 40 + CHANGED)
    (report,) = found.values()
    assert {one.label for one in report.moved} == {"card", "app"}
    assert "topic: app" in report.examples


@given(order=st.permutations(range(60)), down=st.sets(st.integers(0, 59), max_size=5))
@settings(max_examples=8, deadline=None)
def test_the_order_of_completion_does_not_matter(order: list[int], down: set[int]) -> None:
    texts = ["down" if i in down else text for i, text in enumerate(CALM + CHANGED)]

    class Late:
        name = "late"

        def __init__(self, seconds: Sequence[int]) -> None:
            self.seconds = iter([*seconds, 0])

        async def run(self, request: str, context: RunContext | None = None, /) -> Any:
            await asyncio.sleep(next(self.seconds))
            return await topics().run(request, context)

    async def told(seconds: Sequence[int]) -> list[Report]:
        watched = Monitor(decider=Late(seconds), writer=None, window=10)
        runs = (watched.run(Item(text=text)) for text in texts)
        results = await asyncio.gather(*runs, return_exceptions=True)
        results.append(await watched.run(Item(text="card")))  # where the last one failed it tells
        outputs = [result.output for result in results if isinstance(result, Result)]
        return [output.report for output in outputs if output.report is not None]

    assert clock.run(told(order)) == clock.run(told(range(60)))


def counted(share: float, items: int, rng: random.Random) -> dict[str, dict[str, int]]:
    """Three labels, the first of them with this share."""
    labels = rng.choices("xyz", weights=[share, 0.3, 0.7 - share], k=items)
    return {"topic": {label: labels.count(label) for label in set(labels)}}


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_false_alarms_are_as_rare_as_promised(alpha: float) -> None:
    rng, runs, alarms = random.Random(7), 250, 0
    for _ in range(runs):
        reference = counted(0.2, 200, rng)
        windows = [counted(0.2, 50, rng) for _ in range(4)]
        alarms += bool(find_label_shifts(reference, windows, alpha=alpha))
    assert 0 < alarms / runs <= alpha


def test_a_share_that_doubles_is_found_out_within_four_windows() -> None:
    rng, runs, found = random.Random(3), 100, 0
    for _ in range(runs):
        reference = counted(0.2, 200, rng)
        windows = [counted(0.4, 50, rng) for _ in range(4)]
        found += any(find_label_shifts(reference, windows[:n], alpha=0.001) for n in range(1, 5))
    assert found / runs > 0.8


@pytest.mark.parametrize(
    ("counts", "p"),
    [  # the classical tables, and what R's fisher.test says of one side, doubled
        pytest.param((3, 4, 1, 4), 2 * 17 / 70, id="Fisher's tea"),
        pytest.param((4, 4, 0, 4), 2 / 70, id="all of them"),
        pytest.param((0, 0, 1, 4), 1.0, id="nothing came"),
        pytest.param((1, 4, 1, 4), 1.0, id="the same"),
    ],
)
def test_the_exact_test_gives_known_values(counts: tuple[int, int, int, int], p: float) -> None:
    assert fisher_p_value(*counts) == pytest.approx(p)


@pytest.mark.parametrize("writer", [None, reporter(EndpointUnavailable("no", endpoint="large"))])
async def test_a_report_that_nobody_can_write_holds_the_figures(writer: Endpoint | None) -> None:
    watched = watching(writer)
    (report,) = (await reports(watched, CALM + CHANGED)).values()
    assert not report.written
    assert "topic: 'app' is more frequent, 100 % in the latest window" in report.text
    assert "windows" in watched.draw().mermaid


async def test_a_change_survives_the_item_that_was_to_tell_of_it() -> None:
    watched = watching(reporter())
    await reports(watched, CALM + CHANGED[:9])
    with pytest.raises(EndpointUnavailable):
        await watched.run(Item(text="down"))
    assert list(await reports(watched, ["app"])) == [1]


async def test_a_file_keeps_the_windows(tmp_path: Path) -> None:
    file = tmp_path / "windows.json"
    whole = await reports(watching(reporter()), CALM + CHANGED)
    found: dict[int, Report] = {}
    for place, text in enumerate(CALM + CHANGED, start=1):  # a new process for each item
        for report in (await reports(watching(reporter(), state=file), [text])).values():
            found[place] = report
    assert found == whole


async def test_a_change_that_nobody_told_of_is_kept_for_the_next_process(tmp_path: Path) -> None:
    file = tmp_path / "windows.json"
    hanging = SimulatedEndpoint(tier="llm", latency_s=3600, rule=lambda _: "never")
    watched = watching(hanging, state=file)
    await reports(watched, CALM)
    await reports(watched, CHANGED[:9])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await watched.run(Item(text=CHANGED[9]))
    found = await reports(watching(reporter(), state=file), ["card"])
    assert list(found) == [1]


def test_a_broken_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "windows.json"
    file.write_text("{")
    with pytest.raises(ConfigError, match="keeps the windows of a monitor"):
        watching(reporter(), state=file)


async def test_windows_go_by_time() -> None:
    watched = watching(reporter(), seconds=600, reference=3)
    found = await reports(watched, CALM + CHANGED, datetime(2026, 1, 1, tzinfo=UTC))
    ((place, report),) = found.items()
    assert place % 10 == 1  # the first item after the window
    assert report.items == 10


async def test_empty_times_are_no_windows() -> None:
    watched = watching(reporter(), seconds=60)
    day = datetime(2026, 1, 1)
    for days in range(3):
        await watched.run(Item(text="card", at=day + timedelta(days=days)))
    assert watched.windows.state.window.number == 3


async def test_a_stream_is_watched_past_an_item_that_failed() -> None:
    found = watching(reporter()).map(stream(*CALM, "down", *CHANGED), ordered=True)
    items = [item async for item in found]
    assert [place for place, item in enumerate(items) if item.error is not None] == [40]
    assert sum(item.output is not None and item.output.report is not None for item in items) == 1


async def test_the_report_is_streamed_while_it_is_written() -> None:
    watched = watching(reporter())
    await reports(watched, CALM)
    events = [e for text in CHANGED async for e in watched.stream(Item(text=text))]
    pieces = [event.text for event in events if isinstance(event, TextDelta)]
    assert "".join(pieces) == "Apps crash."


async def test_the_report_comes_with_the_item_that_completes_its_window() -> None:
    released = asyncio.Event()

    class Hanging:
        name = "hanging"

        async def run(self, request: str, context: RunContext | None = None, /) -> Any:
            if request == "app hangs":
                await released.wait()
            return await topics().run(request, context)

    watched = Monitor(decider=Hanging(), writer=reporter(), window=10)
    await reports(watched, CALM)
    async with asyncio.TaskGroup() as group:
        late = group.create_task(watched.run(Item(text="app hangs")))
        await asyncio.sleep(0)
        assert not await reports(watched, CHANGED[:9])
        released.set()
    report = late.result().output.report
    assert report is not None
    assert (report.window, report.examples["topic: app"][0]) == (5, "app hangs")


def test_labels_are_read_from_any_decision() -> None:
    class Triage(BaseModel):
        refund: Predicate
        topic: Choice[str]
        urgency: Score
        missing: Predicate

    triage = Triage(
        refund=Predicate(value=True),
        topic=Choice[str](label=None),
        urgency=Score(value=1.2, level="today"),
        missing=Predicate(status="missing"),
    )
    assert read_labels(triage) == {"refund": "yes", "topic": "none of these", "urgency": "today"}
    assert read_labels(Verdict(kept=False, reason="", confidence=None, met=True)) == {
        "filter": "dropped"
    }


def test_labels_are_read_from_the_models_in_a_decision() -> None:
    class Reading(BaseModel):
        spam: Verdict
        topic: Choice[str]

    class Read(BaseModel):
        text: str
        decisions: Reading | None

    spam = Verdict(kept=True, reason="", confidence=None, met=False)
    read = Read(text="x", decisions=Reading(spam=spam, topic=Choice[str](label="app")))
    assert read_labels(read) == {"decisions.spam": "kept", "decisions.topic": "app"}
    assert read_labels(Read(text="x", decisions=None)) == {}


async def test_a_node_that_decides_nothing_is_refused() -> None:
    writer = Agent(SimulatedEndpoint(rule=lambda _: "Hm."), "Answer.")
    with pytest.raises(ConfigError, match="holds no labels to watch"):
        await Monitor(decider=writer, writer=None).run(Item(text="x"))


async def test_what_is_kept_of_other_labels_is_not_compared(tmp_path: Path) -> None:
    file = tmp_path / "windows.json"
    await reports(watching(None, state=file), CALM)
    small = SimulatedEndpoint(name="small", rule=decide)
    other = Classifier(small, ["card", "app", "loan"], none=False, name="topic")
    watched = Monitor(decider=other, writer=None, window=10, state=file)
    first = await watched.run(Item(text="app"))
    assert any("counted anew" in note.text for note in first.trace)
    assert watched.windows.state.window.number == 1
    assert not watched.windows.state.learned
    assert not await reports(watched, CHANGED)


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_the_report_stands_at_its_window_however_many_items_run_at_once(
    concurrency: int, tmp_path: Path
) -> None:
    small = SimulatedEndpoint(rule=lambda text: {"topic": {text: 0.9}})
    large = SimulatedEndpoint(tier="llm", rule=lambda _: "Told.")
    topic = Classifier(small, ["card", "app"], none=False, name="topic")
    node = Monitor(decider=topic, writer=large, window=10, state=tmp_path / "kept.json")
    context = RunContext(keep_notes=False)

    async def seen(text: str) -> Observation:
        return (await node.run(Item(text=text), context)).output

    texts = ["card", "card", "card", "app"] * 10 + ["app"] * 20
    found = await map_async(seen, texts, max_concurrency=concurrency)
    reports = {n: one.report.text for n, one in enumerate(found, 1) if one.report}
    assert reports == {50: "Told."}
