"""The ledger of keys: no interleaving passes a limit, and nothing is set aside for ever."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from moa.core.budget import Budget
from moa.core.errors import KeySpent, RequestRefused
from moa.core.usage import Amount
from moa.serving.ledger import Grant, Ledger
from moa.serving.limits import Limits

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
DAY_S = 86400.0
LIMITS = Limits(
    usd_per_day=Decimal("0.5"), usd_per_month=Decimal(1), calls_per_day=6, calls_per_month=9
)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return f"{request.getfixturevalue('postgres')}#keys"
    return str(tmp_path / "ledger.sqlite")


@pytest.fixture
def ledger(where: str, clock: Clock) -> Iterator[Ledger]:
    with Ledger(where, clock=clock) as ledger:
        yield ledger


def ask(
    ledger: Ledger,
    run: str,
    limits: Limits = LIMITS,
    *,
    spent: Amount | None = None,
    granted: Budget | None = None,
    calls: int = 1,
    usd: str = "0",
    may_settle: bool = False,
) -> Grant:
    """Ask for so much in all, for a run of alice's."""
    return ledger.reserve(
        run,
        "alice",
        limits,
        spent=spent or Amount(),
        granted=granted or Budget(calls=0, cost=Decimal(0)),
        budget=Budget(calls=calls, cost=Decimal(usd)),
        may_settle=may_settle,
    )


def test_what_is_set_aside_by_one_run_another_does_not_get(ledger: Ledger) -> None:
    for run in ("one", "two"):
        ledger.begin("alice", LIMITS, run)
    assert ask(ledger, "one", calls=4).answer == "granted"
    refused = ask(ledger, "two", calls=3)
    assert (refused.answer, refused.short) == ("spent", {"calls_per_day"})
    assert refused.granted.calls == 2, "what is left is its own"


def test_dollars_that_a_run_in_flight_may_give_back_are_waited_for(ledger: Ledger) -> None:
    for run in ("one", "two"):
        ledger.begin("alice", LIMITS, run)
    assert ask(ledger, "one", usd="0.4").answer == "granted"
    assert ask(ledger, "two", usd="0.3").answer == "wait"
    ledger.settle("one", Amount(calls=1, priced_cost=Decimal("0.05")))
    assert ask(ledger, "two", usd="0.3").answer == "granted"


def test_runs_that_all_wait_do_not_wait_for_each_other(ledger: Ledger) -> None:
    granted = Budget(calls=1, cost=Decimal("0.2"))
    for run in ("one", "two"):
        ledger.begin("alice", LIMITS, run)
        assert ask(ledger, run, usd="0.2").answer == "granted"
    assert ask(ledger, "one", calls=2, usd="0.4", granted=granted).answer == "wait"
    assert ask(ledger, "two", calls=2, usd="0.4", granted=granted).answer == "spent"


def test_what_a_run_holds_that_waits_is_set_aside_all_the_same(ledger: Ledger) -> None:
    granted = Budget(calls=1, cost=Decimal("0.2"))
    for run in ("one", "two", "three"):
        ledger.begin("alice", LIMITS, run)
    for run in ("one", "two"):
        assert ask(ledger, run, usd="0.2").answer == "granted"
    assert ask(ledger, "one", calls=2, usd="0.4", granted=granted).answer == "wait"
    assert ask(ledger, "three", usd="0.2").answer == "wait"
    assert ask(ledger, "three", usd="0.1").answer == "granted"


def test_a_run_that_may_give_something_back_itself_is_waited_for(ledger: Ledger) -> None:
    granted = Budget(calls=1, cost=Decimal("0.2"))
    for run in ("one", "two"):
        ledger.begin("alice", LIMITS, run)
        assert ask(ledger, run, usd="0.2").answer == "granted"
    more: dict[str, Any] = {"calls": 2, "usd": "0.4", "granted": granted}
    assert ask(ledger, "one", **more, may_settle=True).answer == "wait"
    assert ask(ledger, "two", **more).answer == "wait"


def test_asking_twice_for_the_same_takes_it_once(ledger: Ledger) -> None:
    ledger.begin("alice", LIMITS, "one")
    for _ in range(3):
        assert ask(ledger, "one", calls=4, usd="0.3").answer == "granted"
    assert ledger.usage_of("alice").held[:2] == (4, 300_000_000)


def test_what_a_spent_key_has_left_is_said_and_when_it_renews(ledger: Ledger, clock: Clock) -> None:
    ledger.begin("alice", LIMITS, "one")
    ledger.settle("one", Amount(calls=6, priced_cost=Decimal("0.125")))
    with pytest.raises(KeySpent) as spent:
        ledger.begin("alice", LIMITS, "two")
    assert spent.value.left == {
        "calls_per_day": 0,
        "calls_per_month": 3,
        "usd_per_day": 0.375,
        "usd_per_month": 0.875,
    }
    assert spent.value.renews_at == datetime(2026, 12, 1, tzinfo=UTC)
    clock.now = spent.value.renews_at.timestamp()
    ledger.begin("alice", LIMITS, "three")


def test_a_month_renews_on_its_first_day(ledger: Ledger, clock: Clock) -> None:
    clock.now = datetime(2026, 12, 31, 23, 59, tzinfo=UTC).timestamp()
    month = Limits(calls_per_month=1)
    ledger.begin("alice", month, "one")
    ledger.settle("one", Amount(calls=1))
    with pytest.raises(KeySpent) as spent:
        ledger.begin("alice", month, "two")
    assert spent.value.renews_at == datetime(2027, 1, 1, tzinfo=UTC)
    clock.now += 60
    ledger.begin("alice", month, "two")


def test_what_is_set_aside_at_midnight_counts_in_the_new_day(ledger: Ledger, clock: Clock) -> None:
    ledger.begin("alice", LIMITS, "one")
    assert ask(ledger, "one", calls=5).answer == "granted"
    clock.now += DAY_S
    ledger.renew()
    ledger.begin("alice", LIMITS, "two")
    assert ask(ledger, "two", calls=2).answer == "spent"


def test_no_minute_has_more_requests_than_it_may(ledger: Ledger, clock: Clock) -> None:
    limits, let_in = Limits(requests_per_minute=5), list[float]()
    for second in range(0, 300, 7):
        clock.now = NOON + second
        ledger.renew()
        for number in range(3):
            with suppress(RequestRefused):
                ledger.begin("alice", limits, f"{second} {number}")
                let_in.append(clock.now)
    assert len(let_in) == 25
    for start in let_in:
        assert sum(start <= one < start + 60 for one in let_in) <= 5


def test_when_a_minute_is_full_it_is_said_how_long_to_wait(ledger: Ledger, clock: Clock) -> None:
    limits = Limits(requests_per_minute=2)
    for run in ("one", "two"):
        ledger.begin("alice", limits, run)
        clock.now += 10
    with pytest.raises(RequestRefused) as refused:
        ledger.begin("alice", limits, "three")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 40)
    clock.now += 40
    ledger.renew()
    ledger.begin("alice", limits, "three")


def test_a_run_too_many_at_once_is_refused_until_one_ends(ledger: Ledger) -> None:
    limits = Limits(parallel=2)
    for run in ("one", "two"):
        ledger.begin("alice", limits, run)
    with pytest.raises(RequestRefused) as refused:
        ledger.begin("alice", limits, "three")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 1)
    ledger.begin("bob", limits, "another key's")
    ledger.settle("one", Amount())
    ledger.begin("alice", limits, "three")


def test_a_dead_process_is_charged_what_it_had_set_aside(where: str, clock: Clock) -> None:
    with Ledger(where, clock=clock, lease_s=30) as first, Ledger(where, clock=clock) as second:
        first.begin("alice", LIMITS, "one")
        assert ask(first, "one", calls=4, usd="0.3").answer == "granted"
        clock.now += 29
        second.begin("alice", Limits(parallel=2), "two")
        assert ask(second, "two", calls=3).answer == "spent"
        clock.now += 2
        assert ask(second, "two", calls=3, usd="0.3").short == {"usd_per_day", "calls_per_day"}
        standing = second.usage_of("alice")
        assert (standing.day.calls, standing.day.usd, standing.runs) == (4, Decimal("0.3"), 1)
        assert ask(first, "one", calls=5).answer == "gone", "it was only slow: it learns so"
        first.settle("one", Amount(calls=4))
        assert second.usage_of("alice").day.calls == 4


async def test_a_run_that_the_store_could_not_be_told_the_end_of_is_settled_later(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(tmp_path / "ledger.sqlite", clock=clock) as ledger:
        ledger.begin("alice", LIMITS, "one")
        with monkeypatch.context() as broken:
            broken.setattr(ledger, "_settle", full_disk)
            await ledger.run_surely("one", lambda: ledger.settle("one", Amount(calls=2)))
        assert ledger.usage_of("alice").runs == 1
        ledger.renew()
        assert (ledger.usage_of("alice").runs, ledger.usage_of("alice").day.calls) == (0, 2)


def full_disk(*_: object) -> None:
    from moa.core.errors import StoreError

    raise StoreError("the disk is full")


# Any interleaving, of several processes.

_LEASE_S, _STEP_S = 1000, 900


@dataclass
class Run:
    """A run as it is in its process: what it was granted, what it has sent, and what came back."""

    ledger: Ledger
    name: str
    id: str
    calls: int = 0
    """Sent."""
    set_aside: Decimal = Decimal(0)
    """What calls in flight may cost."""
    done: int = 0
    cost: Decimal = Decimal(0)
    was_cut_off: bool = False
    granted: Budget = field(default_factory=lambda: Budget(calls=0, cost=Decimal(0)))

    @property
    def spent(self) -> Amount:
        return Amount(calls=self.done, priced_cost=self.cost)


class Processes(RuleBasedStateMachine):
    """Three processes, of which any may die or be cut off, and two keys."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory(prefix="ledger")
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.clock = Clock(datetime(2026, 12, 30, 22, tzinfo=UTC).timestamp())
        self.ledgers = [self.opened() for _ in range(3)]
        self.runs: list[Run] = []
        self.began = 0
        self.sent = defaultdict[tuple[str, str], int](int)
        """Calls by key and day or month in which they were sent."""
        self.due = defaultdict[str, Decimal](Decimal)
        """Dollars that a key has to be charged: of calls whose answer was lost, all set aside."""

    def opened(self) -> Ledger:
        ledger = Ledger(self.path, clock=self.clock, lease_s=_LEASE_S)
        ledger.open()
        ledger.renew()
        return ledger

    def periods(self) -> list[str]:
        at = datetime.fromtimestamp(self.clock.now, UTC)
        return [f"{at:%Y-%m-%d}", f"{at:%Y-%m}"]

    def over(self, run: Run) -> None:
        self.runs.remove(run)
        self.due[run.name] += run.cost + run.set_aside

    @rule(process=st.integers(0, 2), name=st.sampled_from(["alice", "bob"]))
    def begin(self, process: int, name: str) -> None:
        self.began += 1
        run = Run(self.ledgers[process], name, f"run {self.began}")
        with suppress(KeySpent, RequestRefused):
            run.ledger.begin(name, LIMITS, run.id)
            self.runs.append(run)

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 99), calls=st.integers(1, 3), cents=st.integers(0, 30))
    def send(self, which: int, calls: int, cents: int) -> None:
        run = self.runs[which % len(self.runs)]
        usd = Decimal(cents) / 100
        needed = Budget(calls=run.calls + calls, cost=run.cost + run.set_aside + usd)
        grant = run.ledger.reserve(
            run.id,
            run.name,
            LIMITS,
            spent=run.spent,
            granted=run.granted,
            budget=needed,
            may_settle=run.done < run.calls,
        )
        if grant.answer == "gone":
            assert run.was_cut_off
            self.over(run)
            return
        run.granted = grant.granted.as_budget(run.granted)
        if grant.answer == "granted":
            run.calls += calls
            run.set_aside += usd
            for period in self.periods():
                self.sent[run.name, period] += calls

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 99), share=st.integers(0, 4))
    def answer(self, which: int, share: int) -> None:
        """All that a run has sent comes back, for a part of what was set aside, or all of it."""
        run = self.runs[which % len(self.runs)]
        run.cost += run.set_aside * share / 4
        run.set_aside, run.done = Decimal(0), run.calls

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 99))
    def end(self, which: int) -> None:
        run = self.runs[which % len(self.runs)]
        self.over(run)
        run.ledger.settle(run.id, Amount(calls=run.calls, priced_cost=run.cost + run.set_aside))

    @rule(process=st.integers(0, 2))
    def kill(self, process: int) -> None:
        dead = self.ledgers[process]
        dead.store.close()
        for run in [run for run in self.runs if run.ledger is dead]:
            self.over(run)
        self.ledgers[process] = self.opened()

    @rule(seconds=st.sampled_from([1, 9, 3600, 7200]), cut_off=st.sampled_from([None, 0, 1, 2]))
    def wait(self, seconds: int, cut_off: int | None) -> None:
        """Time passes in steps, and each process says that it lives, but for one."""
        for _ in range(-(-seconds // _STEP_S)):
            self.clock.now += min(seconds, _STEP_S)
            for place, ledger in enumerate(self.ledgers):
                if place != cut_off:
                    ledger.renew()
        for run in self.runs:
            run.was_cut_off |= cut_off is not None and run.ledger is self.ledgers[cut_off]

    @invariant()
    def no_limit_is_passed(self) -> None:
        for (_, period), calls in self.sent.items():
            assert calls <= (6 if len(period) == 10 else 9), period
        for name in ("alice", "bob"):
            standing = self.ledgers[0].usage_of(name)
            assert standing.day.calls + standing.held.calls <= 6
            assert standing.month.calls + standing.held.calls <= 9
            assert standing.day.usd + standing.held.usd <= Decimal("0.5")
            assert standing.month.usd + standing.held.usd <= 1

    def teardown(self) -> None:
        """Once all processes are dead nothing is set aside, and each call sent is charged."""
        for run in [*self.runs]:
            self.over(run)
        for ledger in self.ledgers:
            ledger.store.close()
        self.clock.now += _LEASE_S + 1
        with Ledger(self.path, clock=self.clock) as after:
            after.charge_the_dead()
            for name in ("alice", "bob"):
                standing = after.usage_of(name)
                assert (standing.held.calls, standing.held.nano, standing.runs) == (0, 0, 0)
                rows = after.store.run(
                    "select coalesce(sum(calls), 0), coalesce(sum(nano), 0) from moa_key_sums "
                    "where name = ? and length(period) = 7",
                    name,
                )
                sent = sum(
                    calls
                    for (key, period), calls in self.sent.items()
                    if key == name and len(period) == 7
                )
                assert rows[0][0] >= sent
                assert rows[0][1] >= self.due[name] * 10**9
        self.folder.cleanup()


test_no_interleaving_passes_a_limit: Any = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)(Processes).TestCase
