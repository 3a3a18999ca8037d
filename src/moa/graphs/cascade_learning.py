"""Learning: how a cascade that learns answers an input, and keeps what its large model says.

What is learned, and when it may be used, stands in `moa.calibration.promise`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, cast

from pydantic import ValidationInfo

from moa._async import Lock
from moa.agents.base import In, Out
from moa.agents.deciding import DecidingAgent
from moa.agents.language import can_detect, language_of
from moa.calibration.features import ENCODER, LabelFeature, VectorFeature, read_vector
from moa.calibration.file import QuestionRecord
from moa.calibration.labelled import label_of
from moa.calibration.verifiers import answer_of
from moa.context import RunContext, quiet
from moa.endpoints.encoders import feeds_heads
from moa.endpoints.known import identity_of
from moa.errors import (
    ConfigError,
    EndpointUnauthorized,
    EndpointUnsupported,
    InputError,
    MoaError,
)
from moa.graphs.fields import beside_config
from moa.node import Frozen, Node, Result
from moa.questions import NONE_OF_THESE, Answer, Question
from moa.rows._stores import is_address

if TYPE_CHECKING:
    from moa.calibration.answers import Answered
    from moa.calibration.learning import Head, Judged, Learning
    from moa.calibration.promise import Side

_OWN = LabelFeature(name="small")
"""What the small node says by itself is read like the label probabilities of a model."""
_ENCODED = VectorFeature(name=ENCODER, source=ENCODER, sentences=True)
_WRITTEN = 0.9
"""Probability that a label counts as having which was written, and has none."""


class Learn(Frozen):
    """How a cascade learns, in a table `learn = { where = "answers.db", answer = "large" }`."""

    where: str | Path
    """A file, or `postgresql://USER@HOST/DATABASE#NAME`."""
    answer: Literal["small", "large"] = "small"
    """Whose answer is given where both would do. With `large` nothing is saved, all else is the
    same, and what it would save is known: that is how to try it on what is in use."""
    keep_texts: bool = False
    """Whether texts are kept too: vectors and labels are enough to learn from."""


def read_learn(given: object, info: ValidationInfo) -> object:
    """Read what a cascade was given: a file, which a table names beside its moa.toml, or more."""
    learn = Learn(where=given) if isinstance(given, str | Path) else given
    if isinstance(learn, Mapping):
        learn = Learn.model_validate(learn)
    if not isinstance(learn, Learn) or is_address(learn.where):
        return learn
    return learn.model_copy(update={"where": beside_config(learn.where, info)})


class Answering(NamedTuple, Generic[Out]):
    """An answer, and who gave it."""

    output: Out
    by_small: bool
    accepted: bool


class _Read(NamedTuple):
    """What was read of a text before anybody else was asked."""

    own: Answer
    vector: Sequence[float]


class Learner(Generic[In, Out]):
    """Two nodes, of which the small one learns from the large one's answers.

    Args:
        name: Of the cascade, for errors.
        small: Asks one question.
        large: Gives the labels.
        learn: Where it is kept, and whose answer is given.

    Raises:
        ConfigError: the small node asks no question, or several.
    """

    def __init__(
        self,
        name: str,
        small: Node[In, Out],
        large: Node[In, Out],
        learn: Learn,
    ) -> None:
        if not isinstance(small, DecidingAgent) or len(small.questions) != 1:
            raise ConfigError(
                f"cascade {name!r}: learn takes a small node that asks one question, such as a "
                f"Classifier, and {small.name!r} is none"
            )
        self.small: DecidingAgent[Out] = cast("Any", small)
        self.large, self.learn = large, learn
        self.question: Question = self.small.questions[0]
        encoder = self.small.encoder
        self._encodes = encoder is not None and feeds_heads(encoder)
        self._lock = Lock()
        self._learning: Learning | None = None

    async def ready(self, context: RunContext | None = None) -> Learning:
        """Open the answers, once.

        Raises:
            ConfigError: they belong to another question or other models, or can't be used.
            MissingDependency: what fits heads isn't installed.
        """
        if self._learning is None:
            context = context or RunContext(keep_notes=False)
            async with self._lock.held(context.remaining_s()):
                if self._learning is None:
                    self._learning = await self._open(context)
        return self._learning

    async def _open(self, context: RunContext) -> Learning:
        from moa.calibration.answers import AnswerStore
        from moa.calibration.learning import Learning
        from moa.decisions.regression import check_installed

        check_installed()
        store = AnswerStore(self.learn.where)
        asked = QuestionRecord.model_validate(self.question).model_dump_json()
        made_of = await self._made_of(context)

        def begin() -> None:
            store.open()
            store.bind(asked, made_of)

        await store.beside(begin)
        features = (_OWN, _ENCODED) if self._encodes else (_OWN,)
        return Learning(store, self.question, features, await self._names(context))

    async def _made_of(self, context: RunContext) -> str:
        """Say what reads texts: a head says nothing of what others read."""
        small = self.small
        asked = [small.endpoint] if small.asks_endpoint else []
        if small.encoder is not None and self._encodes:
            asked.append(small.encoder)
        found = [await identity_of(one, context) for one in asked]
        ways = "".join(one.calibration.model_dump_json(exclude={"made"}) for one in small.scorers)
        digest = hashlib.sha256(ways.encode()).hexdigest()[:12]
        return json.dumps({"small": digest, "models": [[one.model, one.digest] for one in found]})

    async def _names(self, context: RunContext) -> Any:
        """Read the names of the options like texts: nobody had to label them."""
        asked = self.question
        if not self._encodes or asked.kind != "choice":
            return None
        import numpy as np

        named = [(i, o) for i, o in enumerate(asked.options) if o.name != NONE_OF_THESE]
        words = [(option.description or option.name).replace("_", " ") for _, option in named]
        sources = self.small.sources
        read = [await read_vector(_ENCODED, word, asked, sources, context) for word in words]
        return np.array(read), np.array([place for place, _ in named])

    async def answer(self, request: In, own: RunContext) -> Answering[Out]:
        """Answer an input, and keep what there is to be learned from it.

        Raises:
            InputError: the text is empty.
            MoaError: the large model failed, and so did the small one; or it is set up wrong.
            StoreError: the answers can't be written.
        """
        text = str(request)
        if not text.strip():
            raise InputError(f"{self.small.name}: the text is empty, so there is nothing to decide")
        if getattr(self.large, "endpoint", None) is self.small.endpoint:
            raise ConfigError(
                f"{self.large.name!r} asks the endpoint of the small node, from which nothing can "
                "be learned. Configure a large model: moa models add --help"
            )
        learning = await self.ready(own)
        store = learning.store
        state, head = await store.beside(learning.now)
        side = store.coin.toss(text, getattr(request, "case", None))
        held = side.is_held_out(state.looks)
        read = await self._read(text, own)
        judged = None
        if head is not None and read is not None:
            judged = head.judge(self._rounded(read), side.key)
        small = judged is not None and judged.accepted and not held and self.learn.answer == "small"
        row = self._row(text, side, held, read, judged, head, small)
        place = await store.beside(lambda: store.add(row, state.epoch))
        if judged is not None and head is not None and small:
            learning.wake(place)
            answered = self._given(judged, head, accepted=True)
            return Answering(self.small.read([answered]), True, True)
        own.note("escalated", f"to {self.large.name!r}: {_why(head, judged, held=held)}")
        return await self._large(request, side, held, place, (read, judged, head), own)

    async def take(
        self, text: str, label: str, own: RunContext, *, case: str | None = None, people: bool
    ) -> bool:
        """Keep an answer that is known, of a log or of people; `False`: the text is known.

        Labels of people are fitted to. Of a log of the large model, texts are held out too.

        Raises:
            InputError: the label is none of the question's.
        """
        from moa.calibration.answers import Answered

        learning = await self.ready(own)
        store = learning.store
        name = label_of(self.question, label)
        side = store.coin.toss(text, case)
        if name is None or await store.beside(lambda: store.places_of(side)):
            return False
        state, _ = await store.beside(learning.now)
        held = side.is_held_out(state.looks) and not people
        read = await self._read(text, own)
        row = self._row(text, side, held, read, None, None, False)
        row = row._replace(source="person" if people else "log")
        place = await store.beside(lambda: store.add(row, state.epoch))
        await self._settle(learning, place, Answered(name, calls=0))
        return True

    async def _read(self, text: str, own: RunContext) -> _Read | None:
        """Read a text; `None` where it can't be, and the large model answers."""
        from moa.calibration.reader import logs_of

        also = (_ENCODED,) if self._encodes else ()
        inner = quiet(own.nested(self.small.name))
        try:
            (answer,), further = await self.small.answers_and_reads(text, also, inner)
        except MoaError as error:
            if not error.escalates:
                raise
            own.note("failed", f"{self.small.name!r} could not read it: {error}")
            return None
        if answer.written is not None:
            rest = (1 - _WRITTEN) / max(1, len(answer.question.options) - 1)
            options = range(len(answer.question.options))
            given = tuple(_WRITTEN if i == answer.written else rest for i in options)
            answer = Answer(question=answer.question, probabilities=given)
        return _Read(answer, (*logs_of(answer).tolist(), *(further[0].vector if further else ())))

    @staticmethod
    def _rounded(read: _Read) -> Any:
        from moa.calibration.learning import rounded

        return rounded(read.vector)

    def _row(
        self,
        text: str,
        side: Side,
        held: bool,
        read: _Read | None,
        judged: Judged | None,
        head: Head | None,
        small: bool,
    ) -> Any:
        from moa.calibration.answers import Row

        return Row(
            side=side,
            held=held,
            source="run",
            vector=None if read is None else read.vector,
            length=len(text),
            language=language_of(text) if can_detect() else None,
            text=text if self.learn.keep_texts else None,
            look=None if head is None or judged is None else head.state.used,
            accepts=None if judged is None else judged.passes,
            guess=None if judged is None else self._best(judged),
            sure=None if judged is None else judged.sure,
            by_small=small,
        )

    async def _large(
        self,
        request: In,
        side: Side,
        held: bool,
        place: int,
        guess: tuple[_Read | None, Judged | None, Head | None],
        own: RunContext,
    ) -> Answering[Out]:
        """Ask the large model, which sees nothing of the small one, and keep what it says."""
        from moa.calibration.answers import Answered

        learning = await self.ready(own)
        start = time.perf_counter()
        try:
            result = await self.large.run(request, own)
        except (EndpointUnauthorized, EndpointUnsupported, ConfigError):
            await learning.store.beside(lambda: learning.store.drop(place))
            raise  # whatever the text is: it would be no difference
        except MoaError as error:
            await self._settle(learning, place, Answered(None))
            if not error.recoverable:
                raise
            own.note("failed", f"{self.large.name!r} gave no answer: {error}")
            return self._guessed(error, *guess)
        seconds = time.perf_counter() - start
        said = self._said(result, seconds)
        if held and side.is_asked_twice:
            said = await self._again(request, said, own)
        await self._settle(learning, place, said)
        return Answering(result.output, False, True)

    async def _settle(self, learning: Learning, place: int, said: Answered) -> None:
        await learning.store.beside(lambda: learning.store.settle(place, said))
        learning.wake(place)

    async def _again(self, request: In, said: Answered, own: RunContext) -> Answered:
        """Ask once more: how far the large model differs from itself is the least that can be."""
        try:
            result = await self.large.run(request, quiet(own))
        except MoaError as error:
            if not error.recoverable:
                raise
            own.note("failed", f"{self.large.name!r} was asked twice, and failed: {error}")
            return said
        more = self._said(result, 0.0)
        cost = None if said.cost is None or more.cost is None else said.cost + more.cost
        return said._replace(
            again=more.label,
            calls=said.calls + more.calls,
            tokens=(said.tokens or 0) + (more.tokens or 0),
            cost=cost,
        )

    def _said(self, result: Result[Out], seconds: float) -> Answered:
        from moa.calibration.answers import Answered

        total = result.usage.total
        cost = None if total.cost is None else float(total.cost)
        label = self._label(result.output)
        return Answered(label, calls=total.calls, tokens=total.tokens, cost=cost, seconds=seconds)

    def _label(self, output: Any) -> str | None:
        """Name the option that the large model gave; `None`: it gave none."""
        if getattr(output, "status", "answered") != "answered":
            return None
        try:
            return label_of(self.question, answer_of(output))
        except InputError:
            return None

    def _best(self, judged: Judged) -> str:
        place = judged.probabilities.index(max(judged.probabilities))
        return self.question.options[place].name

    def _given(self, judged: Judged, head: Head, *, accepted: bool) -> Answer:
        return Answer(
            question=self.question,
            probabilities=judged.probabilities,
            source="encoder",
            accepted=accepted,
            expected_precision=None,
        )

    def _guessed(
        self, error: MoaError, read: _Read | None, judged: Judged | None, head: Head | None
    ) -> Answering[Out]:
        """Give the best guess where the large model failed; without one, its error."""
        if read is None:
            raise error
        answer = read.own
        if judged is not None and head is not None:
            answer = self._given(judged, head, accepted=False)
        return Answering(self.small.read([answer]), True, False)


def _why(head: Head | None, judged: Judged | None, *, held: bool) -> str:
    if held:
        return "held out, to test what is learned"
    if head is None:
        return "nothing is promised yet, and its answer is learned from"
    if judged is None:
        return "the text could not be read"
    if judged.accepted:
        return "answer = 'large'"
    if judged.passes:
        return "it was seen to answer this text otherwise"
    return f"confidence {judged.sure:.3f}, {head.bound.threshold:.3f} is needed"
