"""Adapt: fit an agent to its task by labelled or unlabelled texts, without a bound.

With labels it runs the search of `moa.learning.fit` on all of them. Without, a small model's
bias towards some labels is measured on unlabelled texts and removed (as Zhao et al. 2021, arXiv
2102.09690, do with empty texts, and Zhou et al. 2023, arXiv 2309.17249, with the batch). Texts that
it is sure of serve as examples (pseudo-labels: Lee 2013), and the weights are those of a prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moa.core.context import RunContext
from moa.core.questions import Question
from moa.decisions import ENOUGH, ENOUGH_A_LABEL, ENOUGH_BESIDE_WORDS, PromptVariant
from moa.decisions.arrays import Floats, np
from moa.decisions.defaults import (
    BY_WORDS,
    add_expected_precision,
    calibrate_by_words,
    make_calibration,
    make_unfitted,
)
from moa.decisions.encoders import Heads, feeds_heads, heads_of
from moa.decisions.features import (
    ASKED_AS,
    DECIDES,
    ENCODER,
    LabelFeature,
    Progress,
    WordsFeature,
    as_prompt_variant,
    make_words_feature,
)
from moa.decisions.file import Calibration, FitRecord
from moa.decisions.heads import Blend
from moa.decisions.regression import agreement, centred_mean, is_blind, shrunk_mean
from moa.decisions.words import is_about_whole_text
from moa.endpoints import Endpoint, Example
from moa.endpoints.known import MOST_OPTIONS, facts_of, identity_of
from moa.learning.fit import fit_all
from moa.learning.labelled import Labelled
from moa.learning.reader import AnswerCache, FeatureReader
from moa.learning.variants import choose_confident, stand_in_texts

ENOUGH_TEXTS = 32
"""Minimum of unlabelled texts to measure a bias on; below it the shipped ones are used."""
MOST_TEXTS = 128
"""Maximum of unlabelled texts to read, evenly spread over the given ones."""
MOST_LABELS = 512
"""Maximum of labelled texts to fit to; the first ones count."""
_BESIDE_WORDS = 0.5
"""Weight of a model, bias removed, relative to the words of a choice. For a criterion the probed
weight counts: small models that weren't probed made criteria in words worse."""
_SHOWN = 8


async def adapt(
    endpoint: Endpoint,
    questions: Sequence[Question],
    *,
    labelled: Sequence[Example] = (),
    unlabelled: Sequence[str] = (),
    examples: Sequence[Example] = (),
    encoder: Endpoint | None = None,
    asks: bool = True,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> dict[str, Calibration]:
    """Fit a calibration for each question, and return them by name.

    Fitting to labels takes eight labelled texts of a question, of at least two options. With an
    encoder that decides by the words of the question it takes 16 for a criterion, and twenty per
    label for a choice. It selects the features that lower the log loss in cross-validation: heads
    on the encoder's vectors, the words of the question, and the model's label probabilities, alone
    and after examples. Unlabelled texts are then not read. Where that is right no more often than
    the words of a criterion alone, the words decide.

    With fewer labels, the bias measured on the unlabelled texts is removed from the words and the
    model, and each text is also read after examples that the model was sure of.

    Args:
        endpoint: The endpoint that decides.
        questions: The questions.
        labelled: Texts with the names of the right options.
        unlabelled: Texts like those to come. If there are at least 32, up to 128 are used; else 36
            shipped texts are.
        examples: Examples that the agent shows anyway.
        encoder: Computes the vectors for heads; `None`: the model alone decides.
        asks: True to ask the endpoint, too; `False` uses the encoder alone.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Called with the progress of each feature.

    Raises:
        EndpointError: a request failed.
        BudgetExceeded: a limit would be passed.
        DeadlineExceeded: the run's time is up.
        CapabilityError: the endpoint can't decide.
        MissingDependency: there are labels to fit to, and SciPy is not installed.
    """
    sources = {DECIDES: endpoint, **({ENCODER: encoder} if encoder is not None else {})}
    answers = AnswerCache(sources, questions if asks and not examples else ())
    context = context or RunContext(keep_notes=False)
    calibrations: dict[str, Calibration] = {}
    for question in questions:
        fit = _QuestionFit(
            question, answers, as_prompt_variant(question, examples), asks, context, progress
        )
        rows = labels_of(question, labelled)
        if has_enough_labels(question, rows, by_words=feeds_heads(encoder)):
            calibrations[question.name] = await fit.fit_to_labels(rows)
        else:
            calibrations[question.name] = await fit.fit_to_texts(rows, unlabelled)
    return calibrations


def labels_of(question: Question, labelled: Sequence[Example]) -> list[Labelled]:
    """Return the texts that are labelled for the question."""
    names = {option.name for option in question.options}
    pairs = [(example.text, example.labels.get(question.name)) for example in labelled]
    return [
        Labelled(text=text, label=label)
        for text, label in pairs
        if label is not None and label in names and text.strip()
    ][:MOST_LABELS]


def has_enough_examples(question: Question, examples: Sequence[Example]) -> bool:
    """Return True if there are enough examples to fit the scorers of a question."""
    return has_enough_labels(question, labels_of(question, examples), by_words=True)


def has_enough_labels(question: Question, rows: Sequence[Labelled], *, by_words: bool) -> bool:
    """Return True if there are enough labels to fit to.

    `by_words` is True if an encoder can decide by the words of the question, without a fit. That
    raises the minimum.
    """
    minimum = ENOUGH
    if by_words and question.kind == "choice":
        minimum = ENOUGH_A_LABEL * len(question.options)
    elif by_words and is_about_whole_text(question):
        minimum = ENOUGH_BESIDE_WORDS
    return len({row.text for row in rows}) >= minimum and len({row.label for row in rows}) > 1


@dataclass(frozen=True, slots=True)
class _QuestionFit:
    """The fit of one question."""

    question: Question
    answers: AnswerCache
    own: PromptVariant
    asks: bool
    context: RunContext
    progress: Progress | None

    @property
    def endpoint(self) -> Endpoint:
        return self.answers.sources[DECIDES]

    def make_reader(self, texts: Sequence[str]) -> FeatureReader:
        return FeatureReader(
            question=self.question,
            answers=self.answers,
            texts=texts,
            context=self.context,
            progress=self.progress,
        )

    async def fit_to_labels(self, rows: Sequence[Labelled]) -> Calibration:
        """Fit to labelled texts; show some as examples to a model that writes its labels."""
        variants = (self.own,) if self.asks else ()
        reader = self.make_reader(())
        calibration = await fit_all(reader, rows, variants)
        if calibration is None:
            return make_unfitted(self.question, self._first_examples(rows), origin=_WRITES)
        heads = heads_of(self.answers.sources.get(ENCODER))
        if heads is None or not is_about_whole_text(self.question):
            return calibration
        return await self._choose_words_or(calibration, heads, reader, rows)

    async def _choose_words_or(
        self, fitted: Calibration, heads: Heads, reader: FeatureReader, rows: Sequence[Labelled]
    ) -> Calibration:
        """Return a fitted calibration if it is right more often than the words of the criterion.

        Both are compared on the same texts: the fit by cross-validation, and the words as they are.
        """
        reader.texts = [row.text for row in rows]
        reading = await reader.read(make_words_feature(self.question, ()))
        if reading is None or fitted.reached is None:
            return fitted
        names = [option.name for option in self.question.options]
        labels = np.array([names.index(row.label) for row in rows])
        words = float((reading.values.argmax(1) == labels).mean())
        fit = fitted.reached.accuracy
        compared = f"right in {fit:.0%} of {len(rows)} examples by cross-validation"
        if fit > words:
            origin = f"{fitted.origin}: {compared}, the words alone in {words:.0%}"
            return fitted.model_copy(update={"origin": origin})
        by_words = calibrate_by_words(self.question, self.endpoint, heads)
        origin = f"{BY_WORDS}: a head was {compared}, the words in {words:.0%}"
        return by_words.model_copy(update={"origin": origin}).with_seal()

    def _first_examples(self, rows: Sequence[Labelled]) -> list[Example]:
        return [Example(row.text, {self.question.name: row.label}) for row in rows[:_SHOWN]]

    async def fit_to_texts(
        self, rows: Sequence[Labelled], unlabelled: Sequence[str]
    ) -> Calibration:
        """Remove the bias that unlabelled texts show."""
        has_enough_texts = len(unlabelled) >= ENOUGH_TEXTS
        step = max(1.0, len(unlabelled) / MOST_TEXTS)
        spread = (unlabelled[int(i * step)] for i in range(min(len(unlabelled), MOST_TEXTS)))
        texts = tuple(spread) if has_enough_texts else stand_in_texts()
        reader = self.make_reader(texts)
        blend = _PriorBlend(len(self.question.options))
        about_text = self.question.kind == "choice" or is_about_whole_text(self.question)
        heads = heads_of(self.answers.sources.get(ENCODER))
        if heads is not None and about_text:
            examples = [Example(row.text, {ASKED_AS: row.label}) for row in rows]
            feature = make_words_feature(self.question, [*self.own, *examples])
            words = await reader.read(feature)
            if words is not None:
                # The pair scorer knows ordinary texts: only the user's own reveal its bias.
                blend.add(
                    feature,
                    words.values,
                    1.0,
                    has_bias=has_enough_texts or self.question.kind != "choice",
                )
        weight = self._weigh_model(beside_words=bool(blend.features))
        doubt = (
            await self._add_model(reader, rows, blend, weight, has_many=has_enough_texts)
            if weight
            else ""
        )
        if not blend.features:
            return make_unfitted(self.question, self._first_examples(rows), origin=_WRITES)
        origin = (
            f"bias removed on {len(texts)} {'unlabelled' if has_enough_texts else 'shipped'} texts"
        )
        calibration = make_calibration(
            self.question, blend.features, blend.fit, f"{origin}{doubt and f'; {doubt}'}"
        )
        if heads is not None:
            calibration = add_expected_precision(calibration, heads)
        models = {r: await identity_of(reader.sources[r], self.context) for r in calibration.roles}
        changes = {
            "models": models,
            "doubtful": _SAME if doubt else "",
            "notes": tuple(reader.dropped),
        }
        return calibration.model_copy(update=changes).with_seal()

    def _weigh_model(self, *, beside_words: bool) -> float:
        """Return the weight of the model, bias removed, relative to the words."""
        if not beside_words:
            return float(self.asks)
        if not self.asks or len(self.question.options) > MOST_OPTIONS:
            return 0.0
        is_choice = self.question.kind == "choice"
        return (
            _BESIDE_WORDS if is_choice else facts_of(self.endpoint.model).weight_of(self.question)
        )

    async def _add_model(
        self,
        reader: FeatureReader,
        rows: Sequence[Labelled],
        blend: _PriorBlend,
        weight: float,
        *,
        has_many: bool,
    ) -> str:
        """Add the model's readings; return why it is doubtful, or an empty string."""
        labels = reader.label_feature("labels", [self.own])
        reading = await reader.read(labels)
        if reading is None:
            return ""
        logs = _centre(reading.values)
        blind = has_many and is_blind(logs)
        if blind and blend.features:
            return ""  # the words decide alone
        variants: list[PromptVariant] = []
        if self.answers.source == "logprob":
            variants += (
                [as_prompt_variant(self.question, self._first_examples(rows))] if rows else []
            )
            fair = logs - logs.mean(0)
            example_sets = choose_confident(reader.texts, fair, self.question) if has_many else []
            variants += [as_prompt_variant(self.question, examples) for examples in example_sets]
        after = reader.label_feature("labels after sure texts", variants)
        after_reading = await reader.read(after) if variants else None
        after_logs = None if after_reading is None else _centre(after_reading.values)
        if blind and after_logs is not None:  # weight them by their agreement
            weight *= agreement(np.stack([logs, after_logs], 1))
        blend.add(labels, logs, weight, whole_mean=blind)
        if after_logs is not None:
            blend.add(after, after_logs, weight, whole_mean=True)
        if not blind:
            return ""
        label = self.question.options[int(logs.mean(0).argmax())].name
        return (
            f"DOUBTFUL: the model says {label!r} whatever the text is, and with that taken out its "
            "answers are little better than chance: give it at least 8 labelled examples"
        )


_WRITES = "examples shown: it writes its labels"
_SAME = "it says the same whatever the text is"


class _PriorBlend:
    """Features with weights of a prior, and the bias removed from them."""

    def __init__(self, options: int) -> None:
        self.features: list[LabelFeature | WordsFeature] = []
        self.weights: list[float] = []
        self.bias: Floats = np.zeros(options)

    def add(
        self,
        feature: LabelFeature | WordsFeature,
        logs: Floats,
        weight: float,
        *,
        whole_mean: bool = False,
        has_bias: bool = True,
    ) -> None:
        """Add a feature and remove its bias: the whole mean, or a shrunk one."""
        self.features.append(feature)
        self.weights.append(weight)
        if has_bias:
            self.bias = self.bias - weight * (
                centred_mean(logs) if whole_mean else shrunk_mean(logs)
            )

    @property
    def fit(self) -> FitRecord:
        return FitRecord.of(Blend.of(np.array(self.weights), self.bias))


def _centre(logs: Floats) -> Floats:
    return logs - logs.mean(1, keepdims=True)
