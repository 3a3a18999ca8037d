"""Beside: puts heads on an encoder's vectors beside what a model reads of a task's own texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from moa.context import RunContext
from moa.decisions import ENOUGH, Adaptation, Correction
from moa.decisions.arrays import Floats, Ints
from moa.decisions.encoding import encode
from moa.decisions.fitting import fit, held_out_loss, shrunk_mean
from moa.decisions.folds import folds
from moa.decisions.heads import Blend, Head, fit_head
from moa.decisions.relevance import relevance_head
from moa.decisions.stacking import floats
from moa.endpoints import Endpoint, Example
from moa.endpoints.known import known
from moa.questions import Question

_PARTS = 10
_WORDS, _LABELLED = 0.4, 0.8
"""Weights to start from, with many labels: of the head on the words of the question, and of the one
fitted to labelled texts. That of the model is what was measured beside the words, times theirs."""
_FEW = 16
"""With so many labels the fitted head has half of that weight, and the words have what it lacks."""
_GAIN = 0.01
"""Least fall of the held-out log loss for which the model is asked beside the heads."""


async def with_heads(
    base: Adaptation,
    endpoint: Endpoint,
    questions: Sequence[Question],
    *,
    labelled: Sequence[Example],
    read: Mapping[str, Floats],
    texts: Sequence[str],
    encoder: Endpoint,
    context: RunContext,
) -> Adaptation:
    """Put heads beside an adaptation of a model.

    Without enough labels the words of the question are the head, whose bias on the unlabelled texts
    is taken out; how much the model counts is what is known of it. With labels a head is fitted to
    their vectors, and which of the three are asked, with what weights, is chosen by log loss in
    cross-validation.

    Args:
        base: How the model is read.
        endpoint: The model.
        questions: What is asked.
        labelled: Texts with the names of the right options.
        read: Log-probabilities of the labelled texts by `base`, by the name of the question;
            questions for which the model isn't asked are left out.
        texts: Unlabelled ones; none where ordinary ones are unlike those to come.
        encoder: Gives vectors.
        context: Budget, deadline and ledger.
    """
    plain = np.array(await encode(encoder, texts, context)) if texts else np.zeros((0, 0))
    vectors = np.array(await encode(encoder, [e.text for e in labelled], context))
    made = base
    who: list[str] = []
    for question in questions:
        words = await relevance_head(question, context)
        logs = read.get(question.name)
        rows, labels = labels_of(question, labelled)
        if fits(labels):
            weight = known(endpoint.model).weight_of(question) or 1.0
            made, said = fitted(made, question, words, vectors[rows], logs, labels, weight=weight)
        elif words is not None:
            made, said = _by_words(made, endpoint, question, words, plain), "words"
        else:
            continue
        who.append(f"{question.name} by {said}")
    if not made.heads:
        return base
    used = {n for n, c in made.corrections.items() if any(c.weights[: len(made.views)])}
    if all(q.name in made.heads and q.name not in used for q in questions):
        made = replace(
            made,
            views=(),
            corrections={
                n: Correction(c.offsets, c.weights[-1:]) for n, c in made.corrections.items()
            },
        )
    return replace(
        made,
        encoder=encoder.model,
        doubtful={name: why for name, why in base.doubtful.items() if name not in made.heads},
        origin=f"{base.origin}; {', '.join(who)}",
    )


def labels_of(question: Question, labelled: Sequence[Example]) -> tuple[list[int], Ints]:
    """Rows of the texts that have a label of the question, and the index of it."""
    names = [option.name for option in question.options]
    found = [
        (row, names.index(example.labels[question.name]))
        for row, example in enumerate(labelled)
        if example.labels.get(question.name) in names
    ]
    return [row for row, _ in found], np.array([label for _, label in found], dtype=np.intp)


def fits(labels: Ints) -> bool:
    """Whether there are labels enough to fit a head."""
    return len(labels) >= ENOUGH and len(set(labels.tolist())) > 1


def _by_words(
    base: Adaptation, endpoint: Endpoint, question: Question, words: Head, plain: Floats
) -> Adaptation:
    """Decide by the words of the question, and by the model as far as it is known to be worth."""
    none: Floats = np.zeros(len(question.options))
    offsets: Floats = np.negative(shrunk_mean(words(plain))) if len(plain) else none
    weight = 0.0 if question.name in base.doubtful else known(endpoint.model).weight_of(question)
    correction = base.corrections.get(question.name)
    if correction is None:
        return _put(base, question, words, (0.0,) * len(base.views), 1.0, offsets)
    offsets = offsets + weight * np.array(correction.offsets)
    weights = tuple(weight * each for each in correction.weights)
    return _put(base, question, words, weights, 1.0, offsets)


def fitted(
    base: Adaptation,
    question: Question,
    words: Head | None,
    vectors: Floats,
    model: Floats | None,
    labels: Ints,
    *,
    weight: float = 1.0,
) -> tuple[Adaptation, str]:
    """Fit a head to labelled texts, and put it beside the model where that lowers the log loss.

    Args:
        base: How the model is read.
        question: What is asked.
        words: The head on the question's words; `None` where there is none.
        vectors: Of the labelled texts.
        model: Log-probabilities of the labelled texts, as `base` gives them; `None`: not asked.
        labels: Index of the right option of each.
        weight: How much the model counts where the words count 1, to start from.

    Returns:
        The adaptation, and in words what decides.
    """
    options = len(question.options)
    parts = folds([str(row) for row in range(len(labels))], labels, min(_PARTS, len(labels)))
    made = fit_head(vectors, labels, options, parts)
    many = len(labels) / (len(labels) + _FEW)
    by_words = _WORDS + (1 - many) * _LABELLED / 2
    logs, start, heads = [made.held_out], [_LABELLED], [made.head]
    if words is not None:
        logs, heads = [*logs, words(vectors)], [*heads, words]
        start = [_LABELLED * many, by_words]
    none = np.zeros(options)
    without = np.stack(logs, 1)
    readings, weights, asked = without, start, False
    if model is not None:
        beside, more = np.stack([*logs, model], 1), [*start, weight * by_words]
        alone = held_out_loss(without, labels, weights=np.array(start), bias=none)
        both = held_out_loss(beside, labels, weights=np.array(more), bias=none)
        asked = both < alone - _GAIN
        readings, weights = (beside, more) if asked else (without, start)
    found = fit(readings, labels, weights=np.array(weights), bias=none)
    blend = Blend(tuple(heads), floats(found.weights[: len(heads)]), np.zeros(options))
    correction = base.corrections.get(question.name)
    if not asked or correction is None:
        rest = (0.0,) * len(base.views)
        return _put(base, question, blend, rest, 1.0, found.bias), "labelled texts"
    weight = float(found.weights[-1])
    offsets = found.bias + weight * np.array(correction.offsets)
    views = tuple(weight * each for each in correction.weights)
    return _put(base, question, blend, views, 1.0, offsets), "labelled texts and the model"


def _put(
    base: Adaptation,
    question: Question,
    head: Head | Blend,
    weights: tuple[float, ...],
    head_weight: float,
    offsets: Floats,
) -> Adaptation:
    return replace(
        base,
        heads={**base.heads, question.name: head},
        corrections={
            **base.corrections,
            question.name: Correction(floats(offsets), (*weights, head_weight)),
        },
    )
