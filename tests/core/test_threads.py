"""Threads for what users wrote: what hangs is named, and holds up nothing else."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest

from moa.core._threads import Threads
from moa.core.errors import ConfigError

WHO = contextvars.ContextVar("who", default="nobody")


def limited(**limits: float) -> Threads:
    """Make threads with other limits than usual."""
    threads = Threads()
    vars(threads).update(limits)
    return threads


@asynccontextmanager
async def hanging(threads: Threads, count: int = 1) -> AsyncGenerator[None]:
    """Have calls given up that go on until the end of the block."""
    end = threading.Event()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(given_up(threads, end))
        yield
    finally:
        end.set()


async def given_up(threads: Threads, end: threading.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.02):
            await threads.run(end.wait, "ask_the_printer")


async def test_a_function_has_the_variables_of_its_caller_and_a_thread_of_its_own() -> None:
    WHO.set("Ann")
    found = await Threads().run(lambda: (WHO.get(), threading.current_thread()), "who")
    assert found[0] == "Ann"
    assert found[1] is not threading.main_thread()
    assert found[1].daemon


@pytest.mark.parametrize("error", [KeyError("pens"), StopIteration(), SystemExit(3)], ids=repr)
async def test_what_a_function_raises_is_raised(error: BaseException) -> None:
    def fail() -> None:
        raise error

    kind = RuntimeError if isinstance(error, StopIteration) else type(error)
    with pytest.raises(kind):
        await Threads().run(fail, "fail")


async def test_a_thread_is_taken_again() -> None:
    threads = Threads()
    assert len({await threads.run(threading.get_ident, "me") for _ in range(5)}) == 1


async def test_calls_beyond_the_most_wait_for_a_place() -> None:
    threads, running, seen = limited(most=2), set[int](), list[int]()

    def work(number: int) -> None:
        running.add(number)
        seen.append(len(running))
        time.sleep(0.01)
        running.discard(number)

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(threads.run(lambda number=number: work(number), "work"))
    assert len(seen) == 8
    assert max(seen) <= 2


async def test_hung_calls_leave_their_places_to_healthy_ones() -> None:
    threads = limited(most=2)
    async with hanging(threads, 2), hanging(threads, 2), asyncio.timeout(5):
        assert await threads.run(lambda: "healthy", "healthy") == "healthy"


async def test_a_call_that_somebody_still_waits_for_leaves_its_place_when_it_is_late() -> None:
    threads, end = limited(most=1, late_s=0.05), threading.Event()
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(threads.run(lambda: end.wait() and "slow", "slow"))
        await asyncio.sleep(0)
        assert await threads.run(lambda: "healthy", "healthy") == "healthy"
        assert threads.count_stuck() == {"slow": 1}
        end.set()
        assert await slow == "slow"


async def test_who_hangs_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with hanging(threads := Threads(), 3):
        assert threads.count_stuck() == {"ask_the_printer": 3}
    assert len(caplog.messages) == 1
    assert "ask_the_printer" in caplog.messages[0]


async def test_too_many_hung_calls_are_an_error_that_names_them_until_they_end() -> None:
    threads = limited(most_stuck=3)
    async with hanging(threads, 3):
        with pytest.raises(ConfigError, match="ask_the_printer"):
            await threads.run(lambda: 1, "healthy")
    for _ in range(500):
        if not threads.count_stuck():
            break
        await asyncio.sleep(0.01)
    assert await threads.run(lambda: 1, "healthy") == 1


async def test_of_a_function_that_hangs_again_and_again_no_other_is_kept_waiting() -> None:
    threads = limited(most_stuck_of_one=3)
    async with hanging(threads, 3):
        with pytest.raises(ConfigError, match="ask_the_printer"):
            await threads.run(lambda: 1, "ask_the_printer")
        assert await threads.run(lambda: 1, "healthy") == 1


def test_a_process_ends_while_a_function_hangs() -> None:
    program = """
import asyncio, threading
from moa.core._threads import USER_THREADS

async def main():
    async with asyncio.timeout(0.01):
        await USER_THREADS.run(threading.Event().wait, "hang")

try:
    asyncio.run(main())
except TimeoutError:
    print("over")
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "over\n"
