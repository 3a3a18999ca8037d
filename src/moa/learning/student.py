"""Student: a node with one question that learns from a large model's answers during use.

`moa.learning.epochs` explains what is learned, and when it may be used.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Never

from pydantic import ValidationInfo
from typing_extensions import TypeVar

from moa.agents.deciding import DecidingAgent
from moa.core._async import Lock
from moa.core._files import join_surrogates
from moa.core.context import RunContext, quiet
from moa.core.errors import (
    ConfigError,
    EndpointUnauthorized,
    EndpointUnsupported,
    MoaError,
    StoreError,
)
from moa.core.node import Frozen, Node, Result
from moa.core.questions import NONE_OF_THESE, Answer, Option, Question
from moa.core.usage import Usage
from moa.decisions.encoders import feeds_heads
from moa.decisions.features import (
    ENCODER,
    LabelFeature,
    QuestionRecord,
    VectorFeature,
    read_vector,
)
from moa.documents.language import can_detect, language_of
from moa.endpoints.known import identity_of
from moa.endpoints.rehearsal import REHEARSAL
from moa.graphs.fields import resolve_path
from moa.learning.fingerprint import fingerprint_of
from moa.learning.labelled import OTHERWISE, label_of
from moa.rows._stores import is_address

if TYPE_CHECKING:
    from moa.decisions.arrays import Floats, Ints
    from moa.learning.answer_rows import LargeAnswer, LearningState, NewRow, StartedRow
    from moa.learning.epochs import Side
    from moa.learning.looks import Head, HeadJudgement, Learning
    from moa.learning.recording import Outage, Recorder

Out_co = TypeVar("Out_co", covariant=True, default=object)
T = TypeVar("T")
_OWN = LabelFeature(name="small")
"""Feature of the small node's own answer, read like a model's label probabilities."""
_ENCODED = VectorFeature(name=ENCODER, source=ENCODER, sentences=True)
_WRITTEN = 0.9
"""Probability assumed for a label that was written without one."""
SET_UP_WRONG = (EndpointUnauthorized, EndpointUnsupported, ConfigError)
"""Errors of a large model that is set up wrong."""
_OF_A_TEXT = (400, 403)
"""HTTP statuses that look like these errors, but that moderation gives to single texts."""


class Learn(Frozen):
    """Settings of learning; in a table `learn = { where = "answers.db", answer = "large" }`."""

    where: str | Path
    """A file, or `postgresql://USER@HOST/DATABASE#NAME`."""
    answer: Literal["small", "large"] = "small"
    """The model whose answer is returned if both have one. `large` saves no calls, but shows what
    `small` would save: use it to try learning in production."""
    keep_texts: bool = False
    """If true, store texts, too. Learning needs only vectors and labels."""
    alike: tuple[Literal["spam", "sentiment", "urgency"], ...] = ("spam", "sentiment", "urgency")
    """For `support` only: decisions that the guarantee covers in addition to the intent, so that
    they agree with the large model's when it isn't asked."""


def read_learn(value: object, info: ValidationInfo) -> Learn | None:
    """Read the `learn` setting: a `Learn`, an address, or a file, in a table beside moa.toml."""
    learn = Learn(where=value) if isinstance(value, str | Path) else value
    if isinstance(learn, Mapping):
        learn = Learn.model_validate(learn)
    if learn is None:
        return None
    if not isinstance(learn, Learn):
        raise ValueError(
            f"takes a table, such as {{KEY = VALUE}}, not {value!r:.80}, or takes a text, not "
            f"{value!r:.80}, or takes a path, not {value!r:.80}"
        )
    if is_address(learn.where):
        return learn
    return learn.model_copy(update={"where": resolve_path(learn.where, info)})


def store_of_owner(location: str | Path, owner: str) -> str | Path:
    """Return the location of an owner's answers; without an owner, the location itself.

    For `team`, `answers.db` becomes `answers.team.db`. In Postgres, `.team` is added to the name.
    """
    if not owner:
        return location
    if is_address(location):
        address, _, name = str(location).partition("#")
        return f"{address}#{name or 'answers'}.{owner}"
    path = Path(location)
    return path.with_name(f"{path.stem}.{owner}{path.suffix}")


class TextReading(NamedTuple):
    """The small node's own reading of a text."""

    own: Answer
    vector: Sequence[float]


class Consideration(NamedTuple):
    """A text's side, reading and judgement, before the large model is asked."""

    text: str
    side: Side
    held: bool
    epoch: int
    read: TextReading | None
    """`None` if it couldn't be read."""
    judged: HeadJudgement | None
    """`None` if no head is in use, or nothing was read."""
    head: Head | None
    place: int | None
    """Index of its row, if a run that is resumed has stored it; `UNRECORDED` if no row can be
    written; `None`: it is to be stored."""
    record: str
    """Key of the journal's record of its index; empty without a journal."""
    earlier: int | None = None
    """Index of a row that the same input had before; `None`: it had none."""


class Decision(NamedTuple):
    """Another decision on the same texts: it isn't learned, but must agree with the large model's.

    Only one thing is compared: whether the answer is `option`, such as whether a text is spam.
    """

    agent: DecidingAgent[Any]
    """Agent that asks one question."""
    option: str
    """Name of the option."""
    is_it: Callable[[Any], bool | None]
    """Returns True if the agent's output is the option; `None`: it gave no answer."""

    @property
    def name(self) -> str:
        """Name of the question."""
        return self.agent.questions[0].name


class Student(Generic[Out_co]):
    """Learns from a large model's answers to the same texts.

    Args:
        name: Name of the graph, for errors.
        small: The small node, which asks one question.
        learn: Where rows are stored, and which model's answer is returned.
        others: Decisions that must also agree with the large model's when the small node answers.

    Raises:
        ConfigError: the node asks no question, or several.
    """

    def __init__(
        self, name: str, small: Node[Never, Out_co], learn: Learn, others: Sequence[Decision] = ()
    ) -> None:
        if not isinstance(small, DecidingAgent) or len(small.questions) != 1:
            raise ConfigError(
                f"{name!r}: learn takes a small node that asks one question, such as a "
                f"Classifier, and {small.name!r} is none"
            )
        self.small: DecidingAgent[Out_co] = small
        self.learn = learn
        self.others = others
        self.asked: Question = self.small.questions[0]
        """The question of the small node."""
        self.question = _with_otherwise(self.asked) if others else self.asked
        """The question that is learned."""
        encoder = self.small.encoder
        self._encodes = feeds_heads(encoder)
        self._large: object = None
        """The large node; `None` if it isn't known."""
        self._parts: dict[str, str] | None = None
        """Its fingerprint, once it is computed."""
        self._lock = Lock()
        self._learning: dict[str, Learning] = {}
        """Learning, by owner of the runs. One owner's texts don't teach what answers another."""
        self._outages: dict[str, Outage] = {}
        """Those of stores that couldn't be opened yet, by owner."""

    def check(self, large: object) -> None:
        """Check that the large model isn't the small one. From then on, labels are its answers.

        Raises:
            ConfigError: they are the same.
        """
        endpoint = getattr(large, "endpoint", None)
        if endpoint is self.small.endpoint:
            name = getattr(large, "name", "")
            raise ConfigError(
                f"{name!r} asks the endpoint of the small node, from which nothing can be "
                "learned. Configure a large model: moa models add --help"
            )
        self._large = large

    async def ready(self, context: RunContext | None = None) -> Learning:
        """Open the answers of the run's owner, once. Owners, such as API keys, are kept apart.

        Raises:
            ConfigError: they belong to another question or other models, or can't be used.
            MissingDependency: a package for fitting heads isn't installed.
            StoreError: the disk is full, or another program has locked them. They are opened again
                after a while.
        """
        context = context or RunContext(keep_notes=False)
        if context.owner not in self._learning:
            async with self._lock.hold(context.remaining_s()):
                if context.owner not in self._learning:
                    self._learning[context.owner] = await self._open(context)
        return self._learning[context.owner]

    async def _open(self, context: RunContext) -> Learning:
        from moa.decisions.regression import check_installed
        from moa.learning.answers import AnswerStore
        from moa.learning.looks import Learning
        from moa.learning.recording import Outage

        check_installed()
        outage = self._outages.setdefault(context.owner, Outage())
        if not outage.may_try:
            raise StoreError(outage.reason)
        store = AnswerStore(store_of_owner(self.learn.where, context.owner))
        question = QuestionRecord.model_validate(self.question).model_dump_json()
        readers = await self._identify_readers(context)
        large = self._large
        if large is not None and self._parts is None:  # once: sources may be edited meanwhile
            self._parts = await fingerprint_of(large, context)
        parts = self._parts
        model = str(getattr(getattr(large, "endpoint", None), "model", ""))

        def begin() -> None:
            store.open()
            store.bind(question, readers)
            if parts is not None:
                store.bind_large(model, parts)

        try:
            await asyncio.to_thread(begin)
        except StoreError as error:
            store.close()
            outage.begin(error)
            raise StoreError(outage.reason) from error
        outage.end(store.location)
        features = (_OWN, _ENCODED) if self._encodes else (_OWN,)
        return Learning(store, self.question, features, await self._read_option_names(context))

    async def _identify_readers(self, context: RunContext) -> str:
        """Return an id of the models and calibrations that read texts. A head fits no others."""
        small, agents = self.small, (self.small, *(decision.agent for decision in self.others))
        endpoints = [small.endpoint] if any(agent.asks_endpoint for agent in agents) else []
        if small.encoder is not None and self._encodes:
            endpoints.append(small.encoder)
        identities = [await identity_of(endpoint, context) for endpoint in endpoints]
        scorers = [scorer for agent in agents for scorer in agent.scorers]
        ways = "".join(scorer.calibration.model_dump_json(exclude={"made"}) for scorer in scorers)
        ways += "".join(str(getattr(decision.agent, "threshold", "")) for decision in self.others)
        digest = hashlib.sha256(ways.encode()).hexdigest()[:12]
        return json.dumps(
            {
                "calibrations": digest,
                "models": [[identity.model, identity.digest] for identity in identities],
            }
        )

    async def _read_option_names(self, context: RunContext) -> tuple[Floats, Ints] | None:
        """Return the vectors and indices of the option names, which need no labels."""
        question = self.asked
        if not self._encodes or question.kind != "choice":
            return None
        import numpy as np

        options = [(i, o) for i, o in enumerate(question.options) if o.name != NONE_OF_THESE]
        words = [(option.description or option.name).replace("_", " ") for _, option in options]
        sources = self.small.sources
        read = [await read_vector(_ENCODED, word, question, sources, context) for word in words]
        return np.array(read), np.array([index for index, _ in options])

    async def consider(
        self, text: str, nested: RunContext, *, case: str | None = None
    ) -> Consideration:
        """Assign a text to a side by the coin, then read it, and judge it by the head in use."""
        if (rehearsal := REHEARSAL.get()) is not None:  # a rehearsal must store nothing
            await self.small.rehearse(text, nested.nested(self.small.name))
            await rehearsal.hold()
        try:
            learning = await self.ready(nested)
        except StoreError as error:
            return await self._pass_by(text, nested, "", str(error))
        store, recorder = learning.store, learning.recorder
        side = store.coin.toss(text, case)
        journal = None if nested.journal is None else nested.journal.journal
        record = "" if journal is None else journal.number("learn", nested.node, text)
        earlier = "" if journal is None else journal.kept.get(record, "")

        index = int(earlier) if earlier.isdecimal() else None

        def arrive() -> tuple[LearningState, Head | None, StartedRow | None]:
            row = None if index is None else store.resume(index, side)
            return (*learning.current(), row)

        arrival = await store.run_in_thread(
            lambda: recorder.read_on_arrival(arrive, learning.current)
        )
        if learning.stopped:
            nested.note("failed", learning.stopped)
        if arrival is None:
            return await self._pass_by(text, nested, record, recorder.outage.reason)
        read = await self._read(text, nested)
        state, head, row = arrival
        judged = None
        if head is not None and read is not None:
            judged = head.judge(self._round(read), side.key)
        # A row that was held out when it was stored stays so: its answer is a part of a test.
        is_held_out = side.is_held_out(state.looks) if row is None else row.held
        place = None if row is None else row.place
        return Consideration(
            text, side, is_held_out, state.epoch, read, judged, head, place, record, index
        )

    async def _pass_by(
        self, text: str, nested: RunContext, record: str, failure: str
    ) -> Consideration:
        """Read a text that can't be recorded, so that it has no side."""
        from moa.learning.answer_rows import UNRECORDED
        from moa.learning.epochs import NO_SIDE

        read = await self._read(text, nested)
        nested.note("failed", failure)
        return Consideration(text, NO_SIDE, False, 0, read, None, None, UNRECORDED, record)

    def may_answer(self, consideration: Consideration) -> bool:
        """Return True if the small node's answer may be given. The text may still be held out."""
        accepted = consideration.judged is not None and consideration.judged.accepted
        return accepted and self.learn.answer == "small"

    def answer(self, consideration: Consideration, *, accepted: bool) -> Answer | None:
        """Return the small node's answer, by the head if in use; `None` if nothing was read."""
        if consideration.read is None:
            return None
        judged = consideration.judged
        if judged is None or self._best(judged) == OTHERWISE:
            return replace(consideration.read.own, accepted=accepted)
        probabilities = judged.probabilities[: len(self.asked.options)]
        total = sum(probabilities)
        return Answer(
            question=self.asked,
            probabilities=tuple(p / total for p in probabilities),
            source="encoder",
            accepted=accepted,
            expected_precision=None,
        )

    def label(self, labels: Mapping[str, str], answers: Mapping[str, object]) -> str | None:
        """Return the label of a text by the large model's answers; `None` if one is missing.

        Args:
            labels: Names of the options that it chose, by question name.
            answers: Outputs of the other decisions' agents, by question name.
        """
        names = [self.asked.name, *(decision.name for decision in self.others)]
        if not labels.keys() >= set(names):
            return None
        agrees = all(
            (labels[decision.name] == decision.option) == decision.is_it(answers[decision.name])
            for decision in self.others
        )
        return labels[self.asked.name] if agrees else OTHERWISE

    async def add(
        self, consideration: Consideration, nested: RunContext, *, by_small: bool = False
    ) -> int:
        """Store a text before the large model is asked, and return its index.

        A run that is resumed goes on with the row that it stored before it was killed.
        """
        if consideration.place is not None:
            if by_small:
                await self.spare(consideration.place, nested, moot=False)
            return consideration.place
        learning = await self.ready(nested)
        row = self._row(consideration, by_small=by_small)
        index = await learning.store.run_in_thread(
            lambda: learning.recorder.add(row, consideration.epoch)
        )
        if not self.is_stored(index):
            nested.note("failed", learning.recorder.outage.reason)
        if nested.journal is not None:
            await nested.journal.journal.keep(consideration.record, str(index))
            if by_small:  # no call follows, before which it would be written
                await nested.journal.journal.flush()
        if by_small:
            learning.wake(index)
        return index

    @staticmethod
    def is_stored(index: int) -> bool:
        """Return True if the row that `add` returned is in the store, not waiting to be written."""
        return index > 0

    async def spare(self, index: int, nested: RunContext, *, moot: bool) -> None:
        """Record that the large model isn't asked about a text.

        Args:
            index: Index of the text.
            nested: Context of the run.
            moot: True if it wouldn't be asked whatever the small answer is.
        """
        await self._record(lambda to: to.settle_by_small(index, moot=moot), nested)

    async def teach(
        self,
        index: int,
        ask: Callable[[RunContext], Awaitable[Result[T]]],
        label: Callable[[T], str | None],
        nested: RunContext,
        *,
        repeat: Callable[[RunContext], Awaitable[Result[T]]] | None = None,
        moot: bool = False,
    ) -> Result[T]:
        """Ask the large model, which must not see the small answer, and store its label.

        Args:
            index: Index of the text.
            ask: Asks the large model.
            label: Returns the name of the option that it chose; `None`: it chose none.
            nested: Context of the run.
            repeat: Asks the large model a second time; `None`: it is asked once.
            moot: True if it is asked whatever the small answer is.

        Raises:
            MoaError: the large model failed, which counts as a difference; or it is set up wrong,
                and then the text is dropped.
        """
        start, inner = time.perf_counter(), nested.nested()
        try:
            result = await ask(inner)
        except MoaError as error:
            of_a_text = getattr(error, "status", None) in _OF_A_TEXT
            if isinstance(error, SET_UP_WRONG) and not of_a_text:
                await self._record(lambda to: to.drop(index), nested)
            else:
                answer = _record_answer(inner.usage, None)._replace(moot=moot)
                await self._record(lambda to: to.settle(index, answer), nested)
            raise
        seconds = time.perf_counter() - start
        answer = _record_answer(result.usage, label(result.output))._replace(
            seconds=seconds, moot=moot
        )
        if repeat is not None and answer.calls:  # not of a cache, which nobody was asked
            answer = await self._ask_again(repeat, label, answer, nested)
        await self._record(lambda to: to.settle(index, answer), nested)
        return result

    async def record_failure(self, index: int, nested: RunContext) -> None:
        """Store that the large model gave no answer, which counts as a difference."""
        from moa.learning.answer_rows import LargeAnswer

        await self._record(lambda to: to.settle(index, LargeAnswer(None)), nested)

    async def take(
        self,
        text: str,
        label_values: Mapping[str, object],
        nested: RunContext,
        *,
        case: str | None = None,
        chosen: bool = False,
        people: bool = False,
    ) -> bool:
        """Store a known answer, from a log or from people. Return False if nothing was stored.

        Nothing is stored if the label is missing, or the text was stored before. Texts from a log
        of the large model may be held out, too. People's labels are used for fitting. Those of
        texts drawn for labelling count for the guarantee about people's labels.

        Args:
            text: Text that was answered.
            label_values: Answers, by question name. If some are missing, the text is only used for
                fitting.
            nested: Context of the run.
            case: Case that the text belongs to.
            chosen: True if it was chosen for labelling, so that it is only used for fitting.
            people: True if people have labelled it.

        Raises:
            InputError: a label isn't an option of its question.
        """
        from moa.learning.answer_rows import LargeAnswer

        learning = await self.ready(nested)
        store = learning.store
        labels = self._name_options(label_values)
        label = labels.get(self.asked.name)
        side = store.coin.toss(text, case)
        if label is None:
            return False
        was_drawn = people and await store.run_in_thread(
            lambda: store.add_person_label(side, label)
        )
        if not was_drawn and await store.run_in_thread(lambda: store.indices_of(side)):
            return False
        state, _ = await store.run_in_thread(learning.current)
        fits_alone, learned = people or chosen or len(labels) <= len(self.others), label
        if self.others and not fits_alone:
            outputs = {
                decision.name: (await decision.agent.run(text, nested)).output
                for decision in self.others
            }
            learned = self.label(labels, outputs)
        is_held_out = side.is_held_out(state.looks) and not fits_alone
        consideration = Consideration(
            *(text, side, is_held_out, state.epoch, await self._read(text, nested)),
            *(None, None, None, ""),
        )
        source = "person" if people or chosen else "log"
        row = self._row(consideration, by_small=False)._replace(source=source)
        index = await store.run_in_thread(lambda: store.add(row, state.epoch))
        await store.run_in_thread(lambda: store.settle(index, LargeAnswer(learned, calls=0)))
        learning.wake(index)
        return True

    def _name_options(self, answers: Mapping[str, object]) -> dict[str, str]:
        """Return the names of the chosen options, for the questions that matter here."""
        questions = (self.asked, *(decision.agent.questions[0] for decision in self.others))
        labels = {
            question.name: label_of(question, answers[question.name])
            for question in questions
            if question.name in answers
        }
        return {name: label for name, label in labels.items() if label is not None}

    async def _read(self, text: str, context: RunContext) -> TextReading | None:
        """Read a text; return `None` if that fails, so that the large model answers."""
        from moa.decisions.scorer import logs_of

        features = (_ENCODED,) if self._encodes else ()
        inner = quiet(context.nested(self.small.name))
        try:
            (answer,), further = await self.small.answers_and_reads(text, features, inner)
        except MoaError as error:
            if not error.escalates:
                raise
            context.note("failed", f"{self.small.name!r} could not read it: {error}")
            return None
        if answer.written is not None:
            share = (1 - _WRITTEN) / max(1, len(answer.question.options) - 1)
            options = range(len(answer.question.options))
            probabilities = tuple(_WRITTEN if i == answer.written else share for i in options)
            answer = Answer(question=answer.question, probabilities=probabilities)
        logs = logs_of(answer).tolist()
        if self.others:
            logs.append(-math.log(len(self.question.options)))  # it says nothing of OTHERWISE
        return TextReading(answer, (*logs, *(further[0].vector if further else ())))

    @staticmethod
    def _round(read: TextReading) -> Floats:
        from moa.learning.looks import round_as_stored

        return round_as_stored(read.vector)

    def _row(self, consideration: Consideration, *, by_small: bool) -> NewRow:
        from moa.learning.answer_rows import NewRow

        read, judged, head = consideration.read, consideration.judged, consideration.head
        return NewRow(
            side=consideration.side,
            held=consideration.held,
            source="run",
            vector=None if read is None else read.vector,
            length=len(consideration.text),
            language=language_of(consideration.text) if can_detect() else None,
            text=_storable(consideration.text) if self.learn.keep_texts else None,
            look=None if head is None or judged is None else head.state.used,
            accepts=None if judged is None else judged.passes,
            guess=None if judged is None else self._best(judged),
            sure=None if judged is None else judged.sure,
            by_small=by_small,
            retries=consideration.earlier,
        )

    async def _record(self, change: Callable[[Recorder], int], context: RunContext) -> None:
        """Change a row, now or once that is possible. The answer is given in any case."""
        try:
            learning = await self.ready(context)
        except StoreError as error:
            context.note("failed", str(error))
            return
        if index := await learning.store.run_in_thread(lambda: change(learning.recorder)):
            learning.wake(index)

    async def _ask_again(
        self,
        ask: Callable[[RunContext], Awaitable[Result[T]]],
        label: Callable[[T], str | None],
        answer: LargeAnswer,
        context: RunContext,
    ) -> LargeAnswer:
        """Ask the large model again: its disagreement with itself bounds what can be learned.

        A cache would answer as before, so none is asked. If the second call fails, such as for want
        of budget, the first answer stays.
        """
        silent = quiet(context)
        silent.fresh = True
        try:
            output = label((await ask(silent)).output)
        except MoaError as error:
            context.note("failed", f"the large model was asked twice, and failed: {error}")
            output = None
        second = _record_answer(silent.usage, output)
        cost = None if answer.cost is None or second.cost is None else answer.cost + second.cost
        return answer._replace(
            again=second.label,
            calls=answer.calls + second.calls,
            tokens=(answer.tokens or 0) + (second.tokens or 0),
            cost=cost,
        )

    def _best(self, judged: HeadJudgement) -> str:
        index = judged.probabilities.index(max(judged.probabilities))
        return self.question.options[index].name


def _storable(text: str) -> str:
    """Replace the characters of a text that a database can't hold."""
    return join_surrogates(text).replace("\0", "\ufffd")


def _with_otherwise(question: Question) -> Question:
    return replace(question, options=(*question.options, Option(OTHERWISE, None)))


def _record_answer(usage: Usage, label: str | None) -> LargeAnswer:
    from moa.learning.answer_rows import LargeAnswer

    total = usage.total
    cost = None if total.cost is None else float(total.cost)
    return LargeAnswer(label, calls=total.calls, tokens=total.tokens, cost=cost)
