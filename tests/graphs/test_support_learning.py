"""A support inbox that learns: who labels what, from which prompt, and what is settled then."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from disks import room

from moa.config import load
from moa.config.endpoints import Endpoints
from moa.config.loading import endpoint_names, load_graph
from moa.core._json import object_of
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    EndpointUnauthorized,
    EndpointUnavailable,
)
from moa.core.node import Result
from moa.core.usage import Amount, Price
from moa.decisions.defaults import make_unfitted
from moa.endpoints import Completion
from moa.inbox.learning import LearningWriter
from moa.inbox.reading import intent_of
from moa.inbox.replies import LABEL_TOKENS, Labelled
from moa.inbox.support import Answered, Intent, Routed, Support, SupportOutcome, Ticket
from moa.learning import looks as module
from moa.learning import recording
from moa.learning.answer_rows import FigureRow
from moa.learning.answers import AnswerStore
from moa.learning.epochs import PlannedLook
from moa.learning.figures import LearningFigures, figures_of
from moa.learning.labelled import OTHERWISE
from moa.learning.labelled_graph import Learner, agents_of
from moa.learning.learned import LearnedGraph
from moa.testing import SimulatedEndpoint, SimulatedRequest, Step

from .killed import killed, resumed

INTENTS = {
    "card": Intent(means="asks about a payment card", queue="cards"),
    "app": Intent(means="asks about the telephone app", queue="apps"),
}
CALM: dict[str, dict[str, float]] = {
    "spam": {"no": 0.9},
    "injection": {"no": 0.9},
    "sentiment": {"neutral": 0.9},
    "urgency": {"can wait": 0.9},
    "danger": {"no": 0.9},
}
CALM_SAID = {"spam": "no", "sentiment": "neutral", "urgency": "can wait"}
POLICY = "A colleague looks at cards and at the app."


def fixed(n: int) -> str:
    return "5e" * n


@pytest.fixture(autouse=True)
def small_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at fewer texts, so that a test takes fewer; and toss the same coin in each test."""
    plan = (PlannedLook(0.05, held_out=60),)
    monkeypatch.setattr(module, "LOOKS", plan)
    monkeypatch.setattr("moa.learning.epochs._LIKELY", 0.25)
    monkeypatch.setattr("moa.learning.figures.LOOKS", plan)
    monkeypatch.setattr("moa.learning.answers.secrets.token_hex", fixed)


class Inbox:
    """Messages that the small model reads rightly, and of which the large one says the same."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.decided: dict[str, dict[str, float]] = {}
        self.said: dict[str, dict[str, str]] = {}
        """What the large model says otherwise, of messages with a word."""
        self.fails: Step | None = None
        self.cut = False
        self._draw, self._count = random.Random(0), 0
        self.small = SimulatedEndpoint(name="small", rule=self._small)
        self.large = SimulatedEndpoint(
            name="large",
            tier="llm",
            rule=self._large,
            price=Price(input=Decimal(1), output=Decimal(1)),
        )

    def support(self, **settings: Any) -> Support:
        given: dict[str, Any] = {"learn": self.where, "intents": INTENTS, "policy": POLICY}
        return Support(slm=self.small, llm=self.large, **{**given, **settings})

    def texts(self, n: int) -> list[str]:
        self._count += n
        numbers = range(self._count - n, self._count)
        return [f"My {self._draw.choice(['card', 'app'])} is number {i:04}." for i in numbers]

    def _small(self, text: str) -> Step:
        return {**CALM, "intent": {"card" if "card" in text else "app": 0.8}, **self.decided}

    def _large(self, text: str, asked: SimulatedRequest) -> Step:
        if self.fails is not None:
            return self.fails
        said = {"intent": "card" if "card" in text else "app", **CALM_SAID}
        for word, otherwise in self.said.items():
            said |= otherwise if word in text else {}
        assert asked.schema is not None, "labels are asked for"
        if "reply" in asked.schema["properties"]:
            said["reply"] = "Thank you. A colleague looks at it."
        return json.dumps(said)


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "answers.db")


async def run(support: Support, text: str) -> Result[SupportOutcome]:
    return await support.run(Ticket(text=text))


async def store_of(support: Support) -> AnswerStore:
    assert support.student is not None
    return (await support.student.ready()).store


async def figures(support: Support) -> LearningFigures:
    return figures_of(await store_of(support))


async def sides(support: Support, texts: list[str], looks: int = 0) -> dict[bool, list[str]]:
    coin = (await store_of(support)).coin
    found: dict[bool, list[str]] = {True: [], False: []}
    for text in texts:
        found[coin.toss(text).is_held_out(looks)].append(text)
    return found


async def learned(inbox: Inbox) -> Support:
    support = inbox.support()
    for text in inbox.texts(150):
        await run(support, text)
    assert support.student is not None
    (await support.student.ready()).wait()
    assert (await figures(support)).looks[0].in_use
    return support


async def rows(support: Support) -> list[FigureRow]:
    return (await store_of(support)).read_figure_rows()


async def test_at_first_the_large_model_writes_and_labels_in_one_call(inbox: Inbox) -> None:
    support = inbox.support()
    for text in inbox.texts(8):
        result = await run(support, text)
        assert isinstance(result.output, Answered)
        assert (result.output.written_by, result.output.kind) == ("llm", "reply")
        assert result.output.text == "Thank you. A colleague looks at it."
    found = await rows(support)
    assert {row.label for row in found} == {"card", "app"}
    twice = sum(row.again is not None for row in found)
    assert len(inbox.large.prompts) == 8 + twice == sum(row.calls for row in found)


async def test_an_intent_that_is_accepted_is_settled_without_a_call_of_the_large_model(
    inbox: Inbox,
) -> None:
    support = await learned(inbox)
    before = len(inbox.large.prompts)
    for text in (await sides(support, inbox.texts(30), looks=1))[False]:
        output = (await run(support, text)).output
        assert isinstance(output, Routed)
        assert output.queue == ("cards" if "card" in text else "apps")
        assert output.decisions.intent.accepted
    assert len(inbox.large.prompts) == before
    now = await figures(support)
    assert now.by_small >= 25
    assert "95 % probability" in now.promise


@pytest.mark.parametrize(
    ("said", "differs"),
    [
        ({"sentiment": "negative"}, True),
        ({"sentiment": "positive"}, False),
        ({"urgency": "now"}, True),
        ({"urgency": "today"}, False),
        ({"spam": "yes"}, True),
    ],
)
async def test_what_differs_is_what_would_become_of_a_message(
    inbox: Inbox, said: dict[str, str], differs: bool
) -> None:
    inbox.said = {"": said}
    support = inbox.support()
    await run(support, "My card is gone.")
    assert [row.label for row in await rows(support)] == [OTHERWISE if differs else "card"]


async def test_a_decision_that_need_not_be_alike_is_not_asked_for(inbox: Inbox) -> None:
    inbox.said = {"": {"urgency": "now"}}
    learn = {"where": inbox.where, "alike": ["spam"]}
    await run(inbox.support(learn=learn), "My card is gone.")
    assert [row.label for row in await rows(inbox.support(learn=learn))] == ["card"]
    prompt = inbox.large.prompts[0]
    assert prompt.json_schema is not None
    assert object_of(prompt.json_schema["properties"]).keys() == {"intent", "spam", "reply"}


async def test_other_words_for_what_is_spam_take_other_answers(inbox: Inbox) -> None:
    await run(inbox.support(), "My card is gone.")
    for given in ({"spam": "a song"}, {"threshold": 0.7}):
        with pytest.raises(ConfigError):
            await run(inbox.support(**given), "My card is gone.")


async def test_a_log_without_the_other_answers_is_fitted_to_alone(inbox: Inbox) -> None:
    student = inbox.support().student
    assert student is not None
    texts = inbox.texts(12)
    for text in texts:
        assert await student.take(text, {"intent": "card"}, RunContext())
    assert not any(row.held for row in await rows(inbox.support()))
    for text in inbox.texts(12):
        given = {"intent": "card", **CALM_SAID, "urgency": "now"}
        assert await student.take(text, given, RunContext())
    new = (await rows(inbox.support()))[len(texts) :]
    assert 0 < sum(row.held for row in new) < len(new)
    assert {row.label for row in new} == {OTHERWISE}


async def test_what_is_held_out_is_labelled_though_it_is_settled(inbox: Inbox) -> None:
    support = await learned(inbox)
    held = (await sides(support, inbox.texts(400), looks=1))[True][:4]
    assert held
    for text in held:
        before = len(inbox.large.prompts)
        output = (await run(support, text)).output
        assert isinstance(output, Routed)
        assert output.queue in ("cards", "apps")
        assert inbox.large.prompts[before].max_tokens == LABEL_TOKENS
    assert [row.label for row in (await rows(support))[-len(held) :]] == [
        "card" if "card" in text else "app" for text in held
    ]


@pytest.mark.parametrize(
    ("decided", "queue"),
    [
        ({"spam": {"yes": 0.9}}, "quarantine"),
        ({"urgency": {"now": 0.9}, "danger": {"yes": 0.9}}, "danger"),
    ],
)
async def test_what_is_held_out_is_labelled_though_it_is_set_aside_and_nothing_else_is(
    inbox: Inbox, decided: dict[str, dict[str, float]], queue: str
) -> None:
    support = inbox.support()
    inbox.decided = decided
    for held, texts in (await sides(support, inbox.texts(12))).items():
        assert len(texts) > 2
        for text in texts:
            before = len(inbox.large.prompts)
            output = (await run(support, text)).output
            assert isinstance(output, Routed)
            assert output.queue == queue
            assert (len(inbox.large.prompts) > before) == held
    found = await rows(support)
    assert all((row.label is not None) == bool(row.held) for row in found)
    now = await figures(support)
    assert now.missing == 0
    assert now.calls == len(inbox.large.prompts)


async def test_whoever_labels_sees_nothing_of_what_was_decided(inbox: Inbox) -> None:
    support = inbox.support()
    inbox.decided = {"sentiment": {"negative": 0.9}, "urgency": {"now": 0.9}}
    one, other = "My card is number 1.", "My card is number 2."
    await run(support, one)
    asked = {"intent": {"app": 0.99}, "sentiment": {"positive": 0.9}}
    inbox.decided = asked
    await run(support, other)
    first, last = (
        "\n".join(m.content for m in p.messages)
        for p in inbox.large.prompts
        if p.max_tokens > LABEL_TOKENS
    )
    assert first.replace(one, other) == last


async def test_labels_alone_are_asked_for_by_the_prompt_of_labels_with_a_reply(
    inbox: Inbox, tmp_path: Path
) -> None:
    file = tmp_path / "cards.md"
    file.write_text("A card is green, as the app is.")
    support = inbox.support(documents=file)
    held = (await sides(support, inbox.texts(12)))[True][0]
    await run(support, held)
    inbox.decided = {"spam": {"yes": 0.9}}
    await run(support, held)
    first, *_, last = inbox.large.prompts
    assert "green" in first.messages[0].content
    assert first.messages == last.messages
    assert (first.max_tokens, last.max_tokens) == (300 + LABEL_TOKENS, LABEL_TOKENS)


async def test_the_meaning_of_each_label_is_told_and_none_of_these_is_one(inbox: Inbox) -> None:
    support = inbox.support()
    await run(support, inbox.texts(1)[0])
    told = inbox.large.prompts[0].messages[0].content
    for words in ("asks about a payment card", "asks about the telephone app", "none of these"):
        assert words in told


async def test_a_reply_that_breaks_off_is_a_draft_and_keeps_its_label(inbox: Inbox) -> None:
    support = inbox.support()
    (node,) = [one for one in support.members() if isinstance(one, LearningWriter)]
    for fence in ("", "```json\n"):
        whole = json.dumps({"intent": "card", **CALM_SAID, "reply": "A colleague looks"})
        cut = Completion(
            text=fence + whole[:-2],
            endpoint="large",
            model="m",
            finish_reason="length",
            amount=Amount(),
        )
        read = node.writer.read(cut)
        assert isinstance(read, Labelled)
        assert (read.labels["intent"], read.text) == ("card", "A colleague looks")
        assert read.cut
    cut = replace(cut, text=json.dumps({"intent": "app", **CALM_SAID})[:-1] + ', "re')
    read = node.labeller.read(cut)
    assert isinstance(read, Labelled)
    assert read.labels == {"intent": "app", **CALM_SAID}
    with pytest.raises(ValueError, match="empty"):
        node.writer.read(cut)


async def test_a_call_that_fails_counts_as_a_difference_and_fails_no_settled_message(
    inbox: Inbox,
) -> None:
    support = await learned(inbox)
    inbox.fails = EndpointUnavailable("no", endpoint="large")
    held = (await sides(support, inbox.texts(400), looks=1))[True][0]
    result = await run(support, held)
    assert isinstance(result.output, Routed)
    assert any(note.kind == "failed" for note in result.trace)
    assert (await figures(support)).missing == 1
    inbox.decided = {"sentiment": {"negative": 0.9}}
    with pytest.raises(EndpointUnavailable):
        await run(support, inbox.texts(1)[0])


async def test_a_model_that_gives_no_label_still_writes(inbox: Inbox) -> None:
    inbox.fails = "A colleague looks at it."  # and no JSON
    result = await run(inbox.support(), inbox.texts(1)[0])
    assert isinstance(result.output, Answered)
    assert result.output.text == "A colleague looks at it."
    assert inbox.large.prompts[-1].json_schema is None
    assert [row.label for row in await rows(inbox.support())] == [None]


async def test_a_wrong_key_leaves_no_row(inbox: Inbox) -> None:
    support = inbox.support()
    inbox.fails = EndpointUnauthorized("wrong key", endpoint="large", status=401)
    for text in inbox.texts(3):
        with pytest.raises(EndpointUnauthorized):
            await run(support, text)
    assert (await figures(support)).inputs == 0


async def test_a_budget_without_calls_settles_what_small_models_settle(inbox: Inbox) -> None:
    support = inbox.support()
    inbox.decided = {"spam": {"yes": 0.9}}
    held = (await sides(support, inbox.texts(12)))[True][0]
    result = await support.run(Ticket(text=held), RunContext(budget=Budget(llm_calls=0)))
    assert isinstance(result.output, Routed)
    assert "llm" not in result.usage.by_tier()
    assert (await figures(support)).missing == 1
    inbox.decided = {}
    with pytest.raises(BudgetExceeded):
        await support.run(Ticket(text=held), RunContext(budget=Budget(llm_calls=0)))


async def test_money_is_saved_where_the_intent_decided_it_and_nowhere_else(inbox: Inbox) -> None:
    support = await learned(inbox)
    before = await rows(support)
    inbox.decided = {"spam": {"yes": 0.9}}
    for text in (await sides(support, inbox.texts(5), looks=1))[False]:
        await run(support, text)
    inbox.decided = {"sentiment": {"negative": 0.9}}
    for text in (await sides(support, inbox.texts(5), looks=1))[False]:
        await run(support, text)
    inbox.decided = {}
    for text in (await sides(support, inbox.texts(5), looks=1))[False]:
        await run(support, text)
    new = (await rows(support))[len(before) :]
    kinds = {(row.by_small, row.moot) for row in new}
    assert kinds == {(1, 1), (0, 1), (1, 0)}
    now = await figures(support)
    assert now.saved is not None
    assert now.spent is not None
    saved = sum(row.by_small and not row.moot for row in [*before, *new])
    assert now.saved == pytest.approx(saved * now.spent / now.calls)
    assert 0 < saved < now.by_small


async def test_an_empty_message_is_no_row(inbox: Inbox) -> None:
    support = inbox.support()
    await run(support, " ")
    assert (await figures(support)).inputs == 0
    assert not inbox.large.prompts


async def test_messages_side_by_side_share_one_look(inbox: Inbox) -> None:
    both = inbox.support(), inbox.support()
    texts = inbox.texts(160)
    for at in range(0, 160, 8):
        async with asyncio.TaskGroup() as group:
            for number, text in enumerate(texts[at : at + 8]):
                group.create_task(run(both[number % 2], text))
    for one in both:
        assert one.student is not None
        (await one.student.ready()).wait()
    now = await figures(both[0])
    assert ([look.look for look in now.looks], now.inputs) == ([1], 160)


async def test_on_a_full_disk_messages_are_answered_and_not_settled_by_what_was_learned(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "RETRY_S", 0.0)
    support = await learned(inbox)
    there = len(await rows(support))
    with room(1):
        _, *others = [await run(support, text) for text in inbox.texts(8)]
    assert {one.output.became for one in others} == {"written"}
    assert all(any("aren't recorded" in note.text for note in one.trace) for one in others)
    await run(support, inbox.texts(1)[0])
    found = (await rows(support))[there:]
    assert len(found) == 2  # the one whose write was the first to fail, and the last
    assert all(row.done for row in found)


@pytest.mark.parametrize("spam", ["no", "yes"])
@pytest.mark.parametrize("lives", [1, 2, 3])
async def test_a_run_that_is_killed_and_goes_on_asks_nobody_twice(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, lives: int, spam: str
) -> None:
    inbox.decided = {"spam": {spam: 0.9}}
    support = inbox.support()
    coin = (await store_of(support)).coin
    held = (await sides(support, inbox.texts(60)))[True]
    text = next(one for one in held if coin.toss(one).is_asked_twice)
    disk = await killed(inbox.support, Ticket(text=text), monkeypatch, lives=lives)
    _, calls = await resumed(inbox.support, disk, monkeypatch)
    assert len(calls.answered) == 2 + 2 - lives  # the intent learns, the others are asked together
    label = "card" if "card" in text else "app"  # unless it isn't spam to the large model
    found = [row.label for row in await rows(support) if row.label]
    assert found == [label if spam == "no" else OTHERWISE]


async def test_the_promise_of_the_store_stands_in_place_of_one_of_a_file(inbox: Inbox) -> None:
    (question,) = intent_of(inbox.small, INTENTS).questions
    made = LearnedGraph(graph="support", calibrations={"intent": make_unfitted(question)})
    output = (await run(inbox.support(learned=made), inbox.texts(1)[0])).output
    assert isinstance(output, Answered)
    assert output.decisions.intent.accepted is False


def test_labels_of_people_are_learned_from_as_without_a_store(tmp_path: Path) -> None:
    (tmp_path / "moa.toml").write_text('[graphs.support]\nlearn = "a.db"\n')
    learner = Learner("support", Endpoints(load(tmp_path / "moa.toml"), read_keys=False))
    assert "intent" in agents_of(learner.current)
    assert "intent" in agents_of(learner.node)


async def test_a_large_model_that_is_the_small_one_teaches_nothing(inbox: Inbox) -> None:
    support = Support(slm=inbox.small, llm=inbox.small, learn=inbox.where)
    with pytest.raises(ConfigError):
        await run(support, "My card is gone.")


def test_a_table_names_the_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "moa.toml").write_text('[graphs.support]\nlearn = "a.db"\n')
    endpoints = Endpoints(load(tmp_path / "moa.toml"), read_keys=False)
    support = load_graph("support", endpoints)
    assert isinstance(support, Support)
    assert support.student is not None
    assert support.student.learn.where == tmp_path / "a.db"


def test_who_may_be_asked_is_known(inbox: Inbox) -> None:
    assert endpoint_names(inbox.support()) == {"small", "large"}
    assert endpoint_names(inbox.support(learn=None)) == {"small", "large"}
