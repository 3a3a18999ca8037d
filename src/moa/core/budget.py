"""Budget: the limits of a run, and the reservations for its calls in flight."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from itertools import islice
from types import TracebackType
from typing import NamedTuple, Protocol

from moa.core.errors import BudgetExceeded, ConfigError, PriceUnknown, may_be_billed
from moa.core.usage import NOTHING, Amount, Part, Price, Tier, Usage

Quantity = Decimal | int
"""US dollars as a `Decimal`, or a number of calls or tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits on one run and everything under it. `None` switches a limit off.

    Parallel calls can't exceed them together: each call reserves its maximum (the prompt's length
    and `max_tokens`) before it is sent, and is charged its real usage afterwards. Tokens beyond
    `max_tokens`, and prices per hour, can't be reserved. A call with an unknown price counts
    against every limit but `cost`; a `strict` budget refuses it with `PriceUnknown`.

    Raises:
        ConfigError: a limit is not a number, or below 0.

    Examples:
        >>> agent = Agent(ScriptedEndpoint(["Hello!"]), "Greet.", budget=Budget(calls=0))
        >>> agent.run_sync("Hi")
        Traceback (most recent call last):
            ...
        moa.core.errors.BudgetExceeded: ...
    """

    cost: Decimal | float | None = None
    """Maximum US dollars."""
    tokens: int | None = None
    """Maximum tokens, input and output together."""
    calls: int | None = None
    """Maximum calls to all endpoints."""
    slm_calls: int | None = None
    """Maximum calls to small models."""
    llm_calls: int | None = None
    """Maximum calls to large models."""
    tool_calls: int | None = None
    """Maximum tool calls."""
    strict: bool = False
    """If true, refuse a call to an endpoint with an unknown price before it is sent."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            value: object = getattr(self, limit.name)
            # As a float, since a Decimal that isn't a number can't be compared.
            is_number = isinstance(value, Decimal | float | int) and float(value) >= 0
            if not is_number and value is not None:
                raise ConfigError(f"Budget({limit.name}={value!r}): a limit is a number from 0 on")

    def __repr__(self) -> str:
        settings = self.limits | ({"strict": True} if self.strict else {})
        return f"Budget({', '.join(f'{name}={value}' for name, value in settings.items())})"

    @property
    def limits(self) -> dict[str, Quantity]:
        """The limits that are set, by name."""
        return {name: limit for name, _, limit in self._checks(NOTHING, {})}

    def name_exceeded(self, used: Amount, calls_by_tier: Mapping[Tier, int]) -> str | None:
        """Name the first exceeded limit, such as `calls=9 of 8`; `None`: none is."""
        over = self._over(used, calls_by_tier)
        return next((f"{name}={value} of {limit}" for name, value, limit in over), None)

    def lacking(self, used: Amount, calls_by_tier: Mapping[Tier, int]) -> Budget | None:
        """Return by how much `used` exceeds each limit; `None`: it exceeds none."""
        over = self._over(used, calls_by_tier)
        excess = {name: value - limit for name, value, limit in over}
        return replace(UNLIMITED, **excess) if excess else None

    def with_more(self, added: Budget) -> Budget:
        """Raise the limits that are set by those of another budget."""
        limits, extra = self.limits, added.limits
        return replace(self, **{name: limits[name] + extra[name] for name in limits.keys() & extra})

    def subtract(self, spent: Usage) -> Budget:
        """Return the budget less `spent`; an exceeded limit becomes 0."""
        calls: dict[Tier, int] = {tier: amount.calls for tier, amount in spent.by_tier().items()}
        checks = self._checks(spent.total, calls)
        return replace(self, **{name: max(limit - value, 0) for name, value, limit in checks})

    def _over(
        self, used: Amount, calls_by_tier: Mapping[Tier, int]
    ) -> list[tuple[str, Quantity, Quantity]]:
        return [check for check in self._checks(used, calls_by_tier) if check[1] > check[2]]

    def _checks(
        self, used: Amount, calls_by_tier: Mapping[Tier, int]
    ) -> list[tuple[str, Quantity, Quantity]]:
        """Return name, usage and limit of each limit that is set."""
        checks = (
            ("calls", used.calls, self.calls),
            ("slm_calls", calls_by_tier.get("slm", 0), self.slm_calls),
            ("llm_calls", calls_by_tier.get("llm", 0), self.llm_calls),
            ("tokens", used.tokens, self.tokens),
            ("cost", used.priced_cost, None if self.cost is None else Decimal(str(self.cost))),
            ("tool_calls", used.tool_calls, self.tool_calls),
        )
        return [(name, value, limit) for name, value, limit in checks if limit is not None]


UNLIMITED = Budget()

_logger = logging.getLogger(__name__)
_USUAL = 2
"""Minimum output of a call, as a multiple of the mean length of earlier answers."""
Planned = Sequence[tuple[Tier, Amount]]
"""Tier and expected usage of each planned call."""


class Shortfall(NamedTuple):
    """The part of a call's need that its budget can't cover."""

    limits: Budget
    """Excess over each limit that it would exceed."""
    may_settle: bool
    """True if a call in flight may settle before it, for less than it reserved."""


Look = Callable[[], Shortfall | None]
"""Returns the current shortfall of a call, from any thread; `None`: none."""
More = Callable[[Look], Awaitable[bool]]
"""Called before a call is refused, if a budget is a share of a larger one. Returns True if it is
worth looking again."""


@dataclass(slots=True)
class Share:
    """Requests more for an account whose budget is a share of a larger one."""

    more: More
    more_now: Callable[[Look], bool] | None
    """The same in synchronous code; `None`: there is no more to get there."""
    most: Budget | None = None
    """The budget's upper limit; `None`: unknown."""
    refused: Callable[[str, Usage], BudgetExceeded] | None = None
    """Makes the error of a refused call; `None`: the usual one."""


class Account:
    """Spending and reservations under one budget. Used under the lock of its purse."""

    __slots__ = (
        "budget",
        "calls",
        "flights",
        "held",
        "is_used_up",
        "node",
        "share",
        "spent",
        "total",
        "unpriced",
        "waiters",
    )

    def __init__(self, budget: Budget, node: str, spent: Mapping[Part, Amount]) -> None:
        self.budget = budget
        self.node = node
        self.spent = spent
        self.total = NOTHING
        """The sum of `spent`, stored since summing many parts takes longer than a call."""
        self.held = NOTHING
        self.calls: dict[Tier, int] = {}
        """Calls made or reserved, by tier."""
        self.flights: set[Reservation] = set()
        self.waiters: deque[_Waiter] = deque()
        self.share: Share | None = None
        self.unpriced: set[str] = set()
        """Endpoints already warned about, since no cost limit applies to them."""
        self.is_used_up = False
        """True if it has refused a call."""

    def name_exceeded(self, planned: Planned, *, when_settled: bool = False) -> str | None:
        """Name the first limit that calls would exceed.

        With `when_settled`, calls in flight count only as calls: they may use no tokens.
        """
        return self.budget.name_exceeded(*self._with(planned, when_settled=when_settled))

    def name_exceeded_at_most(self, planned: Planned) -> str | None:
        """Name the first limit that calls would exceed even if a share grew to its maximum."""
        budget = self.share.most if self.share else self.budget
        return None if budget is None else budget.name_exceeded(*self._with(planned))

    def lacking(self, planned: Planned) -> Shortfall | None:
        """Return the part of the calls' need that the budget can't cover."""
        limits = self.budget.lacking(*self._with(planned))
        return None if limits is None else Shortfall(limits, not self._is_stuck)

    @property
    def _is_stuck(self) -> bool:
        """Return True if every call in flight waits for another one."""
        return all(flight.waits for flight in self.flights)

    def _with(
        self, planned: Planned, *, when_settled: bool = False
    ) -> tuple[Amount, dict[Tier, int]]:
        used = self.total + (Amount(calls=self.held.calls) if when_settled else self.held)
        calls = dict(self.calls)
        for tier, amount in planned:
            used += amount
            calls[tier] = calls.get(tier, 0) + amount.calls
        return used, calls

    def count(self, tier: Tier, calls: int) -> None:
        """Count calls; a negative number gives them back."""
        self.calls[tier] = self.calls.get(tier, 0) + calls

    def hold(self, call: Reservation) -> None:
        """Reserve the estimate of a call."""
        self.held += call.estimate
        self.count(call.part.tier, call.estimate.calls)
        if call.estimate.tokens or call.estimate.priced_cost:
            self.flights.add(call)

    def free(self, call: Reservation, back: Amount, calls: int) -> None:
        """Free a call's reservation; `back` is its negative, and `calls` were made beyond it."""
        self.held += back
        self.count(call.part.tier, calls)
        self.flights.discard(call)
        self.wake_first()

    def minimum_output(self, part: Part, estimate: Amount) -> int:
        """Return the fewest output tokens for which a call is worth sending."""
        before = self.spent.get(part, NOTHING)
        if not before.output_tokens:
            return estimate.output_tokens
        return min(estimate.output_tokens, _USUAL * -(-before.output_tokens // (before.calls or 1)))

    def queue(self, waiter: _Waiter) -> bool:
        """Let a call wait for calls in flight; return False if none can settle before it."""
        if self._is_stuck:
            return False
        if waiter.account is not self:
            waiter.leave_queue()
            waiter.account = self
            self.waiters.append(waiter)
        return True

    def wake_first(self) -> None:
        """Wake the first waiter, maybe in another thread. Leaving the queue, it wakes the next."""
        for waiter in islice(self.waiters, 1):
            waiter.loop.call_soon_threadsafe(waiter.turn.set)

    def refuse(self, part: Part, passed: str) -> BudgetExceeded:
        """Return the error of a refused call."""
        self.is_used_up = True
        _logger.info("%s: the budget is used up: %s", part.node or "run", passed)
        spent = Usage(dict(self.spent))
        if self.share and self.share.refused:
            return self.share.refused(passed, spent)
        return BudgetExceeded(
            f"{self.node or 'run'}: the next call would pass the budget: {passed}. "
            "It was not sent; give a larger budget to go on",
            spent=spent,
        )


class Purse:
    """The budgets that pay for the calls of a run: its own, and those of the runs around it."""

    __slots__ = ("accounts", "lock", "own", "spent")

    def __init__(self, budget: Budget, node: str, around: Purse | None = None) -> None:
        own_spent: dict[Part, Amount] = {}
        self.own = None if budget is UNLIMITED else Account(budget, node, own_spent)
        """The account of its budget, if there is one."""
        self.lock = around.lock if around else threading.Lock()
        self.spent: tuple[dict[Part, Amount], ...] = (own_spent, *(around.spent if around else ()))
        """Usage of this run, and of each run around it."""
        accounts = around.accounts if around else ()
        self.accounts: tuple[Account, ...] = (self.own, *accounts) if self.own else accounts

    def refusal(
        self, planned: Planned, *, when_settled: bool = False
    ) -> tuple[Account, str] | None:
        """Return the first account that the calls would take over a limit, with that limit."""
        for account in self.accounts:
            passed = account.name_exceeded(planned, when_settled=when_settled)
            if passed is not None:
                return account, passed
        return None

    def check_price_known(self, endpoint: str) -> None:
        """Warn, once in a run, that no cost limit applies to an endpoint without a price.

        If a budget is strict, raise `PriceUnknown`.
        """
        if any(account.budget.strict for account in self.accounts):
            raise PriceUnknown(
                f"no price of {endpoint} is known, and the budget is strict: it was not asked. "
                "Give input_price and output_price in moa.toml, or a `price` where it is made"
            )
        warned = self.accounts[-1].unpriced
        if endpoint not in warned and any(
            account.budget.cost is not None for account in self.accounts
        ):
            warned.add(endpoint)
            _logger.warning(
                "No price of %s is known: calls to it don't count against Budget(cost=…). Give it "
                "a `price`, or limit its calls or tokens instead",
                endpoint,
            )

    def set_aside(self, part: Part, estimate: Amount, price: Price) -> Reservation:
        """Reserve a call in every account. The caller has checked, under the lock, that it fits."""
        call = Reservation(self, part, estimate, price)
        for account in self.accounts:
            account.hold(call)
        return call

    async def wait_and_reserve(
        self,
        part: Part,
        estimate: Amount,
        price: Price,
        *,
        cuttable: bool,
        remaining_s: Callable[[], float | None],
    ) -> Reservation:
        """Wait until a call fits, and reserve it; see `RunContext.reserve`."""
        waiter = _Waiter()
        with self.lock:
            for call in waiter.around:
                call.waits += 1
        try:
            while True:
                left_s = remaining_s()
                if await self._request_more([(part.tier, estimate)]):
                    continue
                waiter.turn.clear()
                with self.lock:
                    reservation = self._try_reserve(
                        waiter, part, estimate, price, cuttable=cuttable
                    )
                if reservation is not None:
                    return reservation
                with suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await waiter.turn.wait()
        finally:
            with self.lock:
                waiter.leave_queue()
                for call in waiter.around:
                    call.waits -= 1

    async def _request_more(self, planned: Planned) -> bool:
        """Request more from the larger budget. Return True if the limits may have changed."""
        short = self._short_share(planned)
        return short is not None and await short[0].more(short[1])

    def request_more_now(self, planned: Planned) -> bool:
        """Do the same as `_request_more` in synchronous code."""
        short = self._short_share(planned)
        return short is not None and bool(short[0].more_now and short[0].more_now(short[1]))

    def _short_share(self, planned: Planned) -> tuple[Share, Look] | None:
        """Find the first share that can't cover the calls."""
        for account in self.accounts:

            def look(account: Account = account) -> Shortfall | None:
                with self.lock:
                    return account.lacking(planned)

            if account.share is not None and look() is not None:
                return account.share, look
        return None

    def _try_reserve(
        self, waiter: _Waiter, part: Part, estimate: Amount, price: Price, *, cuttable: bool
    ) -> Reservation | None:
        """Reserve a call, shortened to fit if `cuttable`; `None`: wait for calls in flight."""
        refused = self.refusal([(part.tier, estimate)])
        if refused is None:
            return self.set_aside(part, estimate, price)
        account, passed = refused
        min_output = account.minimum_output(part, estimate) if cuttable else estimate.output_tokens

        def shorter(tokens: int) -> Amount:
            return price.charge(replace(estimate, output_tokens=tokens))

        def is_refused(tokens: int) -> bool:
            return self.refusal([(part.tier, shorter(tokens))]) is not None

        smallest = shorter(min_output) if cuttable else estimate
        if self.refusal([(part.tier, smallest)], when_settled=True) is None:
            if account.queue(waiter):
                return None
            fitting = bisect_left(range(min_output, estimate.output_tokens), True, key=is_refused)
            if fitting:
                return self.set_aside(part, shorter(min_output + fitting - 1), price)
            above = self.refusal([(part.tier, smallest)])
            if above is not None and above[0].queue(waiter):
                return None
        raise account.refuse(part, passed)

    def settle(self, call: Reservation, actual: Amount) -> None:
        """Charge a call's usage."""
        part = call.part
        if _logger.isEnabledFor(logging.DEBUG):
            input_tokens, output_tokens, seconds = (
                actual.input_tokens,
                actual.output_tokens,
                actual.seconds,
            )
            message = "%s: %s took %d tokens in, %d out, %.2f s"
            _logger.debug(
                message, part.node or "run", part.endpoint, input_tokens, output_tokens, seconds
            )
        with self.lock:
            for spent in self.spent:
                before = spent.get(part)
                spent[part] = actual if before is None else before + actual
            for account in self.accounts:
                account.total += actual
            self._free(call, actual.calls - call.estimate.calls)

    def release(self, call: Reservation) -> None:
        """Charge nothing for a call."""
        with self.lock:
            self._free(call, -call.estimate.calls)

    def _free(self, call: Reservation, calls: int) -> None:
        if self.accounts:
            back = -call.estimate
            for account in self.accounts:
                account.free(call, back, calls)

    def charge(self, usage: Usage, *, back: bool, levels: int) -> None:
        """Charge earlier usage, here and in some runs around it; see `RunContext.charge`."""
        with self.lock:
            for spent in self.spent[:levels]:
                account = next(
                    (account for account in self.accounts if account.spent is spent), None
                )
                for part, amount in usage.parts.items():
                    charged = -amount if back else amount
                    before = spent.get(part, NOTHING)
                    spent[part] = before + charged
                    if back and not spent[part].calls:  # without calls, nothing else stays
                        del spent[part]
                        charged = -before
                    if account is not None:
                        account.total += charged
                        account.count(part.tier, charged.calls)


class Payment(Protocol):
    """Receives the usage of a call, once it is settled or released."""

    def settle(self, actual: Amount, /) -> None:
        """Receive it."""
        ...


class Reservation:
    """A reservation in a run's budget for one call.

    Leaving it unsettled charges the estimate, since the bill is unknown. After an error that can't
    have been billed, only the call is charged; see `may_be_billed`.
    """

    __slots__ = ("_price", "_purse", "_start", "estimate", "part", "payment", "settled", "waits")

    def __init__(self, purse: Purse, part: Part, estimate: Amount, price: Price) -> None:
        self.part = part
        self.estimate = estimate
        """The amount that is reserved."""
        self.waits = 0
        """Number of waiting calls made within this one, which keep it from settling."""
        self.payment: Payment | None = None
        """Receiver of its usage; `None`: none."""
        self._purse = purse
        self._price = price
        self.settled = False
        """True if it has been charged, or released."""
        self._start = time.perf_counter()
        _enclosing_calls.set((*_list_open_calls(), self))

    def settle(self, actual: Amount) -> None:
        """Charge the actual usage, once; a zero `seconds` is filled in."""
        assert not self.settled, "a reservation is settled once"
        self.settled = True
        if not actual.seconds:
            actual = replace(actual, seconds=time.perf_counter() - self._start)
        self._purse.settle(self, actual)
        if self.payment is not None:
            self.payment.settle(actual)

    def release(self) -> None:
        """Charge nothing, once: no endpoint was asked."""
        assert not self.settled, "a reservation is settled once"
        self.settled = True
        self._purse.release(self)
        if self.payment is not None:
            self.payment.settle(NOTHING)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.settled:
            return
        if not may_be_billed(error):
            estimate = self.estimate
            calls = estimate.calls
            self.settle(Amount(calls=calls, encodings=estimate.encodings, failed=calls))
            return
        amount = replace(self.estimate, seconds=time.perf_counter() - self._start)
        self.settle(self._price.charge(amount) if self._price.known else amount)


_enclosing_calls: ContextVar[tuple[Reservation, ...]] = ContextVar("_enclosing_calls", default=())
"""The calls that the running code is within; none of them settles before it continues."""


def open_call() -> Part | None:
    """Return the node and endpoint of the call that the running code is in; `None`: no call."""
    around = _list_open_calls()
    return around[-1].part if around else None


def _list_open_calls() -> tuple[Reservation, ...]:
    return tuple(call for call in _enclosing_calls.get() if not call.settled)


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that doesn't fit into a budget until others settle. Used under the purse's lock."""

    around: tuple[Reservation, ...] = field(default_factory=_list_open_calls)
    account: Account | None = None
    """The account it waits for: the one whose limit it would exceed."""
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def leave_queue(self) -> None:
        """Leave the queue, and wake the next waiter."""
        if self.account is not None:
            self.account.waiters.remove(self)
            self.account.wake_first()
