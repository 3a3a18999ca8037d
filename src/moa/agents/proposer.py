"""Proposer: answers a request, alone or after reading others' answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, Unpack

from pydantic import BaseModel, Field, create_model

from moa.agents.agent import Agent, MaxTokens, Settings, WarmTemperature
from moa.agents.prompts import block, escape_tags, write_input
from moa.core.messages import Message
from moa.core.node import Consultation, Node, Reply
from moa.core.numbers import has_numbers
from moa.endpoints import Endpoint
from moa.endpoints.named import as_endpoint

ANSWER = "Answer the request, in its language. Work problems out step by step."
"""Instructions of every node that answers on its own, so that a cache serves them all."""
_NUMBER = "End with a sentence such as 'The answer is 12.'"
"""Added only to requests about figures: small models would write it everywhere."""
_FIGURES = 2
"""Minimum numbers in a request about figures."""
_READ = (
    "Here are drafts of an answer to the request below, in no particular order. Some may be wrong, "
    "and one that stands alone may be right. Use what is right in them, correct what is wrong, and "
    "write one answer to the request that does not mention them."
)


class Answerer(Agent[str | BaseModel, Reply]):
    """Answers a request; if it has several figures, the answer ends with the resulting number.

    Args:
        endpoint: The endpoint that writes, or its name: `"VENDOR:MODEL"`.
        instructions: The task, in words.
        settings: See `Agent`.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    instructions = ANSWER

    def messages(self, request: str | BaseModel) -> tuple[Message, ...]:
        """Write the instructions and the request."""
        rule, *user_messages = super().messages(request)
        text = " ".join(message.content for message in user_messages)
        if self.instructions.startswith(ANSWER) and has_numbers(text, _FIGURES):
            rule = replace(rule, content=f"{rule.content}\n{_NUMBER}")
        return (rule, *user_messages)


class Proposer(Answerer):
    """A proposer of a mixture, or its aggregator, which reads others' answers critically.

    The request comes last, since a small model continues what it read last: answers there would be
    copied, above all numbered ones, or another one added.

    Args:
        endpoint: The endpoint that writes, or its name: `"VENDOR:MODEL"`.
        instructions: The task, in words.
        role: A point of view of its own, such as "Look for what could go wrong."; empty: none.
        settings: See `Agent`; the default name is that of the endpoint.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        instructions: str = ANSWER,
        *,
        role: str = "",
        **settings: Unpack[Settings],
    ) -> None:
        endpoint = as_endpoint(endpoint)
        settings["name"] = settings.get("name") or endpoint.name
        super().__init__(endpoint, instructions=f"{instructions}\n{role}".strip(), **settings)

    def user_prompt(self, request: str | BaseModel) -> str:
        """Write the user message: other models' answers, if any, as data, then the request."""
        if not isinstance(request, Consultation):
            return write_input(request)
        drafts = (block(text, "Draft") for text in request.answers)
        return "\n\n".join((_READ, *drafts, f"Request: {escape_tags(request.request)}"))


def sampler(
    endpoint: Endpoint,
    *,
    instructions: str | None = None,
    labels: Annotated[dict[str, str] | list[str] | None, Field(min_length=2)] = None,
    temperature: WarmTemperature = 0.7,
    max_tokens: MaxTokens = 512,
) -> Node[str | BaseModel, BaseModel]:
    """Make an agent to be asked several times, whose answers to one request differ.

    Without instructions it answers the request. With `labels`, a list or the meaning of each, it
    chooses one.
    """
    writes: Settings = {"name": endpoint.name, "temperature": temperature, "max_tokens": max_tokens}
    if labels is None:
        writes["tag"] = ""
        return Answerer(endpoint, instructions, **writes)
    described = labels if isinstance(labels, dict) else {}
    means = "; ".join(f"{label}: {meaning}" for label, meaning in described.items())
    kind: Any = Literal[tuple(labels)]
    label = create_model("Label", answer=(kind, Field(description=means or None)))
    task = instructions or "Give the label that fits the text best."
    return Agent(endpoint, task, output=label, **writes)
