"""Writing: steps shared by recipes that write in several calls.

Such a recipe plans, has the parts written in parallel, and checks and joins the results. Any of its
calls may fail, or exceed the budget. The results so far are paid for, and still make an answer. So
a recipe says what happens if a step is `missing`, and runs it with:

- `report_step`: reports the start and the end of a step to the listener;
- `attempt`, `attempt_writing`: run a step, or a writer, that the recipe can do without;
- `attempt_each`: runs a step for each part, some in parallel;
- `write_to_length`: writes a text, once more if it is too short, and cuts it.

They don't check that an answer is valid: an `Agent` does, and asks again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from moa.agents.agent import Agent
from moa.agents.base import In, Out
from moa.core._async import map_async
from moa.core._text import word_count
from moa.core.context import RunContext
from moa.core.errors import MissingDependency, MoaError, check_recoverable
from moa.core.node import Node, Reply
from moa.core.trace import NodeFinished, NodeStarted, NoteKind
from moa.documents.sentences import Length
from moa.endpoints.known import can_write

Item = TypeVar("Item")
T = TypeVar("T")
MAX_CONCURRENCY = 8
"""Maximum number of calls that a recipe makes in parallel."""


class WholePrompt(Agent[str, Out], Generic[Out]):
    """Sends the request unchanged as the user message. The caller must put data into blocks."""

    def user_prompt(self, request: str) -> str:
        """Return the request."""
        return request


async def report_step(step: str, work: Awaitable[T], context: RunContext) -> T:
    """Run a step, and report its start and its end to the run's listener."""
    path, start = f"{context.node}/{step}", time.perf_counter()
    context.emit(NodeStarted(path))
    output = await work
    context.emit(NodeFinished(path, output, time.perf_counter() - start))
    return output


async def attempt(
    work: Awaitable[T], context: RunContext, missing: str, *, kind: NoteKind = "failed"
) -> T | None:
    """Run a step that a recipe can do without; return `None` if it fails.

    Args:
        work: The step.
        context: Its trace says why the step failed.
        missing: Consequence of a failure, in words.
        kind: Kind of the note in the trace.

    Raises:
        MoaError: it is set up wrong, such as without a key, or the run's time is up.
    """
    try:
        return await work
    except MoaError as error:
        _check(error)
        context.note(kind, f"{missing}: {error}")
        return None


def _check(error: MoaError) -> None:
    """Raise an error that no fallback may hide. A missing package may be hidden."""
    if not isinstance(error, MissingDependency):
        check_recoverable(error)


async def attempt_writing(
    writer: Agent[In, Out], request: In, context: RunContext, missing: str
) -> Out | None:
    """Run a writer that a recipe can do without, unless its model is too small to write.

    Return `None` if nothing was written; see `attempt`.
    """
    model = writer.endpoint.model
    if not can_write(model):
        context.note("degraded", f"{missing}: {model} is too small to write")
        return None
    result = await attempt(writer.run(request, context), context, missing)
    return None if result is None else result.output


async def attempt_each(
    work: Callable[[Item], Awaitable[T]],
    items: Iterable[Item],
    context: RunContext,
    missing: Callable[[Item], str],
    *,
    minimum: int = 1,
) -> list[T | MoaError]:
    """Run a step for each item, some in parallel. The result of a failed item is its error.

    Args:
        work: The step for one item.
        items: The items.
        context: Its trace says why an item failed.
        missing: Returns the consequence of an item's failure, in words.
        minimum: Minimum number of items that must succeed, unless there are none.

    Raises:
        MoaError: too few items succeeded (it is the first error), an endpoint is set up wrong, or
            the run's time is up.
    """
    failed: list[MoaError] = []

    async def work_on(item: Item) -> T | MoaError:
        try:
            return await work(item)
        except MoaError as error:
            _check(error)
            context.note("failed", f"{missing(item)}: {error}")
            failed.append(error)
            return error

    results = await map_async(work_on, items, max_concurrency=MAX_CONCURRENCY)
    if failed and len(results) - len(failed) < minimum:
        raise failed[0]
    return results


async def write_to_length(
    writer: Node[str, Reply], prompt: str, length: Length, context: RunContext, *, what: str
) -> str:
    """Write a text, once more if it is too short, and cut it if it is too long.

    Args:
        writer: The agent that writes.
        prompt: The whole prompt.
        length: Target length of the text.
        context: The context of the run.
        what: The text's name in the trace, such as `section 2`.

    Raises:
        MoaError: nothing was written. If only the second text fails, the first is returned.
    """
    text = (await writer.run(prompt, context)).output.text
    if (fault := length.shortfall(text)) is not None:
        context.note("repaired", f"{what} asked again: {fault}")
        # The draft isn't shown: small models copy what they read last.
        retry_prompt = f"{prompt}\n\nA first draft was too short: {fault}. Say more, with details."
        longer = await attempt(
            writer.run(retry_prompt, context), context, f"{what} was not written anew"
        )
        if longer is not None:
            text = max(text, longer.output.text, key=word_count)
    cut = length.shorten(text)
    if len(cut) < len(text):
        context.note("truncated", f"{what}, by its length")
    if (fault := length.fault(cut)) is not None:
        context.note("degraded", f"the length of {what}: {fault}")
    return cut
