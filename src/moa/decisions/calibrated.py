"""Calibrated: applies a calibration with its endpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from moa.core.context import RunContext
from moa.core.errors import CalibrationError, CapabilityError
from moa.core.questions import Answer, Question, Source
from moa.decisions.features import (
    LabelFeature,
    Plan,
    QuestionFeatures,
    QuestionRecord,
    Sources,
    TextReading,
    layout_of,
)
from moa.decisions.file import Calibration
from moa.endpoints.known import Identity, answers_as_json, identity_of


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
                    f"here, only {', '.join(self.sources)}. Calibrate again without it"
                )
            if isinstance(feature, LabelFeature):
                self._check_way(feature)

    def _check_way(self, feature: LabelFeature) -> None:
        """Raise `CalibrationError` if the endpoint is asked in another way than during the fit."""
        endpoint = self.sources[feature.source]
        if feature.layout and answers_as_json(endpoint) != bool(feature.together):
            was, now = (
                ("in a chat", "by labels") if feature.together else ("by labels", "in a chat")
            )
            raise CalibrationError(
                f"{endpoint.name} was asked {was} when the calibration was made, and is asked "
                f"{now} here, so its scores mean something else. Calibrate again"
            )

    async def check_identities(self, context: RunContext) -> list[str]:
        """Check, once, that the models are those of the calibration; return warnings."""
        if self.warnings is None:
            calibration = self.calibration
            identities = await self.find_identities(context) if calibration.models else {}
            self.warnings = check_models(calibration, identities)
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
        """Decide by the readings of a text, one per feature.

        A refused answer makes all options equally likely. If only answers were read and all were
        refused, the refusal is returned. A written answer is returned unchanged, without a
        guarantee.

        Raises:
            CapabilityError: the label was written, and there is a bound.
        """
        calibration = self.calibration
        answers = [answer for read in reads for answer in read.answers]
        written_answer = next((answer for answer in answers if answer.source == "text"), None)
        if written_answer is not None and calibration.bound is not None:
            raise CapabilityError(
                f"the answer to {self.question.name!r} was written, so it has no probabilities "
                "that a calibration could be applied to"
            )
        all_refused = len(answers) > 0 and all(answer.probabilities is None for answer in answers)
        if written_answer is not None or (all_refused and all(read.answers for read in reads)):
            accepted = None if calibration.bound is None else False
            return replace(written_answer or answers[0], question=self.question, accepted=accepted)
        if calibration.full is None and calibration.bound is None and len(answers) == 1:
            doubt = answers[0].doubt or calibration.doubtful
            return replace(answers[0], question=self.question, doubt=doubt)
        return self._apply_fit(reads, answers, text)

    def _apply_fit(
        self, reads: Sequence[TextReading], answers: Sequence[Answer], text: str
    ) -> Answer:
        from moa.decisions.scorer import values_of

        calibration = self.calibration
        pairs = zip(calibration.features, reads, strict=True)
        judgements, accepted = calibration.decide(
            [values_of(feature, r, text)[None] for feature, r in pairs]
        )
        sources: list[Source] = [a.source for a in answers if a.probabilities is not None]
        has_mass = any(answer.label_mass is not None for answer in answers)
        probabilities = tuple(judgements.probabilities[0].tolist())
        untold = any(answer.untold for answer in answers)
        return Answer(
            question=self.question,
            probabilities=probabilities,
            source=sources[0] if sources else "encoder",
            # The guarantee and the expected precision are about an option, and none is given.
            accepted=None if calibration.bound is None else bool(accepted[0]) and not untold,
            expected_precision=None
            if untold
            else calibration.expected_precision(max(probabilities)),
            untold=untold,
            label_mass=float(judgements.mass[0])
            if has_mass and judgements.mass is not None
            else None,
            doubt=calibration.doubtful,
        )


def check_question(calibration: Calibration, question: Question) -> None:
    """Raise `CalibrationError` if question, options or prompt layout have changed."""
    record, original = QuestionRecord.model_validate(question), calibration.question
    _check_same(f"a {original.kind}", f"a {record.kind}", "kind of question")
    _check_same(repr(original.text), repr(record.text), "question")
    labels, names = calibration.labels, [option.name for option in record.options]
    new_labels, lost_labels = _names_missing_from(names, labels), _names_missing_from(labels, names)
    if new_labels:
        suffix = f", and {lost_labels} is asked for no more" if lost_labels else ""
        raise CalibrationError(
            f"the calibration knows nothing of the label {new_labels}: it was made for "
            f"{', '.join(labels)}{suffix}. Label rows of what is new, and learn again"
        )
    if lost_labels:
        raise CalibrationError(
            f"the calibration was made with the label {lost_labels} too, which is not among "
            f"{', '.join(names)}. Learn again without its rows"
        )
    _check_same(", ".join(labels), ", ".join(names), "order of the labels")
    for old_option, option in zip(original.options, record.options, strict=True):
        aspect = f"description of {old_option.name!r}"
        _check_same(repr(old_option.description), repr(option.description), aspect)
    for feature in calibration.features:
        if not isinstance(feature, LabelFeature) or not feature.layout:
            continue
        together = [record.question(record.name) for record in feature.together]
        if feature.layout != layout_of(feature.lay_out(question), together):
            raise CalibrationError(
                "the prompt is laid out otherwise in this version of moa than when the "
                "calibration was made, so its scores mean something else. Calibrate again"
            )


def check_models(calibration: Calibration, identities: Mapping[str, Identity]) -> list[str]:
    """Return warnings about changed servers; raise `CalibrationError` if a role's model differs."""
    warnings: list[str] = []
    for role, original in calibration.models.items():
        identity = identities[role]
        if original.model != identity.model:
            raise CalibrationError(
                f"the calibration was made on {original.model}, and here {identity.model} answers: "
                "its scores mean something else. Calibrate again on this model"
            )
        if original.digest and identity.digest and original.digest != identity.digest:
            raise CalibrationError(
                f"the weights of {original.model} are others than those of the calibration "
                f"(SHA-256 {identity.digest[:12]}…, not {original.digest[:12]}…). Calibrate again"
            )
        if (original.server, original.version) != (identity.server, identity.version):
            warnings.append(
                f"{original.model} was served by {_server_name(original)} when the calibration was "
                f"made, and is by {_server_name(identity)} now: scores move a little between "
                "servers. Confirm the guarantee with moa learn --recheck"
            )
    return warnings


def _names_missing_from(names: Sequence[str], others: Sequence[str]) -> str:
    """Format the names that are not among others."""
    return ", ".join(repr(name) for name in names if name not in others)


def _check_same(was: str, is_now: str, aspect: str) -> None:
    if was != is_now:
        raise CalibrationError(
            f"the calibration was made for another {aspect}: it was {was}, and is {is_now}. "
            "Calibrate again, or ask what was asked then"
        )


def _server_name(identity: Identity) -> str:
    return f"{identity.server} {identity.version}" if identity.version else identity.server
