"""Pacing: adapts the number of requests in flight to a server, and pauses them.

The limit falls by a factor if the server refuses requests (429) or queues them, and rises by one
per round: additive increase, multiplicative decrease (Chiu and Jain, "Analysis of the Increase and
Decrease Algorithms for Congestion Avoidance in Computer Networks", 1989). Queueing is detected as
in TCP Vegas (Brakmo, O'Malley and Peterson 1994): requests take long relative to the shortest of
their kind, and more of them in flight don't raise the answer rate.

Each owner of requests, such as a key of a server, has a pace of its own: a server may refuse inputs
of one owner alone. Where it refuses all, each falls by itself, as connections of TCP that share a
link do.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
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

_SIZES = 64
"""Requests whose sizes are known, to tell how many tokens a small one of them takes."""

Kind = tuple[str, int, int]
"""Requests of similar duration: address, and bit lengths of the bytes sent and received."""
_BYTES_A_TOKEN = 4


class Pacing:
    """Known limits of a server, shared by all event loops, for requests of no owner.

    `of` has those for an owner.

    Args:
        most: Maximum requests in flight, in each event loop, of all owners together.
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
        self.most = most
        self._owners: dict[str, Pacing] = {}
        self._sizes = deque[int](maxlen=_SIZES)
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

    def of(self, owner: str) -> Pacing:
        """Return what is known for requests of an owner; "": of none."""
        if not owner:
            return self
        return self._owners.get(owner) or self._owners.setdefault(owner, Pacing(self.most))

    @property
    def share(self) -> int:
        """Maximum requests in flight of one owner: half of all if several owners have asked.

        So the others' don't wait for as long as the slowest of one owner's requests takes.
        """
        return (self.most + 1) // 2 if len(self._owners) > 1 else self.most

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

        If a rate limit is used up, nothing is sent before its reset. One of tokens is used up if
        not even a small request of the last ones fits: the next one need not be as large as this.
        """
        self._sizes.append(size)
        if start >= self._fell_at:
            self._answered_since = True
            self.strikes = 0
        if self._answers % _SCAN_EVERY == 0:
            self._names = limit_names(headers)
        self._answers += 1
        for remaining, reset in self._names:
            left, demand = headers.get(remaining, ""), 1
            if "token" in remaining:
                demand = min(self._sizes) // _BYTES_A_TOKEN
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
        elif self.limit < self.most:
            rise = 1.0 if not self._ceiling - 1.0 < self.limit < self._ceiling else _CAREFUL_RISE
            self.limit = min(float(self.most), self.limit + rise)
        self._round = self._queued = 0

    def _has_queued(self, kind: Kind, seconds: float, in_flight: int) -> bool:
        shortest_s, flight = self._shortest.get(kind, (seconds, 0))
        if seconds < shortest_s or (seconds < 1.2 * shortest_s and in_flight > flight):
            self._shortest[kind] = min(seconds, shortest_s), max(in_flight, 1)
            return False
        slowdown = seconds / shortest_s
        return slowdown > _QUEUES and in_flight < _GAIN * slowdown * flight


class Slots:
    """Requests of an event loop: those in flight, and those waiting for a slot.

    Owners whose requests wait take turns.
    """

    __slots__ = ("_in_flight", "_pacing", "_timer", "_waiting", "in_flight")

    def __init__(self, pacing: Pacing) -> None:
        self.in_flight = 0
        self._in_flight = Counter[str]()
        self._pacing = pacing
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def count(self, owner: str = "") -> int:
        """Return the number of requests of an owner in flight."""
        return self._in_flight[owner]

    def is_paused(self, owner: str = "") -> bool:
        """Return True if nothing of an owner is sent now, regardless of requests in flight."""
        return self._pacing.of(owner).paused_until > time.monotonic()

    def take(self, owner: str = "") -> bool:
        """Take a slot if one is free and no request of the owner waits for it."""
        if owner in self._waiting or not self._has_room(owner):
            return False
        self._count(owner)
        return True

    async def wait(self, owner: str = "") -> None:
        """Wait for a slot and take it."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.free(owner)
            else:
                self._leave(owner, turn)
            raise

    def free(self, owner: str = "") -> None:
        """Release a slot."""
        self.in_flight -= 1
        self._in_flight[owner] -= 1
        if not self._in_flight[owner]:
            del self._in_flight[owner]
        self._pacing.of(owner).probing_until = 0.0
        if self._waiting:
            self._wake()

    def _has_room(self, owner: str) -> bool:
        pacing, in_flight = self._pacing.of(owner), self._in_flight[owner]
        if self.in_flight >= self._pacing.most or (owner and in_flight >= self._pacing.share):
            return False
        if in_flight + 1.0 > pacing.limit and in_flight:
            return False
        if pacing.paused_until and self.is_paused(owner):
            return False
        return not (pacing.strikes and pacing.probing_until > time.monotonic())

    def _count(self, owner: str) -> None:
        self.in_flight += 1
        self._in_flight[owner] += 1
        pacing = self._pacing.of(owner)
        if pacing.strikes:
            pacing.probing_until = time.monotonic() + _LONGEST_HOLD_S

    def _wake(self) -> None:
        """Wake waiting requests while there is room, and schedule a check at the end of a pause."""
        while any(self._wake_one(owner) for owner in [*self._waiting]):
            pass
        if self._timer is not None:  # it may be later than what waits now
            self._timer.cancel()
            self._timer = None
        if not self._waiting or self.in_flight >= self._pacing.most:
            return
        pauses = [(self._pacing.of(owner).paused_until, owner) for owner in self._waiting]
        now = time.monotonic()
        # Where a request of the owner is in flight, it checks at its end.
        looks = [until - now for until, owner in pauses if until > now or not self.count(owner)]
        if looks:
            look_s = max(min(looks), _LOOK_S)
            self._timer = asyncio.get_running_loop().call_later(look_s, self._look_again)

    def _wake_one(self, owner: str) -> bool:
        """Wake the first waiting request of an owner if there is room; return whether it did."""
        if not self._has_room(owner):
            return False
        turn = self._waiting[owner][0]
        self._leave(owner, turn)
        if owner in self._waiting:  # the next turn is another owner's
            self._waiting[owner] = self._waiting.pop(owner)
        if not turn.done():
            self._count(owner)
            turn.set_result(None)
        return True

    def _leave(self, owner: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(owner)
        if turns is None:
            return
        with suppress(ValueError):  # it was skipped already
            turns.remove(turn)
        if not turns:
            del self._waiting[owner]

    def _look_again(self) -> None:
        self._timer = None
        self._wake()
