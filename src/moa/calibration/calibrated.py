"""Calibrated: a calibration with its endpoints, which answers and is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from moa._async import gather
from moa.calibration.bounds import Outcome, bound_along, together
from moa.calibration.drift import Detect, language_shares
from moa.calibration.features import (
    FeatureReader,
    LabelFeature,
    Progress,
    Reading,
    Sources,
    layout_of,
)
from moa.calibration.file import Calibration, QuestionRecord, now
from moa.calibration.labelled import Labelled, Sorted, check_labels, near_copies_of, sort_out
from moa.calibration.scorer import Measures, measure
from moa.context import RunContext
from moa.decisions.arrays import Floats, Ints, np
from moa.endpoints.known import Identity, identity_of
from moa.errors import CalibrationError, InputError
from moa.questions import Answer, Question


@dataclass(slots=True)
class Calibrated:
    """A calibration with the endpoints that it reads from, by role.

    Raises:
        CalibrationError: it was made for another question, or a role has no endpoint.
    """

    calibration: Calibration
    question: Question
    sources: Sources
    warnings: list[str] | None = field(default=None, init=False)
    """What has changed since it was made; `None` before the first answer."""

    def __post_init__(self) -> None:
        check_question(self.calibration, self.question)
        for feature in self.calibration.features:
            if feature.source not in self.sources:
                raise CalibrationError(
                    f"the calibration reads {feature.source!r}, and there is no such endpoint "
                    f"here, only {', '.join(self.sources)}. Give it by `embedders`, or calibrate "
                    "again without it"
                )

    async def check(self, context: RunContext) -> list[str]:
        """Make sure that the models are those of the calibration; they are asked once."""
        if self.warnings is None:
            self.warnings = check_models(self.calibration, await self.identities(context))
        return self.warnings

    async def identities(self, context: RunContext) -> dict[str, Identity]:
        """Find out who answers here, by role."""
        roles = self.calibration.roles
        return {role: await identity_of(self.sources[role], context) for role in roles}

    async def answer(self, text: str, context: RunContext) -> Answer:
        """Read the text with all features at once, and decide."""
        for warning in await self.check(context):
            context.note("degraded", warning)
        found, accepted = self.calibration.decide(await self.read(text, context))
        return Answer(
            question=self.question,
            probabilities=tuple(found.probabilities[0].tolist()),
            source="logprob",
            accepted=bool(accepted[0]),
            label_mass=None if found.mass is None else float(found.mass[0]),
        )

    async def read(self, text: str, context: RunContext) -> list[Floats]:
        """Read a text with all features at once, in their order."""
        found = await gather(
            feature.read([text], self.question, self.sources, context)
            for feature in self.calibration.features
        )
        return [np.array(values) for values in found]


def check_question(calibration: Calibration, question: Question) -> None:
    """Make sure that it was made for this question, these options and this layout of the prompt."""
    asked, mine = QuestionRecord.model_validate(question), calibration.question
    _same(f"a {mine.kind}", f"a {asked.kind}", "kind of question")
    _same(repr(mine.text), repr(asked.text), "question")
    names, asks = calibration.labels, [option.name for option in asked.options]
    if new := [name for name in asks if name not in names]:
        raise CalibrationError(
            f"the calibration knows nothing of the label {new[0]!r}: it was made for "
            f"{', '.join(names)}. Calibrate again with rows of the new label"
        )
    if gone := [name for name in names if name not in asks]:
        raise CalibrationError(
            f"the calibration was made with the label {gone[0]!r} too, which is not among "
            f"{', '.join(asks)}. Calibrate again without it"
        )
    _same(", ".join(names), ", ".join(asks), "order of the labels")
    for was, is_now in zip(mine.options, asked.options, strict=True):
        what = f"description of {was.name!r}"
        _same(repr(was.description), repr(is_now.description), what)
    for feature in calibration.features:
        if isinstance(feature, LabelFeature) and (
            feature.layout != layout_of(question, feature.read_as)
        ):
            raise CalibrationError(
                "the prompt is laid out otherwise in this version of moa than when the "
                "calibration was made, so its scores mean something else. Calibrate again"
            )


def check_models(calibration: Calibration, found: Mapping[str, Identity]) -> list[str]:
    """Make sure that the models, by role, are those it was made on, and warn of other servers."""
    warnings: list[str] = []
    for role in calibration.roles:
        was, here = calibration.models[role], found[role]
        if was.model != here.model:
            raise CalibrationError(
                f"the calibration was made on {was.model}, and here {here.model} answers: its "
                "scores mean something else. Calibrate again on this model"
            )
        if was.digest and here.digest and was.digest != here.digest:
            raise CalibrationError(
                f"the weights of {was.model} are others than those of the calibration "
                f"(SHA-256 {here.digest[:12]}…, not {was.digest[:12]}…). Calibrate again"
            )
        if (was.server, was.version) != (here.server, here.version):
            warnings.append(
                f"{was.model} was served by {_served(was)} when the calibration was made, and "
                f"is by {_served(here)} now: scores move a little between servers. Confirm the "
                "promise with moa calibrate --recheck"
            )
    return warnings


def _same(was: str, is_now: str, what: str) -> None:
    if was != is_now:
        raise CalibrationError(
            f"the calibration was made for another {what}: it was {was}, and is {is_now}. "
            "Calibrate again, or ask what was asked then"
        )


def _served(identity: Identity) -> str:
    return f"{identity.server} {identity.version}" if identity.version else identity.server


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
    """With the promise of here: its bound has no threshold where it isn't kept."""
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
    """Test a calibration's promise where it is used now: on another server, or in a language.

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
    if calibration.bound.threshold is None:
        raise CalibrationError(
            "the calibration accepts nothing, so there is no promise to confirm: "
            + calibration.bound.summary
        )
    if sort_out(rows, calibration.labels).fingerprint == calibration.data.sha256:
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
    bounds = _bounds_here(calibration, found.outcomes(labels, calibration.labels, cases))
    spoken = [] if language is None else [language(text) for text in texts]
    here = calibration.model_copy(
        update={
            **bounds,
            "models": await calibrated.identities(context),
            "data": calibration.data.model_copy(update={"languages": language_shares(spoken)}),
            "made": now(),
        }
    )
    watched = here.watched(texts, spoken, found)
    return Rechecked(here.model_copy(update={"drift": watched}).sealed(), data.notes)


def _drawn(rows: Sequence[Labelled], labels: Sequence[str]) -> Sorted:
    """Sort out the rows that were drawn at random, the only ones to test a promise on."""
    drawn = [row for row in rows if not row.chosen]
    chosen = len(rows) - len(drawn)
    if not drawn:
        raise InputError(
            f"all {chosen} rows were chosen to be labelled, and a promise can only be tested on "
            "rows that were drawn at random: give some"
        )
    data = sort_out(drawn, labels)
    notes = [*data.notes, *near_copies_of(data.rows)]
    if chosen:
        notes.append(
            f"{chosen} rows were chosen to be labelled and are left out: a promise can only be "
            "tested on rows that were drawn at random"
        )
    return replace(data, notes=tuple(notes))


def _bounds_here(calibration: Calibration, outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Test the thresholds of a calibration on outcomes of here: its `bound` and its `bounds`."""
    guarantee, threshold = calibration.bound.guarantee, calibration.bound.threshold
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
        sources=calibrated.sources,
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
