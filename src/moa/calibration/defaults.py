"""Defaults: what decides a question that nothing was fitted to, as calibrations without a bound."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from moa.calibration.features import (
    ENCODER,
    Feature,
    LabelFeature,
    VectorFeature,
    WordsFeature,
    shown_as,
    words_of,
)
from moa.calibration.file import Calibration, FitRecord, HeadFile, QuestionRecord, ShippedHead, now
from moa.endpoints import Endpoint, Example
from moa.endpoints.known import facts_of
from moa.questions import Question

EXPECTED = Path(__file__).with_name("expected.json")
"""Curves of confidence and expected precision, as `benchmarks/pairs.py` writes them."""
MOST_SHOWN = 32
"""Examples that are shown in a prompt, unless there are more labels."""
BY_WORDS = "by the words of the question"


def made(
    question: Question, features: Sequence[Feature], full: FitRecord | None, origin: str
) -> Calibration:
    """Make a calibration that no labels and no model took part in."""
    return Calibration(
        made=now(),
        question=QuestionRecord.model_validate(question),
        models={},
        features=tuple(features),
        full=full,
        origin=origin,
    )


def as_asked(
    question: Question, examples: Sequence[Example] = (), *, origin: str = "asked as it is"
) -> Calibration:
    """Take the endpoint's answer as it is, behind examples if any; of many, some of each label."""
    feature = LabelFeature(
        prompt_variants=(shown_as(question, some_of_each(question, examples)),),
        read_as=None,
        asked_as="",
    )
    return made(question, [feature], None, origin)


def with_expected(calibration: Calibration) -> Calibration:
    """Say how precise decisions are expected to be, where the scorer of pairs makes them alone."""
    words = calibration.features[0]
    alone = len(calibration.features) == 1
    if not (alone and isinstance(words, WordsFeature) and calibration.question.kind == "choice"):
        return calibration
    from moa.decisions.pairs import expected_of

    expected = expected_of(calibration.question.question(), words.examples)
    origin = f"{calibration.origin} (precision expected, not guaranteed)"
    return calibration.model_copy(update={"expected": expected, "origin": origin})


def some_of_each(question: Question, examples: Sequence[Example]) -> Sequence[Example]:
    """Take examples of each label in turn, no more than a prompt holds, in their order."""
    most = max(MOST_SHOWN, len(question.options))
    if len(examples) <= most:
        return examples
    before, turns = Counter[str | None](), list[tuple[int, int]]()
    for place, example in enumerate(examples):
        label = example.labels.get(question.name)
        turns.append((before[label], place))
        before[label] += 1
    return [examples[place] for place in sorted(place for _, place in sorted(turns)[:most])]


def by_words(
    question: Question, endpoint: Endpoint, examples: Sequence[Example] = ()
) -> Calibration:
    """Decide by the words of the question, and by the model as far as it is known to help."""
    about = facts_of(endpoint.model)
    weight = about.weight_of(question)
    words, zeros = words_of(question, shown_as(question, examples)), (0.0,) * len(question.options)
    if not weight:
        fit = FitRecord(heads=(None,), weights=(1.0,), bias=zeros)
        count = sum(bool(example.labels) for example in words.examples)
        origin = f"{BY_WORDS} and {count} examples" if count else BY_WORDS
        return with_expected(made(question, [words], fit, origin))
    labels = LabelFeature(
        prompt_variants=(shown_as(question, examples),), read_as=None, asked_as=""
    )
    fit = FitRecord(heads=(None, None), weights=(1.0, weight), bias=zeros)
    return made(question, [words, labels], fit, f"by the words and {endpoint.model}, as probed")


def shipped(question: Question, name: str, *, file: HeadFile = "support") -> Calibration:
    """Decide a question by the head that ships for the question `name` in a file."""
    fit = FitRecord(
        heads=(ShippedHead(file=file, question=name),),
        weights=(1.0,),
        bias=(0.0,) * len(question.options),
    )
    each = name in ONE_IS_ENOUGH
    vector = VectorFeature(name="encoder", source=ENCODER, sentences=True, each=each)
    origin = f"shipped with moa, fitted to labelled messages ({file})"
    expected = shipped_expectations().get(f"{file} {name}", ())
    if expected:
        origin += " (precision expected, not guaranteed)"
    return made(question, [vector], fit, origin).model_copy(update={"expected": expected})


ONE_IS_ENOUGH = frozenset({"injection"})
"""Questions of shipped heads that one sentence of a text decides."""


@cache
def shipped_expectations() -> dict[str, tuple[tuple[float, float], ...]]:
    """Read what precision is expected of heads that ship, by their file and question."""
    found = json.loads(EXPECTED.read_text(encoding="utf-8"))
    return {name: tuple((float(a), float(b)) for a, b in curve) for name, curve in found.items()}
