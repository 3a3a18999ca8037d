"""Tool calls: those of one run are checked, approved, made, guarded and kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

from pydantic_core import to_json

from moa.agents.base import fault_in
from moa.agents.prompts import block
from moa.agents.tools import Tool, in_thread
from moa.core._async import gather
from moa.core._threads import USER_THREADS
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, ConfigError, DeadlineExceeded, EndpointUnauthorized
from moa.core.journal import Place, explain, interrupts_of, join_interrupts
from moa.core.journal_records import PLAIN, Call
from moa.core.messages import Message, ToolCall
from moa.core.telemetry import Span, names
from moa.core.telemetry.spans import attach_to
from moa.core.trace import NoteKind, ToolFinished, ToolStarted
from moa.core.usage import Amount
from moa.endpoints import Endpoint

_LONGEST_QUOTE = 300
_NO_TIME = 1e-12
"""Seconds of a charge for a tool: those of a usage are spent with endpoints."""
_ENDS_A_RUN = (ConfigError, BudgetExceeded, EndpointUnauthorized)
"""Errors that no model can do anything about."""


@dataclass
class ToolCalls:
    """The calls of one run."""

    tools: Mapping[str, Tool]
    most: int
    """Calls that the run may make."""
    endpoint: Endpoint
    """The endpoint whose model asks for them; they count as its own."""
    tag: str
    """Name of the tags around results, which are data."""
    count: int = field(default=0, init=False)
    """Calls that were made so far."""

    async def results(self, calls: Sequence[ToolCall], context: RunContext) -> tuple[Message, ...]:
        """Make the calls of one turn in parallel, and give what the model reads of each.

        Raises:
            BudgetExceeded: it would be more than the run may make; none is made.
            MoaError: a tool raised what no model can do anything about.
        """
        self.count += len(calls)
        if self.count > self.most:
            tool_names = ", ".join(call.name for call in calls)
            raise BudgetExceeded(
                f"{context.node}: the model asks for {tool_names}, and max_tool_calls={self.most}. "
                "Raise it, or say in the instructions when to stop",
                spent=context.usage,
            )
        outcomes = await gather(self._run_call(call, context) for call in calls)
        waiting = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if waiting:
            raise join_interrupts(waiting)
        return tuple(
            Message("tool", block(str(text), tag=self.tag), tool_call_id=call.id)
            for call, text in zip(calls, outcomes, strict=True)
        )

    async def _run_call(self, call: ToolCall, context: RunContext) -> str | Exception:
        """Return the text that the model reads, or the interrupt if the run waits for a person."""
        call_context = context.nested()
        place: AbstractContextManager[Place | None] = nullcontext()
        if context.journal is not None:
            place = context.journal.inside(f"{context.node}/{call.name}", call)
        try:
            with place as call_context.journal:
                return await self._answer(call, call_context)
        except Exception as error:
            if interrupts_of(error):
                return error
            if (failure := explain(error, context.node)) is error:
                raise
            raise failure from error

    async def _answer(self, call: ToolCall, context: RunContext) -> str:
        tool = self.tools.get(call.name)
        if tool is None:
            return _write_failure(
                call, "no such tool", f"there is {', '.join(self.tools)}", context
            )
        try:
            values = tool.read(call.arguments)
        except ValueError as error:
            return _write_failure(call, "wrong arguments", _quote(error), context)
        if context.journal is None:
            return await self._trace(tool, call, values, context)
        journal_call = Call(context, f"tool {call.name}", call.arguments)
        if finished := journal_call.find(PLAIN, may_repeat=False):
            return str(journal_call.reuse(finished))
        async with journal_call:
            text = await self._trace(tool, call, values, journal_call.inner)
        await journal_call.keep(text)
        return text

    async def _trace(
        self, tool: Tool, call: ToolCall, values: Mapping[str, object], context: RunContext
    ) -> str:
        with context.span("tool", tool.name) as span:
            if span is None:
                return await self._call_if_allowed(tool, call, values, context)
            span.set(names.TOOL_CALL_ID, call.id or None)
            if not span.content:
                return await self._call_if_allowed(tool, call, values, context)
            from moa.core.telemetry import content  # few runs record texts

            await content.record(span, content.write_arguments(call.arguments))
            text = await self._call_if_allowed(tool, call, values, context)
            await content.record(span, content.write_result(text))
            return text

    async def _call_if_allowed(
        self, tool: Tool, call: ToolCall, values: Mapping[str, object], context: RunContext
    ) -> str:
        approval: object = True
        if tool.approve is not None:  # it sees what will run, and not what the model wrote
            final_call = replace(call, arguments=to_json(dict(values), fallback=str).decode())
            approval = await in_thread(partial(tool.approve, final_call), f"approve of {tool.name}")
        if approval is True:
            return await self._call_tool(tool, call, values, context)
        if not isinstance(approval, str | bool):
            raise ConfigError(f"approve of tool {tool.name!r} gave {approval!r}, not a bool or why")
        return _write_failure(
            call, "not allowed", str(approval or "a person said no"), context, "refused"
        )

    async def _call_tool(
        self, tool: Tool, call: ToolCall, values: Mapping[str, object], context: RunContext
    ) -> str:
        amount = Amount(tool_calls=1, seconds=_NO_TIME)
        (await context.reserve(self.endpoint.name, self.endpoint.tier, amount)).settle(amount)
        context.emit(ToolStarted(context.node, call.name, call.arguments))
        start, left = time.perf_counter(), context.remaining_s()
        limit = asyncio.timeout(tool.timeout_s if left is None else min(tool.timeout_s, left))
        try:
            async with limit:
                with attach_to(context.tracer):
                    text = await tool.run(values, context)
            failure = None
        except DeadlineExceeded as error:
            context.remaining_s()  # raises if it is the run's own time that is up
            text, failure = _quote(error), type(error).__name__
        except _ENDS_A_RUN:
            raise
        except Exception as error:  # noqa: BLE001  a model can do without one tool
            text, failure = self._failure(error, tool, limit, context)
        text, stopped = await tool.guard(text, context)
        seconds = time.perf_counter() - start
        if stopped is not None:
            text = _write_failure(call, stopped, text, context, "dropped")
        elif failure is None:
            length = f"{len(text)} characters in {seconds:.2f} s"
            context.note("called", f"{_describe(call)}: {length}")
        else:
            text = _write_failure(call, failure, text, context)
        context.emit(ToolFinished(context.node, call.name, call.arguments, text, seconds))
        return text

    @staticmethod
    def _failure(
        error: Exception, tool: Tool, limit: asyncio.Timeout, context: RunContext
    ) -> tuple[str, str]:
        """Return why a tool failed, and the kind of its error; raise what ends the run."""
        failure = explain(error, context.node)
        if failure is not error:
            raise failure from error
        if type(error).__module__.startswith("langgraph."):
            raise error
        if isinstance(error, TimeoutError) and limit.expired():
            context.remaining_s()
            reason = f"{tool.timeout_s:g} s are over"
            if stuck := USER_THREADS.count_stuck().get(tool.name):
                reason += f"; nothing can stop its thread ({stuck} of it hang)"
            return reason, "no result in time"
        return _quote(error) or "it says no more", type(error).__name__


def _write_failure(
    call: ToolCall, kind: str, reason: str, context: RunContext, note: NoteKind = "failed"
) -> str:
    context.note(note, f"{_describe(call)}: {kind}: {reason}")
    if note == "failed" and isinstance(context.tracer, Span):
        context.tracer.set(names.ERROR, kind)
    return f"Error, {kind}: {reason}"


def _quote(error: Exception) -> str:
    start = fault_in(error)[: 10 * _LONGEST_QUOTE]  # a server may say megabytes
    return " ".join(start.split())[:_LONGEST_QUOTE]


def _describe(call: ToolCall) -> str:
    return f"{call.name}({call.arguments[:_LONGEST_QUOTE]})"
