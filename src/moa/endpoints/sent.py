"""Sent: shows the requests to an endpoint, before a call and during a run.

What sends a request describes it as a `SentPrompt`. The logger `moa.prompts` logs it. It is off
until its level is set, since prompts hold user input. A rehearsal records it, and nothing is sent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from moa.core.context import RunContext
from moa.core.errors import EndpointError
from moa.endpoints import Endpoint, EndpointBase, Examples, Prompt, Questions
from moa.endpoints.rehearsal import REHEARSAL, WORKS, at_work
from moa.endpoints.tokens import CountsTokens, approximate_tokens
from moa.endpoints.wrappers import Wrapping, innermost

LOGGER = logging.getLogger("moa.prompts")
if LOGGER.level == logging.NOTSET:  # otherwise it would follow an application's level
    LOGGER.setLevel(logging.CRITICAL + 1)
_ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class SentPrompt:
    """One request to a model, as it is sent. Print it to read it.

    Examples:
        >>> from moa import Agent
        >>> from moa.testing import ScriptedEndpoint
        >>> agent = Agent(ScriptedEndpoint(), "Thank the customer.")
        >>> (sent,) = agent.prompt("It works!")
        >>> [role for role, _ in sent.messages]
        ['system', 'user']
    """

    endpoint: str
    """Name of the endpoint."""
    model: str
    way: str
    """Backend, such as `chat`, `label log-probabilities` or `System One`; or what decides without a
    prompt."""
    messages: tuple[tuple[str, str], ...] = ()
    """Role and text of each message. The role `prompt` is a text to continue."""
    labels: tuple[str, ...] = ()
    """Continuations whose probabilities are read. Empty if the model generates text."""
    schema: Mapping[str, object] | None = None
    """JSON schema of the answer."""
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    """Other fields, such as `max_tokens`."""
    tokens: int | None = None
    """Tokens of the messages, without those of the chat template; `None` if not counted."""
    counted: bool = False
    """True if the model's own tokenizer counted the tokens, False if they are estimated."""
    node: str = ""
    """Path of the agent in a graph."""

    @property
    def text(self) -> str:
        """All messages, one after another."""
        return "\n\n".join(text for _, text in self.messages)

    def __str__(self) -> str:
        prefix = "" if self.counted else "about "
        tokens = "" if self.tokens is None else f", {prefix}{self.tokens} tokens"
        lines = [f"{self.endpoint} ({self.model}), {self.way}{tokens}"]
        lines += [f"[{role}]\n{text}" for role, text in self.messages]
        if self.labels:
            lines.append("[labels] " + ", ".join(map(repr, self.labels)))
        if self.schema is not None:
            lines.append("[schema] " + json.dumps(self.schema, ensure_ascii=False))
        if self.settings:
            lines.append("[settings] " + json.dumps(self.settings, ensure_ascii=False))
        return "\n".join(lines)


async def show(write: Callable[[], Iterable[SentPrompt]], context: RunContext) -> None:
    """Log requests that are about to be sent. A rehearsal records them instead, and stops here.

    Args:
        write: Describes them.
        context: Context of the call.
    """
    if (rehearsal := REHEARSAL.get()) is not None:
        server = next((work.by for work in WORKS.get() if isinstance(work.by, CountsTokens)), None)
        counted = [await _count(sent, server, context) for sent in write()]
        await rehearsal.hold(counted, context.node)
    if LOGGER.isEnabledFor(logging.INFO):
        for sent in write():
            LOGGER.info("%s", sent)


def describe_prompt(endpoint: Endpoint, prompt: Prompt) -> SentPrompt:
    """Describe a prompt as it is passed to an endpoint."""
    tools = {"tools": [tool.name for tool in prompt.tools]} if prompt.tools else {}
    limit = {"max_tokens": prompt.max_tokens, "temperature": prompt.temperature}
    return SentPrompt(
        endpoint.name,
        endpoint.model,
        "chat",
        tuple((message.role, message.content) for message in prompt.messages),
        schema=prompt.json_schema,
        settings={**{k: v for k, v in limit.items() if v is not None}, **tools},
    )


async def rehearse_prompt(endpoint: Endpoint, prompt: Prompt, context: RunContext) -> None:
    """In a rehearsal, show what would be sent for a prompt, past all wrappers, and stop here."""
    if REHEARSAL.get() is None:
        return
    while isinstance(endpoint, Wrapping):
        prompt, endpoint = endpoint.outgoing(prompt), endpoint.endpoint
    with at_work(endpoint):
        if isinstance(endpoint, EndpointBase) and endpoint.shows_requests:
            await endpoint.complete(prompt, context)
        await show(lambda: [describe_prompt(endpoint, prompt)], context)


async def rehearse_questions(
    endpoint: Endpoint, text: str, questions: Questions, context: RunContext, *, examples: Examples
) -> None:
    """In a rehearsal, show what would be sent for typed questions, and stop here.

    If that is unknown, their texts are shown.
    """
    if REHEARSAL.get() is None:
        return
    server = innermost(endpoint)
    with at_work(server):
        if isinstance(server, EndpointBase) and server.shows_requests:
            await server.decide(text, questions, context, examples=examples)
        await show(lambda: [_describe_questions(server, text, questions, examples)], context)


def _describe_questions(
    server: Endpoint, text: str, questions: Questions, examples: Examples
) -> SentPrompt:
    pairs = [(example.text, json.dumps(dict(example.labels))) for example in examples]
    question_texts = [
        f"{question.text} {', '.join(option.name for option in question.options)}"
        for question in questions
    ]
    turns = [(role, content) for pair in pairs for role, content in zip(_ROLES, pair, strict=True)]
    messages = (
        *(("question", question_text) for question_text in question_texts),
        *turns,
        ("user", text),
    )
    return SentPrompt(server.name, server.model, "typed questions", messages)


async def _count(sent: SentPrompt, server: CountsTokens | None, context: RunContext) -> SentPrompt:
    if server is not None:
        with suppress(EndpointError):  # no tokenizer without the server
            tokens = await server.count_tokens(sent.text, context)
            return replace(sent, tokens=tokens, counted=True)
    return replace(sent, tokens=approximate_tokens(sent.text))
