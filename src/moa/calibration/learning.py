"""Learning: fits heads to the answers of a large model while it runs, and tests each before use.

It is what `moa.calibration.epochs` says, on the rows of an `AnswerStore`. Nothing here asks a
model. Any process that shares the rows may do the next step: a look is spent by whoever claims it
first, and finished by whoever finds it unfinished, with the same outcome.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

from moa.calibration import Bound, Guarantee, percent
from moa.calibration.answer_rows import FORGOTTEN, Rows, Spent, State
from moa.calibration.answers import AnswerStore
from moa.calibration.audit import Audit
from moa.calibration.drift import FEWEST, Drift, Value
from moa.calibration.epochs import (
    LOOKS,
    RISK,
    HeldOut,
    Proposal,
    Verdict,
    count_due,
    level_of,
    look,
    propose,
    started_audit,
    unlike,
)
from moa.calibration.features import Feature, VectorFeature
from moa.calibration.file import Calibration, FitRecord, OptionRecord, QuestionRecord, now
from moa.calibration.labelled import OTHERWISE
from moa.calibration.reader import Reading
from moa.calibration.scorer import Part, blend, tried
from moa.decisions.arrays import Bools, Floats, Ints, log_loss, np
from moa.decisions.regression import fit_head, folds
from moa.errors import MoaError
from moa.questions import Option, Question

MOST = 2000
"""Latest labels that are fitted to."""
_FEWEST = 30
"""Labels that a fit takes."""
_FOLDS, _FOLDS_OF_MANY, _MANY = 10, 5, 20
"""Parts of a cross-validation; fewer of them where there are more labels than the last, since a fit
with 77 labels takes ten times as long as one with ten."""
_OFTEN = 25
"""Rows after which audit and drift are looked at again."""
_CONFIDENCE = 0.95
TOLERANCE = 0.1
"""Share of inputs that may be of another kind before a check on drift ends an epoch."""
_logger = logging.getLogger(__name__)


class Judged(NamedTuple):
    """What a head says of one text."""

    probabilities: tuple[float, ...]
    sure: float
    accepted: bool
    """Whether its guarantee covers it, and it may be answered so."""
    passes: bool
    """Whether it is as sure as is asked for; `accepted` is less, where the text is an exception."""


class Head:
    """A head in use, and what it doesn't answer."""

    def __init__(self, made: Calibration, state: State, exceptions: frozenset[str]) -> None:
        assert made.bound is not None, "a head in use has passed a look"
        self.made, self.bound, self.state, self.exceptions = made, made.bound, state, exceptions

    def judge(self, vector: Floats, key: str) -> Judged:
        """Judge one text by what was read of it."""
        p, sure = probabilities_of(self.made, vector[None])
        passes = self.bound.accepts(float(sure[0]))
        accepted = passes and key not in self.exceptions
        return Judged(tuple(p[0].tolist()), float(sure[0]), accepted, passes)


def rounded(values: Sequence[float]) -> Floats:
    """Give what is read of a text as it is kept, so that a head says the same of both."""
    return np.asarray(values, "<f2").astype(float)


def probabilities_of(made: Calibration, vectors: Floats) -> tuple[Floats, Floats]:
    """Give probabilities of the options and how sure each decision is, by what was read of texts.

    What wasn't read (`nan`) is never accepted, nor is `OTHERWISE`: the large model answers it.
    """
    known = ~np.isnan(vectors).any(1) & (vectors.shape[1] > 0)
    options = len(made.question.options)
    p = np.full((len(vectors), options), 1.0 / options)
    sure = np.full(len(vectors), -np.inf)
    if known.any():
        p[known] = made.scored(_split(made.features, options, vectors[known]))
        sure[known] = np.where(_stands(p[known], made.question.options), p[known].max(1), -np.inf)
    return p, sure


def _stands(p: Floats, options: Sequence[Option | OptionRecord]) -> Bools:
    """Tell which decisions may be accepted, whatever their confidence."""
    return np.array([option.name != OTHERWISE for option in options], bool)[p.argmax(1)]


def _split(features: Sequence[Feature], options: int, vectors: Floats) -> list[Floats]:
    """Split what was read of texts into what each feature gave: probabilities, then a vector."""
    starts = [options * place for place in range(len(features) + 1)]
    if features and isinstance(features[-1], VectorFeature):
        starts[-1] = vectors.shape[1]
    return [vectors[:, a:b] for a, b in pairwise(starts)]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A head, and what it says of the rows that it was fitted to, by fits without each."""

    made: Calibration
    sure: Floats
    right: Bools


class Learning:
    """What learns from the rows of a store.

    Args:
        store: Of the rows; open.
        question: What is asked.
        features: What was read of each text, in the order of what is kept: probabilities of the
            options, and last a vector, if there is one.
        names: What was read of the names of the options, and which option each is.
    """

    def __init__(
        self,
        store: AnswerStore,
        question: Question,
        features: Sequence[Feature],
        names: tuple[Floats, Ints] | None = None,
    ) -> None:
        self.store, self.question, self.features, self.names = store, question, features, names
        self.options = [option.name for option in question.options]
        self._current: tuple[State, Head | None] | None = None
        self._next = 0
        """Row from which on there may be something to do."""
        self._considered = (0, 0, 0)
        """Epoch, look and count that a look was considered at last."""
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._again = False
        self._working = threading.Lock()
        self.stopped = ""
        """Why this process learns no further head, and what to do; empty where it does."""
        self._is_blind = False
        """Whether the head in use can't be checked here, so that it isn't used."""

    def now(self) -> tuple[State, Head | None]:
        """Return where the learning is, and the head in use: it may be another process's."""
        state, current = self.store.state(), self._current
        if current is None or state != current[0]:
            found = self.store.head(state)
            head = found and Head(Calibration.model_validate_json(found[0]), state, found[1])
            current = self._current = (state, head or None)  # at once: threads share it
        return (state, None) if self._is_blind else current

    def wake(self, place: int) -> None:
        """Go on in a thread, where a row gives something to do."""
        with self._lock:
            if place < self._next or self._is_blind:
                return
            if self._thread is not None:
                self._again = True
                return
            self._thread = threading.Thread(target=self._work, daemon=True, name="moa-learn")
            self._thread.start()

    def join(self) -> None:
        """Wait for what is being done."""
        while (thread := self._thread) is not None:
            thread.join()

    def wait(self) -> None:
        """Do all that there is to do with the rows that are there, and wait for it."""
        self.join()
        with self._working:
            self.step()

    def _work(self) -> None:
        try:
            while True:
                with self._working:
                    self.step()
                with self._lock:
                    if not self._again:
                        self._thread = None
                        return
                    self._again = False
        except MoaError as error:
            _logger.warning("learning has stopped until the next input: %s", error)
        finally:
            if self._thread is threading.current_thread():
                self._thread = None

    def step(self) -> None:
        """Do all that is due: finish a look, check audit and drift, consider the next look.

        After an error that isn't moa's the head in use is only checked; after a second one it isn't
        used either, since nobody would notice that it no longer holds.
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
            f"begin other answers than those in {self.store.where}"
        )
        _logger.error("%s", self.stopped)
        _logger.debug("it has failed here", exc_info=error)

    def _step(self) -> None:
        state = self.store.state()
        spent = None if self.stopped else self.store.unfinished(state)
        if spent is not None:
            self._finish(state, spent)
            state = self.store.state()
        if state.used is not None and (why := self._broken(state)):
            self.store.withdraw(state, why)
            state = self.store.state()
        self._next = self.store.last() + _OFTEN
        if state.looks < len(LOOKS) and not self.stopped:
            self._consider(state)

    def _consider(self, state: State) -> None:
        """Look, if it is time and the fit side says that it is worth it."""
        count, cut = self._due(state)
        if cut is None or self._considered == (state.epoch, state.looks, count):
            return
        if self.store.answered_up_to() < cut:
            self._next = 0
            return
        self._considered = (state.epoch, state.looks, count)
        rows = self.store.to_fit(state, cut, MOST)
        fitted = self.fit(rows, state.epoch)
        if fitted is None:
            return
        tests = self.store.to_test(state, cut)
        made = self._proposed(state, fitted, rows, tests)
        if made is None:
            return
        spent = Spent(state.epoch, state.looks, cut, fitted.made.model_dump_json(), made.thresholds)
        if self.store.claim(spent):
            self._finish(state, spent)

    def _due(self, state: State) -> tuple[int, int | None]:
        """Return the count at which the next look is due, and the last row of it if that is there.

        Counts are of inputs, and grow by a quarter where a look was not worth it. So no label that
        is held out says when a look is made.
        """
        planned = LOOKS[state.looks]
        if planned.held_out:
            there = self.store.held_out(state)
            count = count_due(planned.held_out, there)
            if count is None:
                missing = planned.held_out - there  # at least as many rows must come before
                self._next = min(self._next, self.store.last() + missing)
                return 0, None
            return count, self.store.place_of_held(state, count)
        count = count_due(planned.inputs, self.store.last() - state.first + 1)
        return (0, None) if count is None else (count, state.first + count - 1)

    def _proposed(self, state: State, fitted: Fitted, rows: Rows, tests: Rows) -> Proposal | None:
        """Choose the thresholds of a look; `None`: by the fit side it isn't worth it."""
        texts, level = len(set(tests.keys)), level_of(state.looks)
        apart = float(self._apart(rows.vectors, rows.vectors[:0]).mean())
        made = propose(fitted.sure, fitted.right, texts, level, apart)
        _, head = self.now()
        accepts = 0.0
        if head is not None and len(tests):
            accepts = float(_accepts(head.made, tests).mean())
        return made if made.is_worth_it(accepts) else None

    def _finish(self, state: State, spent: Spent) -> None:
        """Say what a look says, by what was written when it was spent."""
        made = Calibration.model_validate_json(spent.head)
        tests = self.store.to_test(state, spent.cut)
        known = self.store.to_fit(state, spent.cut, MOST)
        p, sure = _tested(made, tests)
        rows = HeldOut(
            keys=tests.keys,
            sure=sure,
            same=self._same(p, tests),
            labelled=np.array([label is not None for label in tests.labels], bool),
            apart=self._apart(tests.vectors, known.vectors),
        )
        verdict = look(spent.thresholds, rows, level_of(spent.look))
        _, head = self.now()
        before = 0 if head is None else int(_accepts(head.made, tests).sum())
        takes = sure >= (np.inf if verdict.threshold is None else verdict.threshold)
        used = verdict.threshold is not None and int(takes.sum()) >= before
        made = made.model_copy(update={"bound": _bound(verdict)})
        watched = _watched(tests, p, takes) if used else None
        self.store.finish(
            spent,
            asdict(verdict),
            head=made.model_dump_json() if used else spent.head,
            used=used,
            audit=started_audit().model_dump_json() if used else None,
            drift=watched and watched.model_dump_json(),
            exceptions=self._exceptions(state, made) if used else (),
        )

    def _apart(self, vectors: Floats, known: Floats) -> Bools:
        """Tell which texts are no near-copies: by their vectors, if they have some."""
        if not isinstance(self.features[-1], VectorFeature):
            return np.ones(len(vectors), bool)
        start = len(self.options) * (len(self.features) - 1)
        return unlike(np.nan_to_num(vectors[:, start:]), known[:, start:])

    def _exceptions(self, state: State, made: Calibration) -> list[str]:
        """Name the texts to which the large model gave another answer, or none."""
        rows = self.store.answered(state)
        same = self._same(probabilities_of(made, rows.vectors)[0], rows)
        return sorted({key for key, is_same in zip(rows.keys, same, strict=True) if not is_same})

    def _same(self, p: Floats, rows: Rows) -> Bools:
        given = [self.options[place] for place in map(int, p.argmax(1))]
        known = [not key.startswith(FORGOTTEN) for key in rows.keys]
        found = zip(given, rows.labels, known, strict=True)
        return np.array([a == b and is_known for a, b, is_known in found], bool)

    def _broken(self, state: State) -> str:
        """Read on with audit and drift; why the guarantee is withdrawn, or nothing."""
        _, head = self.now()
        found, audited, drift, drifted = self.store.watching(state)
        if head is None or head.state != state:
            return ""
        audit = Audit.model_validate_json(found)
        rows, end = self.store.to_audit(state, audited)
        p, sure = _tested(head.made, rows)
        for same, how in zip(self._same(p, rows).tolist(), sure.tolist(), strict=True):
            if head.bound.accepts(how):
                audit = audit.record(correct=same)
        if end > audited:
            self.store.watched(state, "audit", audit.model_dump_json(), audited, end)
        if audit.withdrawn:
            return f"audit: {audit.wrong} of {audit.checked} checks differ"
        return self._drifted(state, drift, drifted)

    def _drifted(self, state: State, kept: str | None, drifted: int) -> str:
        if kept is None:
            return ""
        drift = Drift.model_validate_json(kept)
        seen, end = self.store.to_watch(state, drifted)
        for one in seen:
            accepts = bool(one["accepts"])
            drift = drift.after(
                {
                    "length": float(one["length"]),
                    "language": one["language"],
                    "accepted": float(accepts),
                    "accepted confidence": watched_sure(one["sure"]) if accepts else None,
                }
            )
        if seen:
            self.store.watched(state, "drift", drift.model_dump_json(), drifted, end)
        return "; ".join(f"drift: {alarm.message}" for alarm in drift.alarms)

    def fit(self, rows: Rows, epoch: int) -> Fitted | None:
        """Fit a head to labelled rows; `None` where they are too few, or have one label alone.

        Rows of earlier epochs are fitted to where that makes it better on those of this one.
        """
        labels = [
            self.options.index(label) if label in self.options else -1 for label in rows.labels
        ]
        own = (rows.epochs == epoch) & (np.array(labels) >= 0) if labels else np.zeros(0, bool)
        given = np.array(labels, np.intp)
        if int(own.sum()) < _FEWEST or len(set(given[own].tolist())) < 2:
            return None
        parts_of = _FOLDS if len(self.options) <= _MANY else _FOLDS_OF_MANY
        dealt = folds([k for k, o in zip(rows.keys, own, strict=True) if o], given[own], parts_of)
        older = (~own) & (given >= 0)
        parts = self._parts(rows.vectors, given, own, older, dealt)
        found = tried(parts, given[own], dealt, risk=RISK, latency_penalty=0.0)
        best = min(found, key=lambda one: one.candidate.log_loss)
        full = FitRecord.of(blend(best.parts, given[own]))
        used = [feature in best.features for feature in self.features]
        read = self.features[: len(used) - used[::-1].index(True)]  # no head has a vector alone
        made = Calibration(
            made=now(),
            question=QuestionRecord.model_validate(self.question),
            models={},
            features=tuple(read),
            full=_whole(full, read, best.features),
            origin=f"learned from {int(own.sum())} answers of the large model",
        )
        p = best.probabilities
        stands = _stands(p, self.question.options)
        return Fitted(made, p.max(1) * stands, (p.argmax(1) == given[own]) & stands)

    def _parts(
        self, vectors: Floats, labels: Ints, own: Bools, older: Bools, dealt: Ints
    ) -> list[Part]:
        found: list[Part] = []
        split = _split(self.features, len(self.options), vectors)
        for feature, values in zip(self.features, split, strict=True):
            reading = Reading(
                feature=feature, values=values[own], seconds=0.0, tokens=0.0, cost=None
            )
            if not isinstance(feature, VectorFeature):
                found.append(Part(reading, values[own]))
                continue
            named = self.names or (values[:0], labels[:0])
            also = [named]
            if older.any():
                more = (named[0], values[older]), (named[1], labels[older])
                also.append((np.concatenate(more[0]), np.concatenate(more[1])))
            heads = [
                fit_head(values[own], labels[own], len(self.options), dealt, known=known)
                for known in also
            ]
            made = min(heads, key=lambda one: log_loss(one.held_out, labels[own]))
            found.append(Part(reading, made.held_out, made.head, made.penalty))
        return found


def _tested(made: Calibration, rows: Rows) -> tuple[Floats, Floats]:
    """Judge held-out rows: one that was forgotten counts as accepted, and as a difference.

    Whoever forgets rows could choose which.
    """
    p, sure = probabilities_of(made, rows.vectors)
    forgotten = np.array([key.startswith(FORGOTTEN) for key in rows.keys], bool)
    return p, np.where(forgotten, np.inf, sure)


def _accepts(made: Calibration, rows: Rows) -> Bools:
    bound = made.bound
    assert bound is not None, "it was tested"
    sure = probabilities_of(made, rows.vectors)[1]
    return np.array([bound.accepts(how) for how in sure.tolist()], bool)


def _whole(full: FitRecord, features: Sequence[Feature], used: Sequence[Feature]) -> FitRecord:
    """Write a fit down for all features that are read: those that it leaves out weigh nothing."""
    at = {feature.name: place for place, feature in enumerate(used)}
    places = [at.get(feature.name) for feature in features]
    return FitRecord(
        heads=tuple(None if place is None else full.heads[place] for place in places),
        weights=tuple(0.0 if place is None else full.weights[place] for place in places),
        bias=full.bias,
    )


def _bound(verdict: Verdict) -> Bound:
    guaranteed = Guarantee(RISK, _CONFIDENCE)
    said = "nothing was shown to be accepted"
    if verdict.threshold is not None:
        said = (
            f"accepts {percent(verdict.accepted / verdict.held_out)} ({verdict.accepted} of "
            f"{verdict.held_out} held-out texts, {verdict.differ} of them answered otherwise by "
            f"the large model): at most {percent(RISK)} differ, with {percent(_CONFIDENCE)} "
            "confidence over the epoch"
        )
    return Bound(
        guarantee=guaranteed,
        threshold=verdict.threshold,
        labels=verdict.held_out,
        accepted=verdict.accepted,
        errors=verdict.differ,
        upper=verdict.upper,
        summary=said,
    )


def watched_sure(sure: float) -> float:
    """Give a confidence as it is watched: by hundredths, since less says nothing of a risk."""
    return round(sure, 2)


def _watched(rows: Rows, p: Floats, takes: Bools) -> Drift | None:
    """Start a check on drift, by the held-out rows, which the head wasn't fitted to.

    An alarm costs the guarantee, so it takes a change that matters: of more inputs than
    `TOLERANCE`, and of a confidence by a hundredth.
    """
    read = ~np.isnan(rows.vectors).any(1) if len(rows) else np.zeros(0, bool)
    watched: dict[str, list[Value]] = {
        "length": [float(length) for length in rows.lengths],
        "language": [name for name in rows.languages if name is not None],
        "accepted": takes[read].astype(float).tolist(),
        "accepted confidence": [watched_sure(one) for one in p[takes & read].max(1).tolist()],
    }
    enough = {name: values for name, values in watched.items() if len(values) >= FEWEST}
    return Drift.of(enough, tolerance=TOLERANCE) if enough else None
