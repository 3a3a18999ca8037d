"""File: what decides a question, with or without a bound, as one readable file.

A calibration without a bound is what `adapt` makes, and what ships. Nothing here needs numpy until
it is applied.
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

from pydantic import ConfigDict, Field

from moa._files import load_model, save_text
from moa._text import as_html
from moa.calibration import Bound, Learn, rows_holding
from moa.calibration.drift import FEWEST, Drift, Value
from moa.calibration.features import Feature
from moa.endpoints.known import Identity
from moa.errors import CalibrationError
from moa.node import Frozen
from moa.questions import Kind, Option, Question

if TYPE_CHECKING:
    from moa.calibration.scorer import Judged
    from moa.decisions.arrays import Bools, Floats
    from moa.decisions.heads import Blend, Head


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
        """Write it down."""
        rows, columns = head.weights.shape
        packed = base64.b64encode(head.weights.astype("<f4").tobytes()).decode()
        return cls(shape=(rows, columns), weights=packed, bias=tuple(head.bias.tolist()))

    def head(self) -> Head:
        """Read it back; it needs nothing but numpy."""
        from moa.decisions.arrays import np
        from moa.decisions.heads import Head

        weights = np.frombuffer(base64.b64decode(self.weights), "<f4").reshape(self.shape)
        return Head(weights.astype(float), np.array(self.bias))


HeadFile = Literal["support", "sentiment"]
"""A file of heads that ship."""


class ShippedHead(Frozen):
    """A head that ships, by the name of its file and its question."""

    file: HeadFile
    question: str

    def head(self) -> Head:
        """Read it.

        Raises:
            CalibrationError: none ships for it.
        """
        from moa.decisions.heads import shipped_heads

        heads = shipped_heads(self.file)
        if self.question not in heads:
            raise CalibrationError(
                f"no head for {self.question!r} ships with moa, but for {', '.join(sorted(heads))}"
            )
        return heads[self.question]


class FitRecord(Frozen):
    """A fitted scorer: `log softmax(sum of weight * log-probabilities + bias)`."""

    heads: tuple[HeadRecord | ShippedHead | None, ...]
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

    @cached_property
    def blend(self) -> Blend:
        """Read it back."""
        from moa.decisions.arrays import np
        from moa.decisions.heads import Blend

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
    """Texts that the guarantee was found on."""
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


class Measures(Frozen):
    """How good some decisions are."""

    accuracy: float
    macro_f1: float
    """Mean over the options that are right, or given, at least once."""
    ece: float
    """Expected calibration error, in 10 bins of equal width: how far confidence and accuracy are
    apart, on average (Guo et al. 2017, arXiv 1706.04599). Few decisions make it larger than it
    is of many."""
    ece_by_chance: float | None = None
    """What it would be on average, of as many decisions of these confidences, were they perfectly
    calibrated. An `ece` that isn't above it shows no error. `None` in files made without it."""


class Candidate(Measures):
    """Some features together, and what they reach and take."""

    name: str
    log_loss: float
    coverage: float
    """Share of the decisions, the surest first, of which no more than the risk are wrong."""
    seconds: float
    """Wall time of a decision, several being made at once."""
    tokens: float
    """Tokens of a decision that no cache had."""
    cost: float | None
    """US dollars of a decision; `None` is unknown."""
    utility: float
    """Minus the log loss, less the penalty on its time. The log loss tells candidates apart that
    accuracy and coverage, of a few hundred texts, leave to luck."""


class Uncertainty(Frozen):
    """A logistic regression of whether a decision is right, on its confidence and on signs."""

    signs: tuple[str, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    weights: tuple[float, ...]
    """Of the log-odds of the confidence, and of each sign."""
    constant: float
    log_loss: float = 0.0
    """By cross-validation."""
    log_loss_without: float = 0.0
    """Of the confidence alone."""


class Reached(Measures):
    """What its best guesses reached, by cross-validation on the texts that were drawn at random."""

    held_out_accuracy: float | None
    """Of the accepting fit, on the held-out texts; `None` without any."""
    coverage: float
    """Share of the held-out texts that it accepts."""
    seconds: float
    """Wall time of a decision, while it was made."""
    tokens: float


class Proven(NamedTuple):
    """What a calibration with a bound was shown to keep."""

    bound: Bound
    data: DataRecord
    """What it was found on."""
    reached: Reached


class Calibration(Frozen):
    """A fitted scorer for a question, and the guarantee on its decisions, if there is one.

    With a bound it has two fits of one scorer. The accepting fit never saw the held-out texts, on
    which its guarantee was tested; accepted decisions have its label. All others have the label of
    the full fit, to all texts, which is the better guess.

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
    """By role: `slm` decides; others compute vectors. Empty if nothing was fitted to a model."""
    features: tuple[Feature, ...]
    bound: Bound | None = None
    bounds: dict[str, Bound] = Field(default_factory=dict[str, Bound])
    """By label, if each has its own guarantee; `bound` sums them up. Empty: one for all."""
    looser: tuple[Bound, ...] = ()
    """Shares accepted under looser guarantees, from the same labels. Choosing the best would use
    these labels once more: only plan the next calibration by them."""
    accepting: FitRecord | None = None
    """`None` without a bound."""
    expected: tuple[tuple[float, float], ...] = ()
    """Rising confidences, each with the expected share of right decisions at or above it, from
    labelled data. It is not a bound. Empty: unknown."""
    uncertainty: Uncertainty | None = None
    """Signals used for acceptance besides the confidence; `None`: the confidence alone."""
    full: FitRecord | None = None
    """`None`: the one feature's answer as it is."""
    data: DataRecord | None = None
    """`None` where there were no labels."""
    reached: Reached | None = None
    """`None` where there were no labels."""
    origin: str
    """Its origin and the reason for this scorer, for the trace."""
    doubtful: str = ""
    """Why its answers are unreliable: the model gives the same for every text."""
    candidates: tuple[Candidate, ...] = ()
    drift: Drift | None = None
    """The check on drift before its first input: what new inputs are compared with."""
    notes: tuple[str, ...] = ()
    """Rows and features left out, with reasons; warnings about the data."""
    seal: str = ""
    """SHA-256 of what decisions depend on, so that an edited file is not taken for this one."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file.

        Raises:
            CalibrationError: it is missing, is no calibration, or was edited.
        """
        found = load_model(path, cls, what="calibration", maker="moa learn", error=CalibrationError)
        found.check_seal(path)
        return found

    def check_seal(self, path: str | Path) -> None:
        """Make sure that it is as it was made, where it was read from a file.

        Raises:
            CalibrationError: it was edited.
        """
        if self.seal != self.sealed().seal:
            raise CalibrationError(
                f"{str(path)!r} was edited after it was made: its question, examples, fit or bound "
                "is not the one that was learned. Run moa learn again with what you want"
            )

    def save(self, path: str | Path) -> None:
        """Write it in one step, for its owner alone: examples that it shows are in it.

        Raises:
            CalibrationError: the file can't be written.
        """
        made = self if self.seal else self.sealed()
        text = made.model_dump_json(indent=2) + "\n"
        save_text(path, text, error=CalibrationError, private=True)

    def sealed(self) -> Self:
        """Copy it with the seal of what stands in it."""
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
        data, reached = self.data, self.reached
        rows = [
            ("calibration", self.question.text),
            ("labels", ", ".join(self.labels)),
            ("decides", self.origin),
            ("guarantee", "none" if self.bound is None else self.bound.summary),
            ("labelled rows", "none" if data is None else str(data.rows)),
            ("accuracy", "unknown" if reached is None else f"{reached.accuracy:.3f}"),
        ]
        notes = (*filter(None, (self.doubtful,)), *self.notes)
        return as_html([*rows, *(("note", note) for note in notes)])

    @property
    def roles(self) -> list[str]:
        """Roles of the endpoints that it reads from, in order."""
        return sorted({feature.source for feature in self.features})

    @property
    def proven(self) -> Proven:
        """The bound, with the data that it was found on and what was reached on them.

        Raises:
            CalibrationError: it was made without one.
        """
        if self.bound is None or self.data is None or self.reached is None:
            raise CalibrationError(
                f"nothing is guaranteed of these decisions ({self.origin}): they were fitted "
                "without rows held out. moa learn finds a bound on labelled rows"
            )
        return Proven(self.bound, self.data, self.reached)

    @property
    def more_rows(self) -> int | None:
        """About how many more labelled rows it takes to accept something, at the next look.

        `None`: something is accepted, or labels alone won't help.
        """
        bound, data, _ = self.proven
        more, asked = bound.more_labels, bound.guarantee
        if more is None:
            return None
        drawn = data.rows - data.chosen
        later = replace(asked, look=None if asked.look is None else asked.look + 1)
        wanted = (bound.labels + more) * later.needed() / asked.needed()
        return max(1, rows_holding(ceil(wanted), len(self.labels), learn=data.learn) - drawn)

    def expected_precision(self, confidence: float) -> float | None:
        """Give the share expected to be right of the decisions at least as sure as this.

        `None` where nothing is known; 0 below the least confidence that was looked at.
        """
        if not self.expected:
            return None
        reached = [share for least, share in self.expected if least <= confidence]
        return max(reached, default=0.0)

    def scored(self, readings: Sequence[Floats]) -> Floats:
        """Probabilities of the options by the full fit: texts, options."""
        from moa.decisions.arrays import log_softmax, np

        if self.full is None:
            return np.exp(log_softmax(readings[0]))
        full = self.full.blend
        return np.exp(full.logs(full.stacked(readings)))

    def decide(self, readings: Sequence[Floats]) -> tuple[Judged, Bools]:
        """Decide by what the features read of some texts, and say which decisions are accepted."""
        from moa.decisions.arrays import np

        found = self.judge(readings)
        accepted, guesses = self.accepted(found), self.scored(readings)
        if self.bound is None:
            return found, accepted
        probabilities = np.where(accepted[:, None], found.probabilities, guesses)
        return found._replace(probabilities=probabilities), accepted

    def judge(self, readings: Sequence[Floats]) -> Judged:
        """Apply the fit that accepts to what the features read of some texts, in their order."""
        from moa.calibration.scorer import judged

        return judged(self, readings)

    def accepted(self, found: Judged) -> Bools:
        """Whether each decision of the accepting fit is accepted; none is without a bound."""
        from moa.decisions.arrays import np

        bounds = [self.bounds.get(label, self.bound) for label in self.labels]
        given = zip(map(int, found.probabilities.argmax(1)), map(float, found.sure), strict=True)
        accepts = [(bounds[place], sure) for place, sure in given]
        return np.array([b is not None and b.accepts(sure) for b, sure in accepts], bool)

    def watched(
        self, texts: Sequence[str], languages: Sequence[str | None], held_out: Judged
    ) -> Drift | None:
        """Start a check on drift: on length, language, label mass, and what is accepted how surely.

        Of decisions it watches those of the accepting fit alone: it has not seen the texts, and the
        other fit has. Texts must be drawn at random, as they come in; `None` where they are few.
        """
        from moa.decisions.arrays import np

        accepted = self.accepted(held_out)
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


def now() -> datetime:
    """The time of day that a file says it was made at."""
    return datetime.now(UTC).replace(microsecond=0)
