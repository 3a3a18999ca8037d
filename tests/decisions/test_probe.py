"""Probe: which layout of the prompt suits a model, and how much it counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from moa import RunContext
from moa.adapters.sqlite import ContentStore
from moa.core.budget import Budget
from moa.core.errors import BudgetExceeded, CapabilityError, EndpointRejected, StoreError
from moa.core.questions import Answer, Kind, Layout, Question
from moa.core.usage import Amount
from moa.endpoints import Decision, Example
from moa.endpoints.known import ModelFacts, facts_of, save_facts
from moa.local.encoders import Encoder, JointEncoder, MultilingualEncoder
from moa.local.encoding import EncodedBatch
from moa.local.probe import ENOUGH, LAYOUTS, probe, shipped_trials
from moa.testing import SimulatedEndpoint

RIGHT = {(trial.text, trial.question.text): trial.label for trial in shipped_trials()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path))
    return tmp_path


class Reads(SimulatedEndpoint):
    """Knows the right label in one layout of the prompt, and guesses in the other."""

    good: Layout = "chat"
    refuses: Layout | None = None
    calls = 0

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        self.calls += 1
        if questions[0].layout == self.refuses:
            raise EndpointRejected("it has no chat template", endpoint=self.name)
        with await context.reserve(self.name, self.tier, Amount(calls=1)) as call:
            call.settle(Amount(calls=1))
        answers = tuple(self.answer(state, question) for question in questions)
        return Decision(
            answers=answers, endpoint=self.name, model=self.model, amount=Amount(calls=1)
        )

    def answer(self, state: str, question: Question) -> Answer:
        n = len(question.options)
        right = RIGHT[state, question.text] if question.layout == self.good else len(state) % n
        chances = tuple(0.7 if place == right else 0.3 / (n - 1) for place in range(n))
        return Answer(question=question, probabilities=chances, source="logprob")


@pytest.mark.parametrize("good", LAYOUTS)
async def test_the_layout_in_which_a_model_knows_more_is_found_for_each_kind(good: Layout) -> None:
    endpoint = Reads(model="tiny")
    endpoint.good = good
    done: list[int] = []
    made = await probe(
        endpoint,
        encoder=None,
        context=RunContext(),
        progress=lambda read, total: done.append(read * 1000 + total),
    )
    assert made.texts == made.total == len(shipped_trials())
    assert done[-1] == made.total * 1001
    assert dict(made.facts.layout) == dict.fromkeys(get_args(Kind), good)
    assert made.facts.weight == {}  # beside no encoder
    assert all(losses[good] == min(losses.values()) for losses in made.losses.values())


async def test_a_model_whose_server_refuses_a_layout_is_told() -> None:
    endpoint = Reads(model="plain")
    endpoint.refuses = "chat"
    with pytest.raises(EndpointRejected, match="no chat template"):
        await probe(endpoint, encoder=None, context=RunContext())


async def test_what_was_found_counts_where_the_cache_can_t_be_written(cache: Path) -> None:
    (cache / "measured.sqlite").write_text("no database" * 99)
    endpoint = Reads(model="tiny")
    with suppress(StoreError):
        save_facts((await probe(endpoint, encoder=None, context=RunContext())).facts)
    assert facts_of("tiny").layout_of("choice") == "chat"


async def test_a_probe_stays_within_the_budget() -> None:
    endpoint = Reads(model="tiny")
    with pytest.raises(BudgetExceeded):
        await probe(endpoint, encoder=None, context=RunContext(budget=Budget(calls=20)))
    assert endpoint.calls <= 22


async def test_an_endpoint_without_log_probabilities_has_no_prompt_to_choose() -> None:
    native = SimulatedEndpoint(rule=lambda _: {"other": {"yes": 0.5}})
    with pytest.raises(CapabilityError):
        await probe(native, encoder=None, context=RunContext())


async def test_what_was_found_is_kept_for_the_model_and_no_other() -> None:
    save_facts((await probe(Reads(model="Some/Tiny"), encoder=None, context=RunContext())).facts)
    assert facts_of("Some/Tiny").layout_of("choice") == "chat"
    assert facts_of("Some/Other").layout_of("choice") == "completion"


class Agreeing(Reads):
    """Tells yes from no, and leans to yes whatever the text is."""

    lean = 3.0

    def answer(self, state: str, question: Question) -> Answer:
        answer = super().answer(state, question)
        if question.kind != "predicate":
            return answer
        yes, no = answer.probabilities or (0.5, 0.5)
        odds = yes / no * math.exp(self.lean)
        return replace(answer, probabilities=(odds / (1 + odds), 1 / (1 + odds)))


async def test_how_much_a_model_leans_to_yes_is_found() -> None:
    found = (await probe(Agreeing(model="yes"), encoder=None, context=RunContext())).facts
    assert found.yes_bias == pytest.approx(Agreeing.lean, abs=0.05)


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
    leaning = (await probe(Agreeing(model="yes"), encoder=encoder, context=RunContext())).facts
    assert leaning.weight["predicate"] >= 0.5
    guessing = Agreeing(model="yes")
    guessing.lean, guessing.good = 0.0, "none"  # type: ignore[assignment]
    assert not any(
        (await probe(guessing, encoder=encoder, context=RunContext())).facts.weight.values()
    )


async def test_what_the_cache_holds_of_another_version_counts_for_nothing(cache: Path) -> None:
    with ContentStore(save_facts(ModelFacts(name="tiny"))) as store:
        store.put("probe other", {"name": "other", "layout": {"choice": "verse"}})
    assert facts_of("other").layout == {}


def test_any_beginning_of_the_texts_has_all_kinds_in_many_languages() -> None:
    kinds = [trial.question.kind for trial in shipped_trials()]
    assert all(kinds[: len(kinds) // 2].count(kind) >= ENOUGH for kind in get_args(Kind))


async def test_several_questions_about_a_text_are_asked_at_once() -> None:
    endpoint = Reads(model="tiny")
    await probe(endpoint, encoder=None, context=RunContext())
    texts = {trial.text for trial in shipped_trials()}
    assert endpoint.calls == len(LAYOUTS) * len(texts) < len(LAYOUTS) * len(shipped_trials())
    long = [text for text in texts if len(text.split()) > 150]
    assert {sum(t.text == text for t in shipped_trials()) for text in long} == {3}


def test_the_labels_of_each_task_are_balanced() -> None:
    for task in {trial.task for trial in shipped_trials()}:
        labels = [trial.label for trial in shipped_trials() if trial.task == task]
        assert len({labels.count(label) for label in labels}) == 1, task
