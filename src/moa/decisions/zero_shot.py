"""Zero-shot: a model that reads labels, the words of a question, and a head, weighed together.

Each gives log-probabilities of a question's options. The model's are read in prompts; a head reads
an encoder's vector of the text, and was made of the question's words or fitted to labelled texts.

Nothing is measured beforehand. How much a model counts beside the words is known from a probe
(`moa.endpoints.known`); of one that wasn't probed the words decide alone. Where the agent has
labelled examples enough, a head is fitted to them, and weighed with the words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from moa._async import map_async
from moa.context import RunContext
from moa.decisions import ENOUGH, Adaptation, Correction, PromptVariant
from moa.decisions.arrays import Floats, Ints, np
from moa.decisions.heads import Blend, Head, encode, feeds_heads, relevance_head, speaks
from moa.decisions.regression import (
    fit_blend,
    fit_head,
    folds,
    held_out_loss,
    shrunk_mean,
)
from moa.endpoints import Endpoint, Example
from moa.endpoints.known import known
from moa.questions import Answer, Question, Source

_AT_ONCE = 8
_PARTS = 10
_WORDS, _LABELLED = 0.4, 0.8
"""Weights to start from, with many labels: of the head on the words of the question, and of the one
fitted to labelled texts. That of the model is what was measured beside the words, times theirs."""
_FEW = 16
"""With so many labels the fitted head has half of that weight, and the words have what it lacks."""
_GAIN = 0.01
"""Least fall of the held-out log loss for which the model is asked beside the heads."""
Answers = tuple[Answer, ...]
Progress = Callable[[int, int], None]
"""Called with the texts read so far, and those to read in all, as far as that is known."""


@dataclass(slots=True)
class LabelReader:
    """Reads what a model answers to texts, several at once, as numbers to fit to."""

    endpoint: Endpoint
    questions: tuple[Question, ...]
    own: PromptVariant
    """Examples that are shown where a prompt variant has none."""
    context: RunContext
    progress: Progress | None = None
    source: Source = "native"
    """Where the last answers come from."""
    done: int = 0
    total: int = 0

    async def read(
        self, variants: Sequence[PromptVariant], texts: Sequence[str]
    ) -> dict[str, Floats]:
        """Log-probabilities by question: texts, prompt variants, options; centred on their mean.

        Equal texts are asked about once.
        """
        distinct = list(dict.fromkeys(texts))
        self.total += len(variants) * len(distinct)
        found: list[list[Answers]] = []
        for variant in variants:  # one by one: a server keeps one beginning of a prompt at a time

            async def one(text: str, shown: PromptVariant = variant or self.own) -> Answers:
                return await self._answers(text, shown)

            answered = await map_async(one, distinct, max_concurrency=_AT_ONCE)
            by_text = dict(zip(distinct, answered, strict=True))
            found.append([by_text[text] for text in texts])
        read: dict[str, Floats] = {}
        for place, question in enumerate(self.questions):
            options = len(question.options)
            logs = [[_logs(a[place].probabilities, options) for a in answers] for answers in found]
            shaped = np.array(logs).reshape(len(variants), len(texts), options)
            read[question.name] = shaped.swapaxes(0, 1)
        return read

    async def _answers(self, text: str, shown: PromptVariant) -> Answers:
        decision = await self.endpoint.decide(text, self.questions, self.context, examples=shown)
        self.source = decision.answers[0].source
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
        return decision.answers


def _logs(probabilities: Sequence[float] | None, options: int) -> Floats:
    """An unanswered question says nothing: all its options are as likely."""
    if probabilities is None:
        return np.zeros(options)
    logs = np.log(np.maximum(np.array(probabilities), 1e-45))
    return logs - logs.mean()


async def with_heads(
    base: Adaptation,
    endpoint: Endpoint,
    questions: Sequence[Question],
    *,
    labelled: Sequence[Example],
    read: Mapping[str, Floats],
    texts: Sequence[str],
    encoder: Endpoint | None,
    context: RunContext,
) -> Adaptation:
    """Put heads beside an adaptation of a model, if there is an encoder that heads can read.

    Without enough labels the words of the question are the head, whose bias on the unlabelled texts
    is taken out; how much the model counts is what is known of it. With labels a head is fitted to
    their vectors, and which of the three are asked, with what weights, is chosen by log loss in
    cross-validation.

    `read` are log-probabilities of the labelled texts by `base`, of the questions that it is asked;
    `texts` are none where ordinary ones are unlike those to come.
    """
    if encoder is None or not feeds_heads(encoder):
        return base
    plain = np.array(await encode(encoder, texts, context)) if texts else np.zeros((0, 0))
    vectors = np.array(await encode(encoder, [e.text for e in labelled], context))
    made = base
    who: list[str] = []
    for question in questions:
        words = await relevance_head(question, context)
        rows, labels = labels_of(question, labelled)
        if fits(labels):
            logs, weight = read.get(question.name), known(endpoint.model).weight_of(question)
            made, said = by_labels(
                made, question, words, vectors[rows], logs, labels, weight=weight or 1.0
            )
        elif words is not None:
            made, said = _by_words(made, endpoint, question, words, plain), "words"
        else:
            continue
        who.append(f"{question.name} by {said}")
    if not made.heads:
        return base
    used = {n for n, c in made.corrections.items() if any(c.weights[: len(made.prompt_variants)])}
    if all(q.name in made.heads and q.name not in used for q in questions):
        corrections = {
            n: Correction(c.offsets, c.weights[-1:]) for n, c in made.corrections.items()
        }
        made = replace(made, prompt_variants=(), corrections=corrections)
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
    offsets: Floats = -shrunk_mean(words(plain)) if len(plain) else none
    weight = 0.0 if question.name in base.doubtful else known(endpoint.model).weight_of(question)
    return _put(base, question, words, offsets, model=weight)


def by_labels(
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

    `model` are log-probabilities of these texts as `base` gives them, and `weight` is how much the
    model counts where the words count 1, to start from. Says in words what decides, too.
    """
    options = len(question.options)
    parts = folds([str(row) for row in range(len(labels))], labels, min(_PARTS, len(labels)))
    learnt = fit_head(vectors, labels, options, parts)
    many = len(labels) / (len(labels) + _FEW)
    by_words = _WORDS + (1 - many) * _LABELLED / 2
    logs, start, heads = [learnt.held_out], [_LABELLED], [learnt.head]
    if words is not None:
        logs, heads = [*logs, words(vectors)], [*heads, words]
        start = [_LABELLED * many, by_words]
    none = np.zeros(options)
    readings, weights, asked = np.stack(logs, 1), np.array(start), False
    if model is not None:
        beside, more = np.stack([*logs, model], 1), np.array([*start, weight * by_words])
        alone = held_out_loss(readings, labels, weights=weights, bias=none)
        asked = held_out_loss(beside, labels, weights=more, bias=none) < alone - _GAIN
        readings, weights = (beside, more) if asked else (readings, weights)
    found = fit_blend(readings, labels, weights=weights, bias=none)
    blend = Blend(tuple(heads), found.weights[: len(heads)], none)
    if not asked or question.name not in base.corrections:
        return _put(base, question, blend, found.bias, model=0.0), "labelled texts"
    made = _put(base, question, blend, found.bias, model=float(found.weights[-1]))
    return made, "labelled texts and the model"


def _put(
    base: Adaptation, question: Question, head: Head | Blend, offsets: Floats, *, model: float
) -> Adaptation:
    """Put a head beside the model, which counts `model` times as much as before."""
    none = Correction((0.0,) * len(question.options), (0.0,) * len(base.prompt_variants))
    before = base.corrections.get(question.name, none)
    offsets = offsets + model * np.array(before.offsets)
    correction = Correction.of(offsets, (*(model * weight for weight in before.weights), 1.0))
    return replace(
        base,
        heads={**base.heads, question.name: head},
        corrections={**base.corrections, question.name: correction},
    )


async def zero_shot(
    endpoint: Endpoint,
    questions: Sequence[Question],
    *,
    own: Sequence[Example] = (),
    encoder: Endpoint | None,
    context: RunContext,
) -> Adaptation | None:
    """Make heads for questions whose words, or whose examples, an encoder can read.

    Nothing is read beforehand but the words of the questions and the agent's own examples, by the
    encoder. A model is asked beside a head where it is known how much it counts there.

    Returns:
        `None` where the endpoint is asked all questions as it is.

    Raises:
        EndpointError, BudgetExceeded, DeadlineExceeded: the encoder could not be asked.
    """
    if encoder is None or not feeds_heads(encoder):
        return None
    fitted_to = {q.name for q in questions if fits(labels_of(q, own)[1])}
    if not any(q.name in fitted_to or speaks(q) for q in questions):
        return None
    about = known(endpoint.model)
    bias = about.yes_bias / 2
    base = Adaptation(
        prompt_variants=(_without_labels(own, fitted_to),),
        corrections={q.name: Correction((-bias, bias)) for q in questions if q.kind == "predicate"},
        origin="the encoder is read",
    )
    return await with_heads(
        base, endpoint, questions, labelled=own, read={}, texts=(), encoder=encoder, context=context
    )


def _without_labels(own: Sequence[Example], fitted_to: set[str]) -> PromptVariant:
    """Take the labels that a head is fitted to from examples: the model is shown the others."""
    left = [
        replace(e, labels={name: it for name, it in e.labels.items() if name not in fitted_to})
        for e in own
    ]
    return tuple(example for example in left if example.labels)
