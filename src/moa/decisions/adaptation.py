"""Adaptation: fits a deciding agent to its task from unlabelled texts, and labelled ones if any.

A small model that reads labels is biased to some of them whatever the text. On unlabelled texts the
bias can be seen and taken out (as Zhao et al. 2021, arXiv 2102.09690, do with empty texts, and
Zhou et al. 2023, arXiv 2309.17249, with the batch). Texts that it is sure of, or labelled ones,
are shown to it as examples; reading each text in several such prompt variants steadies the answer.
Where there is an encoder, a head on its vectors is read beside them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from moa.context import RunContext
from moa.decisions import ENOUGH, Adaptation, Correction, PromptVariant
from moa.decisions.arrays import Bools, Floats, log_softmax, np
from moa.decisions.heads import FOLDER
from moa.decisions.regression import (
    agreement,
    centred_mean,
    class_prior,
    fit_blend,
    held_out_loss,
    is_blind,
    matching_bias,
    shrunk_mean,
)
from moa.decisions.zero_shot import LabelReader, Progress, labels_of, with_heads
from moa.endpoints import Endpoint, Example
from moa.questions import Question

ENOUGH_TEXTS = 32
"""Fewer unlabelled texts than these say too little of a bias: the shipped ones stand in."""
MOST_TEXTS = 128
"""Maximum of unlabelled texts that are read, evenly spread over those given."""
MOST_LABELS = 512
"""Maximum of labelled texts that are fitted to, the first ones."""
_PASSES = 2
"""Maximum of times that texts are chosen by what the model is sure of."""
_SINGLE, _STACKED, _GAIN = 1.2, 0.8, 0.02
"""Weights to start from with one group of prompt variants and with two; least gain in held-out loss
for which a later choice of them is taken."""
_MOST_PER_OPTION = 4
_MOST_SHOWN = 24
_LONG = 600
"""A text with more characters is shown only where an option has no shorter one."""
Group = tuple[int, ...]
"""Places of the prompt variants that are averaged."""


async def adapt(
    endpoint: Endpoint,
    questions: Sequence[Question],
    *,
    labelled: Sequence[Example] = (),
    unlabelled: Sequence[str] = (),
    own: Sequence[Example] = (),
    encoder: Endpoint | None = None,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> Adaptation:
    """Fit an agent to its task.

    Each text is read with the agent's own prompt, and with two that show texts of which the model
    was sure. Without labels the bias it shows is taken out. With at least 8 labels these are
    shown first, in two halves; weights and a bias are fitted to them, around a bias that matches
    their frequency on the unlabelled texts; and the texts it is sure of are those it is sure of
    then (pseudo-labels: Lee 2013). Kept are the own prompt and the texts it is sure of, unless the
    held-out log loss is lower with the labelled texts in place of one or both, or with the own
    prompt alone.

    Args:
        endpoint: Who decides.
        questions: What is asked.
        labelled: Texts with the names of the right options.
        unlabelled: Texts like those to come. From 32 on they are used, at most 128 of them; else
            36 shipped texts stand in.
        own: Examples that the agent shows of its own accord.
        encoder: Gives vectors of the texts, for a head on them; `None`: the model alone decides.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Told how far it is.

    Raises:
        EndpointError: a request failed.
        BudgetExceeded: a limit would be passed.
        DeadlineExceeded: the run's time is up.
        CapabilityError: the endpoint can't decide.
        MissingDependency: there are labels to fit to, and SciPy is not installed.
    """
    enough = len(unlabelled) >= ENOUGH_TEXTS
    step = max(1.0, len(unlabelled) / MOST_TEXTS)
    spread = (unlabelled[int(i * step)] for i in range(min(len(unlabelled), MOST_TEXTS)))
    texts = tuple(spread) if enough else stand_in_texts()
    reader = LabelReader(endpoint, tuple(questions), tuple(own), context or RunContext(), progress)
    fitting = _Fitting(reader, tuple(labelled)[:MOST_LABELS], texts, await reader.read([()], texts))
    if reader.source == "text":
        shown = fitting.labelled[:8]
        return Adaptation(prompt_variants=(shown,), origin="examples shown: it writes its labels")
    origin = f"bias removed on {len(texts)} {'unlabelled' if enough else 'shipped'} texts"
    return await with_heads(
        await fitting.run(origin, reads=reader.source == "logprob", enough=enough),
        endpoint,
        questions,
        labelled=fitting.labelled,
        read=fitting.read,
        texts=texts,
        encoder=encoder,
        context=reader.context,
    )


@cache
def stand_in_texts() -> tuple[str, ...]:
    """Read the texts that ship for tasks without unlabelled texts of their own.

    Twelve are glad, twelve are not, twelve are neither; they are letters, reviews, notes,
    questions, news and advertisements. What a model answers to all of them alike is its bias.
    """
    return tuple((FOLDER / "stand_ins.txt").read_text(encoding="utf-8").splitlines())


def halves(labelled: Sequence[Example], questions: Sequence[Question]) -> list[PromptVariant]:
    """Choose two sets of labelled texts, of each option as many, with no text in both.

    An option with one text is in the first or the second, in turn.
    """
    sets: tuple[list[Example], list[Example]] = ([], [])
    for question in questions:
        most = _per_option(len(question.options)) or 1
        for place, option in enumerate(question.options):
            examples = [e for e in labelled if e.labels.get(question.name) == option.name]
            ordered = sorted(_mixed(examples), key=lambda e: len(e.text) > _LONG)
            for half, chosen in enumerate(sets):
                chosen += ordered[(half + place) % 2 :: 2][:most]
    return [tuple(_mixed(chosen)) for chosen in sets if chosen]


def confident(
    texts: Sequence[str], fair: Mapping[str, Floats], questions: Sequence[Question]
) -> list[PromptVariant]:
    """Choose two sets of unlabelled texts that the model is surest of, once its bias is taken out.

    A question with more than 24 options has none: too many texts would have to be shown.
    """
    sets: tuple[list[Example], list[Example]] = ([], [])
    for question in questions:
        reading = fair[question.name]
        best = reading.argmax(1)
        ranked = np.sort(reading, 1)
        lead = (ranked[:, -1] - ranked[:, -2]).tolist()
        most = _per_option(len(question.options))
        for place, option in enumerate(question.options):
            sure = [(lead[row], text) for row, text in enumerate(texts) if best[row] == place]
            surest = [text for _, text in sorted(sure, reverse=True)[: 2 * most]]
            for half, chosen in enumerate(sets):
                chosen += [Example(text, {question.name: option.name}) for text in surest[half::2]]
    return [tuple(_mixed(chosen)) for chosen in sets if chosen]


def _per_option(options: int) -> int:
    return min(_MOST_PER_OPTION, _MOST_SHOWN // options)


def _mixed(examples: Sequence[Example]) -> list[Example]:
    """The same order every time, which says nothing of the labels."""
    mixed = list(examples)
    random.Random(len(mixed)).shuffle(mixed)
    return mixed


@dataclass(slots=True)
class Variants:
    """The prompt variants that a text can be read with: the agent's own first."""

    shown: Sequence[PromptVariant] = ()
    """They show labelled texts."""
    sure: Sequence[PromptVariant] = ()
    """They show texts that the model is sure of."""

    @property
    def all(self) -> tuple[PromptVariant, ...]:
        """In order."""
        return ((), *self.shown, *self.sure)

    def show(self, texts: Sequence[str]) -> Bools:
        """Say which texts are shown in which prompt: texts, variants."""
        shown = [{example.text for example in variant} for variant in self.all]
        found = [[text in some for some in shown] for text in texts]
        return np.array(found, dtype=bool).reshape(len(texts), len(shown))

    @property
    def choices(self) -> list[tuple[Group, ...]]:
        """Groups that can be used together; where losses are close, the first choice stays."""
        middle, end = 1 + len(self.shown), 1 + len(self.shown) + len(self.sure)
        own, shown, sure = (0,), tuple(range(1, middle)), tuple(range(middle, end))
        choices = ((own, sure), (sure, shown), (own, shown), (shown,), (own,))
        return [groups for groups in choices if all(groups)]


@dataclass(slots=True)
class _Fitting:
    """Fits to what the own prompt and others read of the texts, labelled ones if there are enough.

    To these, corrections are fitted first in the own prompt and with labelled texts shown, then
    with texts besides that the model is sure of by the fit before.
    """

    reader: LabelReader
    labelled: tuple[Example, ...]
    texts: Sequence[str]
    own: Mapping[str, Floats]
    """Of the unlabelled texts."""
    variants: Variants = field(default_factory=Variants)
    read: dict[str, Floats] = field(default_factory=dict[str, Floats])
    """Log-probabilities of the labelled texts, by the corrections that were fitted to them."""

    async def run(self, origin: str, *, reads: bool, enough: bool) -> Adaptation:
        """Fit; other texts are shown where the model `reads` labels, and `enough` are unlabelled.

        Without enough labelled texts, the bias is taken out that shows on the unlabelled ones.
        """
        if len(self.labelled) >= ENOUGH:
            origin = f"fitted to {len(self.labelled)} labelled texts, {origin}"
            return self._used(await self._labelled(show=reads, sure=reads and enough), origin)
        if reads and self.labelled:
            self.variants.shown = [self.labelled]
        if reads and enough:
            fair = {name: _without_bias(reading) for name, reading in self.own.items()}
            self.variants.sure = confident(self.texts, fair, self.reader.questions)
        readings = _joined(self.own, await self.reader.read(self.variants.all[1:], self.texts))
        blind = {name for name, read in readings.items() if enough and is_blind(read[:, 0])}
        for question in self.reader.questions:
            if question.name in blind:
                place = int(readings[question.name][:, 0].mean(0).argmax())
                origin += (
                    f"; DOUBTFUL: the model says {question.options[place].name!r} whatever the "
                    "text, and with that taken out its answers are little better than chance: give "
                    "it at least 8 labelled examples"
                )
        made = self._used(
            {name: _unbiased(r, name in blind) for name, r in readings.items()}, origin
        )
        return replace(made, doubtful=dict.fromkeys(blind, "it says the same whatever the text is"))

    async def _labelled(self, *, show: bool, sure: bool) -> dict[str, Correction]:
        """Fit to labelled texts; show some if `show`, and some it is sure of if `sure`."""
        questions = self.reader.questions
        if show:
            self.variants.shown = halves(self.labelled, questions)
        words = [example.text for example in self.labelled]
        texts = _joined(self.own, await self.reader.read(self.variants.shown, self.texts))
        labelled = await self.reader.read(self.variants.all, words)
        found = {q.name: self._fitted(q, texts, labelled) for q in questions}
        kept = 1 + len(self.variants.shown)
        for _ in range(_PASSES if sure else 0):
            before = self.variants.sure
            fair = {name: texts_fair for name, (_, texts_fair) in found.items()}
            self.variants.sure = confident(self.texts, fair, questions)
            if self.variants.sure == before:
                break
            more = await self.reader.read(self.variants.sure, self.texts)
            texts = _joined(texts, more, first=kept)
            more = await self.reader.read(self.variants.sure, words)
            labelled = _joined(labelled, more, first=kept)
            found = {q.name: self._fitted(q, texts, labelled) for q in questions}
        for question in questions:
            rows, _ = labels_of(question, self.labelled)
            made, read = found[question.name][0], labelled[question.name][rows]
            logs = np.einsum("v,tvo->to", np.array(made.weights), read)
            self.read[question.name] = log_softmax(logs + np.array(made.offsets))
        return {name: correction for name, (correction, _) in found.items()}

    def _fitted(
        self, question: Question, texts: Mapping[str, Floats], labelled: Mapping[str, Floats]
    ) -> tuple[Correction, Floats]:
        """Fit each choice of groups, and keep the first unless a later one's loss is lower.

        Few labels tell little: where held-out losses are close, the earlier choice stays. Gives the
        log-probabilities of the unlabelled texts too, without the model's bias and the fitted one:
        so a rare option has its most probable texts.
        """
        rows, labels = labels_of(question, self.labelled)
        plain, fitted_to = texts[question.name], labelled[question.name][rows]
        if len(set(labels.tolist())) < 2:
            return _unbiased(plain), _without_bias(plain)
        shown = self.variants.show(self.texts)
        their_shown = self.variants.show([self.labelled[row].text for row in rows])
        counted = np.where(shown, 0.0, 1.0)  # a text says little in a prompt that shows it
        means = np.einsum("tv,tvo->vo", counted / counted.sum(0), plain)  # the model's bias
        prior = class_prior(labels, plain.shape[2])
        best: tuple[float, Correction, Floats] | None = None
        for groups in self.variants.choices:
            start = np.full(len(groups), _SINGLE if len(groups) == 1 else _STACKED)
            fair = _averaged(plain - means, shown, groups)
            read = _averaged(fitted_to - means, their_shown, groups)
            bias = matching_bias(fair, start, prior)
            loss = held_out_loss(read, labels, weights=start, bias=bias)
            if best is not None and loss >= best[0] - _GAIN:
                continue
            found = fit_blend(read, labels, weights=start, bias=bias)
            by_variant = np.zeros(len(means))
            for weight, group in zip(found.weights, groups, strict=True):
                by_variant[list(group)] = weight / len(group)
            offsets = found.bias - np.einsum("v,vo->o", by_variant, means)
            correction = Correction.of(offsets - offsets.mean(), by_variant)
            best = (loss, correction, np.einsum("v,tvo->to", found.weights, fair))
        assert best is not None, "there is a choice"
        return best[1:]

    def _used(self, corrections: Mapping[str, Correction], origin: str) -> Adaptation:
        """Leave out the variants that no question takes anything from; `()` is the agent's own."""
        variants = self.variants.all
        every = range(len(variants))
        used = [at for at in every if any(c.weights[at] for c in corrections.values())]
        return Adaptation(
            prompt_variants=tuple(variants[place] or self.reader.own for place in used),
            corrections={
                name: Correction(c.offsets, tuple(c.weights[place] for place in used))
                for name, c in corrections.items()
            },
            origin=origin,
        )


def _averaged(readings: Floats, shown: Bools, groups: Sequence[Group]) -> Floats:
    """Average each group of variants but those that show the text, unless all of them do."""
    found: list[Floats] = []
    for group in groups:
        weights = np.where(shown[:, list(group)], 0.0, 1.0)
        weights = np.where(weights.sum(1, keepdims=True) == 0, 1.0, weights)
        weights = weights / weights.sum(1, keepdims=True)
        found.append(np.einsum("tv,tvo->to", weights, readings[:, list(group)]))
    return np.stack(found, 1)


def _without_bias(reading: Floats) -> Floats:
    """What the agent's own prompt reads, less its mean: texts, options."""
    own: Floats = reading[:, 0] - reading[:, 0].mean(0)
    return own


def _unbiased(reading: Floats, blind: bool = False) -> Correction:
    """The own prompt has weight 1, and so have all others together.

    Of a model that is blind to the texts, the whole bias is taken out, and the prompts count for as
    much as they agree.
    """
    others = reading.shape[1] - 1
    weights = np.array([1.0] + [1.0 / others] * others) if others else np.array([1.0])
    if blind and others:
        weights *= agreement(reading)
    own = reading[:, 0]
    bias = weights[0] * (centred_mean(own) if blind else shrunk_mean(own))
    for variant in range(1, others + 1):
        bias = bias + weights[variant] * centred_mean(reading[:, variant])
    return Correction.of(-bias, weights)


def _joined(
    before: Mapping[str, Floats], more: Mapping[str, Floats], *, first: int | None = None
) -> dict[str, Floats]:
    """Put readings in more variants behind the first ones before; `None`: all of them."""
    return {name: np.concatenate([before[name][:, :first], more[name]], 1) for name in before}
