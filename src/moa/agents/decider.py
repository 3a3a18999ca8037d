"""Decider: answers a pydantic model of questions about a text, in one request."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

from pydantic import BaseModel, create_model

from moa.agents.boundary import Limits, Out
from moa.agents.deciding import DecidingAgent, ZeroShotCache
from moa.decisions import Adaptation
from moa.endpoints import Endpoint, Example
from moa.errors import ConfigError
from moa.questions import Answer, fill, questions_of


class Decider(DecidingAgent[Out]):
    """Asks the questions that a pydantic model is made of, and gives the model back.

    Args:
        endpoint: Who decides, or a string that names it: `"VENDOR:MODEL"`.
        questions: Fields of `Predicate`, `Choice` and `Score`.
        examples: Texts with the names of the right options, by name of the question; see
            `DecidingAgent`.
        adaptation: Examples to show, and corrections of the model's bias.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: a field is no question, or the adaptation belongs to other questions.

    Examples:
        >>> class Triage(BaseModel):
        ...     refund: Predicate = predicate("Does the customer ask for money back?")
        ...     topic: Choice[str] = choice("What is it about?", labels=["card", "app"])
        >>> small = ScriptedEndpoint([{"refund": {"yes": 0.9}, "topic": {"card": 0.8, "app": 0.2}}])
        >>> triage = Decider(small, Triage).run_sync("I paid twice!").output
        >>> triage.refund.value, triage.topic.label
        (True, 'card')
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        questions: type[Out],
        *,
        examples: Sequence[Example] = (),
        adaptation: Adaptation | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        self.output_type = questions
        super().__init__(
            endpoint,
            questions_of(questions),
            examples=examples,
            adaptation=adaptation,
            **limits,
        )

    def read(self, answers: Sequence[Answer]) -> Out:
        """Fill the model in."""
        return fill(self.output_type, answers)

    def only(self, names: Sequence[str]) -> Decider[BaseModel]:
        """Copy the agent so that it asks some of its questions; its output has those fields alone.

        Args:
            names: Of the questions, in any order.

        Raises:
            ConfigError: there is none, or it has no question of one of these names.
        """
        model = self.output_type
        unknown = [name for name in names if name not in model.model_fields]
        if unknown or not names:
            raise ConfigError(
                f"agent {self.name!r} asks {list(model.model_fields)}, and can't be asked "
                f"{unknown or 'nothing'}"
            )
        asked = tuple(question for question in self.questions if question.name in names)
        fields: dict[str, Any] = {
            q.name: (model.model_fields[q.name].annotation, model.model_fields[q.name])
            for q in asked
        }
        part: Any = copy.copy(self)
        part.output_type = create_model(model.__name__, **fields)
        part.questions = asked
        part.adaptation = self.adaptation and _only(self.adaptation, names)
        part._zero_shot = ZeroShotCache()
        part._calibrated = {n: c for n, c in self._calibrated.items() if n in names}
        return part


def _only(adaptation: Adaptation, names: Sequence[str]) -> Adaptation:
    variants = tuple(
        tuple(
            replace(example, labels=labels)
            for example in shown
            if (labels := {n: label for n, label in example.labels.items() if n in names})
        )
        for shown in adaptation.prompt_variants
    )
    return replace(
        adaptation,
        prompt_variants=variants,
        corrections={n: c for n, c in adaptation.corrections.items() if n in names},
        heads={n: head for n, head in adaptation.heads.items() if n in names},
        doubtful={n: why for n, why in adaptation.doubtful.items() if n in names},
    )
