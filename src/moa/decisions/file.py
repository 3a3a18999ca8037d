"""File: the calibration of a question, with or without a bound, as one readable file.

Calibrations without a bound are made by `adapt` or shipped. Nothing here needs numpy before a
calibration is applied.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pydantic import Field

from moa.core._files import load_model, save_text
from moa.core._text import as_html
from moa.core.errors import CalibrationError
from moa.core.node import Frozen
from moa.decisions.drift import FEWEST, Drift, Value
from moa.decisions.encoders import SHIPPED
from moa.decisions.features import Feature, QuestionRecord
from moa.decisions.guarantee import Bound, Learn, min_rows_to_hold_out
from moa.endpoints.known import Identity

if TYPE_CHECKING:
    from moa.decisions.arrays import Bools, Floats
    from moa.decisions.heads import Blend, Head
    from moa.decisions.scorer import Judgements


class HeadRecord(Frozen):
    """A linear head."""

    shape: tuple[int, int]
    """Parts of the vector, options."""
    weights: str
    """Base64 of little-endian float32, row by row."""
    bias: tuple[float, ...]

    @classmethod
    def of(cls, head: Head) -> Self:
        """Store a head."""
        rows, columns = head.weights.shape
        packed = base64.b64encode(head.weights.astype("<f4").tobytes()).decode()
        return cls(shape=(rows, columns), weights=packed, bias=tuple(head.bias.tolist()))

    def head(self) -> Head:
        """Load the head; this needs only numpy."""
        from moa.decisions.arrays import np
        from moa.decisions.heads import Head

        weights = np.frombuffer(base64.b64decode(self.weights), "<f4").reshape(self.shape)
        return Head(weights.astype(float), np.array(self.bias))


HeadFile = Literal["support", "sentiment"]
"""A file of shipped heads."""


class ShippedHead(Frozen):
    """A shipped head, by the name of its file and its question."""

    file: HeadFile
    question: str

    def head(self) -> Head:
        """Load the head.

        Raises:
            CalibrationError: none ships for it.
        """
        heads = SHIPPED.open().shipped_heads(self.file)
        if self.question not in heads:
            raise CalibrationError(
                f"no head for {self.question!r} ships with moa, but for {', '.join(sorted(heads))}"
            )
        return heads[self.question]


class FitRecord(Frozen):
    """A fitted scorer: `log softmax(sum of weight * log-probabilities + bias)`."""

    heads: tuple[HeadRecord | ShippedHead | None, ...]
    """One per feature; `null` for a feature that gives probabilities."""
    weights: tuple[float, ...]
    """One for each feature."""
    bias: tuple[float, ...]
    """One for each option."""

    @classmethod
    def of(cls, blend: Blend) -> Self:
        """Store a scorer."""
        return cls(
            heads=tuple(None if head is None else HeadRecord.of(head) for head in blend.heads),
            weights=tuple(blend.weights.tolist()),
            bias=tuple(blend.bias.tolist()),
        )

    @cached_property
    def blend(self) -> Blend:
        """The scorer, loaded."""
        from moa.decisions.arrays import np
        from moa.decisions.heads import Blend

        return Blend(
            tuple(None if head is None else head.head() for head in self.heads),
            np.array(self.weights),
            np.array(self.bias),
        )


class DataRecord(Frozen):
    """The labelled data of a calibration."""

    rows: int
    """Labelled texts, each once."""
    duplicates: int
    """Rows left out as duplicates of an earlier text."""
    fitted: int
    """Texts that the accepting fit was fitted to."""
    held_out: int
    """Texts that the guarantee was tested on."""
    labels: dict[str, int]
    """Texts by label."""
    chosen: int = 0
    """Texts chosen for labelling instead of drawn at random; none of them is held out."""
    labelled_by: dict[str, int] = Field(default_factory=dict[str, int])
    """Texts by labeller, as far as the rows name one."""
    learn: Learn = "split"
    """Use of the rows; see `calibrate`."""
    sha256: str
    """Hash of texts and labels, independent of order."""
    languages: dict[str, float] = Field(default_factory=dict[str, float])
    """Shares of the texts by language, if it was detected."""


class Measures(Frozen):
    """Quality of some decisions."""

    accuracy: float
    macro_f1: float
    """Mean F1 score of the options that are right, or given, at least once."""
    ece: float
    """Expected calibration error, in 10 bins of equal width: the mean distance of confidence and
    accuracy (Guo et al. 2017, arXiv 1706.04599). It is larger with few decisions than with many."""
    ece_by_chance: float | None = None
    """Mean `ece` of as many perfectly calibrated decisions with these confidences. An `ece` not
    above it shows no error. `None` in older files."""


class Candidate(Measures):
    """A combination of features, with its quality and cost."""

    name: str
    log_loss: float
    coverage: float
    """Largest share of the surest decisions with at most the risk wrong."""
    seconds: float
    """Wall time per decision, with several in parallel."""
    tokens: float
    """Uncached tokens per decision."""
    cost: float | None
    """US dollars per decision; `None`: unknown."""
    utility: float
    """Minus the log loss and the penalty on time. Accuracy and coverage of a few hundred texts are
    too noisy to compare candidates by."""


class Uncertainty(Frozen):
    """A logistic regression of correctness on the confidence and on signs."""

    signs: tuple[str, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    weights: tuple[float, ...]
    """Weights of the confidence's log-odds, and of each sign."""
    constant: float
    log_loss: float = 0.0
    """Log loss in cross-validation."""
    log_loss_without: float = 0.0
    """Log loss of the confidence alone."""


class ReachedMeasures(Measures):
    """Quality of the best guesses, by cross-validation on the randomly drawn texts, if any.

    Without any it is the quality on chosen texts, which says nothing about others.
    """

    held_out_accuracy: float | None
    """Accuracy of the accepting fit on the held-out texts; `None` without any."""
    coverage: float
    """Share of the held-out texts that it accepts."""
    seconds: float
    """Wall time per decision during the calibration."""
    tokens: float


class Proof(NamedTuple):
    """The evidence for a calibration's bound."""

    bound: Bound
    data: DataRecord
    """The data on which it was found."""
    reached: ReachedMeasures


class Calibration(Frozen):
    """A fitted scorer for a question, and the guarantee on its decisions, if any.

    With a bound it has two fits of one scorer. The accepting fit never saw the held-out texts that
    its guarantee was tested on; accepted decisions have its label. The full fit used all texts, so
    its label is the better guess for all other decisions.

    Without a bound it neither accepts nor rejects.

    Examples:
        >>> from moa import Calibration
        >>> small = SimulatedEndpoint()
        >>> spam = Calibration.load("spam.json")  # doctest: +SKIP
        >>> Classifier(small, ["ham", "spam"], calibration=spam)  # doctest: +SKIP
    """

    format: Literal[1] = 1
    made: datetime
    question: QuestionRecord
    models: dict[str, Identity]
    """Models by role: `slm` decides, others compute vectors. Empty if nothing was fitted to one."""
    features: tuple[Feature, ...]
    bound: Bound | None = None
    bounds: dict[str, Bound] = Field(default_factory=dict[str, Bound])
    """Bounds by label, if each has its own guarantee; `bound` sums them up. Empty: one for all."""
    looser: tuple[Bound, ...] = ()
    """Bounds of looser guarantees, from the same labels. Use them only to plan the next
    calibration: choosing the best would use these labels once more."""
    accepting: FitRecord | None = None
    """The accepting fit; `None` without a bound."""
    expected: tuple[tuple[float, float], ...] = ()
    """Rising confidences, each with the expected share of right decisions at or above it, from
    labelled data. It is not a bound. Empty: unknown."""
    uncertainty: Uncertainty | None = None
    """Signals used for acceptance in addition to the confidence; `None`: the confidence alone."""
    full: FitRecord | None = None
    """The fit to all texts; `None`: the only feature's answer is used unchanged."""
    data: DataRecord | None = None
    """`None` if there were no labels."""
    reached: ReachedMeasures | None = None
    """`None` if there were no labels."""
    origin: str
    """Its origin and the reason for this scorer, for the trace."""
    doubtful: str = ""
    """Why its answers are unreliable, such as the same one for every text; empty if they aren't."""
    candidates: tuple[Candidate, ...] = ()
    drift: Drift | None = None
    """The drift check before its first input: the reference for new inputs."""
    notes: tuple[str, ...] = ()
    """Rows and features left out, with reasons; warnings about the data."""
    seal: str = ""
    """SHA-256 of everything that decisions depend on, to detect an edited file."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a calibration from a file.

        Raises:
            CalibrationError: the file is missing, is no calibration, or was edited.
        """
        calibration = load_model(
            path, cls, what="calibration", maker="moa learn", error=CalibrationError
        )
        calibration.check_seal(path)
        return calibration

    def check_seal(self, path: str | Path) -> None:
        """Check that no sealed part of the file was edited: its question, models, fit or bound.

        Raises:
            CalibrationError: it was edited.
        """
        if self.seal != self.with_seal().seal:
            raise CalibrationError(
                f"{str(path)!r} was edited after it was made: its question, examples, fit or bound "
                "is not the one that was learned. Run moa learn again with what you want"
            )

    def save(self, path: str | Path) -> None:
        """Write the file atomically, readable only by its owner, since it contains examples.

        Raises:
            CalibrationError: the file can't be written.
        """
        calibration = self if self.seal else self.with_seal()
        text = calibration.model_dump_json(indent=2) + "\n"
        save_text(path, text, error=CalibrationError, private=True)

    def with_seal(self) -> Self:
        """Return a copy with the seal of its contents."""
        sealed = {"question", "models", "features", "bound", "accepting", "full"}
        sealed |= {name for name in ("bounds", "uncertainty", "doubtful") if getattr(self, name)}
        parts = self.model_dump(mode="json", include=sealed)
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self.model_copy(update={"seal": digest})

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(option.name for option in self.question.options)

    def _repr_html_(self) -> str:
        data, accuracy = self.data, self.expected_accuracy
        rows = [
            ("calibration", self.question.text),
            ("labels", ", ".join(self.labels)),
            ("decides", self.origin),
            ("guarantee", "none" if self.bound is None else self.bound.summary),
            ("labelled rows", "none" if data is None else str(data.rows)),
            ("accuracy", "unknown" if accuracy is None else f"{accuracy:.3f}"),
        ]
        notes = (*filter(None, (self.doubtful,)), *self.notes)
        return as_html([*rows, *(("note", note) for note in notes)])

    @property
    def roles(self) -> list[str]:
        """Sorted roles of the endpoints that it reads from."""
        return sorted({feature.source for feature in self.features})

    @property
    def proof(self) -> Proof:
        """The bound, with its data and the quality reached.

        Raises:
            CalibrationError: it was made without one.
        """
        if self.bound is None or self.data is None or self.reached is None:
            raise CalibrationError(
                f"nothing is guaranteed of these decisions ({self.origin}): they were fitted "
                "without rows held out. moa learn finds a bound on labelled rows"
            )
        return Proof(self.bound, self.data, self.reached)

    @property
    def more_rows(self) -> int | None:
        """Estimated number of further labelled rows needed to accept something at the next look.

        `None`: something is accepted, or more labels alone won't help.
        """
        bound, data, _ = self.proof
        more_labels, guarantee = bound.more_labels, bound.guarantee
        if more_labels is None:
            return None
        rows = data.rows - data.chosen
        next_guarantee = replace(
            guarantee, look=None if guarantee.look is None else guarantee.look + 1
        )
        labels = (
            (bound.labels + more_labels) * next_guarantee.count_needed() / guarantee.count_needed()
        )
        return max(1, min_rows_to_hold_out(ceil(labels), len(self.labels), learn=data.learn) - rows)

    @property
    def expected_accuracy(self) -> float | None:
        """Expected share of right decisions on further texts. It isn't guaranteed.

        `None`: nothing can be expected, as there were no labels of texts drawn at random.
        """
        all_chosen = self.data is not None and self.data.chosen == self.data.rows
        return None if self.reached is None or all_chosen else self.reached.accuracy

    def expected_precision(self, confidence: float) -> float | None:
        """Return the expected precision of decisions with at least this confidence.

        `None` if unknown; 0 below the lowest confidence of the curve.
        """
        if not self.expected:
            return None
        shares = [share for threshold, share in self.expected if threshold <= confidence]
        return max(shares, default=0.0)

    def predict(self, readings: Sequence[Floats]) -> Floats:
        """Return the full fit's probabilities: texts, options."""
        from moa.decisions.arrays import log_softmax, np

        if self.full is None:
            return np.exp(log_softmax(readings[0]))
        full = self.full.blend
        return np.exp(full.logs(full.stack(readings)))

    def decide(self, readings: Sequence[Floats]) -> tuple[Judgements, Bools]:
        """Decide on texts by their readings; return the judgements, and which are accepted."""
        from moa.decisions.arrays import np

        judgements = self.judge(readings)
        accepted, guesses = self.find_accepted(judgements), self.predict(readings)
        if self.bound is None:
            return judgements, accepted
        probabilities = np.where(accepted[:, None], judgements.probabilities, guesses)
        return judgements._replace(probabilities=probabilities), accepted

    def judge(self, readings: Sequence[Floats]) -> Judgements:
        """Apply the accepting fit to the readings of some texts, in the order of the features."""
        from moa.decisions.scorer import judge_readings

        return judge_readings(self, readings)

    def find_accepted(self, judgements: Judgements) -> Bools:
        """Return which decisions of the accepting fit are accepted; none without a bound."""
        from moa.decisions.arrays import np

        bounds = [self.bounds.get(label, self.bound) for label in self.labels]
        decisions = zip(
            map(int, judgements.probabilities.argmax(1)), map(float, judgements.sure), strict=True
        )
        pairs = [(bounds[index], confidence) for index, confidence in decisions]
        return np.array([b is not None and b.accepts(confidence) for b, confidence in pairs], bool)

    def start_drift_check(
        self, texts: Sequence[str], languages: Sequence[str | None], held_out: Judgements
    ) -> Drift | None:
        """Start a drift check on length, language, label mass, and accepted decisions.

        Only decisions of the accepting fit are watched, since the other fit has seen the texts.
        Texts must be drawn at random, as they come in; `None` if there are too few.
        """
        from moa.decisions.arrays import np

        accepted = self.find_accepted(held_out)
        confidences = held_out.probabilities.max(1)[accepted]
        quantities: dict[str, list[Value]] = {
            "length": [float(len(text)) for text in texts],
            "language": [name for name in languages if name is not None],
            "label mass": [] if held_out.mass is None else held_out.mass.tolist(),
            "accepted": accepted.astype(float).tolist() if accepted.any() else [],
            "accepted confidence": np.minimum(confidences, 1.0).tolist(),
        }
        reference = {name: values for name, values in quantities.items() if len(values) >= FEWEST}
        return Drift.of(reference) if reference else None


def current_time() -> datetime:
    """Return the time for a file's `made`, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)
