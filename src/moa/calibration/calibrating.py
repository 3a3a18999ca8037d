"""Calibrating: from labelled texts to a scorer, chosen by cross-validation, and a promise.

The texts are split once. On the fitting part, members are read, fitted and compared, and the
scorer is chosen; the held-out part is then looked at once, to find from which confidence on its
decisions can be accepted (`moa.guarantees.bounds`). The scorer is fitted a second time to all
texts, for the labels of what isn't accepted: that fit has seen the held-out labels, so nothing is
promised of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moa.calibration import (
    Calibration,
    DataRecord,
    FitRecord,
    QuestionRecord,
    Reached,
    now,
)
from moa.calibration.candidates import Tried, chosen, tried
from moa.calibration.labelled import Labelled, Sorted, sort_out
from moa.calibration.members import (
    ASKED_AS,
    DECIDES,
    PROMPT,
    LabelMember,
    Member,
    VectorMember,
    layout_of,
)
from moa.calibration.reading_members import MemberReader, Progress, Reading
from moa.calibration.scorers import Part, blend, fit_blend, fit_part, held_out
from moa.calibration.sources import HIDDEN, SENTENCES, sources_of
from moa.context import RunContext
from moa.decisions.arrays import Floats, Ints
from moa.decisions.choosing import confident, halves
from moa.decisions.folds import folds, split
from moa.decisions.measures import measure
from moa.endpoints import Endpoint, Example
from moa.endpoints.identity import identity_of
from moa.errors import CalibrationError
from moa.guarantees import Bound, Guarantee
from moa.guarantees.bounds import Outcome, find_bound
from moa.questions import Question

PRICE = 0.05
"""Accuracy that a second a decision must bring: 0.2 s more are worth 1 % more right."""
SECONDS_A_ROW, LEAST_S = 1.1, 120.0
"""Seconds that reading may take in all, for each labelled text and at least."""
_HELD_OUT = 0.5
_FOLDS = 5
_MOST_OPTIONS_SHOWN = 24


async def calibrate(
    endpoint: Endpoint,
    question: Question,
    rows: Sequence[Labelled],
    *,
    guarantee: Guarantee | None = None,
    price: float = PRICE,
    embedders: Mapping[str, Endpoint] | None = None,
    languages: Mapping[str, float] | None = None,
    limit_s: float | None = None,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Choose and fit a scorer, and find what can be promised of it.

    Args:
        endpoint: Who decides.
        question: What is asked; the names of its options are the labels.
        rows: Labelled texts, as they come in and in no order.
        guarantee: What is to be promised; `None`: at most 5 % wrong, with 95 % confidence.
        price: Accuracy that a second a decision must bring; 0 takes the most accurate.
        embedders: Endpoints that can embed, by a role to be named in the file; `None` is a small
            sentence encoder and, of the embedded model, its hidden states.
        languages: Shares of the texts by language, to be written into the file.
        limit_s: Seconds that reading may take; `None`: 1.1 a text, and at least 120. What would
            take longer is left out.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Told how far each member is.

    Raises:
        InputError: the rows are none that a calibration can be made from; see `sort_out`.
        CalibrationError: no scorer could be read.
        EndpointError: a request failed.
        BudgetExceeded: a limit would be passed.
        DeadlineExceeded: the run's time is up.
    """
    names = [option.name for option in question.options]
    data = sort_out(rows, names)
    guarantee = guarantee or Guarantee()
    context = context or RunContext(keep_notes=False)
    sources = sources_of(endpoint) if embedders is None else {DECIDES: endpoint, **embedders}
    reader = MemberReader(
        question=question,
        sources=sources,
        texts=[row.text for row in data.rows],
        context=context,
        limit_s=limit_s or max(LEAST_S, SECONDS_A_ROW * len(data.rows)),
        progress=progress,
    )
    task = _Task.of(data, names, guarantee)
    readings = await _readings(reader, task, list(sources))
    if not readings:
        raise CalibrationError(
            "nothing could be read to calibrate on: " + "; ".join(reader.dropped)
        )
    fitting = ~task.held
    parts = [_part(reading, task, fitting) for reading in readings]
    found = tried(readings, parts, task.labels[fitting], task.folds[fitting], price=price)
    best, why = chosen(found, price=price)
    made = _Made.of(task, [readings[p] for p in best.places], [parts[p] for p in best.places], best)
    used = {reading.member.source for reading in made.readings}
    return Calibration(
        made=now(),
        question=QuestionRecord.of(question),
        models={role: await identity_of(sources[role], context) for role in sorted(used)},
        members=tuple(reading.member for reading in made.readings),
        bound=made.bound,
        accepting=made.accepting,
        full=made.full,
        data=DataRecord(
            rows=len(data.rows),
            duplicates=data.duplicates,
            fitted=int(fitting.sum()),
            held_out=int(task.held.sum()),
            labels=data.counts,
            sha256=data.fingerprint,
            languages=dict(languages or {}),
        ),
        reached=made.reached,
        chosen=why,
        candidates=tuple(one.candidate for one in found),
        notes=(*data.notes, *reader.dropped),
    ).sealed()


@dataclass(frozen=True, slots=True)
class _Task:
    """Labelled texts, and which of them are held out."""

    data: Sorted
    names: Sequence[str]
    guarantee: Guarantee
    labels: Ints
    held: np.ndarray
    folds: Ints

    @classmethod
    def of(cls, data: Sorted, names: Sequence[str], guarantee: Guarantee) -> _Task:
        labels = np.array([names.index(row.label) for row in data.rows], dtype=np.intp)
        enough = len(labels) * _HELD_OUT >= guarantee.needed()
        held = split(data.cases, labels, _HELD_OUT if enough else 0.0).astype(bool)
        parts = min(_FOLDS, len(set(data.cases)))
        return cls(data, names, guarantee, labels, held, folds(data.cases, labels, parts, seed=1))

    def outcomes(self, probabilities: Floats, rows: Ints) -> list[Outcome]:
        """Decisions on some of the texts."""
        given = probabilities.argmax(1)
        return [
            Outcome(
                confidence=min(1.0, float(p.max())),
                correct=bool(given[place] == self.labels[row]),
                label=self.names[int(given[place])],
                case=self.data.rows[row].case,
            )
            for place, (row, p) in enumerate(zip(map(int, rows), probabilities, strict=True))
        ]


async def _readings(reader: MemberReader, task: _Task, roles: Sequence[str]) -> list[Reading]:
    """Read with all members there are, the cheap ones first."""
    vectors: list[Member] = [
        VectorMember(name=role, source=role, prompt=None if role == SENTENCES else PROMPT)
        for role in roles
        if role != DECIDES
    ]
    vectors.sort(key=lambda member: member.source == HIDDEN)
    found = [await reader.read(member) for member in vectors]
    own = await reader.read(_labels(reader.question, "labels", ((),)))
    found.append(own)
    if own is not None and len(task.names) <= _MOST_OPTIONS_SHOWN:
        shown = await reader.read(
            _labels(reader.question, "labels after examples", _examples(reader, task))
        )
        found.append(shown)
        known = [one.values for one in (own, shown) if one is not None]
        sure = _sure(reader, task, known)
        found.append(await reader.read(_labels(reader.question, "labels after sure texts", sure)))
    return [one for one in found if one is not None]


def _labels(question: Question, name: str, views: Sequence[Sequence[Example]]) -> LabelMember:
    return LabelMember(
        name=name, views=tuple(tuple(view) for view in views), layout=layout_of(question)
    )


def _examples(reader: MemberReader, task: _Task) -> Sequence[Sequence[Example]]:
    """Show texts of the fitting part, of each label as many, in two views."""
    labelled = [
        Example(row.text, {ASKED_AS: row.label})
        for row, held in zip(task.data.rows, task.held, strict=True)
        if not held
    ]
    return halves(labelled, [replace(reader.question, name=ASKED_AS)])


def _sure(
    reader: MemberReader, task: _Task, known: Sequence[Floats]
) -> Sequence[Sequence[Example]]:
    """Show texts of the fitting part of which the model is surest, in two views."""
    fitting = ~task.held
    logs = np.stack([values[fitting] for values in known], 1)
    fair = fit_blend(logs, task.labels[fitting]).logs(logs)
    texts = [text for text, held in zip(reader.texts, task.held, strict=True) if not held]
    right = fair.argmax(1) == task.labels[fitting]
    return confident(
        [text for text, is_right in zip(texts, right, strict=True) if is_right],
        {ASKED_AS: fair[right]},
        [replace(reader.question, name=ASKED_AS)],
    )


def _part(reading: Reading, task: _Task, rows: np.ndarray, penalty: float | None = None) -> Part:
    return fit_part(
        reading.values[rows],
        task.labels[rows],
        len(task.names),
        task.folds[rows],
        is_vector=isinstance(reading.member, VectorMember),
        penalty=penalty,
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """The chosen scorer in both its fits, and its promise."""

    readings: Sequence[Reading]
    accepting: FitRecord
    full: FitRecord
    bound: Bound
    reached: Reached

    @classmethod
    def of(
        cls, task: _Task, readings: Sequence[Reading], parts: Sequence[Part], best: Tried
    ) -> _Made:
        everything = np.ones(len(task.labels), bool)
        all_parts = (
            [_part(r, task, everything, p.penalty) for r, p in zip(readings, parts, strict=True)]
            if task.held.any()
            else parts
        )
        # Through the record, since what is applied has the weights as they are written.
        accepting = FitRecord.of(blend(parts, task.labels[~task.held]))
        held = np.flatnonzero(task.held)
        judged = accepting.fit()([reading.values[held] for reading in readings])
        bound = find_bound(
            task.outcomes(best.probabilities, np.flatnonzero(~task.held)),
            task.outcomes(judged, held),
            task.guarantee,
        )
        guesses = measure(held_out(all_parts, task.labels, task.folds), task.labels)
        right = judged.argmax(1) == task.labels[held]
        return cls(
            readings=readings,
            accepting=accepting,
            full=FitRecord.of(blend(all_parts, task.labels)),
            bound=bound,
            reached=Reached(
                accuracy=guesses.accuracy,
                macro_f1=guesses.macro_f1,
                ece=guesses.ece,
                held_out_accuracy=float(right.mean()) if len(right) else None,
                coverage=bound.coverage,
                seconds=best.candidate.seconds,
                tokens=best.candidate.tokens,
            ),
        )
