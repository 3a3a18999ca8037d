"""Features: what a calibration reads of a text, and how one text is read with all of them.

A feature is written into the calibration's file, and read back from it. It names its endpoint by a
role, since a file can't hold one: `slm` is the endpoint that decides. Nothing here needs numpy.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from moa._async import gather
from moa.context import RunContext
from moa.decisions import PromptVariant
from moa.endpoints import Endpoint, Example
from moa.endpoints.embedded import EmbeddedEndpoint
from moa.endpoints.encoders import SentenceEncoder, encoder_for, feeds_heads
from moa.endpoints.known import facts_of
from moa.endpoints.layouts import label_prompt, one_line
from moa.endpoints.wrappers import innermost
from moa.errors import InvalidResponse
from moa.node import Frozen
from moa.questions import Answer, Layout, Question

DECIDES = "slm"
"""Role of the endpoint that decides."""
HIDDEN = "hidden states"
"""Role of the embedded model itself, which is about to name the label."""
SENTENCES = "sentences"
"""Role of a small sentence encoder on this machine."""
ENCODER = "encoder"
"""Role of the joint encoder, whose vectors the shipped heads and words are read from."""
ASKED_AS = "label"
"""Name of the question in the examples of a feature, whatever an agent calls it."""
PROMPT = "Task: {question}\nText: {text}\nLabel:"
"""Of which the last hidden state is taken: the model is about to name the label there."""
Sources = Mapping[str, Endpoint]
"""Endpoints by role."""
Progress = Callable[[str, int, int], None]
"""Called with the name of a feature or a design, the texts it has done, and those to do in all."""
_LONGEST = 4000
"""Characters of a text that are embedded: longer ones may not fit the encoder."""


def sources_of(
    endpoint: Endpoint,
    embedders: Mapping[str, Endpoint] | None = None,
    *,
    encoder: Endpoint | None = None,
) -> dict[str, Endpoint]:
    """Give all that can be read from: who decides, its hidden states, encoders, by role."""
    found: dict[str, Endpoint] = {DECIDES: endpoint, SENTENCES: SentenceEncoder()}
    encoder = encoder or encoder_for(endpoint)
    if feeds_heads(encoder):
        found[ENCODER] = encoder
    inner = innermost(endpoint)
    if isinstance(inner, EmbeddedEndpoint):
        found[SENTENCES] = SentenceEncoder(price=inner.price)  # it runs on the same machine
        found[HIDDEN] = inner.hidden_states
    return {**found, **(embedders or {})}


class LabelFeature(Frozen):
    """The probabilities of the labels, averaged over prompt variants."""

    kind: Literal["labels"] = "labels"
    name: str = "labels"
    source: str = DECIDES
    prompt_variants: tuple[PromptVariant, ...] = ((),)
    """Labelled texts that are shown; an empty one is the endpoint's own way."""
    turned: bool = False
    """Whether the options are asked for in the opposite order."""
    read_as: Layout | None = "completion"
    """How the prompt is laid out, whatever comes to be known of the model later; `None`: as is
    known to suit the model."""
    layout: str = ""
    """What the prompt looked like without a text; empty where nothing was fitted to it."""
    asked_as: str = ASKED_AS
    """Name that the question had when it was fitted, since a server may look at it; empty: the
    name that it has."""

    @classmethod
    def of(
        cls,
        question: Question,
        endpoint: Endpoint,
        name: str = "labels",
        shown: Iterable[PromptVariant] = ((),),
        *,
        turned: bool = False,
    ) -> LabelFeature:
        """Read a question in the layout that suits the endpoint's model, and write that down."""
        read_as = facts_of(endpoint.model).layout_of(question.kind)
        return cls(
            name=name,
            prompt_variants=tuple(shown),
            turned=turned,
            read_as=read_as,
            layout=layout_of(question, read_as),
            asked_as=question.name,
        )

    def asked(self, question: Question) -> Question:
        """Lay the question out as it is asked."""
        options = question.options[::-1] if self.turned else question.options
        name, layout = self.asked_as or question.name, self.read_as or question.layout
        return replace(question, name=name, options=options, layout=layout)


class VectorFeature(Frozen):
    """A vector of the text, for a linear head."""

    kind: Literal["vector"] = "vector"
    name: str
    source: str
    prompt: str | None = None
    """What is embedded, with `{question}` and `{text}`; `None` is the text alone."""
    sentences: bool = False
    """Whether the mean of its sentences' vectors follows that of the whole text."""
    each: bool = Field(default=False, exclude_if=operator.not_)
    """Whether the same of each sentence follows that, for a head to which one is enough."""


class WordsFeature(Frozen):
    """What a question's words, and examples of its labels, make of the text: probabilities.

    Nothing is fitted: a choice is read by `moa.decisions.pairs`, and a criterion by
    `moa.decisions.heads.words_head`, without examples.
    """

    kind: Literal["words"] = "words"
    name: str = "words"
    source: str = ENCODER
    examples: PromptVariant = ()
    """Texts with their labels, of a choice."""


Feature = Annotated[LabelFeature | VectorFeature | WordsFeature, Field(discriminator="kind")]


def layout_of(question: Question, read_as: Layout) -> str:
    """Write the prompt of a question as it is without a text and examples."""
    return label_prompt(replace(question, name=ASKED_AS), "", (), layout=read_as).form


def shown_as(question: Question, examples: Sequence[Example]) -> PromptVariant:
    """Name the labels of examples as features do; those without one of the question stay."""
    labels = [example.labels.get(question.name) for example in examples]
    return tuple(
        Example(example.text, {} if label is None else {ASKED_AS: label})
        for example, label in zip(examples, labels, strict=True)
    )


def words_of(question: Question, examples: Sequence[Example]) -> WordsFeature:
    """Read a question by its words, and a choice by examples too, each text once.

    Their labels are named as features name them.
    """
    if question.kind != "choice":
        return WordsFeature()
    labelled = {example.text: example for example in examples if example.labels}
    return WordsFeature(examples=tuple(labelled.values()))


class Read(NamedTuple):
    """What a feature read of a text: answers or numbers."""

    answers: tuple[Answer, ...] = ()
    """One for each prompt variant."""
    vector: tuple[float, ...] = ()
    """A vector, or log-probabilities of the options."""


class Ask(NamedTuple):
    """A question, and the features that read a text for it."""

    question: Question
    features: Sequence[Feature]


_Place = tuple[int, int, int]
"""Index of a question, of its feature, and of the prompt variant."""
_Encoding = tuple[str, str | None, bool, bool]
"""Role, prompt with the question in it, whether sentences are encoded too, and each of them."""


@dataclass(frozen=True, slots=True)
class Request:
    """Questions that are asked together, since they are shown the same texts."""

    source: str
    shown: PromptVariant
    questions: tuple[Question, ...]
    places: tuple[_Place, ...]

    async def ask(self, text: str, sources: Sources, context: RunContext) -> tuple[Answer, ...]:
        """Ask about a text.

        Raises:
            InvalidResponse: other questions were answered.
            EndpointError: the request failed.
        """
        decision = await sources[self.source].decide(
            text, self.questions, context, examples=self.shown
        )
        asked = [question.name for question in self.questions]
        answered = [answer.question.name for answer in decision.answers]
        if asked != answered:
            raise InvalidResponse(
                f"asked {asked}, it answered {answered}", endpoint=decision.endpoint
            )
        return decision.answers


def requests_of(asks: Sequence[Ask]) -> list[Request]:
    """Join what is asked of one endpoint behind the same texts into one request each.

    Questions of one name go apart.
    """
    found: dict[object, list[tuple[Question, PromptVariant, _Place]]] = {}
    for place, (question, features) in enumerate(asks):
        for at, feature in enumerate(features):
            if not isinstance(feature, LabelFeature):
                continue
            for variant, shown in enumerate(feature.prompt_variants):
                asked = feature.asked(question)
                key = feature.source, feature.turned, tuple(example.text for example in shown)
                apart = 0
                while any(asked.name == other.name for other, _, _ in found.get((key, apart), ())):
                    apart += 1
                found.setdefault((key, apart), []).append((asked, shown, (place, at, variant)))
    return [
        Request(
            source=asks[same[0][2][0]].features[same[0][2][1]].source,
            shown=_shown(same),
            questions=tuple(question for question, _, _ in same),
            places=tuple(place for _, _, place in same),
        )
        for same in found.values()
    ]


def _shown(parts: Sequence[tuple[Question, PromptVariant, _Place]]) -> PromptVariant:
    """Give each shown text the labels of all the questions."""
    named = [[(q.name, e.labels.get(ASKED_AS)) for e in shown] for q, shown, _ in parts]
    return tuple(
        Example(example.text, {name: label for name, label in labels if label is not None})
        for example, labels in zip(parts[0][1], zip(*named, strict=True), strict=True)
    )


def _encoding(feature: Feature, question: Question) -> _Encoding | None:
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
    """Turn a text into a vector."""
    source, prompt, by_sentence, each = encoding
    if by_sentence:
        from moa.decisions.heads import encode as encode_for_heads

        return (await encode_for_heads(sources[source], [text], context, each=each))[0]
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
    """Read one text with a feature that encodes it, as if it weren't among its examples."""
    encoding = _encoding(feature, question)
    assert encoding is not None, "it reads a vector"
    vector = await encode(encoding, text, sources, context)
    return await _numbers(feature, question, vector, sources, context, without=text)


async def _numbers(
    feature: Feature,
    question: Question,
    vector: tuple[float, ...],
    sources: Sources,
    context: RunContext,
    *,
    without: str | None = None,
) -> tuple[float, ...]:
    if not isinstance(feature, WordsFeature):
        return vector
    if question.kind == "choice":
        from moa.decisions.pairs import pair_head

        head = await pair_head(question, feature.examples, sources[feature.source], context)
        return head.logs_of(vector, without)
    from moa.decisions.relevance import words_head

    return (await words_head(question, context)).head.logs_of(vector)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one text is read for several questions: each request and each vector once, at once."""

    asks: tuple[Ask, ...]
    requests: tuple[Request, ...]
    encodings: tuple[_Encoding, ...]

    @classmethod
    def of(cls, asks: Iterable[Ask]) -> Plan:
        """Plan it."""
        asks = tuple(asks)
        wanted = (_encoding(feature, ask.question) for ask in asks for feature in ask.features)
        encodings = tuple(dict.fromkeys(one for one in wanted if one is not None))
        return cls(asks, tuple(requests_of(asks)), encodings)

    async def read(self, text: str, sources: Sources, context: RunContext) -> list[list[Read]]:
        """Read a text: for each question, what each of its features gave."""
        answers: dict[_Place, Answer] = {}
        vectors: dict[_Encoding, tuple[float, ...]] = {}

        async def ask(request: Request) -> None:
            answered = await request.ask(text, sources, context)
            answers.update(zip(request.places, answered, strict=True))

        async def vector(encoding: _Encoding) -> None:
            vectors[encoding] = await encode(encoding, text, sources, context)

        await gather([*map(ask, self.requests), *map(vector, self.encodings)])
        found: list[list[Read]] = []
        for place, (question, features) in enumerate(self.asks):
            reads: list[Read] = []
            for at, feature in enumerate(features):
                if isinstance(feature, LabelFeature):
                    variants = range(len(feature.prompt_variants))
                    reads.append(Read(answers=tuple(answers[place, at, v] for v in variants)))
                    continue
                encoding = _encoding(feature, question)
                assert encoding is not None, "it reads a vector"
                numbers = await _numbers(feature, question, vectors[encoding], sources, context)
                reads.append(Read(vector=numbers))
            found.append(reads)
        return found
