"""Reader: reads many texts with one feature after another, within a time limit."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from moa.core._async import map_async
from moa.core.context import RunContext
from moa.core.errors import CapabilityError, EndpointRejected, MissingDependency
from moa.core.questions import NONE_OF_THESE, Answer, Question, Source
from moa.decisions import PromptVariant
from moa.decisions.arrays import Bools, Floats, Ints, np
from moa.decisions.features import (
    DECIDES,
    Feature,
    LabelFeature,
    Progress,
    QuestionFeatures,
    Sources,
    TextReading,
    VectorFeature,
    plan_requests,
    read_vector,
)
from moa.decisions.scorer import values_of

_AT_ONCE = 8
_SECONDS_A_TEXT, _LEAST_S = 1.0, 120.0
"""Time limit for all reading, in seconds per text and at least."""
_PROBE = 6
"""Number of texts to estimate the time from; the first is a warm-up."""


@dataclass(slots=True)
class AnswerCache:
    """Answers to questions that are fitted together; one request asks all of them.

    With the same examples, a text is asked about only once.
    """

    sources: Sources
    questions: Sequence[Question] = ()
    source: Source = "native"
    """Source of the last answers."""
    _known: dict[object, dict[str, Answer]] = field(default_factory=dict[object, dict[str, Answer]])

    async def get(
        self,
        question: Question,
        feature: LabelFeature,
        variant: PromptVariant,
        text: str,
        context: RunContext,
    ) -> Answer:
        """Return the answer to one question. Without examples, the others are asked along."""
        name = feature.lay_out(question).name
        variant_feature = feature.model_copy(update={"prompt_variants": (variant,)})
        asks = [QuestionFeatures(question, [variant_feature])]
        if not (variant or feature.turned or feature.together):
            endpoint = self.sources[feature.source]
            other_questions = (
                other for other in self.questions if other.name not in (name, question.name)
            )
            asks += [
                QuestionFeatures(other, [LabelFeature.of(other, endpoint)])
                for other in other_questions
            ]
        (request,) = plan_requests(asks)
        key = feature.source, feature.turned, feature.together, variant, text
        answers = self._known.setdefault(str(key), {})
        if name not in answers:
            new_answers = await request.ask(text, self.sources, context)
            answers.update((answer.question.name, answer) for answer in new_answers)
        self.source = answers[name].source
        return answers[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureReading:
    """A feature's values for all texts, with the average cost of a text."""

    feature: Feature
    values: Floats
    """Values by text, then by option or part of a vector. `nan` for unread texts."""
    seconds: float
    """Wall time per text, with several in parallel."""
    tokens: float
    """Uncached tokens per text, including answers."""
    cost: Decimal | None
    """US dollars per text; `None`: unknown."""
    names: tuple[Floats, Ints] | None = None
    """The values for the options' names, and the index of each option; `None` if the feature reads
    no names."""


@dataclass(slots=True)
class FeatureReader:
    """Reads texts with one feature after another, until the time is up.

    It reads the texts in `rows` first, to compare features, then the others by the chosen features.
    Equal texts are read once.
    """

    question: Question
    answers: AnswerCache
    texts: Sequence[str]
    context: RunContext
    rows: Bools | None = None
    """True for texts to read first; `None`: all."""
    limit_s: float | None = None
    """Maximum seconds for all reading; `None`: 1 per text, and at least 120."""
    progress: Progress | None = None
    dropped: list[str] = field(default_factory=list[str])
    """Features left out, with reasons, in sentences."""
    most_s: float = math.inf
    """Maximum seconds per text for a feature to be worth its time."""
    _reserved_s: float = 0.0
    """Estimated seconds to read the other rows with all features so far."""
    _started: float = field(default_factory=time.monotonic)

    @property
    def sources(self) -> Sources:
        """Endpoints by role."""
        return self.answers.sources

    def label_feature(
        self, name: str, variants: Sequence[PromptVariant], *, turned: bool = False
    ) -> LabelFeature:
        """Make a feature that asks the deciding endpoint, with the questions fitted together."""
        return LabelFeature.of(
            self.question,
            self.sources[DECIDES],
            name,
            variants,
            turned=turned,
            together=self.answers.questions,
        )

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        limit_s = self.limit_s or max(_LEAST_S, _SECONDS_A_TEXT * len(self.texts))
        return limit_s - (time.monotonic() - self._started)

    @property
    def _is_first(self) -> Bools:
        return np.ones(len(self.texts), bool) if self.rows is None else self.rows

    def _texts_in(self, rows: Bools) -> list[str]:
        return [text for text, is_read in zip(self.texts, rows.tolist(), strict=True) if is_read]

    async def read(self, feature: Feature) -> FeatureReading | None:
        """Read the first rows; `None` if the feature was dropped, with a reason in `dropped`.

        Values of the other rows are `nan` until `read_rest` reads them.
        """
        left_s = self.left_s - self._reserved_s
        if left_s <= 0:
            return self.drop(feature, "the time was up before it")
        return await self._read_in_time(feature, self._read_first(feature), left_s)

    async def read_rest(self, reading: FeatureReading) -> FeatureReading | None:
        """Read the other rows, too; `None` if the feature was dropped after all.

        Their time was reserved, so reading isn't limited even if it has become slower.
        """
        if self._is_first.all():
            return reading
        return await self._read_in_time(reading.feature, self._read_others(reading), math.inf)

    async def _read_in_time(
        self, feature: Feature, work: Coroutine[None, None, FeatureReading | None], limit_s: float
    ) -> FeatureReading | None:
        """Drop a feature if its time is up, or if it can't be read."""
        try:
            async with asyncio.timeout(None if math.isinf(limit_s) else limit_s):
                return await work
        except TimeoutError:
            return self.drop(feature, "it got slower on the way, and the time was up")
        except (CapabilityError, MissingDependency, EndpointRejected) as error:
            return self.drop(feature, str(error))

    async def _read_first(self, feature: Feature) -> FeatureReading | None:
        context = self.context.nested()
        texts = self._texts_in(self._is_first)
        read = self._make_reader(feature, context, 0, len(texts))
        text_values = await read(texts[:1])
        start = time.perf_counter()
        text_values += await read(texts[1:_PROBE])
        seconds = (time.perf_counter() - start) / max(1, len(text_values) - 1)
        reason = self._reason_to_drop(seconds, len(text_values))
        if reason is not None:
            return self.drop(feature, reason)
        text_values += await read(texts[_PROBE:])
        if len(texts) > 1:  # the first of them warmed it up
            seconds = (time.perf_counter() - start) / (len(texts) - 1)
        self._reserved_s += seconds * (len(self.texts) - len(texts))
        total = context.usage.total
        values = np.full((len(self.texts), len(text_values[0])), np.nan)
        values[self._is_first] = np.array(text_values)
        return FeatureReading(
            feature=feature,
            values=values,
            seconds=seconds,
            tokens=(total.tokens - total.cached_input_tokens) / len(texts),
            cost=None if total.cost is None else total.cost / len(texts),
            names=await self._read_names(feature),
        )

    async def _read_others(self, reading: FeatureReading) -> FeatureReading:
        other_rows = ~self._is_first
        done_count = int(self._is_first.sum())
        read = self._make_reader(
            reading.feature, self.context.nested(), done_count, len(self.texts)
        )
        values = reading.values.copy()
        values[other_rows] = np.array(await read(self._texts_in(other_rows)))
        return replace(reading, values=values)

    def _make_reader(
        self, feature: Feature, context: RunContext, done_count: int, total: int
    ) -> Callable[[Sequence[str]], Awaitable[list[Floats]]]:
        """Return a function that reads texts and reports its progress."""
        reads = 0
        variants = feature.prompt_variants if isinstance(feature, LabelFeature) else ((),)

        def report(times: int) -> None:
            nonlocal reads
            reads += times
            if self.progress is not None:
                self.progress(feature.name, done_count + reads // len(variants), total)

        async def read(texts: Sequence[str]) -> list[Floats]:
            counts = {text: texts.count(text) for text in texts}
            answers: list[list[Answer]] = []
            vectors: list[tuple[float, ...]] = []
            # One by one, since a server caches one prompt prefix at a time.
            for variant in variants:

                async def answer(text: str, examples: PromptVariant = variant) -> Answer:
                    assert isinstance(feature, LabelFeature), "else it reads vectors"
                    result = await self.answers.get(self.question, feature, examples, text, context)
                    report(counts[text])
                    return result

                async def vector(text: str) -> tuple[float, ...]:
                    assert not isinstance(feature, LabelFeature), "else it asks"
                    numbers = await read_vector(feature, text, self.question, self.sources, context)
                    report(counts[text])
                    return numbers

                if isinstance(feature, LabelFeature):
                    answers.append(await map_async(answer, list(counts), max_concurrency=_AT_ONCE))
                else:
                    vectors = await map_async(vector, list(counts), max_concurrency=_AT_ONCE)
            readings = [TextReading(vector=numbers) for numbers in vectors] or [
                TextReading(answers=several) for several in zip(*answers, strict=True)
            ]
            pairs = zip(counts, readings, strict=True)
            values = {text: values_of(feature, reading, text) for text, reading in pairs}
            return [values[text] for text in texts]

        return read

    def _reason_to_drop(self, seconds: float, read_count: int) -> str | None:
        """Return why a feature with this time per text is dropped; `None` if it isn't."""
        if seconds > self.most_s:
            return (
                f"it takes {seconds:.1f} s a decision, and even if it were always right the "
                "penalty on its time would make it the worse bargain"
            )
        texts, left_s = len(self.texts), self.left_s - self._reserved_s
        if seconds * (texts - read_count) > left_s:
            left = f"{max(0.0, left_s):.0f} s are left"
            return f"{texts} texts would take {seconds * texts:.0f} s, and {left}"
        return None

    async def _read_names(self, feature: Feature) -> tuple[Floats, Ints] | None:
        """Read the names of the options like texts, if the feature reads texts unchanged."""
        question = self.question
        if not isinstance(feature, VectorFeature) or feature.prompt or question.kind != "choice":
            return None
        indexed_options = [
            (index, option)
            for index, option in enumerate(question.options)
            if option.name != NONE_OF_THESE
        ]
        words = [
            (option.description or option.name).replace("_", " ") for _, option in indexed_options
        ]
        vectors = [
            await read_vector(feature, word, question, self.sources, self.context) for word in words
        ]
        return np.array(vectors), np.array([index for index, _ in indexed_options])

    def drop(self, feature: Feature, reason: str) -> None:
        """Leave a feature out, and record the reason."""
        self.dropped.append(f"{feature.name} left out: {reason}")
