"""PydanticAINode: an agent of pydantic-ai as a node."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Unpack, overload

from pydantic import BaseModel

from moa.adapters import TEXT, Adapter, Calls, Settings, Takes
from moa.agents.base import In, Out
from moa.agents.prompts import write_input
from moa.core.errors import ConfigError, MissingDependency
from moa.core.node import Reply
from moa.core.usage import Amount, Part, Usage

if TYPE_CHECKING:
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.capabilities import WrapModelRequestHandler
    from pydantic_ai.messages import AgentStreamEvent, ModelMessage, ModelResponse
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.usage import RunUsage, UsageBase


class PydanticAINode(Adapter[In, Out]):
    """An agent of pydantic-ai, version 2 or later.

        PydanticAINode(agent)                   # text in, the agent's output out

    Each model request of the agent is reserved in the budget, so a limit of calls can stop the
    agent between two requests. If the output is a `Reply`, its text is streamed to the run's
    listener, unless `write` makes it.

    Args:
        agent: The agent, called by `run`.
        input: Input type; by default a text or any pydantic model.
        deps: Dependencies of its tools.
        read: Makes the prompt from the input. `None`: the text, or the pydantic model as text.
        write: Converts the agent's output. `None`: a text becomes a `Reply`, and a pydantic
            model is unchanged. Any other output needs `write` and `output`.
        output: Type that `write` returns.
        settings: See `Settings`.

    Raises:
        ConfigError: `output` is not a pydantic model; or it is missing, and the agent's output is
            neither text nor a pydantic model.
        MissingDependency: pydantic-ai 2 is not installed.
    """

    @overload
    def __init__(
        self: PydanticAINode[Takes, Reply],
        agent: AbstractAgent[Any, str],
        *,
        input: type[Takes] = TEXT,
        deps: object = None,
        read: Callable[[Takes], object] | None = None,
        **settings: Unpack[Settings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        agent: AbstractAgent[Any, Out],
        *,
        input: type[In] = TEXT,
        deps: object = None,
        read: Callable[[In], object] | None = None,
        **settings: Unpack[Settings],
    ) -> None: ...
    @overload
    def __init__(
        self,
        agent: AbstractAgent[Any, Any],
        *,
        input: type[In] = TEXT,
        output: type[Out],
        write: Callable[[Any], Out],
        deps: object = None,
        read: Callable[[In], object] | None = None,
        **settings: Unpack[Settings],
    ) -> None: ...
    def __init__(
        self,
        agent: AbstractAgent[Any, Any],
        *,
        input: object = TEXT,
        output: object = None,
        write: Callable[[Any], Out] | None = None,
        deps: object = None,
        read: Callable[[Any], object] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        gives: object = agent.output_type
        if output is None:
            output = Reply if gives is str else gives
        if not (isinstance(output, type) and issubclass(output, BaseModel)):
            raise ConfigError(
                f"the agent {agent.name!r} gives {gives!r}: say output=, a pydantic model, and "
                "write=, a function that makes one of it"
            )
        name = agent.name or "agent"
        super().__init__(
            input=input, output=output, read=read, write=write, default_name=name, **settings
        )
        self.agent, self.deps = agent, deps
        try:
            self._hooks = import_module("pydantic_ai.capabilities").Hooks
        except (ModuleNotFoundError, AttributeError) as error:
            raise MissingDependency(
                "pydantic-ai-slim",
                extra="",
                purpose="in version 2 or later, to count the requests of its agents",
                command='pip install "pydantic-ai-slim>=2"',
            ) from error

    def read_input(self, request: object) -> str:
        """Return the prompt."""
        return write_input(request)

    async def ask(self, value: Any, calls: Calls) -> object:
        """Run the agent, and count each of its requests in the ledger."""

        async def count(
            _: object, *, request_context: ModelRequestContext, handler: WrapModelRequestHandler
        ) -> ModelResponse:
            texts = _contents(request_context.messages)
            async with calls.reserve(*texts, model=request_context.model.model_name) as call:
                response = await handler(request_context)
                call.charge(response.usage, response.text or "")
            calls.answered += _amount_of(response.usage, 1)
            return response

        async def show(
            _: object, *, stream: AsyncIterable[AgentStreamEvent]
        ) -> AsyncGenerator[AgentStreamEvent]:
            async for event in stream:
                calls.show(_piece(event))
                yield event

        hooks = {"run_event_stream": show} if self.shows(calls.context) else {}
        capability = self._hooks(model_request=count, **hooks)
        result = await self.agent.run(value, deps=self.deps, capabilities=[capability])
        self._charge_delegates(result.usage, calls)
        return result.output

    def _charge_delegates(self, usage: RunUsage, calls: Calls) -> None:
        """Charge the agents that its tools ran with `usage=ctx.usage`."""
        amount = _amount_of(usage, usage.requests) + -calls.answered
        if amount.calls > 0:
            part = Part(self.endpoint.tier, calls.context.node, f"{self.name}'s agents")
            calls.context.charge(Usage({part: replace(amount, unpriced_calls=amount.calls)}))
            text = (
                f"its tools ran agents, which made {amount.calls} calls that no budget could stop"
            )
            calls.context.note("degraded", text, endpoint=part.endpoint)


def _amount_of(usage: UsageBase, calls: int) -> Amount:
    return Amount(
        calls=calls,
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cache_read_tokens,
        output_tokens=usage.output_tokens,
    )


def _contents(messages: Sequence[ModelMessage]) -> list[str]:
    """Return the texts of messages of pydantic-ai."""
    instructions = [getattr(message, "instructions", None) for message in messages[-1:]]
    parts = [getattr(part, "content", "") for message in messages for part in message.parts]
    return [text for text in (*instructions, *parts) if isinstance(text, str)]


def _piece(event: AgentStreamEvent) -> str:
    """Return the text that an event of pydantic-ai adds to the answer; empty for a thought."""
    if event.event_kind == "part_start" and event.part.part_kind == "text":
        return event.part.content
    if event.event_kind == "part_delta" and event.delta.part_delta_kind == "text":
        return event.delta.content_delta
    return ""
