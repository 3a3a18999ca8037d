"""Features: the inputs of a calibration, and how one text is read with all of them.

Features are written into the calibration's file. A feature names its endpoint by a role, since a
file can't hold one: `slm` is the endpoint that decides. Nothing here needs numpy.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field

from moa.core._async import gather
from moa.core._text import one_line
from moa.core.context import RunContext
from moa.core.errors import CapabilityError, InvalidResponse
from moa.core.node import Frozen
from moa.core.questions import Answer, Kind, Option, Question
from moa.core.usage import FREE
from moa.decisions import PromptVariant
from moa.decisions.encoders import (
    LOCAL,
    HasHiddenStates,
    encoder_for,
    feeds_heads,
    heads_of,
)
from moa.endpoints import Endpoint, Example
from moa.endpoints.known import answers_as_json
from moa.endpoints.sent import rehearse_questions
from moa.endpoints.wrappers import innermost

DECIDES = "slm"
"""Role of the endpoint that decides."""
HIDDEN = "hidden states"
"""Role of the embedded model's hidden states, just before it names the label."""
SENTENCES = "sentences"
"""Role of a small sentence encoder on this machine."""
ENCODER = "encoder"
"""Role of the joint encoder. Shipped heads and `WordsFeature` read its vectors."""
ASKED_AS = "label"
"""Name of the question in the examples of a feature, whatever the agent calls it."""
PROMPT = "Task: {question}\nText: {text}\nLabel:"
"""Prompt whose last hidden state is taken, where the model is about to name the label."""
Sources = Mapping[str, Endpoint]
"""Endpoints by role."""
Progress = Callable[[str, int, int], None]
"""Called with the name of a feature, the number of texts done, and their total."""
_LONGEST = 4000
"""Maximum characters to embed, since longer texts may not fit the encoder."""


class _Sources(Mapping[str, Endpoint]):
    """Endpoints by role; local encoders are looked for when a feature first reads from one.

    Most agents ask one served model, and never load what encodes in this process.
    """

    def __init__(self, endpoint: Endpoint, encoder: Endpoint | None) -> None:
        self._found: dict[str, Endpoint | None] = {DECIDES: endpoint}
        self._encoder = encoder
        self._price = FREE
        inner = innermost(endpoint)
        if isinstance(inner, HasHiddenStates):
            self._found[HIDDEN] = inner.hidden_states
            self._price = inner.price  # the small encoder runs on the same machine

    def __getitem__(self, role: str) -> Endpoint:
        if role not in self._found:
            self._found[role] = self._find(role)
        found = self._found[role]
        if found is None:
            raise KeyError(role)
        return found

    def __iter__(self) -> Iterator[str]:
        return (role for role in (DECIDES, SENTENCES, ENCODER, HIDDEN) if role in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _find(self, role: str) -> Endpoint | None:
        if role == SENTENCES:
            return LOCAL.open().small_encoder(self._price)
        encoder = self._encoder or encoder_for(self[DECIDES]) if role == ENCODER else None
        return encoder if feeds_heads(encoder) else None


def sources_of(endpoint: Endpoint, *, encoder: Endpoint | None = None) -> Sources:
    """Return the endpoints to read from, by role: the deciding one, and encoders."""
    return _Sources(endpoint, encoder)


class OptionRecord(Frozen):
    """An allowed answer."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    description: str | None = None


class QuestionRecord(Frozen):
    """A question and its options."""

    model_config = ConfigDict(from_attributes=True)

    kind: Kind
    text: str
    options: tuple[OptionRecord, ...]

    def question(self, name: str = ASKED_AS) -> Question:
        """Rebuild the question, with the names of the options as labels."""
        options = tuple(Option(o.name, o.name, o.description) for o in self.options)
        return Question(name, self.kind, self.text, options)


class AskedQuestion(QuestionRecord):
    """A question of a request, under its name there."""

    name: str


class LabelFeature(Frozen):
    """The probabilities of the labels, averaged over prompt variants."""

    kind: Literal["labels"] = "labels"
    name: str = "labels"
    source: str = DECIDES
    prompt_variants: tuple[PromptVariant, ...] = ((),)
    """Labelled texts to show in each variant; an empty one leaves the choice to the endpoint."""
    turned: bool = False
    """True if the options are listed in reverse order."""
    read_as: str | None = Field(default="", exclude_if=lambda value: value == "")
    """Way of asking in files of older versions, whose seal covers it. `layout` tells it now."""
    layout: str = ""
    """The request without a text; empty if nothing was fitted to it."""
    asked_as: str = ASKED_AS
    """Name of the question during the fit, since a server may read it; empty: its own name."""
    together: tuple[AskedQuestion, ...] = Field(default=(), exclude_if=operator.not_)
    """All questions of the request, in order, where an answer stands under those before it. A fit
    holds for this request alone, so it is sent again whatever else is asked. Empty if each question
    is read by itself, or if nothing was fitted to it."""

    @classmethod
    def of(
        cls,
        question: Question,
        endpoint: Endpoint,
        name: str = "labels",
        variants: Iterable[PromptVariant] = ((),),
        *,
        turned: bool = False,
        together: Sequence[Question] = (),
    ) -> LabelFeature:
        """Make a feature to fit to, which reads a question as suits the endpoint.

        Args:
            question: The question, under the name that it is asked by.
            endpoint: The endpoint that is asked.
            name: Name of the feature.
            variants: Labelled texts to show in each variant.
            turned: List the options in reverse order.
            together: The questions that are asked in one request, this one among them; empty: it is
                asked alone. Only a plain variant is asked together.
        """
        variants = tuple(variants)
        feature = cls(name=name, prompt_variants=variants, turned=turned, asked_as=question.name)
        asked: tuple[Question, ...] = ()
        if answers_as_json(endpoint):
            from moa.endpoints.json_answers import in_requests

            alone = turned or any(variants) or question.name not in {q.name for q in together}
            if alone:
                asked = (feature.lay_out(question),)
            else:  # those that it shares a request with
                batches = in_requests(together)
                asked = next(tuple(b) for b in batches if question.name in {q.name for q in b})
        return feature.model_copy(
            update={
                "layout": layout_of(feature.lay_out(question), asked),
                "together": tuple(map(AskedQuestion.model_validate, asked)),
            }
        )

    def lay_out(self, question: Question) -> Question:
        """Return the question as the endpoint is asked it."""
        options = question.options[::-1] if self.turned else question.options
        return replace(question, name=self.asked_as or question.name, options=options)


class VectorFeature(Frozen):
    """A vector of the text, for a linear head."""

    kind: Literal["vector"] = "vector"
    name: str
    source: str
    prompt: str | None = None
    """Text to embed, with `{question}` and `{text}`; `None`: the text alone."""
    sentences: bool = False
    """True to append the mean of the sentences' vectors to that of the whole text."""
    each: bool = Field(default=False, exclude_if=operator.not_)
    """True to append each sentence's vectors too, for a head that one sentence can decide."""


class WordsFeature(Frozen):
    """Probabilities by the question's words and by examples of its labels.

    Nothing is fitted: the heads that come with the encoder read them, a criterion without examples.
    """

    kind: Literal["words"] = "words"
    name: str = "words"
    source: str = ENCODER
    examples: PromptVariant = ()
    """Texts with their labels, of a choice."""


Feature = Annotated[LabelFeature | VectorFeature | WordsFeature, Field(discriminator="kind")]


def layout_of(question: Question, together: Sequence[Question]) -> str:
    """Return the request of a question without a text and examples.

    Args:
        question: The question as it is asked.
        together: All questions of the request if the answers are JSON; else empty.
    """
    if together:
        from moa.endpoints.json_answers import form_of

        return form_of(together)
    from moa.endpoints.layouts import label_prompt

    return label_prompt(replace(question, name=ASKED_AS), "", ()).text


def as_prompt_variant(question: Question, examples: Sequence[Example]) -> PromptVariant:
    """Rename the labels of examples to the name that features use; unlabelled ones stay."""
    labels = [example.labels.get(question.name) for example in examples]
    return tuple(
        Example(example.text, {} if label is None else {ASKED_AS: label})
        for example, label in zip(examples, labels, strict=True)
    )


def make_words_feature(question: Question, examples: Sequence[Example]) -> WordsFeature:
    """Make a feature that reads a question by its words, and a choice by its examples, too.

    Unlabelled examples and repeated texts are left out. The examples' labels have the name that
    features use.
    """
    if question.kind != "choice":
        return WordsFeature()
    labelled = {example.text: example for example in examples if example.labels}
    return WordsFeature(examples=tuple(labelled.values()))


class TextReading(NamedTuple):
    """The values that a feature read from a text: answers or numbers."""

    answers: tuple[Answer, ...] = ()
    """Answers, one per prompt variant."""
    vector: tuple[float, ...] = ()
    """A vector, or log-probabilities of the options."""


class QuestionFeatures(NamedTuple):
    """A question, with the features to compute from a text for it."""

    question: Question
    features: Sequence[Feature]


_FeatureIndex = tuple[int, int, int]
"""Index of the question, of its feature, and of the prompt variant."""
_Encoding = tuple[str, str | None, bool, bool]
"""Role, prompt including the question, whether sentences are encoded, and whether each is kept."""


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """Questions asked in one request, since they show the same examples."""

    source: str
    examples: PromptVariant
    questions: tuple[Question, ...]
    places: Mapping[_FeatureIndex, int]
    """Places of the answers that are read, by what reads them."""

    async def ask(self, text: str, sources: Sources, context: RunContext) -> tuple[Answer, ...]:
        """Ask about a text.

        Raises:
            InvalidResponse: other questions were answered.
            EndpointError: the request failed.
        """
        source, questions, examples = sources[self.source], self.questions, self.examples
        await rehearse_questions(source, text, questions, context, examples=examples)
        decision = await source.decide(text, questions, context, examples=examples)
        asked_names = [question.name for question in self.questions]
        answered_names = [answer.question.name for answer in decision.answers]
        if asked_names != answered_names:
            raise InvalidResponse(
                f"asked {asked_names}, it answered {answered_names}", endpoint=decision.endpoint
            )
        return decision.answers


@dataclass(slots=True)
class _Group:
    """The parts of a request that is being put together."""

    source: str
    questions: list[Question]
    is_fixed: bool
    """True if a fit holds for just these questions."""
    parts: list[tuple[Question, PromptVariant, _FeatureIndex]] = field(
        default_factory=list[tuple[Question, PromptVariant, _FeatureIndex]]
    )

    def takes(self, question: Question) -> bool:
        """Return True if a question can be asked in this request."""
        if self.is_fixed:
            return any(_is_same(question, other) for other in self.questions)
        return all(question.name != other.name for other in self.questions)

    def place_of(self, name: str) -> int:
        """Return the place of a question."""
        return [question.name for question in self.questions].index(name)


def _is_same(first: Question, second: Question) -> bool:
    """Return True if two questions are asked in the same words."""
    records = AskedQuestion.model_validate(first), AskedQuestion.model_validate(second)
    return first.unknown == second.unknown and records[0] == records[1]


def plan_requests(asks: Sequence[QuestionFeatures]) -> list[LabelRequest]:
    """Combine questions with the same endpoint and examples into one request.

    A request that something was fitted to is sent as it was then, and also answers others that ask
    the same. Questions with the same name go into different requests.
    """
    parts = [
        (feature, examples, question, (question_index, feature_index, variant))
        for question_index, (question, features) in enumerate(asks)
        for feature_index, feature in enumerate(features)
        if isinstance(feature, LabelFeature)
        for variant, examples in enumerate(feature.prompt_variants)
    ]
    parts.sort(key=lambda part: not part[0].together)  # others may join these
    groups: dict[object, list[_Group]] = {}
    for feature, examples, question, index in parts:
        key = feature.source, feature.turned, tuple(example.text for example in examples)
        asked = feature.lay_out(question)
        fixed = [record.question(record.name) for record in feature.together]
        same = groups.setdefault(key, [])
        group = next(
            (
                group
                for group in same
                if (group.questions == fixed if fixed else group.takes(asked))
            ),
            None,
        )
        if group is None:
            group = _Group(feature.source, fixed, is_fixed=bool(fixed))
            same.append(group)
        if not group.is_fixed:
            group.questions.append(asked)
        group.parts.append((asked, examples, index))
    return [
        LabelRequest(
            source=group.source,
            examples=_merge_examples(group.parts),
            questions=tuple(group.questions),
            places={index: group.place_of(asked.name) for asked, _, index in group.parts},
        )
        for several in groups.values()
        for group in several
    ]


def _merge_examples(
    parts: Sequence[tuple[Question, PromptVariant, _FeatureIndex]],
) -> PromptVariant:
    """Give each example the labels of all the questions."""
    labels_by_part = [
        [(q.name, e.labels.get(ASKED_AS)) for e in examples] for q, examples, _ in parts
    ]
    return tuple(
        Example(example.text, {name: label for name, label in labels if label is not None})
        for example, labels in zip(parts[0][1], zip(*labels_by_part, strict=True), strict=True)
    )


def _encoding_of(feature: Feature, question: Question) -> _Encoding | None:
    if isinstance(feature, WordsFeature):
        return feature.source, None, True, False
    if isinstance(feature, LabelFeature):
        return None
    # The text itself isn't formatted here: it may have braces in it.
    prompt = feature.prompt and feature.prompt.replace("{question}", one_line(question.text))
    return feature.source, prompt, feature.sentences, feature.each


async def encode(
    encoding: _Encoding, text: str, sources: Sources, context: RunContext
) -> tuple[float, ...]:
    """Encode a text as a vector."""
    source, prompt, by_sentence, keeps_each = encoding
    if by_sentence:
        from moa.decisions.heads import encode as encode_for_heads

        return (await encode_for_heads(sources[source], [text], context, separately=keeps_each))[0]
    words = text[:_LONGEST]
    if prompt is not None:
        words = prompt.replace("{text}", one_line(words))
    return (await sources[source].embed([words], context)).vectors[0]


async def read_vector(
    feature: VectorFeature | WordsFeature,
    text: str,
    question: Question,
    sources: Sources,
    context: RunContext,
) -> tuple[float, ...]:
    """Encode one text for a feature, without the text's own label among the examples."""
    encoding = _encoding_of(feature, question)
    assert encoding is not None, "it reads a vector"
    vector = await encode(encoding, text, sources, context)
    return await _apply_head(feature, question, vector, sources, context, left_out=text)


async def _apply_head(
    feature: Feature,
    question: Question,
    vector: tuple[float, ...],
    sources: Sources,
    context: RunContext,
    *,
    left_out: str | None = None,
) -> tuple[float, ...]:
    if not isinstance(feature, WordsFeature):
        return vector
    encoder = sources[feature.source]
    if (heads := heads_of(encoder)) is None:
        raise CapabilityError(f"no heads come with {encoder.name!r}, so it can't read by words")
    return await heads.read(
        vector, question, context, encoder=encoder, examples=feature.examples, left_out=left_out
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests and encodings of one text for several questions, each made once."""

    questions: tuple[QuestionFeatures, ...]
    requests: tuple[LabelRequest, ...]
    encodings: tuple[_Encoding, ...]

    @classmethod
    def of(cls, asks: Iterable[QuestionFeatures]) -> Plan:
        """Collect the requests and encodings."""
        asks = tuple(asks)
        all_encodings = (
            _encoding_of(feature, ask.question) for ask in asks for feature in ask.features
        )
        encodings = tuple(
            dict.fromkeys(encoding for encoding in all_encodings if encoding is not None)
        )
        return cls(asks, tuple(plan_requests(asks)), encodings)

    async def read(
        self, text: str, sources: Sources, context: RunContext
    ) -> list[list[TextReading]]:
        """Read a text; return the reading of each feature, for each question."""
        answers: dict[_FeatureIndex, Answer] = {}
        vectors: dict[_Encoding, tuple[float, ...]] = {}

        async def ask(request: LabelRequest) -> None:
            answered = await request.ask(text, sources, context)
            answers.update({index: answered[place] for index, place in request.places.items()})

        async def vector(encoding: _Encoding) -> None:
            vectors[encoding] = await encode(encoding, text, sources, context)

        await gather([*map(ask, self.requests), *map(vector, self.encodings)])
        readings: list[list[TextReading]] = []
        for question_index, (question, features) in enumerate(self.questions):
            reads: list[TextReading] = []
            for feature_index, feature in enumerate(features):
                if isinstance(feature, LabelFeature):
                    variants = range(len(feature.prompt_variants))
                    reads.append(
                        TextReading(
                            answers=tuple(
                                answers[question_index, feature_index, v] for v in variants
                            )
                        )
                    )
                    continue
                encoding = _encoding_of(feature, question)
                assert encoding is not None, "it reads a vector"
                numbers = await _apply_head(feature, question, vectors[encoding], sources, context)
                reads.append(TextReading(vector=numbers))
            readings.append(reads)
        return readings
