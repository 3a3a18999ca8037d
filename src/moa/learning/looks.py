"""Learning: fit heads to a large model's answers at run time, and test each before use.

It implements `moa.learning.epochs` on the rows of an `AnswerStore`. Nothing here asks a model.
Any process that shares the rows may do the next step: the first to claim a look spends it, and any
may finish it, with the same outcome.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

from moa.core.errors import MoaError, StoreError
from moa.core.questions import Option, Question
from moa.decisions.arrays import Bools, Floats, Ints, log_loss, np
from moa.decisions.audit import Audit
from moa.decisions.drift import FEWEST, Drift, Value
from moa.decisions.features import Feature, OptionRecord, QuestionRecord, VectorFeature
from moa.decisions.file import (
    Calibration,
    FitRecord,
    current_time,
)
from moa.decisions.guarantee import Bound, Guarantee, percent
from moa.decisions.regression import fit_head, folds
from moa.learning.answer_rows import FORGOTTEN, LearningState, RowArrays, SpentLook
from moa.learning.answers import AUDIT, DRIFT, AnswerStore
from moa.learning.epochs import (
    LOOKS,
    RISK,
    HeldOutRows,
    LookResult,
    Proposal,
    count_due,
    find_distinct,
    judge_head,
    level_of,
    propose,
    start_audit,
)
from moa.learning.labelled import OTHERWISE
from moa.learning.reader import FeatureReading
from moa.learning.recording import Recorder
from moa.learning.search import FittedFeature, blend_parts, search_features
from moa.learning.teacher import COMPARED, describe_teacher

MOST = 2000
"""Maximum of labels to fit to, the latest ones."""
_FEWEST = 30
"""Minimum of labels for a fit."""
_FOLDS, _FOLDS_OF_MANY, _MANY = 10, 5, 20
"""Folds of a cross-validation; fewer with more labels than `_MANY`, since a fit with 77 labels
takes ten times as long as one with ten."""
_OFTEN = 25
"""Number of rows after which audit and drift are checked again."""
_CONFIDENCE = 0.95
TOLERANCE = 0.1
"""Maximum share of changed inputs that drift doesn't end an epoch for."""
_logger = logging.getLogger(__name__)


class HeadJudgement(NamedTuple):
    """A head's judgement of one text."""

    probabilities: tuple[float, ...]
    sure: float
    accepted: bool
    """True if the guarantee covers it, so that it may be the answer."""
    passes: bool
    """True if it is confident enough; unlike `accepted` this ignores exceptions."""


class Head:
    """A head in use, with the texts that it doesn't answer."""

    def __init__(
        self,
        calibration: Calibration,
        bound: Bound,
        state: LearningState,
        exceptions: frozenset[str],
    ) -> None:
        self.calibration, self.bound = calibration, bound
        self.state, self.exceptions = state, exceptions

    def judge(self, vector: Floats, key: str) -> HeadJudgement:
        """Judge one text by its vector."""
        p, confidences = probabilities_of(self.calibration, vector[None])
        passes = self.bound.accepts(float(confidences[0]))
        accepted = passes and key not in self.exceptions
        return HeadJudgement(tuple(p[0].tolist()), float(confidences[0]), accepted, passes)


def round_as_stored(values: Sequence[float]) -> Floats:
    """Round a vector as the store does, so that a head treats both alike."""
    return np.asarray(values, "<f2").astype(float)


def probabilities_of(calibration: Calibration, vectors: Floats) -> tuple[Floats, Floats]:
    """Return probabilities of the options, and the confidence of each decision.

    Unread texts (`nan`) and `OTHERWISE` are never accepted: the large model answers them.
    """
    is_read = ~np.isnan(vectors).any(1) & (vectors.shape[1] > 0)
    options = len(calibration.question.options)
    p = np.full((len(vectors), options), 1.0 / options)
    confidences = np.full(len(vectors), -np.inf)
    if is_read.any():
        p[is_read] = calibration.predict(_split(calibration.features, options, vectors[is_read]))
        confidences[is_read] = np.where(
            _may_be_accepted(p[is_read], calibration.question.options), p[is_read].max(1), -np.inf
        )
    return p, confidences


def _may_be_accepted(p: Floats, options: Sequence[Option | OptionRecord]) -> Bools:
    """Return which decisions may be accepted, whatever their confidence."""
    return np.array([option.name != OTHERWISE for option in options], bool)[p.argmax(1)]


def _split(features: Sequence[Feature], options: int, vectors: Floats) -> list[Floats]:
    """Split stored vectors into the values of each feature: probabilities, then a vector."""
    starts = [options * index for index in range(len(features) + 1)]
    if features and isinstance(features[-1], VectorFeature):
        starts[-1] = vectors.shape[1]
    return [vectors[:, a:b] for a, b in pairwise(starts)]


@dataclass(frozen=True, slots=True, eq=False)
class FittedSteps:
    """A head, with cross-validated decisions on the rows that it was fitted to."""

    calibration: Calibration
    sure: Floats
    right: Bools


class Learning:
    """Learns from the rows of a store.

    Args:
        store: The open store.
        question: The question to learn.
        features: The features of each text, in the order in which they are stored: probabilities of
            the options, and last a vector, if any.
        names: The vectors of the options' names, and the index of each option.
    """

    def __init__(
        self,
        store: AnswerStore,
        question: Question,
        features: Sequence[Feature],
        names: tuple[Floats, Ints] | None = None,
    ) -> None:
        self.store, self.question, self.features, self.names = store, question, features, names
        self.recorder = Recorder(store)
        self.options = [option.name for option in question.options]
        self._current: tuple[LearningState, Head | None] | None = None
        self._next = 0
        """First row that may make work due."""
        self._considered = (0, 0, 0)
        """Epoch, look and count considered last."""
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._must_repeat = False
        self._working = threading.Lock()
        self.stopped = ""
        """Why this process stopped learning, and what to do; empty while it learns."""
        self._is_blind = False
        """True if the head in use can't be checked here, so that it isn't used."""
        self._hears = True
        """True until the log was told of the large model's labels, or all are compared."""

    def current(self) -> tuple[LearningState, Head | None]:
        """Return the state, and the head in use, which another process may have made."""
        state, current = self.store.read_state(), self._current
        if current is None or state != current[0]:
            # In one step: threads share it.
            current = self._current = (state, self._read_head(state))
        return (state, None) if self._is_blind else current

    def _read_head(self, state: LearningState) -> Head | None:
        found = self.store.read_head(state)
        return found and Head(found.calibration, found.bound, state, found.exceptions)

    def on_arrival(self) -> tuple[LearningState, Head | None] | None:
        """Return `current` for an input that arrives; `None` if it isn't recorded."""
        return self.recorder.read_on_arrival(self.current, self.current)

    def wake(self, index: int) -> None:
        """Start a thread if this row makes work due."""
        with self._lock:
            if index < self._next or self._is_blind:
                return
            if self._thread is not None:
                self._must_repeat = True
                return
            self._thread = threading.Thread(target=self._work, daemon=True, name="moa-learn")
            self._thread.start()

    def join(self) -> None:
        """Wait for the thread."""
        while (thread := self._thread) is not None:
            thread.join()

    def wait(self) -> None:
        """Do all due work now, and wait for it."""
        self.join()
        with self._working:
            self.step()

    def _work(self) -> None:
        try:
            while True:
                with self._working:
                    self.step()
                with self._lock:
                    if not self._must_repeat:
                        self._thread = None
                        return
                    self._must_repeat = False
        except StoreError as error:
            # A head may be in use whose withdrawal can't be written, or whose checks are damaged.
            self._current = None
            self.recorder.fail(error, self.current)
        except MoaError as error:
            _logger.warning("learning has stopped until the next input: %s", error)
        finally:
            if self._thread is threading.current_thread():
                self._thread = None

    def step(self) -> None:
        """Do all due work: finish a look, check audit and drift, consider the next look.

        After an unexpected error, this process learns nothing more, but still checks the head in
        use. After a second one, it stops using the head, which it can no longer check.
        """
        try:
            self._step()
        except MoaError:
            raise
        except Exception as error:  # noqa: BLE001  whatever the libraries that fit raise
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self._is_blind = bool(self.stopped)
        if self.stopped:
            return
        name = type(error).__name__
        self.stopped = (
            f"nothing more is learned in this process, since it has failed ({name}: {error}). All "
            "that was kept stays: start it again to go on, and if it fails again, report it, or "
            f"begin other answers than those in {self.store.location}"
        )
        _logger.error("%s", self.stopped)
        _logger.debug("it has failed here", exc_info=error)

    def _step(self) -> None:
        state = self.store.read_state()
        spent = None if self.stopped else self.store.find_unfinished_look(state)
        if spent is not None:
            self._finish(state, spent)
            state = self.store.read_state()
        if state.used is not None and (reason := self._withdrawal_reason(state)):
            self.store.withdraw(state, reason)
            state = self.store.read_state()
        self._next = self.store.last_place() + _OFTEN
        if self._hears:
            self._tell_of_teacher(state)
        if state.looks < len(LOOKS) and not self.stopped:
            self._consider(state)

    def _tell_of_teacher(self, state: LearningState) -> None:
        """Tell the log, once, if the large model's labels seem not to depend on the texts."""
        pairs = self.store.read_label_pairs(state, self.options, COMPARED)
        note = describe_teacher(pairs, len(self.options))
        if note:
            _logger.warning("%s: %s", self.store.location, note)
        self._hears = not note and len(pairs) < COMPARED

    def _consider(self, state: LearningState) -> None:
        """Make the next look if it is due, and worth it by the fit side."""
        count, cut = self._find_due(state)
        if cut is None or self._considered == (state.epoch, state.looks, count):
            return
        if self.store.last_answered_place() < cut:
            self._next = 0
            return
        self._considered = (state.epoch, state.looks, count)
        rows = self.store.read_fit_rows(state, cut, MOST)
        fit = self.fit(rows, state.epoch)
        if fit is None:
            return
        tests = self.store.read_test_rows(state, cut)
        proposal = self._propose(state, fit, rows, tests)
        if proposal is None:
            return
        spent = SpentLook(
            state.epoch, state.looks, cut, fit.calibration.model_dump_json(), proposal.thresholds
        )
        if self.store.claim(spent):
            self._finish(state, spent)

    def _find_due(self, state: LearningState) -> tuple[int, int | None]:
        """Return the count at which the next look is due, and its last row, if stored already.

        Counts are of inputs, and grow by a quarter for a postponed look. So held-out labels don't
        influence when a look is made.
        """
        planned = LOOKS[state.looks]
        if planned.held_out:
            held_out = self.store.count_held_out(state)
            count = count_due(planned.held_out, held_out)
            if count is None:
                missing = planned.held_out - held_out  # at least as many rows must come before
                self._next = min(self._next, self.store.last_place() + missing)
                return 0, None
            return count, self.store.find_held_out_place(state, count)
        count = count_due(planned.inputs, self.store.last_place() - state.first + 1)
        return (0, None) if count is None else (count, state.first + count - 1)

    def _propose(
        self, state: LearningState, fit: FittedSteps, rows: RowArrays, tests: RowArrays
    ) -> Proposal | None:
        """Choose the thresholds of a look; `None` if it isn't worth it by the fit side."""
        texts, level = len(set(tests.keys)), level_of(state.looks)
        distinct_share = float(self._find_distinct(rows.vectors, rows.vectors[:0]).mean())
        proposal = propose(fit.sure, fit.right, texts, level, distinct_share)
        _, head = self.current()
        accepted = 0.0
        if head is not None and len(tests):
            accepted = float(_find_accepted(head.calibration, tests).mean())
        return proposal if proposal.is_worth_it(accepted) else None

    def _finish(self, state: LearningState, spent: SpentLook) -> None:
        """Compute and store the outcome of a look, from the head and rows stored by then."""
        calibration = Calibration.model_validate_json(spent.head)
        tests = self.store.read_test_rows(state, spent.cut)
        fit_rows = self.store.read_fit_rows(state, spent.cut, MOST)
        p, confidences = _judge_held_out(calibration, tests)
        rows = HeldOutRows(
            keys=tests.keys,
            sure=confidences,
            same=self._equals_large(p, tests),
            labelled=np.array([label is not None for label in tests.labels], bool),
            apart=self._find_distinct(tests.vectors, fit_rows.vectors),
        )
        verdict = judge_head(spent.thresholds, rows, level_of(spent.look))
        _, head = self.current()
        accepted_before = 0 if head is None else int(_find_accepted(head.calibration, tests).sum())
        takes = confidences >= (np.inf if verdict.threshold is None else verdict.threshold)
        is_used = verdict.threshold is not None and int(takes.sum()) >= accepted_before
        calibration = calibration.model_copy(update={"bound": _make_bound(verdict)})
        drift = _start_drift_check(tests, p, takes) if is_used else None
        self.store.finish(
            spent,
            asdict(verdict),
            head=calibration.model_dump_json() if is_used else spent.head,
            used=is_used,
            audit=start_audit().model_dump_json() if is_used else None,
            drift=drift and drift.model_dump_json(),
            exceptions=self._exceptions(state, calibration) if is_used else (),
        )

    def _find_distinct(self, vectors: Floats, known_vectors: Floats) -> Bools:
        """Return which texts aren't near-copies, by their vectors if they have any."""
        if not isinstance(self.features[-1], VectorFeature):
            return np.ones(len(vectors), bool)
        start = len(self.options) * (len(self.features) - 1)
        return find_distinct(np.nan_to_num(vectors[:, start:]), known_vectors[:, start:])

    def _exceptions(self, state: LearningState, calibration: Calibration) -> list[str]:
        """Return the keys of texts where the large model gave another answer, or none."""
        keys = set[str]()
        for rows in self.store.read_answered_rows(state):
            agreements = self._equals_large(probabilities_of(calibration, rows.vectors)[0], rows)
            keys |= {key for key, is_same in zip(rows.keys, agreements, strict=True) if not is_same}
        return sorted(keys)

    def _equals_large(self, p: Floats, rows: RowArrays) -> Bools:
        guesses = [self.options[index] for index in map(int, p.argmax(1))]
        known_flags = [not key.startswith(FORGOTTEN) for key in rows.keys]
        triples = zip(guesses, rows.labels, known_flags, strict=True)
        return np.array([a == b and is_known for a, b, is_known in triples], bool)

    def _withdrawal_reason(self, state: LearningState) -> str:
        """Continue audit and drift check; return why to withdraw the guarantee, or ""."""
        _, head = self.current()
        if head is None or head.state != state:
            return ""
        audit_json, audited, drift_json, drifted = self.store.read_checks(state)
        audit = self.store.parse(Audit, audit_json, AUDIT)
        rows, end = self.store.read_audit_rows(state, audited)
        p, confidences = _judge_held_out(head.calibration, rows)
        for agrees, confidence in zip(
            self._equals_large(p, rows).tolist(), confidences.tolist(), strict=True
        ):
            if head.bound.accepts(confidence):
                audit = audit.record(correct=agrees)
        if end > audited:
            self.store.replace_check(state, "audit", audit.model_dump_json(), audited, end)
        if audit.withdrawn:
            return f"audit: {audit.wrong} of {audit.checked} checks differ"
        return self._drift_reason(state, drift_json, drifted)

    def _drift_reason(self, state: LearningState, drift_json: str | None, drifted: int) -> str:
        if drift_json is None:
            return ""
        drift = self.store.parse(Drift, drift_json, DRIFT)
        rows, end = self.store.read_watched_rows(state, drifted)
        for row in rows:
            accepts = bool(row.accepts)
            drift = drift.update(
                {
                    "length": float(row.length),
                    "language": row.language,
                    "accepted": float(accepts),
                    "accepted confidence": round_confidence(row.sure) if accepts else None,
                }
            )
        if rows:
            self.store.replace_check(state, "drift", drift.model_dump_json(), drifted, end)
        return "; ".join(f"drift: {alarm.message}" for alarm in drift.alarms)

    def fit(self, rows: RowArrays, epoch: int) -> FittedSteps | None:
        """Fit a head to labelled rows; `None` if they are too few, or have only one label.

        Rows of earlier epochs of the same large node are included if that improves the fit on those
        of this one.
        """
        indices = [
            self.options.index(label) if label in self.options else -1 for label in rows.labels
        ]
        own_rows = (
            (rows.epochs == epoch) & (np.array(indices) >= 0) if indices else np.zeros(0, bool)
        )
        labels = np.array(indices, np.intp)
        if int(own_rows.sum()) < _FEWEST or len(set(labels[own_rows].tolist())) < 2:
            return None
        fold_count = _FOLDS if len(self.options) <= _MANY else _FOLDS_OF_MANY
        fold_indices = folds(
            [k for k, o in zip(rows.keys, own_rows, strict=True) if o], labels[own_rows], fold_count
        )
        older_rows = (~own_rows) & (labels >= 0)
        parts = self._parts(rows.vectors, labels, own_rows, older_rows, fold_indices)
        feature_sets = search_features(
            parts, labels[own_rows], fold_indices, risk=RISK, latency_penalty=0.0
        )
        best = min(feature_sets, key=lambda feature_set: feature_set.candidate.log_loss)
        full = FitRecord.of(blend_parts(best.parts, labels[own_rows]))
        uses = [feature in best.features for feature in self.features]
        features = self.features[: len(uses) - uses[::-1].index(True)]  # a prefix, for `_split`
        calibration = Calibration(
            made=current_time(),
            question=QuestionRecord.model_validate(self.question),
            models={},
            features=tuple(features),
            full=_widen(full, features, best.features),
            origin=f"learned from {int(own_rows.sum())} answers of the large model",
        )
        p = best.probabilities
        acceptable = _may_be_accepted(p, self.question.options)
        return FittedSteps(
            calibration, p.max(1) * acceptable, (p.argmax(1) == labels[own_rows]) & acceptable
        )

    def _parts(
        self, vectors: Floats, labels: Ints, own_rows: Bools, older_rows: Bools, fold_indices: Ints
    ) -> list[FittedFeature]:
        parts: list[FittedFeature] = []
        feature_values = _split(self.features, len(self.options), vectors)
        for feature, values in zip(self.features, feature_values, strict=True):
            reading = FeatureReading(
                feature=feature, values=values[own_rows], seconds=0.0, tokens=0.0, cost=None
            )
            if not isinstance(feature, VectorFeature):
                parts.append(FittedFeature(reading, values[own_rows]))
                continue
            names = self.names or (values[:0], labels[:0])
            extras = [names]
            if older_rows.any():
                pairs = (names[0], values[older_rows]), (names[1], labels[older_rows])
                extras.append((np.concatenate(pairs[0]), np.concatenate(pairs[1])))
            fits = [
                fit_head(
                    values[own_rows],
                    labels[own_rows],
                    len(self.options),
                    fold_indices,
                    labelled=extra,
                )
                for extra in extras
            ]
            best = min(fits, key=lambda fit: log_loss(fit.held_out, labels[own_rows]))
            parts.append(FittedFeature(reading, best.held_out, best.head, best.penalty))
        return parts


def _judge_held_out(calibration: Calibration, rows: RowArrays) -> tuple[Floats, Floats]:
    """Judge held-out rows. A forgotten row counts as accepted and different.

    Otherwise forgetting rows could influence the result.
    """
    p, confidences = probabilities_of(calibration, rows.vectors)
    forgotten = np.array([key.startswith(FORGOTTEN) for key in rows.keys], bool)
    return p, np.where(forgotten, np.inf, confidences)


def _find_accepted(calibration: Calibration, rows: RowArrays) -> Bools:
    bound = calibration.bound
    assert bound is not None, "it was tested"
    confidences = probabilities_of(calibration, rows.vectors)[1]
    return np.array([bound.accepts(confidence) for confidence in confidences.tolist()], bool)


def _widen(
    full: FitRecord, features: Sequence[Feature], used_features: Sequence[Feature]
) -> FitRecord:
    """Extend a fit to all features that are read; unused ones get a weight of 0."""
    index_by_name = {feature.name: index for index, feature in enumerate(used_features)}
    indices = [index_by_name.get(feature.name) for feature in features]
    return FitRecord(
        heads=tuple(None if index is None else full.heads[index] for index in indices),
        weights=tuple(0.0 if index is None else full.weights[index] for index in indices),
        bias=full.bias,
    )


def _make_bound(verdict: LookResult) -> Bound:
    guarantee = Guarantee(RISK, _CONFIDENCE)
    summary = "nothing was shown to be accepted"
    if verdict.threshold is not None:
        summary = (
            f"accepts {percent(verdict.accepted / verdict.held_out)} ({verdict.accepted} of "
            f"{verdict.held_out} held-out texts, {verdict.differ} of them answered otherwise by "
            f"the large model): at most {percent(RISK)} differ, with {percent(_CONFIDENCE)} "
            "confidence over the epoch"
        )
    return Bound(
        guarantee=guarantee,
        threshold=verdict.threshold,
        labels=verdict.held_out,
        accepted=verdict.accepted,
        errors=verdict.differ,
        upper=verdict.upper,
        summary=summary,
    )


def round_confidence(confidence: float) -> float:
    """Round a confidence to hundredths for the drift check, since less says nothing about risk."""
    return round(confidence, 2)


def _start_drift_check(rows: RowArrays, p: Floats, takes: Bools) -> Drift | None:
    """Start a drift check on the held-out rows, which the head wasn't fitted to.

    An alarm costs the guarantee, so it takes a substantial change: of more inputs than `TOLERANCE`,
    or of a confidence by a hundredth.
    """
    is_read = ~np.isnan(rows.vectors).any(1) if len(rows) else np.zeros(0, bool)
    quantities: dict[str, list[Value]] = {
        "length": [float(length) for length in rows.lengths],
        "language": [name for name in rows.languages if name is not None],
        "accepted": takes[is_read].astype(float).tolist(),
        "accepted confidence": [
            round_confidence(confidence) for confidence in p[takes & is_read].max(1).tolist()
        ],
    }
    reference = {name: values for name, values in quantities.items() if len(values) >= FEWEST}
    return Drift.of(reference, tolerance=TOLERANCE) if reference else None
