"""Agents: one prompt, one endpoint, one output type. Each stands in a file of its own."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, TypeVar, Unpack, cast, overload

from pydantic import BaseModel, Field

from moa.agents.boundary import In, Limits, Out, TypedNode, ready, require, said
from moa.agents.prompts import (
    TAG,
    again,
    data,
    fitted,
    schema_of,
    system,
    without_tags,
    written,
    wrong_with,
)
from moa.context import RunContext
from moa.endpoints import Completion, Endpoint, Message, Prompt, closed_after
from moa.errors import ConfigError, InvalidResponse, OutputError
from moa.handoffs import Reply
from moa.trace import TextDelta
from moa.usage import UNLIMITED, Budget

__all__ = ["Agent", "Settings"]

Takes = TypeVar("Takes")
Gives = TypeVar("Gives", bound=BaseModel)

REPLY = "Answer the message, in its language."
"""What to do, where nothing else is said."""
_FENCED = re.compile(r"\s*```(?:json)?\s*\n(?P<inside>.*?)\n?\s*```\s*", re.DOTALL | re.IGNORECASE)


Instructions = Annotated[str, Field(min_length=1)]
MaxTokens = Annotated[int, Field(gt=0)]
"""Maximum number of tokens to generate, reasoning included."""
Temperature = Annotated[float, Field(ge=0, le=2)]
WarmTemperature = Annotated[float, Field(gt=0, le=2)]
"""Of what is sampled: at 0 all samples would be the same."""


class Settings(Limits, total=False):
    """The keywords that every writing agent takes."""

    repairs: int
    """Times to ask again, saying what was wrong, after an answer that is not valid."""
    max_tokens: int
    """Maximum number of tokens to generate for an answer, reasoning included."""
    temperature: float | None
    """0 unless answers are to differ; `None` leaves it to the server."""
    tag: str | None
    """Name of the tags around the input, which is data; empty where it is the request itself."""


class Agent(TypedNode[In, Out]):
    """Asks a model to write its output, checks it, and has it repaired.

        Agent(endpoint, "Thank the customer.")                       # text in, a `Reply` out
        Agent(endpoint, "Find the order.", output=Order)             # an `Order` out
        Agent(endpoint, "Find the order.", input=Mail, output=Order)

    The output is asked for by its JSON schema; a `Reply` is plain text, and goes to who listens
    to the run piece by piece while it is written. The input is data: orders in it count for
    nothing, unless `tag=""` makes it the request itself, as in a chat.

    Derive from it where more is to be said than in words:

        class Judge(Agent[Ballot, Verdict]):
            instructions = "Pick the best answer. Judge substance, not length."

    Args:
        endpoint: Who writes.
        instructions: What to do, in words; `None`: as the class says.
        input: What it takes: a text or any pydantic model, unless it is said.
        output: What it gives: a `Reply`, unless another pydantic model is named.
        settings: See `Settings`.

    Raises:
        CapabilityError: the endpoint can't complete.
        ConfigError: nothing says what to do, what a class takes or gives, or a number is out of
            range.
    """

    instructions: str = ""
    """What to do, in words; the model reads it first."""
    tag: str = TAG
    """Name of the tags around the data in its prompts; out of an answer they are cut. Empty where
    the input is no data but the request itself, which is to be followed: it stands without tags."""

    @overload
    def __init__(
        self: Agent[str | BaseModel, Reply],
        endpoint: Endpoint,
        instructions: str,
        **settings: Unpack[Settings],
    ) -> None: ...
    @overload
    def __init__(
        self: Agent[str | BaseModel, Gives],
        endpoint: Endpoint,
        instructions: str,
        *,
        output: type[Gives],
        **settings: Unpack[Settings],
    ) -> None: ...
    @overload
    def __init__(
        self: Agent[Takes, Reply],
        endpoint: Endpoint,
        instructions: str,
        *,
        input: type[Takes],
        **settings: Unpack[Settings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        endpoint: Endpoint,
        instructions: str,
        *,
        input: type[In],
        output: type[Out],
        **settings: Unpack[Settings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        endpoint: Endpoint,
        instructions: str | None = None,
        **settings: Unpack[Settings],
    ) -> None: ...
    def __init__(
        self,
        endpoint: Endpoint,
        instructions: str | None = None,
        *,
        input: Any = None,
        output: Any = None,
        name: str | None = None,
        repairs: int = 1,
        max_tokens: int = 512,
        temperature: float | None = 0.0,
        tag: str | None = None,
        budget: Budget = UNLIMITED,
        timeout_s: float | None = None,
    ) -> None:
        if type(self) is Agent:
            input, output = input or str | BaseModel, output or Reply
        if input is not None:
            self.input_type = input
        if output is not None:
            self.output_type = output
        super().__init__(name=name, budget=budget, timeout_s=timeout_s)
        self.endpoint = require(endpoint, "complete", agent=self.name)
        if instructions is not None:
            self.instructions = instructions
        if type(self) is Agent and not self.instructions.strip():
            raise ConfigError(f'agent {self.name!r}: say what to do: Agent(endpoint, "…")')
        if tag is not None:
            self.tag = tag
        if repairs < 0 or max_tokens < 1:
            raise ConfigError(
                f"agent {self.name!r}: repairs={repairs} and max_tokens={max_tokens}, but repairs "
                "must be 0 or more and max_tokens at least 1"
            )
        self.repairs = repairs
        self.max_tokens = max_tokens
        self.temperature = temperature
        self._schema = None if self.output_type is Reply else schema_of(self.output_type)

    def prompt(self, request: In) -> str:
        """Write the user message; by default the request alone, as data where there is a `tag`.

        Whoever overrides it puts what comes from outside through `moa.agents.prompts.block`, with
        `tag` where the agent has one of its own.
        """
        text = cast("Any", request)
        return data(text, tag=self.tag) if self.tag else written(text)

    def messages(self, request: In) -> tuple[Message, ...]:
        """Write what the model reads; by default the instructions, and `prompt` as the user's."""
        prompt = self.prompt(request)
        rule = system(self.instructions, self._schema, tag=self._tag_in(prompt))
        return (Message("system", rule), Message("user", prompt))

    def _tag_in(self, prompt: str) -> str:
        """Give the tag where a prompt holds it; else nothing."""
        return self.tag if self.tag and f"</{self.tag}>" in prompt else ""

    def read(self, completion: Completion) -> Out:
        """Read what the model wrote.

        Raises:
            ValueError: it is not valid; the message is shown to the model.
        """
        text = completion.text.strip()
        if self._schema is None:
            if not text:
                raise ValueError("it is empty")
            return cast("Out", Reply(text=text))
        output: Out = self.output_type.model_validate_json(_unfenced(text))
        return output

    def check(self, request: In, output: Out) -> None:
        """Say what the schema can't: whether the output fits this request.

        Raises:
            ValueError: it does not; the message is shown to the model.
        """

    async def answer(self, request: In, context: RunContext) -> Out:
        """Ask, validate, check, and have it repaired."""
        first = messages = self.messages(request)
        for left in range(self.repairs, -1, -1):
            completion = await self._ask(messages, context)
            cut = completion.finish_reason == "length"
            try:
                plain = self._unechoed(completion, self._tag_in(first[-1].content), context)
                output = self.read(self._fitted(plain, context))
                self.check(request, output)
            except ValueError as error:
                fault = said(error)
                if cut:
                    fault = f"it was cut at max_tokens={self.max_tokens} ({fault})"
                if not left:
                    raise self._unusable(completion, fault) from error
                context.note("repaired", f"asked again: {fault}", endpoint=completion.endpoint)
                wrong = "it was too long, be brief" if cut else wrong_with(error)
                messages = again(first, wrong, tag=self.tag or TAG)
            else:
                if cut:
                    context.note("truncated", f"the answer, at max_tokens={self.max_tokens}")
                return output
        raise AssertionError("the last try returns or raises")

    def _unechoed(self, completion: Completion, tag: str, context: RunContext) -> Completion:
        """Take the tags of the data out of an answer."""
        if not tag or f"<{tag}>" in self.instructions:
            return completion
        text = without_tags(completion.text, tag=tag)
        if text == completion.text.strip():
            return completion
        if self._streams(context):  # it has been shown
            context.note("degraded", "the model repeated the tags around its data")
            return completion
        context.note("changed", "the tags around the data, which the model repeated, are cut")
        return replace(completion, text=text)

    def _fitted(self, completion: Completion, context: RunContext) -> Completion:
        """Cut what is too much, rather than have it all written again."""
        if self._schema is None:
            return completion
        text, cut = fitted(self.output_type, _unfenced(completion.text))
        for what in cut:
            context.note("truncated", what, endpoint=completion.endpoint)
        return replace(completion, text=text)

    def _unusable(self, completion: Completion, fault: str) -> OutputError:
        tries = "1 try" if not self.repairs else f"{self.repairs + 1} tries"
        return OutputError(
            f"no valid {self.output_type.__name__} from {completion.endpoint!r} after {tries}: "
            f"{fault}. The answer begins {completion.text[:80]!r}",
            node=self.name,
            text=completion.text,
        )

    async def _ask(self, messages: tuple[Message, ...], context: RunContext) -> Completion:
        prompt = Prompt(
            messages=messages,
            json_schema=self._schema,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
        )
        if not self._streams(context):
            return await self.endpoint.complete(prompt, context)
        completion = None
        async with closed_after(self.endpoint.stream(prompt, context)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion):
                    completion = piece
                else:
                    context.emit(TextDelta(context.node, piece))
        if completion is None:
            raise InvalidResponse("the stream broke off", endpoint=self.endpoint.name)
        return completion

    def _streams(self, context: RunContext) -> bool:
        # What `check` may reject is not shown: nobody could take it back.
        checked = type(self).check is not Agent[In, Out].check
        listened = context.listener is not None and "stream" in self.endpoint.capabilities
        return listened and self._schema is None and not checked


def _unfenced(text: str) -> str:
    fenced = _FENCED.fullmatch(text.strip())
    return fenced["inside"] if fenced else text.strip()


ready("generator", "Writes by instructions", "llm")(
    partial(Agent[str | BaseModel, Reply], instructions=REPLY, name="generator")
)
