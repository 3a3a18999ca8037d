"""Probe: which layout of the prompt suits a model, and how much it counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self, get_args

import pytest

from moa import RunContext
from moa.adapters.sqlite import ContentStore
from moa.core.budget import Budget
from moa.core.errors import BudgetExceeded, CapabilityError, EndpointRejected, StoreError
from moa.core.questions import Answer, Kind, Question
from moa.core.usage import Amount
from moa.endpoints import Decision, Example
from moa.endpoints.known import ModelFacts, facts_of, save_facts
from moa.endpoints.openai import OpenAIEndpoint
from moa.local.encoders import Encoder, JointEncoder, MultilingualEncoder
from moa.local.encoding import EncodedBatch
from moa.local.probe import ENOUGH, MOST, WAYS, Way, chosen_trials, probe, shipped_trials
from moa.testing import SimulatedEndpoint

RIGHT = {(trial.text, trial.question.text): trial.label for trial in shipped_trials()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path))
    return tmp_path


class Reads(OpenAIEndpoint):
    """Knows the right label when it is asked in one way, and guesses in the other."""

    def __init__(self, model: str, good: Way = "chat", refuses: Way | None = None) -> None:
        super().__init__("tiny", model=model, base_url="http://m.test/v1")
        self.good, self.refuses = good, refuses
        self.way: Way = "chat"
        self.calls: list[Way] = []

    def deciding_by(self, way: Literal["chat", "labels"]) -> Self:
        copied = super().deciding_by(way)
        copied.way = way
        return copied

    async def decide(
        self,
        text: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        self.calls.append(self.way)
        if self.way == self.refuses:
            raise EndpointRejected("it has no chat template", endpoint=self.name)
        with await context.reserve(self.name, self.tier, Amount(calls=1)) as call:
            call.settle(Amount(calls=1))
        answers = tuple(self.answer(text, question) for question in questions)
        return Decision(
            answers=answers, endpoint=self.name, model=self.model, amount=Amount(calls=1)
        )

    def answer(self, text: str, question: Question) -> Answer:
        n = len(question.options)
        right = RIGHT[text, question.text] if self.way == self.good else len(text) % n
        chances = tuple(0.7 if place == right else 0.3 / (n - 1) for place in range(n))
        return Answer(question=question, probabilities=chances, source="logprob")


@pytest.mark.parametrize("good", WAYS)
async def test_the_way_in_which_a_model_is_right_more_often_is_kept(good: Way) -> None:
    done: list[tuple[int, int]] = []
    made = await probe(
        Reads("tiny", good),
        encoder=None,
        context=RunContext(),
        progress=lambda read, total: done.append((read, total)),
    )
    assert made.asked == made.total == MOST
    assert done[-1] == (2 * MOST, 2 * MOST)
    assert made.facts.asked == good
    assert made.facts.weight == {}  # beside no encoder
    assert all(right[good] == 1.0 for right in made.right.values())
    assert all(losses[good] == min(losses.values()) for losses in made.losses.values())


@pytest.mark.parametrize("refused", WAYS)
async def test_a_way_that_the_server_refuses_leaves_the_other_one(refused: Way) -> None:
    made = await probe(Reads("tiny", refused, refused), encoder=None, context=RunContext())
    assert made.facts.asked != refused


async def test_an_endpoint_that_decides_itself_can_t_be_probed() -> None:
    with pytest.raises(CapabilityError):
        await probe(SimulatedEndpoint(), encoder=None, context=RunContext())


async def test_what_was_found_counts_where_the_cache_can_t_be_written(cache: Path) -> None:
    (cache / "measured.sqlite").write_text("no database" * 99)
    made = await probe(Reads("tiny", "labels"), encoder=None, context=RunContext())
    with suppress(StoreError):
        save_facts(made.facts)
    assert facts_of("tiny").asked == "labels"


async def test_a_probe_stays_within_the_budget() -> None:
    endpoint = Reads("tiny")
    with pytest.raises(BudgetExceeded):
        await probe(endpoint, encoder=None, context=RunContext(budget=Budget(calls=20)))
    assert len(endpoint.calls) <= 22


async def test_what_was_found_is_kept_for_the_model_and_no_other() -> None:
    found = await probe(Reads("Some/Tiny", "labels"), encoder=None, context=RunContext())
    save_facts(found.facts)
    assert facts_of("Some/Tiny").asked == "labels"
    assert facts_of("Some/Other").asked == "chat"


async def test_beside_the_encoder_a_model_counts_as_much_as_it_helps_as_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def read(encoder: Encoder, texts: Sequence[str]) -> EncodedBatch:
        size = 384 if isinstance(encoder, MultilingualEncoder) else 896
        vectors = (tuple(math.sin(i * len(text)) / 14 for i in range(size)) for text in texts)
        return EncodedBatch(tuple(vectors), tokens=0, seconds=0.0)

    for kind in (MultilingualEncoder, JointEncoder):
        monkeypatch.setattr(kind, "missing", staticmethod(lambda: None))
        monkeypatch.setattr(kind, "read", read)
    encoder = JointEncoder()
    knowing = (await probe(Reads("knows"), encoder=encoder, context=RunContext())).facts
    assert knowing.weight["choice"] >= 0.5
    guessing = Reads("guesses", good="none")  # type: ignore[arg-type]
    found = (await probe(guessing, encoder=encoder, context=RunContext())).facts
    assert not any(found.weight.values())


async def test_what_the_cache_holds_of_another_version_counts_for_nothing(cache: Path) -> None:
    with ContentStore(save_facts(ModelFacts(name="tiny"))) as store:
        store.put("probe other", {"name": "other", "layout": {"choice": "chat"}})
    assert facts_of("other").asked == "chat"


def test_the_questions_that_are_asked_are_of_all_kinds() -> None:
    kinds = [trial.question.kind for trial in chosen_trials()]
    assert {kinds.count(kind) for kind in get_args(Kind)} == {MOST // 3}
    assert MOST // 3 >= ENOUGH


async def test_several_questions_about_a_text_are_asked_at_once() -> None:
    endpoint = Reads("tiny")
    await probe(endpoint, encoder=None, context=RunContext())
    texts = {trial.text for trial in chosen_trials()}
    assert len(endpoint.calls) == len(WAYS) * len(texts) < len(WAYS) * MOST


def test_the_labels_of_each_task_are_balanced() -> None:
    for task in {trial.task for trial in shipped_trials()}:
        labels = [trial.label for trial in shipped_trials() if trial.task == task]
        assert len({labels.count(label) for label in labels}) == 1, task
