"""Members: what a calibration reads of a text, each with an endpoint.

A member is written into the calibration's file, and read back from it. It names its endpoint by a
role, since a file can't hold one: `slm` is the endpoint that decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from moa.context import RunContext
from moa.decisions.arrays import Floats
from moa.endpoints import Endpoint, Example
from moa.endpoints.labels import label_prompt, one_line
from moa.errors import CapabilityError, InvalidResponse
from moa.questions import Layout, Question

DECIDES = "slm"
"""Role of the endpoint that decides."""
ASKED_AS = "label"
"""Name of the question in the examples of a member, whatever an agent calls it."""
Sources = Mapping[str, Endpoint]
"""Endpoints by role."""
PROMPT = "Task: {question}\nText: {text}\nLabel:"
"""Of which the last hidden state is taken: the model is about to name the label there."""
_LEAST_MASS = 1e-3
"""A smaller label mass tells no more."""
_LONGEST = 4000
"""Characters of a text that are embedded: longer ones may not fit the encoder."""


class LabelMember(BaseModel):
    """The probabilities of the labels, averaged over views."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["labels"] = "labels"
    name: str
    source: str = DECIDES
    views: tuple[tuple[Example, ...], ...] = ((),)
    """Labelled texts that are shown; an empty view is the endpoint's own way."""
    turned: bool = False
    """Whether the options are asked for in the opposite order."""
    read_as: Layout = "completion"
    """How the prompt is laid out, whatever comes to be known of the model later."""
    layout: str
    """What the prompt looked like without a text; see `layout_of`."""

    async def read(
        self, text: str, question: Question, sources: Sources, context: RunContext
    ) -> Floats:
        """Log-probabilities of the options; without the log, they add up to the label mass."""
        options = question.options[::-1] if self.turned else question.options
        question = replace(question, options=options, layout=self.read_as)
        found = [
            await _logs(text, question, sources[self.source], context, view) for view in self.views
        ]
        logs = self.merged(text, found)
        return logs[::-1] if self.turned else logs

    @property
    def passes(self) -> Sequence[LabelMember]:
        """One for each view: a server that caches prompts keeps one beginning at a time."""
        return [self.model_copy(update={"views": (view,)}) for view in self.views]

    def merged(self, text: str, found: Sequence[Floats]) -> Floats:
        """Average the views but those that show the very text, where there are others."""
        shown = [any(example.text == text for example in view) for view in self.views]
        fair = [logs for logs, is_shown in zip(found, shown, strict=True) if not is_shown]
        mean: Floats = np.mean(fair or found, 0)
        return mean


class VectorMember(BaseModel):
    """A vector of the text, for a linear head."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["vector"] = "vector"
    name: str
    source: str
    prompt: str | None = None
    """What is embedded, with `{question}` and `{text}`; `None` is the text alone."""

    async def read(
        self, text: str, question: Question, sources: Sources, context: RunContext
    ) -> Floats:
        """Read the vector of a text."""
        words = text[:_LONGEST]
        if self.prompt is not None:
            words = self.prompt.format(question=one_line(question.text), text=one_line(words))
        found = await sources[self.source].embed([words], context)
        return np.array(found.vectors[0])

    @property
    def passes(self) -> Sequence[VectorMember]:
        """A text is read once."""
        return [self]

    def merged(self, text: str, found: Sequence[Floats]) -> Floats:
        """What was read, as it is."""
        del text
        return found[0]


Member = Annotated[LabelMember | VectorMember, Field(discriminator="kind")]


def layout_of(question: Question, read_as: Layout) -> str:
    """Write the prompt of a question as it is without a text and examples."""
    return label_prompt(question, "", (), layout=read_as).text


async def _logs(
    text: str,
    question: Question,
    endpoint: Endpoint,
    context: RunContext,
    view: Sequence[Example],
) -> Floats:
    asked = replace(question, name=ASKED_AS)
    decision = await endpoint.decide(text, [asked], context, examples=view)
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
