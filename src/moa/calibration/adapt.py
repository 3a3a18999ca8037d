"""Adapt: fits an agent to its task, from labelled texts or from unlabelled ones, without a bound.

With labels it is the search of `moa.calibration.fit` on all of them. Without, a small model's bias
to some labels can be seen on unlabelled texts and taken out (as Zhao et al. 2021, arXiv 2102.09690,
do with empty texts, and Zhou et al. 2023, arXiv 2309.17249, with the batch); texts that it is sure
of are shown to it as examples (pseudo-labels: Lee 2013), and weights are those of a prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moa.calibration.defaults import as_asked, made, with_expected
from moa.calibration.features import (
    ASKED_AS,
    DECIDES,
    ENCODER,
    LabelFeature,
    Progress,
    WordsFeature,
    shown_as,
    words_of,
)
from moa.calibration.file import Calibration, FitRecord
from moa.calibration.fit import fit_all
from moa.calibration.labelled import Labelled
from moa.calibration.reader import Answers, FeatureReader
from moa.context import RunContext
from moa.decisions import ENOUGH, ENOUGH_A_LABEL, PromptVariant
from moa.decisions.arrays import Floats, np
from moa.decisions.heads import Blend
from moa.decisions.regression import agreement, centred_mean, is_blind, shrunk_mean
from moa.decisions.relevance import asks_what_it_is
from moa.decisions.variants import confident, stand_in_texts
from moa.endpoints import Endpoint, Example
from moa.endpoints.encoders import feeds_heads
from moa.endpoints.known import MOST_OPTIONS, facts_of, identity_of
from moa.questions import Question

ENOUGH_TEXTS = 32
"""Fewer unlabelled texts than these say too little of a bias: the shipped ones stand in."""
MOST_TEXTS = 128
"""Maximum of unlabelled texts that are read, evenly spread over those given."""
MOST_LABELS = 512
"""Maximum of labelled texts that are fitted to, the first ones."""
_BESIDE_WORDS = 0.5
"""Weight of a model without its bias beside the words, for a choice of labels. For a criterion it
is that of the probe: small models that weren't probed made criteria in words worse."""
_SHOWN = 8


async def adapt(
    endpoint: Endpoint,
    questions: Sequence[Question],
    *,
    labelled: Sequence[Example] = (),
    unlabelled: Sequence[str] = (),
    own: Sequence[Example] = (),
    encoder: Endpoint | None = None,
    asks: bool = True,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> dict[str, Calibration]:
    """Fit what decides each question, by its name.

    From eight labelled texts of a question on, of two options at least, or twenty a label of a
    choice that the scorer of pairs decides, the features that lower the log loss in
    cross-validation are fitted to them: heads on the encoder's vectors, the words of the question,
    and the model's label probabilities, alone and behind examples. Unlabelled texts are then not
    read.

    Else the bias that shows on the unlabelled texts is taken out of the words and of the model, and
    each text is also read behind those that the model was sure of.

    Args:
        endpoint: Who decides.
        questions: What is asked.
        labelled: Texts with the names of the right options.
        unlabelled: Texts like those to come. From 32 on they are used, at most 128 of them; else
            36 shipped texts stand in.
        own: Examples that the agent shows of its own accord.
        encoder: Gives the vectors that heads read; `None`: the model alone decides.
        asks: Whether the endpoint is read at all, and not the encoder alone.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Told how far each feature is.

    Raises:
        EndpointError: a request failed.
        BudgetExceeded: a limit would be passed.
        DeadlineExceeded: the run's time is up.
        CapabilityError: the endpoint can't decide.
        MissingDependency: there are labels to fit to, and SciPy is not installed.
    """
    sources = {DECIDES: endpoint, **({ENCODER: encoder} if encoder is not None else {})}
    answers = Answers(sources, questions if asks and not own else ())
    context = context or RunContext(keep_notes=False)
    found: dict[str, Calibration] = {}
    for question in questions:
        one = _Question(question, answers, shown_as(question, own), asks, context, progress)
        rows = labels_of(question, labelled)
        if enough(question, rows, pairs=feeds_heads(encoder)):
            found[question.name] = await one.to_labels(rows)
        else:
            found[question.name] = await one.to_texts(rows, unlabelled)
    return found


def labels_of(question: Question, labelled: Sequence[Example]) -> list[Labelled]:
    """Take the texts that have a label of the question."""
    names = {option.name for option in question.options}
    given = [(example.text, example.labels.get(question.name)) for example in labelled]
    return [
        Labelled(text=text, label=label)
        for text, label in given
        if label is not None and label in names and text.strip()
    ][:MOST_LABELS]


def enough(question: Question, rows: Sequence[Labelled], *, pairs: bool) -> bool:
    """Whether there are labels enough to fit to; `pairs` says if a choice is decided without."""
    texts = {row.text for row in rows}
    scored = pairs and question.kind == "choice"
    least = ENOUGH_A_LABEL * len(question.options) if scored else ENOUGH
    return len(texts) >= least and len({row.label for row in rows}) > 1


@dataclass(frozen=True, slots=True)
class _Question:
    """One question to be fitted."""

    question: Question
    answers: Answers
    own: PromptVariant
    asks: bool
    context: RunContext
    progress: Progress | None

    @property
    def endpoint(self) -> Endpoint:
        return self.answers.sources[DECIDES]

    def reader(self, texts: Sequence[str]) -> FeatureReader:
        return FeatureReader(
            question=self.question,
            answers=self.answers,
            texts=texts,
            context=self.context,
            progress=self.progress,
        )

    async def to_labels(self, rows: Sequence[Labelled]) -> Calibration:
        """Fit to labelled texts; a model that writes its labels is shown some."""
        own = (self.own,) if self.asks else ()
        reader = self.reader(())
        fitted = await fit_all(reader, rows, own)
        if fitted is None:
            return as_asked(self.question, self._few(rows), origin=_WRITES)
        return fitted

    def _few(self, rows: Sequence[Labelled]) -> list[Example]:
        return [Example(row.text, {self.question.name: row.label}) for row in rows[:_SHOWN]]

    async def to_texts(self, rows: Sequence[Labelled], unlabelled: Sequence[str]) -> Calibration:
        """Take the bias out that shows on unlabelled texts."""
        many = len(unlabelled) >= ENOUGH_TEXTS
        step = max(1.0, len(unlabelled) / MOST_TEXTS)
        spread = (unlabelled[int(i * step)] for i in range(min(len(unlabelled), MOST_TEXTS)))
        texts = tuple(spread) if many else stand_in_texts()
        reader = self.reader(texts)
        found = _Unlabelled(len(self.question.options))
        about_text = self.question.kind == "choice" or asks_what_it_is(self.question)
        if ENCODER in self.answers.sources and about_text:
            given = [Example(row.text, {ASKED_AS: row.label}) for row in rows]
            feature = words_of(self.question, [*self.own, *given])
            words = await reader.read(feature)
            if words is not None:
                # The scorer of pairs knows ordinary texts: only one's own tell it of a bias.
                found.add(feature, words.values, 1.0, biased=many or self.question.kind != "choice")
        weight = self._weight(beside_words=bool(found.features))
        why = await self._model(reader, rows, found, weight, many=many) if weight else ""
        if not found.features:
            return as_asked(self.question, self._few(rows), origin=_WRITES)
        used = f"bias removed on {len(texts)} {'unlabelled' if many else 'shipped'} texts"
        calibration = made(self.question, found.features, found.fit, f"{used}{why and f'; {why}'}")
        calibration = with_expected(calibration)
        models = {r: await identity_of(reader.sources[r], self.context) for r in calibration.roles}
        more = {"models": models, "doubtful": _SAME if why else "", "notes": tuple(reader.dropped)}
        return calibration.model_copy(update=more).sealed()

    def _weight(self, *, beside_words: bool) -> float:
        """Weigh the model beside the words, once its bias is out."""
        if not beside_words:
            return float(self.asks)
        if not self.asks or len(self.question.options) > MOST_OPTIONS:
            return 0.0
        is_choice = self.question.kind == "choice"
        return (
            _BESIDE_WORDS if is_choice else facts_of(self.endpoint.model).weight_of(self.question)
        )

    async def _model(
        self,
        reader: FeatureReader,
        rows: Sequence[Labelled],
        found: _Unlabelled,
        weight: float,
        *,
        many: bool,
    ) -> str:
        """Read what the model says; say why it is doubtful, if it is."""
        labels = LabelFeature.of(self.question, self.endpoint, "labels", [self.own])
        reading = await reader.read(labels)
        if reading is None:
            return ""
        own = _centred(reading.values)
        blind = many and is_blind(own)
        if blind and found.features:
            return ""  # the words decide alone
        shown: list[PromptVariant] = []
        if self.answers.source == "logprob":
            shown += [shown_as(self.question, self._few(rows))] if rows else []
            fair = own - own.mean(0)
            named = confident(reader.texts, fair, self.question) if many else []
            shown += [shown_as(self.question, some) for some in named]
        after = LabelFeature.of(self.question, self.endpoint, "labels after sure texts", shown)
        more = await reader.read(after) if shown else None
        behind = None if more is None else _centred(more.values)
        if blind and behind is not None:  # they count for as much as they agree
            weight *= agreement(np.stack([own, behind], 1))
        found.add(labels, own, weight, whole=blind)
        if behind is not None:
            found.add(after, behind, weight, whole=True)
        if not blind:
            return ""
        label = self.question.options[int(own.mean(0).argmax())].name
        return (
            f"DOUBTFUL: the model says {label!r} whatever the text is, and with that taken out its "
            "answers are little better than chance: give it at least 8 labelled examples"
        )


_WRITES = "examples shown: it writes its labels"
_SAME = "it says the same whatever the text is"


class _Unlabelled:
    """Features with weights of a prior, and the bias that was taken out of them."""

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
        whole: bool = False,
        biased: bool = True,
    ) -> None:
        """Add a feature, and take its bias out: its `whole` mean, or all but a part of it."""
        self.features.append(feature)
        self.weights.append(weight)
        if biased:
            self.bias = self.bias - weight * (centred_mean(logs) if whole else shrunk_mean(logs))

    @property
    def fit(self) -> FitRecord:
        return FitRecord.of(Blend.of(np.array(self.weights), self.bias))


def _centred(logs: Floats) -> Floats:
    return logs - logs.mean(1, keepdims=True)
