"""Retries: repeat a call after errors, with waits by tenacity's strategies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import isawaitable
from typing import TYPE_CHECKING, TypeVar, cast

from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointError, EndpointUnavailable, OutputError
from moa.endpoints import Endpoint
from moa.endpoints.breaker import breaker_of
from moa.endpoints.calls import has_other, limit_time
from moa.endpoints.neutral import PROBE_S, probe_neutrally
from moa.endpoints.wrappers import Wrapping, timeout_of

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

T = TypeVar("T")
Strategy = Callable[["RetryCallState"], T | Awaitable[T]]
"""A strategy of tenacity: it gets the state of a call, and may be async."""

_LOOK_S = 0.25
"""Seconds between checks of a server that another call probes."""
_LOOKS_FOR_A_STRANGER = 4
"""Number of probes, about 8 s in all, for which calls wait for a server that has never answered.
Its address may be wrong, and each row of a long run would wait half a minute to say so."""
_FOR_ALL_TRIES = 1.5
"""Time for all tries of a call, as a multiple of one request's limit. After a try that hung, half a
request's time is left for another, since most answers come much earlier."""


class Retried(Wrapping):
    """Retries after a retryable error, and notes it in the trace.

    Any strategies of [tenacity](https://tenacity.readthedocs.io) decide when and how often. No wait
    is shorter than the server requests. All tries and waits of a call together take at most
    `timeout_s`, not counting the wait for a slot: each try has the time that earlier ones left. If
    a wait would end after that, or after the run's deadline, the error is raised at once. Each try
    is charged.

    A server counts as down, and is skipped, after three failures in a row from at least two calls:
    it can't be reached, hangs for 10 s, or answers 502, 503 or 504. After 0.5 s one call probes it,
    and again after a wait that doubles up to half a minute, until it answers. Meanwhile other calls
    wait within their own time. If the server has never answered, they wait for at most one probe,
    and after four probes not at all. Probes are not tries: no strategy counts or schedules them.
    Calls don't wait if a `Fallback` or a cascade asks another endpoint. All `Retried` of one
    endpoint in this process share this state.

    Where runs have an owner, such as a key of `moa serve`, no owner's inputs close a server for
    others: failures of one owner alone, and time-outs, count as a sign only if a neutral probe
    fails too, which is one token. The same request probes a server that is down. A server that
    can't be reached at all needs no second sign.

    Args:
        endpoint: The endpoint to ask.
        wait: Seconds before the next try. `None`:
            `wait_random_exponential(multiplier=0.5, max=20)`, random up to 0.5 s, then 1 s,
            doubling to 20 s.
        stop: True after the last try. `None`: after the third, `stop_after_attempt(3)`.
            `stop_after_delay` counts the same seconds as `timeout_s`.
        retry: True to retry after an error. `None`: after `retryable` ones. It is called for each
            `EndpointError` and `OutputError`, but not for answers, since they are paid for.
        longest_asked_s: Longest wait at a server's request. If it requests more, its error, which
            states the wait, is raised at once.
        timeout_s: Maximum seconds of all tries together. `None`: 1.5 times the endpoint's limit for
            one request, or 180 if it has none, so that a try that hung leaves time for another.

    Raises:
        ConfigError: a strategy can't be called, or a number is out of range.

    Examples:
        >>> from tenacity import stop_after_attempt, stop_after_delay, wait_none
        >>> down = EndpointUnavailable("busy", endpoint="small")
        >>> small = Retried(
        ...     ScriptedEndpoint([down, "Hello!"]),
        ...     wait=wait_none(),
        ...     stop=stop_after_attempt(5) | stop_after_delay(30),
        ... )
        >>> [note.kind for note in Agent(small, "Greet.").run_sync("Hi").trace]
        ['retried', 'answered']
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        wait: Strategy[float] | None = None,
        stop: Strategy[bool] | None = None,
        retry: Strategy[bool] | None = None,
        longest_asked_s: float = 60.0,
        timeout_s: float | None = None,
    ) -> None:
        if timeout_s is None:
            timeout_s = _FOR_ALL_TRIES * timeout_of(endpoint)
        if timeout_s <= 0 or longest_asked_s < 0:
            raise ConfigError(
                f"{endpoint.name}: timeout_s must be positive, and longest_asked_s not negative"
            )
        for name, strategy in (("wait", wait), ("stop", stop), ("retry", retry)):
            if not (strategy is None or callable(strategy)):
                raise ConfigError(
                    f"{endpoint.name}: {name}={strategy!r} is no strategy of tenacity. Write one, "
                    "such as stop=stop_after_attempt(3) or wait=wait_fixed(1)"
                )
        super().__init__(endpoint)
        self._wait, self._stop, self._retry = wait, stop, retry
        self._longest_asked_s = longest_asked_s
        self._timeout_s = timeout_s
        self._probe_s = min(PROBE_S, timeout_s, timeout_of(endpoint))
        self._breaker = breaker_of(endpoint)

    @cached_property
    def _strategies(self) -> AsyncRetrying:
        """Given strategies, or the defaults. Tenacity is loaded at the first failure.

        Tenacity's loop isn't used: a call that succeeds at once would take nine times the CPU, and
        the loop has no probes and counts the wait for a slot.
        """
        from tenacity import AsyncRetrying, stop_after_attempt, wait_random_exponential

        return AsyncRetrying(
            wait=self._wait or wait_random_exponential(multiplier=0.5, max=20),  # pyright: ignore[reportArgumentType] AsyncRetrying awaits them all
            stop=self._stop or stop_after_attempt(3),  # pyright: ignore[reportArgumentType]
            retry=self._retry or _is_retryable,  # pyright: ignore[reportArgumentType]
        )

    async def ask(self, send: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        """Send a request until it is answered, fails permanently, or runs out of tries."""
        call = _Call(self._timeout_s)
        while True:
            if self._breaker.probe_at is not None:
                await self._wait_for_server(call, context)
            probes, start = self._breaker.is_open and not context.owner, time.monotonic()
            try:
                with self._breaker.watch(call, context.owner), limit_time(call.left_s):
                    return await send(self.endpoint)
            except (EndpointError, OutputError) as error:
                call.tries, call.probes = call.tries + 1, call.probes + probes
                call.left_s -= _seconds_of(error, start)
                pause_s = await self._pause_s(error, call, context)
                if pause_s is None:
                    self._give_up(error, call)
                    raise
                text = f"after {pause_s:.1f} s: {error}"
                context.note("retried", text, endpoint=self.name, error=error)
            await asyncio.sleep(pause_s)
            call.left_s, call.slept_s = call.left_s - pause_s, call.slept_s + pause_s

    async def _pause_s(
        self, error: EndpointError | OutputError, call: _Call, context: RunContext
    ) -> float | None:
        """Return the seconds until the next try; `None` if there is no next try."""
        asked_s = (error.retry_after_s or 0.0) if isinstance(error, EndpointError) else 0.0
        strategies, state = self._strategies, self._state(error, call)
        if asked_s > self._longest_asked_s or not await _apply(strategies.retry, state):
            return None
        if self._breaker.is_open:  # the breaker decides when
            return 0.0 if self._may_wait(call) and call.left_s > 0 else None
        state.upcoming_sleep = pause_s = max(asked_s, await _apply(strategies.wait, state))
        if await _apply(strategies.stop, state):
            return None
        run_left_s = context.remaining_s()
        left_s = call.left_s if run_left_s is None else min(call.left_s, run_left_s)
        return None if pause_s >= left_s else pause_s

    def _state(self, error: EndpointError | OutputError, call: _Call) -> RetryCallState:
        """Return the state of a call in tenacity's form."""
        from tenacity import RetryCallState

        state = RetryCallState(self._strategies, fn=None, args=(), kwargs={})
        state.attempt_number = call.tries - call.probes
        state.set_exception((type(error), error, error.__traceback__))
        state.start_time -= self._timeout_s - call.left_s
        state.idle_for = call.slept_s
        return state

    def _may_wait(self, call: _Call) -> bool:
        """Return True to wait for a server that is down; see the class."""
        call.times_opened = call.times_opened or self._breaker.times_opened
        is_first_wait = self._breaker.times_opened == call.times_opened <= _LOOKS_FOR_A_STRANGER
        return (self._breaker.has_answered or is_first_wait) and not has_other.get()

    async def _wait_for_server(self, call: _Call, context: RunContext) -> None:
        """Wait until a server that is skipped is back, or until this call may probe it.

        A call of an owner sends the probe that is due, also to a server that is only suspected.
        """
        breaker, start, waited_s, has_slept = self._breaker, time.monotonic(), 0.0, False
        while True:
            if context.owner:
                await self._probe(call.left_s - waited_s, context)
                waited_s = time.monotonic() - start
            if not breaker.is_open or (breaker.is_due and not context.owner):
                break
            run_left_s = context.remaining_s()
            if waited_s >= call.left_s or not self._may_wait(call):
                reason, next_s = breaker.reason.removeprefix(f"{self.name}: "), breaker.wait_s
                message = f"not asked, as it is down ({reason}). The next look is in {next_s:.1f} s"
                raise EndpointUnavailable(message, endpoint=self.name)
            left_s = call.left_s - waited_s
            left_s = left_s if run_left_s is None else min(left_s, run_left_s)
            await asyncio.sleep(min(max(0.001, breaker.wait_s), _LOOK_S, left_s))
            waited_s, has_slept = time.monotonic() - start, True
        call.left_s -= waited_s
        if has_slept:
            text = f"{waited_s:.1f} s for the server, which was down: {breaker.reason}"
            context.note("waited", text, endpoint=self.name)

    async def _probe(self, left_s: float, context: RunContext) -> None:
        """Send the neutral probe, if one is due and nobody sends it."""
        with self._breaker.probe(only_due=True) as is_due:
            if is_due:
                await probe_neutrally(self.endpoint, self._breaker, context, left_s, self._probe_s)

    def _give_up(self, error: EndpointError | OutputError, call: _Call) -> None:
        """Raise the last error with the number of tries, if there were several."""
        if call.tries > 1 and isinstance(error, EndpointError):
            took_s = self._timeout_s - call.left_s
            message = f"{error.message} (gave up after {call.tries} tries in {took_s:.3g} s)"
            raise error.with_message(message) from error


@dataclass(slots=True, eq=False)
class _Call:
    """Remaining time of a call, and its tries so far."""

    left_s: float
    slept_s: float = 0.0
    """Seconds waited between tries."""
    tries: int = 0
    probes: int = 0
    """Tries that only probed the server: no strategy counts them."""
    times_opened: int = 0
    """Number of times the breaker had opened when the call first met it."""


def _seconds_of(error: EndpointError | OutputError, start: float) -> float:
    """Return the duration of a try, without the wait for a slot if it is known."""
    seconds = error.seconds if isinstance(error, EndpointError) else None
    return time.monotonic() - start if seconds is None else seconds


def _is_retryable(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return isinstance(error, EndpointError | OutputError) and error.retryable


async def _apply(strategy: Strategy[T], state: RetryCallState) -> T:
    result = strategy(state)
    return await cast("Awaitable[T]", result) if isawaitable(result) else cast("T", result)
