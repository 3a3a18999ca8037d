"""Adapting: fits a deciding agent to its task from unlabelled texts, and labelled ones if any.

A small model that reads labels leans to some of them whatever the text. On unlabelled texts the
lean can be seen and taken out (as Zhao et al. 2021, arXiv 2102.09690, do with empty texts, and
Zhou et al. 2023, arXiv 2309.17249, with the batch). Texts that it is sure of, or labelled ones,
are shown to it as examples; reading each text in several such views steadies the answer. Where
there is an encoder, a head on its vectors is one view more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from moa.context import RunContext
from moa.decisions import Adaptation, Correction, View
from moa.decisions.arrays import Floats, log_softmax
from moa.decisions.choosing import confident, halves
from moa.decisions.fitting import agreement, centred_mean, is_blind, shrunk_mean
from moa.decisions.reading import Progress, Reader
from moa.decisions.stacking import Group, Readings, Stack, best_stack, floats
from moa.decisions.stand_ins import STAND_INS
from moa.endpoints import Endpoint, Example
from moa.endpoints.encoders import MultilingualEncoder
from moa.questions import Question

ENOUGH_TEXTS = 32
"""Fewer unlabelled texts than these say too little of a lean: the shipped ones stand in."""
ENOUGH_LABELS = 8
"""Fewer labelled texts than these are shown, and nothing is fitted to them."""
MOST_TEXTS = 128
"""Most unlabelled texts that are read, evenly spread over those given."""
MOST_LABELS = 512
"""Most labelled texts that are fitted to, the first ones."""
_PASSES = 2
"""Most times that texts are chosen by what the model is sure of."""


async def adapt(
    endpoint: Endpoint,
    questions: Sequence[Question],
    *,
    labelled: Sequence[Example] = (),
    unlabelled: Sequence[str] = (),
    own: Sequence[Example] = (),
    encoder: Endpoint | None = None,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> Adaptation:
    """Fit an agent to its task.

    Each text is read in the agent's own way, and in two views that show texts of which the model
    was sure. Without labels the lean it shows is taken out. With at least 8 labels these are
    shown first, in two halves; weights and a bias are fitted to them, around a bias that matches
    their frequency on the unlabelled texts; and the texts it is sure of are those it is sure of
    then (pseudo-labels: Lee 2013). Kept are the own way and the texts it is sure of, unless the
    held-out log loss is lower with the labelled texts in place of one or both, or with the own
    way alone.

    Args:
        endpoint: Who decides.
        questions: What is asked.
        labelled: Texts with the names of the right options.
        unlabelled: Texts like those to come. From 32 on they are used, at most 128 of them; else
            36 shipped texts stand in.
        own: Examples that the agent shows of its own accord.
        encoder: Gives vectors of the texts, for a head on them; `None`: the model alone decides.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Told how far it is.

    Raises:
        EndpointError: a request failed.
        BudgetExceeded: a limit would be passed.
        DeadlineExceeded: the run's time is up.
        CapabilityError: the endpoint can't decide.
    """
    enough = len(unlabelled) >= ENOUGH_TEXTS
    texts = _spread(unlabelled) if enough else STAND_INS
    reader = Reader(endpoint, tuple(questions), tuple(own), context or RunContext(), progress)
    plain = await reader.read([()], texts)
    labelled = tuple(labelled)[:MOST_LABELS]
    if reader.source == "text":
        return Adaptation(views=(labelled[:8],), origin="examples shown: it writes its labels")

    async def headed(base: Adaptation, read: Mapping[str, Floats]) -> Adaptation:
        if encoder is None or encoder.model != MultilingualEncoder.model:
            return base
        from moa.decisions.beside import with_heads

        return await with_heads(
            base,
            endpoint,
            questions,
            labelled=labelled,
            read=read,
            texts=texts,
            encoder=encoder,
            context=reader.context,
        )

    logprob = reader.source == "logprob"
    origin = f"bias removed on {len(texts)} {'unlabelled' if enough else 'shipped'} texts"
    if len(labelled) >= ENOUGH_LABELS:
        fitting = _Fitting(reader, labelled, texts, plain)
        corrections = await fitting.run(show=logprob, sure=logprob and enough)
        origin = f"fitted to {len(labelled)} labelled texts, {origin}"
        fitted = _without_idle_views(fitting.views.all, corrections, origin, reader.own)
        return await headed(fitted, fitting.corrected(corrections))
    views = Views(shown=[labelled] if labelled and logprob else ())
    if enough and logprob:
        fair = {name: _without_lean(reading) for name, reading in plain.items()}
        views.sure = confident(texts, fair, reader.questions)
    readings = _joined(plain, await reader.read(views.all[1:], texts))
    blind = {name for name, reading in plain.items() if enough and is_blind(reading[:, 0])}
    corrections = {name: _unbiased(reading, name in blind) for name, reading in readings.items()}
    origin += "".join(_doubt(q, plain[q.name]) for q in questions if q.name in blind)
    made = _without_idle_views(views.all, corrections, origin, reader.own)
    doubtful = {
        q.name: "it says the same whatever the text is" for q in questions if q.name in blind
    }
    return await headed(replace(made, doubtful=doubtful), {})


@dataclass(slots=True)
class Views:
    """The views a text can be read in: the agent's own way first."""

    shown: Sequence[View] = ()
    """They show labelled texts."""
    sure: Sequence[View] = ()
    """They show texts that the model is sure of."""

    @property
    def all(self) -> tuple[View, ...]:
        """In order."""
        return ((), *self.shown, *self.sure)

    def show(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Say which texts are shown in which view: texts, views."""
        shown = [{example.text for example in view} for view in self.all]
        found = [[text in some for some in shown] for text in texts]
        return np.array(found, dtype=bool).reshape(len(texts), len(shown))

    @property
    def choices(self) -> list[tuple[Group, ...]]:
        """Groups that can be used together; the first is the choice in doubt."""
        middle, end = 1 + len(self.shown), 1 + len(self.shown) + len(self.sure)
        own, shown, sure = (0,), tuple(range(1, middle)), tuple(range(middle, end))
        choices = ((own, sure), (sure, shown), (own, shown), (shown,), (own,))
        return [groups for groups in choices if all(groups)]


def _without_lean(reading: Floats) -> Floats:
    """What the agent's own way reads, less its mean: texts, options."""
    own: Floats = reading[:, 0] - reading[:, 0].mean(0)
    return own


def _doubt(question: Question, plain: Floats) -> str:
    label = question.options[int(plain[:, 0].mean(0).argmax())].name
    return (
        f"; DOUBTFUL: the model says {label!r} whatever the text, and with that taken out its "
        "answers are little better than chance: give it at least 8 labelled examples"
    )


def _unbiased(reading: Floats, blind: bool = False) -> Correction:
    """The own way has weight 1, and so have all other views together.

    Of a model that is blind to the texts, the whole lean is taken out, and the views count for as
    much as they agree.
    """
    others = reading.shape[1] - 1
    weights = np.array([1.0] + [1.0 / others] * others) if others else np.array([1.0])
    if blind and others:
        weights *= agreement(reading)
    own = reading[:, 0]
    lean = weights[0] * (centred_mean(own) if blind else shrunk_mean(own))
    for view in range(1, others + 1):
        lean = lean + weights[view] * centred_mean(reading[:, view])
    return Correction(floats(-lean), floats(weights))


@dataclass(slots=True)
class _Fitting:
    """Fits corrections to labelled texts: first to the own way and the labelled texts shown, then
    to texts besides that the model is sure of by the fit before.
    """

    reader: Reader
    labelled: Sequence[Example]
    texts: Sequence[str]
    own: Mapping[str, Floats]
    """Of the unlabelled texts."""
    views: Views = field(default_factory=Views)
    readings: Mapping[str, Floats] = field(default_factory=dict[str, Floats])
    """Of the labelled texts in all views, once fitted."""

    async def run(self, *, show: bool, sure: bool) -> dict[str, Correction]:
        """Fit; show labelled texts if `show`, and texts that the model is sure of if `sure`."""
        if show:
            self.views.shown = halves(self.labelled, self.reader.questions)
        texts = _joined(self.own, await self.reader.read(self.views.shown, self.texts))
        labelled = await self._read_labelled(((), *self.views.shown))
        stacks = self._stacks(texts, labelled)
        for _ in range(_PASSES if sure else 0):
            fair = {
                q.name: stacks[q.name].read(self._of(q, texts, labelled))
                if q.name in stacks
                else _without_lean(texts[q.name])
                for q in self.reader.questions
            }
            before, kept = self.views.sure, 1 + len(self.views.shown)
            self.views.sure = confident(self.texts, fair, self.reader.questions)
            if self.views.sure == before:
                break
            more = await self.reader.read(self.views.sure, self.texts)
            texts = _joined(_first(texts, kept), more)
            labelled = _joined(_first(labelled, kept), await self._read_labelled(self.views.sure))
            stacks = self._stacks(texts, labelled)
        self.readings = labelled
        return {
            q.name: stacks[q.name].correction(self._of(q, texts, labelled))
            if q.name in stacks
            else _unbiased(texts[q.name])
            for q in self.reader.questions
        }

    def corrected(self, corrections: Mapping[str, Correction]) -> dict[str, Floats]:
        """Log-probabilities of the labelled texts of each question, by these corrections."""
        names = {q.name: [option.name for option in q.options] for q in self.reader.questions}
        found: dict[str, Floats] = {}
        for name, correction in corrections.items():
            rows = [r for r, e in enumerate(self.labelled) if e.labels.get(name) in names[name]]
            weights = np.array(correction.weights)
            logs = np.einsum("v,tvo->to", weights, self.readings[name][rows])
            found[name] = log_softmax(logs + np.array(correction.offsets))
        return found

    async def _read_labelled(self, views: Sequence[View]) -> dict[str, Floats]:
        return await self.reader.read(views, [example.text for example in self.labelled])

    def _stacks(
        self, texts: Mapping[str, Floats], labelled: Mapping[str, Floats]
    ) -> dict[str, Stack]:
        """By question, where the labelled texts have more than one answer to it."""
        found: dict[str, Stack] = {}
        for question in self.reader.questions:
            readings = self._of(question, texts, labelled)
            if len(set(readings.labels.tolist())) > 1:
                found[question.name] = best_stack(readings, self.views.choices)
        return found

    def _of(
        self, question: Question, texts: Mapping[str, Floats], labelled: Mapping[str, Floats]
    ) -> Readings:
        names = [option.name for option in question.options]
        given = [
            (row, names.index(example.labels[question.name]))
            for row, example in enumerate(self.labelled)
            if example.labels.get(question.name) in names
        ]
        rows = [row for row, _ in given]
        return Readings(
            texts=texts[question.name],
            labelled=labelled[question.name][rows],
            labels=np.array([label for _, label in given], dtype=np.intp),
            shown=self.views.show(self.texts),
            labelled_shown=self.views.show([self.labelled[row].text for row in rows]),
        )


def _first(readings: Mapping[str, Floats], views: int) -> dict[str, Floats]:
    return {name: reading[:, :views] for name, reading in readings.items()}


def _joined(before: Mapping[str, Floats], more: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: np.concatenate([before[name], more[name]], axis=1) for name in before}


def _without_idle_views(
    views: Sequence[View], corrections: dict[str, Correction], origin: str, own: View
) -> Adaptation:
    """Leave out the views that no question takes anything from; empty is the agent's own."""
    used = [
        place for place in range(len(views)) if any(c.weights[place] for c in corrections.values())
    ]
    return Adaptation(
        views=tuple(views[place] or own for place in used),
        corrections={
            name: Correction(c.offsets, tuple(c.weights[place] for place in used))
            for name, c in corrections.items()
        },
        origin=origin,
    )


def _spread(texts: Sequence[str]) -> tuple[str, ...]:
    step = max(1.0, len(texts) / MOST_TEXTS)
    return tuple(texts[int(i * step)] for i in range(min(len(texts), MOST_TEXTS)))
