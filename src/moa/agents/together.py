"""Together: several agents decide about a text in one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, create_model

from moa.agents.deciding import DecidingAgent
from moa.agents.filter import Verdict, note_drop
from moa.core.context import RunContext
from moa.core.errors import ConfigError
from moa.core.node import Text
from moa.core.questions import Answer


class Together(DecidingAgent[BaseModel]):
    """Asks the questions of several agents in one request.

    Its output is a model with the output of each agent under the agent's name.

    Their examples aren't shown: they would take a request each. What was fitted is kept.

    Args:
        agents: Agents with the same endpoint, each with questions of its own.
        name: Shown in traces and usage.

    Raises:
        ConfigError: there are none, or two have another endpoint or a question of the same name.
    """

    def __init__(self, agents: Sequence[DecidingAgent[Any]], *, name: str = "decisions") -> None:
        questions = [question for agent in agents for question in agent.questions]
        endpoints = {id(agent.endpoint) for agent in agents}
        if len(endpoints) != 1 or len({q.name for q in questions}) < len(questions):
            raise ConfigError(
                f"{name}: agents are asked together if they have one endpoint, and questions of "
                "different names"
            )
        self.agents: Mapping[str, DecidingAgent[Any]] = {agent.name: agent for agent in agents}
        fitted = {
            question: calibration
            for agent in agents
            for question, calibration in agent.calibrations.items()
            if calibration.full is not None or calibration.bound is not None
        }
        fields: dict[str, Any] = {agent.name: (agent.output_type, ...) for agent in agents}
        self.output_type = create_model("Outputs", **fields)
        first, *_ = agents
        super().__init__(first.endpoint, questions, calibration=fitted, name=name)
        if first.encoder is None:  # the endpoint's own isn't used
            self.encoder = None
            self.use_calibrations(fitted)

    async def answer(self, request: Text | str, context: RunContext) -> BaseModel:
        """Answer the questions of all agents, and note what a filter drops."""
        outputs = await super().answer(request, context)
        for _, output in outputs:
            if isinstance(output, Verdict):
                note_drop(output, context)
        return outputs

    def read(self, answers: Sequence[Answer]) -> BaseModel:
        """Return what each agent reads from the answers to its questions."""
        by_name = {answer.question.name: answer for answer in answers}
        outputs: dict[str, object] = {
            name: agent.read([by_name[question.name] for question in agent.questions])
            for name, agent in self.agents.items()
        }
        return self.output_type(**outputs)
