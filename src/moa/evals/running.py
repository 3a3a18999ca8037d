"""Running: a design over all cases, some at a time, with what was answered before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from moa.context import RunContext
from moa.errors import ConfigError, MoaError, NodeError
from moa.evals.answers import Answer, Cache, taken
from moa.evals.cases import Case
from moa.node import Node

Progress = Callable[[str, int, int], None]
"""Told the design, how many cases it has done, and how many there are."""


async def answers_of(
    name: str,
    node: Node[Any, object],
    cases: Sequence[Case],
    *,
    cache: Cache,
    context: RunContext,
    concurrency: int,
    progress: Progress | None = None,
) -> list[Answer]:
    """Give the answers of a design to all cases, in their order.

    A case that fails has an answer without a text, which says why. It is asked again next time.

    Raises:
        ConfigError: the design can't work at all, such as with a calibration of another model.
    """
    free = asyncio.Semaphore(concurrency)
    done = 0

    async def one(case: Case) -> Answer:
        nonlocal done
        answer = cache.get(name, case.request)
        if answer is None:
            async with free:
                answer = await _asked(node, case, context)
            if answer.error is None:
                cache.put(name, case.request, answer)
        done += 1
        if progress is not None:
            progress(name, done, len(cases))
        return answer

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(case)) for case in cases]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _asked(node: Node[Any, object], case: Case, context: RunContext) -> Answer:
    own = context.nested()
    start = time.perf_counter()
    try:
        return Answer.of(await node.run(case.request, own))
    except ConfigError:
        raise
    except MoaError as error:
        return _failed(error, own, start)
    except Exception as error:  # noqa: BLE001  a bug in a user's node is that design's failure
        return _failed(NodeError(node.name, error), own, start)


def _failed(error: MoaError, own: RunContext, start: float) -> Answer:
    said = f"{type(error).__name__}: {error}"
    return Answer(text=None, error=said, **taken(own.usage, time.perf_counter() - start))
