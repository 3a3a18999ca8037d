"""Defaults: calibrations without a bound, for questions that nothing was fitted to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from moa.core.questions import Question
from moa.decisions.encoders import SHIPPED, Heads
from moa.decisions.features import (
    ENCODER,
    Feature,
    LabelFeature,
    QuestionRecord,
    VectorFeature,
    WordsFeature,
    as_prompt_variant,
    make_words_feature,
)
from moa.decisions.file import (
    Calibration,
    FitRecord,
    HeadFile,
    ShippedHead,
    current_time,
)
from moa.endpoints import Endpoint, Example
from moa.endpoints.known import facts_of

MOST_SHOWN = 32
"""Maximum of examples in a prompt, unless there are more labels."""
BY_WORDS = "by the words of the question"


def make_calibration(
    question: Question, features: Sequence[Feature], full: FitRecord | None, origin: str
) -> Calibration:
    """Build a calibration that was fitted to no labels and no model."""
    return Calibration(
        made=current_time(),
        question=QuestionRecord.model_validate(question),
        models={},
        features=tuple(features),
        full=full,
        origin=origin,
    )


def make_unfitted(
    question: Question, examples: Sequence[Example] = (), *, origin: str = "asked as it is"
) -> Calibration:
    """Use the endpoint's answer unchanged; many examples are cut to some of each label."""
    feature = LabelFeature(
        prompt_variants=(as_prompt_variant(question, choose_examples(question, examples)),),
        asked_as="",
    )
    return make_calibration(question, [feature], None, origin)


def add_expected_precision(calibration: Calibration, heads: Heads) -> Calibration:
    """Add the expected precision of heads that alone decide a choice by its words."""
    words = calibration.features[0]
    is_alone = len(calibration.features) == 1
    if not (is_alone and isinstance(words, WordsFeature) and calibration.question.kind == "choice"):
        return calibration
    expected = heads.expected_precision(calibration.question.question(), words.examples)
    origin = f"{calibration.origin} (precision expected, not guaranteed)"
    return calibration.model_copy(update={"expected": expected, "origin": origin})


def choose_examples(question: Question, examples: Sequence[Example]) -> Sequence[Example]:
    """Choose examples of each label in turn, up to the maximum of a prompt, in their order."""
    limit = max(MOST_SHOWN, len(question.options))
    if len(examples) <= limit:
        return examples
    counts, turns = Counter[str | None](), list[tuple[int, int]]()
    for index, example in enumerate(examples):
        label = example.labels.get(question.name)
        turns.append((counts[label], index))
        counts[label] += 1
    return [examples[index] for index in sorted(index for _, index in sorted(turns)[:limit])]


def calibrate_by_words(
    question: Question, endpoint: Endpoint, heads: Heads, examples: Sequence[Example] = ()
) -> Calibration:
    """Decide by the words of the question, and by the model if it is known to help."""
    facts = facts_of(endpoint.model)
    weight = facts.weight_of(question)
    words, zeros = (
        make_words_feature(question, as_prompt_variant(question, examples)),
        (0.0,) * len(question.options),
    )
    if not weight:
        fit = FitRecord(heads=(None,), weights=(1.0,), bias=zeros)
        count = sum(bool(example.labels) for example in words.examples)
        origin = f"{BY_WORDS} and {count} examples" if count else BY_WORDS
        return add_expected_precision(make_calibration(question, [words], fit, origin), heads)
    labels = LabelFeature(prompt_variants=(as_prompt_variant(question, examples),), asked_as="")
    fit = FitRecord(heads=(None, None), weights=(1.0, weight), bias=zeros)
    return make_calibration(
        question, [words, labels], fit, f"by the words and {endpoint.model}, as probed"
    )


def shipped_calibration(
    question: Question, name: str, *, file: HeadFile = "support"
) -> Calibration:
    """Decide a question by the shipped head of the question `name` in a file."""
    fit = FitRecord(
        heads=(ShippedHead(file=file, question=name),),
        weights=(1.0,),
        bias=(0.0,) * len(question.options),
    )
    keeps_each = name in ONE_IS_ENOUGH
    vector = VectorFeature(name="encoder", source=ENCODER, sentences=True, each=keeps_each)
    origin = f"shipped with moa, fitted to labelled messages ({file})"
    expected = SHIPPED.open().shipped_expectations().get(f"{file} {name}", ())
    if expected:
        origin += " (precision expected, not guaranteed)"
    return make_calibration(question, [vector], fit, origin).model_copy(
        update={"expected": expected}
    )


ONE_IS_ENOUGH = frozenset({"injection"})
"""Questions of shipped heads that a single sentence can decide."""
