"""Measuring: how good a calibration is on labelled texts, and whether its guarantee holds there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from moa.calibration import Bound
from moa.calibration.bounds import Outcome, bound_along, together
from moa.calibration.calibrated import Calibrated
from moa.calibration.drift import Detect, language_shares
from moa.calibration.features import Progress
from moa.calibration.file import Calibration, Measures, now
from moa.calibration.labelled import Labelled, Sorted, check_labels, near_copies_of, sort_out
from moa.calibration.reader import Answers, FeatureReader, Reading
from moa.calibration.scorer import measure
from moa.context import RunContext
from moa.decisions.arrays import Ints, np
from moa.errors import CalibrationError, InputError


class Evaluation(Measures):
    """How good a calibration's decisions are, accepted or not, on labelled texts."""

    n: int
    coverage: float
    """Share of the decisions that are accepted."""
    risk: float | None
    """Share of wrong ones among the accepted; `None` where nothing is accepted."""
    tokens_per_decision: float
    """Those that no cache had, answers included."""
    seconds_per_decision: float
    """Wall time, several decisions being made at once."""


async def evaluate(
    calibrated: Calibrated,
    rows: Sequence[Labelled],
    *,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Decide on labelled texts, and measure the decisions.

    Args:
        calibrated: A calibration with its endpoints.
        rows: With labels that the calibration knows.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Told how far each feature is.

    Raises:
        InputError: a label is none of the calibration's, or there are no rows.
        CalibrationError: a model is another one than the calibration's, or can't be read.
        EndpointError: a request failed.
    """
    labels = _indices(calibrated.calibration, rows)
    context = context or RunContext(keep_notes=False)
    readings = await read_texts(calibrated, [row.text for row in rows], context, progress)
    values = [reading.values for reading in readings]
    found, accepted = calibrated.calibration.decide(values)
    wrong = found.probabilities.argmax(1) != labels
    return Evaluation(
        **measure(found.probabilities, labels).model_dump(),
        n=len(rows),
        coverage=float(accepted.mean()),
        risk=float(wrong[accepted].mean()) if accepted.any() else None,
        tokens_per_decision=sum(reading.tokens for reading in readings),
        seconds_per_decision=sum(reading.seconds for reading in readings),
    )


class Rechecked(NamedTuple):
    """A calibration as it stands where it was tested again."""

    calibration: Calibration
    """With the guarantee of here: its bound has no threshold where it isn't kept."""
    notes: tuple[str, ...]
    """What was left out, and what is odd about the rows."""


async def recheck(
    calibrated: Calibrated,
    rows: Sequence[Labelled],
    *,
    context: RunContext | None = None,
    language: Detect | None = None,
    progress: Progress | None = None,
) -> Rechecked:
    """Test a calibration's guarantee where it is used now: on another server, or in a language.

    Its threshold was fixed before, so one exact test on new labels confirms or withdraws it.

    Args:
        calibrated: A calibration with its endpoints.
        rows: Labelled texts that it was not made from. Those that were chosen to be labelled are
            left out, since they are none as they come in.
        context: Budget, deadline and ledger; `None` starts one.
        language: Tells the language of a text; `None` looks at none.
        progress: Told how far each feature is.

    Raises:
        InputError: a label is none of the calibration's, the rows are those it was made from, or
            all of them were chosen to be labelled.
        CalibrationError: it accepts nothing, or a model is another one than its.
        EndpointError: a request failed.
    """
    calibration = calibrated.calibration
    bound, made_from, _ = calibration.proven
    if bound.threshold is None:
        raise CalibrationError(
            "the calibration accepts nothing, so there is no guarantee to confirm: " + bound.summary
        )
    if sort_out(rows, calibration.labels).fingerprint == made_from.sha256:
        raise InputError(
            "these are the rows that the calibration was made from, so they would confirm "
            "anything: give others"
        )
    data = _drawn(rows, calibration.labels)
    labels, texts = _indices(calibration, data.rows), [row.text for row in data.rows]
    context = context or RunContext(keep_notes=False)
    readings = await read_texts(calibrated, texts, context, progress)
    found = calibration.judge([reading.values for reading in readings])
    cases = [row.case for row in data.rows]
    bounds = _bounds_here(calibration, bound, found.outcomes(labels, calibration.labels, cases))
    spoken = [] if language is None else [language(text) for text in texts]
    here = calibration.model_copy(
        update={
            **bounds,
            "models": await calibrated.identities(context),
            "data": made_from.model_copy(update={"languages": language_shares(spoken)}),
            "made": now(),
        }
    )
    watched = here.watched(texts, spoken, found)
    return Rechecked(here.model_copy(update={"drift": watched}).sealed(), data.notes)


def _drawn(rows: Sequence[Labelled], labels: Sequence[str]) -> Sorted:
    """Sort out the rows that were drawn at random, the only ones to test a guarantee on."""
    drawn = [row for row in rows if not row.chosen]
    chosen = len(rows) - len(drawn)
    if not drawn:
        raise InputError(
            f"all {chosen} rows were chosen to be labelled, and a guarantee can only be tested on "
            "rows that were drawn at random: give some"
        )
    data = sort_out(drawn, labels)
    notes = [*data.notes, *near_copies_of(data.rows)]
    if chosen:
        notes.append(
            f"{chosen} rows were chosen to be labelled and are left out: a guarantee can only be "
            "tested on rows that were drawn at random"
        )
    return replace(data, notes=tuple(notes))


def _bounds_here(
    calibration: Calibration, bound: Bound, outcomes: Sequence[Outcome]
) -> dict[str, object]:
    """Test the thresholds of a calibration on outcomes of here: its `bound` and its `bounds`."""
    guarantee, threshold = bound.guarantee, bound.threshold
    tested = {n: b.threshold for n, b in calibration.bounds.items() if b.threshold is not None}
    if not tested:
        along = () if threshold is None else (threshold,)
        return {"bound": bound_along(along, outcomes, guarantee)}
    each = guarantee.shared(len(tested))
    bounds = {
        name: bound_along((tested[name],), [o for o in outcomes if o.label == name], each)
        if name in tested
        else was
        for name, was in calibration.bounds.items()
    }
    return {"bounds": bounds, "bound": together(bounds, guarantee)}


def _indices(calibration: Calibration, rows: Sequence[Labelled]) -> Ints:
    check_labels(rows, calibration.labels)
    return np.array([calibration.labels.index(row.label) for row in rows], dtype=np.intp)


async def read_texts(
    calibrated: Calibrated,
    texts: Sequence[str],
    context: RunContext,
    progress: Progress | None = None,
) -> list[Reading]:
    """Read texts with all features of a calibration, in their order."""
    await calibrated.check(context)
    reader = FeatureReader(
        question=calibrated.question,
        answers=Answers(calibrated.sources),
        texts=texts,
        context=context,
        limit_s=float("inf"),
        progress=progress,
    )
    found: list[Reading] = []
    for feature in calibrated.calibration.features:
        reading = await reader.read(feature)
        if reading is None:
            raise CalibrationError(reader.dropped[-1])
        found.append(reading)
    return found
