"""Defaults: what decides a question that nothing was fitted to, as calibrations without a bound."""

from __future__ import annotations

from collections.abc import Sequence

from moa.calibration.features import (
    ASKED_AS,
    ENCODER,
    Feature,
    LabelFeature,
    VectorFeature,
    WordsFeature,
)
from moa.calibration.file import Calibration, FitRecord, HeadFile, QuestionRecord, ShippedHead, now
from moa.decisions import PromptVariant
from moa.endpoints import Endpoint, Example
from moa.endpoints.known import known
from moa.questions import Question


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


def shown_as(question: Question, examples: Sequence[Example]) -> PromptVariant:
    """Name the labels of examples as features do; those without one of the question stay."""
    labels = [example.labels.get(question.name) for example in examples]
    return tuple(
        Example(example.text, {} if label is None else {ASKED_AS: label})
        for example, label in zip(examples, labels, strict=True)
    )


def as_asked(
    question: Question, examples: Sequence[Example] = (), *, origin: str = "asked as it is"
) -> Calibration:
    """Take the endpoint's answer as it is, behind examples if any."""
    feature = LabelFeature(
        prompt_variants=(shown_as(question, examples),), read_as=None, asked_as=""
    )
    return made(question, [feature], None, origin)


def by_words(
    question: Question, endpoint: Endpoint, examples: Sequence[Example] = ()
) -> Calibration:
    """Decide by the words of the question, and by the model as far as it is known to help."""
    about = known(endpoint.model)
    weight = about.weight_of(question)
    words, zeros = WordsFeature(), (0.0,) * len(question.options)
    if not weight:
        fit = FitRecord(heads=(None,), weights=(1.0,), bias=zeros)
        return made(question, [words], fit, "by the words of the question")
    half = weight * about.yes_bias / 2
    bias = (-half, half) if question.kind == "predicate" else zeros
    labels = LabelFeature(
        prompt_variants=(shown_as(question, examples),), read_as=None, asked_as=""
    )
    fit = FitRecord(heads=(None, None), weights=(1.0, weight), bias=bias)
    return made(question, [words, labels], fit, f"by the words and {endpoint.model}, as probed")


def shipped(question: Question, name: str, *, file: HeadFile = "support") -> Calibration:
    """Decide a question by the head that ships for the question `name` in a file."""
    fit = FitRecord(
        heads=(ShippedHead(file=file, question=name),),
        weights=(1.0,),
        bias=(0.0,) * len(question.options),
    )
    vector = VectorFeature(name="encoder", source=ENCODER, sentences=True)
    origin = f"shipped with moa, fitted to labelled messages ({file})"
    return made(question, [vector], fit, origin)
