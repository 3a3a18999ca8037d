"""Features: what a calibration reads of a text, each with an endpoint, within a limit of time.

A feature is written into the calibration's file, and read back from it. It names its endpoint by a
role, since a file can't hold one: `slm` is the endpoint that decides.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from moa._async import map_async
from moa.context import RunContext
from moa.decisions.arrays import Bools, Floats, Ints, np
from moa.endpoints import Endpoint, Example
from moa.endpoints.embedded import EmbeddedEndpoint
from moa.endpoints.encoders import SentenceEncoder
from moa.endpoints.logprobs import label_prompt, one_line
from moa.endpoints.wrappers import unwrapped
from moa.errors import CapabilityError, EndpointRejected, InvalidResponse, MissingDependency
from moa.node import Frozen
from moa.questions import NONE_OF_THESE, Layout, Question

DECIDES = "slm"
"""Role of the endpoint that decides."""
HIDDEN = "hidden states"
"""Role of the embedded model itself, which is about to name the label."""
SENTENCES = "sentences"
"""Role of a small sentence encoder on this machine."""
ASKED_AS = "label"
"""Name of the question in the examples of a feature, whatever an agent calls it."""
PROMPT = "Task: {question}\nText: {text}\nLabel:"
"""Of which the last hidden state is taken: the model is about to name the label there."""
Sources = Mapping[str, Endpoint]
"""Endpoints by role."""
Progress = Callable[[str, int, int], None]
"""Called with the name of a feature or a design, the texts it has done, and those to do in all."""
_LEAST_MASS = 1e-3
"""A smaller label mass tells no more."""
_LONGEST = 4000
"""Characters of a text that are embedded: longer ones may not fit the encoder."""
_AT_ONCE = 8
_SECONDS_A_TEXT, _LEAST_S = 1.0, 120.0
"""Seconds that reading may take in all, for each text and at least."""
_PROBE = 6
"""Texts that are read first, to see how long all would take; the first of them warms up."""


def sources_of(
    endpoint: Endpoint, embedders: Mapping[str, Endpoint] | None = None
) -> dict[str, Endpoint]:
    """Give all that can be read from: who decides, its hidden states, encoders, by role."""
    found: dict[str, Endpoint] = {DECIDES: endpoint, SENTENCES: SentenceEncoder()}
    inner = unwrapped(endpoint)
    if isinstance(inner, EmbeddedEndpoint):
        found[SENTENCES] = SentenceEncoder(price=inner.price)  # it runs on the same machine
        found[HIDDEN] = inner.hidden_states
    return {**found, **(embedders or {})}


class LabelFeature(Frozen):
    """The probabilities of the labels, averaged over prompt variants."""

    kind: Literal["labels"] = "labels"
    name: str
    source: str = DECIDES
    prompt_variants: tuple[tuple[Example, ...], ...] = ((),)
    """Labelled texts that are shown; an empty one is the endpoint's own way."""
    turned: bool = False
    """Whether the options are asked for in the opposite order."""
    read_as: Layout = "completion"
    """How the prompt is laid out, whatever comes to be known of the model later."""
    layout: str
    """What the prompt looked like without a text; see `layout_of`."""

    async def read(
        self,
        texts: Sequence[str],
        question: Question,
        sources: Sources,
        context: RunContext,
        told: Callable[[], None] | None = None,
    ) -> list[Floats]:
        """Log-probabilities of the options; without the log, they add up to the label mass.

        `told` is called after each reading of a text.
        """
        options = question.options[::-1] if self.turned else question.options
        asked = replace(question, name=ASKED_AS, options=options, layout=self.read_as)
        found: list[list[Floats]] = []
        # One by one, since a server keeps one beginning of a prompt at a time.
        for variant in self.prompt_variants:

            async def one(text: str, shown: Sequence[Example] = variant) -> Floats:
                logs = await _logs(text, asked, sources[self.source], context, shown)
                if told is not None:
                    told()
                return logs[::-1] if self.turned else logs

            found.append(await map_async(one, texts, max_concurrency=_AT_ONCE))
        return [
            self._mean(text, logs)
            for text, logs in zip(texts, zip(*found, strict=True), strict=True)
        ]

    def _mean(self, text: str, found: Sequence[Floats]) -> Floats:
        """Average the variants but those that show the very text, where there are others."""
        shown = [
            any(example.text == text for example in variant) for variant in self.prompt_variants
        ]
        fair = [logs for logs, is_shown in zip(found, shown, strict=True) if not is_shown]
        mean: Floats = np.mean(fair or found, 0)
        return mean


class VectorFeature(Frozen):
    """A vector of the text, for a linear head."""

    kind: Literal["vector"] = "vector"
    name: str
    source: str
    prompt: str | None = None
    """What is embedded, with `{question}` and `{text}`; `None` is the text alone."""

    async def read(
        self,
        texts: Sequence[str],
        question: Question,
        sources: Sources,
        context: RunContext,
        told: Callable[[], None] | None = None,
    ) -> list[Floats]:
        """Read the vectors of texts; the arguments are those of a `LabelFeature`."""

        async def one(text: str) -> Floats:
            words = text[:_LONGEST]
            if self.prompt is not None:
                words = self.prompt.format(question=one_line(question.text), text=one_line(words))
            found = await sources[self.source].embed([words], context)
            if told is not None:
                told()
            return np.array(found.vectors[0])

        return await map_async(one, texts, max_concurrency=_AT_ONCE)


Feature = Annotated[LabelFeature | VectorFeature, Field(discriminator="kind")]


def layout_of(question: Question, read_as: Layout) -> str:
    """Write the prompt of a question as it is without a text and examples."""
    return label_prompt(question, "", (), layout=read_as).text


async def _logs(
    text: str, question: Question, endpoint: Endpoint, context: RunContext, shown: Sequence[Example]
) -> Floats:
    decision = await endpoint.decide(text, [question], context, examples=shown)
    if len(decision.answers) != 1:
        raise InvalidResponse(
            f"it gave {len(decision.answers)} answers to one question", endpoint=endpoint.name
        )
    answer = decision.answers[0]
    if answer.source == "text":
        raise CapabilityError(
            f"{endpoint.name} writes its labels, so there are no probabilities to calibrate"
        )
    n = len(question.options)
    if answer.probabilities is None:  # refused: all options are as likely, and none is likely
        return np.full(n, np.log(_LEAST_MASS / n))
    mass = 1.0 if answer.label_mass is None else max(answer.label_mass, _LEAST_MASS)
    return np.log(np.maximum(np.array(answer.probabilities), 1e-45)) + np.log(mass)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a feature gave to all texts, and what a text took on average."""

    feature: Feature
    values: Floats
    """Texts, options or parts of a vector; `nan` of a text that wasn't read."""
    seconds: float
    """Wall time of a text, several being read at once."""
    tokens: float
    """Tokens of a text that no cache had, answers included."""
    cost: Decimal | None
    """US dollars of a text; `None` is unknown."""
    names: tuple[Floats, Ints] | None = None
    """What it gave to the names of the options, and which options they are; `None` where it reads
    no names."""


@dataclass(slots=True)
class FeatureReader:
    """Reads texts with one feature after another, until the time is up.

    First some `rows`, by which features are compared; then the others, with those that were chosen.
    """

    question: Question
    sources: Sources
    texts: Sequence[str]
    context: RunContext
    rows: Bools | None = None
    """The texts that are read first; `None`: all."""
    limit_s: float | None = None
    """Seconds that all may take; `None`: 1 a text, and at least 120."""
    progress: Progress | None = None
    dropped: list[str] = field(default_factory=list[str])
    """Features that were left out, and why, in sentences."""
    most_s: float = math.inf
    """Seconds a text from which on a feature can't be worth its time, however good it is."""
    _reserved_s: float = 0.0
    """Seconds that the other rows would take with all features read so far."""
    _started: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        limit_s = self.limit_s or max(_LEAST_S, _SECONDS_A_TEXT * len(self.texts))
        return limit_s - (time.monotonic() - self._started)

    @property
    def _is_first(self) -> Bools:
        return np.ones(len(self.texts), bool) if self.rows is None else self.rows

    def _of(self, rows: Bools) -> list[str]:
        return [text for text, taken in zip(self.texts, rows.tolist(), strict=True) if taken]

    async def read(self, feature: Feature) -> Reading | None:
        """Read the first rows; `None` where the feature was dropped, and `dropped` says why.

        Of the others there is no number (`nan`) yet; `rest` reads them.
        """
        left_s = self.left_s - self._reserved_s
        if left_s <= 0:
            return self.drop(feature, "the time was up before it")
        return await self._within(feature, self._first(feature), left_s)

    async def rest(self, reading: Reading) -> Reading | None:
        """Read the other rows too; `None` where the feature was dropped after all.

        The time for it was set aside, so it is read to the end even if it got slower since.
        """
        if self._is_first.all():
            return reading
        return await self._within(reading.feature, self._others(reading), math.inf)

    async def _within(
        self, feature: Feature, work: Coroutine[None, None, Reading | None], limit_s: float
    ) -> Reading | None:
        """Drop a feature where its time is up, or it can't be read."""
        try:
            async with asyncio.timeout(None if math.isinf(limit_s) else limit_s):
                return await work
        except TimeoutError:
            return self.drop(feature, "it got slower on the way, and the time was up")
        except (CapabilityError, MissingDependency, EndpointRejected) as error:
            return self.drop(feature, str(error))

    async def _first(self, feature: Feature) -> Reading | None:
        context = self.context.nested()
        texts = self._of(self._is_first)
        read = self._reads(feature, context, 0, len(texts))
        found = await read(texts[:1])
        warm = time.perf_counter()
        found += await read(texts[1:_PROBE])
        each = (time.perf_counter() - warm) / max(1, len(found) - 1)
        why = self._hopeless(each, len(found))
        if why is not None:
            return self.drop(feature, why)
        found += await read(texts[_PROBE:])
        if len(texts) > 1:  # the first of them warmed it up
            each = (time.perf_counter() - warm) / (len(texts) - 1)
        self._reserved_s += each * (len(self.texts) - len(texts))
        total = context.usage.total
        values = np.full((len(self.texts), len(found[0])), np.nan)
        values[self._is_first] = np.array(found)
        return Reading(
            feature=feature,
            values=values,
            seconds=each,
            tokens=(total.tokens - total.cached_input_tokens) / len(texts),
            cost=None if total.cost is None else total.cost / len(texts),
            names=await self._names(feature),
        )

    async def _others(self, reading: Reading) -> Reading:
        others = ~self._is_first
        done = int(self._is_first.sum())
        read = self._reads(reading.feature, self.context.nested(), done, len(self.texts))
        values = reading.values.copy()
        values[others] = np.array(await read(self._of(others)))
        return replace(reading, values=values)

    def _reads(
        self, feature: Feature, context: RunContext, done: int, total: int
    ) -> Callable[[Sequence[str]], Awaitable[list[Floats]]]:
        """Make what reads texts, and tells how far it is after each."""
        reads = 0
        times = 1 if isinstance(feature, VectorFeature) else len(feature.prompt_variants)

        def told() -> None:
            nonlocal reads
            reads += 1
            if self.progress is not None:
                self.progress(feature.name, done + reads // times, total)

        async def read(some: Sequence[str]) -> list[Floats]:
            return await feature.read(some, self.question, self.sources, context, told)

        return read

    def _hopeless(self, each: float, read: int) -> str | None:
        """Say why a feature that takes so many seconds a text is not to be read any further."""
        if each > self.most_s:
            return (
                f"it takes {each:.1f} s a decision, and even if it were always right the penalty "
                "on its time would make it the worse bargain"
            )
        texts, left_s = len(self.texts), self.left_s - self._reserved_s
        if each * (texts - read) > left_s:
            left = f"{max(0.0, left_s):.0f} s are left"
            return f"{texts} texts would take {each * texts:.0f} s, and {left}"
        return None

    async def _names(self, feature: Feature) -> tuple[Floats, Ints] | None:
        """Read the names of the options like texts, where texts are read as they are."""
        asked = self.question
        if not isinstance(feature, VectorFeature) or feature.prompt or asked.kind != "choice":
            return None
        named = [
            (place, option)
            for place, option in enumerate(asked.options)
            if option.name != NONE_OF_THESE
        ]
        words = [(option.description or option.name).replace("_", " ") for _, option in named]
        read = await feature.read(words, asked, self.sources, self.context)
        return np.array(read), np.array([place for place, _ in named])

    def drop(self, feature: Feature, why: str) -> None:
        """Leave a feature out, and keep why."""
        self.dropped.append(f"{feature.name} left out: {why}")
