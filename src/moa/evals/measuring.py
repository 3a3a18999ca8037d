"""Measuring: the quality of a calibration on labelled texts, and a test of its guarantee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from moa.core.context import RunContext
from moa.core.errors import CalibrationError, InputError
from moa.decisions.arrays import Ints, np
from moa.decisions.bounds import Outcome, find_bound_among, sum_bounds
from moa.decisions.calibrated import CalibratedDecider
from moa.decisions.drift import Detect, language_shares
from moa.decisions.features import Progress
from moa.decisions.file import Calibration, Measures, current_time
from moa.decisions.guarantee import Bound
from moa.learning.labelled import (
    CleanRows,
    Labelled,
    check_labels,
    clean_rows,
    join_repeats,
    normalise_text,
    warn_of_near_copies,
)
from moa.learning.reader import AnswerCache, FeatureReader, FeatureReading
from moa.learning.search import measure


class Evaluation(Measures):
    """Quality of all decisions of a calibration on labelled texts, not only of accepted ones."""

    n: int
    coverage: float
    """Share of accepted decisions."""
    risk: float | None
    """Share of wrong decisions among the accepted; `None` if nothing is accepted."""
    tokens_per_decision: float
    """Uncached tokens, including answers."""
    seconds_per_decision: float
    """Wall time, with several decisions in parallel."""


async def evaluate(
    calibrated: CalibratedDecider,
    rows: Sequence[Labelled],
    *,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Decide on labelled texts, and measure the decisions.

    Args:
        calibrated: A calibration with its endpoints.
        rows: Texts with labels of the calibration.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Called with the progress of each feature.

    Raises:
        InputError: a label isn't one of the calibration's, or there are no rows.
        CalibrationError: a model is another one than the calibration's, or can't be read.
        EndpointError: a request failed.
    """
    labels = _indices(calibrated.calibration, rows)
    context = context or RunContext(keep_notes=False)
    readings = await read_texts(calibrated, [row.text for row in rows], context, progress)
    values = [reading.values for reading in readings]
    judgements, accepted = calibrated.calibration.decide(values)
    wrong = judgements.probabilities.argmax(1) != labels
    return Evaluation(
        **measure(judgements.probabilities, labels).model_dump(),
        n=len(rows),
        coverage=float(accepted.mean()),
        risk=float(wrong[accepted].mean()) if accepted.any() else None,
        tokens_per_decision=sum(reading.tokens for reading in readings),
        seconds_per_decision=sum(reading.seconds for reading in readings),
    )


class RecheckResult(NamedTuple):
    """A calibration with the result of a new test."""

    calibration: Calibration
    """With the guarantee of this test: its bound has no threshold if the guarantee failed."""
    notes: tuple[str, ...]
    """Rows left out, and findings about the rows."""


async def recheck(
    calibrated: CalibratedDecider,
    rows: Sequence[Labelled],
    *,
    context: RunContext | None = None,
    language: Detect | None = None,
    progress: Progress | None = None,
) -> RecheckResult:
    """Test a calibration's guarantee in its current use, on another server or in a language.

    Its threshold is fixed, so one exact test on new labels confirms or withdraws it.

    Args:
        calibrated: A calibration with its endpoints.
        rows: Labelled texts not used for the calibration. Texts chosen for labelling are left out,
            since the test needs random ones.
        context: Budget, deadline and ledger; `None` starts one.
        language: Detects the language of a text; `None`: languages are ignored.
        progress: Called with the progress of each feature.

    Raises:
        InputError: a label isn't one of the calibration's, the rows are those it was made from, or
            all of them were chosen to be labelled.
        CalibrationError: it accepts nothing, or a model is another one than its.
        EndpointError: a request failed.
    """
    calibration = calibrated.calibration
    bound, data_record, _ = calibration.proof
    if bound.threshold is None:
        raise CalibrationError(
            "the calibration accepts nothing, so there is no guarantee to confirm: " + bound.summary
        )
    if clean_rows(rows, calibration.labels).fingerprint == data_record.sha256:
        raise InputError(
            "these are the rows that the calibration was made from, so they would confirm "
            "anything: give others"
        )
    data = _clean_drawn_rows(rows, calibration.labels)
    labels, texts = _indices(calibration, data.rows), [row.text for row in data.rows]
    context = context or RunContext(keep_notes=False)
    readings = await read_texts(calibrated, texts, context, progress)
    judgements = calibration.judge([reading.values for reading in readings])
    cases = [row.case for row in data.rows]
    bounds = _bounds_here(
        calibration, bound, judgements.outcomes(labels, calibration.labels, cases)
    )
    languages = [] if language is None else [language(text) for text in texts]
    new_calibration = calibration.model_copy(
        update={
            **bounds,
            "models": await calibrated.find_identities(context),
            "data": data_record.model_copy(update={"languages": language_shares(languages)}),
            "made": current_time(),
        }
    )
    drift = new_calibration.start_drift_check(texts, languages, judgements)
    return RecheckResult(
        new_calibration.model_copy(update={"drift": drift}).with_seal(), data.notes
    )


def _clean_drawn_rows(rows: Sequence[Labelled], labels: Sequence[str]) -> CleanRows:
    """Clean the randomly drawn rows, the only ones to test a guarantee on."""
    drawn_texts = {text for text, row in join_repeats(rows).items() if not row.chosen}
    drawn_rows = [row for row in rows if normalise_text(row.text) in drawn_texts]
    chosen_count = len(rows) - len(drawn_rows)
    if not drawn_rows:
        raise InputError(
            f"all {chosen_count} rows were chosen to be labelled, and a guarantee can only be "
            "tested on rows that were drawn at random: give some"
        )
    data = clean_rows(drawn_rows, labels)
    notes = [*data.notes, *warn_of_near_copies(data.rows)]
    if chosen_count:
        notes.append(
            f"{chosen_count} rows were chosen to be labelled and are left out: a guarantee "
            "can only be tested on rows that were drawn at random"
        )
    return replace(data, notes=tuple(notes))


def _bounds_here(
    calibration: Calibration, bound: Bound, outcomes: Sequence[Outcome]
) -> dict[str, object]:
    """Test a calibration's thresholds on these outcomes; return its `bound` and `bounds`."""
    guarantee, threshold = bound.guarantee, bound.threshold
    thresholds = {n: b.threshold for n, b in calibration.bounds.items() if b.threshold is not None}
    if not thresholds:
        candidates = () if threshold is None else (threshold,)
        return {"bound": find_bound_among(candidates, outcomes, guarantee)}
    label_guarantee = guarantee.split(len(thresholds))
    bounds = {
        name: find_bound_among(
            (thresholds[name],), [o for o in outcomes if o.label == name], label_guarantee
        )
        if name in thresholds
        else old_bound
        for name, old_bound in calibration.bounds.items()
    }
    return {"bounds": bounds, "bound": sum_bounds(bounds, guarantee)}


def _indices(calibration: Calibration, rows: Sequence[Labelled]) -> Ints:
    check_labels(rows, calibration.labels)
    return np.array([calibration.labels.index(row.label) for row in rows], dtype=np.intp)


async def read_texts(
    calibrated: CalibratedDecider,
    texts: Sequence[str],
    context: RunContext,
    progress: Progress | None = None,
) -> list[FeatureReading]:
    """Read texts with all features of a calibration, in order."""
    await calibrated.check_identities(context)
    reader = FeatureReader(
        question=calibrated.question,
        answers=AnswerCache(calibrated.sources),
        texts=texts,
        context=context,
        limit_s=float("inf"),
        progress=progress,
    )
    readings: list[FeatureReading] = []
    for feature in calibrated.calibration.features:
        reading = await reader.read(feature)
        if reading is None:
            raise CalibrationError(reader.dropped[-1])
        readings.append(reading)
    return readings
