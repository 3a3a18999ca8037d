"""Breaker: leaves a server alone that is down, and asks it now and then whether it is back.

The pattern is that of Nygard, "Release It!" (2007): closed, requests go through; open, none does;
half open, one at a time does, and what becomes of it decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from weakref import finalize

from moa.errors import EndpointError, EndpointTimeout, EndpointUnavailable, MoaError

_DOWN = (None, 502, 503, 504)
"""What a server that is down answers with: nothing, or the status of what stands before it."""
_FAILURES, _CALLS = 3, 2
"""Failures in a row, of so many different calls, that open a breaker: all tries of one alone may
fail by what it asks."""
_FIRST_WAIT_S, _LONGEST_WAIT_S, _MOST_DOUBLINGS = 0.5, 30.0, 16
"""Until a server is probed, and between two probes."""
_HUNG_S = 30.0
"""Seconds after which a probe that isn't answered keeps off no other."""
_LEAST_TIMEOUT_S = 10.0
"""Seconds without an answer that say that a server hangs; less may be too little for any."""


class Breaker:
    """Whether a server is left alone, and until when.

    It is shared by all calls to the server, in whatever event loop.

    Args:
        failures: Failures in a row that open it; of two calls at least, unless it is one.
        clock: Tells the seconds.
    """

    def __init__(
        self, *, failures: int = _FAILURES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.back_at: float | None = None
        """When the server is probed next; `None`: requests go to it."""
        self.reason = ""
        """Why it was left alone the last time."""
        self.has_answered = False
        """Whether the server was ever there."""
        self.opened = 0
        """How often in a row since the last answer."""
        self._most = failures
        self._fewest_calls = min(failures, _CALLS)
        self._clock = clock
        self._failures = 0
        self._calls = set[object]()
        """Calls that have failed since the last answer."""
        self._probed_until = 0.0
        self._turn = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the server is left alone."""
        return self.back_at is not None

    @property
    def is_due(self) -> bool:
        """Whether it has been left alone for long enough, and nobody is probing it."""
        return self.back_at is not None and max(self.back_at, self._probed_until) <= self._clock()

    @property
    def wait_s(self) -> float:
        """Seconds until it is due, if nothing happens before."""
        back_at = self.back_at
        return 0.0 if back_at is None else max(back_at, self._probed_until) - self._clock()

    @contextmanager
    def probing(self) -> Generator[None]:
        """Keep others from probing meanwhile, however this ends."""
        self._probed_until = until = self._clock() + _HUNG_S
        try:
            yield
        finally:
            if self._probed_until == until:
                self._probed_until = 0.0

    @contextmanager
    def watching(self, call: object) -> Generator[None]:
        """See what becomes of a request of a call; it is a probe where the server is left alone."""
        if self.back_at is not None:
            with self.probing():
                yield from self._watch(call, probes=True)
        else:
            yield from self._watch(call, probes=False)

    def _watch(self, call: object, *, probes: bool) -> Generator[None]:
        try:
            yield
        except EndpointError as error:
            if is_down(error):
                self.fail(error, call=call, probes=probes)
            elif error.status is not None:  # it says no, so it is there
                self.succeed()
            raise
        if self._failures or not self.has_answered:
            self.succeed()

    def fail(self, error: MoaError, *, call: object = None, probes: bool = False) -> None:
        """Count a failure that says that the server is down; where it was a probe, wait longer."""
        with self._turn:
            if self.back_at is not None and not probes:
                return  # one of many requests that failed together
            self._failures += 1
            self._calls.add(call)
            enough = self._failures >= self._most and len(self._calls) >= self._fewest_calls
            if probes or enough:
                self._open(error)

    def _open(self, error: MoaError) -> None:
        asked_s = (error.retry_after_s or 0.0) if isinstance(error, EndpointError) else 0.0
        wait_s = _FIRST_WAIT_S * 2.0 ** min(self.opened, _MOST_DOUBLINGS)
        self.opened += 1
        self._calls.clear()
        self.back_at = self._clock() + min(_LONGEST_WAIT_S, max(wait_s, asked_s))
        self.reason = str(error)

    def close(self) -> None:
        """Let requests go to the server; where it fails again, it is left alone for longer."""
        self.back_at = None

    def succeed(self) -> None:
        """Let requests go to it, and forget that it ever failed: it has answered one."""
        with self._turn:
            self.has_answered = True
            self.back_at = None
            self._failures = self.opened = 0
            self._calls.clear()


def is_down(error: EndpointError) -> bool:
    """Whether an error says that the server is down, whatever it was asked."""
    if isinstance(error, EndpointTimeout):
        return error.status is None and (error.seconds or 0.0) >= _LEAST_TIMEOUT_S
    return isinstance(error, EndpointUnavailable) and error.status in _DOWN


_known: dict[int, Breaker] = {}
"""By the identity of each endpoint, as long as there is one."""


def breaker_of(endpoint: object) -> Breaker:
    """Give the breaker of an endpoint, which all share who ask it."""
    found = _known.get(id(endpoint))
    if found is None:
        found = Breaker()
        with suppress(TypeError):  # one that can't be referred to weakly has a breaker for each use
            finalize(endpoint, _known.pop, id(endpoint))
            _known[id(endpoint)] = found
    return found
