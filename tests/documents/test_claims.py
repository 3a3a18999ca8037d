"""Grading: by a threshold, or by a calibration made for it."""

from __future__ import annotations

import random

import pytest

from moa.calibration.fit import calibrate
from moa.calibration.labelled import Labelled
from moa.context import RunContext
from moa.documents import Passage
from moa.documents.claims import RELEVANT, Grader, asked, checked_claims
from moa.errors import CalibrationError
from moa.questions import Option, Question
from moa.testing import SimulatedEndpoint


@pytest.fixture(autouse=True)
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "moa.endpoints.encoders.SentenceEncoder.missing", staticmethod(lambda: "tokenizers")
    )


def endpoint(yes: str = "yes") -> SimulatedEndpoint:
    """The last word of a text is the probability that it gives to yes."""

    def decide(text: str) -> dict[str, dict[str, float]]:
        p = float(text.split()[-1])
        return {"label": {yes: p}, "filter": {yes: p}}

    return SimulatedEndpoint(rule=decide)


def rows(labels: tuple[str, str]) -> list[Labelled]:
    """Pairs whose label follows the probability in them, more surely than that says."""
    draw = random.Random(0)
    found: list[Labelled] = []
    for number in range(800):
        p = draw.random()
        right = p**3 / (p**3 + (1 - p) ** 3)
        label = labels[draw.random() >= right]
        passage = Passage(document="a", title="A", text=f"Number {number}: {p:.4f}")
        found.append(Labelled(text=asked("Which?", passage), label=label))
    return found


def pair(p: float) -> str:
    return asked("Which?", Passage(document="a", title="A", text=f"It is {p}"))


async def test_without_a_calibration_the_threshold_decides() -> None:
    grader = Grader(endpoint(), RELEVANT, threshold=0.2, name="filter")
    met = [(await grader.run(pair(p))).output.met for p in (0.1, 0.3, 0.9)]
    assert met == [False, True, True]


async def test_a_calibration_says_what_its_promise_covers() -> None:
    question = Question(
        "label", "choice", "Does it help?", (Option("no", "no"), Option("yes", "yes"))
    )
    found = await calibrate(endpoint(), question, rows(("yes", "no")))
    grader = Grader(endpoint(), RELEVANT, calibration=found, name="filter")
    assert grader.questions[0].text == "Does it help?"
    grades = [(await grader.run(pair(p))).output for p in (0.01, 0.5, 0.99)]
    assert [grade.met for grade in grades[::2]] == [False, True]
    assert [grade.accepted for grade in grades] == [True, False, True]


async def test_a_calibration_with_other_labels_is_refused() -> None:
    question = Question("label", "choice", "Does it help?", (Option("a", "a"), Option("b", "b")))
    found = await calibrate(endpoint("a"), question, rows(("a", "b")))
    with pytest.raises(CalibrationError, match="labels a, b, and here"):
        Grader(endpoint(), RELEVANT, calibration=found, name="filter")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("The museum opens at nine. [1]", "unchecked"),
        ("The tower was painted blue by sailors. [1]", "unsupported"),
        ("The tower was painted blue by sailors.", "unsupported"),
        ("It opens at nine. [1]", "unchecked"),
        ("Yes. [1]", "unchecked"),
        ("Das Haus wurde von einem berühmten Baumeister errichtet. [1]", "unchecked"),
    ],
)
async def test_without_a_grader_a_sentence_without_the_passages_words_is_unsupported(
    answer: str, verdict: str
) -> None:
    passages = (
        Passage(document="m", title="M", text="The museum opens at nine and closes at six."),
        Passage(document="r", title="R", text="Rice grows in water and needs warm summers."),
    )
    (claim,) = await checked_claims(answer, passages, None, RunContext())
    assert claim.verdict == verdict


async def test_one_passage_is_enough_to_tell_a_sentence_that_has_its_words() -> None:
    passages = (Passage(document="p", title="P", text="The bridge spans 90 m."),)
    (claim,) = await checked_claims("It spans 90 m. [1]", passages, None, RunContext())
    assert claim.verdict == "unchecked"
