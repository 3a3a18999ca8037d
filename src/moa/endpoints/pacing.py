"""Pacing: adapts the number of requests in flight to a server, and pauses them.

The limit falls by a factor if the server refuses requests (429) or queues them, and rises by one
per round: additive increase, multiplicative decrease (Chiu and Jain, "Analysis of the Increase and
Decrease Algorithms for Congestion Avoidance in Computer Networks", 1989). Queueing is detected as
in TCP Vegas (Brakmo, O'Malley and Peterson 1994): requests take long relative to the shortest of
their kind, and more of them in flight don't raise the answer rate.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

from moa.endpoints.transport import limit_names, seconds_until

_FALL = 0.9
"""Factor of the limit after a refusal, or when requests queue."""
_CAREFUL_RISE = 0.1
"""Rise per round when the next higher limit was refused before."""
_QUEUES = 6.0
"""Factor over the shortest time of its kind from which a request counts as queued."""
_GAIN = 1.5
"""Factor by which more requests in flight must raise the answer rate, unless they queue."""
_AGING = 1.03
"""Growth of the known shortest time per queued round, as the server may have changed."""
_LONGEST_HOLD_S = 60.0
"""Longest pause at a server's request. If it asks for more, requests are sent, and fail with a
message."""
_FIRST_HOLD_S, _LONGER, _LONGEST_STRIKE_S = 0.1, 1.3, 5.0
"""Pauses when the server states none: first pause, growth and maximum. They apply if even requests
sent after the last fall are refused."""
_LOOK_S = 0.02
"""Seconds between checks of a loop that waits for a request of another loop."""
_SCAN_EVERY = 64
"""Answers between checks for headers that state the server's limits."""

Kind = tuple[str, int, int]
"""Requests of similar duration: address, and bit lengths of the bytes sent and received."""
_BYTES_A_TOKEN = 4


class Pacing:
    """Known limits of a server, shared by all event loops.

    Args:
        most: Maximum requests in flight, in each event loop.
    """

    def __init__(self, most: int) -> None:
        self.limit = float(most)
        """Current maximum of requests in flight."""
        self.paused_until = 0.0
        """Monotonic time before which nothing is sent."""
        self.strikes = 0
        """Refusals in a row of requests sent after the last fall."""
        self.probing_until = 0.0
        """Monotonic time until which a single request tests whether more are accepted."""
        self._most = most
        self._fell_at = self._struck_at = self._ceiling = 0.0
        self._accepted_of_burst = 0
        """Requests in flight at the last fall that weren't refused."""
        self._answered_since = True
        """True if a request sent after the last fall was answered."""
        self._shortest: dict[Kind, tuple[float, int]] = {}
        """Shortest seconds of each kind, and the number of requests in flight then."""
        self._round = self._queued = 0
        """Number of answers of this round, and how many of them had queued."""
        self._names: tuple[tuple[str, str], ...] = ()
        self._answers = 0

    def learn_answer(
        self, start: float, kind: Kind, in_flight: int, headers: Mapping[str, str]
    ) -> None:
        """Learn from a successful answer to a request sent at `start`."""
        self.learn_headers(start, 1 << kind[1], headers)
        self._round += 1
        self._queued += self._has_queued(kind, time.monotonic() - start, in_flight)
        if self._round >= self.limit:
            self._end_round()

    def learn_headers(self, start: float, size: int, headers: Mapping[str, str]) -> None:
        """Learn from the headers of an answer to a request of `size` bytes, such as a stream's.

        If a rate limit is used up, nothing is sent before its reset.
        """
        if start >= self._fell_at:
            self._answered_since = True
            self.strikes = 0
        if self._answers % _SCAN_EVERY == 0:
            self._names = limit_names(headers)
        self._answers += 1
        for remaining, reset in self._names:
            left, demand = headers.get(remaining, ""), 1
            if "token" in remaining:
                demand = size // _BYTES_A_TOKEN
            if left.isdecimal() and int(left) < demand:
                wait_s = seconds_until(headers.get(reset, ""))
                if wait_s is not None and 0 < wait_s <= _LONGEST_HOLD_S:
                    self.paused_until = max(self.paused_until, time.monotonic() + wait_s)

    def learn_refusal(self, start: float, in_flight: int, asked_s: float | None) -> None:
        """Learn from a 429 to a request sent at `start`, with others in flight."""
        now = time.monotonic()
        if asked_s is not None and asked_s <= _LONGEST_HOLD_S:
            self.paused_until = max(self.paused_until, now + asked_s)
        if start < self._fell_at:  # of the same burst: the rest were accepted
            self._accepted_of_burst -= 1
            self.limit = max(1.0, min(self.limit, float(self._accepted_of_burst)))
            self._ceiling = self.limit + 1.0
            return
        if self._answered_since:
            self._fall(now, in_flight)
        elif not asked_s and start >= self._struck_at:
            hold_s = min(_LONGEST_STRIKE_S, _FIRST_HOLD_S * _LONGER**self.strikes)
            self.paused_until = max(self.paused_until, now + hold_s)
            self._struck_at = now
            self.strikes += 1

    def _fall(self, now: float, in_flight: int) -> None:
        # With few requests in flight, one refusal says little about the limit.
        self._ceiling = min(self.limit, max(in_flight + 1.0, self.limit / 2))
        self.limit = max(1.0, self._ceiling * _FALL)
        self._fell_at, self._accepted_of_burst, self._answered_since = now, in_flight, False
        self._round = self._queued = 0

    def _end_round(self) -> None:
        if self._queued >= 0.9 * self._round:
            self.limit = max(1.0, self.limit * _FALL)
            for kind, (seconds, in_flight) in self._shortest.items():
                self._shortest[kind] = seconds * _AGING, in_flight
        elif self.limit < self._most:
            rise = 1.0 if not self._ceiling - 1.0 < self.limit < self._ceiling else _CAREFUL_RISE
            self.limit = min(float(self._most), self.limit + rise)
        self._round = self._queued = 0

    def _has_queued(self, kind: Kind, seconds: float, in_flight: int) -> bool:
        shortest_s, flight = self._shortest.get(kind, (seconds, 0))
        if seconds < shortest_s or (seconds < 1.2 * shortest_s and in_flight > flight):
            self._shortest[kind] = min(seconds, shortest_s), max(in_flight, 1)
            return False
        slowdown = seconds / shortest_s
        return slowdown > _QUEUES and in_flight < _GAIN * slowdown * flight


class Slots:
    """Requests of an event loop: those in flight, and those waiting for a slot."""

    __slots__ = ("_pacing", "_timer", "_waiting", "in_flight")

    def __init__(self, pacing: Pacing) -> None:
        self.in_flight = 0
        self._pacing = pacing
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_paused(self) -> bool:
        """True if nothing is sent now, regardless of the requests in flight."""
        return self._pacing.paused_until > time.monotonic()

    def take(self) -> bool:
        """Take a slot if one is free and no request waits for it."""
        if self._waiting or not self._has_room():
            return False
        self._count()
        return True

    async def wait(self) -> None:
        """Wait for a slot and take it."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.free()
            else:
                with suppress(ValueError):  # it was skipped already
                    self._waiting.remove(turn)
            raise

    def free(self) -> None:
        """Release a slot."""
        self.in_flight -= 1
        self._pacing.probing_until = 0.0
        if self._waiting:
            self._wake()

    def _has_room(self) -> bool:
        pacing = self._pacing
        if self.in_flight + 1.0 > pacing.limit and self.in_flight:
            return False
        if pacing.paused_until and self.is_paused:
            return False
        return not (pacing.strikes and pacing.probing_until > time.monotonic())

    def _count(self) -> None:
        self.in_flight += 1
        if self._pacing.strikes:
            self._pacing.probing_until = time.monotonic() + _LONGEST_HOLD_S

    def _wake(self) -> None:
        """Wake waiting requests while there is room, and schedule a check at the end of a pause."""
        while self._waiting and self._has_room():
            turn = self._waiting.popleft()
            if not turn.done():
                self._count()
                turn.set_result(None)
        if not self._waiting or self._timer is not None:
            return
        left_s = self._pacing.paused_until - time.monotonic()
        if left_s > 0 or not self.in_flight:  # else a request in flight checks at its end
            look_s = max(left_s, _LOOK_S)
            self._timer = asyncio.get_running_loop().call_later(look_s, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._wake()
