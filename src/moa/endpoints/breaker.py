"""Breaker: skips a server that is down, and probes it from time to time.

The pattern is from Nygard, "Release It!" (2007). Three failures in a row that look like those of a
server that is down (`is_down`), from at least two calls, take it out of the first state:

- Closed: all requests pass. It opens if the failures are of two owners, if one of them is of no
  owner (there are no keys), or if one is about the address (no connection, no such host). Else the
  inputs of one owner may be the cause, or inputs that take long: the server is suspected.
- Suspected: all requests pass. The next call of an owner first sends a neutral probe, a request
  without a client's text. Its failure opens the breaker, its answer closes it. A server that is
  suspected again, with no request answered since, is probed after a wait that doubles.
- Open: no request passes. After a wait, one of the calls that wait sends the neutral probe, so that
  no input decides for others. A call without an owner sends its own request as the probe. A failure
  doubles the wait, up to half a minute. An answer closes the breaker.

A request that is answered closes it in any state, and forgets all failures. Probes are sent only by
calls that want to ask, one at a time in this process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from weakref import finalize

from moa.core.errors import EndpointError, EndpointTimeout, EndpointUnavailable, MoaError

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
        failures: Failures in a row that open it, or let it be suspected. Unless 1, they must come
            from two calls.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, *, failures: int = _FAILURES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_open = False
        """True if the server is skipped."""
        self.probe_at: float | None = None
        """Time of the next probe; `None` if the breaker is closed."""
        self.reason = ""
        """Message of the last failure that opened it, or let it be suspected."""
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
        self._witnesses = set[str]()
        """Owners of these calls; "" for a failure that needs no second witness."""
        self._times_suspected = 0
        """Number of times it was suspected since the last answer to a request."""
        self._probed_until = 0.0
        self._turn = threading.Lock()

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
    def probe(self, *, only_due: bool = False) -> Generator[bool]:
        """Block other probes until this ends. With `only_due`, yield False if none is due."""
        until = self._clock() + _HUNG_S
        with self._turn:
            may_probe = not only_due or self.is_due
            if may_probe:
                self._probed_until = until
        try:
            yield may_probe
        finally:
            if may_probe and self._probed_until == until:
                self._probed_until = 0.0

    @contextmanager
    def watch(self, call: object, owner: str = "") -> Generator[None]:
        """Count the outcome of a call's request. Without an owner, it probes an open breaker."""
        if self.is_open and not owner:
            with self.probe():
                yield from self._count_outcome(call, owner, probes=True)
        else:
            yield from self._count_outcome(call, owner, probes=False)

    def _count_outcome(self, call: object, owner: str, *, probes: bool) -> Generator[None]:
        try:
            yield
        except EndpointError as error:
            if is_down(error):
                self.fail(error, call=call, owner=owner, probes=probes)
            elif error.status is not None:  # a refusal shows that the server is up
                self.succeed()
            raise
        self.succeed()

    def fail(
        self, error: MoaError, *, call: object = None, owner: str = "", probes: bool = False
    ) -> None:
        """Count a failure of a server that is down. After a failed probe, the wait gets longer."""
        with self._turn:
            if probes:
                self._open(error)
                return
            if self.is_open:
                return  # one of many requests that failed together
            self._failures += 1
            self._calls.add(call)
            self._witnesses |= _witnesses_of(error, owner)
            if self._failures < self._most or len(self._calls) < self._fewest_calls:
                return
            self.reason = str(error)
            if "" in self._witnesses or len(self._witnesses) > 1:
                self._open(error)
            elif self.probe_at is None:
                wait_s = _wait_s(self._times_suspected - 1) if self._times_suspected else 0.0
                self._times_suspected += 1
                self.probe_at = self._clock() + wait_s

    def _open(self, error: MoaError) -> None:
        asked_s = (error.retry_after_s or 0.0) if isinstance(error, EndpointError) else 0.0
        wait_s = max(_wait_s(self.times_opened), min(_LONGEST_WAIT_S, asked_s))
        self.times_opened += 1
        self.is_open = True
        self.probe_at = self._clock() + wait_s
        self.reason = str(error)

    def close(self) -> None:
        """Let requests pass, as a probe was answered. After the next failures, waits are longer."""
        with self._turn:
            self._close()

    def succeed(self) -> None:
        """Let requests pass, and forget all failures, as a request was answered."""
        with self._turn:
            self._close()
            self.has_answered = True
            self.times_opened = self._times_suspected = 0

    def _close(self) -> None:
        self.is_open, self.probe_at = False, None
        self._failures = 0
        self._calls.clear()
        self._witnesses.clear()


def _wait_s(times: int) -> float:
    """Return the seconds until a probe, after a number of earlier waits."""
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(times, _MOST_DOUBLINGS))


def _witnesses_of(error: MoaError, owner: str) -> set[str]:
    """Return the owner that a failure speaks for; "" if its input can't be the cause.

    A time-out speaks for nobody: whoever asks for much may wait long.
    """
    if not owner or (
        isinstance(error, EndpointUnavailable) and error.status is None and not error.begun
    ):
        return {""}
    return set() if isinstance(error, EndpointTimeout) else {owner}


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
