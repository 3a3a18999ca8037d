"""Zero-shot: a model that reads labels, the words of a question, and a head, weighed together.

Each gives log-probabilities of a question's options. The model's are read in prompts; a head reads
an encoder's vector of the text, and was made of the question's words or fitted to labelled texts.

Zero-shot, nothing is fitted to texts of the task beforehand. How much the model counts is known
from measurements (`moa.endpoints.known`). Its bias is taken out first, on a few ordinary texts that
ship: what it answers to all of them alike says nothing. Where the agent has labelled examples
enough, a head is fitted to them, and the three are weighed by cross-validation.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from moa import _terminal as terminal
from moa._async import map_async
from moa._files import replace_text
from moa.context import RunContext
from moa.decisions import ENOUGH, Adaptation, Correction, PromptVariant
from moa.decisions.arrays import Floats, Ints, np
from moa.decisions.heads import FOLDER, Blend, Head, encode, feeds_heads, relevance_head, speaks
from moa.decisions.regression import (
    centred_mean,
    fit_blend,
    fit_head,
    folds,
    held_out_loss,
    shrunk_mean,
)
from moa.endpoints import Endpoint, Example
from moa.endpoints.embedded import EmbeddedEndpoint
from moa.endpoints.known import known
from moa.endpoints.weights import cache_folder
from moa.endpoints.wrappers import unwrapped
from moa.errors import BudgetExceeded
from moa.questions import Answer, Question, Source
from moa.usage import Amount

_logger = logging.getLogger(__name__)
MOST_READ = 30
"""Ordinary texts that a model reads, once for each question."""
RARE_SD = 2.0
"""A yes is said where it is so many standard deviations likelier than to ordinary texts, most of
which no criterion is true of (the best of a few cuts on ten criteria and a 1.5B model)."""
_ROOM, _TOKENS = 3, 400
"""How many times the calls of a measurement a budget must have room for, and tokens of each."""
ALIKE = 0.05
"""A model is blind to a question where its log-odds spread less than this over ordinary texts."""
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
    free: bool,
    context: RunContext,
) -> Adaptation | None:
    """Find out how to decide questions without fitting an agent beforehand.

    `own` are examples that the agent has, and `free` is whether asking the endpoint costs nothing,
    so that its bias may be measured. `None` where nothing is better than to ask the model as it is.

    Raises:
        BudgetExceeded: a limit would be passed, or the budget hasn't room for three times the
            calls: then none is sent.
        EndpointError, DeadlineExceeded: reading failed, or the run's time is up.
    """
    if encoder is not None and not feeds_heads(encoder):
        encoder = None
    fitted_to = {q.name for q in questions if encoder is not None and fits(labels_of(q, own)[1])}
    about = known(endpoint.model)
    asked = any(
        encoder is None
        or about.weight_of(question, free=free)
        or not (speaks(question) or question.name in fitted_to)
        for question in questions
    )
    if asked and not free:
        context.note(
            "degraded",
            f"{endpoint.model} is asked as it is, bias and all, since its calls may cost money: "
            "adapt() measures its bias",
        )
        return None
    base, read = Adaptation(prompt_variants=(), origin="the model isn't asked"), dict[str, Floats]()
    if asked:
        shown = _without_labels(own, fitted_to)
        texts = [*ordinary_texts()[:MOST_READ], *(e.text for e in own if fitted_to)]
        readings = await _kept(endpoint, questions, shown, texts, context)
        if readings is None:
            return None
        base = _without_bias(questions, readings, shown)
        for question in questions:
            rows, _ = labels_of(question, own)
            if question.name in fitted_to and question.name not in base.doubtful:
                logs = readings[question.name][MOST_READ:][rows]
                read[question.name] = logs + np.array(base.corrections[question.name].offsets)
    return await with_heads(
        base,
        endpoint,
        questions,
        labelled=own,
        read=read,
        texts=(),
        encoder=encoder,
        context=context,
    )


def _without_labels(own: Sequence[Example], fitted_to: set[str]) -> PromptVariant:
    """Take the labels that a head is fitted to from examples: the model is shown the others."""
    left = [
        replace(e, labels={name: it for name, it in e.labels.items() if name not in fitted_to})
        for e in own
    ]
    return tuple(example for example in left if example.labels)


def _without_bias(
    questions: Sequence[Question], readings: dict[str, Floats], shown: PromptVariant
) -> Adaptation:
    """Take the bias of a model out, as it shows on the ordinary texts, which come first."""
    corrections: dict[str, Correction] = {}
    doubtful: dict[str, str] = {}
    for question in questions:
        offsets, why = _unbiased(question, readings[question.name][:MOST_READ])
        corrections[question.name] = Correction.of(offsets)
        if why:
            doubtful[question.name] = why
    return Adaptation(
        prompt_variants=(shown,),
        corrections=corrections,
        doubtful=doubtful,
        origin=f"bias removed on {MOST_READ} ordinary texts",
    )


async def _kept(
    endpoint: Endpoint,
    questions: Sequence[Question],
    shown: PromptVariant,
    texts: Sequence[str],
    context: RunContext,
) -> dict[str, Floats] | None:
    """Read texts, or take what the embedded model read before and is in the cache.

    What is read is charged to `bias`, a node of its own under the agent's.

    Returns:
        Log-probabilities by question: texts, options. `None` where the model writes its labels.
    """
    file: Path | None = None
    inner = unwrapped(endpoint)
    if isinstance(inner, EmbeddedEndpoint):
        layouts = [known(inner.model).layout_of(question.kind) for question in questions]
        said = repr((inner.model, inner.model_path, questions, layouts, shown, texts)).encode()
        file = cache_folder() / "biases" / f"{hashlib.sha256(said).hexdigest()[:32]}.json"
        with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):  # none, or broken
            found = json.loads(file.read_text(encoding="utf-8"))
            kept = {name: np.array(rows, dtype=np.float64) for name, rows in found.items()}
            if all(kept[q.name].shape == (len(texts), len(q.options)) for q in questions):
                return kept
    calls = len(texts) * len(questions)
    room = Amount(calls=_ROOM * calls, input_tokens=_ROOM * calls * _TOKENS)
    passed = context.limit_ahead([(endpoint.tier, room)])
    if passed is not None:
        raise BudgetExceeded(
            f"it takes {calls} calls, and a budget with room for {_ROOM} times as many ({passed})",
            spent=context.usage,
        )
    names = ", ".join(repr(question.name) for question in questions)
    _logger.info(
        "finding out how %s reads %s: its bias on %d texts, before the first decision",
        endpoint.model,
        names,
        len(texts),
    )
    with terminal.shown(len(texts), "measuring the model's bias, once") as tell:
        reader = LabelReader(
            endpoint, tuple(questions), shown, context.nested("bias"), lambda done, _: tell(done)
        )
        first = await reader.read([()], texts[:1])
        if reader.source == "text":
            return None
        rest = await reader.read([()], texts[1:])
    read: dict[str, Floats] = {
        name: np.concatenate([reading[:, 0], rest[name][:, 0]]) for name, reading in first.items()
    }
    if file is not None:
        with suppress(OSError):  # a cache that can't be written costs time alone
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(file, json.dumps({name: rows.tolist() for name, rows in read.items()}))
    return read


def _unbiased(question: Question, reading: Floats) -> tuple[Floats, str]:
    """Give what takes the bias out, and why the question can't be trusted, if it can't."""
    spread = float(reading.std(0).max())
    if spread < ALIKE:
        label = question.options[int(reading.mean(0).argmax())].name
        none: Floats = 0.0 * reading[0]
        return none, f"the model says {label!r} whatever the text is"
    if question.kind == "predicate":
        odds = reading[:, 0] - reading[:, 1]
        cut = float(odds.mean() + RARE_SD * odds.std())
        return np.array((-cut / 2, cut / 2), dtype=np.float64), ""
    # All of it: where ordinary texts are unlike those of the task, half of a bias still hides the
    # rare label, and for labels that are as frequent it makes no difference (benchmarks/models.py).
    return -centred_mean(reading), ""


@cache
def ordinary_texts() -> tuple[str, ...]:
    """Read the ordinary texts that ship, of many kinds and in several languages."""
    lines = (FOLDER / "ordinary.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [str(json.loads(line)["text"]) for line in lines]
    random.Random(0).shuffle(texts)
    return tuple(texts)
