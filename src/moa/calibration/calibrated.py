"""Calibrated: applies a calibration with its endpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from moa.calibration.features import (
    LabelFeature,
    Plan,
    QuestionFeatures,
    Sources,
    TextReading,
    layout_of,
)
from moa.calibration.file import Calibration, QuestionRecord
from moa.context import RunContext
from moa.endpoints.known import Identity, identity_of
from moa.errors import CalibrationError, CapabilityError
from moa.questions import Answer, Question, Source


@dataclass(slots=True)
class CalibratedDecider:
    """A calibration with the endpoints that it reads from, by role.

    Raises:
        CalibrationError: it was made for another question, or a role has no endpoint.
    """

    calibration: Calibration
    question: Question
    sources: Sources
    warnings: list[str] | None = field(default=None, init=False)
    """Changes since the calibration; `None` before the first answer."""

    def __post_init__(self) -> None:
        check_question(self.calibration, self.question)
        for feature in self.calibration.features:
            if feature.source not in self.sources:
                raise CalibrationError(
                    f"the calibration reads {feature.source!r}, and there is no such endpoint "
                    f"here, only {', '.join(self.sources)}. Give it by `embedders`, or calibrate "
                    "again without it"
                )

    async def check_identities(self, context: RunContext) -> list[str]:
        """Check, once, that the models are those of the calibration; return warnings."""
        if self.warnings is None:
            made = self.calibration
            found = await self.find_identities(context) if made.models else {}
            self.warnings = check_models(made, found)
        return self.warnings

    async def find_identities(self, context: RunContext) -> dict[str, Identity]:
        """Return the identities of the endpoints, by role."""
        roles = self.calibration.roles
        return {role: await identity_of(self.sources[role], context) for role in roles}

    @property
    def question_features(self) -> QuestionFeatures:
        """The question with the features to read."""
        return QuestionFeatures(self.question, self.calibration.features)

    async def answer(self, text: str, context: RunContext) -> Answer:
        """Read the text with all features concurrently, and decide."""
        for warning in await self.check_identities(context):
            context.note("degraded", warning)
        (reads,) = await Plan.of([self.question_features]).read(text, self.sources, context)
        return self.conclude(reads, text)

    def conclude(self, reads: Sequence[TextReading], text: str) -> Answer:
        """Decide by the readings of a text, one for each feature.

        A refused answer makes all options equally likely. If only answers were read and all were
        refused, the refusal is returned. A written answer is returned as it is, without a
        guarantee.

        Raises:
            CapabilityError: the label was written, and there is a bound.
        """
        made = self.calibration
        said = [answer for read in reads for answer in read.answers]
        written = next((answer for answer in said if answer.source == "text"), None)
        if written is not None and made.bound is not None:
            raise CapabilityError(
                f"the answer to {self.question.name!r} was written, so it has no probabilities "
                "that a calibration could be applied to"
            )
        silent = len(said) > 0 and all(answer.probabilities is None for answer in said)
        if written is not None or (silent and all(read.answers for read in reads)):
            accepted = None if made.bound is None else False
            return replace(written or said[0], question=self.question, accepted=accepted)
        if made.full is None and len(said) == 1:
            doubt = said[0].doubt or made.doubtful
            return replace(said[0], question=self.question, doubt=doubt)
        return self._apply_fit(reads, said, text)

    def _apply_fit(self, reads: Sequence[TextReading], said: Sequence[Answer], text: str) -> Answer:
        from moa.calibration.reader import values_of

        made = self.calibration
        pairs = zip(made.features, reads, strict=True)
        found, accepted = made.decide([values_of(feature, r, text)[None] for feature, r in pairs])
        sources: list[Source] = [a.source for a in said if a.probabilities is not None]
        tells = any(answer.label_mass is not None for answer in said)
        probabilities = tuple(found.probabilities[0].tolist())
        return Answer(
            question=self.question,
            probabilities=probabilities,
            source=sources[0] if sources else "encoder",
            accepted=None if made.bound is None else bool(accepted[0]),
            expected_precision=made.expected_precision(max(probabilities)),
            label_mass=float(found.mass[0]) if tells and found.mass is not None else None,
            doubt=made.doubtful,
        )


def check_question(calibration: Calibration, question: Question) -> None:
    """Raise `CalibrationError` if question, options or prompt layout have changed."""
    asked, mine = QuestionRecord.model_validate(question), calibration.question
    _check_same(f"a {mine.kind}", f"a {asked.kind}", "kind of question")
    _check_same(repr(mine.text), repr(asked.text), "question")
    names, asks = calibration.labels, [option.name for option in asked.options]
    new, gone = _names_missing_from(asks, names), _names_missing_from(names, asks)
    if new:
        also = f", and {gone} is asked for no more" if gone else ""
        raise CalibrationError(
            f"the calibration knows nothing of the label {new}: it was made for "
            f"{', '.join(names)}{also}. Label rows of what is new, and learn again"
        )
    if gone:
        raise CalibrationError(
            f"the calibration was made with the label {gone} too, which is not among "
            f"{', '.join(asks)}. Learn again without its rows"
        )
    _check_same(", ".join(names), ", ".join(asks), "order of the labels")
    for was, is_now in zip(mine.options, asked.options, strict=True):
        what = f"description of {was.name!r}"
        _check_same(repr(was.description), repr(is_now.description), what)
    for feature in calibration.features:
        if not isinstance(feature, LabelFeature) or feature.read_as is None:
            continue
        if feature.layout and feature.layout != layout_of(question, feature.read_as):
            raise CalibrationError(
                "the prompt is laid out otherwise in this version of moa than when the "
                "calibration was made, so its scores mean something else. Calibrate again"
            )


def check_models(calibration: Calibration, found: Mapping[str, Identity]) -> list[str]:
    """Raise `CalibrationError` if a model differs, by role; return warnings of other servers."""
    warnings: list[str] = []
    for role, was in calibration.models.items():
        here = found[role]
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
                f"{was.model} was served by {_server_name(was)} when the calibration was made, and "
                f"is by {_server_name(here)} now: scores move a little between servers. Confirm "
                "the guarantee with moa learn --recheck"
            )
    return warnings


def _names_missing_from(some: Sequence[str], others: Sequence[str]) -> str:
    """Format the names that are not among others."""
    return ", ".join(repr(name) for name in some if name not in others)


def _check_same(was: str, is_now: str, what: str) -> None:
    if was != is_now:
        raise CalibrationError(
            f"the calibration was made for another {what}: it was {was}, and is {is_now}. "
            "Calibrate again, or ask what was asked then"
        )


def _server_name(identity: Identity) -> str:
    return f"{identity.server} {identity.version}" if identity.version else identity.server
