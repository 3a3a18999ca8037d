"""Calls: one node or function is run, its output is kept, and its errors are named after it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from moa.context import RunContext
from moa.errors import MoaError, NodeError, WiringError
from moa.graphs.engine.types import kept_form
from moa.journal import explained
from moa.records import Form, run_once

if TYPE_CHECKING:
    from moa.graphs.engine.plan import Task


@dataclass(frozen=True, slots=True)
class Settled:
    """An output, and whether its node's result says that it is accepted."""

    output: Any
    accepted: bool | None


async def call(task: Task, value: Any, context: RunContext) -> Settled:
    """Run a node, or a function, and give its output.

    Where the run can be resumed, the output is kept, and given again.

    Raises:
        NodeError: a function raised something that is no `MoaError`.
    """
    if context.journal is None:
        return await _called(task, value, context)
    form = kept_form(task.output, owner=task.name)
    return await run_once(
        context,
        f"{context.node}/{task.name}",
        value,
        form and _settled(form),
        lambda inner: _called(task, value, inner),
    )


def _settled(form: Form[Any]) -> Form[Settled]:
    """Keep beside an output whether it is accepted, where that is said."""

    def dump(settled: Settled) -> Any:
        written = form.dump(settled.output)
        return written if settled.accepted is None else [*written, settled.accepted]

    def load(written: Any) -> Settled:
        if isinstance(written, list) and len(cast("list[Any]", written)) == 3:
            *value, accepted = cast("list[Any]", written)
            return Settled(form.load(value), accepted)
        return Settled(form.load(written), None)

    return Form(dump, load)


async def _called(task: Task, value: Any, context: RunContext) -> Settled:
    try:
        if task.is_node:
            own = context.nested(task.name) if task.renamed else context
            result = await task.work(value, own)
            return Settled(result.output, getattr(result, "accepted", None))
        if task.thread:
            return Settled(await asyncio.to_thread(task.work, value), None)
        output = task.work(value)
        return Settled(await output if hasattr(output, "__await__") else output, None)
    except MoaError:
        raise
    except Exception as error:
        failure = explained(error, task.name) if task.is_node else failure_of(task.name, error)
        if failure is error:
            raise
        raise failure from error


def quickly(name: str, work: Callable[..., Any], *values: Any) -> Any:
    """Call a quick function.

    Raises:
        NodeError: it raised something that is no `MoaError`.
        WiringError: it gave a coroutine.
    """
    try:
        output = work(*values)
    except MoaError:
        raise
    except Exception as error:
        raise failure_of(name, error) from error
    if inspect.iscoroutine(output):
        output.close()
        raise WiringError(f"{name!r} gave a coroutine, and nobody waits for it: use g.add for that")
    return output


def failure_of(name: str, error: Exception) -> Exception:
    """What a function's own error is called in a graph; LangGraph's signals stay as they are."""
    if type(error).__module__.startswith("langgraph."):
        return error
    found = explained(error, name)
    return NodeError(name, error) if found is error else found
