"""Sent: what an endpoint is sent, so that a user can see it, before a call and during a run.

Each way of asking writes down what it sends as a `SentPrompt`. The logger `moa.prompts` tells of
those that are sent; it is off until its level is set, since prompts hold what users wrote.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from moa.context import RunContext
from moa.endpoints import Endpoint, Examples, Prompt, Questions
from moa.endpoints.tokens import CountsTokens, approximate_tokens
from moa.endpoints.wrappers import Wrapping, innermost
from moa.errors import EndpointError

LOGGER = logging.getLogger("moa.prompts")
if LOGGER.level == logging.NOTSET:  # else it would follow an application's level
    LOGGER.setLevel(logging.CRITICAL + 1)
_ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class SentPrompt:
    """One request to a model, as it is sent; what it prints as is meant for people.

    Examples:
        >>> from moa import Agent
        >>> from moa.testing import ScriptedEndpoint
        >>> agent = Agent(ScriptedEndpoint(), "Thank the customer.")
        >>> (sent,) = agent.prompt("It works!")
        >>> [role for role, _ in sent.messages]
        ['system', 'user']
    """

    endpoint: str
    """Name of the endpoint that is asked."""
    model: str
    way: str
    """How: `chat`, `label log-probabilities`, `System One` …; or what decides without a prompt."""
    messages: tuple[tuple[str, str], ...] = ()
    """Role and text of each message. The role `prompt` is a text that the model goes on with."""
    labels: tuple[str, ...] = ()
    """Continuations whose probabilities are read; empty where the model writes."""
    schema: Mapping[str, object] | None = None
    """JSON schema that the answer has to follow."""
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    """What else is sent, such as `max_tokens`."""
    tokens: int | None = None
    """Tokens of the messages, without what the model's chat template puts around them; `None`:
    not counted."""
    counted: bool = False
    """Whether the model's own tokenizer counted them; else they are estimated."""
    node: str = ""
    """Path of the agent that sends it, in a graph."""

    @property
    def text(self) -> str:
        """All messages, one after another."""
        return "\n\n".join(text for _, text in self.messages)

    def __str__(self) -> str:
        about = "" if self.counted else "about "
        tokens = "" if self.tokens is None else f", {about}{self.tokens} tokens"
        lines = [f"{self.endpoint} ({self.model}), {self.way}{tokens}"]
        lines += [f"[{role}]\n{text}" for role, text in self.messages]
        if self.labels:
            lines.append("[labels] " + ", ".join(map(repr, self.labels)))
        if self.schema is not None:
            lines.append("[schema] " + json.dumps(self.schema, ensure_ascii=False))
        if self.settings:
            lines.append("[settings] " + json.dumps(self.settings, ensure_ascii=False))
        return "\n".join(lines)


@runtime_checkable
class ShowsPrompts(Protocol):
    """An endpoint that says what it would send, and sends nothing that is paid for."""

    def preview(self, prompt: Prompt, /) -> SentPrompt:
        """Write what a request for text is sent as."""
        ...

    async def preview_questions(
        self, text: str, questions: Questions, context: RunContext, /, *, examples: Examples = ()
    ) -> Sequence[SentPrompt]:
        """Write what typed questions are sent as; a server may be asked what it is."""
        ...


def log_sent(write: Callable[[], SentPrompt]) -> None:
    """Tell the logger what is sent, where it is on."""
    if LOGGER.isEnabledFor(logging.INFO):
        LOGGER.info("%s", write())


def as_given(endpoint: Endpoint, prompt: Prompt) -> SentPrompt:
    """Write a prompt as it is handed to an endpoint."""
    tools = {"tools": [tool.name for tool in prompt.tools]} if prompt.tools else {}
    limit = {"max_tokens": prompt.max_tokens, "temperature": prompt.temperature}
    return SentPrompt(
        endpoint.name,
        endpoint.model,
        "chat",
        tuple((one.role, one.content) for one in prompt.messages),
        schema=prompt.json_schema,
        settings={**{k: v for k, v in limit.items() if v is not None}, **tools},
    )


async def show(endpoint: Endpoint, prompt: Prompt, context: RunContext) -> SentPrompt:
    """Write what a request for text is sent as, and count its tokens."""
    server = endpoint
    while isinstance(server, Wrapping):
        prompt, server = server.outgoing(prompt), server.endpoint
    sent = server.preview(prompt) if isinstance(server, ShowsPrompts) else as_given(server, prompt)
    return await _count(sent, server, context)


async def show_questions(
    endpoint: Endpoint,
    text: str,
    questions: Questions,
    context: RunContext,
    *,
    examples: Examples = (),
) -> list[SentPrompt]:
    """Write what typed questions are sent as; of an endpoint that can't say, their words."""
    server = innermost(endpoint)
    if isinstance(server, ShowsPrompts):
        found = await server.preview_questions(text, questions, context, examples=examples)
    else:
        found = [_in_words(server, text, questions, examples)]
    return [await _count(sent, server, context) for sent in found]


def _in_words(server: Endpoint, text: str, questions: Questions, examples: Examples) -> SentPrompt:
    shown = [(example.text, json.dumps(dict(example.labels))) for example in examples]
    asked = [f"{one.text} {', '.join(option.name for option in one.options)}" for one in questions]
    turns = [(role, said) for pair in shown for role, said in zip(_ROLES, pair, strict=True)]
    messages = (*(("question", one) for one in asked), *turns, ("user", text))
    return SentPrompt(server.name, server.model, "typed questions", messages)


async def _count(sent: SentPrompt, server: Endpoint, context: RunContext) -> SentPrompt:
    if not sent.messages:
        return sent
    if isinstance(server, CountsTokens):
        with suppress(EndpointError):  # a server that isn't there lends no tokenizer
            exact = await server.count_tokens(sent.text, context)
            return replace(sent, tokens=exact, counted=True)
    return replace(sent, tokens=approximate_tokens(sent.text))
