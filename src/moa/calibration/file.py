"""File: a fitted scorer and its promise, as one readable file that belongs to one model."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import ConfigDict, Field

from moa._files import load_model, save_text
from moa.calibration import Bound
from moa.calibration.drift import FEWEST, Drift, Value
from moa.calibration.features import Feature, LabelFeature, layout_of
from moa.calibration.measures import Measures
from moa.calibration.scorer import Candidate
from moa.calibration.uncertainty import Judged, Uncertainty, judged
from moa.decisions.arrays import Bools, Floats, np
from moa.decisions.heads import Blend, Head
from moa.endpoints.known import Identity
from moa.errors import CalibrationError
from moa.node import Frozen
from moa.questions import Kind, Option, Question

Learn = Literal["split", "nothing", "approximate"]
"""What is learnt from labelled rows; see `moa.calibration.fit.calibrate`."""


class OptionRecord(Frozen):
    """An allowed answer."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    description: str | None = None


class QuestionRecord(Frozen):
    """What is asked."""

    model_config = ConfigDict(from_attributes=True)

    kind: Kind
    text: str
    options: tuple[OptionRecord, ...]

    def question(self, name: str = "label") -> Question:
        """Ask it again, with the names of the options as labels."""
        options = tuple(Option(o.name, o.name, o.description) for o in self.options)
        return Question(name, self.kind, self.text, options)


class HeadRecord(Frozen):
    """A linear head."""

    shape: tuple[int, int]
    """Parts of the vector, options."""
    weights: str
    """Base64 of little-endian float32, row by row."""
    bias: tuple[float, ...]

    @classmethod
    def of(cls, head: Head) -> Self:
        """Write a head down."""
        rows, columns = head.weights.shape
        packed = base64.b64encode(head.weights.astype("<f4").tobytes()).decode()
        return cls(shape=(rows, columns), weights=packed, bias=tuple(head.bias.tolist()))

    def head(self) -> Head:
        """Read it back; it needs nothing but numpy."""
        weights = np.frombuffer(base64.b64decode(self.weights), "<f4").reshape(self.shape)
        return Head(weights.astype(float), np.array(self.bias))


class FitRecord(Frozen):
    """A fitted scorer."""

    heads: tuple[HeadRecord | None, ...]
    """One for each feature; `null` for one that reads probabilities already."""
    weights: tuple[float, ...]
    """One for each feature."""
    bias: tuple[float, ...]
    """One for each option."""

    @classmethod
    def of(cls, blend: Blend) -> Self:
        """Write a scorer down."""
        return cls(
            heads=tuple(None if head is None else HeadRecord.of(head) for head in blend.heads),
            weights=tuple(blend.weights.tolist()),
            bias=tuple(blend.bias.tolist()),
        )

    def blend(self) -> Blend:
        """Read it back."""
        return Blend(
            tuple(None if head is None else head.head() for head in self.heads),
            np.array(self.weights),
            np.array(self.bias),
        )


class DataRecord(Frozen):
    """What it was made from."""

    rows: int
    """Labelled texts, each once."""
    duplicates: int
    """Rows left out, since an earlier one had the same text."""
    fitted: int
    """Texts that the accepting fit was made from."""
    held_out: int
    """Texts that the promise was found on."""
    labels: dict[str, int]
    """Texts by label."""
    chosen: int = 0
    """Texts that were chosen to be labelled, and not drawn at random; none of them is held out."""
    labelled_by: dict[str, int] = Field(default_factory=dict[str, int])
    """Texts by who labelled them, as far as the rows say."""
    learn: Learn = "split"
    """What was learnt from them."""
    sha256: str
    """Of texts and labels, in any order."""
    languages: dict[str, float] = Field(default_factory=dict[str, float])
    """Shares of the texts by language, where they were looked at."""


class Reached(Measures):
    """What its best guesses reached, by cross-validation on the texts that were drawn at random."""

    held_out_accuracy: float | None
    """Of the accepting fit, on the held-out texts; `None` without any."""
    coverage: float
    """Share of the held-out texts that it accepts."""
    seconds: float
    """Wall time of a decision, while it was made."""
    tokens: float


class Decided(NamedTuple):
    """What a calibration says of some texts."""

    probabilities: Floats
    """Texts, options."""
    accepted: Bools
    mass: Floats | None
    """As in `Judged`."""


class Calibration(Frozen):
    """A scorer fitted to labels, and from which confidence on its decisions are accepted.

    It holds two fits of one scorer. The accepting one was fitted without the held-out texts, on
    which its promise was found: what it accepts has its label. All else has the label of the full
    one, which was fitted to all texts and is the better guess, and is not accepted.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    format: Literal[1] = 1
    made: datetime
    question: QuestionRecord
    models: dict[str, Identity]
    """By role: `slm` decides; others give vectors."""
    features: tuple[Feature, ...] = Field(validation_alias="members", serialization_alias="members")
    bound: Bound
    bounds: dict[str, Bound] = Field(default_factory=dict[str, Bound])
    """By label, where the promise is of each; `bound` sums them up. Empty: one for all."""
    looser: tuple[Bound, ...] = ()
    """What looser promises would have accepted, as was seen on the same labels. To take the best of
    them is to look more than once, so they are for the next calibration."""
    accepting: FitRecord
    uncertainty: Uncertainty | None = Field(
        default=None, validation_alias="doubt", serialization_alias="doubt"
    )
    """Signs that tell beside the confidence what is accepted; `None`: the confidence alone."""
    full: FitRecord
    data: DataRecord
    reached: Reached
    chosen: str
    """Why this scorer."""
    candidates: tuple[Candidate, ...]
    drift: Drift | None = None
    """The check on drift before its first input: what new inputs are compared with."""
    notes: tuple[str, ...] = ()
    """What was left out, and why; what is odd about the data."""
    seal: str = ""
    """SHA-256 of what decisions depend on, so that an edited file is not taken for this one."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file.

        Raises:
            CalibrationError: it is missing, is no calibration, or was edited.
        """
        found = load_model(
            path, cls, what="calibration", maker="moa calibrate", error=CalibrationError
        )
        if found.seal != found.sealed().seal:
            raise CalibrationError(
                f"{str(path)!r} was edited after it was made: its question, examples, fit or bound "
                "is not the one that was calibrated. Run moa calibrate again with what you want"
            )
        return found

    def save(self, path: str | Path) -> None:
        """Write it, readable and in one step.

        Raises:
            CalibrationError: the file can't be written.
        """
        save_text(path, self.model_dump_json(indent=2) + "\n", error=CalibrationError)

    def sealed(self) -> Self:
        """Copy it with the seal of what stands in it."""
        sealed = {"question", "models", "features", "bound", "accepting", "full"}
        sealed |= {name for name in ("bounds", "uncertainty") if getattr(self, name)}
        parts = self.model_dump(mode="json", include=sealed)
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self.model_copy(update={"seal": digest})

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(option.name for option in self.question.options)

    @property
    def roles(self) -> list[str]:
        """Roles of the endpoints that it reads from, in order."""
        return sorted({feature.source for feature in self.features})

    @property
    def more_rows(self) -> int | None:
        """About how many more labelled rows it takes to accept something, at the next look.

        `None`: something is accepted, or labels alone won't help.
        """
        more, asked, data = self.bound.more_labels, self.bound.guarantee, self.data
        if more is None:
            return None
        drawn = data.rows - data.chosen  # of which half is held out as soon as there are enough
        each = drawn / data.held_out if data.held_out else 2.0
        later = replace(asked, look=None if asked.look is None else asked.look + 1)
        wanted = (self.bound.labels + more) * later.needed() / asked.needed()
        return max(1, ceil(wanted * each) - drawn)

    def check_question(self, question: Question) -> None:
        """Make sure that it was made for this question.

        Raises:
            CalibrationError: question, options or the layout of the prompt are others.
        """
        asked, mine = QuestionRecord.model_validate(question), self.question
        _same(f"a {mine.kind}", f"a {asked.kind}", "kind of question")
        _same(repr(mine.text), repr(asked.text), "question")
        names, now = self.labels, [option.name for option in asked.options]
        if new := [name for name in now if name not in names]:
            raise CalibrationError(
                f"the calibration knows nothing of the label {new[0]!r}: it was made for "
                f"{', '.join(names)}. Calibrate again with rows of the new label"
            )
        if gone := [name for name in names if name not in now]:
            raise CalibrationError(
                f"the calibration was made with the label {gone[0]!r} too, which is not among "
                f"{', '.join(now)}. Calibrate again without it"
            )
        _same(", ".join(names), ", ".join(now), "order of the labels")
        for was, is_now in zip(mine.options, asked.options, strict=True):
            what = f"description of {was.name!r}"
            _same(repr(was.description), repr(is_now.description), what)
        for feature in self.features:
            if isinstance(feature, LabelFeature) and (
                feature.layout != layout_of(question, feature.read_as)
            ):
                raise CalibrationError(
                    "the prompt is laid out otherwise in this version of moa than when the "
                    "calibration was made, so its scores mean something else. Calibrate again"
                )

    def check_models(self, found: Mapping[str, Identity]) -> list[str]:
        """Make sure that the models, by role, are those it was made on.

        Returns:
            Warnings, in sentences: of other servers and versions.

        Raises:
            CalibrationError: a model is another one.
        """
        warnings: list[str] = []
        for role in self.roles:
            was, now = self.models[role], found[role]
            if was.model != now.model:
                raise CalibrationError(
                    f"the calibration was made on {was.model}, and here {now.model} answers: its "
                    "scores mean something else. Calibrate again on this model"
                )
            if was.digest and now.digest and was.digest != now.digest:
                raise CalibrationError(
                    f"the weights of {was.model} are others than those of the calibration "
                    f"(SHA-256 {now.digest[:12]}…, not {was.digest[:12]}…). Calibrate again"
                )
            if (was.server, was.version) != (now.server, now.version):
                warnings.append(
                    f"{was.model} was served by {_served(was)} when the calibration was made, and "
                    f"is by {_served(now)} now: scores move a little between servers. Confirm the "
                    "promise with moa calibrate --recheck"
                )
        return warnings

    def decide(self, readings: Sequence[Floats]) -> Decided:
        """Make decisions of what the features read of some texts, in their order."""
        found = self.judge(readings)
        accepted = np.array(self.accepted(found))
        full = self._blends[1]
        guesses = np.exp(full.logs(full.stacked(readings)))
        probabilities = np.where(accepted[:, None], found.probabilities, guesses)
        return Decided(probabilities, accepted, found.mass)

    def judge(self, readings: Sequence[Floats]) -> Judged:
        """Apply the accepting fit to what the features read of some texts, in their order."""
        return judged(self._blends[0], self.uncertainty, readings, self.features, self.labels)

    def accepted(self, found: Judged) -> list[bool]:
        """Whether each decision of the accepting fit is accepted."""
        given = [self.labels[int(place)] for place in found.probabilities.argmax(1)]
        return [
            self.bounds.get(label, self.bound).accepts(sure)
            for label, sure in zip(given, found.sure.tolist(), strict=True)
        ]

    def watched(
        self, texts: Sequence[str], languages: Sequence[str | None], held_out: Judged
    ) -> Drift | None:
        """Start a check on drift: on length, language, label mass, and what is accepted how surely.

        Of decisions it watches those of the accepting fit alone: it has not seen the texts, and the
        other fit has.

        Args:
            texts: Drawn at random, as they come in.
            languages: Of some texts; `None` where one is not known.
            held_out: What the accepting fit says of each held-out text.

        Returns:
            The check before its first input; `None` where too few texts are there to watch.
        """
        accepted = np.array(self.accepted(held_out), bool)
        sure = held_out.probabilities.max(1)[accepted]
        watched: dict[str, list[Value]] = {
            "length": [float(len(text)) for text in texts],
            "language": [name for name in languages if name is not None],
            "label mass": [] if held_out.mass is None else held_out.mass.tolist(),
            "accepted": accepted.astype(float).tolist() if accepted.any() else [],
            "accepted confidence": np.minimum(sure, 1.0).tolist(),
        }
        enough = {name: values for name, values in watched.items() if len(values) >= FEWEST}
        return Drift.of(enough) if enough else None

    @cached_property
    def _blends(self) -> tuple[Blend, Blend]:
        return self.accepting.blend(), self.full.blend()


def now() -> datetime:
    """The time of day that a file says it was made at."""
    return datetime.now(UTC).replace(microsecond=0)


def _same(was: str, is_now: str, what: str) -> None:
    if was != is_now:
        raise CalibrationError(
            f"the calibration was made for another {what}: it was {was}, and is {is_now}. "
            "Calibrate again, or ask what was asked then"
        )


def _served(identity: Identity) -> str:
    return f"{identity.server} {identity.version}" if identity.version else identity.server
