"""Deterministic endpoints for tests and examples. Nothing here opens a socket."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel

from moa.core.context import RunContext
from moa.core.errors import DeadlineExceeded
from moa.core.messages import ToolCall
from moa.core.questions import Answer, Question
from moa.core.usage import UNKNOWN_PRICE, Amount, Price, Tier
from moa.endpoints import (
    Capability,
    Completion,
    Decision,
    Embeddings,
    Endpoint,
    EndpointBase,
    Example,
    Prompt,
    require,
)

Probabilities = Mapping[str, float]
"""Probabilities by option name. The rest is shared equally by the other options."""
Step = str | BaseModel | ToolCall | Sequence[ToolCall] | Mapping[str, Probabilities] | Exception
"""One answer: a text, a model to be written as JSON, tool calls, probabilities by question, or an
error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRequest:
    """A request to an endpoint, as a rule sees it."""

    text: str
    """The last user message, or the text of a decision."""
    prompt: Prompt | None = None
    """The whole prompt; `None` for a decision."""
    questions: tuple[Question, ...] = ()
    """The questions of a decision."""

    @property
    def instructions(self) -> str:
        """The system messages; empty if there are none."""
        messages = self.prompt.messages if self.prompt else ()
        return "\n".join(message.content for message in messages if message.role == "system")

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that the answer must follow; `None`: free text, or a decision."""
        return self.prompt.json_schema if self.prompt else None


Rule = Callable[[str], Step] | Callable[[str, SimulatedRequest], Step]
"""Returns the answer to the last user message, or to the text of a decision. A second parameter
gets the whole request."""

ALL: frozenset[Capability] = frozenset(get_args(Capability))
T = TypeVar("T")


@dataclass(kw_only=True, repr=False)
class _Double(EndpointBase):
    """Base class of the test endpoints: reserve, wait, answer, settle."""

    name: str = "scripted"
    tier: Tier = "slm"
    model: str = "scripted-1"
    price: Price = UNKNOWN_PRICE
    capabilities: frozenset[Capability] = ALL
    tokens: tuple[int, int] = (10, 5)
    """Input and output tokens that each call reports."""
    latency_s: float = 0.0
    """Seconds that each call takes. Raises `DeadlineExceeded` if the run's time is up before."""
    piece_s: float = 0.0
    """Seconds between the pieces of a streamed text, which start after `latency_s`."""
    encoder: Endpoint | None = None
    """Encoder for agents that use this endpoint; `None`, so that it decides itself."""
    prompts: list[Prompt] = field(default_factory=list[Prompt])
    """All prompts that it was given."""
    states: list[str] = field(default_factory=list[str])
    """All texts that it decided on."""
    closed: bool = False

    def next_step(self, request: SimulatedRequest) -> Step:
        raise NotImplementedError

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        require(self, "complete", prompt)
        self.prompts.append(prompt)
        step, amount = await self._answer(
            SimulatedRequest(text=prompt.messages[-1].content, prompt=prompt), context
        )
        assert isinstance(step, str | BaseModel | Sequence | ToolCall), f"{step!r} is no text"
        context.note("answered", self.model, endpoint=self.name)
        return self._completion(step, amount, f"call_{len(self.prompts)}")

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        require(self, "stream")
        completion = await self.complete(prompt, context)
        for i, word in enumerate(completion.text.split(" ") if completion.text else ()):
            if i:
                await self._wait(self.piece_s, context)
            yield f" {word}" if i else word
        yield completion

    async def decide(
        self,
        text: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        del examples
        require(self, "decide")
        self.states.append(text)
        step, amount = await self._answer(
            SimulatedRequest(text=text, questions=tuple(questions)), context
        )
        assert isinstance(step, Mapping), f"{self.name}: {step!r} holds no probabilities"
        answers = tuple(_build_answer(question, step.get(question.name)) for question in questions)
        context.note("answered", self.model, endpoint=self.name)
        return Decision(answers=answers, endpoint=self.name, model=self.model, amount=amount)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        require(self, "embed")
        estimate = Amount(calls=1, input_tokens=self.tokens[0], encodings=1)
        with await context.reserve(self.name, self.tier, estimate) as call:
            await self._wait(self.latency_s, context)
            amount = self.price.charge(estimate)
            call.settle(amount)
        vectors = tuple((float(len(text)), float(text.count(" ")), 1.0) for text in texts)
        return Embeddings(vectors=vectors, endpoint=self.name, model=self.model, amount=amount)

    async def close(self) -> None:
        self.closed = True

    async def _answer(self, request: SimulatedRequest, context: RunContext) -> tuple[Step, Amount]:
        estimate = Amount(calls=1, input_tokens=self.tokens[0], output_tokens=self.tokens[1])
        estimate = self.price.charge(estimate)
        with await context.reserve(self.name, self.tier, estimate) as call:
            await self._wait(self.latency_s, context)
            step = self.next_step(request)
            if isinstance(step, Exception):
                raise step
            call.settle(estimate)
        return step, estimate

    async def _wait(self, seconds: float, context: RunContext) -> None:
        """Wait as for a server, but no longer than the run's time left."""
        left_s = context.remaining_s()
        await asyncio.sleep(seconds if left_s is None else min(seconds, left_s))
        if left_s is not None and left_s < seconds:
            raise DeadlineExceeded(f"{self.name}: the run's time was up before it had answered")

    def _completion(
        self, step: str | BaseModel | ToolCall | Sequence[ToolCall], amount: Amount, id: str
    ) -> Completion:
        answer = [step] if isinstance(step, ToolCall) else step
        text, calls = "", tuple[ToolCall, ...]()
        if isinstance(answer, str):
            text = answer
        elif isinstance(answer, BaseModel):
            text = answer.model_dump_json()
        else:
            calls = tuple(replace(call, id=call.id or f"{id}_{i}") for i, call in enumerate(answer))
        return Completion(
            text=text, tool_calls=calls, endpoint=self.name, model=self.model, amount=amount
        )


@dataclass(repr=False)
class ScriptedEndpoint(_Double):
    """Answers from a script, in order, and records its requests.

    Args:
        steps: One answer per call.
    """

    steps: Sequence[Step] = ()

    def __post_init__(self) -> None:
        assert not isinstance(self.steps, str), f"give a list of steps: [{self.steps!r}]"
        self._left = list(self.steps)

    def next_step(self, request: SimulatedRequest) -> Step:
        """Return the next step. Raises `AssertionError` if the script is used up."""
        assert self._left, f"{self.name}: the script is used up, but it was asked {request.text!r}"
        return self._left.pop(0)

    def assert_used_up(self) -> None:
        """Fail if a step was never asked for."""
        assert not self._left, f"{self.name}: {len(self._left)} steps were never asked for"


@dataclass(repr=False)
class SimulatedEndpoint(_Double):
    """Answers every request by a rule.

    Args:
        rule: Returns the answer to the last user message, or to the text of a decision. A rule
            with two parameters also gets the request: instructions, schema, questions.
    """

    rule: Rule = lambda text: text

    def next_step(self, request: SimulatedRequest) -> Step:
        """Apply the rule."""
        rule = cast("Callable[..., Step]", self.rule)
        return rule(request.text, request) if _takes_two(rule) else rule(request.text)


def _takes_two(rule: Callable[..., Step]) -> bool:
    try:
        parameters = inspect.signature(rule).parameters.values()
    except ValueError:  # some built-ins have no signature
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positionals = [
        parameter
        for parameter in parameters
        if parameter.kind in kinds and parameter.default is parameter.empty
    ]
    return len(positionals) > 1


def _build_answer(question: Question, shares: Probabilities | None) -> Answer:
    if shares is None:
        return Answer(question=question, status="missing")
    names = [option.name for option in question.options]
    unknown = sorted(set(shares) - set(names))
    assert not unknown, f"{question.name}: {unknown} are no options: script some of {names}"
    total, other_count = sum(shares.values()), len(names) - len(shares)
    fits = math.isclose(total, 1.0, abs_tol=1e-6) or (other_count > 0 and total < 1.0)
    fits = fits and all(share >= 0.0 for share in shares.values())
    assert fits, (
        f"{question.name}: {dict(shares)} are no probabilities, they add up to {total:.4g}: script "
        f"numbers from 0 that add up to 1, or to less, of which the rest goes to the others of "
        f"{names} in equal parts"
    )
    rest = max(0.0, 1.0 - total) / max(1, other_count)
    probabilities = tuple(shares.get(name, rest) for name in names)
    return Answer(question=question, probabilities=probabilities, label_mass=1.0)
