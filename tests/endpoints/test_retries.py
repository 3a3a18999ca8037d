"""The strategies of tenacity by which a call is tried again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
from tenacity import (
    RetryCallState,
    retry_if_exception_message,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_before_delay,
    wait_chain,
    wait_fixed,
    wait_none,
)

from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointRejected, EndpointUnavailable
from moa.endpoints import Prompt
from moa.endpoints.retries import Retried
from moa.testing import ScriptedEndpoint

PROMPT = Prompt.of("Hello?")
DOWN = EndpointUnavailable("HTTP 500", endpoint="scripted", status=500)
WRONG = EndpointRejected("HTTP 418: the pot brews", endpoint="scripted", status=418)


def busy(asked_s: float) -> EndpointUnavailable:
    return EndpointUnavailable("HTTP 429", endpoint="scripted", status=429, retry_after_s=asked_s)


class Slow(ScriptedEndpoint):
    """Says that each of its requests took half a second."""

    def __init__(self, *errors: EndpointUnavailable) -> None:
        for error in errors:
            error.seconds = 0.5
        super().__init__(errors)


async def tried(endpoint: ScriptedEndpoint, **strategies: Any) -> tuple[int, Exception | None]:
    """How many requests there were, and how it ended."""
    context, ended = RunContext(), None
    try:
        await Retried(endpoint, **strategies).complete(PROMPT, context)
    except (EndpointRejected, EndpointUnavailable) as error:
        ended = error
    return context.usage.calls, ended


async def test_three_tries_are_usual_and_their_waits_are_longer_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    longest: list[float] = []

    def most(least: float, most: float) -> float:
        longest.append(most)
        return least

    monkeypatch.setattr("random.uniform", most)
    calls, ended = await tried(ScriptedEndpoint([DOWN] * 5))
    assert (calls, longest[:2]) == (3, [0.5, 1.0])
    assert "gave up after 3 tries" in str(ended)


async def test_a_strategy_says_how_long_to_wait() -> None:
    seen: list[tuple[int, float]] = []

    def wait(state: RetryCallState) -> float:
        seen.append((state.attempt_number, round(state.idle_for, 2)))
        return 0.01

    assert (await tried(ScriptedEndpoint([DOWN, DOWN, "hello"]), wait=wait))[0] == 3
    assert seen == [(1, 0.0), (2, 0.01)]


async def test_no_strategy_shortens_the_wait_that_a_server_asks_for() -> None:
    context = RunContext()
    endpoint = Retried(ScriptedEndpoint([busy(0.06), "hello"]), wait=wait_none())
    await endpoint.complete(PROMPT, context)
    assert context.trace[0].text.startswith("after 0.1 s")


@pytest.mark.parametrize(
    ("stop", "calls"),
    [
        pytest.param(stop_after_attempt(4), 4, id="attempts"),
        pytest.param(stop_after_attempt(9) | stop_after_delay(0.9), 2, id="either"),
        pytest.param(stop_after_attempt(1) & stop_after_delay(1.4), 3, id="both"),
        pytest.param(stop_before_delay(1.1), 2, id="before the next wait ends"),
    ],
)
async def test_a_strategy_says_which_try_was_the_last(
    stop: Callable[[RetryCallState], bool], calls: int
) -> None:
    wait = wait_chain(wait_none(), wait_fixed(0.2), wait_none())
    assert (await tried(Slow(*[DOWN] * 9), wait=wait, stop=stop))[0] == calls


async def test_a_strategy_says_which_errors_are_worth_another_try() -> None:
    teapot = retry_if_exception_message(match=".*pot brews")
    assert await tried(ScriptedEndpoint([WRONG, "hello"]), wait=wait_none(), retry=teapot) == (
        2,
        None,
    )
    never = retry_if_exception_type(EndpointRejected)
    assert await tried(ScriptedEndpoint([DOWN, "hello"]), retry=never) == (1, DOWN)


async def test_a_strategy_may_be_awaited() -> None:
    async def always(state: RetryCallState) -> bool:
        return state.attempt_number > 0

    async def at_once(state: RetryCallState) -> float:
        del state
        return 0.0

    assert (await tried(ScriptedEndpoint([WRONG, "hello"]), retry=always, wait=at_once))[0] == 2
    assert (await tried(ScriptedEndpoint([DOWN, "hello"]), stop=always))[0] == 1


def test_what_is_no_strategy_is_refused() -> None:
    with pytest.raises(ConfigError, match="stop_after_attempt"):
        Retried(ScriptedEndpoint(), stop=cast("Any", 3))


def test_tenacity_is_loaded_at_the_first_failure() -> None:
    script = """
import sys
from moa import Agent
from moa.endpoints.retries import Retried
from moa.core.errors import EndpointUnavailable
from moa.testing import ScriptedEndpoint
down = EndpointUnavailable("HTTP 500", endpoint="e", status=500)
agent = Agent(Retried(ScriptedEndpoint(["hello", down, "hello"])), "Greet.")
for loaded in (False, True):
    agent.run_sync("Hi")
    assert ("tenacity" in sys.modules) == loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True)
