"""A process that is killed in the middle of a run, as far as one test process can be."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from moa import testing
from moa.core.context import RunContext
from moa.graphs.engine.compilable import Compilable

THREAD: Any = {"configurable": {"thread_id": "1"}}


class Calls:
    """Counts what the endpoints of a run answer, and stops answering at the end of its life.

    Args:
        lives: How many calls are answered; `None`: all.
        reversed: Whether the calls that are sent first are answered last.
    """

    def __init__(self, *, lives: int | None = None, reversed: bool = False) -> None:
        self.lives = lives
        self.reversed = reversed
        self.sent = 0
        self.answered: list[tuple[str, str]] = []
        self.dead = asyncio.Event()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        double: Any = testing._Double  # pyright: ignore[reportPrivateUsage]
        answer, embed = double._answer, double.embed

        async def late(name: str, text: str) -> None:
            self.sent += 1
            place = 40 - self.sent if self.reversed else self.sent
            await asyncio.sleep(max(0, place) * 0.0005)
            if self.lives is not None and len(self.answered) >= self.lives:
                self.dead.set()
                await asyncio.Event().wait()
            self.answered.append((name, text))

        async def answered(double: Any, text: str, context: RunContext) -> Any:
            await late(double.name, text)
            return await answer(double, text, context)

        def embedded(double: Any, texts: Any, context: RunContext, /) -> Any:
            async def counted() -> Any:
                if context.journal is None:  # it isn't found again
                    await late(double.name, str(texts))
                return await embed(double, texts, context)

            return counted()

        monkeypatch.setattr(double, "_answer", answered)
        monkeypatch.setattr(double, "embed", embedded)


async def whole(
    make: Callable[[], Compilable[Any, Any]], request: object, monkeypatch: pytest.MonkeyPatch
) -> tuple[object, Calls]:
    """Run to the end, and count."""
    calls = Calls()
    with monkeypatch.context() as patched:
        calls.install(patched)
        compiled: Any = make().compile(checkpointer=InMemorySaver())
        return await compiled.ainvoke(request, THREAD), calls


async def killed(
    make: Callable[[], Compilable[Any, Any]],
    request: object,
    monkeypatch: pytest.MonkeyPatch,
    *,
    lives: int,
) -> InMemorySaver:
    """Run until so many calls are answered; give what was on the disk then."""
    calls, saver = Calls(lives=lives), InMemorySaver()
    with monkeypatch.context() as patched:
        calls.install(patched)
        compiled: Any = make().compile(checkpointer=saver)
        running = asyncio.ensure_future(compiled.ainvoke(request, THREAD))
        dying = asyncio.ensure_future(calls.dead.wait())
        await asyncio.wait([running, dying], return_when=asyncio.FIRST_COMPLETED)
        assert not running.done(), f"it ended before it was killed: {running}"
        await asyncio.sleep(0.03)  # what is answered is written, and all else waits
        disk = InMemorySaver()
        for kept in ("storage", "writes", "blobs"):
            setattr(disk, kept, copy.deepcopy(getattr(saver, kept)))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return disk


async def resumed(
    make: Callable[[], Compilable[Any, Any]],
    disk: InMemorySaver,
    monkeypatch: pytest.MonkeyPatch,
    context: RunContext | None = None,
) -> tuple[object, Calls]:
    """Go on in a new process, where the calls that are sent first are answered last."""
    calls = Calls(reversed=True)
    with monkeypatch.context() as patched:
        calls.install(patched)
        compiled: Any = make().compile(checkpointer=disk)
        return await compiled.ainvoke(None, THREAD, context=context), calls
