"""Agent: asks a model to write its output, validates it, and asks again if it is invalid."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Generator, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeGuard, Unpack, cast, overload

from pydantic import (
    BaseModel,
    Field,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    create_model,
)

from moa.agents.base import In, Limits, Out, TypedNode, fault_in, ready, require
from moa.agents.prompts import (
    TAG,
    Template,
    data,
    describe_fault,
    fit_to_schema,
    retry_messages,
    schema_of,
    system,
    text_size,
    without_tags,
    write_input,
)
from moa.agents.tool_calls import ToolCalls
from moa.agents.tools import AnyTool, Tool
from moa.core._async import closing_stream, iterate_sync, off_loop, run_sync
from moa.core.budget import UNLIMITED, Budget
from moa.core.context import RunContext
from moa.core.errors import ConfigError, InputError, InvalidResponse, OutputError
from moa.core.messages import Message, files_of, required_file_kinds
from moa.core.node import Reply, Result, stream_run
from moa.core.trace import Event, TextDelta
from moa.endpoints import Completion, Endpoint, Prompt
from moa.endpoints.known import can_write
from moa.endpoints.sent import rehearse_prompt
from moa.endpoints.tokens import length_of

if TYPE_CHECKING:
    from typing_extensions import TypeForm

REPLY = "Answer the message, in its language."
"""The default instructions."""
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\s*```", re.DOTALL | re.IGNORECASE)

Instructions = Annotated[str, Field(min_length=1)]
MaxTokens = Annotated[int, Field(gt=0)]
"""Maximum number of tokens to generate, reasoning included."""
Temperature = Annotated[float, Field(ge=0, le=2)]
WarmTemperature = Annotated[float, Field(gt=0, le=2)]
"""Temperature for several samples: at 0 all would be the same."""


class Settings(Limits, total=False):
    """Keywords of every writing agent."""

    repairs: int
    """Maximum number of retries after an invalid answer; each tells the model the error."""
    max_tokens: int
    """Maximum number of tokens to generate for an answer, reasoning included."""
    temperature: float | None
    """Sampling temperature; above 0, answers differ. `None` uses the server's default."""
    tag: str | None
    """Name of the tags that mark the input as data; empty if the input is the request itself."""
    examples: Sequence[tuple[object, object]]
    """Pairs of an input and its right output, shown to the model before the request."""
    tools: Sequence[AnyTool]
    """Tools that the model may call: functions, LangChain tools, `Tool`s."""
    max_tool_calls: int
    """Maximum number of tool calls in a run; one more raises `BudgetExceeded`."""


History = Iterable[Message | Mapping[str, object]] | Result[object]
"""Earlier messages: a result, its `messages`, or messages in OpenAI's format."""


@dataclass
class _Talk:
    """The conversation before a run, and the messages that the run adds."""

    history: tuple[Message, ...]
    said: tuple[Message, ...] = ()


_TALK: ContextVar[_Talk | None] = ContextVar("_TALK", default=None)
"""Conversation of the running agent; `answer`, which classes override, has no parameter for it."""


class Agent(TypedNode[In, Out]):
    """Asks a model to write an output, validates it, and asks again if it is invalid.

        Agent(endpoint, "Thank the customer.")                       # text in, a `Reply` out
        Agent(endpoint, "Find the order.", output=Order)             # an `Order` out
        Agent(endpoint, "Name the cities.", output=list[str])        # a list out
        Agent(endpoint, "Find the order.", input=Mail, prompt="Mail: {body}", output=Order)
        Agent(endpoint, "Answer by the calendar.", tools=[events_of, add_event])

    The output follows its JSON schema. A `Reply` is plain text, and streams while it is written.
    The input is marked as data: the model is told to ignore orders in it. For a chat, where the
    input is the request itself, pass `tag=""`.

    Derive a class for more control:

        class Judge(Agent[Ballot, Verdict]):
            instructions = "Pick the best answer. Judge substance, not length."

    Args:
        endpoint: The endpoint that writes, or its name: `"VENDOR:MODEL"`.
        instructions: The task, in words; `None` uses those of the class.
        input: Type of the input; by default a text or any pydantic model.
        output: Type of the output: a `Reply` by default, else a pydantic model or a type that
            JSON can hold, such as `int`, `list[str]` or a `Literal`.
        prompt: Template of the prompt, with `{field}` for fields of `input`; `None`: all fields.
        settings: See `Settings`.

    Raises:
        CapabilityError: the endpoint can't complete.
        ConfigError: instructions or types are missing, a number is out of range, or an example, the
            prompt or a tool doesn't fit.

    Examples:
        >>> large = ScriptedEndpoint(["Your parcel comes on Friday."])
        >>> agent = Agent(large, "Answer the customer.")
        >>> print(agent.run_sync("Where is my parcel?").output)
        Your parcel comes on Friday.
    """

    instructions: str = ""
    """The task, in words; the model reads it first."""
    tag: str = TAG
    """Name of the tags around data in prompts; they are removed from answers. Empty if the input is
    the request itself, which then has no tags."""

    @overload
    def __init__(
        self,
        endpoint: Endpoint | str,
        instructions: str | None = None,
        **settings: Unpack[Settings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        endpoint: Endpoint | str,
        instructions: str,
        *,
        input: type[In] = ...,
        output: TypeForm[Out] = ...,
        prompt: str | None = None,
        **settings: Unpack[Settings],
    ) -> None: ...
    def __init__(
        self,
        endpoint: Endpoint | str,
        instructions: str | None = None,
        *,
        input: object = None,
        output: object = None,
        prompt: str | None = None,
        name: str | None = None,
        repairs: int = 1,
        max_tokens: int = 512,
        temperature: float | None = 0.0,
        tag: str | None = None,
        examples: Sequence[tuple[object, object]] = (),
        tools: Sequence[AnyTool] = (),
        max_tool_calls: int = 10,
        budget: Budget = UNLIMITED,
        timeout_s: float | None = None,
    ) -> None:
        if type(self) is Agent:
            input, output = input or str | BaseModel, output or Reply
        attributes = {
            "input_type": input,
            "output_type": output,
            "instructions": instructions,
            "tag": tag,
        }
        vars(self).update({key: value for key, value in attributes.items() if value is not None})
        super().__init__(name=name, budget=budget, timeout_s=timeout_s)
        self.endpoint = require(endpoint, "complete", agent=self.name)
        self._model = _model_of(self.output_type)
        """The pydantic model that validates the JSON."""
        if next(iter(required_file_kinds(self._model)), None):
            raise ConfigError(
                f"output={self._model.__name__}: an agent's model writes text, and no images "
                "or files. Give a pydantic model with fields of text, numbers and the like"
            )
        for kind in required_file_kinds(self.input_type):
            require(self.endpoint, kind, agent=self.name)
        if type(self) is Agent and not self.instructions.strip():
            raise ConfigError(f'agent {self.name!r}: say what to do: Agent(endpoint, "…")')
        if repairs < 0 or max_tokens < 1:
            raise ConfigError(
                f"agent {self.name!r}: repairs={repairs} and max_tokens={max_tokens}, but repairs "
                "must be 0 or more and max_tokens at least 1"
            )
        self.repairs = repairs
        self.max_tokens = max_tokens
        self.temperature = temperature
        self._schema = None if self.output_type is Reply else schema_of(self._model)
        self._template = None if prompt is None else Template(prompt, self.input_type)
        self._examples = tuple(self._example(*example) for example in examples)
        self.max_tool_calls = max_tool_calls
        self.tools = {tool.name: tool for tool in map(Tool.of, tools)}
        if len(self.tools) < len(tools):
            raise ConfigError(f"agent {self.name!r}: two tools have the same name: give one name=")
        if self.tools:
            from moa.endpoints.tools import WithTools  # few agents have tools

            self.endpoint = WithTools(self.endpoint)

    async def run(
        self, request: In, /, context: RunContext | None = None, *, history: History = ()
    ) -> Result[Out]:
        """Answer one request; see `TypedNode.run`.

        Args:
            request: The input.
            context: Budget, deadline and ledger of the run it is part of; `None` starts one.
            history: Earlier messages: a result, its `messages`, or messages in OpenAI's format. The
                agent's own instructions come first.
        """
        messages = history.messages if isinstance(history, Result) else history
        if isinstance(messages, str):
            raise InputError(f"{self.name}: the history is a text: give json.loads(…) of it")
        talk = _Talk(tuple(map(Message.of, messages)))
        token = _TALK.set(talk)
        try:
            result = await super().run(request, context)
        finally:
            _TALK.reset(token)
        new = talk.said[len(talk.history) :]
        return replace(result, messages=talk.said, new_messages=new)

    def stream(
        self, request: In, /, context: RunContext | None = None, *, history: History = ()
    ) -> AsyncIterator[Event | Result[Out]]:
        """Run, and yield events as they happen, then the result; see `run`."""
        return stream_run(partial(self.run, history=history), request, context)

    def run_sync(
        self, request: In, /, context: RunContext | None = None, *, history: History = ()
    ) -> Result[Out]:
        """Run from synchronous code; see `run` and `NodeBase.run_sync`."""
        return run_sync(lambda: self.run(request, context, history=history))

    def stream_sync(
        self, request: In, /, context: RunContext | None = None, *, history: History = ()
    ) -> Generator[Event | Result[Out]]:
        """Stream from synchronous code; see `stream`, `run` and `NodeBase.run_sync`."""
        return iterate_sync(stream_run(partial(self.run, history=history), request, context))

    def list_settings(self) -> Mapping[str, object]:
        """Return what its answers depend on; of a tool, what the model is told of it."""
        settings: dict[str, object] = {
            "instructions": self.instructions,
            "tag": self.tag,
            "prompt": self._template and self._template.text,
            "schema": self._schema,
            "examples": self._examples,
            "tools": [tool.schema for tool in self.tools.values()],
        }
        return {**super().list_settings(), **settings}

    @property
    def _writes_model(self) -> bool:
        return self._model is self.output_type

    def _example(self, request: object, output: object) -> tuple[In, BaseModel]:
        if self._schema is None and isinstance(output, str):
            output = {"text": output}
        try:
            right_output = self._model.model_validate(
                output if self._writes_model else {_VALUE: output}
            )
        except ValidationError as error:
            raise ConfigError(
                f"agent {self.name!r}: example {output!r:.100}: {fault_in(error)}"
            ) from None
        return self._check_input(request), right_output

    def user_prompt(self, request: In) -> str:
        """Write the user message: by default the request, marked as data if there is a `tag`.

        An override must pass outside text through `moa.agents.prompts.block`, with `tag` if the
        agent sets its own.
        """
        if self._template is not None:
            return self._template.fill(request, tag=self.tag)
        return data(request, tag=self.tag) if self.tag else write_input(request)

    def messages(self, request: In) -> tuple[Message, ...]:
        """Write the messages to the model; by default the instructions, and `user_prompt`."""
        prompt = self.user_prompt(request)
        rule = system(self.instructions, self._schema, tag=self._tag_in(prompt))
        return (Message("system", rule), Message("user", prompt, files=tuple(files_of(request))))

    def _opening_messages(
        self, messages: Sequence[Message], history: Sequence[Message]
    ) -> tuple[Message, ...]:
        """Write the messages before the request: instructions, examples, and history."""
        history_rules = [message.content for message in history if message.role == "system"]
        rules = [message.content for message in messages if message.role == "system"]
        before = (
            [Message("system", "\n\n".join((*rules, *history_rules)))]
            if rules or history_rules
            else []
        )
        for request, output in self._examples:
            *_, user_message = self.messages(request)
            text = output.text if isinstance(output, Reply) else output.model_dump_json()
            before += [user_message, Message("assistant", text)]
        before += [message for message in history if message.role != "system"]
        return tuple(before)

    def _tag_in(self, prompt: str) -> str:
        """Return the tag if the prompt or a tool's result may hold it; else an empty string."""
        tag = self.tag or TAG
        return tag if self.tools or (self.tag and f"</{tag}>" in prompt) else ""

    def read(self, completion: Completion) -> Out:
        """Parse the model's answer.

        Raises:
            ValueError: it is not valid; the message is shown to the model.
        """
        text = completion.text.strip()
        if self._schema is None:
            if not text:
                raise ValueError("it is empty")
            return cast("Out", Reply(text=text))
        json_text = strip_fence(text)
        if not self._writes_model and not json_text.startswith("{"):  # no schema was enforced
            return TypeAdapter[Out](self.output_type).validate_json(json_text)
        instance = self._model.model_validate_json(json_text)
        return cast("Out", instance) if self._writes_model else getattr(instance, _VALUE)

    async def _read(self, completion: Completion) -> Out:
        return self.read(completion)

    def check(self, request: In, output: Out) -> None:
        """Check what the schema can't: that the output fits this request.

        Raises:
            ValueError: it does not; the message is shown to the model.
        """

    async def answer(self, request: In, context: RunContext) -> Out:
        """Ask the model, run its tool calls, check the answer, and ask again if it is invalid."""
        talk = _TALK.get() or _Talk(())
        before, user_messages = await off_loop(
            partial(self._first_messages, request, talk.history),
            context.remaining_s(),
            size=self._size(request, talk.history),
            owner=context.owner,
        )
        messages = before
        calls = ToolCalls(self.tools, self.max_tool_calls, self.endpoint, self.tag or TAG)
        turns: tuple[Message, ...] = ()
        # With tools, many servers enforce no schema, so JSON may need one more try.
        tries = self.repairs + 1 + (self._schema is not None and bool(self.tools))
        for left in range(tries - 1, -1, -1):
            free = self._schema is None or messages is before
            completion, new_turns = await self._turns(messages, calls, context, free=free)
            turns += new_turns
            cut = completion.finish_reason == "length"
            try:
                clean_completion = self._without_echo(
                    completion, self._tag_in(user_messages[-1].content), context
                )
                output = await self._read(self._cut_to_fit(clean_completion, context))
                self.check(request, output)
            except ValueError as error:
                fault = fault_in(error)
                if cut:
                    fault = f"it was cut at max_tokens={self.max_tokens} ({fault})"
                if not left:
                    after = "1 try" if tries == 1 else f"{tries} tries"
                    raise OutputError(
                        f"no valid {self._model.__name__} from {completion.endpoint!r} after "
                        f"{after}: {fault}. The answer begins {completion.text[:80]!r}",
                        node=self.name,
                        text=completion.text,
                    ) from error
                context.note("repaired", f"asked again: {fault}", endpoint=completion.endpoint)
                wrong = "it was too long, be brief" if cut else describe_fault(error)
                messages = retry_messages((*before, *turns), wrong, tag=self.tag or TAG)
            else:
                if cut:
                    context.note("truncated", f"the answer, at max_tokens={self.max_tokens}")
                if not can_write(model := completion.model):
                    warning = f"{model} writes badly: take it for a draft"
                    context.note("drafted", warning, endpoint=completion.endpoint)
                answered = Message("assistant", clean_completion.text)
                talk.said = (*talk.history, *user_messages, *turns, answered)
                return output
        raise AssertionError("the last try returns or raises")

    def _first_messages(
        self, request: In, history: Sequence[Message]
    ) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """Return all messages of the first call, and those of them that come from the request."""
        messages = self.messages(request)
        user_messages = tuple(message for message in messages if message.role != "system")
        before = (*self._opening_messages(messages, history), *user_messages)
        if history and not self.tools:
            from moa.endpoints.tools import flatten_tool_calls  # few go on with earlier messages

            before = flatten_tool_calls(before)
        return before, user_messages

    def _size(self, request: In, history: Sequence[Message]) -> int:
        """Count the characters from which `_first_messages` writes."""
        return text_size(request) + length_of(history)

    async def _turns(
        self, messages: tuple[Message, ...], calls: ToolCalls, context: RunContext, *, free: bool
    ) -> tuple[Completion, tuple[Message, ...]]:
        """Ask until the model answers; if `free`, it may call tools, which are run.

        Return the answer, and the calls and results before it.
        """
        turns: tuple[Message, ...] = ()
        while True:
            completion = await self._ask((*messages, *turns), context, free=free)
            if not completion.tool_calls:
                return completion, turns
            call_message = Message("assistant", completion.text, completion.tool_calls)
            turns += (call_message, *await calls.results(completion.tool_calls, context))

    def _without_echo(self, completion: Completion, tag: str, context: RunContext) -> Completion:
        """Remove the data's tags from an answer."""
        if not tag or f"<{tag}>" in self.instructions:
            return completion
        text = without_tags(completion.text, tag=tag)
        if text == completion.text.strip():
            return completion
        if self._streams(context):  # it has already been shown
            context.note("degraded", "the model repeated the tags around its data")
            return completion
        context.note("changed", "the tags around the data, which the model repeated, are cut")
        return replace(completion, text=text)

    def _cut_to_fit(self, completion: Completion, context: RunContext) -> Completion:
        """Cut texts and lists that are too long, instead of asking again."""
        if self._schema is None:
            return completion
        text, cut = fit_to_schema(self._model, strip_fence(completion.text.strip()))
        for description in cut:
            context.note("truncated", description, endpoint=completion.endpoint)
        return replace(completion, text=text)

    def _prompt(self, messages: tuple[Message, ...], *, free: bool) -> Prompt:
        return Prompt(
            messages=messages,
            json_schema=self._schema,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            tools=tuple(tool.schema for tool in self.tools.values()) if free else (),
        )

    async def _ask(
        self, messages: tuple[Message, ...], context: RunContext, *, free: bool
    ) -> Completion:
        prompt = self._prompt(messages, free=free)
        await rehearse_prompt(self.endpoint, prompt, context)
        if not self._streams(context):
            return await self.endpoint.complete(prompt, context)
        completion = None
        async with closing_stream(self.endpoint.stream(prompt, context)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion):
                    completion = piece
                else:
                    context.emit(TextDelta(context.node, piece))
        if completion is None:
            raise InvalidResponse("the stream broke off", endpoint=self.endpoint.name)
        return completion

    def _streams(self, context: RunContext) -> bool:
        if context.listener is None or "stream" not in self.endpoint.capabilities:
            return False
        # An answer that `check` may reject isn't shown: it couldn't be taken back.
        return self._schema is None and type(self).check is Agent[In, Out].check


_VALUE = "value"
"""Name of the only field of a model that wraps another output type."""


def _is_model(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _model_of(output: TypeForm[object]) -> type[BaseModel]:
    """Return a pydantic model for any output type: servers take only schemas of objects.

    Raises:
        ConfigError: JSON can't hold it, or it is `str`, for which `Reply` is the default.
    """
    if output is str:
        raise ConfigError("output=str: leave it out, an agent gives a Reply, which has a text")
    if _is_model(output):
        return output
    try:
        model = create_model(getattr(output, "__name__", "Answer"), value=(output, ...))
        model.model_json_schema()
    except PydanticUserError:
        raise ConfigError(
            f"output={output!r}: give a pydantic model with a field for each thing that is "
            "wanted, a type that JSON can hold, or leave it out for a text"
        ) from None
    return model


def strip_fence(text: str) -> str:
    """Remove the code fence around JSON."""
    fenced = _FENCED.fullmatch(text)
    return fenced[1] if fenced else text


ready("generator", "Writes by instructions", "llm")(
    partial(Agent[str | BaseModel, Reply], instructions=REPLY, name="generator")
)
