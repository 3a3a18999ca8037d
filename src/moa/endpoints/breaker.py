"""Breaker: skips a server that is down, and probes it from time to time.

The pattern is from Nygard, "Release It!" (2007). Closed, all requests pass. Open, none does. Half
open, one at a time passes, and its outcome decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from weakref import finalize

from moa.errors import EndpointError, EndpointTimeout, EndpointUnavailable, MoaError

_DOWN = (None, 502, 503, 504)
"""Statuses of a server that is down: none, or a gateway's in front of it."""
_FAILURES, _CALLS = 3, 2
"""Failures in a row that open a breaker, and the minimum number of calls that they come from: all
tries of one call may fail because of its content."""
_FIRST_WAIT_S, _LONGEST_WAIT_S, _MOST_DOUBLINGS = 0.5, 30.0, 16
"""Seconds until the first probe, maximum seconds between probes, and maximum doublings."""
_HUNG_S = 30.0
"""Seconds after which an unanswered probe no longer blocks others."""
_LEAST_TIMEOUT_S = 10.0
"""Minimum seconds without an answer to count a server as hung."""


class Breaker:
    """State of a server: whether it is skipped, and until when.

    All calls to the server share it, in any event loop.

    Args:
        failures: Failures in a row that open it. Unless 1, they must come from two calls.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, *, failures: int = _FAILURES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.probe_at: float | None = None
        """Time of the next probe; `None` if requests pass."""
        self.reason = ""
        """Message of the last failure that opened it."""
        self.has_answered = False
        """True if the server has ever answered."""
        self.times_opened = 0
        """Number of times it opened since the last answer."""
        self._most = failures
        self._fewest_calls = min(failures, _CALLS)
        self._clock = clock
        self._failures = 0
        self._calls = set[object]()
        """Calls that failed since the last answer."""
        self._probed_until = 0.0
        self._turn = threading.Lock()

    @property
    def is_open(self) -> bool:
        """True if the server is skipped."""
        return self.probe_at is not None

    @property
    def is_due(self) -> bool:
        """True if a probe is due and none is in progress."""
        return self.probe_at is not None and max(self.probe_at, self._probed_until) <= self._clock()

    @property
    def wait_s(self) -> float:
        """Seconds until the next probe is due."""
        back_at = self.probe_at
        return 0.0 if back_at is None else max(back_at, self._probed_until) - self._clock()

    @contextmanager
    def probe(self) -> Generator[None]:
        """Block other probes until this ends."""
        self._probed_until = until = self._clock() + _HUNG_S
        try:
            yield
        finally:
            if self._probed_until == until:
                self._probed_until = 0.0

    @contextmanager
    def watch(self, call: object) -> Generator[None]:
        """Count the outcome of a call's request. It is a probe if the breaker is open."""
        if self.probe_at is not None:
            with self.probe():
                yield from self._count_outcome(call, probes=True)
        else:
            yield from self._count_outcome(call, probes=False)

    def _count_outcome(self, call: object, *, probes: bool) -> Generator[None]:
        try:
            yield
        except EndpointError as error:
            if is_down(error):
                self.fail(error, call=call, probes=probes)
            elif error.status is not None:  # a refusal shows that the server is up
                self.succeed()
            raise
        if self._failures or not self.has_answered:
            self.succeed()

    def fail(self, error: MoaError, *, call: object = None, probes: bool = False) -> None:
        """Count a failure of a server that is down. After a failed probe, the wait gets longer."""
        with self._turn:
            if self.probe_at is not None and not probes:
                return  # one of many requests that failed together
            self._failures += 1
            self._calls.add(call)
            must_open = self._failures >= self._most and len(self._calls) >= self._fewest_calls
            if probes or must_open:
                self._open(error)

    def _open(self, error: MoaError) -> None:
        asked_s = (error.retry_after_s or 0.0) if isinstance(error, EndpointError) else 0.0
        wait_s = _FIRST_WAIT_S * 2.0 ** min(self.times_opened, _MOST_DOUBLINGS)
        self.times_opened += 1
        self._calls.clear()
        self.probe_at = self._clock() + min(_LONGEST_WAIT_S, max(wait_s, asked_s))
        self.reason = str(error)

    def close(self) -> None:
        """Let requests pass. After the next failure, the wait is longer."""
        self.probe_at = None

    def succeed(self) -> None:
        """Let requests pass, and forget all failures."""
        with self._turn:
            self.has_answered = True
            self.probe_at = None
            self._failures = self.times_opened = 0
            self._calls.clear()


def is_down(error: EndpointError) -> bool:
    """Return True if an error means that the server is down, whatever the request."""
    if isinstance(error, EndpointTimeout):
        return error.status is None and (error.seconds or 0.0) >= _LEAST_TIMEOUT_S
    return isinstance(error, EndpointUnavailable) and error.status in _DOWN


_known: dict[int, Breaker] = {}
"""Breakers by `id` of the endpoint, as long as it exists."""


def breaker_of(endpoint: object) -> Breaker:
    """Return the breaker of an endpoint, shared by all callers."""
    breaker = _known.get(id(endpoint))
    if breaker is None:
        breaker = Breaker()
        with suppress(TypeError):  # no weak references: a new breaker each time
            finalize(endpoint, _known.pop, id(endpoint))
            _known[id(endpoint)] = breaker
    return breaker
