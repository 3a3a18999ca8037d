"""A cascade that learns: who is asked, what is kept, and what is answered small."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from decimal import Decimal
from itertools import cycle
from pathlib import Path
from typing import Any, Never, cast

import pytest
from command import moa
from disks import room

from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.cli.row_display import summary
from moa.config import load
from moa.config.endpoints import Endpoints
from moa.config.loading import load_graph
from moa.core._terminal import Console
from moa.core.batch import map_rows
from moa.core.budget import Budget
from moa.core.context import Reference, RunContext
from moa.core.errors import ConfigError, EndpointUnauthorized, EndpointUnavailable, StoreError
from moa.core.journal import Journal
from moa.core.questions import Choice
from moa.core.usage import UNKNOWN_PRICE, CostEstimate, Price, Usage
from moa.decisions.acceptance import Confident
from moa.endpoints.wrappers import Cached
from moa.graphs.cascade import Cascade, CascadeResult
from moa.learning import looks as module
from moa.learning import recording
from moa.learning.answers import AnswerStore
from moa.learning.epochs import PlannedLook
from moa.learning.figures import LearningFigures, figures_of
from moa.learning.student import Student
from moa.rows.tally import Tally
from moa.studio.sources import View, _answers, find_source  # pyright: ignore[reportPrivateUsage]
from moa.testing import SimulatedEndpoint, Step

LABELS = ["card", "app"]
PROCESS = Path(__file__).with_name("learning_process.py")
Topic = Cascade[str, Choice[str]]


def fixed(n: int) -> str:
    return "5e" * n


def other_secret(n: int) -> str:
    return "a1" * n


@pytest.fixture(autouse=True)
def small_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at fewer texts, so that a test takes fewer; and toss the same coin in each test."""
    plan = (PlannedLook(0.05, held_out=90),)
    monkeypatch.setattr(module, "LOOKS", plan)
    monkeypatch.setattr("moa.learning.epochs._LIKELY", 0.25)
    monkeypatch.setattr("moa.learning.figures.LOOKS", plan)
    monkeypatch.setattr("moa.learning.answers.secrets.token_hex", fixed)


class Stream:
    """Texts of which the small node knows the label, and the large one says it."""

    def __init__(self, where: Path | str, **learn: object) -> None:
        self.small_asked = list[str]()
        self.large_asked = list[str]()
        self.turned = False
        self.constant = False
        """True if the large node says "card", whatever the text."""
        self.down = False
        self.disk = ExitStack()
        self.fills_at = 0
        """Number of calls of the large node at which the disk is full; 0: it never is."""
        self.where = where
        self._learn = {"where": where, **learn}
        self._draw = random.Random(0)
        self._count = 0

    def cascade(
        self, price: Price = UNKNOWN_PRICE, model: str = "large-1", **settings: Any
    ) -> Topic:
        small = SimulatedEndpoint(name="small", rule=self._small)
        large = SimulatedEndpoint(
            name="large", tier="llm", model=model, rule=self._large, price=price
        )
        first, last = Classifier(small, LABELS), Classifier(large, LABELS, **settings)
        return Cascade(small=first, large=last, learn=self._learn)  # type: ignore[arg-type]

    def texts(self, n: int) -> list[str]:
        self._count += n
        numbers = range(self._count - n, self._count)
        return [f"my {self._draw.choice(LABELS)} is number {i:04} of them" for i in numbers]

    def _small(self, text: str) -> Step:
        self.small_asked.append(text)
        return {"classifier": {"card" if "card" in text else "app": 0.8}}

    def _large(self, text: str) -> Step:
        self.large_asked.append(text)
        if len(self.large_asked) == self.fills_at:
            self.disk.enter_context(room(1))
        if self.down:
            return EndpointUnavailable("no", endpoint="large")
        is_card = self.constant or ("card" in text) != self.turned
        return {"classifier": {"card" if is_card else "app": 1.0}}


def student_of(cascade: Cascade[Any, Any]) -> Student[Any]:
    assert cascade.student is not None
    return cast("Student[Any]", cascade.student)


async def go(cascade: Topic, texts: list[str]) -> list[CascadeResult[Choice[str]]]:
    found = [await cascade.run(text) for text in texts]
    (await student_of(cascade).ready()).wait()
    return found


def remove(path: Path) -> None:
    path.unlink()


async def figures(cascade: Topic) -> LearningFigures:
    return figures_of((await student_of(cascade).ready()).store)


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return Stream(tmp_path / "answers.db")


async def learned(stream: Stream) -> Topic:
    cascade = stream.cascade()
    await go(cascade, stream.texts(220))
    assert (await figures(cascade)).looks[0].in_use
    return cascade


async def test_at_first_all_goes_to_the_large_node_and_what_is_learned_is_answered_small(
    stream: Stream,
) -> None:
    cascade = stream.cascade()
    texts = stream.texts(220)
    found = await go(cascade, texts)
    assert {one.by for one in found[:170]} == {"classifier"}
    assert {one.tier for one in found[:170]} == {1}
    asked = len(stream.large_asked)
    after = await go(cascade, stream.texts(60))
    small = [one for one in after if one.tier == 0]
    assert len(small) > 50
    assert all(one.accepted and one.output.accepted for one in small)
    assert len(stream.large_asked) - asked >= 60 - len(small)
    now = await figures(cascade)
    assert now.by_small >= len(small)
    assert "95 % probability" in now.summary


async def test_an_accepted_input_makes_no_call_of_the_large_node(stream: Stream) -> None:
    cascade = await learned(stream)
    for text in stream.texts(40):
        stream.large_asked.clear()
        settled = await cascade.run(text)
        assert (settled.tier == 0) == (not stream.large_asked)


async def test_runs_of_an_owner_learn_from_texts_of_that_owner_alone(stream: Stream) -> None:
    cascade = stream.cascade()
    for owner, count in (("", 3), ("team", 5)):
        for text in stream.texts(count):
            own = RunContext()
            own.owner = owner
            await cascade.run(text, own)
    team = RunContext()
    team.owner = "team"
    kept = [(await student_of(cascade).ready(one)).store for one in (RunContext(), team)]
    assert [figures_of(store).inputs for store in kept] == [3, 5]
    assert Path(kept[1].location).name == "answers.team.db"


async def test_the_large_node_sees_what_the_input_is_and_nothing_else(stream: Stream) -> None:
    cascade = stream.cascade()
    texts = stream.texts(20)
    await go(cascade, texts)
    assert set(stream.large_asked) == set(texts)


async def test_inputs_that_are_held_out_go_to_the_large_node_for_good(stream: Stream) -> None:
    cascade = await learned(stream)
    store = (await student_of(cascade).ready()).store
    later = [t for t in stream.texts(400) if store.coin.toss(t).is_held_out(1)]
    found = await go(cascade, later)
    assert later
    assert {one.tier for one in found} == {1}


async def test_small_answers_are_no_labels(stream: Stream) -> None:
    cascade = await learned(stream)
    store = (await student_of(cascade).ready()).store
    before = len(store.read_fit_rows(store.read_state(), 10_000, 10_000))
    found = await go(cascade, stream.texts(40))
    assert any(one.tier == 0 for one in found)
    assert len(store.read_fit_rows(store.read_state(), 10_000, 10_000)) - before <= sum(
        one.tier == 1 for one in found
    )


async def test_another_process_goes_on_with_what_was_learned(stream: Stream) -> None:
    await learned(stream)
    other = stream.cascade()
    found = await go(other, stream.texts(20))
    assert any(one.tier == 0 for one in found)


async def test_rows_side_by_side_in_two_cascades_share_one_look(stream: Stream) -> None:
    both = stream.cascade(), stream.cascade()
    texts = stream.texts(240)
    for at in range(0, 240, 6):
        async with asyncio.TaskGroup() as group:
            for number, text in enumerate(texts[at : at + 6]):
                group.create_task(both[number % 2].run(text))
    for one in both:
        await go(one, stream.texts(2))
    now = await figures(both[0])
    assert [look.look for look in now.looks] == [1]
    assert now.inputs == 244


async def test_a_large_node_that_answers_otherwise_withdraws_the_promise(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    cascade = await learned(stream)
    monkeypatch.setattr("moa.learning.epochs.HELD_LATER", 0.3)
    stream.turned = True
    found = await go(cascade, stream.texts(60))
    now = await figures(cascade)
    assert [epoch.epoch for epoch in now.epochs] == [1, 2]
    assert now.epochs[1].why.startswith("audit")
    assert "Nothing is guaranteed yet in epoch 2" in now.promise
    assert found[-1].tier == 1


async def test_a_call_that_fails_gives_a_guess_and_counts_as_a_difference(stream: Stream) -> None:
    cascade = stream.cascade()
    stream.down = True
    found = await go(cascade, stream.texts(4))
    assert {(one.accepted, one.tier) for one in found} == {(False, 0)}
    store = (await student_of(cascade).ready()).store
    assert all(label is None for label in store.read_test_rows(store.read_state(), 99).labels)
    assert (await figures(cascade)).missing == store.count_held_out(store.read_state()) > 0


async def test_figures_are_those_of_the_results(stream: Stream) -> None:
    cascade = stream.cascade(price=Price(input=100, output=200))  # a call costs 0.002
    texts = stream.texts(330)
    found = await go(cascade, texts[:220])
    stream.down = True
    found += await go(cascade, texts[220:280])
    stream.down = False
    found += await go(cascade, texts[280:])
    now = await figures(cascade)
    spent = [one.usage.by_tier().get("llm", Usage()) for one in found]
    assert now.calls == sum(one.calls for one in spent) == len(stream.large_asked)
    assert now.spent == pytest.approx(float(sum(one.cost or 0 for one in spent)))
    small = sum(one.tier == 0 and one.accepted for one in found)
    assert now.by_small == small > 0
    assert now.saved == pytest.approx(0.002 * small)
    assert all(hundred.would == hundred.calls for hundred in now.hundreds)


async def test_a_large_model_that_says_one_label_for_every_text_is_told_across_processes(
    stream: Stream, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    stream.constant = True
    await go(stream.cascade(), stream.texts(30))
    assert (await figures(stream.cascade())).doubt == ""
    cascade = stream.cascade()
    found = await go(cascade, stream.texts(30))
    (await student_of(cascade).ready()).join()
    assert {one.output.label for one in found if one.tier == 1} == {"card"}  # it stops nothing
    doubt = (await figures(cascade)).doubt
    assert "the label 'card'" in doubt
    assert len([one for one in caplog.records if "the label 'card'" in one.getMessage()]) == 1
    capfd.readouterr()
    assert moa("learn", "status", stream.where) == 0
    assert "the label 'card'" in " ".join(capfd.readouterr().err.split())
    overview = View(find_source(str(stream.where))).overview()
    (doubtful,) = [one for one in overview.figures if one.value == "doubtful"]
    assert doubtful.detail == doubt


async def test_the_large_model_alone_is_one_call_an_input_in_run_and_status(
    stream: Stream,
) -> None:
    price = Price(input=100, output=200)  # a call costs 0.002
    context = RunContext(reference=Reference(endpoint="large", price=price))
    tally, cascade, texts = Tally(), stream.cascade(price=price), stream.texts(270)
    alone = list[CostEstimate | None]()
    async for item in map_rows(cascade, texts, context, max_concurrency=1):
        tally.add(item)
        alone.append(item.result and item.result.llm_alone)
        (await student_of(cascade).ready()).wait()
    console = Console(width=200)
    with console.capture() as shown:
        console.print(summary(tally, context.reference))
    assert "LLM alone, estimated" in shown.get()
    assert "US$ 0.54 (one call for each of 270 inputs" in shown.get()
    now = await figures(cascade)
    once = len(stream.large_asked) - now.asked_twice
    assert now.saved == pytest.approx(0.002 * (270 - once))
    assert now.by_small > 20
    assert {one.cost for one in alone if one} == {Decimal("0.002")}


async def test_what_was_tested_with_another_large_model_holds_no_longer(stream: Stream) -> None:
    await learned(stream)
    (same,) = await go(stream.cascade(), stream.texts(1))
    assert same.tier == 0
    cascade = stream.cascade(model="large-2")
    (other,) = await go(cascade, stream.texts(1))
    assert other.tier == 1
    assert (await figures(cascade)).epochs[1].why == "another large model: was large-1, is large-2"
    (again,) = await go(stream.cascade(model="large-2"), stream.texts(1))
    assert again.tier == 1
    assert len((await figures(cascade)).epochs) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"task": "Who has to answer it?"},
        {"describe": {"card": "only lost cards", "app": "all else"}},
        {"examples": [("my card is number 1", "app"), ("my app is number 2", "card")]},
    ],
)
async def test_what_was_tested_with_another_question_of_the_large_node_holds_no_longer(
    stream: Stream, change: dict[str, Any]
) -> None:
    await learned(stream)
    changed = stream.cascade(**change)
    (found,) = await go(changed, stream.texts(1))
    assert found.tier == 1
    now = await figures(changed)
    assert now.promise.startswith("Nothing is guaranteed yet in epoch 2")
    assert now.epochs[1].why.startswith("another large node: its")


async def test_a_large_node_that_is_a_graph_is_another_with_another_model_in_it(
    stream: Stream,
) -> None:
    def graph(model: str) -> Topic:
        of = stream.cascade(model=model)
        inner = Cascade[str, Choice[str]](
            small=of.large, large=stream.cascade(model="b").large, accept=Confident(0.5), name="big"
        )
        return Cascade(small=of.small, large=inner, learn=stream.where)

    await go(graph("large-1"), stream.texts(3))
    same = graph("large-1")
    await go(same, stream.texts(1))
    assert len((await figures(same)).epochs) == 1
    other = graph("large-2")
    await go(other, stream.texts(1))
    assert len((await figures(other)).epochs) == 2


async def test_a_process_whose_large_node_was_replaced_by_another_records_nothing(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    before = await learned(stream)
    after = stream.cascade(model="large-2")
    await go(after, stream.texts(1))
    found = [await before.run(text) for text in stream.texts(20)]
    assert {one.tier for one in found} == {1}
    assert (await figures(after)).inputs == 221
    (note,) = [note.text for note in found[0].trace if note.kind == "failed"]
    assert "those of another large node" in note
    warnings = [one for one in caplog.records if "another large node" in one.getMessage()]
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("damage", "restarted"),
    [
        ("update moa_learn_looks set head = substr(head, 1, length(head) - 40)", True),
        ("update moa_learn_looks set audit = '{\"risk\":'", True),
        ("update moa_learn_looks set audit = '{\"risk\":'", False),
        ("update moa_learn set secret = 'zz'", True),
        ("update moa_learn set secret = 'zz'", False),
        ("delete from moa_learn", False),
    ],
)
async def test_with_a_damaged_file_the_large_node_answers_and_it_is_told_once(
    stream: Stream,
    damage: str,
    restarted: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "RETRY_S", 0.0)
    cascade = await learned(stream)
    with sqlite3.connect(stream.where) as file:
        file.execute(damage)
    if restarted:
        cascade = stream.cascade()
    else:
        learning = await student_of(cascade).ready()
        learning.wake(10**6)  # the checks go on with what is stored
        learning.join()
    found = [await cascade.run(text) for text in stream.texts(20)]
    assert {(one.tier, one.accepted) for one in found} == {(1, True)}
    assert len([one for one in caplog.records if "damaged" in one.getMessage()]) == 1
    assert not [one for one in caplog.records if "recorded in" in one.getMessage()]


async def test_a_file_that_was_removed_under_a_process_is_noticed(
    stream: Stream, tmp_path: Path
) -> None:
    cascade = await learned(stream)
    remove(tmp_path / "answers.db")
    found = [await cascade.run(text) for text in stream.texts(20)]
    assert {one.tier for one in found} == {1}
    assert any("removed or replaced" in note.text for note in found[0].trace)


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyError])
async def test_a_call_that_is_cancelled_or_breaks_is_missing_at_once(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    async def run(*_: object) -> None:
        raise error

    cascade = stream.cascade()
    monkeypatch.setattr(cascade.large, "run", run)
    for text in stream.texts(4):
        with pytest.raises(error):
            await cascade.run(text)
    store = (await student_of(cascade).ready()).store
    assert store.last_answered_place() == store.last_place() == 4


async def store_of(cascade: Topic) -> AnswerStore:
    return (await student_of(cascade).ready()).store


async def test_on_a_full_disk_all_is_answered_no_paid_label_is_lost_and_what_was_kept_stays(
    stream: Stream, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "RETRY_S", 0.0)
    cascade = stream.cascade()
    before, unrecorded, after = (stream.texts(n) for n in (20, 10, 20))
    store = await store_of(cascade)
    texts = [text for text in before if not store.coin.toss(text).is_asked_twice]
    stream.fills_at = len(texts)
    with stream.disk:
        found = await go(cascade, texts)
        found += [await cascade.run(text) for text in unrecorded]
        assert all(one.tier == 1 and one.accepted and one.output.label for one in found)
        assert [any("aren't recorded" in note.text for note in one.trace) for one in found] == (
            [False] * len(texts) + [True] * len(unrecorded)
        )
        assert store.last_place() == len(texts)
    assert len([one for one in caplog.records if one.name == recording.__name__]) == 1
    await go(cascade, after)
    rows = store.read_figure_rows()
    assert len(rows) == len(texts) + len(after)
    assert all(row.done and row.label is not None for row in rows)
    assert not any(store.indices_of(store.coin.toss(text)) for text in unrecorded)
    with sqlite3.connect(stream.where) as file:
        assert file.execute("pragma integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("problem", ["full", "locked"])
async def test_answers_that_cant_be_opened_yet_stop_none(
    problem: str,
    stream: Stream,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "RETRY_S", 0.0)
    cascade, before = stream.cascade(), stream.texts(3)
    with ExitStack() as held:
        if problem == "full":
            held.enter_context(room(1))
        else:
            other = held.enter_context(closing(sqlite3.connect(tmp_path / "answers.db")))
            other.execute("begin exclusive")
        found = [await cascade.run(text) for text in before]
    assert all(one.tier == 1 and one.accepted and one.output.label for one in found)
    assert all(any("aren't recorded" in note.text for note in one.trace) for one in found)
    assert len([one for one in caplog.records if one.name == recording.__name__]) == 1
    await go(cascade, stream.texts(2))
    assert len((await store_of(cascade)).read_figure_rows()) == 2
    assert len(stream.large_asked) >= 5


async def test_an_input_that_is_tried_again_and_cant_be_recorded_is_still_one(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "RETRY_S", 0.0)
    cascade, text, kept = stream.cascade(), stream.texts(1)[0], dict[str, str]()
    asking = await ask_until_killed(cascade, text, kept)
    asking.cancel()  # so that its row has no answer
    await asyncio.wait([asking])
    with pytest.MonkeyPatch.context() as patch, room(1):
        patch.setattr(AnswerStore, "read_state", full)
        assert (await resume(cascade, text, kept)).tier == 1
    await go(cascade, stream.texts(1))
    assert (await figures(cascade)).inputs == 2


def full(*_: object) -> Never:
    raise StoreError("database or disk is full")


async def test_no_small_answer_is_used_while_it_cant_be_checked(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "RETRY_S", 0.0)
    cascade = await learned(stream)
    assert 0 in [(await cascade.run(text)).tier for text in stream.texts(10)]
    store = await store_of(cascade)
    with room(1):
        first, *others = [await cascade.run(text) for text in stream.texts(10)]
        assert all(one.accepted for one in (first, *others))
        assert {one.tier for one in others} == {1}
    there = store.last_place()
    assert 0 in [(await cascade.run(text)).tier for text in stream.texts(10)]
    assert store.last_place() == there + 11  # the row whose write was the first to fail, too


async def ask_until_killed(cascade: Topic, text: str, kept: dict[str, str]) -> asyncio.Task[None]:
    """Run until the large node is asked, and stop there for good. `kept` is what stays on disk."""
    is_asked, journal = asyncio.Event(), Journal("row", kept)

    async def run(*_: object) -> Never:
        is_asked.set()
        raise await asyncio.Future()

    async def live() -> None:
        context = RunContext()
        context.journal, journal.context = journal.root, context
        await cascade.run(text, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade.large, "run", run)
        task = asyncio.ensure_future(live())
        await is_asked.wait()
    kept |= journal.kept
    return task


async def resume(cascade: Topic, text: str, kept: dict[str, str]) -> CascadeResult[Choice[str]]:
    context, journal = RunContext(), Journal("row", kept)
    context.journal, journal.context = journal.root, context
    return await cascade.run(text, context)


async def test_a_row_that_was_in_flight_at_a_kill_is_one_input(stream: Stream) -> None:
    cascade = stream.cascade()
    killed: list[asyncio.Task[None]] = []
    for text in stream.texts(12):
        kept = dict[str, str]()
        killed.append(await ask_until_killed(cascade, text, kept))
        assert (await resume(cascade, text, kept)).tier == 1
    now = await figures(cascade)
    assert (now.inputs, now.missing, len(stream.large_asked)) == (12, 0, now.calls)
    assert now.hundreds[-1].last == 12
    for task in killed:
        task.cancel()


async def test_a_row_that_ended_without_an_answer_and_is_tried_again_is_one_input(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    cascade = stream.cascade()
    for text in stream.texts(12):
        kept = dict[str, str]()
        (await ask_until_killed(cascade, text, kept)).cancel()
        with monkeypatch.context() as later:  # as if an hour had passed
            later.setattr("moa.learning.answers.STALE_S", -1.0)
            (await student_of(cascade).ready()).store.last_answered_place()
        assert (await resume(cascade, text, kept)).tier == 1
    now = await figures(cascade)
    assert (now.inputs, now.missing) == (12, 0)
    assert now.calls == 12 + len(stream.large_asked)  # those in flight at a kill may be paid, too
    assert len(list(_answers(str(stream.where)).lines())) == 12


def refuse(*_: object) -> bool:
    return False


async def test_a_row_that_was_held_out_before_a_kill_is_held_out_when_it_is_resumed(
    stream: Stream,
) -> None:
    cascade = await learned(stream)
    store = (await student_of(cascade).ready()).store
    held = 0
    for text in stream.texts(20):
        kept = dict[str, str]()
        with pytest.MonkeyPatch.context() as before:  # as before the first look
            before.setattr("moa.learning.epochs.HELD_LATER", 0.5)
            before.setattr(Student, "may_answer", refuse)
            task = await ask_until_killed(cascade, text, kept)
        is_held = store.coin.toss(text).is_held_out(0)
        assert (await resume(cascade, text, kept)).tier == is_held
        held += is_held
        task.cancel()
    assert 0 < held < 20


async def test_a_row_of_another_file_is_not_taken_for_that_of_a_resumed_run(
    stream: Stream, tmp_path: Path
) -> None:
    text, kept = stream.texts(1)[0], dict[str, str]()
    task = await ask_until_killed(stream.cascade(), text, kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moa.learning.answers.secrets.token_hex", other_secret)
        other = Stream(tmp_path / "other.db").cascade()
        await go(other, ["my app is another one"])
    assert (await resume(other, text, kept)).tier == 1
    assert (await figures(other)).inputs == 2
    task.cancel()


async def test_a_call_that_a_budget_refuses_is_none(stream: Stream) -> None:
    cascade = stream.cascade()
    for text in stream.texts(4):
        found = await cascade.run(text, RunContext(budget=Budget(llm_calls=0)))
        assert not found.accepted
    assert (await figures(cascade)).calls == 0


async def test_an_answer_stays_though_the_budget_has_no_second_call(stream: Stream) -> None:
    cascade = stream.cascade()
    coin = (await student_of(cascade).ready()).store.coin
    sides = ((text, coin.toss(text)) for text in stream.texts(200))
    text = next(text for text, side in sides if side.is_held_out(0) and side.is_asked_twice)
    found = await cascade.run(text, RunContext(budget=Budget(llm_calls=1)))
    assert found.tier == 1
    now = await figures(cascade)
    assert (now.calls, now.missing, now.asked_twice) == (1, 0, 0)


async def test_a_call_costs_what_it_costs_though_most_answers_came_from_a_cache(
    tmp_path: Path,
) -> None:
    stream = Stream(tmp_path / "first.db")
    price = Price(input=100, output=200)  # a call costs 0.002
    first = stream.cascade(price)
    asked: Any = first.large
    cached, texts = Cached(asked.endpoint), stream.texts(240)
    for name in ("first.db", "second.db"):
        cascade: Topic = Cascade(
            small=first.small,
            large=Classifier(cached, LABELS),
            learn={"where": tmp_path / name},  # type: ignore[arg-type]
        )
        await go(cascade, texts)
        texts += stream.texts(40)
    now = await figures(cascade)
    assert now.by_small > 5
    assert now.saved == pytest.approx(0.002 * now.by_small)


async def test_a_cache_hides_no_difference_of_the_large_model_from_itself(tmp_path: Path) -> None:
    labels = cycle([{"app": 1.0}, {"card": 1.0}])
    large = SimulatedEndpoint(name="large", tier="llm", rule=lambda _: {"classifier": next(labels)})
    small = SimulatedEndpoint(name="small", rule=lambda _: {"classifier": {"card": 1.0}})
    cached, found = Cached(large), list[LearningFigures]()
    for name in ("first.db", "second.db"):  # the second run is answered from the cache alone
        cascade: Topic = Cascade(
            small=Classifier(small, LABELS),
            large=Classifier(cached, LABELS),
            learn={"where": tmp_path / name},  # type: ignore[arg-type]
        )
        coin = (await student_of(cascade).ready()).store.coin
        sides = ((text, coin.toss(text)) for text in Stream("").texts(400))
        twice = [one for one, side in sides if side.is_held_out(0) and side.is_asked_twice][:2]
        await go(cascade, [*twice, "my card"])
        found.append(await figures(cascade))
    assert [(one.calls, one.asked_twice, one.differs_from_itself) for one in found] == [
        (5, 2, 2),
        (0, 0, 0),
    ]


@pytest.mark.parametrize("keep", [False, True])
async def test_a_text_that_no_database_can_hold_is_answered(stream: Stream, keep: bool) -> None:
    cascade = Stream(stream.where, keep_texts=keep).cascade()
    for text in ("half \ud800 a pair, and some words", "a \0 in it"):
        assert (await cascade.run(text)).tier == 1


async def test_rows_go_on_where_a_fit_fails_and_their_trace_says_what_to_do(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object) -> None:
        raise ValueError("array must not contain infs or NaNs")

    monkeypatch.setattr(module.Learning, "fit", fit)
    cascade = stream.cascade()
    await go(cascade, stream.texts(220))
    (last,) = await go(cascade, stream.texts(1))
    assert last.tier == 1
    assert any("start it again" in note.text for note in last.trace)


async def test_a_text_that_was_answered_otherwise_is_not_answered_small(stream: Stream) -> None:
    cascade = stream.cascade()
    odd = stream.texts(1)[0]
    stream.turned = True
    await go(cascade, [odd])
    stream.turned = False
    await go(cascade, stream.texts(260))
    assert (await figures(cascade)).looks
    assert (await cascade.run(odd)).tier == 1


async def test_with_the_answer_of_the_large_node_nothing_is_saved_and_all_is_known(
    tmp_path: Path,
) -> None:
    stream = Stream(tmp_path / "answers.db", answer="large")
    cascade = await learned(stream)
    found = await go(cascade, stream.texts(180))
    assert {one.tier for one in found} == {1}
    now = await figures(cascade)
    assert now.by_small == 0
    assert now.hundreds[3].calls >= 100 > 20 > now.hundreds[3].would


@pytest.mark.parametrize("keep", [False, True])
def test_texts_are_kept_only_where_that_was_asked_for(tmp_path: Path, keep: bool) -> None:
    stream = Stream(tmp_path / "answers.db", keep_texts=keep)
    cascade = stream.cascade()
    asyncio.run(go(cascade, stream.texts(2)))
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert (b"is number 0001 of them" in kept) == keep


async def label(cascade: Topic, rows: dict[str, str], *, people: bool = True) -> list[bool]:
    student = student_of(cascade)
    said = [(text, {"classifier": name}) for text, name in rows.items()]
    return [await student.take(text, one, RunContext(), people=people) for text, one in said]


async def test_people_show_how_often_it_is_right_on_rows_that_were_drawn_for_them(
    tmp_path: Path,
) -> None:
    stream = Stream(tmp_path / "answers.db", keep_texts=True)
    cascade = await learned(stream)
    await go(cascade, stream.texts(130))
    store = (await student_of(cascade).ready()).store
    drawn = store.draw(store.read_state(), 80)
    texts = [one.text or "" for one in drawn]
    assert len(set(texts)) == 80
    right = {text: "card" if "card" in text else "app" for text in texts}
    (first, wrong), *rest = right.items()
    others = dict.fromkeys(set(stream.texts(9)) - right.keys(), "card")
    assert all(await label(cascade, {**dict(rest[:-1]), **others}))
    (now,) = (await figures(cascade)).people
    assert (now.drawn, now.labelled, now.wrong, now.passed) == (80, 78, 0, False)
    assert {one.text for one in store.draw(store.read_state(), 80)} == {first, rest[-1][0]}
    assert await label(cascade, {first: wrong}) == [True]
    assert not (await figures(cascade)).people[0].passed  # one without a label is one too many
    assert await label(cascade, dict(rest[-1:])) == [True]
    found = await figures(cascade)
    assert found.people[0].passed
    assert "by people" in found.promise
    other = {"card": "app", "app": "card"}
    assert await label(cascade, {first: other[wrong]}) == [False]  # what was said stays
    await go(cascade, stream.texts(130))
    drawn = store.draw(store.read_state(), 120)
    texts = [one.text or "" for one in drawn]
    await label(cascade, {text: "app" if "card" in text else "card" for text in texts})
    assert [one.wrong for one in (await figures(cascade)).people] == [0, 120]


async def test_a_row_is_drawn_for_people_of_what_the_head_in_use_accepts_alone(
    stream: Stream, capsys: pytest.CaptureFixture[str]
) -> None:
    cascade = await learned(stream)
    await go(cascade, stream.texts(50))
    where, out = stream.where, Path(stream.where).with_name("drawn.jsonl")
    assert moa("learn", "draw", where, "--rows", "10", "--out", out) == 2
    assert "keep_texts" in capsys.readouterr().err
    keeping = Stream(where, keep_texts=True)
    keeping.texts(500)
    cascade = keeping.cascade()
    texts = keeping.texts(50)
    found = await go(cascade, texts)
    accepted = {text for text, one in zip(texts, found, strict=True) if one.tier == 0}
    assert moa("learn", "draw", where, "--rows", "10", "--out", out) == 0
    drawn = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert len(drawn) == 10
    assert sum(text in accepted for text in drawn) >= 8
    assert out.stat().st_mode & 0o777 == 0o600
    assert moa("learn", "draw", where, "--rows", "10", "--out", out) == 2


def test_a_small_node_that_asks_no_question_can_not_learn(tmp_path: Path) -> None:
    from moa.agents.agent import Agent
    from moa.testing import ScriptedEndpoint

    agent = Agent(ScriptedEndpoint(["x"]), "Write.")
    with pytest.raises(ConfigError):
        Cascade(small=agent, large=agent, learn=tmp_path / "a.db")


@pytest.mark.parametrize(("status", "rows"), [(401, 0), (403, 1)])
async def test_a_wrong_key_leaves_no_row_and_a_text_that_moderation_refuses_leaves_one(
    tmp_path: Path, status: int, rows: int
) -> None:
    refused = EndpointUnauthorized("no", endpoint="large", status=status)
    small = SimulatedEndpoint(name="small", rule=lambda _: {"classifier": {"app": 0.9}})
    large = SimulatedEndpoint(name="large", tier="llm", rule=lambda _: refused)
    first, last = (Classifier(one, LABELS) for one in (small, large))
    cascade: Topic = Cascade(small=first, large=last, learn=tmp_path / "a.db")
    with pytest.raises(EndpointUnauthorized):
        await cascade.run("Hm.")
    assert (await figures(cascade)).inputs == rows


async def test_a_row_that_is_forgotten_counts_as_a_difference(stream: Stream) -> None:
    cascade = stream.cascade()
    await go(cascade, stream.texts(120))
    store = (await student_of(cascade).ready()).store
    for place in store.read_test_rows(store.read_state(), 10_000).places[:20].tolist():
        store.forget(place)
    await go(cascade, stream.texts(120))
    looks = (await figures(cascade)).looks
    assert [(look.passed, look.in_use) for look in looks] == [(False, False)]


def test_nothing_is_learned_from_the_small_endpoint_itself(tmp_path: Path) -> None:
    topic = Classifier(SimulatedEndpoint(rule=lambda _: {"classifier": {"app": 1.0}}), LABELS)
    with pytest.raises(ConfigError):
        Cascade(small=topic, large=topic, learn=tmp_path / "a.db")


async def test_a_filter_learns_the_verdicts_of_the_large_one_whatever_its_own_threshold(
    tmp_path: Path,
) -> None:
    def rule(text: str) -> Step:
        return {"filter": {"yes": 0.8 if "card" in text else 0.2}}

    ends = SimulatedEndpoint(name="small", rule=rule), SimulatedEndpoint(tier="llm", rule=rule)
    small, large = (
        Filter(one, "about cards", action="drop", threshold=threshold)
        for one, threshold in zip(ends, (0.999, 0.5), strict=True)
    )
    cascade = Cascade(small=small, large=large, learn=tmp_path / "a.db")
    stream = Stream(tmp_path)
    for text in stream.texts(220):
        await cascade.run(text)
    (await student_of(cascade).ready()).wait()
    found = [(text, await cascade.run(text)) for text in stream.texts(40)]
    by_small = [(text, one.output.kept) for text, one in found if one.tier == 0]
    assert len(by_small) > 30
    assert all(kept == ("card" not in text) for text, kept in by_small)


def test_what_is_accepted_is_learned_and_not_given(tmp_path: Path) -> None:
    topic = Classifier(SimulatedEndpoint(rule=lambda _: {}), LABELS)
    with pytest.raises(ConfigError):
        Cascade(small=topic, large=topic, confidence=0.9, learn=tmp_path / "a.db")


def test_a_table_names_the_file_beside_it(tmp_path: Path) -> None:
    table = '[graphs.cascade]\nlearn = "a.db"\nlabels = ["card", "app"]\n'
    large = '[endpoints.llm]\ntier = "llm"\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\n'
    (tmp_path / "moa.toml").write_text(table + large)
    endpoints = Endpoints(load(tmp_path / "moa.toml"), read_keys=False)
    cascade = load_graph("cascade", endpoints)
    assert isinstance(cascade, Cascade)
    assert student_of(cascade).learn.where == tmp_path / "a.db"


async def test_the_command_shows_where_it_stands(
    stream: Stream, capsys: pytest.CaptureFixture[str]
) -> None:
    await learned(stream)
    assert moa("learn", "status", stream.where, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["inputs"] == 220
    assert told["looks"][0]["in_use"]
    assert moa("learn", "status", stream.where) == 0
    assert "1-100" in capsys.readouterr().out
    assert moa("learn", "forget", stream.where, "1") == 0
    assert moa("learn", "status", "nowhere.db") == 2


@pytest.mark.long
@pytest.mark.timeout(300)
def test_processes_that_are_killed_again_and_again_learn_together(tmp_path: Path) -> None:
    file = tmp_path / "answers.db"
    said = list[str]()
    for round_of in range(6):
        two = [
            subprocess.Popen(
                [sys.executable, str(PROCESS), str(file), str(5000 * (2 * round_of + number))],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]
        for process in two:
            assert process.stdout is not None
            said += [process.stdout.readline() for _ in range(60)]
        for process in two:
            process.kill()
        for process in two:
            said += process.communicate()[0].splitlines(keepends=True)
    whole = [line.strip().split(" ", 2) for line in said if line.endswith("\n")]
    assert all((tier == "0") == (asked == "0") for tier, asked, _ in whole)
    with AnswerStore(file) as store:
        store.read_question()
        found = figures_of(store)
        labels = dict(store_labels(store))
        for tier, _, text in whole:
            places = store.indices_of(store.coin.toss(text))
            assert len(places) == 1
            label = labels[places[0]]
            assert label == (None if tier == "0" else "card" if "card" in text else "app")
    assert len({(look.epoch, look.look) for look in found.looks}) == len(found.looks) >= 1
    assert found.looks[0].in_use
    assert any(tier == "0" for tier, _, _ in whole)


def store_labels(store: AnswerStore) -> list[tuple[int, str | None]]:
    return [(row.place, row.label) for row in store.read_figure_rows()]
