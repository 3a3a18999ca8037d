"""Fit: from labelled texts to a scorer, chosen by cross-validation, and a guarantee.

The texts are split once, before any label is seen. On the fitting part, features are read, fitted
and compared, and the scorer is chosen. Then the held-out part is used once, to find the minimum
confidence of accepted decisions (`moa.decisions.bounds`). If the scorer learns nothing, all texts
are held out. A second fit to all texts labels the decisions that are not accepted: it has seen the
held-out labels, so it has no guarantee.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from moa.core.context import RunContext
from moa.core.errors import CalibrationError, InputError
from moa.core.questions import Question
from moa.decisions import PromptVariant
from moa.decisions.arrays import Bools, Floats, Ints, expected_curve, np
from moa.decisions.bounds import Outcome, find_bound, find_bounds_by_label, sum_bounds
from moa.decisions.drift import Detect, language_shares
from moa.decisions.features import (
    ASKED_AS,
    DECIDES,
    ENCODER,
    HIDDEN,
    PROMPT,
    SENTENCES,
    Feature,
    Progress,
    QuestionRecord,
    VectorFeature,
    make_words_feature,
    sources_of,
)
from moa.decisions.file import (
    Calibration,
    DataRecord,
    FitRecord,
    ReachedMeasures,
    Uncertainty,
    current_time,
)
from moa.decisions.guarantee import Bound, Guarantee, Learn, held_out_share
from moa.decisions.heads import Blend
from moa.decisions.regression import PENALTIES, fit_head, folds, split
from moa.decisions.scorer import Judgements, average_blend, judge_readings, signs_of
from moa.decisions.words import has_words
from moa.endpoints import Endpoint, Example
from moa.endpoints.known import identity_of
from moa.learning.labelled import CleanRows, Labelled, clean_rows, warn_of_near_copies
from moa.learning.reader import AnswerCache, FeatureReader, FeatureReading
from moa.learning.search import (
    FeatureSet,
    FittedFeature,
    blend_parts,
    choose_features,
    choose_signs,
    fit_around_average,
    measure,
    predict_held_out,
    search_features,
    stack_logs,
)
from moa.learning.variants import choose_confident, choose_halves

LATENCY_PENALTY = 0.02
"""Reduction in log loss that justifies one more second per decision."""
_FOLDS = 10
_OF_BLIND = 0.2
"""A feature is good enough with at most this share of the errors made by always giving the most
frequent label. If other labels are rare, few errors alone mean nothing."""
_MOST_OPTIONS_SHOWN = 24


async def calibrate(
    endpoint: Endpoint,
    question: Question,
    rows: Sequence[Labelled],
    *,
    guarantee: Guarantee | None = None,
    by_label: bool = False,
    learn: Learn = "split",
    asks: bool = True,
    latency_penalty: float = LATENCY_PENALTY,
    embedders: Mapping[str, Endpoint] | None = None,
    language: Detect | None = None,
    limit_s: float | None = None,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Choose and fit a scorer, and find the threshold that meets the guarantee.

    Args:
        endpoint: The endpoint that decides.
        question: The question; the names of its options are the labels.
        rows: Labelled texts, in the order of arrival, unsorted.
        guarantee: The target; `None`: at most 5 % wrong, with 95 % confidence.
        by_label: Guarantee the risk for each label; this needs more rows.
        learn: `"split"` learns from half of the rows, or from 20 % with 100 rows or more per label,
            and holds out the others. `"nothing"` uses the endpoint's label probabilities unchanged,
            and holds out all rows. `"approximate"` uses all rows for both, by ten-fold
            cross-fitting, without a finite-sample proof. `"all"` learns from all rows: the
            calibration has no bound.
        asks: Ask the endpoint, too; `False` uses the embedders alone.
        latency_penalty: Reduction in log loss that justifies one more second per decision; 0
            takes the lowest log loss.
        embedders: Endpoints that embed, by role in the file; `None`: a small sentence encoder,
            and the hidden states of the embedded model. An agent reads the roles `sentences`,
            `encoder` and `hidden states` from its own endpoint's encoders, and knows no other.
        language: Detects the language of a text; `None`: languages are ignored.
        limit_s: Maximum seconds for reading features; `None`: 1 per text, and at least 120. Slower
            features are left out.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Called with the progress of each feature.

    Raises:
        InputError: the rows don't suit a calibration (see `clean_rows`), or all have one `case`.
        CalibrationError: no feature could be read.
        EndpointError: a request failed.
        BudgetExceeded: a limit would be passed.
        DeadlineExceeded: the run's time is up.

    Examples:
        >>> from moa import calibrate
        >>> guaranteed = Guarantee(risk=0.05)
        >>> made = calibrate(slm, question, rows, guarantee=guaranteed)  # doctest: +SKIP
        >>> asyncio.run(made).save("spam.json")  # doctest: +SKIP
    """
    data = clean_rows(rows, names := option_names(question))
    task = _Task(data, names, guarantee or Guarantee(), by_label=by_label, learn=learn)
    reader = FeatureReader(
        question=replace(question, name=ASKED_AS),
        answers=AnswerCache(
            sources_of(endpoint) if embedders is None else {DECIDES: endpoint, **embedders}
        ),
        texts=[row.text for row in data.rows],
        context=context or RunContext(keep_notes=False),
        rows=task.compared_rows,
        limit_s=limit_s,
        progress=progress,
    )
    variants: Sequence[PromptVariant] = ((),) if asks else ()
    if learn == "all":
        calibration = await fit_all(reader, data.rows, variants, latency_penalty)
    else:
        scorer = await _choose_scorer(_Search(reader, task, latency_penalty, variants))
        calibration = (
            None if scorer is None else await _make_calibration(task, scorer, reader, language)
        )
    if calibration is None:
        raise CalibrationError(
            "nothing could be read to calibrate on: " + "; ".join(reader.dropped)
        )
    return calibration


async def fit_all(
    reader: FeatureReader,
    rows: Sequence[Labelled],
    variants: Sequence[PromptVariant],
    latency_penalty: float = LATENCY_PENALTY,
) -> Calibration | None:
    """Choose and fit a scorer by cross-validation on all rows, without a bound.

    Args:
        reader: The reader of the question; its texts become those of the rows.
        rows: Labelled texts, of at least two labels.
        variants: Prompt variants that the endpoint is asked with; empty: it isn't asked.
        latency_penalty: See `calibrate`.

    Returns:
        The calibration; `None` if nothing could be read, for the reasons in `reader.dropped`.
    """
    data = clean_rows(rows, names := option_names(reader.question))
    task = _Task(data, names, Guarantee(), by_label=False, learn="all")
    reader.texts = [row.text for row in data.rows]
    scorer = await _choose_scorer(_Search(reader, task, latency_penalty, variants))
    if scorer is None:
        return None
    features = ", ".join(feature.name for feature in scorer.best.features)
    origin = f"fitted to {len(data.rows)} labelled texts by {features}"
    calibration, parts = await _fit_to_all(task, scorer, reader, origin)
    fields = {
        "reached": _measure_reached(task, scorer.best, parts, None),
        "expected": _precision_curve(scorer.best.probabilities, task.labels),
    }
    return calibration.model_copy(update=fields).with_seal()


def _precision_curve(p: Floats, labels: Ints) -> tuple[tuple[float, float], ...]:
    return expected_curve(p.max(1), p.argmax(1) == labels)


def option_names(question: Question) -> list[str]:
    """Return the names of the options, which are the labels."""
    return [option.name for option in question.options]


async def _fit_to_all(
    task: _Task, scorer: _Scorer, reader: FeatureReader, origin: str
) -> tuple[Calibration, list[FittedFeature]]:
    """Fit the chosen features to all texts; the calibration has no bound yet."""
    all_rows = np.ones(len(task.labels), bool)
    parts = [task.part(part.reading, all_rows, part.penalty) for part in scorer.best.parts]
    roles = sorted({feature.source for feature in scorer.best.features})
    calibration = Calibration(
        made=current_time(),
        question=QuestionRecord.model_validate(reader.question),
        models={role: await identity_of(reader.sources[role], reader.context) for role in roles},
        features=scorer.best.features,
        full=FitRecord.of(blend_parts(parts, task.labels)),
        data=task.record({}),
        origin=origin,
        candidates=tuple(feature_set.candidate for feature_set in scorer.candidates),
        notes=(*task.data.notes, *reader.dropped),
    )
    return calibration, parts


async def _make_calibration(
    task: _Task, scorer: _Scorer, reader: FeatureReader, language: Detect | None
) -> Calibration:
    """Test the guarantee on the held-out texts, and build the calibration."""
    base, parts = await _fit_to_all(task, scorer, reader, scorer.why)
    texts = [row.text for row in task.data.rows if not row.chosen]
    languages = [] if language is None else [language(text) for text in texts]
    notes = (*task.data.notes, *warn_of_near_copies(task.data.rows), *reader.dropped)
    fields = {
        # Converted here, so that the test uses the weights as they are stored.
        "accepting": FitRecord.of(scorer.blend),
        "uncertainty": scorer.uncertainty,
        "data": task.record(language_shares(languages)),
        "notes": (*notes, *_describe_signs(scorer.uncertainty)),
    }
    unbound = base.model_copy(update=fields)
    judgements, fitting = _judge_tested_rows(task, scorer, unbound)
    tested = task.outcomes(judgements, task.tested_rows)
    bound, bounds = task.find_bounds(task.guarantee, fitting, tested)
    results = {
        "bound": bound,
        "bounds": bounds,
        "looser": tuple(
            task.find_bounds(guarantee, fitting, tested)[0] for guarantee in task.guarantee.loosen()
        ),
        "reached": _measure_reached(task, scorer.best, parts, (judgements, bound)),
    }
    calibration = unbound.model_copy(update=results)
    drift = calibration.start_drift_check(texts, languages, judgements)
    return calibration.model_copy(update={"drift": drift}).with_seal()


class _Task:
    """The labelled texts, split into the fitting and the held-out part."""

    def __init__(
        self,
        data: CleanRows,
        names: Sequence[str],
        guarantee: Guarantee,
        *,
        by_label: bool,
        learn: Learn,
    ) -> None:
        if len(set(data.cases)) < 2:
            raise InputError(
                "all rows are about one case, so none can be looked at that nothing was learnt "
                "from: give rows of other cases too"
            )
        self.data, self.names, self.guarantee = data, names, guarantee
        self.by_label = by_label
        self.learn: Learn = learn
        self.labels: Ints = np.array([names.index(row.label) for row in data.rows], dtype=np.intp)
        self.drawn: Bools = np.array([not row.chosen for row in data.rows])
        """True for texts drawn at random. Only their figures apply to future texts."""
        cases, drawn = np.array(data.cases), self.drawn
        share = held_out_share(int(drawn.sum()), len(names), guarantee, learn)
        self.held: Bools = np.zeros(len(drawn), bool)
        self.held[drawn] = split(cases[drawn].tolist(), share)
        if learn == "split" and len(set(cases[~self.held])) < 2:
            self.held[:] = False  # too few cases to fit to some and hold others out
        self.folds: Ints = np.zeros(len(drawn), np.intp)
        for side in (self.held, ~self.held):  # separate, so that no fit uses a held-out label
            if side.any():
                parts = min(_FOLDS, len(set(cases[side])))
                self.folds[side] = folds(cases[side].tolist(), self.labels[side], parts, seed=1)

    def record(self, languages: dict[str, float]) -> DataRecord:
        """Describe the data of the calibration."""
        return DataRecord(
            rows=len(self.data.rows),
            duplicates=self.data.duplicates,
            fitted=int((~self.held).sum()),
            held_out=len(self.tested_rows),
            labels=self.data.counts,
            chosen=int((~self.drawn).sum()),
            labelled_by=self.data.labellers,
            learn=self.learn,
            sha256=self.data.fingerprint,
            languages=languages,
        )

    @property
    def compared_rows(self) -> Bools:
        """Texts to compare features on; all if nothing is learned."""
        return ~self.held if self.learn != "nothing" else np.ones(len(self.held), bool)

    @property
    def examples(self) -> PromptVariant:
        """Texts of the fitting part with their labels."""
        rows = zip(self.data.rows, self.held, strict=True)
        return tuple(
            Example(row.text, {ASKED_AS: row.label}) for row, is_held in rows if not is_held
        )

    @property
    def tested_rows(self) -> Ints:
        """Indices of the texts that the guarantee is tested on."""
        return np.flatnonzero(self.drawn if self.learn == "approximate" else self.held)

    def find_bounds(
        self, guarantee: Guarantee, fitting: Sequence[Outcome], held_out: Sequence[Outcome]
    ) -> tuple[Bound, dict[str, Bound]]:
        """Find the bound of all decisions, and those by label if requested."""
        if not self.by_label:
            return self._mark_approximate(find_bound(fitting, held_out, guarantee)), {}
        bounds = find_bounds_by_label(fitting, held_out, guarantee)
        return self._mark_approximate(sum_bounds(bounds, guarantee)), bounds

    def _mark_approximate(self, bound: Bound) -> Bound:
        if self.learn != "approximate":
            return bound
        summary = f"{bound.summary}. Approximate: by cross-fitting, without a finite-sample proof"
        return bound.model_copy(update={"summary": summary})

    def outcomes(self, judgements: Judgements, rows: Ints) -> list[Outcome]:
        """Compare the judgements of some texts with their labels."""
        cases = [self.data.rows[row].case for row in map(int, rows)]
        return judgements.outcomes(self.labels[rows], self.names, cases)

    def part(
        self, reading: FeatureReading, rows: Bools, penalty: float | None = None
    ) -> FittedFeature:
        """Fit a feature to some of the texts; probabilities need no fit.

        If the options' names were read like texts, they are fitted, too, since they need no
        labelling. Without a `penalty` one is chosen.
        """
        values = reading.values[rows]
        if not isinstance(reading.feature, VectorFeature):
            return FittedFeature(reading, values)
        fit = fit_head(
            values,
            self.labels[rows],
            len(self.names),
            self.folds[rows],
            penalties=PENALTIES if penalty is None else (penalty,),
            labelled=reading.names,
        )
        return FittedFeature(reading, fit.held_out, fit.head, fit.penalty)


class _Search:
    """Reads one feature after another, and fits each to the texts for comparison.

    It stops when no further feature can be worth its time. Only the fitting part decides that:
    held-out texts are read later, with the chosen features.
    """

    def __init__(
        self,
        reader: FeatureReader,
        task: _Task,
        latency_penalty: float,
        variants: Sequence[PromptVariant] = ((),),
    ) -> None:
        self.reader, self.task, self.latency_penalty = reader, task, latency_penalty
        self.own = variants
        """Prompt variants that the endpoint is asked with; empty: it isn't asked."""
        self.parts: list[FittedFeature] = []
        self._stop_reason = ""
        """Why no further feature is read."""

    @property
    def learns(self) -> bool:
        """True if labels are used to compare features."""
        return self.task.learn != "nothing"

    async def read(self, feature: Feature) -> FeatureReading | None:
        """Read a feature; `None` if it is left out."""
        if self._stop_reason:
            return self.reader.drop(feature, self._stop_reason)
        reading = await self.reader.read(feature)
        if reading is None:
            return None
        if not self.learns:
            self.parts.append(FittedFeature(reading, reading.values))
            return reading
        part = self.task.part(reading, self.task.compared_rows)
        self.parts.append(part)
        if self.latency_penalty:
            self._measure_alone(part)
        return reading

    def _measure_alone(self, part: FittedFeature) -> None:
        """Measure a feature alone. The possible gain may stop the search, or limit its features."""
        task, rows = self.task, self.task.compared_rows
        labels, penalty = task.labels[rows], self.latency_penalty
        p = predict_held_out([part], labels, task.folds[rows])
        feature_set = FeatureSet.of(
            [part], p, labels, risk=task.guarantee.risk, latency_penalty=penalty
        )
        # The best possible log loss is 0.
        self.reader.most_s = min(self.reader.most_s, -feature_set.candidate.utility / penalty)
        wrong = int((p.argmax(1) != labels).sum())
        blind = len(labels) - int(np.bincount(labels).max())
        tells = wrong <= _OF_BLIND * blind
        if tells and not task.by_label and len(labels) >= task.guarantee.count_needed(wrong):
            self._stop_reason = (
                f"{feature_set.candidate.name} has {wrong} of {len(labels)} wrong by "
                "cross-validation, so that all its decisions are likely to be accepted, and what "
                "is read beside it only takes time (a latency penalty of 0 tries everything)"
            )


async def _choose_scorer(search: _Search) -> _Scorer | None:
    """Choose features and read all texts with them, dropping any that fail.

    `None` if none is left.
    """
    await _read_features(search)
    task, choose = search.task, _choose_by_validation if search.learns else _average_all
    while search.parts:
        scorer = choose(task, search.parts, search.latency_penalty)
        readings = {part.reading.feature.name: part.reading for part in scorer.best.parts}
        full_readings = {
            name: await search.reader.read_rest(reading) for name, reading in readings.items()
        }
        if all(full_readings.values()):
            parts = [
                replace(p, reading=full_readings[p.reading.feature.name]) for p in scorer.best.parts
            ]
            return scorer._replace(best=replace(scorer.best, parts=tuple(parts)))
        search.parts = [p for p in search.parts if full_readings.get(p.reading.feature.name, p)]
    return None


async def _read_features(search: _Search) -> None:
    """Read all available features, the cheap ones first."""
    reader, task = search.reader, search.task
    if search.learns:
        for feature in _vector_features(search):
            await search.read(feature)
    plain_reading = await _read_labels(search, "labels", search.own) if search.own else None
    if plain_reading is None:
        return
    # A server that decides natively may prefer the first option that it is shown. Prompts for label
    # probabilities hardly show the order.
    if reader.question.kind == "choice" and reader.answers.source == "native":
        await _read_labels(search, "turned", search.own, turned=True)
    # A server that decides natively takes no examples.
    shows = reader.answers.source == "logprob" and len(task.names) <= _MOST_OPTIONS_SHOWN
    if search.learns and shows:
        question = replace(reader.question, name=ASKED_AS)
        example_reading = await _read_labels(
            search, "labels after examples", choose_halves(task.examples, question)
        )
        variants = _show_sure_texts(
            reader,
            task,
            [reading.values for reading in (plain_reading, example_reading) if reading is not None],
        )
        await _read_labels(search, "labels after sure texts", variants)


def _vector_features(search: _Search) -> list[Feature]:
    """Return the features that read vectors, the fast ones first."""
    reader, features = search.reader, list[Feature]()
    for role in reader.sources:
        if role == ENCODER:
            features.append(VectorFeature(name=role, source=role, sentences=True))
            examples = [example for variant in search.own for example in variant]
            words = make_words_feature(reader.question, [*search.task.examples, *examples])
            features += [words] if has_words(reader.question) else []
        elif role != DECIDES:
            prompt = None if role == SENTENCES else PROMPT
            features.append(VectorFeature(name=role, source=role, prompt=prompt))
    return sorted(features, key=lambda feature: feature.source == HIDDEN)


async def _read_labels(
    search: _Search, name: str, variants: Sequence[PromptVariant], *, turned: bool = False
) -> FeatureReading | None:
    return await search.read(search.reader.label_feature(name, variants, turned=turned))


def _show_sure_texts(
    reader: FeatureReader, task: _Task, readings: Sequence[Floats]
) -> list[PromptVariant]:
    """Choose the examples that the model is surest of, from the fitting part, for two prompts."""
    rows = np.flatnonzero(~task.held)
    logs = np.stack([values[rows] for values in readings], 1)
    fair = fit_around_average(logs, task.labels[rows]).logs(logs)
    right = fair.argmax(1) == task.labels[rows]
    texts = [reader.texts[row] for row in map(int, rows[right])]
    return choose_confident(texts, fair[right], replace(reader.question, name=ASKED_AS))


class _Scorer(NamedTuple):
    """The scorer chosen on the fitting part."""

    candidates: Sequence[FeatureSet]
    best: FeatureSet
    why: str
    blend: Blend
    fitting_judgements: Judgements
    """Judgements of the fitting part, by fits without its own labels."""
    uncertainty: Uncertainty | None = None


def _choose_by_validation(
    task: _Task, parts: Sequence[FittedFeature], latency_penalty: float
) -> _Scorer:
    """Choose features by cross-validation on the fitting part."""
    fitting = ~task.held
    labels, fold_indices = task.labels[fitting], task.folds[fitting]
    risk = task.guarantee.risk
    feature_sets = search_features(
        parts, labels, fold_indices, risk=risk, latency_penalty=latency_penalty
    )
    best, reason = choose_features(feature_sets, latency_penalty=latency_penalty)
    p = best.probabilities
    signs = signs_of(stack_logs(best.parts), p, best.features, task.names)
    uncertainty, confidences = choose_signs(p, signs, labels, fold_indices)
    scorer = blend_parts(best.parts, labels)
    return _Scorer(
        feature_sets,
        best,
        reason,
        scorer,
        Judgements.from_signs(p, confidences, signs),
        uncertainty,
    )


def _average_all(task: _Task, parts: Sequence[FittedFeature], latency_penalty: float) -> _Scorer:
    """Average all features. Labels are used for the figures only."""
    scorer = average_blend(len(parts), len(task.names))
    p = np.exp(scorer.logs(stack_logs(parts)))
    risk = task.guarantee.risk
    best = FeatureSet.of(parts, p, task.labels, risk=risk, latency_penalty=latency_penalty)
    reason = f"{best.candidate.name}: as the endpoint gives them, since nothing was to be learnt"
    return _Scorer([best], best, reason, scorer, Judgements(p[:0], p[:0].max(1)))


def _judge_tested_rows(
    task: _Task, scorer: _Scorer, calibration: Calibration
) -> tuple[Judgements, list[Outcome]]:
    """Judge the texts for the guarantee; return outcomes of the fitting part, too."""
    if task.learn == "approximate":
        p, confidences, mass = scorer.fitting_judgements
        rows = task.tested_rows
        return Judgements(p[rows], confidences[rows], None if mass is None else mass[rows]), []
    readings = [part.reading.values[task.tested_rows] for part in scorer.best.parts]
    judgements = judge_readings(calibration, readings)
    if task.learn == "nothing":  # nothing was fitted to the rows that aren't held out
        return judgements, []
    return judgements, task.outcomes(scorer.fitting_judgements, np.flatnonzero(~task.held))


def _describe_signs(uncertainty: Uncertainty | None) -> Iterator[str]:
    if uncertainty is not None:
        yield (
            f"what is accepted is told by {' and '.join(uncertainty.signs)} beside the confidence, "
            "which tells wrong decisions better by cross-validation (log loss "
            f"{uncertainty.log_loss:.3f}, {uncertainty.log_loss_without:.3f} without)"
        )


def _measure_reached(
    task: _Task,
    best: FeatureSet,
    parts: Sequence[FittedFeature],
    tested: tuple[Judgements, Bound] | None,
) -> ReachedMeasures:
    rows = task.drawn if task.drawn.any() else np.ones(len(task.labels), bool)
    guesses = measure(predict_held_out(parts, task.labels, task.folds)[rows], task.labels[rows])
    right: Sequence[bool] = ()
    if tested is not None:
        right = (tested[0].probabilities.argmax(1) == task.labels[task.tested_rows]).tolist()
    return ReachedMeasures(
        **guesses.model_dump(),
        held_out_accuracy=sum(right) / len(right) if right else None,
        coverage=tested[1].coverage if tested else 0.0,
        seconds=best.candidate.seconds,
        tokens=best.candidate.tokens,
    )
