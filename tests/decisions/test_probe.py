"""Probe: which layout of the prompt suits a model, and how much it counts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest

from moa import Example, RunContext
from moa.budget import Budget
from moa.decisions.probe import ENOUGH, LAYOUTS, find_out, probe, shipped_trials
from moa.endpoints import Decision
from moa.endpoints.known import Known, known, measurements
from moa.errors import BudgetExceeded, CapabilityError, DeadlineExceeded, EndpointRejected
from moa.questions import Answer, Kind, Layout, Question
from moa.testing import SimulatedEndpoint
from moa.usage import Amount

RIGHT = {trial.text: trial.label for trial in shipped_trials()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path))
    monkeypatch.setattr("moa.decisions.probe._tried", set[str]())
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
        (question,) = questions
        self.calls += 1
        if question.layout == self.refuses:
            raise EndpointRejected("it has no chat template", endpoint=self.name)
        with await context.reserve(self.name, self.tier, Amount(calls=1)) as call:
            call.settle(Amount(calls=1))
        n = len(question.options)
        right = RIGHT[state] if question.layout == self.good else len(state) % n
        chances = tuple(0.7 if place == right else 0.3 / (n - 1) for place in range(n))
        answer = Answer(question=question, probabilities=chances, source="logprob")
        return Decision(
            answers=(answer,), endpoint=self.name, model=self.model, amount=Amount(calls=1)
        )


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
    assert made.texts == made.of == len(shipped_trials())
    assert done[-1] == made.of * 1001
    assert dict(made.found.layout) == dict.fromkeys(get_args(Kind), good)
    assert made.found.weight == {}  # beside no encoder
    assert all(losses[good] == min(losses.values()) for losses in made.losses.values())


async def test_a_model_whose_server_refuses_a_layout_is_told_and_is_tried_once() -> None:
    endpoint = Reads(model="plain")
    endpoint.refuses = "chat"
    with pytest.raises(EndpointRejected, match="no chat template"):
        await probe(endpoint, encoder=None, context=RunContext())
    asked = endpoint.calls
    for _ in range(2):
        await find_out(endpoint, encoder=None, context=RunContext())
    assert endpoint.calls == 2 * asked
    assert known("plain").layout == {}


async def test_a_probe_leaves_a_small_budget_alone_and_keeps_nothing_it_did_not_measure() -> None:
    endpoint = Reads(model="tiny")
    await find_out(endpoint, encoder=None, context=RunContext(budget=Budget(calls=500)))
    assert endpoint.calls == 0
    with suppress(DeadlineExceeded):  # where the machine is busy
        await find_out(endpoint, encoder=None, context=RunContext(timeout_s=0.001))
    assert known("tiny").layout == {}


async def test_what_was_found_counts_where_the_cache_can_t_be_written(cache: Path) -> None:
    (cache / "measured.sqlite").write_text("no database" * 99)
    endpoint = Reads(model="tiny")
    for _ in range(2):
        await find_out(endpoint, encoder=None, context=RunContext())
    assert endpoint.calls == len(LAYOUTS) * len(shipped_trials())
    assert known("tiny").layout_of("choice") == "chat"


async def test_what_a_short_probe_does_not_reach_is_left_as_it_was() -> None:
    made = await probe(Reads(model="tiny"), encoder=None, context=RunContext(), limit_s=0)
    assert made.texts == 0
    assert made.found == Known(name="tiny")


async def test_a_probe_stays_within_the_budget() -> None:
    endpoint = Reads(model="tiny")
    with pytest.raises(BudgetExceeded):
        await probe(endpoint, encoder=None, context=RunContext(budget=Budget(calls=20)))
    assert endpoint.calls <= 22


async def test_an_endpoint_without_log_probabilities_has_no_prompt_to_choose() -> None:
    native = SimulatedEndpoint(rule=lambda _: {"other": {"yes": 0.5}})
    with pytest.raises(CapabilityError, match="no log-probabilities"):
        await probe(native, encoder=None, context=RunContext())


async def test_a_model_is_found_out_once_and_kept() -> None:
    endpoint, context = Reads(model="Some/Tiny"), RunContext()
    for _ in range(2):
        await find_out(endpoint, encoder=None, context=context)
    assert endpoint.calls == len(LAYOUTS) * len(shipped_trials())
    assert known("Some/Tiny").layout_of("choice") == "chat"
    assert known("Some/Other").layout_of("choice") == "completion"
    assert [note.text for note in context.trace if "probed" in note.text] == [
        f"Some/Tiny was probed with {len(shipped_trials())} texts"
    ]


async def test_what_the_cache_holds_of_another_version_counts_for_nothing(cache: Path) -> None:
    await find_out(Reads(model="tiny"), encoder=None, context=RunContext())
    with measurements() as store:
        store.put("probe other", {"name": "other", "layout": {"choice": "verse"}})
    assert known("other").layout == {}


def test_any_beginning_of_the_texts_has_all_kinds_in_many_languages() -> None:
    kinds = [trial.question.kind for trial in shipped_trials()]
    assert all(kinds[: len(kinds) // 2].count(kind) >= ENOUGH for kind in get_args(Kind))


def test_the_labels_of_each_task_are_balanced() -> None:
    for task in {trial.task for trial in shipped_trials()}:
        labels = [trial.label for trial in shipped_trials() if trial.task == task]
        assert len({labels.count(label) for label in labels}) == 1, task
