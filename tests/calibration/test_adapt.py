"""Fitting an agent to its task: bias taken out, labels used, sources respected."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from decisions.moods import MOOD, Numbers, classifier, numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from calibration.altered import Altered
from moa import Choice, Classifier, Decider, RunContext, choice
from moa.core.questions import Answer, Source
from moa.decisions.file import Calibration
from moa.decisions.regression import (
    agreement,
    class_prior,
    fit_blend,
    is_blind,
    matching_bias,
    shrunk_mean,
)
from moa.endpoints import Example
from moa.learning.adapt import MOST_TEXTS, adapt
from moa.learning.variants import choose_halves, stand_in_texts
from moa.local.embedded import EmbeddedEndpoint
from moa.testing import SimulatedEndpoint

DIFFERENT = [f"{sign}1.{place}" for place in range(20) for sign in ("", "-")]


class Biased(Altered):
    """Reads how good a text is from a number in it, and is biased to good whatever the text."""

    def __init__(self, *, bias: float = 3.0, source: Source = "logprob") -> None:
        super().__init__(name="biased", rule=lambda _: {"mood": {"good": 0.5}})
        self.bias = bias
        self.source: Source = source
        self.shown: list[int] = []

    def altered(self, answer: Answer, text: str, examples: int) -> Answer:
        self.shown.append(examples)
        odds = np.exp((0.0 if text in stand_in_texts() else float(text)) + self.bias)
        p = float(odds / (1 + odds))
        if self.source == "text":
            return Answer(question=answer.question, written=0, source="text")
        return replace(answer, probabilities=(1 - p, p), source=self.source)


def texts(n: int, *, good: float = 0.5, seed: int = 0) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    rows: list[tuple[str, str]] = []
    for _ in range(n):
        label = "good" if rng.random() < good else "bad"
        rows.append((f"{rng.gauss(2.0 if label == 'good' else -2.0, 0.7):.3f}", label))
    return rows


async def accuracy(agent: Classifier[str], rows: Sequence[tuple[str, str]]) -> float:
    right = 0
    for text, label in rows:
        right += (await agent.run(text)).output.label == label
    return right / len(rows)


async def test_the_bias_is_taken_out_on_unlabelled_texts() -> None:
    agent, rows = classifier(Biased(bias=4.0)), texts(200)
    fair = await agent.adapt(unlabelled=[text for text, _ in rows])
    assert await accuracy(agent, rows) < 0.7
    assert await accuracy(fair, rows) > 0.9


async def test_labels_find_the_threshold_of_a_rare_class() -> None:
    agent, rows = classifier(Biased(bias=4.0)), texts(300, good=0.1)
    labelled = [Example(text, {"mood": label}) for text, label in texts(32, good=0.15, seed=7)]
    fair = await agent.adapt(labelled=labelled, unlabelled=[text for text, _ in rows])
    assert await accuracy(fair, rows) > 0.97


async def test_few_texts_are_replaced_by_the_shipped_ones() -> None:
    endpoint = SimulatedEndpoint(rule=lambda _: {"mood": {"good": 0.9}})
    made = await adapt(endpoint, [MOOD], unlabelled=["1"] * 31)
    assert sorted(endpoint.states) == sorted(stand_in_texts())
    assert "36 shipped texts" in made["mood"].origin


async def test_many_texts_are_sampled_evenly() -> None:
    endpoint = Biased()
    many = [str(i / 1000) for i in range(1000)]
    made = await adapt(endpoint, [MOOD], unlabelled=many)
    read = endpoint.states[:MOST_TEXTS]
    assert len(set(read)) == MOST_TEXTS
    assert max(map(float, read)) > 0.98
    assert "128 unlabelled texts" in made["mood"].origin


async def test_a_server_that_decides_by_itself_is_shown_no_examples() -> None:
    endpoint = Biased(source="native")
    labelled = [Example(text, {"mood": label}) for text, label in texts(32)]
    (made,) = (await adapt(endpoint, [MOOD], labelled=labelled)).values()
    assert [feature.name for feature in made.features] == ["labels"]
    assert set(endpoint.shown) == {0}
    assert made.full is not None
    assert made.full.bias[1] < -1


async def test_written_labels_have_no_bias_to_remove() -> None:
    (made,) = (await adapt(Biased(source="text"), [MOOD], unlabelled=["1.0"] * 40)).values()
    assert made.full is None
    assert made.origin == "examples shown: it writes its labels"


async def test_the_budget_covers_the_fitting() -> None:
    context = RunContext()
    await adapt(Biased(), [MOOD], unlabelled=DIFFERENT, context=context)
    assert context.usage.calls == 120


async def test_equal_texts_are_asked_about_once_and_count_as_often_as_they_come() -> None:
    context = RunContext()
    often = await adapt(Biased(), [MOOD], unlabelled=["1.0", "-1.0", "-1.0"] * 12, context=context)
    assert context.usage.calls <= 6
    even = await adapt(Biased(), [MOOD], unlabelled=["1.0", "-1.0"] * 18)
    assert often["mood"].full != even["mood"].full


async def test_progress_is_told_of_each_feature_to_its_end() -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    await adapt(
        Biased(),
        [MOOD],
        unlabelled=DIFFERENT,
        progress=lambda name, done, total: seen.setdefault(name, []).append((done, total)),
    )
    assert {name: told[-1] for name, told in seen.items()} == {
        "labels": (40, 40),
        "labels after sure texts": (40, 40),
    }
    assert all(told == sorted(told) for told in seen.values())


async def test_what_was_fitted_is_saved_and_decides_the_same_without_fitting_anew(
    tmp_path: Path,
) -> None:
    agent, rows = classifier(Biased(bias=4.0)), texts(20)
    labelled = [Example(text, {"mood": label}) for text, label in texts(32, good=0.3, seed=7)]
    fair = await agent.adapt(labelled=labelled)
    (made,) = fair.calibrations.values()
    assert (made.bound, made.accepting) == (None, None)
    assert made.reached is not None
    assert made.reached.accuracy > 0.9
    made.save(tmp_path / "mood.json")
    endpoint = Biased(bias=4.0)
    again = classifier(endpoint, calibration=Calibration.load(tmp_path / "mood.json"))
    for text, _ in rows:
        one, other = (await fair.run(text)).output, (await again.run(text)).output
        assert one.probabilities == pytest.approx(other.probabilities)
        assert (one.accepted, other.accepted) == (None, None)
    assert len(set(endpoint.states)) == len(rows)


async def test_labels_make_a_head_where_the_model_knows_nothing() -> None:
    blind = SimulatedEndpoint(encoder=numbers(), rule=lambda _: {"mood": {"good": 0.9}})
    rows = [(f"mood {text}", label) for text, label in texts(40, seed=1)]
    fitted = await classifier(blind).adapt(
        labelled=[Example(text, {"mood": label}) for text, label in rows]
    )
    assert not fitted.asks_endpoint
    asked = len(blind.states)
    assert await accuracy(fitted, texts(40, seed=2)) > 0.9
    assert len(blind.states) == asked


async def test_a_model_that_knows_more_is_asked_beside_the_words() -> None:
    class Nothing(Numbers):
        def vector(self, text: str) -> tuple[float, ...]:
            rng = random.Random(text)
            return tuple(rng.gauss(0, 0.3) for _ in range(896))

    slm = Biased()
    slm.encoder = numbers(Nothing)
    labelled = [Example(text, {"mood": label}) for text, label in texts(40, seed=1)]
    fitted = await classifier(slm).adapt(labelled=labelled)
    assert fitted.asks_endpoint
    assert await accuracy(fitted, texts(40, seed=2)) > 0.9


async def test_questions_that_are_fitted_together_are_read_together() -> None:
    class Two(BaseModel):
        mood: Choice[str] = choice("How?", labels=["bad", "good"])
        size: Choice[str] = choice("How big?", labels=["big", "small"])

    decided = {"mood": {"good": 0.6}, "size": {"big": 0.6}}
    endpoint = SimulatedEndpoint(rule=lambda _: decided)
    labelled = [
        Example(text, {"mood": label, "size": "big" if place % 3 else "small"})
        for place, (text, label) in enumerate(texts(16))
    ]
    await Decider(endpoint, Two).adapt(labelled=labelled)
    assert max(Counter(endpoint.states).values()) <= 3  # once plain; and once turned for each


async def test_a_blind_model_is_doubtful_unless_the_words_decide() -> None:
    def says_good(text: str) -> dict[str, dict[str, float]]:
        return {"mood": {"good": 0.9 + len(text) / 1e4}}

    unlabelled = [f"a text {'x' * n}" for n in range(40)]
    alone = await classifier(SimulatedEndpoint(rule=says_good)).adapt(unlabelled=unlabelled)
    result = await alone.run("hello")
    assert result.output.doubtful
    assert any("'mood' is DOUBTFUL: it says the same" in note.text for note in result.trace)
    beside = SimulatedEndpoint(encoder=numbers(), rule=says_good)
    fitted = await classifier(beside).adapt(unlabelled=unlabelled)
    assert not (await fitted.run("hello 1.0")).output.doubtful


def test_halves_share_no_text_and_show_each_option_as_often() -> None:
    labelled = [Example(str(i), {"mood": "good" if i % 8 else "bad"}) for i in range(32)]
    one, two = choose_halves(labelled, MOOD)
    assert not {e.text for e in one} & {e.text for e in two}
    for view in (one, two):
        assert [e.labels["mood"] for e in view].count("bad") == 2
        assert [e.labels["mood"] for e in view].count("good") == 4


readings = st.lists(
    st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5)), min_size=4, max_size=30
)


@settings(deadline=None)
@given(readings, st.integers(0, 2**32 - 1))
def test_a_fit_gives_probabilities_and_never_a_higher_loss_than_its_start(
    rows: list[tuple[float, float, float]], seed: int
) -> None:
    reading = np.array(rows)[:, None]
    labels = np.random.default_rng(seed).integers(0, 3, len(rows))
    weights, bias = np.array([1.0]), np.zeros(3)
    found = fit_blend(reading, labels, weights=weights, bias=bias)
    p = np.exp(found.logs(reading))
    assert np.allclose(p.sum(1), 1.0)
    z = reading[:, 0]
    start = np.exp(z - z.max(1, keepdims=True))
    start /= start.sum(1, keepdims=True)
    at = np.arange(len(rows))
    assert np.log(p[at, labels] + 1e-12).sum() >= np.log(start[at, labels] + 1e-12).sum() - 1e-6


@settings(deadline=None)
@given(readings, st.lists(st.integers(0, 2), max_size=20))
def test_a_matching_bias_gives_each_option_its_share(
    rows: list[tuple[float, float, float]], labels: list[int]
) -> None:
    prior = class_prior(np.array(labels, dtype=np.intp), 3)
    reading = np.array(rows)[:, None] / 5
    bias = matching_bias(reading, np.array([1.0]), prior)
    scores = np.exp(reading[:, 0] + bias)
    shares = (scores / scores.sum(1, keepdims=True)).mean(0)
    assert shares == pytest.approx(prior, abs=0.02)


def test_half_of_the_bias_between_two_options_stays() -> None:
    reading = np.array([[1.0, -1.0], [3.0, -3.0]])
    assert shrunk_mean(reading) == pytest.approx([1.0, -1.0])


@pytest.mark.embedded
async def test_the_embedded_model_tells_moods_apart_without_labels() -> None:
    glad = ["I love it, thank you!", "Wonderful service.", "What a great day.", "Best film ever."]
    sad = ["I hate it.", "Terrible service, never again.", "It broke at once.", "So boring."]
    slm = EmbeddedEndpoint()
    agent = Classifier(
        slm, ["negative", "positive"], task="What is the sentiment of the text?", none=False
    )
    fair = await agent.adapt(unlabelled=[*glad, *sad] * 4)
    found = [(await fair.run(text)).output.label for text in [*glad, *sad]]
    await slm.close()
    assert sum(label == "positive" for label in found[:4]) >= 3
    assert sum(label == "negative" for label in found[4:]) >= 3


def test_a_model_that_says_the_same_whatever_the_text_is_blind() -> None:
    spread = np.linspace(-1, 1, 40)[:, None] * np.array([1.0, -1.0])
    assert not is_blind(spread + np.array([2.0, -2.0]))
    assert is_blind(spread + np.array([4.0, -4.0]))


def test_prompts_agree_as_far_as_they_move_together_beyond_their_biases() -> None:
    one = np.linspace(-1, 1, 40)[:, None] * np.array([1.0, -1.0])
    readings = np.stack([one, one * 3 + np.array([5.0, -5.0]), one], 1)
    assert agreement(readings) == pytest.approx(1.0)
    assert agreement(np.stack([one, -one], 1)) == 0.0


def test_without_scipy_it_says_what_to_install_when_something_is_fitted() -> None:
    code = """
import sys
sys.modules["scipy"] = None
import numpy as np
from moa.decisions.regression import fit_blend
from moa.core.errors import MissingDependency
try:
    fit_blend(np.zeros((4, 1, 2)), np.arange(4) % 2, weights=np.ones(1), bias=np.zeros(2))
except MissingDependency as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'scipy' is not installed" in said.stdout
    assert 'pip install "mixture-of-agents[calibration]"' in said.stdout
