"""Decisions: what turns a model's probabilities into decisions that can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

from moa.endpoints import Example
from moa.errors import ConfigError
from moa.questions import Answer, Question

if TYPE_CHECKING:
    from moa.decisions.heads import Blend, Head

ENOUGH = 8
"""Labelled texts from which on a head is fitted; fewer tell less than the words of a question."""
PromptVariant = tuple[Example, ...]
"""Examples that a text is read with."""


@dataclass(frozen=True, slots=True)
class Correction:
    """Takes a model's bias out of the probabilities of one question's options.

    The probability of an option is made from those in all prompt variants: the logarithm is the sum
    of `weight * log(p)` over the variants, plus the option's offset.
    """

    offsets: tuple[float, ...]
    """One for each option, in order; a negative one makes it rarer."""
    weights: tuple[float, ...] = (1.0,)
    """One for each prompt variant, and a last one where the question has a head; below 1 in all
    they make the answer less sure, above 1 surer."""

    @classmethod
    def of(cls, offsets: Iterable[float], weights: Iterable[float] = (1.0,)) -> Correction:
        """Make it of arrays."""
        return cls(tuple(map(float, offsets)), tuple(map(float, weights)))

    def apply(self, read: Sequence[Sequence[float]]) -> tuple[float, ...]:
        """Make one set of probabilities, which add up to 1, from those in each prompt variant.

        Raises:
            ConfigError: there are not as many variants, or options, as it was made for.
        """
        if len(read) != len(self.weights) or any(len(p) != len(self.offsets) for p in read):
            raise ConfigError(
                f"a correction of {len(self.offsets)} options in {len(self.weights)} prompt "
                f"variants was given {[len(p) for p in read]} probabilities: it belongs to another "
                "question"
            )
        logs = list(self.offsets)
        for weight, given in zip(self.weights, read, strict=True):
            if weight:
                added = (weight * math.log(max(p, 1e-45)) for p in given)
                logs = [log + more for log, more in zip(logs, added, strict=True)]
        top = max(logs)
        shares = [math.exp(log - top) for log in logs]
        total = sum(shares)
        return tuple(share / total for share in shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """What fits a deciding agent to its task: examples, corrections of bias, and heads.

    A head reads an encoder's vector of the text, and counts as one prompt variant more.
    """

    prompt_variants: tuple[PromptVariant, ...] = ((),)
    """Each text is read once with each; an empty one shows nothing. Without any, heads decide
    alone, and the model isn't asked."""
    corrections: Mapping[str, Correction] = field(default_factory=dict[str, Correction])
    """By the name of the question."""
    heads: Mapping[str, Head | Blend] = field(default_factory=dict[str, "Head | Blend"])
    """By the name of the question."""
    encoder: str | None = None
    """Name of the model whose vectors the heads read."""
    doubtful: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why a question can't be trusted, by its name: the model answers it in one way whatever the
    text is."""
    origin: str
    """Where it comes from, as the trace says it: "bias removed on 120 unlabelled texts"."""

    @classmethod
    def shipped(
        cls, question: str, *, file: str = "support", asked_as: str | None = None
    ) -> Adaptation:
        """Decide a question by its shipped head alone; `asked_as` is its name where it has another.

        Raises:
            MissingDependency: numpy is not installed.
            ConfigError: no head ships for it.
        """
        from moa.decisions.heads import MultilingualEncoder, shipped_heads

        heads = shipped_heads(file)
        if question not in heads:
            raise ConfigError(
                f"no head for {question!r} ships with moa, but for {', '.join(sorted(heads))}: "
                "leave it out, and the endpoint decides"
            )
        return cls(
            prompt_variants=(),
            heads={asked_as or question: heads[question]},
            encoder=MultilingualEncoder.model,
            origin=f"shipped with moa, fitted to labelled messages ({file})",
        )

    def check(self, questions: Sequence[Question]) -> None:
        """Make sure that it was made for these questions.

        Raises:
            ConfigError: it has neither prompt nor head for one, corrects a question that is not
                asked, or one with other options, or shows an example of a label that is not there.
        """
        options = {q.name: [option.name for option in q.options] for q in questions}
        if not self.prompt_variants and not set(options) <= set(self.heads):
            raise ConfigError(f"the adaptation ({self.origin}) has no prompt to read a text with")
        for name, head in self.heads.items():
            if len(options.get(name, ())) != len(head.bias):
                raise ConfigError(
                    f"the adaptation ({self.origin}) has a head of {len(head.bias)} options for "
                    f"{name!r}, but the questions asked have {_sizes(options)}"
                )
        for name, correction in self.corrections.items():
            fits = len(options.get(name, ())) == len(correction.offsets)
            variants = len(self.prompt_variants)
            if not fits or len(correction.weights) != variants + (name in self.heads):
                raise ConfigError(
                    f"the adaptation ({self.origin}) corrects {len(correction.offsets)} options "
                    f"of {name!r} in {len(correction.weights)} of {variants} prompt variants, but "
                    f"the questions asked have {_sizes(options)}"
                )
        for example in chain.from_iterable(self.prompt_variants):
            for name, label in example.labels.items():
                if label not in options.get(name, ()):
                    raise ConfigError(
                        f"an example of the adaptation ({self.origin}) answers {name!r} with "
                        f"{label!r}, but the options are {options.get(name)}"
                    )

    def apply(
        self,
        questions: Sequence[Question],
        answers: Sequence[Sequence[Answer]],
        vector: Sequence[float] | None = None,
    ) -> tuple[Answer, ...]:
        """Make one answer a question from those in each prompt variant, and from its head.

        Where an answer has no probabilities, the one of the first variant stays as it is, unless
        there is a head, which then decides alone.

        Args:
            questions: What was asked.
            answers: Those in each prompt variant, in order; empty where heads decide alone.
            vector: What the encoder made of the text; `None` where there is no head.
        """
        found: list[Answer] = []
        for place, question in enumerate(questions):
            given = [variant[place] for variant in answers]
            head = self.heads.get(question.name) if vector is not None else None
            read = None if head is None else head.probabilities(vector or ())
            found.append(self._corrected(question, given, read))
        return tuple(found)

    def _corrected(
        self, question: Question, answers: Sequence[Answer], head: tuple[float, ...] | None
    ) -> Answer:
        read = [a.probabilities for a in answers if a.probabilities is not None]
        if len(read) < len(answers):
            if head is None or answers[0].written is not None:
                return answers[0]
            return Answer(question=question, probabilities=head, source="encoder")
        first = answers[0] if answers else Answer(question=question, source="encoder")
        found = read if head is None else [*read, head]
        even = Correction((0.0,) * len(found[0]), (1 / len(found),) * len(found))
        correction = self.corrections.get(question.name, even)
        doubtful = question.name in self.doubtful
        probabilities = correction.apply(found)
        return replace(first, probabilities=probabilities, doubtful=doubtful)


def _sizes(options: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{len(names)} of {name!r}" for name, names in options.items())
